//! `[model]` of a recipe.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::DetectorModel;

/// The network that is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Model {
    /// SD3's transformer.
    Mmdit(Transformer),
    /// Text and image tokens in one sequence with one set of weights.
    Dit(Transformer),
    /// Image tokens that look at text tokens.
    CrossDit(Transformer),
    /// Convolutions around a transformer.
    Uvit(Transformer),
    /// Encoder and decoder of pictures.
    Autoencoder(AutoencoderModel),
    /// A text tower and an image tower.
    Clip(ClipModel),
    /// An encoder of texts, and for the training a decoder.
    T5(T5Model),
    /// What finds the things in sprite scenes.
    Detector(DetectorModel),
}

impl Model {
    /// Its settings where it is a velocity network.
    pub fn transformer(&self) -> Option<&Transformer> {
        match self {
            Model::Mmdit(model) | Model::Dit(model) | Model::CrossDit(model) | Model::Uvit(model) => Some(model),
            Model::Autoencoder(_) | Model::Clip(_) | Model::T5(_) | Model::Detector(_) => None,
        }
    }

    /// The checkpoint that it begins with.
    pub fn from(&self) -> Option<&Path> {
        match self {
            Model::Autoencoder(model) => model.from.as_deref(),
            Model::Detector(model) => model.from.as_deref(),
            other => other.transformer()?.from.as_deref(),
        }
    }

    /// The same, to name another place of it.
    pub fn from_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Model::Mmdit(model) | Model::Dit(model) | Model::CrossDit(model) | Model::Uvit(model) => {
                model.from.as_mut()
            }
            Model::Autoencoder(model) => model.from.as_mut(),
            Model::Clip(_) | Model::T5(_) | Model::Detector(_) => None,
        }
    }
}

/// A velocity network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transformer {
    /// A checkpoint to begin with; without it, from scratch.
    #[serde(default)]
    pub from: Option<PathBuf>,
    /// Blocks.
    #[serde(default)]
    pub depth: Option<NonZeroUsize>,
    /// Width of both streams, 64 for each head. From scratch: as many heads as blocks, as in the paper.
    #[serde(default)]
    pub width: Option<NonZeroUsize>,
    /// RMS norm on queries and keys. With `from` a network without them, new ones are added.
    #[serde(default)]
    pub qk_norm: Option<bool>,
    /// Blocks in which the image attends to itself a second time.
    #[serde(default)]
    pub dual_attention_layers: Option<Vec<usize>>,
    /// 2: text and image; 3: CLIP's tokens, T5's tokens and image.
    #[serde(default)]
    pub token_sets: Option<usize>,
    /// Side of the positional grid in patches.
    #[serde(default)]
    pub grid: Option<NonZeroUsize>,
    /// Share of batches whose window into the positional grid lies anywhere instead of in its middle (SD3.5-Medium).
    #[serde(default)]
    pub position_crop: f64,
    /// Keeps only the blocks' inputs and computes the rest again on the way back.
    #[serde(default)]
    pub checkpoint_blocks: bool,
}

/// An autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderModel {
    /// A checkpoint to begin with; without it, from scratch.
    #[serde(default)]
    pub from: Option<PathBuf>,
    /// Channels of a latent: the paper's table 3 has 4, 8 and 16. From scratch: 16.
    #[serde(default)]
    pub latent_channels: Option<NonZeroUsize>,
    /// Channels at each level, the full-size one first; each level after it has half the pixels on a side. From scratch:
    /// 32, 64, 128, 128, which is right for sprites of 64 to 128 px; the released one has 128, 256, 512, 512.
    #[serde(default)]
    pub widths: Option<Vec<usize>>,
    /// Residual blocks of a level of the encoder; the decoder has one more. From scratch: 1.
    #[serde(default)]
    pub blocks: Option<NonZeroUsize>,
    /// Groups of the group norms. From scratch: 8. The released one has 32.
    #[serde(default)]
    pub groups: Option<NonZeroUsize>,
    /// What learns. With `from` alone: the decoder, for latents that a transformer was trained on already.
    #[serde(default)]
    pub train: TrainedParts,
}

/// What of an autoencoder learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainedParts {
    /// Encoder and decoder.
    #[default]
    All,
    /// The decoder; latents stay as they are.
    Decoder,
}

/// A text tower and an image tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipModel {
    /// Which of SD3's two it will be: decides padding and activation.
    #[serde(default)]
    pub encoder: ClipEncoderKind,
    /// Width of the text tower's tokens.
    pub width: NonZeroUsize,
    /// Blocks of the text tower.
    pub layers: NonZeroUsize,
    /// Heads of the text tower.
    pub heads: NonZeroUsize,
    /// Width that both towers' outputs are compared in.
    pub projection: NonZeroUsize,
    /// Tokens that the text tower knows. Left away: the 49,408 of SD3's CLIPs; fewer have narrower uses, and a smaller table.
    #[serde(default)]
    pub vocabulary: Option<NonZeroUsize>,
    /// Places of a text. Left away: the 77 of SD3's CLIPs; fewer are quicker, and cut long texts.
    #[serde(default)]
    pub tokens: Option<NonZeroUsize>,
    /// The image tower.
    pub image: ImageTower,
}

/// One of SD3's CLIP encoders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClipEncoderKind {
    /// CLIP-L.
    #[default]
    L,
    /// CLIP-G.
    G,
}

/// A vision transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTower {
    /// Of its tokens.
    pub width: NonZeroUsize,
    /// Blocks.
    pub layers: NonZeroUsize,
    /// Heads.
    pub heads: NonZeroUsize,
    /// Side of a patch in pixels.
    pub patch: NonZeroUsize,
}

/// A T5-style encoder with a decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct T5Model {
    /// What a token is.
    #[serde(default)]
    pub vocabulary: VocabularyRecipe,
    /// Of a token.
    pub width: NonZeroUsize,
    /// Blocks of the encoder.
    pub layers: NonZeroUsize,
    /// Blocks of the decoder, which is thrown away afterwards.
    pub decoder_layers: NonZeroUsize,
    /// Heads.
    pub heads: NonZeroUsize,
    /// Of a head.
    pub head_width: NonZeroUsize,
    /// Of the feed-forward layer's inside.
    pub mlp: NonZeroUsize,
    /// Tokens of a text: shorter ones are padded, longer ones cut.
    pub tokens: NonZeroUsize,
}

/// What a token is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VocabularyRecipe {
    /// A byte (ByT5).
    #[default]
    Bytes,
    /// A piece of T5's own vocabulary.
    Unigram,
    /// A word that the data set's texts often have, or a letter.
    Words,
}
