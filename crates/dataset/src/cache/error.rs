use std::io;
use std::path::PathBuf;

use rectiflow_weights::{WeightsError, quoted, shown};

/// What can be wrong with a cache on disk. The message says what is wrong and, in a second line, what to do next.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it; the fields are what the message names")]
pub enum CacheError {
    #[error("{} holds no cache\nhint: make one there with `rectiflow cache`", shown(.folder))]
    NotThere { folder: PathBuf },
    #[error(
        "the cache in {} is not complete: it has no manifest.json\nhint: run `rectiflow cache` with the same settings \
         again; it goes on where it ended", shown(.folder)
    )]
    NotFinished { folder: PathBuf },
    #[error(
        "{left} of {of} shards of the cache in {} are still to be made\nhint: wait for the other processes that are \
         making it; if there are none, run `rectiflow cache` again", shown(.folder)
    )]
    Unfinished { folder: PathBuf, left: u64, of: u64 },
    #[error(
        "the cache in {} was made with another {}: its digest is {} there and {} here\nhint: give what it was made \
         with, or another folder for a new cache, or delete this one", shown(.folder), quoted(.key), there, here
    )]
    OtherKey { folder: PathBuf, key: String, there: String, here: String },
    #[error(
        "the cache in {} is of {there}, and {here} are asked for\nhint: use the data set and the settings that it was \
         made with, or another folder for a new cache, or delete this one", shown(.folder)
    )]
    OtherSamples { folder: PathBuf, there: String, here: String },
    #[error(
        "the cache in {} has format {found}; format {known} is read\nhint: make it again with this version, in another \
         folder", shown(.folder)
    )]
    OtherFormat { folder: PathBuf, found: u64, known: u64 },
    #[error("{} is not what a cache has there: {problem}\nhint: {REDO}; where that does not help, delete its folder first", shown(.path))]
    BadRecord { path: PathBuf, problem: String },
    #[error("the shard {} is damaged: {problem}\nhint: {REDO}", shown(.path))]
    Damaged { path: PathBuf, problem: String },
    #[error("{} cannot be read: {problem}\nhint: check its permissions and its disk", shown(.path))]
    Unreadable { path: PathBuf, problem: io::Error },
    #[error("{} cannot be written: {problem}\nhint: check the folder's permissions and the free space", shown(.path))]
    Unwritable { path: PathBuf, problem: io::Error },
    #[error(
        "{} cannot be locked: {problem}\nhint: keep the cache on a file system with locks while it is made",
        shown(.path)
    )]
    NoLocks { path: PathBuf, problem: io::Error },
    #[error(
        "tensor {} is {here} in one sample of the cache in {} and {there} in another\nhint: store each tensor in one \
         type; make the cache again", quoted(.name), shown(.folder)
    )]
    MixedDtypes { folder: PathBuf, name: String, here: String, there: String },
    #[error("there is no sample {number} in the cache in {}: it has {samples}\nhint: samples are counted from 0", shown(.folder))]
    NoSuchSample { folder: PathBuf, number: u64, samples: u64 },
    #[error("sample {number} was left out of the cache in {}: {why}\nhint: skip it, as `stored` says", shown(.folder))]
    LeftOut { folder: PathBuf, number: u64, why: String },
    #[error("sample {number} of the cache in {} has no {}\nhint: it has {has}", shown(.folder), quoted(.name))]
    NoSuchTensor { folder: PathBuf, number: u64, name: String, has: String },
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// What to do about a file of a cache that cannot be used.
const REDO: &str = "`rectiflow cache --verify` finds every such shard and makes it again";
