use std::ops::Range;

use burn::tensor::TensorData;

use crate::params::{ParamSource, Read};
use crate::rng::Rng;

/// How a parameter starts when there is no checkpoint: the DiT lineage, as SD3's trainers use it
/// (Xavier-uniform products, normal embedders, zero modulation).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All 0: biases, modulations, the final product.
    Zeros,
    /// All 1: norm weights.
    Ones,
    /// Uniform in +-sqrt(6 / (fan in + fan out)), the shape read as `[out, in, ...]`.
    XavierUniform,
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Normal with mean 1 and this standard deviation: a critic's norm weights.
    NormalAroundOne(f32),
    /// Uniform in +- this bound.
    Uniform(f64),
    /// Places in a square grid as sinusoids, the shape read as `[1, cells, width]`: see [`sinusoids_2d`]. A row or column
    /// is at `first + step * number`.
    Sinusoids2d {
        /// Where the first row and column are.
        first: f64,
        /// From one to the next.
        step: f64,
    },
    /// All this number.
    Constant(f32),
}

impl Init {
    /// How PyTorch starts convolutions and linear layers, weight and bias alike, when nobody says otherwise: uniform in
    /// +-1 / sqrt(fan in), which is `kaiming_uniform_` with `a = sqrt(5)`.
    ///
    /// `fan_in` is the numbers of a weight that go into one output: channels in times places of the window.
    pub fn by_fan_in(fan_in: usize) -> Self {
        Init::Uniform((fan_in as f64).powf(-0.5))
    }

    /// Weights whose outputs vary as much as their inputs: uniform with a variance of 1 / (fan in). What [`Init::by_fan_in`]
    /// gives has a third of that.
    pub fn keeping_size(fan_in: usize) -> Self {
        Init::Uniform((fan_in as f64 / 3.0).powf(-0.5))
    }
}

/// Random parameters, each a function of the seed and the parameter's name, so that the order in which a
/// model asks does not matter.
pub struct RandomInit {
    /// Chooses the values.
    pub seed: u64,
}

impl ParamSource for RandomInit {
    fn shape(&self, _name: &str) -> Option<Vec<usize>> {
        None
    }

    fn claim(&mut self, name: &str, shape: &[usize], init: Init) -> Read {
        let mut rng = Rng::keyed(self.seed, name, 0);
        let shape = shape.to_vec();
        Box::new(move || {
            let count = shape.iter().product();
            let values: Vec<f32> = match init {
                Init::Zeros => vec![0.0; count],
                Init::Ones => vec![1.0; count],
                Init::Constant(number) => vec![number; count],
                Init::XavierUniform => {
                    let fan_out = shape[0];
                    let bound = (6.0 / (fan_out + count / fan_out.max(1)) as f64).sqrt();
                    uniform(&mut rng, count, bound)
                }
                Init::Uniform(bound) => uniform(&mut rng, count, bound),
                Init::Normal(std) => normal(&mut rng, count, 0.0, std),
                Init::NormalAroundOne(std) => normal(&mut rng, count, 1.0, std),
                Init::Sinusoids2d { first, step } => {
                    let side = shape[1].isqrt();
                    sinusoids_2d([0..side, 0..side], shape[2], |number| first + step * number as f64)
                }
            };
            TensorData::new(values, shape)
        })
    }
}

fn uniform(rng: &mut Rng, count: usize, bound: f64) -> Vec<f32> {
    (0..count).map(|_| ((rng.uniform() * 2.0 - 1.0) * bound) as f32).collect()
}

fn normal(rng: &mut Rng, count: usize, mean: f64, std: f32) -> Vec<f32> {
    (0..count).map(|_| (mean + rng.normal() * f64::from(std)) as f32).collect()
}

/// Sinusoids of the places of some rows and columns, `width` numbers for each, row by row. The first half of them holds
/// the column, the second the row; each as sines and then cosines of `place * 10000^(-4 k / width)`.
///
/// Source: Stability-AI/sd3.5 `mmditx.py`, `get_2d_sincos_pos_embed`; arXiv:2403.03206, section 5.3.2.
pub fn sinusoids_2d([rows, columns]: [Range<usize>; 2], width: usize, place: impl Fn(usize) -> f64) -> Vec<f32> {
    let quarter = width / 4;
    let mut values = Vec::with_capacity(rows.len() * columns.len() * width);
    for row in rows {
        for column in columns.clone() {
            for place in [place(column), place(row)] {
                let angle = |k: usize| place * 10_000_f64.powf(-(k as f64) / quarter as f64);
                values.extend((0..quarter).map(|k| angle(k).sin() as f32));
                values.extend((0..quarter).map(|k| angle(k).cos() as f32));
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: &str, shape: &[usize], init: Init) -> Vec<f32> {
        RandomInit { seed: 7 }.claim(name, shape, init)().try_into_vec().unwrap()
    }

    #[test]
    fn normal_has_the_mean_and_the_deviation_asked_for() {
        for (init, expected) in [(Init::Normal(0.02), 0.0), (Init::NormalAroundOne(0.02), 1.0)] {
            let x = values("w", &[100, 400], init);
            let n = x.len() as f64;
            let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
            let std = (x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt();
            assert!((mean - expected).abs() < 5e-4 && (std - 0.02).abs() < 5e-4, "{mean} {std}");
        }
    }

    #[test]
    fn by_fan_in_fills_its_bound_and_no_more() {
        let x = values("w", &[60, 4, 3, 3], Init::by_fan_in(36));
        let largest = x.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        assert!(largest <= 1.0 / 6.0 && largest > 0.99 / 6.0, "{largest}");
        let variance = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
        assert!((variance * 36.0 - 1.0 / 3.0).abs() < 0.02, "{variance}");
    }

    #[test]
    fn xavier_fills_its_bound_and_no_more() {
        let x = values("w", &[30, 90], Init::XavierUniform);
        let bound = (6.0_f32 / 120.0).sqrt();
        let largest = x.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        assert!(largest <= bound && largest > 0.99 * bound, "{largest} {bound}");
    }

    #[test]
    fn names_choose_the_values_and_the_order_of_asking_does_not() {
        assert_eq!(values("a", &[8], Init::Normal(1.0)), values("a", &[8], Init::Normal(1.0)));
        assert_ne!(values("a", &[8], Init::Normal(1.0)), values("b", &[8], Init::Normal(1.0)));
    }
}
