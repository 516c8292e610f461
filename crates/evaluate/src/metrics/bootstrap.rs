//! How far a figure would have been elsewhere with other prompts of the same kind.
//!
//! Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13: the percentile interval. Prompts are
//! drawn again, each with all of its pictures, since pictures of one prompt are alike.

use rayon::prelude::*;
use rectiflow_nn::Rng;

/// How often prompts are drawn again.
pub const RESAMPLES: usize = 1000;
/// Decides which.
const SEED: u64 = 0;

/// The 95 % interval of a statistic of `prompts` prompts: what [`drawn_again`] gives, from the 2.5th to the 97.5th
/// percentile. NaN where there is no prompt.
pub fn interval(prompts: usize, key: &str, statistic: impl Fn(&[u32]) -> f64 + Sync) -> [f64; 2] {
    percentiles(drawn_again(prompts, RESAMPLES, key, statistic))
}

/// A statistic of `prompts` prompts, drawn again `resamples` times. `statistic` is told how often each prompt counts, as
/// many times in all as there are prompts. `key` names the figure: another one has other draws.
pub fn drawn_again(prompts: usize, resamples: usize, key: &str, statistic: impl Fn(&[u32]) -> f64 + Sync) -> Vec<f64> {
    (0..resamples).into_par_iter().map(|resample| statistic(&counts(prompts, key, resample))).collect()
}

/// The 2.5th and the 97.5th percentile of what is a number among `values`, between the nearest two. NaN of none.
pub fn percentiles(values: Vec<f64>) -> [f64; 2] {
    let mut values: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return [f64::NAN; 2] };
    [0.025, 0.975].map(|share| {
        let place = share * last as f64;
        let (below, part) = (place.floor() as usize, place.fract());
        values[below] + part * (values[(below + 1).min(last)] - values[below])
    })
}

/// The sum of the first numbers of each prompt by that of the second, and its interval: a mean where the second are
/// counts.
pub fn ratio(of: &[[f64; 2]], key: &str) -> (f64, [f64; 2]) {
    let statistic = |counts: &[u32]| {
        let sum =
            |which: usize| -> f64 { of.iter().zip(counts).map(|(one, count)| one[which] * f64::from(*count)).sum() };
        sum(0) / sum(1)
    };
    (statistic(&vec![1; of.len()]), interval(of.len(), key, statistic))
}

fn counts(prompts: usize, key: &str, resample: usize) -> Vec<u32> {
    let mut rng = Rng::keyed(SEED, key, resample as u64);
    let mut counts = vec![0; prompts];
    (0..prompts).for_each(|_| counts[rng.below(prompts as u64) as usize] += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_the_nearest_values() {
        let values: Vec<f64> = (0..=200).rev().map(f64::from).collect();
        assert_eq!(percentiles(values), [5.0, 195.0]);
        assert_eq!(percentiles(vec![1.0, f64::NAN]), [1.0, 1.0]);
        assert!(percentiles(vec![]).iter().all(|bound| bound.is_nan()));
    }

    #[test]
    fn the_interval_of_a_mean_is_its_standard_error_to_both_sides() {
        let mut rng = Rng::keyed(5, "values", 0);
        let values: Vec<[f64; 2]> = (0..400).map(|_| [3.0 + 2.0 * rng.normal(), 1.0]).collect();
        let (mean, [low, high]) = ratio(&values, "test");
        let expected = 1.96 * 2.0 / 20.0;
        assert!((mean - low - expected).abs() < 0.03 && (high - mean - expected).abs() < 0.03, "{low} {mean} {high}");
        assert_eq!(ratio(&values, "test").1, [low, high]);
        assert_ne!(ratio(&values, "other").1, [low, high]);
    }

    #[test]
    fn nineteen_of_twenty_intervals_hold_the_truth() {
        let holds = |number: u64| {
            let mut rng = Rng::keyed(7, "coin", number);
            let throws: Vec<[f64; 2]> = (0..100).map(|_| [f64::from(u8::from(rng.uniform() < 0.3)), 1.0]).collect();
            let (_, [low, high]) = ratio(&throws, "coverage");
            low <= 0.3 && 0.3 <= high
        };
        let share = (0..400).filter(|number| holds(*number)).count() as f64 / 400.0;
        assert!((0.91..=0.98).contains(&share), "{share}");
    }
}
