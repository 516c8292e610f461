//! What drawing holds on the CPU, from a network's sizes alone.
//!
//! What other devices hold is their own business, and what training holds is measured, not foretold.

use rectiflow_nn::Precision;

use crate::MmditConfig;

/// Buffers from this size on are whole pages of this size.
const PAGE_BYTES: u64 = 2 << 20;

impl MmditConfig {
    /// The matrices that every step multiplies with, by their official names: those of the blocks without their modulations.
    /// `[rows, columns]`.
    pub fn step_matrices(&self) -> impl Iterator<Item = (String, [usize; 2])> {
        let d = self.width;
        let attention = move |name: &'static str| [(name, "qkv", [3 * d, d]), (name, "proj", [d, d])];
        let mlp = [("mlp", "fc1", [4 * d, d]), ("mlp", "fc2", [d, 4 * d])];
        (0..self.depth).flat_map(move |block| {
            let image = attention("attn").into_iter().chain(mlp);
            let image = image.chain(attention("attn2").into_iter().filter(move |_| self.dual_layers.contains(&block)));
            // The last text only gives queries, keys and values.
            let text = attention("attn").into_iter().chain(mlp);
            let text = text.take(if block + 1 == self.depth { 1 } else { 4 });
            let names = image.map(|one| ("x_block", one)).chain(text.map(|one| ("context_block", one)));
            names.map(move |(stream, (layer, matrix, shape))| {
                (format!("joint_blocks.{block}.{stream}.{layer}.{matrix}.weight"), shape)
            })
        })
    }

    /// Bytes that a step holds at most beside weights and modulations, with so many tokens of text and image in all rows
    /// of a batch. Of a block's parts the widest is counted, and each token as if it were of the image.
    pub fn step_bytes(&self, tokens: u64, precision: Precision) -> u64 {
        let of_number = match precision {
            Precision::F32 => 28,
            Precision::Bf16 => 17,
            Precision::Int8 => 20,
        };
        let second_attention = if self.dual_layers.is_empty() { 0 } else { 3 };
        tokens.saturating_mul(self.width as u64 * (of_number + second_attention)).saturating_add(4 << 20)
    }
}

/// Bytes of a matrix `[rows, columns]` as products keep it, packed, after its first use. In f32 none is kept: it is read where
/// it is.
pub fn packed_bytes([rows, columns]: [usize; 2], precision: Precision) -> u64 {
    let numbers = rows as u64 * columns as u64;
    in_pages(match precision {
        Precision::F32 => 0,
        Precision::Bf16 => 2 * numbers,
        Precision::Int8 => numbers,
    })
}

fn in_pages(bytes: u64) -> u64 {
    if bytes < PAGE_BYTES { bytes } else { bytes.next_multiple_of(PAGE_BYTES) }
}
