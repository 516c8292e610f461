//! What encoders made of each sample, kept on disk: named tensors and texts by the sample's number.
//!
//! ```text
//! CACHE/build.json                      what is being made: digests of the encoders, how many samples
//! CACHE/manifest.json                   the same with every shard and its checksum; there when all of it is made
//! CACHE/shards/shard-000000.safetensors `0/latent`, `0/texts`, `1/latent`, ..., and a checksum of each sample
//! CACHE/shards/shard-000000.json        that shard's line of the manifest
//! CACHE/claims/000000                   locked by the process that is making that shard
//! ```
//!
//! A shard holds a fixed range of sample numbers and is the unit of work: any number of processes make a cache
//! together, each shard by one of them, and what they make does not depend on who made it or when. A process that ends,
//! however it ends, leaves whole shards and nothing else that counts; who comes after it goes on from there.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::num::NonZeroU64;
//!
//! use rectiflow_dataset::{Cache, CachePlan, CacheWriter, CachedSample};
//! use rectiflow_nn::TensorData;
//!
//! # fn main() -> Result<(), rectiflow_dataset::CacheError> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path();
//! let keys = BTreeMap::from([("vae".to_owned(), "9f2c".to_owned())]); // blake3 of its weights
//! let plan = CachePlan { keys, samples: 3, shard_samples: NonZeroU64::new(2).unwrap() };
//! let mut writer = CacheWriter::open(folder, plan)?;
//! while let Some(mut shard) = writer.claim()? {
//!     for number in shard.numbers() {
//!         let latent = TensorData::new(vec![number as f32; 4], [1, 2, 2]);
//!         shard.add(CachedSample::new(number, Some([16, 16])).with("latent", latent).text("caption", "a cat"));
//!     }
//!     shard.commit()?;
//! }
//! let cache: Cache = writer.finish()?;
//! assert_eq!(cache.entry(2)?.data("latent")?, TensorData::new(vec![2.0_f32; 4], [1, 2, 2]));
//! # Ok(())
//! # }
//! ```
//!
//! This module runs no encoder, chooses no precision, and does not know what the tensors mean.

mod claim;
mod error;
mod manifest;
mod reader;
mod stored_as;
mod writer;

#[cfg(test)]
mod tests;

pub use error::CacheError;
pub use manifest::{CachePlan, Manifest, ShardRecord};
pub use reader::{Cache, Entry};
pub use stored_as::{DoesNotFit, StoredAs};
pub use writer::{CacheWriter, CachedSample, ShardWriter};
