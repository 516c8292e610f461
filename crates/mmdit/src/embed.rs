//! What goes into the blocks: patches with their places, the timestep and the pooled text.
//!
//! Shape letters: B batch, C channels, H and W latent pixels, I image tokens, D width, P pooled width.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::Linear;
use rectiflow_nn::ops::{self, Activation};
use rectiflow_nn::{Device, Init, Module, Params, Tensor, from_f32};

/// Width of the sinusoidal timestep features.
const TIMESTEP_FEATURES: usize = 256;

/// Two products with a SiLU between: the embedders of the timestep and of the pooled text.
#[derive(Module, Debug)]
pub(crate) struct VectorEmbedder {
    fc1: Linear,
    fc2: Linear,
}

impl VectorEmbedder {
    pub(crate) fn timestep(params: Params<'_>, width: usize) -> Self {
        VectorEmbedder::pooled(params, TIMESTEP_FEATURES, width)
    }

    pub(crate) fn pooled(mut params: Params<'_>, width_in: usize, width: usize) -> Self {
        VectorEmbedder {
            fc1: Linear::new(params.at("mlp").at(0), width_in, width, Init::Normal(0.02)),
            fc2: Linear::new(params.at("mlp").at(2), width, width, Init::Normal(0.02)),
        }
    }

    /// x `[B, in]`. Returns `[B, D]`.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.fc2.forward(self.fc1.forward_activated(x, Activation::Silu))
    }
}

/// Sinusoids of the timestep, cosines first: `cat[cos(t f), sin(t f)]`, `f = 10000^(-i/128)`.
///
/// timestep `[B]`, in 0..1000 (1000 sigma). Returns `[B, 256]`.
pub(crate) fn timestep_features(timestep_B: Tensor<1>) -> Tensor<2> {
    let half = TIMESTEP_FEATURES / 2;
    // f32 throughout, as the reference: the angle's rounding is part of what the network was trained with.
    let frequencies = (0..half).map(|i| (-(10_000_f32.ln()) * i as f32 / half as f32).exp()).collect();
    let frequencies = from_f32(frequencies, [1, half], &timestep_B.device());
    let angles = timestep_B.unsqueeze_dim::<2>(1) * frequencies;
    Tensor::cat(vec![angles.clone().cos(), angles.sin()], 1)
}

/// A window of `rows` x `columns` patches in the middle of the stored grid.
///
/// grid `[1, G*G, D]`. Returns `[1, rows*columns, D]`.
pub(crate) fn crop_grid(grid_1GD: Tensor<3>, rows: usize, columns: usize) -> Tensor<3> {
    let [_, cells, width] = grid_1GD.dims();
    let side = cells.isqrt();
    let (top, left) = crop_origin(side, rows, columns);
    let window = grid_1GD.reshape([side, side, width]).slice([top..top + rows, left..left + columns]);
    ops::widen(window.reshape([1, rows * columns, width]))
}

/// The same window when the checkpoint stores no grid, by the paper's rule for a 1024-pixel model: the middle
/// 64 patches span 0..16, the grid of the 256-pixel pre-training (arXiv:2403.03206 section 5.3.2).
///
/// The first half of the channels holds the column, the second half the row; each as `cat[sin, cos]`.
pub(crate) fn compute_grid(side: usize, rows: usize, columns: usize, width: usize, device: &Device) -> Tensor<3> {
    const TRAINED_PATCHES: f64 = 64.0;
    const PRETRAINED_PATCHES: f64 = 16.0;
    let (top, left) = crop_origin(side, rows, columns);
    let quarter = width / 4;
    let place =
        |patch: usize| (patch as f64 - (side as f64 - TRAINED_PATCHES) / 2.0) * PRETRAINED_PATCHES / TRAINED_PATCHES;
    let mut values = Vec::with_capacity(rows * columns * width);
    for row in top..top + rows {
        for column in left..left + columns {
            for place in [place(column), place(row)] {
                let angle = |k: usize| place * 10_000_f64.powf(-(k as f64) / quarter as f64);
                values.extend((0..quarter).map(|k| angle(k).sin() as f32));
                values.extend((0..quarter).map(|k| angle(k).cos() as f32));
            }
        }
    }
    from_f32(values, [1, rows * columns, width], device)
}

fn crop_origin(side: usize, rows: usize, columns: usize) -> (usize, usize) {
    assert!(rows <= side && columns <= side, "{rows}x{columns} patches in a positional grid of side {side}");
    ((side - rows) / 2, (side - columns) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rectiflow_nn::to_f32;

    #[test]
    fn timestep_features_are_cosines_then_sines() {
        let features = to_f32(&timestep_features(from_f32(vec![0.0, 731.5], [2], &Device::flex())));
        assert!(features[..128].iter().all(|&x| x == 1.0) && features[128..256].iter().all(|&x| x == 0.0));
        assert!((features[256] - 731.5_f32.cos()).abs() < 1e-6);
        assert!((features[256 + 128] - 731.5_f32.sin()).abs() < 1e-6);
    }

    #[test]
    fn the_crop_is_the_middle_of_the_grid() {
        let grid = from_f32((0..36).map(|x| x as f32).collect(), [1, 36, 1], &Device::flex());
        assert_eq!(to_f32(&crop_grid(grid, 2, 3)), [13.0, 14.0, 15.0, 19.0, 20.0, 21.0]);
    }

    #[test]
    fn the_computed_grid_spans_the_pretraining_grid_in_its_middle() {
        // 64 patches in the middle of 192: the first is at place 0, so all its sines are 0 and cosines 1.
        let grid = to_f32(&compute_grid(192, 64, 64, 8, &Device::flex()));
        assert_eq!(grid[..8], [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        // One patch to the right: column 0.25, row 0. Columns come first.
        let (sin, cos) = 0.25_f32.sin_cos();
        assert!((grid[8] - sin).abs() < 1e-6 && (grid[10] - cos).abs() < 1e-6 && grid[12] == 0.0);
    }

    /// Checks the vectors of patches (row, column) in the window of `rows` x `columns` of a grid of 192.
    #[track_caller]
    fn check_grid(rows: usize, columns: usize, expected: &[([usize; 2], [f32; 16])]) {
        let grid = to_f32(&compute_grid(192, rows, columns, 16, &Device::flex()));
        for ([row, column], vector) in expected {
            let start = (row * columns + column) * 16;
            for (channel, (found, expected)) in grid[start..start + 16].iter().zip(vector).enumerate() {
                assert!((found - expected).abs() < 1e-5, "{row}, {column}, {channel}: {found} for {expected}");
            }
        }
    }

    /// Values of diffusers 0.42.1: `get_2d_sincos_pos_embed(16, 64, base_size=16)` in the middle 64 patches, and
    /// `get_2d_sincos_pos_embed_from_grid` at `(patch - 64) / 4` everywhere, which is equal there.
    #[test]
    #[rustfmt::skip]
    fn the_computed_grid_is_the_references() {
        check_grid(64, 64, &[
            ([5, 40], [
                -0.544_021, 0.841_471, 0.099_833, 0.010_000, -0.839_072, 0.540_302, 0.995_004, 0.999_950,
                0.948_985, 0.124_675, 0.012_500, 0.001_250, 0.315_322, 0.992_198, 0.999_922, 0.999_999,
            ]),
            ([63, 17], [
                -0.894_989, 0.412_321, 0.042_487, 0.004_250, -0.446_088, 0.911_039, 0.999_097, 0.999_991,
                -0.042_024, 0.999_991, 0.156_850, 0.015_749, -0.999_117, -0.004_204, 0.987_623, 0.999_876,
            ]),
        ]);
        check_grid(192, 192, &[
            ([10, 191], [
                0.327_894, -0.033_401, 0.312_193, 0.031_745, 0.944_715, -0.999_442, 0.950_019, 0.999_496,
                -0.803_784, -0.975_723, -0.134_590, -0.013_500, 0.594_921, 0.219_007, 0.990_901, 0.999_909,
            ]),
            ([191, 64], [
                0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0,
                0.327_894, -0.033_401, 0.312_193, 0.031_745, 0.944_715, -0.999_442, 0.950_019, 0.999_496,
            ]),
        ]);
    }
}
