use std::num::NonZeroUsize;

use crate::shifted;

/// Levels in the training table, before the shift: 1/1000, 2/1000, ..., 1.
const TRAINING_LEVELS: f32 = 1000.0;

/// Noise levels: starts at 1, strictly decreases, ends at 0. Cannot be built otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule(Vec<f32>);

/// There is no schedule with these numbers.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// The shift divides by zero or turns levels negative.
    #[error("a shift of {shift} is not possible: give a finite number above 0 (SD3 models use 3)")]
    Shift {
        /// The shift asked for.
        shift: f32,
    },
    /// f32 has too few numbers for so many levels so close together.
    #[error(
        "{steps} steps with shift {shift} need noise levels closer together than f32 can tell apart: \
         use fewer steps or a shift nearer to 1"
    )]
    TooDense {
        /// The number of steps asked for.
        steps: NonZeroUsize,
        /// The shift asked for.
        shift: f32,
    },
}

impl Schedule {
    /// The schedule that the SD3 releases are sampled with.
    ///
    /// `steps` levels evenly spaced from 1 to the lowest level seen in training, all shifted towards noise,
    /// then 0. That lowest level is itself a shifted one, so the shift acts twice on it: a quirk of the
    /// reference (Stability-AI/sd3.5 `sd3_impls.py`) and of diffusers' `FlowMatchEulerDiscreteScheduler`,
    /// kept because it is what images are compared with.
    ///
    /// steps: model evaluations of a first-order solver.  shift: 1 leaves the levels evenly spaced, above 1
    /// spends more steps near noise; SD3 and SD3.5 use 3 (arXiv:2403.03206, sec. 5.3.2).
    ///
    /// Equal to diffusers bit for bit, except where diffusers' own rounding starts a schedule beside 1 (shift
    /// 0.1 does): this one starts at 1.
    ///
    /// # Errors
    /// `shift` is not a finite number above 0, or neighbouring levels would be the same f32.
    pub fn released(steps: NonZeroUsize, shift: f32) -> Result<Schedule, ScheduleError> {
        if !(shift.is_finite() && shift > 0.0) {
            return Err(ScheduleError::Shift { shift });
        }

        let lowest = f64::from(lowest_training_level(shift));
        let intervals = steps.get() - 1;
        let between = (1..intervals).map(|index| 1.0 + index as f64 * ((lowest - 1.0) / intervals as f64));
        let last = (intervals > 0).then_some(lowest);
        let lower = between.chain(last).map(|evenly_spaced| shifted(evenly_spaced, f64::from(shift)) as f32);

        let sigmas = std::iter::once(1.0).chain(lower).chain([0.0]);
        strictly_decreasing(sigmas).map(Schedule).ok_or(ScheduleError::TooDense { steps, shift })
    }

    /// Every level, from 1 to 0: one more than there are steps.
    pub fn sigmas(&self) -> &[f32] {
        &self.0
    }

    /// The steps in order, each as the level it starts from and the lower level it leads to.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = (f32, f32)> + '_ {
        self.0.windows(2).map(|pair| (pair[0], pair[1]))
    }

    /// Number of steps, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a schedule always has a step")]
    pub fn len(&self) -> usize {
        self.0.len() - 1
    }
}

/// All of `levels` if each is below the one before. Stops at the first that is not, so that asking for too many
/// costs no memory.
fn strictly_decreasing(levels: impl Iterator<Item = f32>) -> Option<Vec<f32>> {
    let mut sigmas = Vec::new();
    for sigma in levels {
        if !sigmas.last().is_none_or(|&previous| sigma < previous) {
            return None;
        }
        sigmas.push(sigma);
    }
    Some(sigmas)
}

/// [`shifted`] for the lowest training level, in f32: diffusers keeps that table as an f32 tensor, and for
/// some shifts (5, 1.15) one f64 computation rounds to the neighbouring number.
fn lowest_training_level(shift: f32) -> f32 {
    let sigma = 1.0 / TRAINING_LEVELS;
    shift * sigma / (1.0 + (f64::from(shift) - 1.0) as f32 * sigma)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn released(steps: usize, shift: f32) -> Result<Schedule, ScheduleError> {
        Schedule::released(NonZeroUsize::new(steps).unwrap(), shift)
    }

    proptest! {
        #[test]
        fn starts_at_1_strictly_decreases_and_ends_at_0(steps in 1_usize..400, shift in 0.01_f32..50.0) {
            let schedule = released(steps, shift).unwrap();
            prop_assert_eq!(schedule.sigmas()[0], 1.0);
            prop_assert_eq!(schedule.sigmas()[steps], 0.0);
            prop_assert!(schedule.steps().all(|(sigma, sigma_next)| sigma_next < sigma));
            prop_assert_eq!((schedule.len(), schedule.steps().len()), (steps, steps));
        }
    }

    #[test]
    fn steps_meet_end_to_end() {
        let schedule = released(2, 1.0).unwrap();
        assert_eq!(schedule.steps().collect::<Vec<_>>(), [(1.0, 0.001), (0.001, 0.0)]);
    }

    #[test]
    fn a_shift_that_is_no_positive_number_is_refused() {
        for shift in [0.0, -3.0, f32::INFINITY, f32::NAN] {
            let error = released(28, shift).unwrap_err();
            assert!(matches!(error, ScheduleError::Shift { .. }), "{shift}: {error}");
        }
    }

    #[test]
    fn levels_that_f32_cannot_tell_apart_are_refused() {
        for (steps, shift) in [(50, 1e7), (usize::MAX, 3.0), (2, 1e-30)] {
            let error = released(steps, shift).unwrap_err();
            assert!(matches!(error, ScheduleError::TooDense { .. }), "{steps}, {shift}: {error}");
        }
    }
}
