//! The operations and layers that SD3's networks are made of.
//!
//! Three things live here and nowhere else:
//! - [`ops`]: the few operations that take nearly all of the time. They are the seam behind which faster
//!   kernels come; a model never calls Burn for a product, an attention or a norm.
//! - [`layers`]: an operation with its parameters.
//! - [`Params`]: how a layer gets its parameters, from a checkpoint or from an initialiser, by the names of
//!   the official checkpoints.
//!
//! This crate knows no model, reads no file and holds no `unsafe`.

pub mod layers;
pub mod ops;

mod blocks;
mod device;
mod gradients;
mod init;
mod params;
mod precision;
mod rng;
mod stored;
mod tensor;

pub use blocks::{BlockMatrix, widen_blocks};
pub use burn::module::{Module, Param, ParamId};
pub use burn::tensor::{DType, Device, Gradients, Int, Tensor, TensorData};
pub use device::{DeviceChoice, DeviceError};
pub use gradients::ParamGradients;
pub use init::{Init, RandomInit, sinusoids_2d};
pub use params::{Named, ParamNames, ParamSource, Params, Read, WithNew};
pub use precision::Precision;
pub use rectiflow_kernels::keep_freed_memory;
pub use rectiflow_kernels::product::BlockType;
pub use rng::Rng;
pub use stored::{RereadMatrix, StoredMatrix};
pub use tensor::{from_f32, from_id_rows, from_ids, is_finite, to_f32};
