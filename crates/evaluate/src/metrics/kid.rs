//! The kernel distance of two sets of features.
//!
//! Source: Binkowski et al. 2018, Demystifying MMD GANs, arXiv:1801.01401: the unbiased estimate of the squared maximum
//! mean discrepancy (their equation 4 with the diagonal left out) with the kernel `(x . y / d + 1)^3`, as a mean over
//! subsets. It does not depend on how many pictures there are, but for its spread.

use rayon::prelude::*;
use rectiflow_nn::Rng;

use super::bootstrap::interval;

/// Subsets that the value is the mean of, and the most pictures of one.
const SUBSETS: u64 = 100;
const SUBSET_MAX: usize = 1000;

/// A kernel distance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kid {
    /// The mean over subsets.
    pub mean: f64,
    /// The deviation over subsets.
    pub deviation: f64,
    /// By drawing prompts again.
    pub interval: [f64; 2],
}

/// Of features of drawn and of real pictures, one row each, all of one width. For each prompt, which rows are its own.
///
/// Returns NaN where a set has fewer than two rows.
pub fn kid(drawn: &[Vec<f32>], real: &[Vec<f32>], prompts: &[[Vec<usize>; 2]]) -> Kid {
    let kernels = Kernels { drawn: kernel(drawn, drawn), real: kernel(real, real), across: kernel(drawn, real) };
    let size = (drawn.len().min(real.len()) / 2).clamp(2, SUBSET_MAX);
    if drawn.len().min(real.len()) < 2 {
        return Kid { mean: f64::NAN, deviation: f64::NAN, interval: [f64::NAN; 2] };
    }
    let one = |subset: u64| {
        let mut rng = Rng::keyed(0, "kernel distance", subset);
        let [drawn, real] = [drawn.len(), real.len()].map(|count| some(count, size, &mut rng));
        kernels.of(&drawn, &real)
    };
    let values: Vec<f64> = (0..SUBSETS).into_par_iter().map(one).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64;
    Kid { mean, deviation: variance.sqrt(), interval: kernels.interval(prompts) }
}

/// Of each picture with each.
struct Kernels {
    drawn: Vec<Vec<f64>>,
    real: Vec<Vec<f64>>,
    across: Vec<Vec<f64>>,
}

impl Kernels {
    fn of(&self, drawn: &[usize], real: &[usize]) -> f64 {
        let within = |kernel: &[Vec<f64>], set: &[usize]| {
            let all: f64 =
                set.iter().map(|&i| set.iter().filter(|j| **j != i).map(|&j| kernel[i][j]).sum::<f64>()).sum();
            all / (set.len() * (set.len() - 1)) as f64
        };
        let across: f64 = drawn.iter().map(|&i| real.iter().map(|&j| self.across[i][j]).sum::<f64>()).sum();
        within(&self.drawn, drawn) + within(&self.real, real) - 2.0 * across / (drawn.len() * real.len()) as f64
    }

    /// Sums over the pictures of two prompts stand for them, so that drawing prompts again costs little. A picture is
    /// never compared with itself, however often it was drawn.
    fn interval(&self, prompts: &[[Vec<usize>; 2]]) -> [f64; 2] {
        let table = |kernel: &[Vec<f64>], [rows, columns]: [usize; 2]| -> Vec<Vec<[f64; 2]>> {
            let sum = |one: &[Vec<usize>; 2], other: &[Vec<usize>; 2]| {
                let (mut sum, mut count) = (0.0, 0.0);
                for &i in &one[rows] {
                    for &j in other[columns].iter().filter(|j| rows != columns || **j != i) {
                        sum += kernel[i][j];
                        count += 1.0;
                    }
                }
                [sum, count]
            };
            prompts.iter().map(|one| prompts.iter().map(|other| sum(one, other)).collect()).collect()
        };
        let tables = [table(&self.drawn, [0, 0]), table(&self.real, [1, 1]), table(&self.across, [0, 1])];
        interval(prompts.len(), "kernel distance", |counts| {
            let [drawn, real, across] = [0, 1, 2].map(|which| {
                let (mut sum, mut count) = (0.0, 0.0);
                for (row, times) in tables[which].iter().zip(counts).filter(|(_, times)| **times > 0) {
                    for ([of, many], more) in row.iter().zip(counts) {
                        let weight = f64::from(times * more);
                        sum += weight * of;
                        count += weight * many;
                    }
                }
                sum / count
            });
            drawn + real - 2.0 * across
        })
    }
}

fn kernel(a: &[Vec<f32>], b: &[Vec<f32>]) -> Vec<Vec<f64>> {
    let one = |a: &Vec<f32>, b: &Vec<f32>| {
        let dot: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        (dot / a.len() as f64 + 1.0).powi(3)
    };
    a.par_iter().map(|row| b.iter().map(|other| one(row, other)).collect()).collect()
}

/// `size` of `count` places, none twice.
fn some(count: usize, size: usize, rng: &mut Rng) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    for at in 0..size {
        places.swap(at, at + rng.below((count - at) as u64) as usize);
    }
    places.truncate(size);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normals(count: usize, mean: f32, purpose: &str) -> Vec<Vec<f32>> {
        let mut rng = Rng::keyed(3, purpose, 0);
        (0..count).map(|_| rng.normals(2).into_iter().map(|x| x + mean).collect()).collect()
    }

    fn alone(count: usize) -> Vec<[Vec<usize>; 2]> {
        (0..count).map(|place| [vec![place], vec![place]]).collect()
    }

    /// `E (x . y / 2 + 1)^3` for x and y of two dimensions, independent, normal with deviation 1 and these means in both:
    /// `x . y` has mean `2 a b`, and the moments below.
    fn expected(a: f64, b: f64) -> f64 {
        // x y with x = a + e, y = b + f: moments of one dimension.
        let first = a * b;
        let second = (a * a + 1.0) * (b * b + 1.0);
        let third = (a.powi(3) + 3.0 * a) * (b.powi(3) + 3.0 * b);
        // Of the sum of two that are alike and independent.
        let (s1, s2) = (2.0 * first, 2.0 * second + 2.0 * first * first);
        let s3 = 2.0 * third + 6.0 * second * first;
        s3 / 8.0 + 3.0 * s2 / 4.0 + 3.0 * s1 / 2.0 + 1.0
    }

    #[test]
    fn normals_that_lie_apart_have_the_distance_of_the_closed_form() {
        let (drawn, real) = (normals(1200, 0.5, "drawn"), normals(1200, 0.0, "real"));
        let found = kid(&drawn, &real, &alone(1200));
        let truth = expected(0.5, 0.5) + expected(0.0, 0.0) - 2.0 * expected(0.5, 0.0);
        assert!((found.mean - truth).abs() < 0.1 * truth, "{found:?} {truth}");
        assert!(found.interval[0] < truth && truth < found.interval[1], "{found:?} {truth}");
    }

    #[test]
    fn two_sets_of_one_kind_have_none() {
        let found = kid(&normals(600, 0.0, "drawn"), &normals(600, 0.0, "real"), &alone(600));
        assert!(found.mean.abs() < found.deviation, "{found:?}");
        assert!(found.interval[0] < 0.0 && 0.0 < found.interval[1], "{found:?}");
    }

    #[test]
    fn the_estimate_is_the_formula_by_hand() {
        let (drawn, real) = (vec![vec![1.0], vec![2.0]], vec![vec![0.0], vec![1.0]]);
        // k(1,2) = 27, k(0,1) = 1; across: k(1,0) = 1, k(1,1) = 8, k(2,0) = 1, k(2,1) = 27.
        let found = kid(&drawn, &real, &alone(2));
        assert!((found.mean - (27.0 + 1.0 - 2.0 * 37.0 / 4.0)).abs() < 1e-9, "{found:?}");
        assert_eq!(found.deviation, 0.0);
        assert!(kid(&drawn[..1], &real, &alone(1)).mean.is_nan());
    }
}
