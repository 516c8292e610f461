//! CPU kernels for the networks of Stable Diffusion 3, on slices.
//!
//! - [`product`]: matrix products with packed factors and what follows them (bias, activation, gated residual).
//! - [`attention`]: queries, keys and values to mixed tokens, without the matrix of all scores.
//! - [`norm`]: layer and RMS norms with what follows them.
//! - [`picture`]: convolution with the group norm before it.
//! - [`optimizer`]: AdamW in one pass, and the sum of squares of a gradient.
//! - [`limits`]: what the machine can do at most, to measure kernels against.
//! - [`Isa`]: the instructions a kernel may use. Every kernel takes one, so that tests can sweep them.
//!
//! A kernel runs on the rayon pool that it is called in; its result does not depend on the number of threads,
//! because work is only ever split between outputs, never within a sum. A shape that does not fit its slice is a
//! bug of the caller and panics; no size, alignment or value of the numbers is undefined behaviour.
//!
//! This crate knows no tensor library, no model and no file.
#![allow(unsafe_code, reason = "vector instructions and outputs shared between threads: what this crate is for")]
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod attention;
mod buffer;
mod isa;
pub mod limits;
pub mod norm;
pub mod optimizer;
pub mod picture;
pub mod product;
#[cfg(test)]
mod testing;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod vector;

pub use buffer::{ALIGNMENT, Buffer, BytesInUse, Plain, keep_freed_memory};
pub use isa::{ISA_VARIABLE, Isa, IsaError};
