//! Training of the networks of Stable Diffusion 3.
//!
//! - [`objective`]: from a batch to a loss.
//! - [`optimizer`]: from the gradients of a backward pass to changed parameters, and their running average.
//!
//! A program that trains calls [`keep_freed_memory`] once: a step needs the memory of the one before again, and new
//! pages cost it up to half as much time again.
//!
//! This crate reads no file and knows no text encoder; to the optimizer a network is any Burn module.

pub use rectiflow_nn::keep_freed_memory;

pub mod objective;
pub mod optimizer;
