//! Relative positions. Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1; the rule is that of
//! `T5Attention._relative_position_bucket` in transformers.
//!
//! Shape letters: L tokens, N = L * L pairs of them, H heads.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::tensor::Tensor;
use rectiflow_nn::Device;
use rectiflow_nn::layers::Embedding;

/// How relative positions share the rows of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buckets {
    /// Rows of the table.
    pub(super) count: usize,
    /// From this distance on, all positions share a row.
    pub(super) max_distance: usize,
}

impl Buckets {
    /// What is added to the attention logits of L tokens: `[1, H, L, L]`.
    ///
    /// table: a vector of H values for each bucket.
    pub(super) fn bias(self, table: &Embedding, length: usize, device: &Device) -> Tensor<4> {
        let pairs = (0..length).flat_map(|query| (0..length).map(move |key| (query, key)));
        let buckets: Vec<u32> = pairs.map(|(query, key)| self.of(query, key)).collect();
        let bias_1NH = table.forward(rectiflow_nn::from_ids(&buckets, device));
        let [_, _, heads] = bias_1NH.dims();
        bias_1NH.reshape([1, length, length, heads]).permute([0, 3, 1, 2])
    }

    /// The row for what token `query` adds when it looks at token `key`.
    ///
    /// Keys behind the query have the first half of the rows, keys ahead the second. Half of each half is for
    /// one distance a row; the rest grows with the logarithm. In f32, as the reference computes it.
    fn of(self, query: usize, key: usize) -> u32 {
        let direction = self.count / 2;
        let near = direction / 2;
        let distance = query.abs_diff(key);
        let bucket = if distance < near {
            distance
        } else {
            let span = (self.max_distance as f64 / near as f64).ln() as f32;
            let far = (distance as f32 / near as f32).ln() / span * (direction - near) as f32;
            (near + far as usize).min(direction - 1)
        };
        (bucket + if key > query { direction } else { 0 }) as u32
    }
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
        check(Buckets { count: 32, max_distance: 128 }, &behind, &ahead);
    }

    #[test]
    fn buckets_of_another_table() {
        let behind = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (6, 5), (9, 6), (14, 7)];
        let ahead = behind.map(|(from, bucket)| (from, bucket + 8));
        check(Buckets { count: 16, max_distance: 20 }, &behind, &ahead);
    }
}
