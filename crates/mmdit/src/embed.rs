//! What goes into the blocks: patches with their places, the timestep and the pooled text.
//!
//! Shape letters: B batch, C channels, H and W latent pixels, I image tokens, D width, P pooled width.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::Linear;
use rectiflow_nn::ops::{self, Activation};
use rectiflow_nn::{Device, Init, Module, Params, Tensor, from_f32, sinusoids_2d};

use crate::config::Frame;

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

/// The window of `size` patches whose top left one is at `corner` of the stored grid.
///
/// grid `[1, G*G, D]`. Returns `[1, rows*columns, D]`.
pub(crate) fn crop_grid(grid_1GD: Tensor<3>, [top, left]: [usize; 2], [rows, columns]: [usize; 2]) -> Tensor<3> {
    let [_, cells, width] = grid_1GD.dims();
    let side = cells.isqrt();
    let window = grid_1GD.reshape([side, side, width]).slice([top..top + rows, left..left + columns]);
    ops::widen(window.reshape([1, rows * columns, width]))
}

/// The same window when the checkpoint stores no grid.
pub(crate) fn compute_grid(
    frame: &Frame,
    [top, left]: [usize; 2],
    [rows, columns]: [usize; 2],
    device: &Device,
) -> Tensor<3> {
    let places = [top..top + rows, left..left + columns];
    let values = sinusoids_2d(places, frame.width, |number| frame.place(number));
    from_f32(values, [1, rows * columns, frame.width], device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MmditConfig;
    use rectiflow_nn::{ParamSource, RandomInit, to_f32};

    #[test]
    fn timestep_features_are_cosines_then_sines() {
        let features = to_f32(&timestep_features(from_f32(vec![0.0, 731.5], [2], &Device::flex())));
        assert!(features[..128].iter().all(|&x| x == 1.0) && features[128..256].iter().all(|&x| x == 0.0));
        assert!((features[256] - 731.5_f32.cos()).abs() < 1e-6);
        assert!((features[256 + 128] - 731.5_f32.sin()).abs() < 1e-6);
    }

    #[test]
    fn a_crop_is_a_window_of_the_grid() {
        let grid = from_f32((0..36).map(|x| x as f32).collect(), [1, 36, 1], &Device::flex());
        assert_eq!(to_f32(&crop_grid(grid.clone(), [2, 1], [2, 3])), [13.0, 14.0, 15.0, 19.0, 20.0, 21.0]);
        assert_eq!(to_f32(&crop_grid(grid, [4, 4], [2, 2])), [28.0, 29.0, 34.0, 35.0]);
    }

    fn frame(grid: usize, width: usize) -> Frame {
        Frame { grid, width, ..MmditConfig::of_depth(1).frame() }
    }

    #[test]
    fn the_computed_grid_spans_the_pretraining_grid_in_its_middle() {
        // 64 patches in the middle of 192: the first is at place 0, so all its sines are 0 and cosines 1.
        let grid = to_f32(&compute_grid(&frame(192, 8), [64, 64], [64, 64], &Device::flex()));
        assert_eq!(grid[..8], [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        // One patch to the right: column 0.25, row 0. Columns come first.
        let (sin, cos) = 0.25_f32.sin_cos();
        assert!((grid[8] - sin).abs() < 1e-6 && (grid[10] - cos).abs() < 1e-6 && grid[12] == 0.0);
    }

    /// `(p - (h_max - s) / 2) 256 / S` for p = 0..h_max, with s = S / 16: arXiv:2403.03206, section 5.3.2.
    #[test]
    fn a_new_network_stores_the_grid_of_its_training_side() {
        for (side_px, patches, grid) in [(256.0, 16, 24), (512.0, 32, 48), (1024.0, 64, 192), (1440.0, 90, 100)] {
            let frame = Frame { grid_trained: patches, ..frame(grid, 8) };
            let mut source = RandomInit { seed: 0 };
            let stored = source.claim("pos_embed", &[1, grid * grid, 8], frame.positions())();
            let stored: Vec<f32> = stored.try_into_vec().unwrap();
            let place = |p: usize| (p as f64 - (grid as f64 - side_px / 16.0) / 2.0) * 256.0 / side_px;
            for (row, column) in [(0, 0), (3, 11), (grid - 1, 5)] {
                let found = &stored[(row * grid + column) * 8..][..8];
                let axis = |place: f64| [place.sin(), (place / 100.0).sin(), place.cos(), (place / 100.0).cos()];
                for (found, expected) in found.iter().zip([axis(place(column)), axis(place(row))].concat()) {
                    assert!((f64::from(*found) - expected).abs() < 1e-6, "{side_px}: {found} for {expected}");
                }
            }
        }
    }

    /// Checks the vectors of patches (row, column) in the window of `rows` x `columns` of a grid of 192.
    #[track_caller]
    fn check_grid(rows: usize, columns: usize, expected: &[([usize; 2], [f32; 16])]) {
        let corner = [(192 - rows) / 2, (192 - columns) / 2];
        let grid = to_f32(&compute_grid(&frame(192, 16), corner, [rows, columns], &Device::flex()));
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
