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
                Init::XavierUniform => {
                    let fan_out = shape[0];
                    let bound = (6.0 / (fan_out + count / fan_out.max(1)) as f64).sqrt();
                    (0..count).map(|_| ((rng.uniform() * 2.0 - 1.0) * bound) as f32).collect()
                }
                Init::Normal(std) => (0..count).map(|_| (rng.normal() * f64::from(std)) as f32).collect(),
            };
            TensorData::new(values, shape)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: &str, shape: &[usize], init: Init) -> Vec<f32> {
        RandomInit { seed: 7 }.claim(name, shape, init)().try_into_vec().unwrap()
    }

    #[test]
    fn normal_has_the_deviation_asked_for() {
        let x = values("w", &[100, 400], Init::Normal(0.02));
        let n = x.len() as f32;
        let mean = x.iter().sum::<f32>() / n;
        let std = (x.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt();
        assert!(mean.abs() < 5e-4 && (std - 0.02).abs() < 5e-4, "{mean} {std}");
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
