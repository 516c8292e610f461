//! From pictures and captions to latents and text features, for a step or for a cache.
//!
//! What this module does not do: choose samples, or know what is trained on them.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU64;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use image::RgbImage;
use rayon::prelude::*;
use rectiflow_dataset::{
    CacheError, CachePlan, CacheWriter, CachedSample, CaptionMix, Captions, Dataset, DoesNotFit, Drawn, Findings, Kept,
    Reason, ShardWriter, StoredAs,
};
use rectiflow_generate::{Encoders, to_network};
use rectiflow_nn::{Device, Rng, Tensor, TensorData, from_f32};
use rectiflow_text::{ClipFeatures, TextFeatures};

use crate::objective::Problem;
use crate::recipe::{Encoding, LatentOf, LatentsStored};

mod keys;

pub use keys::keys;

/// The name of a sample's latent in a cache.
pub const LATENT: &str = "latent";

/// The name of a sample's id among its texts in a cache.
pub const ID: &str = "id";

/// Where the features of a sample without captions are in a cache.
pub const EMPTY: &str = "empty/0";

/// Samples of a shard: about 35 MB at SD3's sizes, so that little is lost with one.
const SHARD_SAMPLES: u64 = 128;

/// Pictures that the autoencoder takes at once.
const PICTURES_AT_ONCE: usize = 16;

/// Batches that are on their way at once, for cores to be busy while one of them waits for a single one.
const BATCHES_AT_ONCE: usize = 2;

/// The name of the data set's digest among a cache's keys.
pub const DATA_KEY: &str = "data set";

/// A sample, or what makes features of it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The picture or the caption of a sample that was trained on before.
    #[error(
        "{id}: {reason}\nhint: put the file back if it changed; else begin another run with `check = \"pixels\"` in data.source, which leaves out what is damaged"
    )]
    LeftOut {
        /// What it is called.
        id: String,
        /// What is wrong with it.
        reason: Reason,
    },
    /// What an encoder gave is too large to be stored.
    #[error(
        "{id}: of the {of} values that are stored as `{name}`, {count} do not fit into {stored_as:?}\nhint: encoders that give such values are mostly damaged, or of another kind than their name says: check `data.encoders`; what a released encoder gives fits. Without `data.cache` nothing is stored"
    )]
    DoesNotFit {
        /// What the sample is called.
        id: String,
        /// Of the tensor in the cache.
        name: String,
        /// Values that do not.
        count: usize,
        /// Values in all.
        of: usize,
        /// How they are stored.
        stored_as: StoredAs,
    },
    /// A file of a tokenizer.
    #[error("{} cannot be read: {problem}\nhint: check its permissions and its disk", .path.display())]
    Tokenizer {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        problem: io::Error,
    },
}

/// The picture of a sample as it is seen in an epoch.
///
/// # Errors
/// It cannot be read any more.
///
/// # Panics
/// The sample is none of those that are trained on: a bug of the caller.
pub(crate) fn picture(dataset: &Dataset, seed: u64, one: &Drawn) -> Result<RgbImage, EncodeError> {
    let kept = dataset.find(one.sample).expect("samples are drawn of those that are trained on");
    let prepared = dataset.augmented(seed, one.epoch, kept);
    let prepared = prepared.map_err(|reason| EncodeError::LeftOut { id: dataset.id(one.sample), reason })?;
    Ok(prepared.picture)
}

/// The caption of a sample in an epoch.
///
/// # Errors
/// It cannot be read any more.
pub(crate) fn caption(dataset: &Dataset, seed: u64, one: &Drawn) -> Result<String, EncodeError> {
    let caption = dataset.caption(seed, one.epoch, one.sample);
    caption.map_err(|reason| EncodeError::LeftOut { id: dataset.id(one.sample), reason })
}

/// How pictures become latents.
#[derive(Clone, Copy, Debug)]
pub struct Pictures {
    /// What a latent is of the posterior.
    pub latent: LatentOf,
    /// Decides the noise of those that are drawn, with the sample's number.
    pub seed: u64,
}

impl Pictures {
    /// The latents of pictures of one size, `[B, Z, H/8, W/8]`; `samples` are their numbers.
    ///
    /// # Errors
    /// They are not finite.
    pub fn latents(self, encoders: &Encoders, pictures: &[RgbImage], samples: &[u64]) -> Result<Tensor<4>, Problem> {
        let batch = batch_of(pictures, encoders.device());
        let noise = match self.latent {
            LatentOf::Mean => None,
            LatentOf::Sample => {
                let config = encoders.vae().config();
                let [count, _, height, width] = batch.dims();
                let side = config.downsampling();
                let shape = [count, config.latent_channels, height / side, width / side];
                let size = shape[1..].iter().product();
                let drawn = |sample: &u64| Rng::keyed(self.seed, "posterior", *sample).normals(size);
                Some(from_f32(samples.iter().flat_map(drawn).collect(), shape, encoders.device()))
            }
        };
        Ok(encoders.latents(batch, noise)?)
    }
}

/// Pictures of one size as networks see them: `[B, 3, H, W]` in -1..1.
///
/// # Panics
/// There are none, or of different sizes: bugs of the caller.
pub fn batch_of(pictures: &[RgbImage], device: &Device) -> Tensor<4> {
    let (width, height) = pictures.first().expect("a batch of at least one picture").dimensions();
    let bytes: Vec<&[u8]> = pictures.iter().map(|picture| &picture.as_raw()[..]).collect();
    to_network(&bytes, [height as usize, width as usize], device)
}

/// Where a caption's features are in a cache: its column and its number there.
pub fn place_of(captions: &Captions, caption: &str) -> Option<String> {
    captions.columns().find_map(|column| {
        let number = captions.texts(column).iter().position(|text| text == caption)?;
        Some(format!("{column}/{number}"))
    })
}

/// Makes a cache, or goes on with one; several processes may do so at once.
pub struct CacheMaker<'a> {
    /// What it is made of.
    pub dataset: &'a Dataset,
    /// What of it is not used, and why.
    pub findings: &'a Findings,
    /// What makes it.
    pub encoders: &'a Encoders,
    /// How.
    pub encoding: Encoding,
    /// Of latents that are drawn.
    pub seed: u64,
}

/// What a maker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Samples that this process encoded.
    pub samples: u64,
    /// Samples that could not be, which the cache lists.
    pub left_out: u64,
    /// Texts of which an encoder did not see the end.
    pub cut: u64,
}

/// What became of the samples of a batch.
#[derive(Default)]
struct Encoded {
    samples: Vec<CachedSample>,
    left_out: Vec<(u64, Reason)>,
    /// Texts of which an encoder did not see the end.
    cut: u64,
}

impl CacheMaker<'_> {
    /// The plan of a cache of these keys, and of this data set.
    pub fn plan(&self, mut keys: BTreeMap<String, String>) -> CachePlan {
        keys.insert(DATA_KEY.to_owned(), self.dataset.digest());
        let samples = self.dataset.kept().iter().map(|one| one.sample + 1).max().unwrap_or_default();
        let shard_samples = NonZeroU64::new(SHARD_SAMPLES).unwrap_or(NonZeroU64::MIN);
        CachePlan { keys, samples, shard_samples }
    }

    /// How many samples the shards that are not there yet will have.
    ///
    /// # Errors
    /// A shard cannot be read.
    pub fn left(&self, writer: &CacheWriter) -> Result<u64, CacheError> {
        Ok(writer.left()?.into_iter().map(|numbers| self.kept_in(numbers).len() as u64).sum())
    }

    /// Makes shards until none is left that nobody else makes, and counts in `made` what it does. Asked again, it makes
    /// those that others gave up. `watch` is told after each batch what was made; `Break` ends after the shard before.
    ///
    /// # Errors
    /// A shard cannot be written, or an encoder gave values that are not finite or too large to be stored.
    pub fn make(
        &self,
        writer: &mut CacheWriter,
        made: &mut Made,
        watch: &mut dyn FnMut(&Made) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Problem> {
        let mut reasons = None;
        while let Some(mut shard) = writer.claim()? {
            let reasons = reasons.get_or_insert_with(|| {
                self.findings.left_out.iter().filter_map(|one| Some((one.sample?, &one.reason))).collect()
            });
            if self.fill(&mut shard, reasons, made, watch)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            shard.commit()?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The samples of these numbers that are trained on.
    fn kept_in(&self, numbers: Range<u64>) -> &[Kept] {
        let kept = self.dataset.kept();
        let place = |number: u64| kept.partition_point(|one| one.sample < number);
        &kept[place(numbers.start)..place(numbers.end)]
    }

    /// `reasons`: why samples are left out, by number.
    fn fill(
        &self,
        shard: &mut ShardWriter,
        reasons: &BTreeMap<u64, &Reason>,
        made: &mut Made,
        watch: &mut dyn FnMut(&Made) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Problem> {
        let numbers = shard.numbers();
        let kept = self.kept_in(numbers.clone());
        for number in numbers.filter(|number| kept.binary_search_by_key(number, |one| one.sample).is_err()) {
            let reason = reasons.get(&number).map_or_else(|| "it is not trained on".to_owned(), ToString::to_string);
            shard.leave_out(number, &reason);
        }
        let mut buckets: BTreeMap<usize, Vec<Kept>> = BTreeMap::new();
        kept.iter().for_each(|one| buckets.entry(one.bucket).or_default().push(*one));
        let batches: Vec<&[Kept]> = buckets.values().flat_map(|kept| kept.chunks(PICTURES_AT_ONCE)).collect();
        for batches in batches.chunks(BATCHES_AT_ONCE) {
            let encoded: Result<Vec<Encoded>, Problem> = batches.par_iter().map(|batch| self.batch(batch)).collect();
            for Encoded { samples, left_out, cut } in encoded? {
                made.samples += samples.len() as u64;
                made.left_out += left_out.len() as u64;
                made.cut += cut;
                samples.into_iter().for_each(|sample| shard.add(sample));
                left_out.into_iter().for_each(|(number, reason)| shard.leave_out(number, &reason.to_string()));
            }
            if watch(made).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn batch(&self, batch: &[Kept]) -> Result<Encoded, Problem> {
        let mut all = Encoded::default();
        let ready = |one: &Kept| Ok((self.dataset.picture(*one)?.picture, self.dataset.captions(one.sample)?));
        let ready: Vec<Result<(RgbImage, Captions), Reason>> = batch.par_iter().map(ready).collect();
        let (mut samples, mut pictures, mut captions) = (Vec::new(), Vec::new(), Vec::new());
        for (one, ready) in batch.iter().zip(ready) {
            match ready {
                Ok((picture, texts)) => {
                    samples.push(one.sample);
                    pictures.push(picture);
                    captions.push(texts);
                }
                Err(reason) => all.left_out.push((one.sample, reason)),
            }
        }
        if samples.is_empty() {
            return Ok(all);
        }
        let how = Pictures { latent: self.encoding.latent, seed: self.seed };
        let places: Vec<Vec<(String, String)>> =
            captions.iter().map(|captions| places(captions, self.dataset.mix())).collect();
        let texts: Vec<&str> = places.iter().flatten().map(|(_, text)| text.as_str()).collect();
        // Small networks leave cores idle between their operations.
        let (latents, encoded) =
            rayon::join(|| how.latents(self.encoders, &pictures, &samples), || self.encoders.texts(&texts));
        let (latents, mut encoded) = (latents?, encoded?.into_iter());
        let size_px = pictures[0].dimensions();
        for ((number, latent), places) in samples.iter().zip(latents.chunk(samples.len(), 0)).zip(places) {
            let stored_as = match self.encoding.latents_stored {
                LatentsStored::F32 => StoredAs::F32,
                LatentsStored::Bf16 => StoredAs::Bf16,
            };
            let latent: Tensor<3> = latent.squeeze_dim(0);
            let id = self.dataset.id(*number);
            let sample = CachedSample::new(*number, Some([size_px.0, size_px.1])).text(ID, &id);
            let mut sample = Filling { sample, id: &id }.with(LATENT, stored_as, latent.into_data())?;
            for (place, text) in places {
                let one = encoded.next().expect("one for each text");
                all.cut += u64::from(!one.cut.is_empty());
                sample = sample.with_features(&place, one.padded(self.encoding.pads.into()))?;
                // No caption is empty.
                if !text.is_empty() {
                    sample.sample = sample.sample.text(&place, &text);
                }
            }
            all.samples.push(sample.sample);
        }
        Ok(all)
    }
}

/// Every caption that training may draw and where its features go; for a sample without any, the empty text.
fn places(captions: &Captions, mix: &CaptionMix) -> Vec<(String, String)> {
    let columns = mix.columns().flat_map(|column| {
        let numbered = captions.texts(column).iter().enumerate();
        numbered.map(move |(number, text)| (format!("{column}/{number}"), text.clone()))
    });
    let places: Vec<_> = columns.collect();
    if places.is_empty() { vec![(EMPTY.to_owned(), String::new())] } else { places }
}

/// A sample on its way into a cache.
struct Filling<'a> {
    sample: CachedSample,
    /// What it is called.
    id: &'a str,
}

impl Filling<'_> {
    fn with(self, name: &str, stored_as: StoredAs, data: TensorData) -> Result<Self, EncodeError> {
        let converted = stored_as.convert(data).map_err(|DoesNotFit { stored_as, count, of }| {
            EncodeError::DoesNotFit { id: self.id.to_owned(), name: name.to_owned(), count, of, stored_as }
        })?;
        Ok(Filling { sample: self.sample.with(name, converted), ..self })
    }

    /// Token features in half precision and pooled ones in f32, as the paper stores them (arXiv:2403.03206, appendix
    /// E.1); features beyond f16, which T5-XXL has for some texts, in bf16 would be in another type than the rest, so
    /// all of T5's are bf16.
    fn with_features(mut self, place: &str, features: TextFeatures) -> Result<Self, EncodeError> {
        for (name, clip) in [("clip_l", features.clip_l), ("clip_g", features.clip_g)] {
            let Some(ClipFeatures { penultimate, pooled }) = clip else { continue };
            self = self.with(&format!("{place}/{name}"), StoredAs::F16, penultimate.into_data())?.with(
                &format!("{place}/{name}.pooled"),
                StoredAs::F32,
                pooled.into_data(),
            )?;
        }
        if let Some(t5) = features.t5 {
            self = self.with(&format!("{place}/t5"), StoredAs::Bf16, t5.into_data())?;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_do_not_fit_are_named_with_their_sample() {
        let device = Device::flex();
        let clip = ClipFeatures {
            penultimate: from_f32(vec![1.0, 7.0e4], [1, 2], &device),
            pooled: from_f32(vec![7.0e4], [1], &device),
        };
        let features = TextFeatures { clip_l: Some(clip), ..TextFeatures::default() };
        let filling = Filling { sample: CachedSample::new(3, None), id: "cats/3.png" };
        let error = filling.with_features("caption/0", features).map(drop).unwrap_err().to_string();
        assert!(
            error.starts_with("cats/3.png: of the 2 values that are stored as `caption/0/clip_l`, 1 do"),
            "{error}"
        );
        assert!(error.contains("hint: ") && error.contains("`data.cache`"), "{error}");
    }
}
