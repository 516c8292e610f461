/// What a step's error may be, of a value of 1 or less; of larger values in proportion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance(f32);

/// Below, rounding in f32 is all that would be measured.
const MIN: f32 = 1e-6;

/// Not a tolerance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no tolerance: give a number from 0.000001 to 1, as in dopri5(0.001)")]
pub struct BadTolerance(String);

impl Tolerance {
    /// A thousandth.
    pub const USUAL: Tolerance = Tolerance(1e-3);

    /// The number.
    pub fn value(self) -> f32 {
        self.0
    }
}

impl std::str::FromStr for Tolerance {
    type Err = BadTolerance;

    fn from_str(text: &str) -> Result<Self, BadTolerance> {
        let value = text.trim().parse::<f32>().ok().filter(|value| (MIN..=1.0).contains(value));
        value.map(Tolerance).ok_or_else(|| BadTolerance(text.to_owned()))
    }
}
