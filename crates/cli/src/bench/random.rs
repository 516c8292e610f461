//! Networks of the released sizes without files: parameters that are quickly made.

use half::bf16;
use rectiflow_nn::{Init, ParamSource, Read, TensorData};

/// Matrices of small bf16 numbers, vectors of ones or zeros as they start in training.
pub(super) struct RandomParams;

impl ParamSource for RandomParams {
    fn shape(&self, _name: &str) -> Option<Vec<usize>> {
        None
    }

    fn claim(&mut self, name: &str, shape: &[usize], init: Init) -> Read {
        let (shape, seed) = (shape.to_vec(), name.len() as u64);
        Box::new(move || {
            let count: usize = shape.iter().product();
            if shape.len() == 1 {
                let value = if init == Init::Ones { 1.0 } else { 0.0 };
                return TensorData::new(vec![value; count], shape);
            }
            let inner = (count / shape[0].max(1)).max(1);
            let scale = (3.0 / inner as f32).sqrt();
            TensorData::new(numbers(seed, count, scale).map(bf16::from_f32).collect::<Vec<_>>(), shape)
        })
    }
}

/// Reproducible numbers in -`scale`..`scale`.
pub(super) fn numbers(seed: u64, count: usize, scale: f32) -> impl Iterator<Item = f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count).map(move |_| {
        // Knuth's linear congruential generator; its upper bits are good enough for work that is only timed.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0) * scale
    })
}
