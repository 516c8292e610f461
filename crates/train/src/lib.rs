//! Training of the networks of Stable Diffusion 3.
//!
//! ```text
//! recipe -> plan -> run: step -> journal -> validation -> samples -> checkpoint -> step ... -> model
//! ```
//!
//! - [`recipe`] what was typed, [`plan`] what will be done;
//! - [`objective`] from a batch to a step, one for each thing that can be trained; [`trainee`] a network with its
//!   optimizer, [`optimizer`] AdamW, [`ema`] averages, [`learning_rate`] the schedule;
//! - [`encode`] pictures and captions to latents and text features, in a cache or in every step;
//! - [`run`] the loop, [`checkpoint`] states to go on from, [`journal`] what happened;
//! - [`tensorboard`] and [`report`] show a journal.
//!
//! A program that trains calls [`keep_freed_memory`] once: a step needs the memory of the one before again, and new
//! pages cost it up to half as much time again.
//!
//! This crate prints nothing, catches no signal and knows no terminal.

pub use rectiflow_nn::keep_freed_memory;

pub mod averages;
pub mod checkpoint;
pub mod ema;
pub mod encode;
pub mod export;
pub mod journal;
pub mod learning_rate;
pub mod objective;
pub mod optimizer;
pub mod plan;
pub mod recipe;
pub mod report;
pub mod run;
pub mod setup;
#[cfg(test)]
mod sparse;
pub mod tensorboard;
pub mod trainee;
