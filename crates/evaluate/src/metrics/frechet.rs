//! The Frechet distance of two sets of features, as if both were normal.
//!
//! Source: Heusel et al. 2017, arXiv:1706.08500, equation 6: `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`. Theirs is of
//! another network's features and is the FID; numbers of different networks cannot be compared. It falls with the number
//! of pictures, so only numbers of equally many can be compared either.

use nalgebra::{DMatrix, DVector};

use super::bootstrap::{drawn_again, percentiles};

/// Mean and covariance of features.
#[derive(Clone, Debug)]
pub struct Gaussian {
    mean: DVector<f64>,
    /// Rows whose products with each other are the covariance: the features without their mean, scaled.
    apart: DMatrix<f64>,
}

impl Gaussian {
    /// Of rows of one width, each of which counts so often; the unbiased covariance. None of fewer than two.
    pub fn of<'a>(rows: impl Iterator<Item = (&'a [f32], u32)> + Clone) -> Option<Gaussian> {
        let count: f64 = rows.clone().map(|(_, times)| f64::from(times)).sum();
        let width = rows.clone().next()?.0.len();
        if count < 2.0 {
            return None;
        }
        let seen: Vec<(&[f32], f64)> =
            rows.filter(|(_, times)| *times > 0).map(|(row, times)| (row, f64::from(times))).collect();
        let mut mean = DVector::zeros(width);
        for (row, times) in &seen {
            mean.iter_mut().zip(*row).for_each(|(sum, x)| *sum += times * f64::from(*x) / count);
        }
        let scaled = |at: usize, column: usize| {
            let (row, times) = seen[at];
            (f64::from(row[column]) - mean[column]) * (times / (count - 1.0)).sqrt()
        };
        let apart = DMatrix::from_fn(seen.len(), width, scaled);
        Some(Gaussian { mean, apart })
    }
}

/// The distance of two.
///
/// # Panics
/// They have different widths.
pub fn frechet(a: &Gaussian, b: &Gaussian) -> f64 {
    assert_eq!(a.mean.len(), b.mean.len(), "features of one width");
    let spread = a.apart.norm_squared() + b.apart.norm_squared();
    (&a.mean - &b.mean).norm_squared() + spread - 2.0 * both(&a.apart, &b.apart)
}

/// The trace of the square root of the product of two covariances, each given by its rows.
fn both(a: &DMatrix<f64>, b: &DMatrix<f64>) -> f64 {
    if a.nrows().min(b.nrows()) < a.ncols() {
        // Their product has the eigenvalues of `a b' b a'`, which are the squares of these.
        return (a * b.transpose()).singular_values().sum();
    }
    // Of the same eigenvalues as the product, and symmetric.
    let root = root(&a.tr_mul(a));
    let between = &root * b.tr_mul(b) * &root;
    between.symmetric_eigenvalues().iter().map(|value| value.max(0.0).sqrt()).sum()
}

/// The square root of a symmetric matrix that has no negative eigenvalue but by rounding.
fn root(matrix: &DMatrix<f64>) -> DMatrix<f64> {
    let eigen = matrix.clone().symmetric_eigen();
    let scaled = eigen.eigenvalues.map(|value| value.max(0.0).sqrt());
    &eigen.eigenvectors * DMatrix::from_diagonal(&scaled) * eigen.eigenvectors.transpose()
}

/// How often prompts are drawn again: each costs two eigenvalue problems.
const RESAMPLES: usize = 200;

/// The interval of [`frechet`] by drawing prompts again, moved so that the middle of what they give is `value`: with
/// pictures that come twice it is larger in all of them, as with fewer pictures. For each prompt, which rows are its own.
pub fn frechet_interval(value: f64, drawn: &[Vec<f32>], real: &[Vec<f32>], prompts: &[[Vec<usize>; 2]]) -> [f64; 2] {
    let statistic = |counts: &[u32]| {
        let rows = |which: usize, rows: &[Vec<f32>]| {
            let chosen: Vec<(Vec<f32>, u32)> = prompts
                .iter()
                .zip(counts)
                .filter(|(_, times)| **times > 0)
                .flat_map(|(prompt, times)| prompt[which].iter().map(|&row| (rows[row].clone(), *times)))
                .collect();
            Gaussian::of(chosen.iter().map(|(row, times)| (&row[..], *times)))
        };
        rows(0, drawn).zip(rows(1, real)).map_or(f64::NAN, |(drawn, real)| frechet(&drawn, &real))
    };
    let again = drawn_again(prompts.len(), RESAMPLES, "frechet distance", statistic);
    let numbers = || again.iter().filter(|found| !found.is_nan());
    let middle = numbers().sum::<f64>() / numbers().count() as f64;
    percentiles(again.clone()).map(|bound| bound - middle + value)
}

#[cfg(test)]
mod tests {
    use rectiflow_nn::Rng;

    use super::*;

    fn gaussian(mean: &[f64], covariance: &[f64]) -> Gaussian {
        let width = mean.len();
        Gaussian {
            mean: DVector::from_row_slice(mean),
            apart: root(&DMatrix::from_row_slice(width, width, covariance)),
        }
    }

    #[test]
    fn covariances_of_one_frame_have_the_distance_of_their_deviations() {
        // Along shared axes it is |m1 - m2|^2 + sum (s1 - s2)^2: deviations 2, 3 and 5, 1, turned by 30 degrees.
        let (cos, sin) = (30.0_f64.to_radians().cos(), 30.0_f64.to_radians().sin());
        let turned = |a: f64, b: f64| {
            [a * cos * cos + b * sin * sin, (a - b) * cos * sin, (a - b) * cos * sin, a * sin * sin + b * cos * cos]
        };
        let (a, b) = (gaussian(&[1.0, 2.0], &turned(4.0, 9.0)), gaussian(&[4.0, -2.0], &turned(25.0, 1.0)));
        assert!((frechet(&a, &b) - (25.0 + 9.0 + 4.0)).abs() < 1e-9);
        assert!((frechet(&b, &a) - 38.0).abs() < 1e-9);
        assert!(frechet(&a, &a).abs() < 1e-9);
    }

    #[test]
    fn covariances_that_do_not_commute_have_what_the_square_root_of_their_product_says() {
        // tr (C1 C2)^(1/2) in two dimensions: sqrt(tr(C1 C2) + 2 sqrt(det C1 det C2)). tr = 14, dets 3 and 4.
        let (a, b) = (gaussian(&[0.0; 2], &[2.0, 1.0, 1.0, 2.0]), gaussian(&[0.0; 2], &[1.0, 1.0, 1.0, 5.0]));
        let expected = 4.0 + 6.0 - 2.0 * (14.0 + 2.0 * 12.0_f64.sqrt()).sqrt();
        assert!((frechet(&a, &b) - expected).abs() < 1e-9, "{} {expected}", frechet(&a, &b));
    }

    #[test]
    fn mean_and_covariance_are_those_of_the_rows_as_often_as_they_count() {
        let (a, b) = ([1.0_f32, 2.0], [3.0_f32, 8.0]);
        let found = Gaussian::of([(&a[..], 1), (&b[..], 2), (&[9.0, 9.0][..], 0)].into_iter()).unwrap();
        let same = Gaussian::of([(&a[..], 1), (&b[..], 1), (&b[..], 1)].into_iter()).unwrap();
        let covariance = |of: &Gaussian| of.apart.tr_mul(&of.apart);
        assert!(
            (found.mean.clone() - &same.mean).norm() < 1e-12 && (covariance(&found) - covariance(&same)).norm() < 1e-12
        );
        assert!((covariance(&found)[(0, 1)] - 4.0).abs() < 1e-9, "{found:?}");
        assert!(Gaussian::of([(&a[..], 1)].into_iter()).is_none());
    }

    #[test]
    fn fewer_pictures_than_features_have_the_same_distance_the_other_way() {
        let mut rng = Rng::keyed(2, "rows", 0);
        let mut rows = |width: usize| -> Vec<Vec<f32>> { (0..6).map(|_| rng.normals(width)).collect() };
        let (a, b) = (rows(4), rows(4));
        // Features that are always 0 change nothing, and make more of them than there are pictures.
        let wide = |rows: &[Vec<f32>]| -> Vec<Vec<f32>> {
            rows.iter().map(|row| [&row[..], &[0.0; 9][..]].concat()).collect()
        };
        let of = |rows: &[Vec<f32>]| Gaussian::of(rows.iter().map(|row| (&row[..], 1))).unwrap();
        let (narrow, wide) = (frechet(&of(&a), &of(&b)), frechet(&of(&wide(&a)), &of(&wide(&b))));
        assert!((narrow - wide).abs() < 1e-9 * narrow, "{narrow} {wide}");
    }

    #[test]
    fn the_interval_lies_around_the_value() {
        let mut rng = Rng::keyed(1, "rows", 0);
        let mut rows = |mean: f32| -> Vec<Vec<f32>> {
            (0..200).map(|_| rng.normals(3).into_iter().map(|x| x + mean).collect()).collect()
        };
        let (drawn, real) = (rows(1.0), rows(0.0));
        let prompts: Vec<_> = (0..200).map(|place| [vec![place], vec![place]]).collect();
        let of = |rows: &[Vec<f32>]| Gaussian::of(rows.iter().map(|row| (&row[..], 1))).unwrap();
        let value = frechet(&of(&drawn), &of(&real));
        let [low, high] = frechet_interval(value, &drawn, &real, &prompts);
        assert!(low < value && value < high && low < 3.0 && 3.0 < high, "{low} {value} {high}");
        assert_eq!([low, high], frechet_interval(value, &drawn, &real, &prompts));
        // Of one kind and few: pictures that come twice alone put all resamples above the value.
        let mut wide = || -> Vec<Vec<f32>> { (0..40).map(|_| rng.normals(20)).collect() };
        let (drawn, real, prompts) = (&wide(), &wide(), &prompts[..40]);
        let value = frechet(&of(drawn), &of(real));
        let [low, high] = frechet_interval(value, drawn, real, prompts);
        assert!(low < value && value < high, "{low} {value} {high}");
    }
}
