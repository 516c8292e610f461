//! Scales of a chart: from values to places, and round numbers to write beside them.

/// Along one direction of a chart.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    /// The least and the largest that fit; logarithms of them if it is logarithmic.
    range: [f64; 2],
    is_logarithmic: bool,
}

/// More than this from the least to the largest value, and a linear axis would show only the large ones.
const DECADES_LINEAR: f64 = 2.0;

impl Axis {
    /// For values that are finite; logarithmic if they span more than two decades and none is zero or less.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Axis {
        let (least, largest) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), v| (least.min(v), most.max(v)));
        if least > largest {
            return Axis { range: [0.0, 1.0], is_logarithmic: false };
        }
        let is_logarithmic = least > 0.0 && (largest / least).log10() > DECADES_LINEAR;
        let [from, to] = if is_logarithmic { [least.log10(), largest.log10()] } else { [least, largest] };
        let margin = match to - from {
            // One value stands in the middle.
            0.0 => {
                if from == 0.0 {
                    1.0
                } else {
                    0.1 * from.abs()
                }
            }
            width => 0.04 * width,
        };
        Axis { range: [from - margin, to + margin], is_logarithmic }
    }

    /// For steps: from `from` to `to` and no further.
    pub(super) fn exact(from: f64, to: f64) -> Axis {
        Axis { range: [from, if to > from { to } else { from + 1.0 }], is_logarithmic: false }
    }

    /// Whether equal ratios are equally far apart.
    pub(super) fn is_logarithmic(&self) -> bool {
        self.is_logarithmic
    }

    /// Where a value is: 0 at the beginning, 1 at the end. `None`: nowhere.
    pub(super) fn share(&self, value: f64) -> Option<f64> {
        let value = if self.is_logarithmic { value.log10() } else { value };
        let [from, to] = self.range;
        value.is_finite().then(|| (value - from) / (to - from))
    }

    /// Round values within the range, about `count` of them.
    pub(super) fn ticks(&self, count: usize) -> Vec<f64> {
        if self.is_logarithmic { self.ticks_logarithmic(count) } else { self.ticks_linear(count) }
    }

    fn ticks_linear(&self, count: usize) -> Vec<f64> {
        let [from, to] = self.range;
        let rough = (to - from) / count.max(1) as f64;
        let decade = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0].map(|round| round * decade).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(10.0 * decade);
        // Less than f64 holds as a normal number, or more than its largest: there is nothing round in between.
        if !step.is_normal() {
            return Vec::new();
        }
        let first = (from / step).ceil() as i64;
        let last = (to / step).floor() as i64;
        (first..=last).map(|number| number as f64 * step).collect()
    }

    /// Powers of ten; every second, third ... if there are many, and their doubles and fivefolds if there are few.
    fn ticks_logarithmic(&self, count: usize) -> Vec<f64> {
        let [from, to] = self.range;
        let every = ((to - from) / count.max(1) as f64).ceil().max(1.0) as i32;
        let digits: &[f64] = if to - from < 0.6 * count as f64 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let exponents = (from.floor() as i32..=to.floor() as i32).filter(|exponent| exponent.rem_euclid(every) == 0);
        let all = exponents.flat_map(|exponent| digits.iter().map(move |digit| digit * 10_f64.powi(exponent)));
        all.filter(|value| (from..=to).contains(&value.log10())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_within_the_range() {
        assert_eq!(Axis::exact(0.0, 20_000.0).ticks(5), [0.0, 5000.0, 10_000.0, 15_000.0, 20_000.0]);
        assert_eq!(Axis::exact(0.0, 1.0).ticks(5).len(), 6);
        assert_eq!(Axis::exact(-0.7, 0.9).ticks(3), [0.0]);
        assert_eq!(Axis::exact(137.0, 1180.0).ticks(5), [500.0, 1000.0]);
    }

    #[test]
    fn a_range_that_f64_cannot_divide_has_no_ticks() {
        for range in [[-5e-324, 5e-324], [-f64::MAX, f64::MAX], [0.0, 1e-310]] {
            assert_eq!(Axis { range, is_logarithmic: false }.ticks(5), [0.0; 0], "{range:?}");
        }
        assert!(Axis { range: [0.0, 1e-300], is_logarithmic: false }.ticks(5).len() >= 5);
    }

    #[test]
    fn values_over_more_than_two_decades_get_a_logarithmic_axis() {
        let axis = Axis::of([1e-5, 1e-1].into_iter());
        assert!(axis.is_logarithmic());
        assert_eq!(axis.ticks(5), [1e-5, 1e-4, 1e-3, 1e-2, 1e-1].map(|v: f64| 10_f64.powi(v.log10().round() as i32)));
        assert!((axis.share(1e-3).unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(axis.share(0.0), None);
        for values in [[0.01, 1.0], [0.0, 1e6], [-1.0, 1e6]] {
            assert!(!Axis::of(values.into_iter()).is_logarithmic(), "{values:?}");
        }
        assert_eq!(Axis::of([1e-3, 0.3].into_iter()).ticks(5)[..4], [1e-3, 2e-3, 5e-3, 1e-2]);
    }

    #[test]
    fn one_value_stands_in_the_middle_and_none_is_an_axis_too() {
        for value in [0.5, 0.0, -3.0] {
            assert!((Axis::of([value].into_iter()).share(value).unwrap() - 0.5).abs() < 1e-9);
        }
        assert_eq!(Axis::of(std::iter::empty()).share(0.5), Some(0.5));
    }
}
