//! Pictures with captions: where they come from, what is left out, in which order they come, what is stored of them.
//!
//! ```no_run
//! use rectiflow_dataset::{DataSettings, Dataset, Tail};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings: DataSettings = toml::from_str("path = \"photos\"\nside_px = 256")?;
//! let (dataset, findings) = Dataset::open(&settings)?; // each sample is looked at once
//! println!("{findings}");
//!
//! let (seed, batch_len, step) = (0, 4, 12_345);
//! let batch = dataset.batches(batch_len, Tail::Fill, seed)?.batch(step); // no matter what came before
//! for drawn in &batch.drawn {
//!     let caption = dataset.caption(seed, drawn.epoch, drawn.sample)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Every draw (the order, the caption, a mirrored picture) is a function of the seed, the
//! epoch and the sample's number. Nothing else is remembered, so a run that is resumed, or split over processes,
//! goes on as it would have.
//!
//! Nothing is left out or changed in silence: [`Findings`] holds each sample that is not used, with its [`Reason`],
//! and counts what was done to the others.
//!
//! This crate knows no text encoder and no autoencoder, and prints nothing.

mod batches;
mod buckets;
mod cache;
mod captions;
mod dataset;
mod digest;
mod draw;
mod error;
mod findings;
mod order;
mod picture;
mod settings;
mod source;
pub mod sprites;
mod texts;

pub use batches::{Batch, Batches, Drawn, Tail};
pub use buckets::{Buckets, Size};
pub use cache::{
    Cache, CacheError, CachePlan, CacheWriter, CachedSample, DoesNotFit, Entry, Manifest, ShardRecord, ShardWriter,
    StoredAs,
};
pub use captions::{CaptionMix, Captions, LONG_BYTES};
pub use dataset::{Dataset, Kept, Prepared};
pub use draw::is_flipped;
pub use error::{DatasetError, Reason};
pub use findings::{Change, Choice, Findings, LeftOut};
pub use order::Order;
pub use picture::{Background, Cropped, Header, Window, crop_to, decode, inspect};
pub use settings::{BucketSettings, Check, ComputedBuckets, Crop, DataSettings, NamedBuckets, WithoutCaption};
pub use source::{Canvas, Folder, Jsonl, Kind, Lines, Parquet, Source, Sprites, WebDataset, open};
pub use texts::Texts;
