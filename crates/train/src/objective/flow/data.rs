//! Latents and text features for the flow objective: from a cache, or made of pictures and captions in every step.

use std::collections::BTreeMap;
use std::sync::Arc;

use image::RgbImage;
use rayon::prelude::*;
use rectiflow_dataset::{Cache, CaptionMix, Captions, Dataset, Drawn};
use rectiflow_generate::{Encoders, KnownWords};
use rectiflow_nn::{DType, Device, Tensor};
use rectiflow_text::{ClipFeatures, Conditioning, ConditioningWidths, Keep, Pads, TextFeatures, assemble_features};

use crate::encode::{self, EncodeError, Pictures};
use crate::objective::Problem;
use crate::objective::split::Split;

/// What a step needs of its samples.
pub struct Examples {
    /// `[B, C, H, W]`, without gradients.
    pub latents_BCHW: Tensor<4>,
    /// One for each.
    pub texts: Vec<TextFeatures>,
    /// How many captions an encoder did not see the end of; of a cache it was said when it was made.
    pub cut: usize,
}

/// Where examples come from.
enum Source {
    Cached(Cache),
    Live(Box<Live>),
}

/// What makes examples in every step.
struct Live {
    dataset: Dataset,
    encoders: Arc<Encoders>,
    pictures: Pictures,
}

/// The samples of a run, in their order, and their text features.
pub struct FlowData {
    source: Source,
    mix: CaptionMix,
    seed: u64,
    split: Split,
    widths: ConditioningWidths,
    pads: Pads,
    device: Device,
    /// What stands for an encoder that was dropped; none: zeros.
    dropped: Option<TextFeatures>,
}

/// How a run uses its data.
pub struct Use {
    /// Decides order, captions and what is kept for validation.
    pub seed: u64,
    /// Samples of a step.
    pub batch: usize,
    /// Samples that are never trained on.
    pub validation: usize,
    /// How text features are joined.
    pub widths: ConditioningWidths,
    /// How they were stored, or are made.
    pub pads: Pads,
    /// What stands for an encoder that was dropped; none: zeros.
    pub dropped: Option<TextFeatures>,
}

impl FlowData {
    /// From a cache. `mix`: which captions are drawn; none: those of the only column there is, which is all that a cache
    /// of such a recipe holds.
    ///
    /// # Errors
    /// The cache has fewer samples than a batch, or its texts are damaged.
    pub fn cached(cache: Cache, mix: Option<CaptionMix>, device: &Device, with: Use) -> Result<FlowData, Problem> {
        let mut sizes: BTreeMap<[u32; 2], Vec<u64>> = BTreeMap::new();
        for number in cache.numbers() {
            sizes.entry(cache.size_px(number).unwrap_or_default()).or_default().push(number);
        }
        let mix = match mix {
            Some(mix) => mix,
            None => CaptionMix::only(&only_column(&cache)?),
        };
        FlowData::new(Source::Cached(cache), sizes.into_values().collect(), mix, device, with)
    }

    /// Made of a data set in every step.
    ///
    /// # Errors
    /// The data set has fewer samples than a batch.
    pub fn live(dataset: Dataset, encoders: Arc<Encoders>, pictures: Pictures, with: Use) -> Result<FlowData, Problem> {
        let (members, mix, device) = (dataset.members(), dataset.mix().clone(), encoders.device().clone());
        let source = Source::Live(Box::new(Live { dataset, encoders, pictures }));
        FlowData::new(source, members, mix, &device, with)
    }

    fn new(
        source: Source,
        members: Vec<Vec<u64>>,
        mix: CaptionMix,
        device: &Device,
        with: Use,
    ) -> Result<FlowData, Problem> {
        let split = Split::new(members, with.batch, with.validation, with.seed)?;
        let Use { seed, widths, pads, dropped, .. } = with;
        Ok(FlowData { source, mix, seed, split, widths, pads, device: device.clone(), dropped })
    }

    /// The samples of a step. Another turn has others.
    pub fn drawn(&self, step: u64, turn: u64) -> Vec<Drawn> {
        self.split.drawn(step, turn)
    }

    /// How many samples are kept for validation.
    pub fn validation_len(&self) -> usize {
        self.split.apart_len()
    }

    /// The samples that are kept for validation, at most `count` at once, each of one size.
    pub fn validation(&self, count: usize) -> impl Iterator<Item = Vec<Drawn>> + '_ {
        self.split.apart(count)
    }

    /// What its samples are of: the cache, or the data set.
    pub fn digest(&self) -> String {
        match &self.source {
            Source::Cached(cache) => cache.digest(),
            Source::Live(live) => live.dataset.digest(),
        }
    }

    /// What a sample is called.
    pub fn id(&self, sample: u64) -> String {
        match &self.source {
            Source::Cached(cache) => {
                let texts = cache.entry(sample).and_then(|entry| entry.texts());
                texts
                    .ok()
                    .and_then(|texts| texts.get(encode::ID).cloned())
                    .unwrap_or_else(|| format!("sample {sample}"))
            }
            Source::Live(live) => live.dataset.id(sample),
        }
    }

    /// The words of all captions of its first samples.
    ///
    /// # Errors
    /// A caption cannot be read any more.
    pub fn known_words(&self) -> Result<KnownWords, Problem> {
        /// Of a few hundred words even the rarest comes a few times.
        const SAMPLES: usize = 20_000;
        let mut known = KnownWords::default();
        let mut learn = |captions: &Captions| {
            captions.columns().flat_map(|column| captions.texts(column)).for_each(|caption| known.learn(caption));
        };
        match &self.source {
            Source::Cached(cache) => {
                for number in cache.numbers().take(SAMPLES) {
                    learn(&captions_of(&cache.entry(number)?.texts()?));
                }
            }
            Source::Live(live) => {
                for one in live.dataset.kept().iter().take(SAMPLES) {
                    learn(&live.dataset.captions(one.sample)?);
                }
            }
        }
        Ok(known)
    }

    /// The latents and text features of samples of one size.
    ///
    /// # Errors
    /// They cannot be read or made.
    pub fn examples(&self, drawn: &[Drawn]) -> Result<Examples, Problem> {
        match &self.source {
            Source::Cached(cache) => self.read(cache, drawn),
            Source::Live(live) => {
                let Live { dataset, encoders, pictures } = &**live;
                let ready = |one: &Drawn| -> Result<(RgbImage, String), EncodeError> {
                    Ok((encode::picture(dataset, self.seed, one)?, encode::caption(dataset, self.seed, one)?))
                };
                let ready = drawn.par_iter().map(ready).collect::<Result<Vec<_>, _>>()?;
                let (prepared, captions): (Vec<RgbImage>, Vec<String>) = ready.into_iter().unzip();
                let samples: Vec<u64> = drawn.iter().map(|one| one.sample).collect();
                let latents_BCHW = pictures.latents(encoders, &prepared, &samples)?;
                let texts: Vec<&str> = captions.iter().map(String::as_str).collect();
                let texts = encoders.texts(&texts)?;
                let cut = texts.iter().filter(|text| !text.cut.is_empty()).count();
                let texts = texts.into_iter().map(|text| text.padded(self.pads));
                Ok(Examples { latents_BCHW, texts: texts.collect(), cut })
            }
        }
    }

    fn read(&self, cache: &Cache, drawn: &[Drawn]) -> Result<Examples, Problem> {
        let (mut latents, mut texts) = (Vec::new(), Vec::new());
        for one in drawn {
            let entry = cache.entry(one.sample)?;
            entry.check()?;
            let latent: Tensor<3> = Tensor::from_data(entry.data(encode::LATENT)?, &self.device);
            latents.push(latent.cast(DType::F32).unsqueeze_dim(0));
            let captions = captions_of(&entry.texts()?);
            let place = self.mix.draw(&captions, self.seed, one.epoch, one.sample);
            let place = place.and_then(|caption| encode::place_of(&captions, caption));
            let place = place.unwrap_or_else(|| encode::EMPTY.to_owned());
            let tensor1 = |name: &str| -> Result<Tensor<1>, Problem> {
                Ok(Tensor::from_data(entry.data(&format!("{place}/{name}"))?, &self.device))
            };
            let tensor2 = |name: &str| -> Result<Tensor<2>, Problem> {
                Ok(Tensor::from_data(entry.data(&format!("{place}/{name}"))?, &self.device))
            };
            let has = |name: &str| entry.raw(&format!("{place}/{name}")).is_ok();
            let clip = |name: &str| -> Result<Option<ClipFeatures>, Problem> {
                if !has(name) {
                    return Ok(None);
                }
                Ok(Some(ClipFeatures { penultimate: tensor2(name)?, pooled: tensor1(&format!("{name}.pooled"))? }))
            };
            texts.push(TextFeatures {
                clip_l: clip("clip_l")?,
                clip_g: clip("clip_g")?,
                t5: has("t5").then(|| tensor2("t5")).transpose()?,
            });
        }
        Ok(Examples { latents_BCHW: Tensor::cat(latents, 0), texts, cut: 0 })
    }

    /// What the network is told: these texts, without the encoders that each `keep` drops.
    ///
    /// # Errors
    /// The features are of another length or width than the run's.
    pub fn conditioning(&self, texts: &[TextFeatures], keep: &[Keep]) -> Result<Conditioning, Problem> {
        let Some(dropped) = &self.dropped else {
            return Ok(assemble_features(texts, keep, self.pads, self.widths, &self.device)?);
        };
        let replaced: Vec<TextFeatures> = texts
            .iter()
            .zip(keep)
            .map(|(text, keep)| TextFeatures {
                clip_l: if keep.clip_l { &text.clip_l } else { &dropped.clip_l }.clone(),
                clip_g: if keep.clip_g { &text.clip_g } else { &dropped.clip_g }.clone(),
                t5: if keep.t5 { &text.t5 } else { &dropped.t5 }.clone(),
            })
            .collect();
        Ok(assemble_features(&replaced, &vec![Keep::ALL; texts.len()], self.pads, self.widths, &self.device)?)
    }

    /// What the network is told where nothing is asked for: what dropping every encoder gives.
    ///
    /// # Errors
    /// As [`Self::conditioning`].
    pub fn unconditional(&self) -> Result<Conditioning, Problem> {
        let nothing = Keep { clip_l: false, clip_g: false, t5: false };
        self.conditioning(&[TextFeatures::default()], &[nothing])
    }

    /// Where its tensors are.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

/// All captions of a cached sample in the order of their numbers, which is not that of their places' names: `caption/10`
/// stands before `caption/2`.
fn captions_of(texts: &BTreeMap<String, String>) -> Captions {
    let place = |(place, text): (&'_ String, _)| {
        let (column, number) = place.rsplit_once('/')?;
        Some((column.to_owned(), number.parse::<u64>().ok()?, text))
    };
    let mut places: Vec<(String, u64, &String)> = texts.iter().filter_map(place).collect();
    places.sort();
    let mut captions = Captions::default();
    places.iter().for_each(|(column, _, text)| captions.add(column, text));
    captions
}

/// The column that captions are of, in a cache that has one: of the first sample with a caption.
fn only_column(cache: &Cache) -> Result<String, Problem> {
    for number in cache.numbers() {
        if let Some(column) = captions_of(&cache.entry(number)?.texts()?).columns().next() {
            return Ok(column.to_owned());
        }
    }
    // No sample has one, and none is drawn.
    Ok("caption".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caption_is_found_at_its_own_place_among_more_than_ten() {
        let texts: BTreeMap<String, String> = (0..12)
            .map(|number| (format!("a/b/{number}"), format!("text {number}")))
            .chain([("id".to_owned(), "cats/3.png".to_owned())])
            .collect();
        let captions = captions_of(&texts);
        for number in 0..12 {
            let place = encode::place_of(&captions, &format!("text {number}"));
            assert_eq!(place, Some(format!("a/b/{number}")));
        }
        assert_eq!(captions.columns().count(), 1);
    }
}
