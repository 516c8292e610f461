//! A velocity network as what comes before its blocks, the blocks, and what comes after: what is the same for all
//! backbones is written here once.
//!
//! Shape letters: S noise levels, B batch, C channels, H and W latent pixels, T text tokens, D width, P pooled width,
//! L tokens, R modulation rows side by side.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::Linear;
use rectiflow_nn::ops::relay;
use rectiflow_nn::{Module, Tensor};

use crate::ends::{Conditioner, LastLayer, Origin};
use crate::modulation::{EmbeddedText, Modulations, rows_of_levels};
use crate::probe::Attending;

/// What a velocity network is asked with.
#[derive(Clone, Debug)]
pub struct NetworkInputs {
    /// `[B, C, H, W]`, H and W multiples of the patch and within the positional grid.
    pub latent_BCHW: Tensor<4>,
    /// `[B]`: 1000 sigma.
    pub timestep_B: Tensor<1>,
    /// `[B, T, 4096]`.
    pub context_BTC: Tensor<3>,
    /// `[B, 2048]`.
    pub pooled_BP: Tensor<2>,
    /// Where the pictures lie in the positional grid.
    pub origin: Origin,
}

/// What goes from block to block: `[B, L, D]` each. Which and how many, the backbone says.
#[derive(Clone, Debug)]
pub(crate) struct Streams(pub(crate) Vec<Tensor<3>>);

impl Streams {
    /// The last one.
    pub(crate) fn image(&self) -> Tensor<3> {
        self.0.last().expect("an image stream").clone()
    }

    /// As many as the block takes.
    pub(crate) fn exactly<const N: usize>(self) -> [Tensor<3>; N] {
        self.0.try_into().unwrap_or_else(|streams: Vec<_>| panic!("{} streams for a block of {N}", streams.len()))
    }
}

pub(crate) trait BackboneBlock: Module {
    /// The products that make its modulation rows.
    fn ada_lns(&self) -> Vec<&Linear>;

    /// `rows` are those of [`Self::ada_lns`], `[B, 1, R]`; `size` is the picture's, rows and columns of patches.
    fn forward(&self, streams: Streams, rows: &[Tensor<3>], size: [usize; 2], attending: &mut Attending) -> Streams;
}

pub(crate) trait Backbone: Module {
    type Block: BackboneBlock;

    fn conditioner(&self) -> &Conditioner;
    fn blocks(&self) -> &[Self::Block];
    fn last_layer(&self) -> &LastLayer;

    /// Rows and columns of patches.
    fn size(&self, latent_BCHW: &Tensor<4>) -> [usize; 2];
    /// What the first block takes. text `[B, T, D]`.
    fn enter(&self, latent_BCHW: Tensor<4>, text_BTD: Tensor<3>, origin: &Origin) -> Streams;
    /// What the last layer takes, from what the last block gave, and its size.
    fn leave(&self, streams: Streams, size: [usize; 2]) -> (Tensor<3>, [usize; 2]);

    /// The last block's streams to `[B, C, H, W]`.
    fn finish(&self, streams: Streams, rows_B1R: &Tensor<3>, size: [usize; 2]) -> Tensor<4> {
        let (image_BID, size) = self.leave(streams, size);
        self.last_layer().forward(image_BID, rows_B1R, size)
    }
}

/// The modulation rows of S noise levels of each sample. timestep `[S, B]`.
pub(crate) fn modulations<N: Backbone>(network: &N, text: &EmbeddedText, timestep_SB: Tensor<2>) -> Vec<Modulations> {
    let levels = timestep_SB.dims()[0];
    // Each product takes it from the one before: a hundred gradients would otherwise meet here in any order.
    let mut conditioning = network.conditioner().conditioning(&text.pooled_BD, timestep_SB);
    let mut rows = |ada_ln: &Linear| {
        let rows = rows_of_levels(ada_ln, &conditioning, levels);
        conditioning = relay(&conditioning);
        rows
    };
    let last = rows(&network.last_layer().ada_ln);
    let mut all: Vec<Modulations> =
        last.into_iter().map(|last_B1R| Modulations { blocks: Vec::new(), last_B1R }).collect();
    for block in network.blocks() {
        all.iter_mut().for_each(|level| level.blocks.push(Vec::new()));
        for ada_ln in block.ada_lns() {
            for (level, rows_B1R) in all.iter_mut().zip(rows(ada_ln)) {
                level.blocks.last_mut().expect("pushed above").push(rows_B1R);
            }
        }
    }
    all
}

/// What the blocks begin with.
pub(crate) struct Begun {
    pub(crate) streams: Streams,
    pub(crate) modulations: Modulations,
    pub(crate) size: [usize; 2],
}

pub(crate) fn begin<N: Backbone>(network: &N, inputs: NetworkInputs) -> Begun {
    let NetworkInputs { latent_BCHW, timestep_B, context_BTC, pooled_BP, origin } = inputs;
    let batch = latent_BCHW.dims()[0];
    let text = network.conditioner().text(context_BTC, pooled_BP);
    let modulations = modulations(network, &text, timestep_B.reshape([1, batch])).remove(0);
    let size = network.size(&latent_BCHW);
    Begun { streams: network.enter(latent_BCHW, text.text_BTD, &origin), modulations, size }
}

/// The velocity, `[B, C_out, H, W]`.
pub(crate) fn forward<N: Backbone>(network: &N, inputs: NetworkInputs, attending: &mut Attending) -> Tensor<4> {
    let begun = begin(network, inputs);
    let all: Vec<usize> = (0..network.blocks().len()).collect();
    let streams = through(network, begun.streams, &begun.modulations, begun.size, &all, attending);
    network.finish(streams, &begun.modulations.last_B1R, begun.size)
}

/// Through these blocks.
pub(crate) fn through<N: Backbone>(
    network: &N,
    mut streams: Streams,
    modulations: &Modulations,
    size: [usize; 2],
    blocks: &[usize],
    attending: &mut Attending,
) -> Streams {
    for &index in blocks {
        attending.enter_block(index);
        streams = network.blocks()[index].forward(streams, &modulations.blocks[index], size, attending);
    }
    streams
}
