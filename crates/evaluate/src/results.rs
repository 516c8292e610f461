//! Figures, each with how sure it is.

use std::str::FromStr;

use serde::Serialize;

use crate::metrics::{interval, ratio};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Whether pictures show what was asked, by a detector.
    Tasks,
    /// Whether words can be read.
    Spelling,
    /// How alike pictures and prompts are to the model's own CLIP.
    Clip,
    /// How far drawn pictures are from real ones as a whole.
    Distance,
    /// What the autoencoder loses.
    Reconstruction,
    /// The validation loss by noise level.
    Loss,
}

/// No part has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a part; give {}", Part::ALL.map(Part::name).join(", "))]
pub struct UnknownPart {
    /// What was asked for.
    pub name: String,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 6] =
        [Part::Tasks, Part::Spelling, Part::Clip, Part::Distance, Part::Reconstruction, Part::Loss];

    /// The name that [`Part::from_str`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Part::Tasks => "tasks",
            Part::Spelling => "spelling",
            Part::Clip => "clip",
            Part::Distance => "distance",
            Part::Reconstruction => "reconstruction",
            Part::Loss => "loss",
        }
    }
}

impl FromStr for Part {
    type Err = UnknownPart;

    fn from_str(text: &str) -> Result<Part, UnknownPart> {
        Part::ALL.into_iter().find(|part| part.name() == text).ok_or_else(|| UnknownPart { name: text.to_owned() })
    }
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// Pictures that the model drew.
    Drawn,
    /// Scenes of the same prompts, as they are: the best that can be reached.
    Real,
    /// The same scenes, through the autoencoder.
    Reconstructed,
    /// Drawn pictures against another prompt: what is right by chance.
    Control,
    /// The model itself.
    Model,
}

/// How a number reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// 0 to 1, shown in percent.
    Share,
    /// Decibel.
    Decibel,
    /// None.
    Number,
}

/// A figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Which part it is of.
    pub part: Part,
    /// What it says.
    pub name: String,
    /// Of what.
    pub of: Of,
    /// How it reads.
    pub unit: Unit,
    /// The number.
    pub value: f64,
    /// 95 %, by the bootstrap over prompts (or scenes).
    pub interval: [f64; 2],
    /// Prompts (or scenes) that it is of.
    pub n: usize,
    /// Pictures that it is of.
    pub pictures: usize,
    /// Over subsets, where it is a mean of those.
    pub deviation: Option<f64>,
}

/// Of the prompts of a figure: for each a sum and of how many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(pub(crate) Vec<[f64; 2]>);

impl Tally {
    pub(crate) fn add(&mut self, values: impl IntoIterator<Item = f64>) {
        let (sum, count) = values.into_iter().fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
        self.0.push([sum, count]);
    }

    /// What a resample of a task's prompts gives. For figures of several tasks.
    pub(crate) fn again(&self, key: &str) -> Vec<f64> {
        let of = |counts: &[u32], which: usize| -> f64 {
            self.0.iter().zip(counts).map(|(one, count)| one[which] * f64::from(*count)).sum()
        };
        crate::metrics::drawn_again(self.0.len(), crate::metrics::RESAMPLES, key, |counts| {
            of(counts, 0) / of(counts, 1)
        })
    }

    pub(crate) fn mean(&self) -> f64 {
        let sum = |which: usize| self.0.iter().map(|one| one[which]).sum::<f64>();
        sum(0) / sum(1)
    }

    pub(crate) fn figure(&self, part: Part, name: &str, of: Of, unit: Unit) -> Figure {
        let (value, interval) = ratio(&self.0, &key(part, name, of));
        let pictures = self.0.iter().map(|one| one[1]).sum::<f64>() as usize;
        Figure { part, name: name.to_owned(), of, unit, value, interval, n: self.0.len(), pictures, deviation: None }
    }
}

/// What a figure's resamples are drawn by.
pub(crate) fn key(part: Part, name: &str, of: Of) -> String {
    format!("{} {name} {of:?}", part.name())
}

/// A figure whose prompts each have one value and count alike.
pub(crate) fn mean_of(values: &[f64], part: Part, name: &str, of: Of, unit: Unit) -> Figure {
    let mean = |counts: &[u32]| {
        let all: f64 = values.iter().zip(counts).map(|(value, count)| value * f64::from(*count)).sum();
        all / values.len() as f64
    };
    let interval = interval(values.len(), &key(part, name, of), mean);
    let (value, n) = (mean(&vec![1; values.len()]), values.len());
    Figure { part, name: name.to_owned(), of, unit, value, interval, n, pictures: n, deviation: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_by_their_names() {
        for part in Part::ALL {
            assert_eq!(part.name().parse(), Ok(part));
        }
        assert!("fid".parse::<Part>().unwrap_err().to_string().contains("tasks, spelling, clip"));
    }

    #[test]
    fn a_tally_counts_each_picture_and_an_even_mean_each_prompt() {
        let mut tally = Tally::default();
        tally.add([1.0, 1.0, 0.0, 0.0]);
        tally.add([1.0, 1.0, 1.0, 1.0]);
        let figure = tally.figure(Part::Tasks, "counting", Of::Drawn, Unit::Share);
        assert_eq!((figure.value, figure.n, figure.pictures, figure.interval), (0.75, 2, 8, [0.5, 1.0]));
        assert_eq!(tally.mean(), 0.75);
        assert!(tally.again("key").iter().all(|mean| [0.5, 0.75, 1.0].contains(mean)));
        let figure = mean_of(&[2.0, 2.0, 2.0], Part::Loss, "loss", Of::Model, Unit::Number);
        assert_eq!((figure.value, figure.n, figure.interval), (2.0, 3, [2.0, 2.0]));
    }
}
