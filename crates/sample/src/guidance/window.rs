//! In which steps something is done, and how much in each.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Steps from one part of a schedule to another, the first included and the last not: SD3's skip-layer guidance is from
/// 0.01 to 0.2.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[f32; 2]", into = "[f32; 2]")]
pub struct Window {
    start: f32,
    stop: f32,
}

/// No window.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("from {start} to {stop} there are no steps: give parts of the schedule, 0 for its begin and 1 for its end")]
pub struct BadWindow {
    start: f32,
    stop: f32,
}

impl Window {
    /// Every step.
    pub const ALL: Window = Window { start: 0.0, stop: 1.0 };

    /// From `start` to `stop`, both in parts of the schedule, 0 to 1.
    ///
    /// # Errors
    /// They are not in this order or not in 0 to 1.
    pub const fn new(start: f32, stop: f32) -> Result<Window, BadWindow> {
        // Not the other way round: NaN is refused.
        if start >= 0.0 && start < stop && stop <= 1.0 {
            Ok(Window { start, stop })
        } else {
            Err(BadWindow { start, stop })
        }
    }

    /// Whether step `step`, counted from 0, of `steps` is in it.
    pub fn contains(self, step: usize, steps: usize) -> bool {
        let at = |part: f32| f64::from(part) * steps as f64;
        // So that 0.2 of 10 steps are 2, whatever 0.2 is in f32.
        const ROUNDING: f64 = 1e-6;
        let step = step as f64 + ROUNDING * steps as f64;
        at(self.start) <= step && step < at(self.stop)
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.start, self.stop)
    }
}

/// Guidance scales of the steps, one after the other; the last one is that of all further ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f32>", into = "Vec<f32>")]
pub struct Scales(Vec<f32>);

/// No scale.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no guidance scale: give a number, or one for each step, as in 7,6,5")]
pub struct BadScales(String);

impl Scales {
    /// The same in every step.
    pub fn one(scale: f32) -> Scales {
        Scales(vec![scale])
    }

    /// Of a step, counted from 0.
    pub fn at(&self, step: usize) -> f32 {
        self.0[step.min(self.0.len() - 1)]
    }

    /// Each changed in the same way.
    #[must_use]
    pub fn map(self, change: impl Fn(f32) -> f32) -> Scales {
        Scales(self.0.into_iter().map(change).collect())
    }

    /// All of them.
    pub fn all(&self) -> &[f32] {
        &self.0
    }
}

impl FromStr for Scales {
    type Err = BadScales;

    /// `4.5`, or one for each step: `7,6,5,4`.
    fn from_str(text: &str) -> Result<Self, BadScales> {
        let scales: Result<Vec<f32>, _> = text.split(',').map(|scale| scale.trim().parse()).collect();
        scales.map(Scales).map_err(|_| BadScales(text.to_owned()))
    }
}

impl TryFrom<Vec<f32>> for Scales {
    type Error = BadScales;

    fn try_from(scales: Vec<f32>) -> Result<Self, BadScales> {
        if scales.is_empty() { Err(BadScales(String::new())) } else { Ok(Scales(scales)) }
    }
}

impl From<Scales> for Vec<f32> {
    fn from(scales: Scales) -> Self {
        scales.0
    }
}

impl TryFrom<[f32; 2]> for Window {
    type Error = BadWindow;

    fn try_from([start, stop]: [f32; 2]) -> Result<Self, BadWindow> {
        Window::new(start, stop)
    }
}

impl From<Window> for [f32; 2] {
    fn from(window: Window) -> Self {
        [window.start, window.stop]
    }
}

impl std::fmt::Display for Scales {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scales: Vec<String> = self.0.iter().map(f32::to_string).collect();
        f.pad(&scales.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_its_first_step_and_not_its_last() {
        let steps = |start, stop, of| {
            let window = Window::new(start, stop).unwrap();
            (0..of).filter(|step| window.contains(*step, of)).collect::<Vec<_>>()
        };
        assert_eq!(steps(0.01, 0.2, 28), [1, 2, 3, 4, 5]);
        assert_eq!(steps(0.0, 0.2, 10), [0, 1]);
        assert_eq!(steps(0.3, 0.7, 10), [3, 4, 5, 6]);
        assert_eq!(steps(0.0, 1.0, 3), [0, 1, 2]);
        assert!((0..3).all(|step| Window::ALL.contains(step, 3)));
        for (start, stop) in [(-0.1, 0.5), (0.5, 0.5), (0.7, 0.2), (0.0, 1.1), (f32::NAN, 1.0), (0.0, f32::NAN)] {
            let error = Window::new(start, stop).unwrap_err().to_string();
            assert!(error.contains("parts of the schedule"), "{error}");
        }
    }

    #[test]
    fn scales_are_one_for_all_steps_or_one_for_each() {
        let scales: Scales = "7, 6,5".parse().unwrap();
        assert_eq!([0, 1, 2, 3, 99].map(|step| scales.at(step)), [7.0, 6.0, 5.0, 5.0, 5.0]);
        assert_eq!((scales.to_string(), Scales::one(4.5).to_string()), ("7,6,5".to_owned(), "4.5".to_owned()));
        assert_eq!("4.5".parse(), Ok(Scales::one(4.5)));
        assert_eq!(scales.map(|scale| scale.max(5.5)).all(), [7.0, 6.0, 5.5]);
        assert!(Scales::try_from(vec![]).is_err());
        for text in ["", "7,,5", "seven"] {
            assert!(text.parse::<Scales>().is_err(), "{text}");
        }
    }
}
