//! The whole network: patches and text in, velocity out.
//!
//! Shape letters: B batch, C channels, H and W latent pixels, T text tokens, I image tokens, D width.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::{Module, Params, Tensor};

use crate::MmditConfig;
use crate::backbone::{self, Backbone, NetworkInputs, Streams};
use crate::block::Block;
use crate::ends::{Conditioner, LastLayer, Origin, Patches};
use crate::modulation::{EmbeddedText, Modulations};
use crate::perturbation::Perturbation;
use crate::probe::Attending;
use crate::step_cache::StepCache;

/// SD3's velocity network. Source: arXiv:2403.03206 figure 2a.
#[derive(Module, Debug)]
pub struct Mmdit {
    patches: Patches,
    conditioner: Conditioner,
    blocks: Vec<Block>,
    last_layer: LastLayer,
    #[module(skip)]
    config: MmditConfig,
}

impl Mmdit {
    /// Builds the network; `params` is the root of the official names (`x_embedder`, `joint_blocks`, ...).
    pub fn new(config: &MmditConfig, mut params: Params<'_>) -> Self {
        let frame = config.frame();
        Mmdit {
            patches: Patches::new(frame, &mut params),
            conditioner: Conditioner::new(frame, &mut params),
            blocks: (0..config.depth)
                .map(|index| Block::new(config, index, params.at("joint_blocks").at(index)))
                .collect(),
            last_layer: LastLayer::new([frame.width; 2], [frame.patch, frame.channels_out], &mut params),
            config: config.clone(),
        }
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &MmditConfig {
        &self.config
    }

    /// Velocity of a latent: `noise - image`, d latent / d sigma.
    ///
    /// latent `[B, C, H, W]` with H and W multiples of the patch and within the positional grid; timestep
    /// `[B]` = 1000 sigma; context `[B, T, 4096]`; pooled `[B, 2048]`. Returns `[B, C_out, H, W]`.
    ///
    /// # Panics
    /// A shape that does not fit: callers check what users give.
    pub fn forward(
        &self,
        latent_BCHW: Tensor<4>,
        timestep_B: Tensor<1>,
        context_BTC: Tensor<3>,
        pooled_BP: Tensor<2>,
    ) -> Tensor<4> {
        let inputs = NetworkInputs { latent_BCHW, timestep_B, context_BTC, pooled_BP, origin: Origin::Centre };
        backbone::forward(self, inputs, &mut Attending::plainly())
    }

    /// What all noise levels have in common. context `[B, T, 4096]`, pooled `[B, 2048]`.
    pub fn embed_text(&self, context_BTC: Tensor<3>, pooled_BP: Tensor<2>) -> EmbeddedText {
        self.conditioner.text(context_BTC, pooled_BP)
    }

    /// The modulation rows of S noise levels of each sample, each weight read once for all. timestep `[S, B]` =
    /// 1000 sigma. Returns S of them, each [`MmditConfig::modulation_bytes`] for a sample.
    ///
    /// On the CPU a level's rows do not depend on the levels beside it, to the bit.
    pub fn modulations(&self, text: &EmbeddedText, timestep_SB: Tensor<2>) -> Vec<Modulations> {
        backbone::modulations(self, text, timestep_SB)
    }

    /// [`Self::forward`] with what does not depend on the latent, hindered or not. `cache`: of the steps before, and this
    /// step's noise level.
    ///
    /// # Panics
    /// As [`Self::forward`], or a text or modulations of another batch.
    pub fn velocity(
        &self,
        latent_BCHW: Tensor<4>,
        text: &EmbeddedText,
        modulations: &Modulations,
        perturbation: &Perturbation,
        cache: Option<(&mut StepCache, f32)>,
    ) -> Tensor<4> {
        let (batch, size) = (latent_BCHW.dims()[0], self.size(&latent_BCHW));
        assert_eq!([text.text_BTD.dims()[0], modulations.last_B1R.dims()[0]], [batch; 2], "texts of a batch");
        let streams = self.enter(latent_BCHW, text.text_BTD.clone(), &Origin::Centre);
        let (skipped, mut attending) = match perturbation {
            Perturbation::None => (&[][..], Attending::plainly()),
            Perturbation::SkippedBlocks(blocks) => (&blocks[..], Attending::plainly()),
            Perturbation::IsolatedTokens(blocks) => (&[][..], Attending::isolated(blocks)),
        };
        let blocks: Vec<usize> = (0..self.blocks.len()).filter(|index| !skipped.contains(index)).collect();
        let mut through = |streams: Streams, blocks: &[usize]| {
            backbone::through(self, streams, modulations, size, blocks, &mut attending)
        };
        let streams = match (cache, blocks.split_first()) {
            (Some((cache, sigma)), Some((first, later))) => {
                let before_BID = streams.image();
                let streams = through(streams, &[*first]);
                let first_BID = streams.image();
                let added_BID = first_BID.clone() - before_BID;
                match cache.known(&added_BID, sigma) {
                    Some(later_BID) => Streams(vec![first_BID + later_BID]),
                    None => {
                        let streams = through(streams, later);
                        cache.keep(added_BID, streams.image() - first_BID, sigma);
                        streams
                    }
                }
            }
            _ => through(streams, &blocks),
        };
        self.finish(streams, &modulations.last_B1R, size)
    }
}

impl Backbone for Mmdit {
    type Block = Block;

    fn conditioner(&self) -> &Conditioner {
        &self.conditioner
    }

    fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    fn last_layer(&self) -> &LastLayer {
        &self.last_layer
    }

    fn size(&self, latent_BCHW: &Tensor<4>) -> [usize; 2] {
        self.patches.size(latent_BCHW)
    }

    /// Text, then image.
    fn enter(&self, latent_BCHW: Tensor<4>, text_BTD: Tensor<3>, origin: &Origin) -> Streams {
        Streams(vec![text_BTD, self.patches.forward(latent_BCHW, origin)])
    }

    /// The text ends in the last block, or here if that is left out.
    fn leave(&self, mut streams: Streams, size: [usize; 2]) -> (Tensor<3>, [usize; 2]) {
        (streams.0.pop().expect("an image stream"), size)
    }
}
