//! Pictures with captions.

mod cache;

pub use cache::{
    Cache, CacheError, CachePlan, CacheWriter, CachedSample, DoesNotFit, Entry, Manifest, ShardRecord, ShardWriter,
    StoredAs,
};
