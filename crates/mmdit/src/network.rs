//! Any of the backbones, to train and to compare.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::{Module, ParamGradients, Params, Tensor};

use crate::backbone::{self, NetworkInputs};
use crate::config::{Frame, MmditConfig};
use crate::cross_dit::CrossDit;
use crate::dit::Dit;
use crate::ends::Origin;
use crate::model::Mmdit;
use crate::probe::{Attending, AttentionProbe};
use crate::recompute::{self, Recompute};
use crate::stream::StreamSizes;
use crate::three_sets::ThreeSets;
use crate::uvit::{Uvit, UvitConfig};

/// The sizes of a backbone that MMDiT is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaselineConfig {
    /// Blocks.
    pub depth: usize,
    /// RMS norm on queries and keys.
    pub qk_norm: bool,
    /// What stands around the blocks.
    pub frame: Frame,
}

impl BaselineConfig {
    /// As deep and as wide as an MMDiT, and with the same around its blocks.
    pub fn like(config: &MmditConfig) -> Self {
        BaselineConfig { depth: config.depth, qk_norm: config.qk_norm, frame: config.frame() }
    }

    pub(crate) fn streams(&self) -> StreamSizes {
        StreamSizes { width: self.frame.width, qk_norm: self.qk_norm }
    }
}

/// Which backbone, and its sizes. Source of the choice: arXiv:2403.03206, section 5.2.3 and figure 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkConfig {
    /// Two sets of weights: SD3.
    Mmdit(MmditConfig),
    /// Three sets of weights.
    ThreeSets {
        /// The sizes.
        sizes: BaselineConfig,
        /// How many of the context's tokens are CLIP's, from the first on; SD3 has 77.
        clip_tokens: usize,
    },
    /// One set of weights, all tokens in one sequence.
    Dit(BaselineConfig),
    /// The picture's tokens look at the text.
    CrossDit(BaselineConfig),
    /// Convolutions around a transformer.
    Uvit(UvitConfig),
}

impl NetworkConfig {
    /// What stands around the blocks.
    pub fn frame(&self) -> Frame {
        match self {
            NetworkConfig::Mmdit(config) => config.frame(),
            NetworkConfig::ThreeSets { sizes, .. } | NetworkConfig::Dit(sizes) | NetworkConfig::CrossDit(sizes) => {
                sizes.frame
            }
            NetworkConfig::Uvit(config) => config.middle.frame,
        }
    }
}

#[derive(Module, Debug)]
enum Kind {
    Mmdit(Mmdit),
    ThreeSets(ThreeSets),
    Dit(Dit),
    CrossDit(CrossDit),
    Uvit(Uvit),
}

/// A velocity network of any backbone: one forward for all, and what training asks of it.
#[derive(Module, Debug)]
pub struct VelocityNetwork {
    kind: Kind,
    #[module(skip)]
    config: NetworkConfig,
}

/// The same call of whichever backbone it is.
macro_rules! of_kind {
    ($network:expr, $one:ident => $call:expr) => {
        match &$network.kind {
            Kind::Mmdit($one) => $call,
            Kind::ThreeSets($one) => $call,
            Kind::Dit($one) => $call,
            Kind::CrossDit($one) => $call,
            Kind::Uvit($one) => $call,
        }
    };
}

impl VelocityNetwork {
    /// Builds the network; `params` is the root of its names.
    ///
    /// # Panics
    /// Sizes that do not fit each other: callers check what users give.
    pub fn new(config: &NetworkConfig, params: Params<'_>) -> Self {
        let kind = match config {
            NetworkConfig::Mmdit(config) => Kind::Mmdit(Mmdit::new(config, params)),
            NetworkConfig::ThreeSets { sizes, clip_tokens } => {
                Kind::ThreeSets(ThreeSets::new(sizes, *clip_tokens, params))
            }
            NetworkConfig::Dit(config) => Kind::Dit(Dit::new(config, params)),
            NetworkConfig::CrossDit(config) => Kind::CrossDit(CrossDit::new(config, params)),
            NetworkConfig::Uvit(config) => Kind::Uvit(Uvit::new(config, params)),
        };
        VelocityNetwork { kind, config: config.clone() }
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// The MMDiT, if it is one: it alone draws pictures with `Mmdit::velocity`.
    pub fn mmdit(&self) -> Option<&Mmdit> {
        match &self.kind {
            Kind::Mmdit(network) => Some(network),
            _ => None,
        }
    }

    /// Velocity of a latent, in the middle of the positional grid: see [`Self::forward_at`].
    ///
    /// # Panics
    /// As there.
    pub fn forward(
        &self,
        latent_BCHW: Tensor<4>,
        timestep_B: Tensor<1>,
        context_BTC: Tensor<3>,
        pooled_BP: Tensor<2>,
    ) -> Tensor<4> {
        self.forward_at(NetworkInputs { latent_BCHW, timestep_B, context_BTC, pooled_BP, origin: Origin::Centre })
    }

    /// Velocity of a latent: `noise - image`, d latent / d sigma. Returns `[B, C_out, H, W]`.
    ///
    /// # Panics
    /// A shape that does not fit: callers check what users give.
    pub fn forward_at(&self, inputs: NetworkInputs) -> Tensor<4> {
        of_kind!(self, network => backbone::forward(network, inputs, &mut Attending::plainly()))
    }

    /// A loss of the velocity, one number, and its gradients with regard to every parameter. Blocks that `recompute` takes
    /// keep nothing of their forward. The gradients are those of [`Self::forward_at`] and a backward, to the bit.
    ///
    /// # Panics
    /// As [`Self::forward_at`], or parameters that are not on a device with gradients.
    pub fn gradients(
        &self,
        inputs: NetworkInputs,
        recompute: Recompute,
        loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
    ) -> (Tensor<1>, ParamGradients) {
        of_kind!(self, network => recompute::gradients(network, inputs, recompute, loss))
    }

    /// What the attentions of every block look at. A forward, with every attention's logits computed once more.
    ///
    /// # Panics
    /// As [`Self::forward_at`].
    pub fn probe(&self, inputs: NetworkInputs) -> Vec<AttentionProbe> {
        let mut attending = Attending::everything();
        drop(of_kind!(self, network => backbone::forward(network, inputs, &mut attending)));
        attending.seen()
    }
}
