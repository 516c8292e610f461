//! Convolutions and group norms, and their gradients.
//!
//! Channels lie last in every picture that is made here, where the next convolution wants them; a picture that comes
//! is read as it lies.

use std::sync::OnceLock;

use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Device, Tensor, TensorData};
use half::bf16;
use rectiflow_kernels::Buffer;
use rectiflow_kernels::picture::{
    ConvShape, Gather, GroupStatistics, NormOf, Picture, PictureSums, ScaleShift, Window, bias_gradient, convolve,
    convolve_input_gradient, convolve_weight_gradient, gather_gradient, gathered_picture, group_statistics,
};
use rectiflow_kernels::product::{self, Epilogue, Output};

use super::super::{Before, GroupNormed};
use super::{
    Floats, PackedWeight, Result, Stored, Weight, contiguous_stored, forwards, isa, stored, strides, values, whole,
};
use crate::{Precision, from_f32};

/// What happens to a picture on its way into a convolution, but for the numbers.
#[derive(Debug)]
pub(in super::super) struct Front {
    /// Groups and eps.
    norm: Option<(usize, f64)>,
    /// Instead of a norm, what one of a whole picture multiplies with and adds, `[B, C]`. Without gradients.
    measured: Option<[Floats; 2]>,
    silu: bool,
    doubled: bool,
    /// Of the norm, once they are known: what a gradient would have to sum again.
    statistics: OnceLock<GroupStatistics>,
}

/// A norm's weight and bias `[C]`.
pub(in super::super) type Affine = [Floats; 2];

impl Front {
    /// And the norm's weight and bias.
    pub(in super::super) fn of(before: Before) -> (Self, Option<[Tensor<1>; 2]>) {
        let Before { normed, measured, silu, doubled } = before;
        let norm = normed.as_ref().map(|norm| (norm.groups, norm.eps));
        let measured = measured.map(|norm| [Floats::of(norm.scale), Floats::of(norm.shift)]);
        let front = Front { norm, measured, silu, doubled, statistics: OnceLock::new() };
        (front, normed.map(|norm| [norm.weight, norm.bias]))
    }

    /// Only a norm.
    pub(in super::super) fn of_norm(norm: GroupNormed) -> (Self, [Tensor<1>; 2]) {
        let GroupNormed { groups, weight, bias, eps } = norm;
        let statistics = OnceLock::new();
        let front = Front { norm: Some((groups, eps)), measured: None, silu: false, doubled: false, statistics };
        (front, [weight, bias])
    }

    pub(in super::super) fn has_norm(&self) -> bool {
        self.norm.is_some()
    }

    fn size(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        if self.doubled { [2 * height, 2 * width] } else { [height, width] }
    }

    fn statistics(&self, picture: Picture<'_>) -> Option<&GroupStatistics> {
        let (groups, eps) = self.norm?;
        Some(self.statistics.get_or_init(|| group_statistics(isa(), picture, groups, eps as f32)))
    }

    /// Runs `work` with what a kernel gathers by.
    fn gather<R>(&self, picture: Picture<'_>, affine: Option<&Affine>, work: impl FnOnce(Gather<'_>) -> R) -> R {
        let scales = self.statistics(picture).zip(affine).map(|(statistics, [weight, bias])| {
            assert_eq!(weight.get().len(), picture.shape[1], "weights of a norm");
            statistics.scales_and_shifts([weight.get(), bias.get()])
        });
        let normed = scales.as_ref().map(|[scale, shift]| ScaleShift { scale, shift });
        let measured =
            self.measured.as_ref().map(|[scale, shift]| ScaleShift { scale: scale.get(), shift: shift.get() });
        let normed = normed.or(measured);
        work(Gather { normed, silu: self.silu, doubled: self.doubled })
    }

    /// x `[B, C, H, W]` after all that happens to it.
    pub(in super::super) fn forward(&self, x: &InPlace, affine: &Affine) -> Stored {
        let picture = x.picture();
        let [batch, channels, height, width] = picture.shape;
        let [tall, wide] = self.size([height, width]);
        let mut out = Buffer::<f32>::reused(batch * channels * tall * wide);
        self.gather(picture, Some(affine), |how| gathered_picture(isa(), picture, how, &mut out));
        last_channels(out, [batch, channels, tall, wide])
    }

    /// Gradients of x and of the norm's weight and bias, from that of [`Self::forward`], channels last.
    pub(in super::super) fn backward(
        &self,
        x: &InPlace,
        affine: Option<&Affine>,
        gradient: &[f32],
    ) -> (Stored, Option<[Stored; 2]>) {
        let picture = x.picture();
        let norm = self.statistics(picture).zip(affine).map(|(statistics, [weight, bias])| NormOf {
            statistics,
            weight: weight.get(),
            bias: bias.get(),
        });
        let mut out = Buffer::<f32>::reused(picture.shape.iter().product());
        let of_norm = gather_gradient(isa(), picture, norm, [self.silu, self.doubled], gradient, &mut out);
        (last_channels(out, picture.shape), of_norm.map(|of_norm| of_norm.map(vector)))
    }
}

/// A convolution, but for the numbers.
#[derive(Debug)]
pub(in super::super) struct Convolution {
    pub(in super::super) front: Front,
    pub(in super::super) window: Window,
    pub(in super::super) precision: Precision,
}

impl Convolution {
    /// x `[B, C, H, W]`, weight `[O, C, K, K]`, bias `[O]`, residual `[B, O, H', W']`.
    pub(in super::super) fn forward(
        &self,
        x: &InPlace,
        affine: Option<&Affine>,
        (weight, packed): (Stored, &PackedWeight),
        bias: &Floats,
        residual: Option<Stored>,
    ) -> Stored {
        let (picture, shape) = (x.picture(), conv_shape(&weight));
        let [batch, channels, height, width] = picture.shape;
        assert_eq!(channels, shape.channels_in, "channels of a convolution");
        let [rows, columns] = shape.size_out(self.window, self.front.size([height, width]));
        let residual = residual.map(pixels);
        let residual = residual.as_ref().map(|x| product::Residual { x: x.get(), gate: None, rows_per_gate: 1 });
        let epilogue = Epilogue { bias: Some(bias.get()), residual, ..Epilogue::default() };
        let weight = contiguous_stored(weight);
        let mut out = Buffer::<f32>::reused(batch * rows * columns * shape.channels_out);
        self.front.gather(picture, affine, |how| match self.precision {
            Precision::F32 => {
                let mut numbers = Buffer::<f32>::reused(shape.packed_len());
                shape.pack(isa(), whole(&weight), &mut numbers);
                convolve(isa(), picture, how, (&numbers, shape), self.window, &epilogue, Output::F32(&mut out));
            }
            Precision::Bf16 | Precision::Int8 => {
                let numbers = packed.bf16(Weight::Tensor(weight), |weight| {
                    let mut numbers = Buffer::reused(shape.packed_len());
                    shape.pack(isa(), whole(weight), &mut numbers);
                    numbers
                });
                convolve(isa(), picture, how, (&numbers, shape), self.window, &epilogue, Output::F32(&mut out));
            }
        });
        last_channels(out, [batch, shape.channels_out, rows, columns])
    }

    /// Gradient of a weight of these sizes. `gradient` is the result's, channels last.
    pub(in super::super) fn weight_gradient(
        &self,
        x: &InPlace,
        affine: Option<&Affine>,
        sizes: [usize; 4],
        gradient: &Floats,
    ) -> Stored {
        let picture = x.picture();
        let mut out = Buffer::<f32>::reused(sizes.iter().product());
        let run = match self.precision {
            Precision::F32 => convolve_weight_gradient::<f32>,
            Precision::Bf16 | Precision::Int8 => convolve_weight_gradient::<bf16>,
        };
        let ways = (shape_of(sizes), self.window);
        self.front.gather(picture, affine, |how| run(isa(), (picture, how), ways, gradient.get(), &mut out));
        Result::F32(out).stored(sizes.to_vec())
    }

    /// Gradients of x and of the norm's weight and bias. `gradient` is the result's, channels last.
    pub(in super::super) fn input_gradient(
        &self,
        x: &InPlace,
        affine: Option<&Affine>,
        weight: Stored,
        gradient: &Floats,
    ) -> (Stored, Option<[Stored; 2]>) {
        let [batch, channels, height, width] = x.picture().shape;
        let [tall, wide] = self.front.size([height, width]);
        let (shape, weight) = (conv_shape(&weight), contiguous_stored(weight));
        let mut gathered = Buffer::<f32>::reused(batch * channels * tall * wide);
        let run = match self.precision {
            Precision::F32 => convolve_input_gradient::<f32>,
            Precision::Bf16 | Precision::Int8 => convolve_input_gradient::<bf16>,
        };
        run(isa(), gradient.get(), [batch, tall, wide], (whole(&weight), shape), self.window, &mut gathered);
        if self.front.norm.is_none() && !self.front.silu && !self.front.doubled {
            return (last_channels(gathered, [batch, channels, height, width]), None);
        }
        self.front.backward(x, affine, &gathered)
    }

    /// Gradient of the bias `[O]`. `gradient` is the result's, channels last.
    pub(in super::super) fn bias_gradient(gradient: &Floats) -> Stored {
        let channels = gradient.shape()[3];
        let mut out = vec![0.0; channels];
        bias_gradient(isa(), gradient.get(), &mut out);
        vector(out)
    }
}

/// [`crate::ops::conv2d`].
pub(in super::super) fn conv2d(
    x_BCHW: Tensor<4>,
    before: Before,
    (weight_OCKK, packed): (Tensor<4>, &PackedWeight),
    bias_O: Tensor<1>,
    window: Window,
    residual: Option<Tensor<4>>,
    precision: Precision,
) -> Tensor<4> {
    let (front, affine) = Front::of(before);
    let affine = affine.map(|affine| affine.map(Floats::of));
    let (x, bias) = (InPlace::new(stored(x_BCHW)), Floats::of(bias_O));
    let convolution = Convolution { front, window, precision };
    let weight = (stored(weight_OCKK), packed);
    from_stored(convolution.forward(&x, affine.as_ref(), weight, &bias, residual.map(stored)))
}

/// [`crate::ops::group_norm`].
pub(in super::super) fn group_norm(x_BCHW: Tensor<4>, norm: GroupNormed) -> Tensor<4> {
    let (front, affine) = Front::of_norm(norm);
    from_stored(front.forward(&InPlace::new(stored(x_BCHW)), &affine.map(Floats::of)))
}

/// strip `[B, C, rows, W]`.
pub(in super::super) fn add_to_sums(sums: &mut PictureSums, strip_BCRW: Tensor<4>) {
    let strip = InPlace::new(stored(strip_BCRW));
    sums.add(isa(), strip.picture());
}

/// What the norm of the picture that was summed multiplies with and adds, `[B, C]` each.
pub(in super::super) fn group_norm_of_sums(sums: &PictureSums, norm: GroupNormed, device: &Device) -> [Tensor<2>; 2] {
    let (weight, bias) = (Floats::of(norm.weight), Floats::of(norm.bias));
    let statistics = sums.statistics(norm.groups, norm.eps as f32);
    statistics.scales_and_shifts([weight.get(), bias.get()]).map(|values| {
        let channels = weight.get().len();
        from_f32(values.clone(), [values.len() / channels, channels], device)
    })
}

/// Pictures below each other, channels last, as convolutions leave them and take them.
pub(in super::super) fn stack_rows(strips: Vec<Tensor<4>>) -> Tensor<4> {
    let device = strips[0].device();
    let [batch, channels, _, width] = strips[0].dims();
    let heights: Vec<usize> = strips.iter().map(|strip| strip.dims()[2]).collect();
    let parts: Vec<Floats> = strips.into_iter().map(|strip| Floats::of(strip.permute([0, 2, 3, 1]))).collect();
    let height = heights.iter().sum::<usize>();
    let mut values = Buffer::<f32>::reused(batch * height * width * channels);
    let mut rest = &mut values[..];
    for index in 0..batch {
        for (part, rows) in parts.iter().zip(&heights) {
            let numbers = rows * width * channels;
            let (place, after) = rest.split_at_mut(numbers);
            place.copy_from_slice(&part.get()[index * numbers..][..numbers]);
            rest = after;
        }
    }
    Result::F32(values).tensor([batch, height, width, channels], &device).permute([0, 3, 1, 2])
}

/// A tensor `[B, C, H, W]` that kernels read as it lies.
pub(in super::super) struct InPlace(Stored);

impl InPlace {
    pub(in super::super) fn new(x: Stored) -> Self {
        InPlace(forwards(x))
    }

    fn picture(&self) -> Picture<'_> {
        let strides = strides(&self.0).try_into().expect("a picture of four axes");
        Picture { values: values(&self.0), shape: self.0.shape().dims(), strides }
    }

    pub(in super::super) fn into_stored(self) -> Stored {
        self.0
    }
}

fn conv_shape(weight: &Stored) -> ConvShape {
    shape_of(weight.shape().dims())
}

fn shape_of([channels_out, channels_in, kernel, _]: [usize; 4]) -> ConvShape {
    ConvShape { channels_out, channels_in, kernel }
}

/// All numbers of a tensor `[B, C, H, W]` in f32, channels last.
pub(in super::super) fn pixels(x: Stored) -> Floats {
    Floats::new(x.permute(&[0, 2, 3, 1]))
}

/// Pixels with their channels last as a tensor `[B, C, H, W]`.
pub(super) fn last_channels(values: Buffer<f32>, [batch, channels, height, width]: [usize; 4]) -> Stored {
    Result::F32(values).stored(vec![batch, height, width, channels]).permute(&[0, 3, 1, 2])
}

fn vector(values: Vec<f32>) -> Stored {
    let length = values.len();
    Stored::from_data(TensorData::new(values, [length]))
}

pub(super) fn from_stored(x: Stored) -> Tensor<4> {
    Tensor::from_primitive::<Flex>(x)
}
