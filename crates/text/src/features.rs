//! What encoders gave earlier, kept for each text, and batches of conditioning made of it.
//!
//! Padding: no mask stands anywhere in SD3, so what an encoder gives at the places of the padding depends on the text,
//! is not zero, and is looked at by the transformer. It can not be made from the features of the real tokens, not even
//! for a CLIP, whose padding sees the text. So features are kept for all places ([`Pads::AsEncoded`]), as the paper
//! does (77 x 4096 halves for T5 in table 7 of arXiv:2403.03206, appendix E.1), kohya-ss/sd-scripts and SimpleTuner by
//! default: training then sees what drawing will give. The other way ([`Pads::Zeros`]) keeps only the real tokens and
//! puts zeros behind them, as SimpleTuner's `--t5_padding zero` and sd-scripts' `--apply_t5_attn_mask` and
//! `--apply_lg_attn_mask`: a fifth of the room for short captions, and a network that does not know what drawing gives.
//!
//! What this module does not do: store anything, or run an encoder.
//!
//! Shape letters: B batch, L places, D width, T T5 tokens, C width of a context token.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::tensor::{DType, Tensor};
use rectiflow_nn::{Device, Rng};

use crate::ClipOutput;
use crate::conditioning::{Conditioning, ConditioningWidths, WidthError, assemble};

/// What a CLIP gave for one text. Of any float type.
#[derive(Clone, Debug)]
pub struct ClipFeatures {
    /// `[L, D]`.
    pub penultimate: Tensor<2>,
    /// `[D]`.
    pub pooled: Tensor<1>,
}

/// What the encoders gave for one text. One that is not there counts as zeros, as in [`assemble`].
#[derive(Clone, Debug, Default)]
pub struct TextFeatures {
    /// Of CLIP-L.
    pub clip_l: Option<ClipFeatures>,
    /// Of CLIP-G.
    pub clip_g: Option<ClipFeatures>,
    /// Of T5, `[T, C]`, of any float type.
    pub t5: Option<Tensor<2>>,
}

/// What stands where a text has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pads {
    /// What the encoder gives there: what drawing feeds the transformer.
    #[default]
    AsEncoded,
    /// Zeros: only the features of real tokens are kept.
    Zeros,
}

/// Which encoders a sample's text goes through. The others are replaced by zeros, so that each can be left out when
/// pictures are drawn (arXiv:2403.03206, section 5.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// CLIP-L, its pooled output too.
    pub clip_l: bool,
    /// CLIP-G, its pooled output too.
    pub clip_g: bool,
    /// T5.
    pub t5: bool,
}

/// Features from which no batch can be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FeaturesError {
    /// A batch of no samples.
    #[error("a batch of no texts has no conditioning; give it one text or more")]
    Empty,
    /// Every sample needs its flags.
    #[error("{texts} texts with {flags} choices of encoders; give one for each text")]
    Flags {
        /// Samples.
        texts: usize,
        /// As many choices.
        flags: usize,
    },
    /// There are too few or too many places.
    #[error(
        "text {sample} of the batch has {found} places of {encoder} instead of {wanted}\nhint: encode the texts again with this length, or fill up with zeros those that are kept without padding"
    )]
    Length {
        /// Place in the batch.
        sample: usize,
        /// The encoder.
        encoder: &'static str,
        /// Places that were kept.
        found: usize,
        /// Places there should be.
        wanted: usize,
    },
    /// They are not as wide as the transformer wants them.
    #[error("text {sample} of the batch: {source}")]
    Width {
        /// Place in the batch.
        sample: usize,
        /// What is wrong.
        source: WidthError,
    },
}

impl Keep {
    /// All encoders.
    pub const ALL: Keep = Keep { clip_l: true, clip_g: true, t5: true };

    /// Drops each encoder alone, with its probability, in the order of the fields. A function of the seed and the
    /// sample's number.
    ///
    /// The paper's probability is 0.464 for each (arXiv:2403.03206, appendix B.3).
    pub fn drawn(dropped: [f64; 3], seed: u64, sample: u64) -> Keep {
        let mut rng = Rng::keyed(seed, "encoders", sample);
        let [clip_l, clip_g, t5] = dropped.map(|probability| rng.uniform() >= probability);
        Keep { clip_l, clip_g, t5 }
    }
}

impl ClipFeatures {
    /// Those of text `row` of a batch.
    pub fn of(output: &ClipOutput, row: usize) -> Self {
        ClipFeatures {
            penultimate: output.penultimate.clone().narrow(0, row, 1).squeeze_dim(0),
            pooled: output.pooled.clone().narrow(0, row, 1).squeeze_dim(0),
        }
    }

    /// Without the places behind the first `real`. For [`Pads::Zeros`].
    pub fn without_padding(self, real: usize) -> Self {
        ClipFeatures { penultimate: first_rows(self.penultimate, real), ..self }
    }
}

/// The first `real` tokens of a T5's `[T, C]`, or of what else is one row a token.
fn first_rows(x: Tensor<2>, real: usize) -> Tensor<2> {
    let rows = x.dims()[0];
    x.narrow(0, 0, real.min(rows))
}

impl TextFeatures {
    /// Without the places behind the real tokens, whose numbers are given in the order of the fields. For
    /// [`Pads::Zeros`].
    pub fn without_padding(self, real: [usize; 3]) -> Self {
        TextFeatures {
            clip_l: self.clip_l.map(|clip| clip.without_padding(real[0])),
            clip_g: self.clip_g.map(|clip| clip.without_padding(real[1])),
            t5: self.t5.map(|t5| first_rows(t5, real[2])),
        }
    }
}

/// The conditioning of a batch of texts, each without the encoders that its `keep` drops.
///
/// All texts get `widths.clip_tokens` CLIP places and `widths.t5_tokens` of T5, the length with which pictures will be drawn. With all
/// encoders kept and [`Pads::AsEncoded`] this is what [`assemble`] gives for the same texts.
///
/// # Errors
/// There are no texts or not as many choices; features do not have their length or width.
pub fn assemble_features(
    texts: &[TextFeatures],
    keep: &[Keep],
    pads: Pads,
    widths: ConditioningWidths,
    device: &Device,
) -> Result<Conditioning, FeaturesError> {
    if texts.is_empty() {
        return Err(FeaturesError::Empty);
    }
    if texts.len() != keep.len() {
        return Err(FeaturesError::Flags { texts: texts.len(), flags: keep.len() });
    }
    let mut rows = Vec::with_capacity(texts.len());
    for (sample, (text, keep)) in texts.iter().zip(keep).enumerate() {
        let place = Place { sample, pads };
        let clip = |features: &Option<ClipFeatures>, kept: bool, encoder| {
            let features = features.as_ref().filter(|_| kept);
            features.map(|features| place.clip(features, widths.clip_tokens, encoder)).transpose()
        };
        let clip_l = clip(&text.clip_l, keep.clip_l, "CLIP-L")?;
        let clip_g = clip(&text.clip_g, keep.clip_g, "CLIP-G")?;
        let t5 = text.t5.as_ref().filter(|_| keep.t5);
        let t5 = t5.map(|t5| place.whole(t5, widths.t5_tokens, "T5")).transpose()?;
        let row = assemble(clip_l, clip_g, t5, widths, device);
        rows.push(row.map_err(|source| FeaturesError::Width { sample, source })?);
    }
    let (context, pooled) = rows.into_iter().map(|row| (row.context, row.pooled)).unzip();
    Ok(Conditioning { context: Tensor::cat(context, 0), pooled: Tensor::cat(pooled, 0) })
}

/// A text of a batch, and how it is filled up.
#[derive(Clone, Copy)]
struct Place {
    sample: usize,
    pads: Pads,
}

impl Place {
    fn clip(self, features: &ClipFeatures, tokens: usize, encoder: &'static str) -> Result<ClipOutput, FeaturesError> {
        let penultimate = self.whole(&features.penultimate, tokens, encoder)?;
        Ok(ClipOutput { penultimate, pooled: features.pooled.clone().cast(DType::F32).unsqueeze() })
    }

    /// `[1, wanted, D]` in f32.
    fn whole(self, x_LD: &Tensor<2>, wanted: usize, encoder: &'static str) -> Result<Tensor<3>, FeaturesError> {
        let [found, width] = x_LD.dims();
        let x_LD = x_LD.clone().cast(DType::F32);
        let missing = wanted.checked_sub(found).filter(|&missing| missing == 0 || self.pads == Pads::Zeros);
        let whole_LD = match missing {
            None => return Err(FeaturesError::Length { sample: self.sample, encoder, found, wanted }),
            Some(0) => x_LD,
            Some(missing) => {
                let zeros = Tensor::zeros([missing, width], (&x_LD.device(), DType::F32));
                Tensor::cat(vec![x_LD, zeros], 0)
            }
        };
        Ok(whole_LD.unsqueeze())
    }
}
