//! A text tower and an image tower that learn to find each other's texts and pictures.
//!
//! Source: Radford et al. 2021, arXiv:2103.00020, section 2 and figure 3.
//!
//! The tokenizer is that of SD3's CLIPs, with 49,408 tokens, or the first merges of it. Captions are padded as for drawing,
//! to 77 tokens or to as many as the encoder has places: SD3 takes what it gives at the places of the padding too. What
//! this module does not do: build the towers, or train with more than one batch at once; all pairs of a batch are compared
//! with each other.
//!
//! Shape letters: B pairs, L tokens, H and W pixels, P width that both towers' outputs are compared in.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use std::path::Path;

use rayon::prelude::*;
use rectiflow_dataset::{Dataset, DatasetError, Drawn};
use rectiflow_nn::{Device, Int, Module, Tensor, from_id_rows, to_f32};
use rectiflow_text::{ClipEncoder, ClipTokenizer, Pooling, TokenizerError};
use rectiflow_vision::{ClipImageTower, LogitScale, contrastive_loss, without_mean};

use super::split::Split;
use super::{Objective, Problem, StepError, Values, not_finite, take_step};
use crate::encode::{EncodeError, batch_of, caption, picture};
use crate::trainee::{StateError, Trainee};

/// Both towers, and what their similarities are multiplied with.
#[derive(Module, Debug)]
pub struct ClipNetwork {
    /// Of captions. It has a projection.
    pub text: ClipEncoder,
    /// Of pictures.
    pub image: ClipImageTower,
    /// Learned beside them.
    pub scale: LogitScale,
}

/// A batch of captions.
#[derive(Clone, Debug)]
pub struct CaptionBatch {
    /// `[B, L]`, with as many places as the encoder has.
    pub ids_BL: Tensor<2, Int>,
    /// How many captions lost their ends, for which there was no room.
    pub cut: usize,
}

impl CaptionBatch {
    /// One caption a row; none for no captions.
    ///
    /// # Errors
    /// The tokenizer, from a broken file, fails.
    pub fn new(tokenizer: &ClipTokenizer, captions: &[&str], device: &Device) -> Result<Option<Self>, TokenizerError> {
        let tokens = captions.iter().map(|caption| tokenizer.tokenize(caption)).collect::<Result<Vec<_>, _>>()?;
        if tokens.is_empty() {
            return Ok(None);
        }
        let cut = tokens.iter().filter(|tokens| tokens.cut.is_some()).count();
        let rows: Vec<&[u32]> = tokens.iter().map(|tokens| &tokens.ids[..]).collect();
        Ok(Some(CaptionBatch { ids_BL: from_id_rows(&rows, device), cut }))
    }
}

/// Captions and the pictures that they are of.
struct Pairs {
    captions: CaptionBatch,
    /// As an image tower takes them.
    pictures_B3HW: Tensor<4>,
}

/// How well pairs find each other.
struct Found {
    loss: Tensor<1>,
    /// Share of the texts whose own picture is the most alike of the batch, and of the pictures likewise.
    accuracy: f64,
}

impl ClipNetwork {
    fn compare(&self, pairs: Pairs) -> Found {
        let texts_BP = self.text.forward(pairs.captions.ids_BL, Pooling::Projected).pooled;
        let pictures_BP = self.image.forward(pairs.pictures_B3HW);
        let accuracy = accuracy(&rows(&texts_BP), &rows(&pictures_BP));
        Found { loss: contrastive_loss(texts_BP, pictures_BP, &self.scale), accuracy }
    }
}

/// Each row, made of length 1.
fn rows(x_BP: &Tensor<2>) -> Vec<Vec<f32>> {
    let row = |row: &[f32]| {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        row.iter().map(|x| x / length).collect()
    };
    to_f32(x_BP).chunks(x_BP.dims()[1]).map(row).collect()
}

/// The mean over both ways. Where others are as alike as the right one, as of two captions of one wording, it counts as
/// found as often as a draw among them would find it.
fn accuracy(texts: &[Vec<f32>], pictures: &[Vec<f32>]) -> f64 {
    let ways = [(texts, pictures), (pictures, texts)];
    let share = |(of, among): (&[Vec<f32>], &[Vec<f32>])| -> f64 {
        let found = of.iter().zip(among).map(|(one, own)| {
            let alike = |other: &Vec<f32>| one.iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
            let right = alike(own);
            let (mut above, mut equal) = (0, 0);
            for other in among.iter().map(alike) {
                above += usize::from(other > right);
                equal += usize::from(other == right);
            }
            if above == 0 && equal > 0 { 1.0 / equal as f64 } else { 0.0 }
        });
        found.sum::<f64>() / of.len() as f64
    };
    ways.into_iter().map(share).sum::<f64>() / 2.0
}

/// Pictures and captions of a data set.
pub struct ClipData {
    dataset: Dataset,
    tokenizer: ClipTokenizer,
    split: Split,
    batch: usize,
    seed: u64,
}

impl ClipData {
    /// Batches of `batch` different pairs, and at most `apart` of them, and a tenth of all, that are never trained on.
    /// Pictures must be of one size.
    ///
    /// # Errors
    /// The data set has fewer pairs than a batch.
    pub fn new(
        dataset: Dataset,
        tokenizer: ClipTokenizer,
        batch: usize,
        apart: usize,
        seed: u64,
    ) -> Result<ClipData, DatasetError> {
        let split = Split::of_different(dataset.members(), batch, apart, seed)?;
        Ok(ClipData { split, dataset, tokenizer, batch, seed })
    }

    /// Pairs of a validation batch: as many as of a step, where enough are kept apart, since among more it is harder to
    /// find the right one.
    pub fn validation_batch(&self) -> usize {
        self.batch.min(self.split.apart_len())
    }

    /// Pairs that an epoch passes over, since they do not fill a batch: the same pair twice in one would be asked to be
    /// unlike itself. Another epoch passes over others.
    pub fn passed_over(&self) -> u64 {
        self.split.passed_over()
    }

    fn pairs(&self, drawn: &[Drawn], device: &Device) -> Result<Pairs, Problem> {
        let read = |one: &Drawn| -> Result<_, EncodeError> {
            Ok((picture(&self.dataset, self.seed, one)?, caption(&self.dataset, self.seed, one)?))
        };
        let read = drawn.par_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let (pictures, captions): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
        let captions = CaptionBatch::new(&self.tokenizer, &captions, device)?.ok_or("a batch without pairs")?;
        Ok(Pairs { captions, pictures_B3HW: without_mean(batch_of(&pictures, device)) })
    }
}

/// Writes trained towers into a folder.
pub type Export = Box<dyn Fn(&ClipNetwork, &Path) -> Result<(), Problem>>;

/// A CLIP pair in training.
pub struct ClipPair {
    trainee: Trainee<ClipNetwork>,
    data: ClipData,
    gradient_norm_max: Option<f64>,
    export: Export,
    device: Device,
    /// Samples differ between turns.
    turn: u64,
}

impl ClipPair {
    /// Of towers on `device`, which tracks gradients.
    pub fn new(
        trainee: Trainee<ClipNetwork>,
        data: ClipData,
        gradient_norm_max: Option<f64>,
        device: Device,
        export: Export,
    ) -> ClipPair {
        ClipPair { trainee, data, gradient_norm_max, export, device, turn: 0 }
    }
}

impl Objective for ClipPair {
    fn step(&mut self, step: u64, learning_rate: f64) -> Result<Values, StepError> {
        let drawn = self.data.split.drawn(step, self.turn);
        let pairs = self.data.pairs(&drawn, &self.device).map_err(StepError::Failed)?;
        let cut = pairs.captions.cut;
        let network = self.trainee.module();
        let scale = to_f32(&network.scale.factor())[0];
        let Found { loss, accuracy } = network.compare(pairs);
        let values = [("loss", to_f32(&loss)[0].into()), ("accuracy", accuracy), ("logit_scale", scale.into())];
        let mut values: Values = values.map(|(name, value)| (name.to_owned(), value)).into();
        self.trainee.add(loss.backward());
        take_step(&mut self.trainee, learning_rate, self.gradient_norm_max, &mut values)
            .map_err(|what| not_finite(what, &drawn, |sample| self.data.dataset.id(sample)))?;
        if cut > 0 {
            values.insert("captions_cut".to_owned(), cut as f64);
        }
        Ok(values)
    }

    fn data_digest(&self) -> String {
        self.data.dataset.digest()
    }

    fn validate(&mut self) -> Result<Values, Problem> {
        let size = self.data.validation_batch();
        if size < 2 {
            return Ok(Values::new());
        }
        let network = self.trainee.averaged().valid();
        let (mut loss, mut accuracy, mut count) = (0.0, 0.0, 0.0);
        for drawn in self.data.split.apart_in_whole(size) {
            let pairs = self.data.pairs(&drawn, &self.device.clone().inner())?;
            let found = network.compare(pairs);
            loss += f64::from(to_f32(&found.loss)[0]);
            accuracy += found.accuracy;
            count += 1.0;
        }
        Ok([("loss".to_owned(), loss / count), ("accuracy".to_owned(), accuracy / count)].into())
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
        (self.export)(&self.trainee.averaged().valid(), folder)
    }
}

#[cfg(test)]
mod tests {
    use rectiflow_text::{ClipKind, END_OF_TEXT};

    use super::*;

    #[test]
    fn captions_become_rows_of_77_and_cuts_are_counted() {
        let (tokenizer, device) = (ClipTokenizer::embedded(ClipKind::L), Device::flex());
        let long = "a photo of a cat, ".repeat(40);
        let batch = CaptionBatch::new(&tokenizer, &["a cat", &long, ""], &device).unwrap().unwrap();
        assert_eq!((batch.ids_BL.dims(), batch.cut), ([3, 77], 1));
        let ids: Vec<i64> = batch.ids_BL.to_data().iter().collect();
        let expected = tokenizer.tokenize("a cat").unwrap().ids;
        assert!(ids[..77].iter().eq(expected.iter().map(|&id| i64::from(id)).collect::<Vec<_>>().iter()));
        assert_eq!(ids[77 + 76], i64::from(END_OF_TEXT));
        assert!(CaptionBatch::new(&tokenizer, &[], &device).unwrap().is_none());
    }

    #[test]
    fn accuracy_counts_who_finds_its_own_and_draws_among_equals() {
        let [a, b, c] = [vec![1.0, 0.0], vec![0.0, 1.0], vec![0.6, 0.8]];
        assert_eq!(accuracy(&[a.clone(), b.clone()], &[a.clone(), b.clone()]), 1.0);
        assert_eq!(accuracy(&[a.clone(), b.clone()], &[b.clone(), a.clone()]), 0.0);
        assert_eq!(accuracy(&[a.clone(), b.clone()], &[a.clone(), c.clone()]), 1.0);
        // All alike: as good as chance.
        assert_eq!(accuracy(&[a.clone(), a.clone()], &[c.clone(), c]), 0.5);
        // Two captions of one wording: each picture finds one of them, and only the first is nearer to its own picture.
        assert_eq!(accuracy(&[a.clone(), a.clone()], &[a, b]), 0.5);
    }
}
