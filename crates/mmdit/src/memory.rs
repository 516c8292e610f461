//! What drawing holds on the CPU, from a network's sizes alone.
//!
//! What other devices hold is their own business, and what training holds is measured, not foretold.

use rectiflow_nn::Precision;

use crate::MmditConfig;

/// Buffers from this size on are whole pages of this size.
const PAGE_BYTES: u64 = 2 << 20;

impl MmditConfig {
    /// Bytes of the weights as products keep them, packed, after the first step. In f32 none are kept: they are read from
    /// the file in each step.
    pub fn packed_bytes(&self, precision: Precision) -> u64 {
        let bytes = match precision {
            Precision::F32 => return 0,
            Precision::Bf16 => 2,
            Precision::Int8 => 1,
        };
        let d = self.width as u64;
        let of = |columns: u64| in_pages(columns * d * d * bytes);
        let [attention, mlp] = [of(3) + of(1), 2 * of(4)];
        let streams = 2 * self.depth as u64;
        // The last text only gives queries, keys and values.
        streams * (attention + mlp) - of(1) - mlp + self.dual_layers.len() as u64 * attention
    }

    /// Numbers of the queries', keys' and values' weights, which some files hold in three pieces each.
    pub fn qkv_weights(&self) -> u64 {
        (2 * self.depth + self.dual_layers.len()) as u64 * 3 * (self.width as u64).pow(2)
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
        tokens * self.width as u64 * (of_number + second_attention) + (4 << 20)
    }
}

fn in_pages(bytes: u64) -> u64 {
    if bytes < PAGE_BYTES { bytes } else { bytes.next_multiple_of(PAGE_BYTES) }
}
