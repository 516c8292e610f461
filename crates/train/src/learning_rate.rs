//! The learning rate of each step: a function of the step's number, so that it can be changed in the middle of a run.

use serde::{Deserialize, Serialize};

/// How the learning rate moves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// After the warm-up, before the shape and the changes.
    pub learning_rate: f64,
    /// Steps in which the rate rises evenly to its full height; the first has `1 / warmup_steps` of it.
    #[serde(default)]
    pub warmup_steps: u64,
    /// What follows.
    #[serde(default)]
    pub shape: Shape,
    /// From a step on, another full height; in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// What the rate does after its warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// It stays.
    #[default]
    Constant,
    /// It falls along half a cosine to 0 at the last step.
    Cosine,
    /// It falls evenly to 0 at the last step.
    Linear,
}

/// Another learning rate from a step on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The first step, counted from 0, that has it.
    pub step: u64,
    /// Its full height.
    pub learning_rate: f64,
}

impl Schedule {
    /// The rate of `step`, counted from 0, in a run of `steps`.
    pub fn at(&self, step: u64, steps: u64) -> f64 {
        let changed = self.changes.iter().rev().find(|change| change.step <= step);
        let full = changed.map_or(self.learning_rate, |change| change.learning_rate);
        if step < self.warmup_steps {
            return full * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let length = steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let gone = ((step - self.warmup_steps) as f64 / length).min(1.0);
        full * match self.shape {
            Shape::Constant => 1.0,
            Shape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * gone).cos()),
            Shape::Linear => 1.0 - gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(shape: Shape, changes: &[(u64, f64)]) -> Schedule {
        let changes = changes.iter().map(|&(step, learning_rate)| Change { step, learning_rate }).collect();
        Schedule { learning_rate: 2.0, warmup_steps: 4, shape, changes }
    }

    #[test]
    fn the_rate_rises_evenly_and_then_does_what_its_shape_says() {
        let at = |shape, step| schedule(shape, &[]).at(step, 104);
        assert_eq!([0, 1, 2, 3, 4].map(|step| at(Shape::Constant, step)), [0.5, 1.0, 1.5, 2.0, 2.0]);
        assert_eq!(at(Shape::Constant, 1_000_000), 2.0);
        assert_eq!([4, 29, 54].map(|step| at(Shape::Linear, step)), [2.0, 1.5, 1.0]);
        assert!((at(Shape::Cosine, 54) - 1.0).abs() < 1e-12 && at(Shape::Cosine, 104).abs() < 1e-12);
        assert!((at(Shape::Cosine, 29) - (1.0 + 0.5_f64.sqrt())).abs() < 1e-12);
    }

    #[test]
    fn a_change_holds_from_its_step_on() {
        let schedule = schedule(Shape::Constant, &[(10, 1.0), (20, 0.25)]);
        assert_eq!([9, 10, 19, 20, 99].map(|step| schedule.at(step, 100)), [2.0, 1.0, 1.0, 0.25, 0.25]);
    }

    #[test]
    fn without_a_warm_up_the_first_step_has_the_full_rate() {
        let schedule = Schedule { warmup_steps: 0, ..schedule(Shape::Cosine, &[]) };
        assert_eq!(schedule.at(0, 10), 2.0);
    }
}
