//! What no scene for training shows.
//!
//! It hangs on the names alone, neither on a seed nor on what else is in the lists, so scenes for training of any seed
//! and held-out scenes of any other have nothing of it in common.

use rectiflow_nn::Rng;

/// Shares of all that there is.
const PAIRS: f64 = 0.06;
const COUNTS: f64 = 0.1;
const WORDS: f64 = 0.12;

/// Whether two concepts, in either order, are held out together.
pub(super) fn pair(one: &str, other: &str) -> bool {
    let (first, second) = if one < other { (one, other) } else { (other, one) };
    share(&format!("held-out pair {first}|{second}")) < PAIRS
}

/// Whether so many of a concept are held out. Single things never are.
pub(super) fn count(concept: &str, count: usize) -> bool {
    count > 1 && share(&format!("held-out count {count} {concept}")) < COUNTS
}

/// Whether a word is held out, however it is written.
pub(super) fn word(word: &str) -> bool {
    share(&format!("held-out word {}", word.to_lowercase())) < WORDS
}

fn share(key: &str) -> f64 {
    Rng::keyed(0, key, 0).uniform()
}
