//! Training of the networks of Stable Diffusion 3.
//!
//! - [`optimizer`]: from the gradients of a backward pass to changed parameters, and their running average.
//!
//! This crate reads no file and knows no text encoder; a network is any Burn module.

pub mod optimizer;
