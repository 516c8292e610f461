//! From pictures and captions to latents and text features, for a step or for a cache.
//!
//! What this module does not do: choose samples, or know what is trained on them.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::path::Path;

use image::RgbImage;
use rayon::prelude::*;
use rectiflow_dataset::{
    Cache, CacheError, CachePlan, CacheWriter, CachedSample, CaptionMix, Captions, DataSettings, Dataset, Drawn, Kept,
    Reason, ShardWriter, StoredAs,
};
use rectiflow_generate::{EncoderFiles, Encoders};
use rectiflow_nn::{Device, Rng, Tensor, from_f32};
use rectiflow_text::{ClipFeatures, TextFeatures};
use rectiflow_weights::PartKind;

use crate::objective::Problem;
use crate::recipe::{Encoding, LatentOf, LatentsStored};

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

/// A sample that was trained on before can no longer be read.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Its picture or its caption.
    #[error(
        "{id}: {reason}\nhint: put the file back if it changed; else begin another run with `check = \"pixels\"` in data.source, which leaves out what is damaged"
    )]
    LeftOut {
        /// What it is called.
        id: String,
        /// What is wrong with it.
        reason: Reason,
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
    let (width, height) = (width as usize, height as usize);
    let mut values = Vec::with_capacity(pictures.len() * 3 * width * height);
    for picture in pictures {
        assert_eq!(picture.as_raw().len(), 3 * width * height, "pictures of one size");
        let channel = |channel: usize| picture.as_raw().iter().skip(channel).step_by(3);
        values.extend((0..3).flat_map(channel).map(|byte| f32::from(*byte) / 127.5 - 1.0));
    }
    from_f32(values, [pictures.len(), 3, height, width], device)
}

/// Where a caption's features are in a cache: its column and its number there.
pub fn place_of(captions: &Captions, caption: &str) -> Option<String> {
    captions.columns().find_map(|column| {
        let number = captions.texts(column).iter().position(|text| text == caption)?;
        Some(format!("{column}/{number}"))
    })
}

/// What a cache depends on, each with a digest: the encoders, and how pictures and texts are made ready for them.
pub fn keys(files: &EncoderFiles, settings: &DataSettings, encoding: &Encoding, seed: u64) -> BTreeMap<String, String> {
    let parts = [
        ("autoencoder", PartKind::Vae),
        ("CLIP-L", PartKind::ClipL),
        ("CLIP-G", PartKind::ClipG),
        ("T5", PartKind::T5),
    ];
    let digest = |kind| files.checkpoint().part(kind).map_or_else(|| "none".to_owned(), |part| part.digest());
    let mut keys: BTreeMap<String, String> =
        parts.into_iter().map(|(name, kind)| (name.to_owned(), digest(kind))).collect();
    // What of the settings decides pixels and which captions there are; not where the data lies.
    let DataSettings { side_px, crop, buckets, background, enlarge, without_caption, .. } = settings;
    let pictures = serde_json::json!([side_px, crop, buckets, background, enlarge, without_caption]);
    let noise = match encoding.latent {
        LatentOf::Sample => Some(seed),
        LatentOf::Mean => None,
    };
    let latents = serde_json::json!([encoding.latent, encoding.latents_stored, noise, encoding.precision]);
    let columns: Option<Vec<&str>> = settings.captions.as_ref().map(|mix| mix.columns().collect());
    let texts = serde_json::json!([encoding.t5_tokens, encoding.pads, encoding.precision, columns]);
    for (name, settings) in
        [("preparation of pictures", pictures), ("kind of latents", latents), ("kind of text features", texts)]
    {
        keys.insert(name.to_owned(), blake3::hash(settings.to_string().as_bytes()).to_hex().to_string());
    }
    keys
}

/// Makes a cache, or goes on with one; several processes may do so at once.
pub struct CacheMaker<'a> {
    /// What it is made of.
    pub dataset: &'a Dataset,
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
    /// The plan of a cache of these keys.
    pub fn plan(&self, keys: BTreeMap<String, String>) -> CachePlan {
        let samples = self.dataset.kept().iter().map(|one| one.sample + 1).max().unwrap_or_default();
        let shard_samples = NonZeroU64::new(SHARD_SAMPLES).unwrap_or(NonZeroU64::MIN);
        CachePlan { keys, samples, shard_samples }
    }

    /// Makes shards until none is left that nobody else makes. `watch` is told after each batch how many samples this
    /// process has encoded; `Break` ends after the shard before.
    ///
    /// # Errors
    /// A shard cannot be written, or an encoder gave values that are not finite.
    pub fn make(
        &self,
        writer: &mut CacheWriter,
        watch: &mut dyn FnMut(&Made) -> ControlFlow<()>,
    ) -> Result<(Made, ControlFlow<()>), Problem> {
        let mut made = Made::default();
        while let Some(mut shard) = writer.claim()? {
            if self.fill(&mut shard, &mut made, watch)?.is_break() {
                return Ok((made, ControlFlow::Break(())));
            }
            shard.commit()?;
        }
        Ok((made, ControlFlow::Continue(())))
    }

    fn fill(
        &self,
        shard: &mut ShardWriter,
        made: &mut Made,
        watch: &mut dyn FnMut(&Made) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Problem> {
        let numbers = shard.numbers();
        let kept: Vec<Kept> = self.dataset.kept().iter().filter(|one| numbers.contains(&one.sample)).copied().collect();
        let there: std::collections::BTreeSet<u64> = kept.iter().map(|one| one.sample).collect();
        for number in numbers.filter(|number| !there.contains(number)) {
            shard.leave_out(number, "it is not trained on");
        }
        let mut buckets: BTreeMap<usize, Vec<Kept>> = BTreeMap::new();
        kept.into_iter().for_each(|one| buckets.entry(one.bucket).or_default().push(one));
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
            let mut sample = CachedSample::new(*number, Some([size_px.0, size_px.1]))
                .with(LATENT, stored_as.convert(latent.into_data())?)
                .text(ID, &self.dataset.id(*number));
            for (place, text) in places {
                let one = encoded.next().expect("one for each text");
                all.cut += u64::from(!one.cut.is_empty());
                sample = with_features(sample, &place, one.padded(self.encoding.pads.into()))?;
                if place != EMPTY {
                    sample = sample.text(&place, &text);
                }
            }
            all.samples.push(sample);
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

/// Token features in half precision and pooled ones in f32, as the paper stores them (arXiv:2403.03206, appendix E.1);
/// features beyond f16, which T5-XXL has for some texts, in bf16 would be in another type than the rest, so all of
/// T5's are bf16.
fn with_features(sample: CachedSample, place: &str, features: TextFeatures) -> Result<CachedSample, Problem> {
    let mut sample = sample;
    for (name, clip) in [("clip_l", features.clip_l), ("clip_g", features.clip_g)] {
        let Some(ClipFeatures { penultimate, pooled }) = clip else { continue };
        sample = sample
            .with(&format!("{place}/{name}"), StoredAs::F16.convert(penultimate.into_data())?)
            .with(&format!("{place}/{name}.pooled"), StoredAs::F32.convert(pooled.into_data())?);
    }
    if let Some(t5) = features.t5 {
        sample = sample.with(&format!("{place}/t5"), StoredAs::Bf16.convert(t5.into_data())?);
    }
    Ok(sample)
}

/// Waits for the shards that other processes make, and opens the cache. `wait` is called while there are some; `Break`
/// gives up.
///
/// # Errors
/// The cache is not complete and nobody waits, or it cannot be read.
pub fn finish(writer: &CacheWriter, wait: &mut dyn FnMut(&CacheError) -> ControlFlow<()>) -> Result<Cache, CacheError> {
    loop {
        match writer.finish() {
            Err(error @ CacheError::Unfinished { .. }) if wait(&error).is_break() => return Err(error),
            Err(CacheError::Unfinished { .. }) => {}
            other => return other,
        }
    }
}

/// Opens a cache that must be of these keys.
///
/// # Errors
/// It is not there, damaged, or of other encoders or settings.
pub fn open(folder: &Path, keys: &BTreeMap<String, String>) -> Result<Cache, CacheError> {
    let cache = Cache::open(folder)?;
    cache.require(keys)?;
    Ok(cache)
}
