//! What the transformer is told of a text. Source: Esser et al. 2024, arXiv:2403.03206, appendix B.2; the order
//! is that of `get_cond` in Stability-AI/sd3.5 `sd3_infer.py` and of `encode_prompt` in diffusers.
//!
//! Shape letters: B batch, L CLIP tokens (77, or fewer of smaller encoders), T T5 tokens, S = L + T, C width of a context token,
//! P width of the pooled text, D width of one CLIP encoder.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::tensor::{DType, Tensor};
use rectiflow_nn::Device;

use crate::{ClipConfig, ClipOutput, ClipSize, T5Config};

/// A text as the transformer takes it.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// `[B, L + T, C]`: the tokens.
    pub context: Tensor<3>,
    /// `[B, P]`: the whole text in one vector.
    pub pooled: Tensor<2>,
}

impl Conditioning {
    /// Those of all texts, one row after the other. Their contexts are equally long.
    pub fn stacked<'a>(all: impl Iterator<Item = &'a Conditioning> + Clone) -> Conditioning {
        Conditioning {
            context: Tensor::cat(all.clone().map(|one| one.context.clone()).collect(), 0),
            pooled: Tensor::cat(all.map(|one| one.pooled.clone()).collect(), 0),
        }
    }
}

/// The widths that encoders and transformer have to agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConditioningWidths {
    /// Of CLIP-L's tokens and of its pooled output.
    pub clip_l: usize,
    /// Of CLIP-G's tokens and of its pooled output.
    pub clip_g: usize,
    /// Of the transformer's context tokens, and of T5's.
    pub context: usize,
    /// Of the transformer's pooled text: both CLIPs side by side.
    pub pooled: usize,
    /// How many tokens both CLIPs have, which stand side by side: 77 of the released ones, and where there is none.
    pub clip_tokens: usize,
    /// How many tokens stand for T5 where there is none: 256 or the chosen length in diffusers, 77 in
    /// Stability-AI/sd3.5.
    pub t5_tokens: usize,
}

/// The encoders are not those that the transformer was trained with.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WidthError {
    /// The pooled outputs, side by side, are not as wide as what the transformer takes.
    #[error(
        "the transformer takes a pooled text of width {pooled}, CLIP-L ({clip_l}) and CLIP-G ({clip_g}) give another\nhint: take the encoders of the transformer's own release"
    )]
    Pooled {
        /// Of CLIP-L.
        clip_l: usize,
        /// Of CLIP-G.
        clip_g: usize,
        /// What the transformer takes.
        pooled: usize,
    },
    /// The CLIP tokens, side by side, are wider than a context token.
    #[error(
        "the transformer takes context tokens of width {context}, CLIP-L and CLIP-G give {clips}\nhint: take the encoders of the transformer's own release"
    )]
    Context {
        /// Of both CLIPs.
        clips: usize,
        /// What the transformer takes.
        context: usize,
    },
    /// The tokens of the CLIPs stand side by side, and are not equally many.
    #[error("CLIP-L has {clip_l} tokens and CLIP-G {clip_g}\nhint: take encoders of one release")]
    Tokens {
        /// Of CLIP-L.
        clip_l: usize,
        /// Of CLIP-G.
        clip_g: usize,
    },
    /// An output is not as wide as was said.
    #[error(
        "the width of {output} is {found} instead of {wanted}\nhint: take the encoders of the transformer's own release"
    )]
    Output {
        /// Which output of which encoder.
        output: &'static str,
        /// Its width.
        found: usize,
        /// The width it should have.
        wanted: usize,
    },
}

impl ConditioningWidths {
    /// The widths for a transformer that takes context tokens of width `context` and a pooled text of width
    /// `pooled`, and for the encoders that there are. A CLIP that is not there has the width that the other
    /// leaves of `pooled`.
    ///
    /// # Errors
    /// The encoders do not fit the transformer. To be called before any of them is run.
    pub fn find(
        clip_l: Option<&ClipConfig>,
        clip_g: Option<&ClipConfig>,
        t5: Option<&T5Config>,
        context: usize,
        pooled: usize,
        t5_tokens: usize,
    ) -> Result<Self, WidthError> {
        let lengths = [clip_l, clip_g].map(|clip| clip.map(|clip| clip.size().length));
        if let [Some(clip_l), Some(clip_g)] = lengths
            && clip_l != clip_g
        {
            return Err(WidthError::Tokens { clip_l, clip_g });
        }
        let clip_tokens = lengths[0].or(lengths[1]).unwrap_or(ClipSize::RELEASED.length);
        let (clip_l, clip_g) = match (clip_l.map(|clip| clip.width), clip_g.map(|clip| clip.width)) {
            (Some(clip_l), Some(clip_g)) => (clip_l, clip_g),
            (Some(clip_l), None) => (clip_l, pooled.saturating_sub(clip_l)),
            (None, Some(clip_g)) => (pooled.saturating_sub(clip_g), clip_g),
            (None, None) => (pooled, 0),
        };
        let widths = ConditioningWidths { clip_l, clip_g, context, pooled, clip_tokens, t5_tokens };
        widths.check()?;
        t5.map_or(Ok(()), |t5| check_output("T5's tokens", t5.width, context))?;
        Ok(widths)
    }

    fn check(&self) -> Result<(), WidthError> {
        let &ConditioningWidths { clip_l, clip_g, context, pooled, .. } = self;
        let clips = clip_l.saturating_add(clip_g);
        if clips != pooled {
            return Err(WidthError::Pooled { clip_l, clip_g, pooled });
        }
        if clips > context {
            return Err(WidthError::Context { clips, context });
        }
        Ok(())
    }
}

/// Joins what the encoders gave: CLIP-L and CLIP-G side by side, padded with zeros to the context's width, then
/// T5's tokens. An encoder that is not there gives zeros, as in the paper.
///
/// t5 `[B, T, C]`; without it T is `widths.t5_tokens`. L is what the CLIPs gave, which of long texts is several times
/// `widths.clip_tokens`; without both it is that.
///
/// # Errors
/// An output is not as wide as `widths` says, or the widths do not fit the transformer.
pub fn assemble(
    clip_l: Option<ClipOutput>,
    clip_g: Option<ClipOutput>,
    t5: Option<Tensor<3>>,
    widths: ConditioningWidths,
    device: &Device,
) -> Result<Conditioning, WidthError> {
    widths.check()?;
    let batches = [&clip_l, &clip_g].map(|clip| clip.as_ref().map(|clip| clip.pooled.dims()[0]));
    let batch = batches[0].or(batches[1]).or(t5.as_ref().map(|t5| t5.dims()[0])).unwrap_or(1);
    let lengths = [&clip_l, &clip_g].map(|clip| clip.as_ref().map(|clip| clip.penultimate.dims()[1]));
    let tokens = lengths[0].or(lengths[1]).unwrap_or(widths.clip_tokens);
    let room = Room { batch, tokens, device };

    let l = room.clip(clip_l, widths.clip_l, ["CLIP-L's tokens", "CLIP-L's pooled output"])?;
    let g = room.clip(clip_g, widths.clip_g, ["CLIP-G's tokens", "CLIP-G's pooled output"])?;
    let t5_BTC = match t5 {
        Some(t5_BTC) => t5_BTC,
        None => room.zeros([batch, widths.t5_tokens, widths.context]),
    };
    check_output("T5's tokens", t5_BTC.dims()[2], widths.context)?;

    let right_BLD = room.zeros([batch, tokens, widths.context - widths.pooled]);
    let clip_BLC = join([l.penultimate, g.penultimate, right_BLD], 2);
    Ok(Conditioning { context: join([clip_BLC, t5_BTC], 1), pooled: join([l.pooled, g.pooled], 1) })
}

/// Where and for how many texts zeros are made.
struct Room<'a> {
    batch: usize,
    /// Of the CLIPs.
    tokens: usize,
    device: &'a Device,
}

impl Room<'_> {
    fn zeros<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        Tensor::zeros(shape, (self.device, DType::F32))
    }

    /// The output of a CLIP encoder of this width, or zeros.
    fn clip(&self, clip: Option<ClipOutput>, width: usize, names: [&'static str; 2]) -> Result<ClipOutput, WidthError> {
        let Some(clip) = clip else {
            let penultimate = self.zeros([self.batch, self.tokens, width]);
            return Ok(ClipOutput { penultimate, pooled: self.zeros([self.batch, width]) });
        };
        check_output(names[0], clip.penultimate.dims()[2], width)?;
        check_output(names[1], clip.pooled.dims()[1], width)?;
        Ok(clip)
    }
}

fn check_output(output: &'static str, found: usize, wanted: usize) -> Result<(), WidthError> {
    if found == wanted { Ok(()) } else { Err(WidthError::Output { output, found, wanted }) }
}

/// The parts, one after the other along `axis`. Some may be empty.
fn join<const D: usize, const N: usize>(parts: [Tensor<D>; N], axis: usize) -> Tensor<D> {
    Tensor::cat(parts.into_iter().filter(|part| part.dims()[axis] > 0).collect(), axis)
}
