//! The velocity network of SD3: MMDiT (SD3-Medium and SD3.5-Large) and MMDiT-X (SD3.5-Medium), and the backbones that the
//! paper compares it with: DiT, CrossDiT, UViT and an MMDiT of three sets of weights.
//!
//! [`Mmdit`] alone draws; [`VelocityNetwork`] is any of them, to train and to compare. One definition serves drawing and training, on every device. Source: Esser et al. 2024, arXiv:2403.03206,
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

mod backbone;
mod block;
mod config;
mod count;
mod cross_dit;
mod dit;
mod embed;
mod ends;
mod loss;
mod memory;
mod model;
mod modulation;
mod network;
mod perturbation;
mod probe;
mod recompute;
mod step_cache;
mod stream;
mod three_sets;
mod uvit;

pub use backbone::NetworkInputs;
pub use config::{ConfigError, Frame, MmditConfig};
pub use cross_dit::CrossDit;
pub use dit::Dit;
pub use ends::Origin;
pub use loss::{Asked, FlowBatch, LOSS_BANDS, asked, band_name, band_of, flow_gradients, flow_losses};
pub use memory::packed_bytes;
pub use model::Mmdit;
pub use modulation::{EmbeddedText, Modulations};
pub use network::{BaselineConfig, NetworkConfig, VelocityNetwork};
pub use perturbation::Perturbation;
pub use probe::{AttentionProbe, Queries, last_blocks};
pub use recompute::Recompute;
pub use step_cache::{Forecast, StepCache};
pub use three_sets::ThreeSets;
pub use uvit::{Uvit, UvitConfig};
