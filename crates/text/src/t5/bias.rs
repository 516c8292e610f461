//! Relative positions. Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1; the rule is that of
//! `T5Attention._relative_position_bucket` in transformers.
//!
//! Shape letters: L tokens, N = L * L pairs of them, H heads.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::tensor::Tensor;
use rectiflow_nn::layers::Embedding;
use rectiflow_nn::{Device, from_f32};

use super::config::T5Config;

/// What a logit becomes that must not count. Its share of the softmax is below 1e-38.
const UNSEEN: f32 = -1e9;

/// Which tokens a token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// All: an encoder.
    BothWays,
    /// Itself and those before it: a decoder.
    Behind,
}

/// How relative positions share the rows of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buckets {
    /// Rows of the table.
    pub(super) count: usize,
    /// From this distance on, all positions share a row.
    pub(super) max_distance: usize,
    /// Whether keys ahead have rows of their own.
    pub(super) sight: Sight,
}

impl Buckets {
    /// Of a network of these sizes.
    pub(super) fn of_config(config: &T5Config, sight: Sight) -> Self {
        Buckets { count: config.buckets, max_distance: config.max_distance, sight }
    }

    /// What is added to the attention logits of L tokens: `[1, H, L, L]`.
    ///
    /// table: a vector of H values for each bucket.
    pub(super) fn bias(self, table: &Embedding, length: usize, device: &Device) -> Tensor<4> {
        let pairs = (0..length).flat_map(|query| (0..length).map(move |key| (query, key)));
        let buckets: Vec<u32> = pairs.map(|(query, key)| self.of(query, key)).collect();
        let bias_1NH = table.forward(rectiflow_nn::from_ids(&buckets, device));
        let [_, _, heads] = bias_1NH.dims();
        let bias_1HLL = bias_1NH.reshape([1, length, length, heads]).permute([0, 3, 1, 2]);
        match self.sight {
            Sight::BothWays => bias_1HLL,
            Sight::Behind => bias_1HLL + unseen(length, device),
        }
    }

    /// The row for what token `query` adds when it looks at token `key`.
    ///
    /// Keys behind the query have the first half of the rows, keys ahead the second; all rows are for keys behind where
    /// no others are seen. Half of these is for one distance a row; the rest grows with the logarithm. In f32, as the
    /// reference computes it.
    fn of(self, query: usize, key: usize) -> u32 {
        let (direction, distance) = match self.sight {
            Sight::BothWays => (self.count / 2, query.abs_diff(key)),
            Sight::Behind => (self.count, query.saturating_sub(key)),
        };
        let near = direction / 2;
        let bucket = if distance < near {
            distance
        } else {
            let span = (self.max_distance as f64 / near as f64).ln() as f32;
            let far = (distance as f32 / near as f32).ln() / span * (direction - near) as f32;
            (near + far as usize).min(direction - 1)
        };
        (bucket + if self.sight == Sight::BothWays && key > query { direction } else { 0 }) as u32
    }
}

/// `[1, 1, L, L]` that leaves a token itself and those before it.
fn unseen(length: usize, device: &Device) -> Tensor<4> {
    let pairs = (0..length).flat_map(|query| (0..length).map(move |key| (query, key)));
    let values = pairs.map(|(query, key)| if key > query { UNSEEN } else { 0.0 }).collect();
    from_f32(values, [1, 1, length, length], device)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the bucket changes, as transformers 5.23 computes it for -600 to 600.
    #[track_caller]
    fn check(buckets: Buckets, behind: &[(usize, u32)], ahead: &[(usize, u32)]) {
        let expected = |distance: usize, steps: &[(usize, u32)]| {
            steps.iter().rev().find(|(from, _)| distance >= *from).map(|(_, bucket)| *bucket)
        };
        for distance in 0..=600 {
            assert_eq!(Some(buckets.of(distance, 0)), expected(distance, behind), "{distance} behind");
            if distance > 0 {
                assert_eq!(Some(buckets.of(0, distance)), expected(distance, ahead), "{distance} ahead");
            }
        }
    }

    #[test]
    fn buckets_of_the_released_encoders() {
        let far = [(8, 8), (12, 9), (16, 10), (23, 11), (32, 12), (46, 13), (64, 14), (91, 15)];
        let behind: Vec<_> = (0..8).map(|i| (i as usize, i)).chain(far).collect();
        let ahead: Vec<_> = behind.iter().map(|&(from, bucket)| (from, bucket + 16)).collect();
        check(Buckets { count: 32, max_distance: 128, sight: Sight::BothWays }, &behind, &ahead);
    }

    /// A decoder's token looks behind only, with all rows.
    #[test]
    fn buckets_of_the_released_decoders() {
        let far = [(19, 17), (21, 18), (24, 19), (27, 20), (31, 21), (35, 22), (40, 23), (46, 24)];
        let further = [(52, 25), (59, 26), (67, 27), (77, 28), (87, 29), (99, 30), (113, 31)];
        let behind: Vec<_> = (0..=16).map(|i| (i as usize, i)).chain(far).chain(further).collect();
        check(Buckets { count: 32, max_distance: 128, sight: Sight::Behind }, &behind, &[(0, 0)]);
    }

    #[test]
    fn buckets_of_another_table() {
        let behind = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (6, 5), (9, 6), (14, 7)];
        let ahead = behind.map(|(from, bucket)| (from, bucket + 8));
        check(Buckets { count: 16, max_distance: 20, sight: Sight::BothWays }, &behind, &ahead);
    }
}
