//! What a T5 learns from: some runs of a text's tokens are hidden, and it has to say what stood there.
//!
//! Source: Raffel et al. 2020, arXiv:1910.10683, section 3.1.4 and figure 2; the runs are drawn as by
//! `random_spans_noise_mask` in google-research/text-to-text-transfer-transformer. What this module does not do: cut or
//! pad to a length.

use rectiflow_nn::Rng;

/// Tokens that stand for hidden runs: `first`, and those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sentinels {
    /// Stands for the first run.
    pub first: u32,
    /// So many there are.
    pub count: usize,
}

/// How much of a text is hidden.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpanCorruption {
    /// The hidden part of all tokens, 0 to 1. The paper's: 0.15.
    pub density: f64,
    /// Mean length of a hidden run in tokens, 1 or more. The paper's: 3; ByT5's: 20.
    pub mean_span: f64,
    /// Of the vocabulary.
    pub sentinels: Sentinels,
    /// Share of texts, 0 to 1, of which nothing is hidden and all has to be said. No part of the paper: the decoder finds
    /// the next token only by what the encoder makes of it, so the encoder learns to tell where in a word a letter stands.
    pub repeated: f64,
}

/// A text with hidden runs. Neither half has an end mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupted {
    /// What is left, with a sentinel for each run.
    pub inputs: Vec<u32>,
    /// Each run behind its sentinel.
    pub targets: Vec<u32>,
}

impl SpanCorruption {
    /// The paper's, with these sentinels.
    pub fn standard(sentinels: Sentinels) -> Self {
        SpanCorruption { density: 0.15, mean_span: 3.0, sentinels, repeated: 0.0 }
    }

    /// Hides runs of `tokens`, a text without its end mark. Which ones is a function of the seed and the sample's number
    /// alone, and of how many tokens there are.
    ///
    /// The first token is always left and the last one hidden, as in the original. None for a text of fewer than two
    /// tokens, of which nothing can be hidden with something left.
    pub fn corrupt(&self, tokens: &[u32], seed: u64, sample: u64) -> Option<Corrupted> {
        let counts = self.counts(tokens.len())?;
        if Rng::keyed(seed, "repeated", sample).uniform() < self.repeated {
            return Some(Corrupted { inputs: tokens.to_vec(), targets: tokens.to_vec() });
        }
        let mut rng = Rng::keyed(seed, "spans", sample);
        let hidden_lengths = segments(&mut rng, counts.hidden, counts.spans);
        let left_lengths = segments(&mut rng, tokens.len() - counts.hidden, counts.spans);

        let mut corrupted = Corrupted { inputs: Vec::new(), targets: Vec::new() };
        let sentinels = (0..).map(|index| self.sentinels.first - index);
        let mut rest = tokens;
        for (sentinel, (left, hidden)) in sentinels.zip(left_lengths.into_iter().zip(hidden_lengths)) {
            let (left, behind) = rest.split_at(left);
            let (hidden, behind) = behind.split_at(hidden);
            rest = behind;
            corrupted.inputs.extend_from_slice(left);
            corrupted.inputs.push(sentinel);
            corrupted.targets.push(sentinel);
            corrupted.targets.extend_from_slice(hidden);
        }
        Some(corrupted)
    }

    /// How much of a text of `length` tokens is hidden, if any of it can be.
    fn counts(&self, length: usize) -> Option<Counts> {
        let hidden_max = length.checked_sub(1).filter(|&max| max > 0)?;
        let hidden = ((length as f64 * self.density).round() as usize).clamp(1, hidden_max);
        // Every run hides a token and leaves one before it. The sentinels, from `first` down, have to last.
        let spans_max = hidden.min(length - hidden).min(self.sentinels.count).min(self.sentinels.first as usize);
        let spans = (hidden as f64 / self.mean_span).round() as usize;
        (spans_max > 0).then(|| Counts { hidden, spans: spans.clamp(1, spans_max) })
    }
}

/// Of one text.
#[derive(Clone, Copy)]
struct Counts {
    /// Tokens.
    hidden: usize,
    spans: usize,
}

/// The lengths of `count` runs, none empty, that make up `items`: every way to cut them is as likely as the others.
///
/// # Panics
/// There are more runs than items: a bug of the caller.
fn segments(rng: &mut Rng, items: usize, count: usize) -> Vec<usize> {
    assert!(0 < count && count <= items, "{count} runs of {items} items");
    // Which of the places between two items are cut: selection sampling (Knuth, TAOCP 2, 3.4.2, algorithm S).
    let (mut ends, mut wanted) = (Vec::with_capacity(count), count - 1);
    for end in 1..items {
        if rng.below((items - end) as u64) < wanted as u64 {
            ends.push(end);
            wanted -= 1;
        }
    }
    ends.push(items);
    let starts = [0].into_iter().chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, end)| end - start).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDARD: SpanCorruption = SpanCorruption {
        density: 0.15,
        mean_span: 3.0,
        sentinels: Sentinels { first: 999, count: 100 },
        repeated: 0.0,
    };

    /// Tokens that tell their place.
    fn text(length: usize) -> Vec<u32> {
        (0..length as u32).collect()
    }

    /// Puts the runs back where their sentinels stand.
    fn together(Corrupted { inputs, targets }: &Corrupted) -> Vec<u32> {
        let is_sentinel = |token: &u32| *token > 899;
        let mut runs = targets.split(is_sentinel).skip(1);
        let fill = |token: &u32| if is_sentinel(token) { runs.next().unwrap().to_vec() } else { vec![*token] };
        inputs.iter().flat_map(fill).collect()
    }

    #[test]
    fn inputs_and_targets_together_are_the_text() {
        for length in 2..300 {
            let corrupted = STANDARD.corrupt(&text(length), 7, length as u64).unwrap();
            assert_eq!(together(&corrupted), text(length));
        }
    }

    #[test]
    fn the_part_that_is_hidden_and_its_runs_are_as_long_as_asked_for() {
        for (length, hidden, spans) in [(2, 1, 1), (7, 1, 1), (20, 3, 1), (100, 15, 5), (512, 77, 26)] {
            let Corrupted { inputs, targets } = STANDARD.corrupt(&text(length), 1, 2).unwrap();
            assert_eq!((inputs.len(), targets.len()), (length - hidden + spans, hidden + spans), "{length} tokens");
        }
        let many = SpanCorruption { density: 0.9, mean_span: 1.0, ..STANDARD };
        // As many runs as leave one token between them.
        assert_eq!(many.corrupt(&text(20), 1, 2).unwrap().targets.len(), 18 + 2);
        let few = Sentinels { first: 999, count: 3 };
        let few = SpanCorruption { sentinels: few, ..STANDARD }.corrupt(&text(512), 1, 2).unwrap();
        assert_eq!(few.targets.len(), 77 + 3);
    }

    #[test]
    fn sentinels_go_down_from_the_first_and_are_the_same_in_both_halves() {
        let Corrupted { inputs, targets } = STANDARD.corrupt(&text(100), 3, 4).unwrap();
        let sentinels = |ids: &[u32]| ids.iter().copied().filter(|id| *id > 899).collect::<Vec<_>>();
        assert_eq!(sentinels(&inputs), [999, 998, 997, 996, 995]);
        assert_eq!(sentinels(&targets), sentinels(&inputs));
        assert_eq!((inputs[0], *targets.last().unwrap()), (0, 99), "the first token is left, the last one hidden");
    }

    #[test]
    fn seed_and_sample_choose_the_runs_and_nothing_else_does() {
        let draw = |seed, sample| STANDARD.corrupt(&text(100), seed, sample).unwrap();
        assert_eq!(draw(5, 6), draw(5, 6));
        assert_ne!(draw(5, 6), draw(5, 7));
        assert_ne!(draw(5, 6), draw(4, 6));
    }

    /// Five items in three runs: six ways, each as likely.
    #[test]
    fn every_way_to_cut_is_as_likely() {
        let mut counts = std::collections::BTreeMap::<Vec<usize>, u32>::new();
        for number in 0..6000 {
            let lengths = segments(&mut Rng::keyed(1, "test", number), 5, 3);
            *counts.entry(lengths).or_default() += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(
            counts.iter().all(|(lengths, count)| lengths.iter().sum::<usize>() == 5 && (880..1120).contains(count))
        );
    }

    #[test]
    fn a_text_that_is_repeated_is_asked_for_whole() {
        let half = SpanCorruption { repeated: 0.5, ..STANDARD };
        let mut repeated = 0;
        for sample in 0..2000 {
            let corrupted = half.corrupt(&text(30), 1, sample).unwrap();
            if corrupted.targets == text(30) {
                assert_eq!(corrupted.inputs, text(30));
                repeated += 1;
            } else {
                assert_eq!(Some(corrupted), STANDARD.corrupt(&text(30), 1, sample), "the others are hidden as before");
            }
        }
        assert!((900..1100).contains(&repeated), "{repeated} of 2000");
    }

    #[test]
    fn of_one_token_nothing_can_be_hidden() {
        assert_eq!(STANDARD.corrupt(&[], 0, 0), None);
        assert_eq!(STANDARD.corrupt(&[5], 0, 0), None);
        let none = Sentinels { first: 999, count: 0 };
        assert_eq!(SpanCorruption { sentinels: none, ..STANDARD }.corrupt(&text(9), 0, 0), None);
    }
}
