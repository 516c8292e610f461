//! Checkpoint files: reading them, finding a model's tensors in them, saying what they hold and lack.
//!
//! A model asks for its parameters by the names of the official checkpoints, through
//! [`rectiflow_nn::ParamSource`]. This crate answers from any of the layouts that SD3 is published in: one
//! official file, a diffusers folder (sharded or not), or one file per part, each as safetensors or as GGUF.
//!
//! ```no_run
//! use rectiflow_weights::{Checkpoint, ModelPaths, PartKind};
//!
//! # fn main() -> Result<(), rectiflow_weights::WeightsError> {
//! let checkpoint = Checkpoint::open(&ModelPaths {
//!     model: Some("sd3_medium.safetensors".into()),       // or a diffusers folder
//!     t5xxl: Some("t5xxl_fp8_e4m3fn.safetensors".into()), // replaces the one inside the model
//!     ..ModelPaths::default()
//! })?;
//!
//! let mut source = checkpoint.require(PartKind::Vae)?.source();
//! // let vae = Vae::new(Params::new(&mut source, &device, precision));
//! let report = source.finish()?; // every name and shape fits and every value is finite, or nothing is loaded
//! println!("{} tensors, {} bytes", report.tensors, report.bytes);
//!
//! let shift = checkpoint.shift(); // the scheduler's, from a diffusers folder
//! let tokenizer = checkpoint.tokenizer_folder(PartKind::T5); // likewise
//! # Ok(())
//! # }
//! ```
//!
//! Files are memory-mapped. A tensor that is aligned in its file becomes a Burn tensor without a copy, and a matrix in
//! blocks of few bits stays as the file has it. Files of any size are read by [`TensorFile`] and written by
//! [`write_tensor_by_tensor`], one tensor after the other; [`convert_model`] writes a model in another layout or type.
//!
//! Small files of named tensors (latents, expected values of tests) are written and read whole:
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use rectiflow_nn::TensorData;
//! use rectiflow_weights::{read_all, write_safetensors};
//!
//! let folder = tempfile::tempdir().unwrap();
//! let path = folder.path().join("latents.safetensors");
//! let latents = TensorData::new(vec![0.5_f32, -1.0], [1, 2]);
//! write_safetensors(&path, &[("latents", &latents)], &BTreeMap::new()).unwrap();
//! assert_eq!(read_all(&path).unwrap()["latents"], latents);
//! ```
//!
//! This crate knows no model's sizes, prints nothing, downloads nothing, and reads no pickled file: those are recognised
//! and refused by name. Of ggml's types it reads no IQ, no Q2_K and no Q3_K.

mod atomic;
mod checkpoint;
mod config;
mod convert;
mod digest;
mod dtype;
mod error;
mod file;
mod finite;
mod folder;
mod foreign;
mod fp8;
mod gguf;
mod header;
mod inventory;
mod keymap;
mod layout_out;
mod needed;
mod part;
mod read;
mod recognise;
mod shards;
mod source;
mod tensor_set;
mod write;

pub use atomic::{IfThere, sync_folder, write_whole};
pub use checkpoint::{Checkpoint, ModelPaths};
pub use convert::{Converted, Form, convert_file, convert_model};
pub use digest::{sha256, sha256_of_file};
pub use dtype::Dtype;
pub use error::{Mismatch, Misshaped, WeightsError, quoted, shown};
pub use file::{Container, RawTensor, TensorFile, read_all};
pub use foreign::Foreign;
pub use gguf::GgufError;
pub use header::{Header, HeaderError, TensorInfo};
pub use inventory::{Inventory, OtherTensors, PartInventory, Why};
pub use keymap::Layout;
pub use layout_out::in_layout;
pub use needed::{Needed, NotNeeded, may_be_alone, model_files, part_files};
pub use part::{Part, PartKind};
pub use shards::{IndexError, ShardIndex};
pub use source::{LoadReport, PartSource};
pub use write::{TensorOutline, safetensors_into, write_safetensors, write_tensor_by_tensor};
