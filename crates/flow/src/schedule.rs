mod spacing;

use std::num::NonZeroUsize;

use crate::shifted;

pub use spacing::{Spacing, UnknownSpacing};

/// Levels in the training table, before the shift: 1/1000, 2/1000, ..., 1.
const TRAINING_LEVELS: f32 = 1000.0;

/// Noise levels: starts at 1 or below, strictly decreases, ends at 0. Cannot be built otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule(Vec<f32>);

/// There is no schedule with these numbers.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
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
    /// Levels that somebody gave.
    #[error("{why}: give levels from 1 downwards, each lower than the one before, as in 1,0.9,0.6,0.2; 0 is added")]
    Levels {
        /// What is wrong with them.
        why: String,
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

    /// As many steps, spaced in another way between the same ends; [`Spacing::Released`] is [`Schedule::released`].
    ///
    /// # Errors
    /// As there.
    pub fn spaced(spacing: Spacing, steps: NonZeroUsize, shift: f32) -> Result<Schedule, ScheduleError> {
        let released = Schedule::released(steps, shift)?;
        let levels = spacing.between(&released.0[..steps.get()], shift);
        strictly_decreasing(levels.into_iter().chain([0.0]))
            .map(Schedule)
            .ok_or(ScheduleError::TooDense { steps, shift })
    }

    /// These levels, and 0 if it is not the last of them.
    ///
    /// # Errors
    /// A level is not between 0 and 1, not below the one before, or there is none.
    pub fn custom(levels: &[f32]) -> Result<Schedule, ScheduleError> {
        let above = levels.strip_suffix(&[0.0]).unwrap_or(levels);
        let problem = |why: String| Err(ScheduleError::Levels { why });
        if above.is_empty() {
            return problem("there is no noise level to start from".to_owned());
        }
        if let Some(level) = above.iter().find(|level| !(**level > 0.0 && **level <= 1.0)) {
            return problem(format!("{level} is no noise level"));
        }
        if let Some([before, level]) = above.array_windows().find(|[before, level]| level >= before) {
            return problem(format!("the noise level {level} comes after {before}"));
        }
        Ok(Schedule([above, &[0.0]].concat()))
    }

    /// Every level, from the first to 0: one more than there are steps.
    pub fn sigmas(&self) -> &[f32] {
        &self.0
    }

    /// Where the steps start, in order: every level but 0.
    pub fn starts(&self) -> &[f32] {
        &self.0[..self.len()]
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
    fn other_spacings_are_diffusers() {
        // FlowMatchEulerDiscreteScheduler(shift=3.0) with use_karras_sigmas, use_exponential_sigmas and use_beta_sigmas,
        // set_timesteps(6); ComfyUI's linear_quadratic of 6 steps.
        for (spacing, expected) in [
            (Spacing::Simple, [1.0, 0.9375, 0.8571429, 0.75, 0.6, 0.375]),
            (Spacing::Karras, [1.0000000, 0.4855076, 0.2168862, 0.0872319, 0.0306085, 0.0089286]),
            (Spacing::Exponential, [1.0000000, 0.3891853, 0.1514652, 0.0589480, 0.0229417, 0.0089286]),
            (Spacing::Beta, [1.0000000, 0.8781757, 0.6405374, 0.3683912, 0.1307528, 0.0089286]),
            (Spacing::LinearQuadratic, [1.0000000, 0.9916667, 0.9833333, 0.975, 0.8611111, 0.5361111]),
        ] {
            let schedule = Schedule::spaced(spacing, NonZeroUsize::new(6).unwrap(), 3.0).unwrap();
            for (found, expected) in schedule.sigmas().iter().zip(expected) {
                assert!((found - expected).abs() < 2e-6, "{spacing}: {found}, expected {expected}");
            }
            assert_eq!((schedule.len(), schedule.sigmas()[6]), (6, 0.0), "{spacing}");
        }
    }

    proptest! {
        #[test]
        fn every_spacing_is_a_schedule(steps in 1_usize..100, shift in 0.1_f32..20.0) {
            for spacing in Spacing::ALL {
                let steps = NonZeroUsize::new(steps).unwrap();
                let schedule = Schedule::spaced(spacing, steps, shift).unwrap();
                prop_assert_eq!((schedule.len(), schedule.sigmas()[0]), (steps.get(), 1.0));
                prop_assert!(schedule.steps().all(|(sigma, sigma_next)| sigma_next < sigma));
            }
        }
    }

    #[test]
    fn levels_of_ones_own_end_at_0_and_go_down() {
        let custom = |levels: &[f32]| Schedule::custom(levels).map(|schedule| schedule.sigmas().to_vec());
        assert_eq!(custom(&[1.0, 0.5]).unwrap(), [1.0, 0.5, 0.0]);
        assert_eq!(custom(&[0.8, 0.5, 0.0]).unwrap(), [0.8, 0.5, 0.0]);
        for (levels, expected) in [
            (&[][..], "no noise level to start"),
            (&[0.0], "no noise level to start"),
            (&[1.5, 0.5], "1.5 is no noise level"),
            (&[1.0, f32::NAN], "NaN is no noise level"),
            (&[1.0, 0.0, 0.5], "0 is no noise level"),
            (&[0.5, 0.5], "0.5 comes after 0.5"),
        ] {
            let error = custom(levels).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("1,0.9,0.6,0.2"), "{error}");
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
