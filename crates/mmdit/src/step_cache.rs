//! What a step takes over from the steps before: where the first block changes little, neither do those after it.
//!
//! Sources: the first-block cache of ParaAttention and diffusers (`FirstBlockCacheConfig`); forecasting what is reused
//! from the steps before, Liu et al. 2025, arXiv:2503.06923 (TaylorSeer).
//!
//! What this module does not do: choose a threshold. What one costs in quality is in docs/sampling.md.
//!
//! Shape letters: B batch, I image tokens, D width.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::{Tensor, to_f32};

/// How what the later blocks add is known without them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forecast {
    /// It is what it was.
    Same,
    /// It lies on the line through the last two noise levels at which it was computed.
    Line,
}

/// What one batch's steps have computed. A batch of another size, or another picture, begins anew.
#[derive(Debug)]
pub struct StepCache {
    threshold: f32,
    forecast: Forecast,
    /// What the first block added, in the last step that computed all blocks.
    first_BID: Option<Tensor<3>>,
    /// What the blocks after it added, and at which noise level: the last step first.
    later: Vec<(f32, Tensor<3>)>,
    reused: usize,
}

impl StepCache {
    /// `threshold`: the later blocks are left out where what the first one adds differs by less than this part of its mean
    /// absolute value from what it added when they were computed last. 0 leaves out none.
    pub fn new(threshold: f32, forecast: Forecast) -> StepCache {
        StepCache { threshold, forecast, first_BID: None, later: Vec::new(), reused: 0 }
    }

    /// How many times the later blocks were left out.
    pub fn reused(&self) -> usize {
        self.reused
    }

    /// What the later blocks would add at `sigma`, if that is known well enough by what the first one adds.
    pub(crate) fn known(&mut self, first_BID: &Tensor<3>, sigma: f32) -> Option<Tensor<3>> {
        let before_BID = self.first_BID.as_ref().filter(|before_BID| before_BID.dims() == first_BID.dims())?;
        let mean = |x: Tensor<3>| to_f32(&x.abs().mean())[0];
        let change = mean(first_BID.clone() - before_BID.clone()) / mean(before_BID.clone());
        if change.is_nan() || change >= self.threshold {
            return None;
        }
        self.reused += 1;
        match (self.forecast, &self.later[..]) {
            (Forecast::Line, [(last, last_BID), (before, before_BID), ..]) => {
                let ahead = (f64::from(sigma) - f64::from(*last)) / (f64::from(*last) - f64::from(*before));
                Some(last_BID.clone() + (last_BID.clone() - before_BID.clone()) * ahead)
            }
            (_, [(_, last_BID), ..]) => Some(last_BID.clone()),
            (_, []) => None,
        }
    }

    /// Keeps what a step computed.
    pub(crate) fn keep(&mut self, first_BID: Tensor<3>, later_BID: Tensor<3>, sigma: f32) {
        self.later.retain(|(other, kept_BID)| *other != sigma && kept_BID.dims() == later_BID.dims());
        self.later.insert(0, (sigma, later_BID));
        self.later.truncate(2);
        self.first_BID = Some(first_BID);
    }
}

#[cfg(test)]
mod tests {
    use rectiflow_nn::{Device, from_f32};

    use super::*;

    fn tokens(value: f32) -> Tensor<3> {
        from_f32(vec![value, -value], [1, 2, 1], &Device::flex())
    }

    fn known(cache: &mut StepCache, first: f32, sigma: f32) -> Option<f32> {
        cache.known(&tokens(first), sigma).map(|later| to_f32(&later)[0])
    }

    #[test]
    fn what_changed_little_is_reused_or_carried_on() {
        for (forecast, expected) in [(Forecast::Same, 7.0), (Forecast::Line, 8.0)] {
            let mut cache = StepCache::new(0.1, forecast);
            assert_eq!(known(&mut cache, 1.0, 1.0), None, "nothing is known yet");
            cache.keep(tokens(1.0), tokens(5.0), 1.0);
            assert_eq!(known(&mut cache, 1.05, 0.9), Some(5.0), "a line needs two");
            cache.keep(tokens(2.0), tokens(7.0), 0.8);
            assert_eq!(known(&mut cache, 1.7, 0.7), None, "too far");
            assert_eq!(known(&mut cache, 2.1, 0.7), Some(expected));
            assert_eq!(known(&mut cache, f32::NAN, 0.7), None);
            assert_eq!(cache.reused(), 2);
        }
        let mut never = StepCache::new(0.0, Forecast::Same);
        never.keep(tokens(1.0), tokens(5.0), 1.0);
        assert_eq!(known(&mut never, 1.0, 0.9), None);
    }

    #[test]
    fn another_batch_begins_anew() {
        let mut cache = StepCache::new(0.1, Forecast::Line);
        cache.keep(tokens(1.0), tokens(5.0), 1.0);
        let other = from_f32(vec![1.0; 4], [2, 2, 1], &Device::flex());
        assert!(cache.known(&other, 0.9).is_none());
        cache.keep(other.clone(), other.clone() * 3.0, 0.9);
        assert_eq!(to_f32(&cache.known(&other, 0.8).unwrap()), [3.0; 4], "no line through another batch");
    }
}
