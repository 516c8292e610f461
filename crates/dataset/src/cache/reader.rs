use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rectiflow_nn::TensorData;
use rectiflow_weights::{Dtype, RawTensor, TensorFile, WeightsError};

use super::error::CacheError;
use super::manifest::{CachePlan, Manifest, ShardRecord, same_keys, shard_path};

/// A sample's texts, one JSON object for each sample; not a name for a tensor.
pub(super) const TEXTS: &str = "texts";
/// `[numbers of the shard, CHECKSUM]`: the beginning of a blake3 digest of each sample, zeros where there is none.
pub(super) const CHECKSUMS: &str = "checksums";
/// Bytes of a sample's checksum: enough for damage, which nobody chooses.
pub(super) const CHECKSUM: usize = 16;
/// `[numbers of the shard, 2]`: width and height of each sample's picture, zeros where there is none.
pub(super) const SIZES_PX: &str = "sizes_px";

/// The checksum of a sample's tensors, in the order of their names: name, shape and bytes of each.
pub(super) fn checksum<'a>(tensors: impl Iterator<Item = (&'a str, &'a [usize], &'a [u8])>) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    for (name, shape, bytes) in tensors {
        hasher.update(name.as_bytes()).update(b"\0");
        for side in shape {
            hasher.update(&(*side as u64).to_le_bytes());
        }
        hasher.update(bytes);
    }
    let mut beginning = [0; CHECKSUM];
    hasher.finalize_xof().fill(&mut beginning);
    beginning
}

/// A complete cache. Shards are memory-mapped; nothing is read until it is asked for.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    manifest: Manifest,
    shards: Vec<Shard>,
}

/// What a cache has of one sample.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    cache: &'a Cache,
    shard: &'a Shard,
    number: u64,
}

impl Cache {
    /// Opens a cache and looks at the length and the whole header of every shard, but at no value: see
    /// [`Cache::damaged`].
    ///
    /// # Errors
    /// The cache is not there or not complete; a shard is missing, cut short, or not what the manifest says.
    pub fn open(folder: impl AsRef<Path>) -> Result<Cache, CacheError> {
        let folder = folder.as_ref();
        let manifest = Manifest::read(folder)?;
        let plan = manifest.plan();
        let open = |(shard, record)| Shard::open(folder, &plan, shard, record);
        let shards = (0..).zip(&manifest.shards).map(open).collect::<Result<_, _>>()?;
        Ok(Cache::new(folder, manifest, shards))
    }

    /// Of shards that were opened and are the manifest's.
    pub(super) fn new(folder: &Path, manifest: Manifest, shards: Vec<Shard>) -> Cache {
        Cache { folder: folder.to_owned(), manifest, shards }
    }

    /// What the cache says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Checks that the cache was made with these encoders and settings: it has each key, with that digest. It may have
    /// more.
    ///
    /// # Errors
    /// It was not; both digests are named.
    pub fn require(&self, keys: &BTreeMap<String, String>) -> Result<(), CacheError> {
        let named = |(key, digest): (&String, &String)| keys.contains_key(key).then(|| (key.clone(), digest.clone()));
        same_keys(&self.folder, &self.manifest.keys.iter().filter_map(named).collect(), keys)
    }

    /// A blake3 digest, in hex, of all that is in it, by its manifest: caches of one digest hold the same bytes.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.manifest.samples.to_le_bytes());
        // A shard's checksum is of its samples' texts, sizes and tensors, and of the keys.
        for record in &self.manifest.shards {
            hasher.update(record.blake3.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The sizes that its samples' pictures have, px: width and height.
    pub fn sizes_px(&self) -> Vec<[u32; 2]> {
        let size = |name: &String| {
            let (width, height) = name.split_once('x')?;
            Some([width.parse().ok()?, height.parse().ok()?])
        };
        self.manifest.sizes_px.keys().filter_map(size).collect()
    }

    /// Reads everything and returns what is not as it was written, as [`CacheError::Damaged`] each.
    ///
    /// # Errors
    /// A shard cannot be read at all.
    pub fn damaged(&self) -> Result<Vec<CacheError>, CacheError> {
        let check = |(shard, record): (u64, &ShardRecord)| match check_sum(&self.folder, shard, record) {
            Ok(()) => Ok(None),
            Err(error @ CacheError::Damaged { .. }) => Ok(Some(error)),
            Err(error) => Err(error),
        };
        let records: Vec<(u64, &ShardRecord)> = (0..).zip(&self.manifest.shards).collect();
        let found: Vec<Option<CacheError>> = records.into_par_iter().map(check).collect::<Result<_, _>>()?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The numbers of the samples that it has, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let numbers = |record: &ShardRecord| record.first..record.first + record.count;
        self.manifest
            .shards
            .iter()
            .flat_map(move |record| numbers(record).filter(|number| !record.left_out.contains_key(number)))
    }

    /// Width and height of a sample's picture. None where it has none, or the cache has no such sample.
    pub fn size_px(&self, number: u64) -> Option<[u32; 2]> {
        self.entry(number).ok()?.size_px()
    }

    /// What the cache has of a sample.
    ///
    /// # Errors
    /// The sample was left out, or the data set has no such sample.
    pub fn entry(&self, number: u64) -> Result<Entry<'_>, CacheError> {
        let folder = || self.folder.clone();
        let samples = self.manifest.samples;
        if number >= samples {
            return Err(CacheError::NoSuchSample { folder: folder(), number, samples });
        }
        let at = (number / self.manifest.shard_samples) as usize;
        if let Some(why) = self.manifest.shards[at].left_out.get(&number) {
            return Err(CacheError::LeftOut { folder: folder(), number, why: why.clone() });
        }
        Ok(Entry { cache: self, shard: &self.shards[at], number })
    }
}

impl<'a> Entry<'a> {
    /// The sample's number in the data set.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Width and height of its picture, if it has one.
    pub fn size_px(&self) -> Option<[u32; 2]> {
        let sizes = self.shard.file.raw(SIZES_PX)?;
        let at = (self.number - self.shard.first) as usize;
        let side = |which: usize| {
            let bytes = sizes.bytes.as_chunks::<4>().0.get(2 * at + which)?;
            u32::try_from(i32::from_le_bytes(*bytes)).ok().filter(|side| *side > 0)
        };
        Some([side(0)?, side(1)?])
    }

    /// Reads all of it and checks that it is what was written: a disk may change what it keeps.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self) -> Result<(), CacheError> {
        let prefix = format!("{}/", self.number);
        let tensors = self.shard.file.tensors().range(prefix.clone()..).map(|(name, _)| name);
        let tensors = tensors.map_while(|name| Some((name.strip_prefix(&prefix)?, self.shard.file.raw(name)?)));
        let found = checksum(tensors.map(|(name, tensor)| (name, tensor.shape, tensor.bytes)));
        let written = self.shard.file.raw(CHECKSUMS).map(|all| all.bytes.as_chunks::<CHECKSUM>().0);
        let at = (self.number - self.shard.first) as usize;
        if written.and_then(|all| all.get(at)) == Some(&found) {
            return Ok(());
        }
        let problem = format!("sample {} is not what was written: its checksum is another", self.number);
        Err(CacheError::Damaged { path: self.shard.file.path().to_owned(), problem })
    }

    /// The names of its tensors.
    pub fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        // A slash comes before every digit, so a sample's names stand together.
        let (prefix, tensors) = (format!("{}/", self.number), self.shard.file.tensors());
        let first = prefix.clone();
        tensors.range(first..).map_while(move |(name, _)| name.strip_prefix(&prefix)).filter(|name| *name != TEXTS)
    }

    /// A tensor as it is stored: the mapped file's bytes.
    ///
    /// # Errors
    /// It has no such tensor.
    pub fn raw(&self, name: &str) -> Result<RawTensor<'a>, CacheError> {
        let full = format!("{}/{name}", self.number);
        self.shard.file.raw(&full).filter(|_| name != TEXTS).ok_or_else(|| self.lacks(name))
    }

    /// A tensor, without a copy: it keeps the mapped file alive.
    ///
    /// # Errors
    /// It has no such tensor.
    pub fn data(&self, name: &str) -> Result<TensorData, CacheError> {
        self.raw(name)?;
        Ok(self.shard.file.data(&format!("{}/{name}", self.number))?)
    }

    /// Its texts by name: its id, its captions.
    ///
    /// # Errors
    /// They are damaged.
    pub fn texts(&self) -> Result<BTreeMap<String, String>, CacheError> {
        let stored = self.shard.file.raw(&format!("{}/{TEXTS}", self.number));
        let bytes = stored.ok_or_else(|| self.lacks(TEXTS))?.bytes;
        serde_json::from_slice(bytes).map_err(|error| {
            let problem = format!("the texts of sample {} are unreadable: {error}", self.number);
            CacheError::Damaged { path: self.shard.file.path().to_owned(), problem }
        })
    }

    fn lacks(&self, name: &str) -> CacheError {
        let names: Vec<&str> = self.names().collect();
        let has = if names.is_empty() { "no tensor at all".to_owned() } else { names.join(", ") };
        CacheError::NoSuchTensor { folder: self.cache.folder.clone(), number: self.number, name: name.to_owned(), has }
    }
}

/// A shard whose length and header are what its record says.
#[derive(Debug)]
pub(super) struct Shard {
    file: TensorFile,
    first: u64,
}

impl Shard {
    /// # Errors
    /// [`CacheError::Damaged`] unless the file is what its record says, as far as its header tells.
    pub(super) fn open(folder: &Path, plan: &CachePlan, shard: u64, record: &ShardRecord) -> Result<Shard, CacheError> {
        let path = shard_path(folder, shard);
        check_length(&path, record)?;
        let file = match TensorFile::open(&path) {
            Ok(file) => file,
            Err(error @ WeightsError::Unreadable { .. }) => return Err(error.into()),
            Err(error) => {
                let text = error.to_string();
                let problem = text.split_once("\nhint:").map_or(&text[..], |(what, _)| what).to_owned();
                return Err(CacheError::Damaged { path, problem });
            }
        };
        check_header(&file, plan, shard, record).map_err(|problem| CacheError::Damaged { path, problem })?;
        Ok(Shard { file, first: record.first })
    }
}

/// # Errors
/// [`CacheError::Damaged`] if the file's bytes are not those that were written.
pub(super) fn check_sum(folder: &Path, shard: u64, record: &ShardRecord) -> Result<(), CacheError> {
    let path = shard_path(folder, shard);
    check_length(&path, record)?;
    let mut hasher = blake3::Hasher::new();
    let read = std::fs::File::open(&path).and_then(|file| hasher.update_reader(file).map(drop));
    if let Err(problem) = read {
        return Err(CacheError::Unreadable { path, problem });
    }
    let found = hasher.finalize().to_hex();
    if found.as_str() == record.blake3 {
        return Ok(());
    }
    Err(CacheError::Damaged { path, problem: format!("its checksum is {found} instead of {}", record.blake3) })
}

fn check_length(path: &Path, record: &ShardRecord) -> Result<(), CacheError> {
    let problem = match std::fs::metadata(path) {
        Ok(about) if about.len() == record.bytes => return Ok(()),
        Ok(about) => format!("it has {} bytes instead of {}", about.len(), record.bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "it is not there".to_owned(),
        Err(problem) => return Err(CacheError::Unreadable { path: path.to_owned(), problem }),
    };
    Err(CacheError::Damaged { path: path.to_owned(), problem })
}

/// The free text in a shard: a shard from another cache is noticed.
pub(super) fn metadata(plan: &CachePlan, shard: u64) -> BTreeMap<String, String> {
    let first = plan.numbers(shard).start;
    let keys = plan.keys.iter().map(|(key, digest)| (format!("key.{key}"), digest.clone()));
    keys.chain([("first".to_owned(), first.to_string())]).collect()
}

fn check_header(file: &TensorFile, plan: &CachePlan, shard: u64, record: &ShardRecord) -> Result<(), String> {
    if *file.metadata() != metadata(plan, shard) {
        return Err("it is of another cache, or of another place in it".to_owned());
    }
    let sizes = file.raw(SIZES_PX).ok_or("it has no sizes of pictures")?;
    if sizes.dtype != Dtype::I32 || *sizes.shape != [record.count as usize, 2] {
        return Err(format!("its sizes of pictures are {} {:?}", sizes.dtype, sizes.shape));
    }
    let checksums = file.raw(CHECKSUMS).ok_or("it has no checksums of samples")?;
    if checksums.dtype != Dtype::U8 || *checksums.shape != [record.count as usize, CHECKSUM] {
        return Err(format!("its checksums of samples are {} {:?}", checksums.dtype, checksums.shape));
    }
    let mut with_texts = 0;
    let of_samples = |full: &String| full != SIZES_PX && full != CHECKSUMS;
    for (full, info) in file.tensors().iter().filter(|(full, _)| of_samples(full)) {
        let name = sample_tensor(full, plan, shard, record).ok_or_else(|| format!("it has a tensor `{full}`"))?;
        let expected = if name == TEXTS { Some("U8") } else { record.dtypes.get(name).map(String::as_str) };
        if expected != Some(info.dtype.name()) {
            return Err(format!("its tensor `{full}` is {} instead of {}", info.dtype, expected.unwrap_or("absent")));
        }
        with_texts += u64::from(name == TEXTS);
    }
    if with_texts == record.stored {
        return Ok(());
    }
    Err(format!("it has {with_texts} samples instead of {}", record.stored))
}

/// The name that a sample's tensor has for its sample, if the shard may have that sample.
fn sample_tensor<'a>(full: &'a str, plan: &CachePlan, shard: u64, record: &ShardRecord) -> Option<&'a str> {
    let (number, name) = full.split_once('/')?;
    // Only as it is written: `007` would be a second name of sample 7.
    let number = number.parse::<u64>().ok().filter(|parsed| parsed.to_string() == number)?;
    (plan.numbers(shard).contains(&number) && !record.left_out.contains_key(&number)).then_some(name)
}
