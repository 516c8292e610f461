use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::draw;
use crate::error::DatasetError;

/// A caption of more bytes than this is counted: T5's 256 tokens are about 1,000.
pub const LONG_BYTES: usize = 10_000;
/// A caption of more is not read at all: it is no caption.
pub(crate) const CAPTION_BYTES_MAX: u64 = 1 << 20;

/// The texts of one sample, by the name of their column: "caption" for a text file, the key for JSON. A column may
/// have several texts, of which one is drawn. None is empty, and none begins or ends with white space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captions(BTreeMap<String, Vec<String>>);

impl Captions {
    /// Adds a text, unless there is nothing in it.
    pub fn add(&mut self, column: &str, text: &str) {
        let text = text.trim();
        if !text.is_empty() {
            self.0.entry(column.to_owned()).or_default().push(text.to_owned());
        }
    }

    /// The names of the columns that have a text.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The texts of a column; none if it is missing.
    pub fn texts(&self, column: &str) -> &[String] {
        self.0.get(column).map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn has(&self, column: &str) -> bool {
        self.0.contains_key(column)
    }
}

/// How often each column of captions is drawn. SD3 mixes original and synthetic captions half and half
/// (arXiv:2403.03206, section 5.2.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, f64>", into = "BTreeMap<String, f64>")]
pub struct CaptionMix {
    /// Not negative, and more than 0 together; they need not make 1.
    shares: BTreeMap<String, f64>,
}

impl CaptionMix {
    /// Always this column.
    pub fn only(column: &str) -> Self {
        CaptionMix { shares: BTreeMap::from([(column.to_owned(), 1.0)]) }
    }

    /// The columns that are drawn from.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.shares.iter().filter(|(_, share)| **share > 0.0).map(|(column, _)| column.as_str())
    }

    /// The caption of `sample` in `epoch`. The shares of missing columns go to the others, in proportion. `None` if
    /// no column has a text.
    pub fn draw<'a>(&self, captions: &'a Captions, seed: u64, epoch: u64, sample: u64) -> Option<&'a str> {
        let there: Vec<(&str, f64)> =
            self.columns().filter(|column| captions.has(column)).map(|column| (column, self.shares[column])).collect();
        let mut rng = draw::keyed(seed, "caption", epoch, sample);
        let mut left = rng.uniform() * there.iter().map(|(_, share)| share).sum::<f64>();
        let chosen = there.iter().find(|(_, share)| {
            left -= share;
            left < 0.0
        });
        // Rounding may leave a hair's breadth behind the last share.
        let (column, _) = chosen.or(there.last())?;
        let texts = captions.texts(column);
        Some(&texts[rng.below(texts.len() as u64) as usize])
    }
}

impl TryFrom<BTreeMap<String, f64>> for CaptionMix {
    type Error = DatasetError;

    fn try_from(shares: BTreeMap<String, f64>) -> Result<Self, DatasetError> {
        let sum: f64 = shares.values().sum();
        if sum > 0.0 && sum.is_finite() && shares.values().all(|share| *share >= 0.0) {
            return Ok(CaptionMix { shares });
        }
        Err(DatasetError::Settings {
            problem: "the shares of `captions` are not numbers from 0 up, with one above 0".into(),
            hint: "write them as `captions = { caption = 0.5, synthetic = 0.5 }`",
        })
    }
}

impl From<CaptionMix> for BTreeMap<String, f64> {
    fn from(mix: CaptionMix) -> Self {
        mix.shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captions(texts: &[(&str, &str)]) -> Captions {
        let mut captions = Captions::default();
        texts.iter().for_each(|(column, text)| captions.add(column, text));
        captions
    }

    fn mix(shares: &[(&str, f64)]) -> Result<CaptionMix, DatasetError> {
        shares.iter().map(|(column, share)| ((*column).to_owned(), *share)).collect::<BTreeMap<_, _>>().try_into()
    }

    /// How often each text is drawn in 20,000.
    fn shares_drawn(mix: &CaptionMix, captions: &Captions) -> BTreeMap<String, f64> {
        let mut shares = BTreeMap::new();
        for sample in 0..20_000 {
            let text = mix.draw(captions, 1, 2, sample).unwrap();
            *shares.entry(text.to_owned()).or_default() += 1.0 / 20_000.0;
        }
        shares
    }

    #[test]
    fn columns_are_drawn_by_their_shares_and_texts_of_a_column_evenly() {
        let captions = captions(&[("caption", "one"), ("caption", "two"), ("synthetic", "three"), ("other", "four")]);
        let shares = shares_drawn(&mix(&[("caption", 3.0), ("synthetic", 1.0)]).unwrap(), &captions);
        // Three deviations of a share of 20,000 draws are 0.01.
        for (text, share) in [("one", 0.375), ("two", 0.375), ("three", 0.25)] {
            assert!((shares[text] - share).abs() < 0.01, "{shares:?}");
        }
        assert_eq!(shares.len(), 3);
    }

    #[test]
    fn the_share_of_a_missing_column_goes_to_the_others_in_proportion() {
        let three = mix(&[("a", 0.5), ("b", 0.2), ("c", 0.3)]).unwrap();
        let captions = captions(&[("b", "b"), ("c", "c"), ("a", " \n")]);
        assert!((shares_drawn(&three, &captions)["b"] - 0.4).abs() < 0.011);
        assert_eq!(three.draw(&Captions::default(), 1, 1, 1), None);
    }

    #[test]
    fn a_draw_is_a_function_of_seed_epoch_and_sample() {
        let captions = captions(&[("a", "a"), ("b", "b")]);
        let half = mix(&[("a", 0.5), ("b", 0.5)]).unwrap();
        let row = |seed, epoch| -> Vec<_> { (0..64).map(|sample| half.draw(&captions, seed, epoch, sample)).collect() };
        assert_eq!(row(1, 1), row(1, 1));
        assert!(row(1, 1) != row(2, 1) && row(1, 1) != row(1, 2) && row(1, 2) != row(2, 1));
    }

    #[test]
    fn shares_that_mean_nothing_are_refused() {
        for shares in [&[][..], &[("a", 0.0)], &[("a", -1.0), ("b", 2.0)], &[("a", f64::NAN)], &[("a", f64::INFINITY)]]
        {
            assert!(mix(shares).is_err(), "{shares:?}");
        }
    }
}
