//! A T5-style encoder, and the decoder that it learns with: runs of texts are hidden, and the decoder says what stood
//! there.
//!
//! A text of fewer than two tokens, of which nothing can be hidden, counts nothing: a step is the mean over the tokens that
//! were hidden, however its texts are divided into parts. `texts_too_short` says how many of a step's texts they were.
//!
//! What this module does not do: hide or guess; that is [`super::span`].

use std::path::Path;

use rectiflow_dataset::{Drawn, Texts};
use rectiflow_nn::{Device, Module, Rng, to_f32};
use rectiflow_text::{SpanCorruption, T5Decoder, T5Encoder, T5Tokenizer};

use super::span::{Guessed, NumberedText, SpanBatch, SpanError, guess};
use super::split::Split;
use super::{Objective, Problem, StepError, Values, not_finite, take_step, turned};
use crate::encode::EncodeError;
use crate::trainee::{StateError, Trainee};

/// Both halves. Only the encoder is of use afterwards.
#[derive(Module, Debug)]
pub struct T5Network {
    /// What draws pictures.
    pub encoder: T5Encoder,
    /// What it learns with.
    pub decoder: T5Decoder,
}

/// What the objective does, as the plan has it.
#[derive(Clone, Copy, Debug)]
pub struct T5Settings {
    /// Decides every draw.
    pub seed: u64,
    /// Texts of a step.
    pub batch: usize,
    /// Parts they go through the network in.
    pub accumulate: usize,
    /// Tokens of a text.
    pub tokens: usize,
    /// What is hidden.
    pub corruption: SpanCorruption,
    /// What gradients are shortened to.
    pub gradient_norm_max: Option<f64>,
}

/// Texts of a data set.
pub struct T5Data {
    texts: Texts,
    tokenizer: T5Tokenizer,
    split: Split,
}

impl T5Data {
    /// Batches of `batch` texts, and at most `apart` of them, and a tenth of all, that are never trained on.
    ///
    /// # Errors
    /// There are fewer texts than a batch has, or none of them has two tokens.
    pub fn new(texts: Texts, tokenizer: T5Tokenizer, batch: usize, apart: usize, seed: u64) -> Result<T5Data, Problem> {
        let split = Split::new(vec![texts.kept().to_vec()], batch, apart, seed)?;
        let data = T5Data { texts, tokenizer, split };
        // Nearly always the first one is long enough.
        for sample in data.texts.kept() {
            if data.tokens(seed, &Drawn { sample: *sample, epoch: 0 })?.len() > 1 {
                return Ok(data);
            }
        }
        Err(SpanError::NothingHidden { texts: data.texts.kept().len() }.into())
    }

    fn tokens(&self, seed: u64, one: &Drawn) -> Result<Vec<u32>, Problem> {
        let left_out = |reason| EncodeError::LeftOut { id: self.texts.id(one.sample), reason };
        let text = self.texts.text(seed, one.epoch, one.sample).map_err(left_out)?;
        Ok(self.tokenizer.whole_text(&text)?)
    }
}

/// Writes a trained encoder into a folder.
pub type Export = Box<dyn Fn(&T5Encoder, &Path) -> Result<(), Problem>>;

/// An encoder in training.
pub struct T5 {
    settings: T5Settings,
    trainee: Trainee<T5Network>,
    data: T5Data,
    export: Export,
    device: Device,
    /// Draws differ between turns.
    turn: u64,
}

/// Sums over the hidden tokens of several parts.
#[derive(Default)]
struct Sums {
    loss: f64,
    right: f64,
    hidden: usize,
}

impl Sums {
    fn add(&mut self, guessed: &Guessed) {
        self.loss += f64::from(to_f32(&guessed.loss_sum)[0]);
        self.right += f64::from(to_f32(&guessed.right)[0]);
        self.hidden += guessed.hidden;
    }

    /// None where nothing was hidden.
    fn means(self) -> Values {
        if self.hidden == 0 {
            return Values::new();
        }
        let named = [("loss", self.loss), ("accuracy", self.right)];
        named.map(|(name, sum)| (name.to_owned(), sum / self.hidden as f64)).into()
    }
}

impl T5 {
    /// Of a network on `device`, which tracks gradients.
    pub fn new(settings: T5Settings, trainee: Trainee<T5Network>, data: T5Data, device: Device, export: Export) -> T5 {
        T5 { settings, trainee, data, export, device, turn: 0 }
    }

    /// Texts with hidden runs: which ones is decided by `seed` and each text's number, counted from `first`. None where all
    /// texts are too short.
    fn batch(&self, drawn: &[Drawn], seed: u64, first: u64, device: &Device) -> Result<Option<SpanBatch>, Problem> {
        let mut texts = Vec::new();
        for (one, number) in drawn.iter().zip(first..) {
            texts.push(NumberedText { number, tokens: self.data.tokens(self.settings.seed, one)? });
        }
        Ok(SpanBatch::new(&texts, &self.settings.corruption, seed, self.settings.tokens, device))
    }
}

impl Objective for T5 {
    fn step(&mut self, step: u64, learning_rate: f64) -> Result<Values, StepError> {
        let T5Settings { seed, batch, accumulate, gradient_norm_max, .. } = self.settings;
        let drawn = self.data.split.drawn(step, self.turn);
        let seed = turned(seed, self.turn);
        let (mut parts, mut too_short) = (Vec::new(), 0);
        for (part, drawn) in drawn.chunks(batch / accumulate).enumerate() {
            let place = step * batch as u64 + (part * (batch / accumulate)) as u64;
            match self.batch(drawn, seed, place, &self.device).map_err(StepError::Failed)? {
                Some(part) => parts.push(part),
                None => too_short += drawn.len(),
            }
        }
        too_short += parts.iter().map(|part| part.whole).sum::<usize>();
        let cut: usize = parts.iter().map(|part| part.cut).sum();
        // A step is of the mean of its parts. Divided by this, that is the mean over all hidden tokens.
        let hidden_of_a_part = parts.iter().map(|part| part.hidden).sum::<usize>() as f64 / parts.len() as f64;
        let mut sums = Sums::default();
        for part in parts {
            let network = self.trainee.module();
            let guessed = guess(&network.encoder, &network.decoder, part);
            sums.add(&guessed);
            self.trainee.add((guessed.loss_sum / hidden_of_a_part).backward());
        }
        let mut values = sums.means();
        if values.is_empty() {
            // Nothing to learn from: parameters stay, and averages follow them as in any step.
            self.trainee.step(learning_rate, gradient_norm_max)?;
        } else {
            take_step(&mut self.trainee, learning_rate, gradient_norm_max, &mut values)
                .map_err(|what| not_finite(what, &drawn, |sample| self.data.texts.id(sample)))?;
        }
        for (name, texts) in [("texts_cut", cut), ("texts_too_short", too_short)] {
            if texts > 0 {
                values.insert(name.to_owned(), texts as f64);
            }
        }
        Ok(values)
    }

    fn data_digest(&self) -> String {
        self.data.texts.digest()
    }

    fn validate(&mut self) -> Result<Values, Problem> {
        let network = self.trainee.averaged().valid();
        // Other runs than in training are hidden, and always the same.
        let seed = Rng::keyed(self.settings.seed, "validation spans", 0).bits();
        let (mut sums, size) = (Sums::default(), self.settings.batch / self.settings.accumulate);
        for (part, drawn) in self.data.split.apart(size).enumerate() {
            let batch = self.batch(&drawn, seed, (part * size) as u64, &self.device.clone().inner())?;
            if let Some(batch) = batch {
                sums.add(&guess(&network.encoder, &network.decoder, batch));
            }
        }
        Ok(sums.means())
    }

    fn save(&self, folder: &Path) -> Result<(), StateError> {
        self.trainee.save(folder)
    }

    fn load(&mut self, folder: &Path, step: u64) -> Result<(), StateError> {
        self.trainee.load(folder, step)
    }

    fn turn(&mut self, turn: u64) {
        self.turn = turn;
    }

    fn export(&self, folder: &Path) -> Result<(), Problem> {
        (self.export)(&self.trainee.averaged().valid().encoder, folder)
    }
}
