//! The autoencoder: picture to latent and back. Released ones have 16 latent channels.
//!
//! Source: `VAEEncoder` and `VAEDecoder` in Stability-AI/sd3.5 `sd3_impls.py`; tensor names as in the official
//! checkpoints. Pictures are RGB in -1..1, latents are 8 times smaller on each side for the released widths.
//!
//! This crate does not know text, noise levels or picture files.

mod blocks;
mod config;
mod count;
mod memory;
mod model;
mod posterior;
mod statistics;
mod strips;
mod tiny;

pub use config::{ConfigError, VaeConfig};
pub use count::Products;
pub use memory::Decoding;
pub use model::Vae;
pub use posterior::Posterior;
pub use statistics::{LatentStatistics, Moments};
pub use tiny::{TinyConfig, TinyDecoder, TinyError};
