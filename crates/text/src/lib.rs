//! Prompt to conditioning: tokenizers, CLIP and T5 encoders, assembly.
//!
//! ```no_run
//! # use rectiflow_nn::{Device, ParamSource, Params, Precision, from_ids};
//! # use rectiflow_text::*;
//! # fn encode(
//! #     text: &str, clip_l: &mut dyn ParamSource, clip_g: &mut dyn ParamSource, t5: &mut dyn ParamSource,
//! #     device: &Device,
//! # ) -> Result<Conditioning, Box<dyn std::error::Error>> {
//! // What was released, or what the files say: nothing is read yet.
//! let clip_l_config = ClipConfig::find(clip_l, ClipKind::L, None)?;
//! let clip_g_config = ClipConfig::find(clip_g, ClipKind::G, None)?;
//! let t5_config = T5Config::find(t5, None)?;
//! let (context, pooled) = (4096, 2048); // of SD3's transformers
//! let widths = ConditioningWidths::find(
//!     Some(&clip_l_config), Some(&clip_g_config), Some(&t5_config), context, pooled, 256,
//! )?;
//!
//! // Text to tokens. What does not fit is in `cut`.
//! let clip_l_tokens = ClipTokenizer::embedded(ClipKind::L).tokenize(text)?;
//! let clip_g_tokens = ClipTokenizer::embedded(ClipKind::G).tokenize(text)?;
//! let t5_tokens = T5Tokenizer::embedded().tokenize(text, &T5Rule::diffusers(256))?;
//!
//! // Tokens to features. Each encoder is gone before the next one is read.
//! let clip_l = ClipEncoder::new(Params::new(clip_l, device, Precision::F32), &clip_l_config)
//!     .forward(from_ids(&clip_l_tokens.ids, device), Pooling::Projected);
//! let clip_g = ClipEncoder::new(Params::new(clip_g, device, Precision::F32), &clip_g_config)
//!     .forward(from_ids(&clip_g_tokens.ids, device), Pooling::Projected);
//! let t5 = T5Encoder::new(Params::new(t5, device, Precision::F32), &t5_config)
//!     .forward(from_ids(&t5_tokens.ids, device));
//!
//! // Features to conditioning. Any of the three may be left out.
//! let conditioning = assemble(Some(clip_l), Some(clip_g), Some(t5), widths, device)?;
//! # Ok(conditioning)
//! # }
//! ```
//!
//! Three things are done differently by the two programs that SD3 is known from, and are the caller's choice:
//! T5's length ([`T5Rule`]), CLIP-L's projection ([`Pooling`]) and what CLIP-G's padding token, `!`, is inside a
//! text ([`ClipTokenizer::with_pad_inside_texts`]).
//!
//! The blocks of a CLIP text encoder are those of its image tower too, which is in `rectiflow-vision`: [`ClipBlocks`].
//!
//! This crate knows no picture, and reads no file but those of tokenizers. Weights and long prompts are read where the caller asks for
//! that ([`WeightedText`], [`ClipTokenizer::tokenize_weighted`]).

mod clip;
mod conditioning;
mod config;
mod features;
mod heads;
mod printable;
mod t5;
mod tokenizer;
mod tokens;
mod weighted;

pub use clip::{Activation, ClipBlocks, ClipConfig, ClipEncoder, ClipKind, ClipOutput, Pooling, Sees};
pub use conditioning::{Conditioning, ConditioningWidths, WidthError, assemble};
pub use config::ConfigError;
pub use features::{ClipFeatures, FeaturesError, Keep, Pads, TextFeatures, assemble_features};
pub use t5::{Corrupted, Sentinels, SpanCorruption, T5Config, T5Decoder, T5Encoder};
pub use tokenizer::{ClipSize, ClipTokenizer, END_OF_TEXT, Origin, T5Tokenizer, TokenizerError, TokenizerFile};
pub use tokens::{Cut, STABILITY_LENGTH_MIN, T5_LENGTHS, T5Length, T5Rule, Tokens};
pub use weighted::{WeightError, WeightedText, weigh};
