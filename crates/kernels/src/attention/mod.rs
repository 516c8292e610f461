//! Attention without the matrix of all scores: `softmax(scale q k^T + bias) v`.
//!
//! Source: Dao et al. 2022, arXiv:2205.14135, algorithm 1 (the running maximum and sum of a row of scores).
//!
//! Letters: B batch, H heads, S queries, T keys, E head width.
//!
//! Keys and values of a head are packed once; a block of queries then meets blocks of keys. The two products are
//! those of [`crate::product`], tile by tile; between them stands the softmax, in f32.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod backward;
mod forward;
mod gradients;
mod sequence;
mod statistics;
mod tiles;

pub use forward::{Attended, Bias, attention};
pub use gradients::{GradientPart, Gradients, Saved, attention_backward};
pub use sequence::{OutputPart, Part, Sequence};
pub use statistics::{HeadStatistics, attention_statistics};

#[cfg(test)]
mod gradient_tests;
#[cfg(test)]
mod tests;
