//! The two JSON files of a cache, and the line of each shard.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rectiflow_weights::{IfThere, write_whole};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::CacheError;

/// Grows when an older program could not read a cache any more.
const FORMAT: u64 = 2;

/// A manifest of a million shards has about 300 MB.
const JSON_BYTES_MAX: u64 = 1 << 30;

/// What a cache is to hold, known before the first sample is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachePlan {
    /// What the values depend on: for each encoder or setting, by name, the blake3 digest in hex.
    pub keys: BTreeMap<String, String>,
    /// How many samples the data set has, those that will be left out included.
    pub samples: u64,
    /// How many sample numbers a shard spans.
    pub shard_samples: NonZeroU64,
}

impl CachePlan {
    /// How many shards there are.
    pub fn shards(&self) -> u64 {
        self.samples.div_ceil(self.shard_samples.get())
    }

    /// The sample numbers of a shard.
    pub(super) fn numbers(&self, shard: u64) -> Range<u64> {
        let first = shard * self.shard_samples.get();
        first..self.samples.min(first + self.shard_samples.get())
    }
}

/// One shard as the manifest lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardRecord {
    /// Its name in `shards/`.
    pub file: String,
    /// Its first sample number.
    pub first: u64,
    /// How many sample numbers it spans.
    pub count: u64,
    /// How many of them it has.
    pub stored: u64,
    /// The file's length.
    pub bytes: u64,
    /// The file's checksum, in hex.
    pub blake3: String,
    /// How each tensor is stored, by its name, in the words of the safetensors format.
    pub dtypes: BTreeMap<String, String>,
    /// How many of its samples have pictures of a size, by `WIDTHxHEIGHT`.
    pub sizes_px: BTreeMap<String, u64>,
    /// The samples that it lacks, and why.
    pub left_out: BTreeMap<u64, String>,
}

/// All about a complete cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u64,
    /// What the values depend on: for each encoder or setting, by name, the blake3 digest in hex.
    pub keys: BTreeMap<String, String>,
    /// How many samples the data set has.
    pub samples: u64,
    /// How many sample numbers a shard spans.
    pub shard_samples: NonZeroU64,
    /// How many samples the cache has.
    pub stored: u64,
    /// How each tensor is stored, by its name.
    pub dtypes: BTreeMap<String, String>,
    /// How many samples have pictures of a size, by `WIDTHxHEIGHT`.
    pub sizes_px: BTreeMap<String, u64>,
    /// In the order of the sample numbers.
    pub shards: Vec<ShardRecord>,
}

impl Manifest {
    /// # Errors
    /// Two shards store a tensor of one name in two types.
    pub(super) fn assemble(folder: &Path, plan: &CachePlan, shards: Vec<ShardRecord>) -> Result<Manifest, CacheError> {
        let (mut dtypes, mut sizes_px) = (BTreeMap::<String, String>::new(), BTreeMap::new());
        for shard in &shards {
            for (name, dtype) in &shard.dtypes {
                let there = dtypes.entry(name.clone()).or_insert_with(|| dtype.clone());
                if there != dtype {
                    let (folder, name) = (folder.to_owned(), name.clone());
                    return Err(CacheError::MixedDtypes { folder, name, here: dtype.clone(), there: there.clone() });
                }
            }
            for (size, count) in &shard.sizes_px {
                *sizes_px.entry(size.clone()).or_default() += count;
            }
        }
        let stored = shards.iter().map(|shard| shard.stored).sum();
        let (keys, samples, shard_samples) = (plan.keys.clone(), plan.samples, plan.shard_samples);
        Ok(Manifest { format: FORMAT, keys, samples, shard_samples, stored, dtypes, sizes_px, shards })
    }

    /// The manifest of a complete cache, which says the same of itself everywhere.
    pub(super) fn read(folder: &Path) -> Result<Manifest, CacheError> {
        let path = manifest_path(folder);
        let manifest: Manifest = match read_json(folder, &path) {
            Err(CacheError::Unreadable { problem, .. }) if problem.kind() == io::ErrorKind::NotFound => {
                let folder = folder.to_owned();
                let is_begun = build_path(&folder).exists();
                return Err(if is_begun {
                    CacheError::NotFinished { folder }
                } else {
                    CacheError::NotThere { folder }
                });
            }
            read => read?,
        };
        let plan = manifest.plan();
        let bad = |problem: String| CacheError::BadRecord { path: path.clone(), problem };
        if manifest.shards.len() as u64 != plan.shards() {
            return Err(bad(format!("it lists {} shards of {}", manifest.shards.len(), plan.shards())));
        }
        for (shard, record) in (0..).zip(&manifest.shards) {
            record.check(&plan, shard).map_err(bad)?;
        }
        if manifest != Manifest::assemble(folder, &plan, manifest.shards.clone())? {
            return Err(bad("its sums are not those of its shards".to_owned()));
        }
        Ok(manifest)
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), CacheError> {
        write_json(&manifest_path(folder), IfThere::Replace, self)
    }

    pub(super) fn plan(&self) -> CachePlan {
        CachePlan { keys: self.keys.clone(), samples: self.samples, shard_samples: self.shard_samples }
    }
}

impl ShardRecord {
    /// Whether it is of that shard of the plan, or what is wrong with it.
    pub(super) fn check(&self, plan: &CachePlan, shard: u64) -> Result<(), String> {
        let numbers = plan.numbers(shard);
        let count = numbers.end - numbers.start;
        if self.file != shard_name(shard) || self.first != numbers.start || self.count != count {
            return Err(format!("the record of shard {shard} is of {}, {} from {}", self.file, self.count, self.first));
        }
        let lacks_only_its_own = self.left_out.keys().all(|number| numbers.contains(number));
        if !lacks_only_its_own || self.stored + self.left_out.len() as u64 != count {
            return Err(format!("the record of shard {shard} does not say of each of its samples where it is"));
        }
        Ok(())
    }

    pub(super) fn read(folder: &Path, shard: u64) -> Result<ShardRecord, CacheError> {
        read_json(folder, &record_path(folder, shard))
    }

    pub(super) fn write(&self, folder: &Path, shard: u64) -> Result<(), CacheError> {
        write_json(&record_path(folder, shard), IfThere::Replace, self)
    }
}

/// `build.json`: what the processes that make a cache agree on.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    format: u64,
    keys: BTreeMap<String, String>,
    samples: u64,
    shard_samples: NonZeroU64,
}

/// Writes down the plan, or compares it with what was written down before.
///
/// # Errors
/// The folder is of another plan.
pub(super) fn agree(folder: &Path, plan: &CachePlan) -> Result<(), CacheError> {
    let path = build_path(folder);
    let (keys, samples, shard_samples) = (plan.keys.clone(), plan.samples, plan.shard_samples);
    match write_json(&path, IfThere::Keep, &Build { format: FORMAT, keys, samples, shard_samples }) {
        Err(CacheError::Unwritable { problem, .. }) if problem.kind() == io::ErrorKind::AlreadyExists => {}
        written => return written,
    }
    let there: Build = read_json(folder, &path)?;
    same_keys(folder, &there.keys, &plan.keys)?;
    let said = |samples: u64, each: NonZeroU64| format!("{samples} samples in shards of {each}");
    if (there.samples, there.shard_samples) != (samples, shard_samples) {
        let (there, here) = (said(there.samples, there.shard_samples), said(samples, shard_samples));
        return Err(CacheError::OtherSamples { folder: folder.to_owned(), there, here });
    }
    Ok(())
}

/// # Errors
/// The first key that differs, or that only one of the two has.
pub(super) fn same_keys(
    folder: &Path,
    there: &BTreeMap<String, String>,
    here: &BTreeMap<String, String>,
) -> Result<(), CacheError> {
    let other = there.keys().chain(here.keys()).find(|key| there.get(*key) != here.get(*key));
    let Some(key) = other else { return Ok(()) };
    let [there, here] = [there, here].map(|keys| keys.get(key).map_or("absent", String::as_str).to_owned());
    Err(CacheError::OtherKey { folder: folder.to_owned(), key: key.clone(), there, here })
}

pub(super) fn shard_name(shard: u64) -> String {
    format!("shard-{shard:06}.safetensors")
}

pub(super) fn shards_folder(folder: &Path) -> PathBuf {
    folder.join("shards")
}

pub(super) fn shard_path(folder: &Path, shard: u64) -> PathBuf {
    shards_folder(folder).join(shard_name(shard))
}

pub(super) fn record_path(folder: &Path, shard: u64) -> PathBuf {
    shard_path(folder, shard).with_extension("json")
}

pub(super) fn manifest_path(folder: &Path) -> PathBuf {
    folder.join("manifest.json")
}

fn build_path(folder: &Path) -> PathBuf {
    folder.join("build.json")
}

fn write_json(path: &Path, if_there: IfThere, value: &impl Serialize) -> Result<(), CacheError> {
    let write = |out: &mut dyn Write| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    };
    write_whole(path, if_there, write).map_err(|problem| CacheError::Unwritable { path: path.to_owned(), problem })
}

/// Only the format's number is read first: what comes after it may be unknown here.
fn read_json<T: DeserializeOwned>(folder: &Path, path: &Path) -> Result<T, CacheError> {
    #[derive(Deserialize)]
    struct OnlyFormat {
        format: Option<u64>,
    }
    let unreadable = |problem| CacheError::Unreadable { path: path.to_owned(), problem };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    let bad = |problem: String| CacheError::BadRecord { path: path.to_owned(), problem };
    if bytes > JSON_BYTES_MAX {
        return Err(bad(format!("it is {bytes} bytes long")));
    }
    let text = std::fs::read(path).map_err(unreadable)?;
    let only: OnlyFormat = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    if let Some(found) = only.format.filter(|found| *found != FORMAT) {
        return Err(CacheError::OtherFormat { folder: folder.to_owned(), found, known: FORMAT });
    }
    serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))
}
