//! Averages of any length, made afterwards of a few that were kept on the way.
//!
//! Source: Karras et al. 2024, arXiv:2312.02696, section 3.2 and appendix C: each kept average has the profile
//! `(gamma + 1) t^gamma / T^(gamma + 1)` over the steps `t` up to its own `T`; a sum of them that is nearest to the wanted
//! profile in the mean square is found by a system of linear equations.

use super::{SIGMA_REL_MAX, gamma_of};

/// A power-function average at a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Steps that were taken.
    pub step: u64,
    /// Its length: deviation over the length of the training.
    pub sigma_rel: f64,
}

/// What cannot be made of the averages that there are.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReweighError {
    /// There are none.
    #[error("there are no kept averages\nhint: give the recipe an average of kind \"power\", and train with it")]
    Nothing,
    /// No average is so long or so short.
    #[error("a length of {0} is not possible\nhint: give one above 0 and up to 0.288; usual are 0.03 to 0.20")]
    Length(f64),
    /// The training did not go so far.
    #[error("there is nothing of step {wanted}: the last kept average is of step {last}\nhint: give a step up to that")]
    Step {
        /// What was asked for.
        wanted: u64,
        /// The last there is.
        last: u64,
    },
}

/// How much of each kept average makes the wanted one, and how far from it that is: the root of the mean square
/// difference of the profiles over that of the wanted one.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// In the order of the kept ones. They are 1 together, nearly.
    pub shares: Vec<f64>,
    /// 0 for an average that was kept itself.
    pub error: f64,
}

/// The nearest sum of `kept` averages to `wanted`.
///
/// # Errors
/// There are none, or the wanted one is not possible.
pub fn reweigh(kept: &[Profile], wanted: Profile) -> Result<Shares, ReweighError> {
    if !(wanted.sigma_rel > 0.0 && wanted.sigma_rel <= SIGMA_REL_MAX) {
        return Err(ReweighError::Length(wanted.sigma_rel));
    }
    let last = kept.iter().map(|one| one.step).max().ok_or(ReweighError::Nothing)?;
    if wanted.step > last || wanted.step == 0 {
        return Err(ReweighError::Step { wanted: wanted.step, last });
    }
    // Later ones hold steps that the wanted one has not seen.
    let used: Vec<usize> = (0..kept.len()).filter(|&index| kept[index].step <= wanted.step).collect();
    let curves: Vec<Curve> = used.iter().map(|&index| Curve::of(kept[index])).collect();
    let target = Curve::of(wanted);
    let matrix = curves.iter().map(|one| curves.iter().map(|other| one.times(other)).collect()).collect();
    let right: Vec<f64> = curves.iter().map(|one| one.times(&target)).collect();
    let found = solved(matrix, right.clone());
    // |p - q|^2 = p.p - 2 p.q + q.q, where at the minimum q.q = p.q.
    let explained: f64 = found.iter().zip(&right).map(|(share, product)| share * product).sum();
    let error = (1.0 - explained / target.times(&target)).max(0.0).sqrt();
    let mut shares = vec![0.0; kept.len()];
    used.into_iter().zip(found).for_each(|(index, share)| shares[index] = share);
    Ok(Shares { shares, error })
}

/// `(gamma + 1) t^gamma / end^(gamma + 1)` from 0 to `end`.
struct Curve {
    gamma: f64,
    end: f64,
}

impl Curve {
    fn of(profile: Profile) -> Curve {
        Curve { gamma: gamma_of(profile.sigma_rel), end: profile.step as f64 }
    }

    /// The integral of both together, to the nearer end.
    fn times(&self, other: &Curve) -> f64 {
        let (near, far) = if self.end <= other.end { (self, other) } else { (other, self) };
        let height = (self.gamma + 1.0) * (other.gamma + 1.0) / (self.gamma + other.gamma + 1.0);
        // In logarithms: the powers alone overflow.
        let power = (near.end / far.end).ln() * far.gamma - far.end.ln();
        height * power.exp()
    }
}

/// Solves a symmetric positive system by elimination with the largest pivot. Averages that lie close together make it
/// nearly singular; a hair on the diagonal keeps the shares small.
fn solved(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let count = right.len();
    for (row, line) in matrix.iter_mut().enumerate() {
        line[row] *= 1.0 + 1e-12;
    }
    for column in 0..count {
        let pivot = (column..count).max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()));
        let pivot = pivot.unwrap_or(column);
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        for row in column + 1..count {
            let factor = matrix[row][column] / matrix[column][column];
            let (above, below) = matrix.split_at_mut(row);
            for (value, over) in below[0].iter_mut().zip(&above[column]).skip(column) {
                *value -= factor * over;
            }
            right[row] -= factor * right[column];
        }
    }
    for row in (0..count).rev() {
        let known: f64 = (row + 1..count).map(|column| matrix[row][column] * right[column]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    right
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::ema::Ema;

    fn profile(step: u64, sigma_rel: f64) -> Profile {
        Profile { step, sigma_rel }
    }

    /// Averages of a parameter that moves, kept at every 500th of 8000 steps.
    fn kept(parameter: impl Fn(u64) -> f64, lengths: &[f64]) -> (Vec<Profile>, Vec<f64>) {
        let (mut profiles, mut values) = (Vec::new(), Vec::new());
        for &sigma_rel in lengths {
            let mut average = 0.0;
            for step in 1..=8000 {
                let kept = Ema::Power { sigma_rel }.kept(NonZeroU64::new(step).unwrap());
                average = kept * average + (1.0 - kept) * parameter(step);
                if step % 500 == 0 {
                    profiles.push(profile(step, sigma_rel));
                    values.push(average);
                }
            }
        }
        (profiles, values)
    }

    #[test]
    fn an_average_that_was_kept_is_itself() {
        let kept = [profile(100, 0.05), profile(100, 0.1), profile(200, 0.05), profile(200, 0.1)];
        let found = reweigh(&kept, profile(200, 0.1)).unwrap();
        assert!(found.error < 1e-5, "{found:?}");
        for (share, expected) in found.shares.iter().zip([0.0, 0.0, 0.0, 1.0]) {
            assert!((share - expected).abs() < 1e-6, "{found:?}");
        }
    }

    #[test]
    fn averages_of_other_lengths_come_out_as_if_they_had_been_kept() {
        let parameter = |step: u64| (step as f64 / 900.0).sin() + step as f64 / 2000.0;
        let (profiles, values) = kept(parameter, &[0.05, 0.10]);
        for sigma_rel in [0.04, 0.07, 0.15] {
            let (_, expected) = kept(parameter, &[sigma_rel]);
            let found = reweigh(&profiles, profile(8000, sigma_rel)).unwrap();
            let made: f64 = found.shares.iter().zip(&values).map(|(share, value)| share * value).sum();
            let expected = expected.last().unwrap();
            assert!((made - expected).abs() < 5e-3, "{sigma_rel}: {made} instead of {expected}, {}", found.error);
            assert!((found.shares.iter().sum::<f64>() - 1.0).abs() < 5e-3 && found.error < 0.1, "{}", found.error);
        }
    }

    #[test]
    fn what_cannot_be_made_is_said() {
        assert_eq!(reweigh(&[], profile(1, 0.1)), Err(ReweighError::Nothing));
        let kept = [profile(100, 0.05)];
        assert_eq!(reweigh(&kept, profile(101, 0.1)), Err(ReweighError::Step { wanted: 101, last: 100 }));
        for length in [0.0, -1.0, 0.3, f64::NAN] {
            assert!(matches!(reweigh(&kept, profile(100, length)), Err(ReweighError::Length(_))));
        }
    }
}
