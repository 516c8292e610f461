//! What attention looks at, block by block: the largest logit and the mean entropy, which tell a training that goes wrong
//! before its loss does.
//!
//! Source: arXiv:2403.03206, section 5.3.2 and figure 5. Nothing is computed where nobody asks.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::ops::{AttentionBias, Qkv, attention_statistics};
use rectiflow_nn::{Precision, Tensor};

use crate::stream::attention_scale;

/// Which tokens ask, in an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queries {
    /// The text's, of all tokens.
    Text,
    /// CLIP's, of all tokens, where they have weights of their own.
    Clip,
    /// T5's, of all tokens, where they have weights of their own.
    T5,
    /// The picture's, of all tokens.
    Image,
    /// The picture's, of the picture alone.
    ImageAlone,
    /// The picture's, of the text alone.
    ImageOfText,
    /// All tokens', of all tokens, where they have the same weights.
    All,
}

/// One attention's queries in one block, over all heads and samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionProbe {
    /// From 0 on.
    pub block: usize,
    /// Which tokens ask.
    pub queries: Queries,
    /// The largest scaled logit.
    pub logit_max: f32,
    /// The mean of the softmax's entropy, in nats.
    pub entropy: f32,
}

/// The two numbers of the paper's figure 5: means over the last five blocks (all, if there are fewer) of the largest logit
/// of each block's attentions and of their mean entropy. None where nothing was seen.
pub fn last_blocks(probes: &[AttentionProbe]) -> Option<[f32; 2]> {
    const BLOCKS: usize = 5;
    let mut blocks: Vec<usize> = probes.iter().map(|probe| probe.block).collect();
    blocks.sort_unstable();
    blocks.dedup();
    let blocks = &blocks[blocks.len().saturating_sub(BLOCKS)..];
    let mean = |values: Vec<f32>| values.iter().sum::<f32>() / values.len() as f32;
    let of_block = |block: usize| probes.iter().filter(move |probe| probe.block == block);
    let logits = blocks.iter().map(|&block| of_block(block).fold(f32::NEG_INFINITY, |most, x| most.max(x.logit_max)));
    let entropies = blocks.iter().map(|&block| mean(of_block(block).map(|probe| probe.entropy).collect()));
    (!blocks.is_empty()).then(|| [mean(logits.collect()), mean(entropies.collect())])
}

/// What is done at the attentions of a forward beside them.
#[derive(Debug, Default)]
pub(crate) struct Attending {
    /// If they are watched.
    seen: Option<Vec<AttentionProbe>>,
    /// Blocks whose image tokens are isolated.
    isolated: Vec<usize>,
    block: usize,
}

impl Attending {
    /// Nothing.
    pub(crate) fn plainly() -> Self {
        Attending::default()
    }

    /// All of them are seen.
    pub(crate) fn everything() -> Self {
        Attending { seen: Some(Vec::new()), ..Attending::default() }
    }

    /// Image tokens of these blocks see themselves and the text, and no other image token.
    pub(crate) fn isolated(blocks: &[usize]) -> Self {
        Attending { isolated: blocks.to_vec(), ..Attending::default() }
    }

    pub(crate) fn seen(self) -> Vec<AttentionProbe> {
        self.seen.unwrap_or_default()
    }

    pub(crate) fn enter_block(&mut self, index: usize) {
        self.block = index;
    }

    pub(crate) fn is_isolated(&self) -> bool {
        self.isolated.contains(&self.block)
    }

    /// The queries of each stream, of the keys of all.
    pub(crate) fn see<const N: usize>(&mut self, streams: &[Qkv; N], queries: [Queries; N], precision: Precision) {
        let Some(seen) = &mut self.seen else { return };
        let streams = streams.clone().map(Qkv::apart);
        let all = |role: usize| Tensor::cat(streams.iter().map(|stream| stream[role].clone()).collect(), 1);
        let [k, v] = [all(1), all(2)];
        for ([q, ..], queries) in streams.iter().zip(queries) {
            let stream = Qkv::Apart { q: q.clone(), k: k.clone(), v: v.clone() };
            let heads = attention_statistics([stream], attention_scale(), AttentionBias::None, precision);
            let logit_max = heads.iter().fold(f32::NEG_INFINITY, |most, head| most.max(head.logit_max));
            let entropy = heads.iter().map(|head| head.entropy).sum::<f32>() / heads.len() as f32;
            seen.push(AttentionProbe { block: self.block, queries, logit_max, entropy });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_numbers_are_means_over_the_last_five_blocks() {
        let probe = |block, queries, logit_max, entropy| AttentionProbe { block, queries, logit_max, entropy };
        let probes: Vec<AttentionProbe> = (0..7)
            .flat_map(|block| {
                let value = block as f32;
                [probe(block, Queries::Text, value, 2.0), probe(block, Queries::Image, -value, value)]
            })
            .collect();
        // Blocks 2 to 6: largest logits 2..6, entropies (2 + block) / 2.
        assert_eq!(last_blocks(&probes), Some([4.0, 3.0]));
        assert_eq!(last_blocks(&probes[..2]), Some([0.0, 1.0]));
        assert_eq!(last_blocks(&[]), None);
    }
}
