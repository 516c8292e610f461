//! Pictures that are there only in strips of rows: their group norms, and putting rows together.

use burn::tensor::{DType, Device, Tensor};
use rectiflow_kernels::picture;

use super::{Before, GroupNormed, cpu};
use crate::{from_f32, to_f32};

/// A group norm whose mean and deviation are known: `x * scale + shift`.
#[derive(Clone, Debug)]
pub struct ScaleShift {
    /// `[B, C]`.
    pub scale: Tensor<2>,
    /// `[B, C]`.
    pub shift: Tensor<2>,
}

impl ScaleShift {
    /// The norm and then SiLU, for a convolution to do as it reads the picture.
    pub fn then_silu(self) -> Before {
        Before { measured: Some(self), silu: true, ..Before::default() }
    }

    /// x `[B, C, H, W]`.
    pub(super) fn apply(self, x_BCHW: Tensor<4>) -> Tensor<4> {
        let [batch, channels, _, _] = x_BCHW.dims();
        x_BCHW * self.scale.reshape([batch, channels, 1, 1]) + self.shift.reshape([batch, channels, 1, 1])
    }
}

/// Sums over the pixels of a picture that comes in strips of rows, from the first row to the last.
#[derive(Debug, Default)]
pub struct PictureSums(Option<Sums>);

#[derive(Debug)]
enum Sums {
    Kernels(picture::PictureSums, Device),
    /// Of every channel of every picture.
    Composed(Vec<Moments>, [usize; 2], Device),
}

/// Number, mean, and sum of squared distances from it.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Of both together: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing
    /// sample variances".
    fn and(self, other: Moments) -> Moments {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        let apart = other.mean - self.mean;
        Moments {
            count,
            mean: self.mean + apart * other.count / count,
            squares: self.squares + other.squares + apart * apart * self.count * other.count / count,
        }
    }
}

impl PictureSums {
    /// The next rows. strip `[B, C, rows, W]`.
    pub fn add(&mut self, strip_BCRW: Tensor<4>) {
        let (shape, device) = (strip_BCRW.dims(), strip_BCRW.device());
        let [batch, channels, _, _] = shape;
        let sums = self.0.get_or_insert_with(|| match cpu::serves(&strip_BCRW) {
            true => Sums::Kernels(picture::PictureSums::new(shape), device),
            false => Sums::Composed(vec![Moments::default(); batch * channels], [batch, channels], device),
        });
        match sums {
            Sums::Kernels(sums, _) => cpu::add_to_sums(sums, strip_BCRW),
            Sums::Composed(moments, _, _) => {
                for (moments, more) in moments.iter_mut().zip(moments_of(strip_BCRW)) {
                    *moments = moments.and(more);
                }
            }
        }
    }

    /// The norm of the whole picture.
    ///
    /// # Panics
    /// There was no strip: a bug of the caller.
    pub fn group_norm(&self, norm: GroupNormed) -> ScaleShift {
        match self.0.as_ref().expect("a picture has rows") {
            Sums::Kernels(sums, device) => {
                let [scale, shift] = cpu::group_norm_of_sums(sums, norm, device);
                ScaleShift { scale, shift }
            }
            Sums::Composed(moments, shape, device) => group_norm_of_moments(moments, *shape, norm, device),
        }
    }
}

fn moments_of(strip_BCRW: Tensor<4>) -> Vec<Moments> {
    let [batch, channels, rows, width] = strip_BCRW.dims();
    let strip_BCP = strip_BCRW.cast(DType::F32).reshape([batch, channels, rows * width]);
    let mean = strip_BCP.clone().mean_dim(2);
    let squares = (strip_BCP - mean.clone()).square().sum_dim(2);
    let of = |(mean, squares): (f32, f32)| Moments {
        count: (rows * width) as f64,
        mean: f64::from(mean),
        squares: f64::from(squares),
    };
    to_f32(&mean).into_iter().zip(to_f32(&squares)).map(of).collect()
}

fn group_norm_of_moments(
    moments: &[Moments],
    [batch, channels]: [usize; 2],
    norm: GroupNormed,
    device: &Device,
) -> ScaleShift {
    let (weight, bias) = (to_f32(&norm.weight), to_f32(&norm.bias));
    let in_group = channels / norm.groups;
    let (mut scale, mut shift) = (Vec::new(), Vec::new());
    for (index, group) in moments.chunks(in_group).enumerate() {
        let all = group.iter().fold(Moments::default(), |all, one| all.and(*one));
        let inverse = 1.0 / (all.squares / all.count + norm.eps).sqrt();
        let first = index * in_group % channels;
        for channel in first..first + in_group {
            let factor = inverse * f64::from(weight[channel]);
            scale.push(factor as f32);
            shift.push((f64::from(bias[channel]) - all.mean * factor) as f32);
        }
    }
    let tensor = |values| from_f32(values, [batch, channels], device);
    ScaleShift { scale: tensor(scale), shift: tensor(shift) }
}

/// Pictures below each other as one. Each `[B, C, _, W]`, f32, at least one.
pub fn stack_rows(mut strips: Vec<Tensor<4>>) -> Tensor<4> {
    match strips.len() {
        1 => strips.remove(0),
        _ if cpu::serves(&strips[0]) => cpu::stack_rows(strips),
        _ => Tensor::cat(strips, 2),
    }
}
