//! The velocity network of SD3: MMDiT (SD3-Medium and SD3.5-Large) and MMDiT-X (SD3.5-Medium).
//!
//! One definition serves drawing and training, on every device. Source: Esser et al. 2024, arXiv:2403.03206,
//! section 4 and figure 2; tensor names as in the official checkpoints.
//!
//! ```no_run
//! use rectiflow_mmdit::{Mmdit, MmditConfig};
//! use rectiflow_nn::{Device, ParamSource, Params, Precision};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mut source = rectiflow_nn::RandomInit { seed: 0 };
//! let config = MmditConfig::find(&source)?; // a checkpoint's part knows its shapes
//! let model = Mmdit::new(&config, Params::new(&mut source, &Device::flex(), Precision::F32));
//! # Ok(()) }
//! ```
//!
//! This crate does not know text encoders, autoencoders, solvers or files.

mod block;
mod config;
mod embed;
mod model;
mod modulation;

pub use config::{ConfigError, MmditConfig};
pub use model::Mmdit;
pub use modulation::{EmbeddedText, Modulations};
