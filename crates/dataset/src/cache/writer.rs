use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rectiflow_nn::TensorData;
use rectiflow_weights::{Dtype, IfThere, safetensors_into, write_whole};

use super::claim::{self, Claim};
use super::error::CacheError;
use super::manifest::{
    CachePlan, Manifest, ShardRecord, agree, manifest_path, record_path, shard_name, shard_path, shards_folder,
};
use super::reader::{CHECKSUM, CHECKSUMS, Cache, SIZES_PX, Shard, TEXTS, check_sum, checksum, metadata};

/// Makes a cache, or what is missing of it, alone or with other processes at the same time.
#[derive(Debug)]
pub struct CacheWriter {
    folder: PathBuf,
    plan: CachePlan,
    /// The next shard to look at.
    next: u64,
}

/// What is to be kept of one sample.
#[derive(Clone, Debug)]
pub struct CachedSample {
    number: u64,
    size_px: Option<[u32; 2]>,
    tensors: BTreeMap<String, TensorData>,
    texts: BTreeMap<String, String>,
}

/// A shard that this process makes. Dropped before [`ShardWriter::commit`], it leaves nothing behind, and the shard is
/// free again.
#[derive(Debug)]
pub struct ShardWriter {
    folder: PathBuf,
    plan: CachePlan,
    shard: u64,
    samples: BTreeMap<u64, CachedSample>,
    left_out: BTreeMap<u64, String>,
    _claim: Claim,
}

impl CacheWriter {
    /// Begins a cache, or goes on with one that has the same plan.
    ///
    /// # Errors
    /// The folder cannot be written, or has a cache of other encoders, settings or samples: both are named.
    pub fn open(folder: impl AsRef<Path>, plan: CachePlan) -> Result<CacheWriter, CacheError> {
        let folder = folder.as_ref().to_owned();
        let shards = shards_folder(&folder);
        std::fs::create_dir_all(&shards).map_err(|problem| CacheError::Unwritable { path: shards, problem })?;
        agree(&folder, &plan)?;
        Ok(CacheWriter { folder, plan, next: 0 })
    }

    /// The next shard that is not there, or not whole, and that nobody else is making.
    ///
    /// None at the end; asked again, it begins at the first shard, and so finds what others left undone.
    pub fn claim(&mut self) -> Result<Option<ShardWriter>, CacheError> {
        while self.next < self.plan.shards() {
            let shard = self.next;
            self.next += 1;
            if self.finished(shard)?.is_some() {
                continue;
            }
            let Some(claim) = Claim::try_take(&self.folder, shard)? else { continue };
            // Somebody may have made it before the lock was free.
            if self.finished(shard)?.is_some() {
                continue;
            }
            // What it says of this shard will not be true for a while.
            remove(&manifest_path(&self.folder))?;
            let (folder, plan) = (self.folder.clone(), self.plan.clone());
            let (samples, left_out) = (BTreeMap::new(), BTreeMap::new());
            return Ok(Some(ShardWriter { folder, plan, shard, samples, left_out, _claim: claim }));
        }
        self.next = 0;
        Ok(None)
    }

    /// The sample numbers of the shards that are not there yet, those that others are making too.
    ///
    /// # Errors
    /// A shard cannot be read at all.
    pub fn left(&self) -> Result<Vec<Range<u64>>, CacheError> {
        let mut left = Vec::new();
        for shard in 0..self.plan.shards() {
            if self.finished(shard)?.is_none() {
                left.push(self.plan.numbers(shard));
            }
        }
        Ok(left)
    }

    /// Reads every shard and removes those that are not as they were written, so that [`CacheWriter::claim`] offers
    /// them again. Returns what was wrong, as [`CacheError::Damaged`] each.
    ///
    /// # Errors
    /// A shard cannot be read at all, or not removed.
    pub fn discard_damaged(&mut self) -> Result<Vec<CacheError>, CacheError> {
        let mut found = Vec::new();
        for shard in 0..self.plan.shards() {
            let Ok(record) = ShardRecord::read(&self.folder, shard) else { continue };
            let Err(error) = check_sum(&self.folder, shard, &record) else { continue };
            if !matches!(error, CacheError::Damaged { .. }) {
                return Err(error);
            }
            // Claimed: somebody makes it again already.
            if let Some(_claim) = Claim::try_take(&self.folder, shard)? {
                remove(&manifest_path(&self.folder))?;
                remove(&record_path(&self.folder, shard))?;
                remove(&shard_path(&self.folder, shard))?;
            }
            found.push(error);
        }
        self.next = 0;
        Ok(found)
    }

    /// Writes the manifest and opens the cache.
    ///
    /// # Errors
    /// [`CacheError::Unfinished`] while shards are to be made, by this process or others.
    pub fn finish(&self) -> Result<Cache, CacheError> {
        let (mut records, mut shards, of) = (Vec::new(), Vec::new(), self.plan.shards());
        for shard in 0..of {
            if let Some((record, opened)) = self.finished(shard)? {
                records.push(record);
                shards.push(opened);
            }
        }
        let left = of - shards.len() as u64;
        if left > 0 {
            return Err(CacheError::Unfinished { folder: self.folder.clone(), left, of });
        }
        let manifest = Manifest::assemble(&self.folder, &self.plan, records)?;
        manifest.write(&self.folder)?;
        self.tidy();
        Ok(Cache::new(&self.folder, manifest, shards))
    }

    /// A shard that has a record and is what the record says, as far as its header tells.
    fn finished(&self, shard: u64) -> Result<Option<(ShardRecord, Shard)>, CacheError> {
        let open = || {
            let record = ShardRecord::read(&self.folder, shard)?;
            let bad = |problem| CacheError::BadRecord { path: record_path(&self.folder, shard), problem };
            record.check(&self.plan, shard).map_err(bad)?;
            let opened = Shard::open(&self.folder, &self.plan, shard, &record)?;
            Ok((record, opened))
        };
        match open() {
            Ok(finished) => Ok(Some(finished)),
            Err(CacheError::BadRecord { .. } | CacheError::Damaged { .. }) => Ok(None),
            Err(CacheError::Unreadable { problem, .. }) if problem.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes what killed processes left. All shards are there, so nobody is writing one.
    fn tidy(&self) {
        claim::tidy(&self.folder);
        let Ok(entries) = std::fs::read_dir(shards_folder(&self.folder)) else { return };
        for entry in entries.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "tmp") {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

impl CachedSample {
    /// A sample without anything yet. `size_px`: width and height of its picture, at least 1, if it has one.
    pub fn new(number: u64, size_px: Option<[u32; 2]>) -> CachedSample {
        CachedSample { number, size_px, tensors: BTreeMap::new(), texts: BTreeMap::new() }
    }

    /// Adds a tensor of f32, f16, bf16, i32, i64 or u8.
    ///
    /// # Panics
    /// The name is `texts`, the type another one, or the sample has such a tensor.
    #[must_use]
    pub fn with(mut self, name: &str, data: TensorData) -> CachedSample {
        assert!(name != TEXTS, "`{TEXTS}` is no name for a tensor");
        assert!(Dtype::of(&data).is_some(), "a tensor `{name}` of {:?}", data.dtype());
        assert!(self.tensors.insert(name.to_owned(), data).is_none(), "a second tensor `{name}`");
        self
    }

    /// Adds a text, or replaces it: an id, a caption.
    #[must_use]
    pub fn text(mut self, name: &str, text: &str) -> CachedSample {
        self.texts.insert(name.to_owned(), text.to_owned());
        self
    }
}

impl ShardWriter {
    /// The samples that belong into this shard.
    pub fn numbers(&self) -> Range<u64> {
        self.plan.numbers(self.shard)
    }

    /// Keeps a sample, in memory until [`ShardWriter::commit`].
    ///
    /// # Panics
    /// It belongs into another shard, or was added or left out before.
    pub fn add(&mut self, sample: CachedSample) {
        self.take(sample.number);
        self.samples.insert(sample.number, sample);
    }

    /// Notes that a sample is not in the cache, and why.
    ///
    /// # Panics
    /// It belongs into another shard, or was added or left out before.
    pub fn leave_out(&mut self, number: u64, why: &str) {
        self.take(number);
        self.left_out.insert(number, why.to_owned());
    }

    fn take(&self, number: u64) {
        assert!(self.numbers().contains(&number), "sample {number} in the shard of {:?}", self.numbers());
        let is_new = !self.samples.contains_key(&number) && !self.left_out.contains_key(&number);
        assert!(is_new, "sample {number} came twice");
    }

    /// Puts the shard on disk. It is there when this returns, also after a power cut.
    ///
    /// # Errors
    /// It cannot be written (then no part of it is there), or its samples disagree on the type of a tensor.
    ///
    /// # Panics
    /// A sample was neither added nor left out.
    pub fn commit(self) -> Result<(), CacheError> {
        let numbers = self.numbers();
        let count = numbers.end - numbers.start;
        let stored = self.samples.len() as u64;
        assert!(stored + self.left_out.len() as u64 == count, "{stored} samples of {count}, and the rest not left out");
        let dtypes = self.dtypes()?;
        let (bytes, blake3) = self.write()?;
        let mut sizes_px = BTreeMap::new();
        for [width, height] in self.samples.values().filter_map(|sample| sample.size_px) {
            *sizes_px.entry(format!("{width}x{height}")).or_default() += 1;
        }
        let (file, first, left_out) = (shard_name(self.shard), numbers.start, self.left_out);
        let record = ShardRecord { file, first, count, stored, bytes, blake3, dtypes, sizes_px, left_out };
        // More tensors than the reader takes must not look like a shard that is there.
        Shard::open(&self.folder, &self.plan, self.shard, &record)?;
        // Last: without it the shard does not count.
        record.write(&self.folder, self.shard)
    }

    fn dtypes(&self) -> Result<BTreeMap<String, String>, CacheError> {
        let mut dtypes = BTreeMap::<String, String>::new();
        for (name, data) in self.samples.values().flat_map(|sample| &sample.tensors) {
            let here = Dtype::of(data).map_or_else(String::new, |dtype| dtype.name().to_owned());
            let there = dtypes.entry(name.clone()).or_insert_with(|| here.clone());
            if *there != here {
                let (folder, name, there) = (self.folder.clone(), name.clone(), there.clone());
                return Err(CacheError::MixedDtypes { folder, name, here, there });
            }
        }
        Ok(dtypes)
    }

    /// The file's length and checksum.
    fn write(&self) -> Result<(u64, String), CacheError> {
        let texts: Vec<TensorData> = self.samples.values().map(texts).collect();
        let (sizes, checksums) = (self.sizes(), self.checksums(&texts));
        let mut named: Vec<(String, &TensorData)> =
            vec![(SIZES_PX.to_owned(), &sizes), (CHECKSUMS.to_owned(), &checksums)];
        for ((number, sample), texts) in self.samples.iter().zip(&texts) {
            named.extend(sample.tensors.iter().map(|(name, data)| (format!("{number}/{name}"), data)));
            named.push((format!("{number}/{TEXTS}"), texts));
        }
        let tensors: Vec<(&str, &TensorData)> = named.iter().map(|(name, data)| (&name[..], *data)).collect();
        let path = shard_path(&self.folder, self.shard);
        let (mut bytes, mut hasher) = (0, blake3::Hasher::new());
        let written = write_whole(&path, IfThere::Replace, |out| {
            let mut out = Hashing { out, hasher: &mut hasher, bytes: &mut bytes };
            safetensors_into(&mut out, &tensors, &metadata(&self.plan, self.shard))
        });
        written.map_err(|problem| CacheError::Unwritable { path, problem })?;
        Ok((bytes, hasher.finalize().to_hex().to_string()))
    }

    /// `texts` are those of each sample.
    fn checksums(&self, texts: &[TensorData]) -> TensorData {
        let numbers = self.numbers();
        let (first, count) = (numbers.start, (numbers.end - numbers.start) as usize);
        let mut all = vec![0; count * CHECKSUM];
        for ((number, sample), texts) in self.samples.iter().zip(texts) {
            let tensors = sample.tensors.iter().map(|(name, data)| (name.as_str(), data));
            let mut tensors: Vec<_> = tensors.chain([(TEXTS, texts)]).collect();
            tensors.sort_by_key(|(name, _)| *name);
            let parts = tensors.into_iter().map(|(name, data)| (name, &data.shape()[..], data.as_bytes()));
            let at = (number - first) as usize * CHECKSUM;
            all[at..at + CHECKSUM].copy_from_slice(&checksum(parts));
        }
        TensorData::new(all, [count, CHECKSUM])
    }

    fn sizes(&self) -> TensorData {
        let size = |number| self.samples.get(&number).and_then(|sample| sample.size_px).unwrap_or_default();
        let sizes: Vec<i32> = self.numbers().flat_map(|number| size(number).map(|side| side as i32)).collect();
        let count = sizes.len() / 2;
        TensorData::new(sizes, [count, 2])
    }
}

/// A JSON object as bytes.
fn texts(sample: &CachedSample) -> TensorData {
    let json = serde_json::json!(sample.texts).to_string().into_bytes();
    let length = json.len();
    TensorData::new(json, [length])
}

/// Counts and hashes what goes through it.
struct Hashing<'a> {
    out: &'a mut dyn Write,
    hasher: &'a mut blake3::Hasher,
    bytes: &'a mut u64,
}

impl Write for Hashing<'_> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let written = self.out.write(part)?;
        self.hasher.update(&part[..written]);
        *self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// No error if it is not there.
fn remove(path: &Path) -> Result<(), CacheError> {
    match std::fs::remove_file(path) {
        Err(problem) if problem.kind() != io::ErrorKind::NotFound => {
            Err(CacheError::Unwritable { path: path.to_owned(), problem })
        }
        _ => Ok(()),
    }
}
