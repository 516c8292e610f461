//! Training of the networks of Stable Diffusion 3.
//!
//! - [`objective`]: from a batch to a loss.
//! - [`optimizer`]: from the gradients of a backward pass to changed parameters, and their running average.
//!
//! This crate reads no file and knows no text encoder; to the optimizer a network is any Burn module.

pub mod objective;
pub mod optimizer;
