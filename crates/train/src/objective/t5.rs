//! A T5-style encoder, and the decoder that it learns with: runs of texts are hidden, and the decoder says what stood
//! there.
//!
//! What this module does not do: hide or guess; that is [`super::span`].

use std::path::Path;

use rectiflow_dataset::{DatasetError, Drawn, Texts};
use rectiflow_nn::{Device, Module, Rng, to_f32};
use rectiflow_text::{SpanCorruption, T5Decoder, T5Encoder, T5Tokenizer};

use super::span::{Guessed, NumberedText, SpanBatch, guess};
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
    /// There are fewer texts than a batch has.
    pub fn new(
        texts: Texts,
        tokenizer: T5Tokenizer,
        batch: usize,
        apart: usize,
        seed: u64,
    ) -> Result<T5Data, DatasetError> {
        let split = Split::new(vec![texts.kept().to_vec()], batch, apart, seed)?;
        Ok(T5Data { texts, tokenizer, split })
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

/// Sums over the parts of a batch.
#[derive(Default)]
struct Sums {
    loss: f64,
    accuracy: f64,
    parts: f64,
}

impl Sums {
    fn add(&mut self, guessed: &Guessed) {
        self.loss += f64::from(to_f32(&guessed.loss)[0]);
        self.accuracy += f64::from(to_f32(&guessed.accuracy)[0]);
        self.parts += 1.0;
    }

    fn means(self) -> Values {
        let named = [("loss", self.loss), ("accuracy", self.accuracy)];
        named.map(|(name, sum)| (name.to_owned(), sum / self.parts)).into()
    }
}

impl T5 {
    /// Of a network on `device`, which tracks gradients.
    pub fn new(settings: T5Settings, trainee: Trainee<T5Network>, data: T5Data, device: Device, export: Export) -> T5 {
        T5 { settings, trainee, data, export, device, turn: 0 }
    }

    /// Texts with hidden runs: which ones is decided by `seed` and each text's number, counted from `first`.
    fn batch(&self, drawn: &[Drawn], seed: u64, first: u64, device: &Device) -> Result<SpanBatch, Problem> {
        let mut texts = Vec::new();
        for (one, number) in drawn.iter().zip(first..) {
            let left_out = |reason| EncodeError::LeftOut { id: self.data.texts.id(one.sample), reason };
            let text = self.data.texts.text(self.settings.seed, one.epoch, one.sample).map_err(left_out)?;
            texts.push(NumberedText { number, tokens: self.data.tokenizer.whole_text(&text)? });
        }
        Ok(SpanBatch::new(&texts, &self.settings.corruption, seed, self.settings.tokens, device)?)
    }
}

impl Objective for T5 {
    fn step(&mut self, step: u64, learning_rate: f64) -> Result<Values, StepError> {
        let T5Settings { seed, batch, accumulate, gradient_norm_max, .. } = self.settings;
        let drawn = self.data.split.drawn(step, self.turn);
        let seed = turned(seed, self.turn);
        let (mut sums, mut cut) = (Sums::default(), 0);
        for (part, drawn) in drawn.chunks(batch / accumulate).enumerate() {
            let place = step * batch as u64 + (part * (batch / accumulate)) as u64;
            let batch = match self.batch(drawn, seed, place, &self.device) {
                Ok(batch) => batch,
                Err(problem) => {
                    self.trainee.forget();
                    return Err(StepError::Failed(problem));
                }
            };
            cut += batch.cut;
            let network = self.trainee.module();
            let guessed = guess(&network.encoder, &network.decoder, batch);
            sums.add(&guessed);
            self.trainee.add(guessed.loss.backward());
        }
        let mut values = sums.means();
        take_step(&mut self.trainee, learning_rate, gradient_norm_max, &mut values)
            .map_err(|what| not_finite(what, &drawn, |sample| self.data.texts.id(sample)))?;
        if cut > 0 {
            values.insert("texts_cut".to_owned(), cut as f64);
        }
        Ok(values)
    }

    fn validate(&mut self) -> Result<Values, Problem> {
        let apart = self.data.split.apart_len();
        if apart == 0 {
            return Ok(Values::new());
        }
        let network = self.trainee.averaged().valid();
        // Other runs than in training are hidden, and always the same.
        let seed = Rng::keyed(self.settings.seed, "validation spans", 0).bits();
        let (mut sums, size) = (Sums::default(), self.settings.batch / self.settings.accumulate);
        // Batches of one size only, or the texts of the last would count for more than the others.
        for (part, drawn) in self.data.split.apart_in_whole(size.min(apart)).enumerate() {
            let batch = self.batch(&drawn, seed, (part * size) as u64, &self.device.clone().inner())?;
            sums.add(&guess(&network.encoder, &network.decoder, batch));
        }
        Ok(sums.means())
    }

    fn samples(&mut self) -> Result<Option<rectiflow_generate::Image>, Problem> {
        Ok(None)
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
