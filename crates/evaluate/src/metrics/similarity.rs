//! How near a picture is to another of the same size.
//!
//! Source of SSIM: Wang et al. 2004, Image quality assessment: from error visibility to structural similarity, IEEE
//! Transactions on Image Processing 13(4), with the authors' constants, on luma (Rec. 601) and only at places where the
//! window lies whole in the picture, as in their `ssim_index.m`.

use rectiflow_generate::Image;

/// What [`psnr`] says of equal pictures, dB: more than any other pair of 8 bits has.
pub const PSNR_MAX: f64 = 100.0;

/// Side of the window, and the deviation of its weights, in pixels.
const WINDOW: usize = 11;
const DEVIATION: f64 = 1.5;
/// `(K L)^2` with K 0.01 and 0.03, and L the largest value.
const C1: f64 = 0.01 * 255.0 * 0.01 * 255.0;
const C2: f64 = 0.03 * 255.0 * 0.03 * 255.0;

/// The peak signal-to-noise ratio over the bytes of all three channels, dB.
///
/// # Panics
/// The pictures have different sizes.
pub fn psnr(a: &Image, b: &Image) -> f64 {
    assert_eq!((a.width, a.height), (b.width, b.height), "pictures of one size");
    let square = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
    let mean = a.rgb.iter().zip(&b.rgb).map(square).sum::<f64>() / a.rgb.len() as f64;
    if mean == 0.0 { PSNR_MAX } else { 10.0 * (255.0 * 255.0 / mean).log10() }
}

/// The structural similarity, at most 1.
///
/// # Panics
/// The pictures have different sizes, or a side below 11 pixels.
pub fn ssim(a: &Image, b: &Image) -> f64 {
    assert_eq!((a.width, a.height), (b.width, b.height), "pictures of one size");
    assert!(a.width.min(a.height) >= WINDOW, "a picture of at least {WINDOW} px");
    let size = [a.width, a.height];
    let (a, b) = (luma(a), luma(b));
    let product = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a * b).collect() };
    let [mean_a, mean_b] = [&a, &b].map(|x| blurred(x, size));
    let [aa, bb, ab] = [product(&a, &a), product(&b, &b), product(&a, &b)].map(|x| blurred(&x, size));
    let one = |at: usize| {
        let (ma, mb) = (mean_a[at], mean_b[at]);
        let (va, vb, cov) = (aa[at] - ma * ma, bb[at] - mb * mb, ab[at] - ma * mb);
        (2.0 * ma * mb + C1) * (2.0 * cov + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2))
    };
    (0..mean_a.len()).map(one).sum::<f64>() / mean_a.len() as f64
}

fn luma(image: &Image) -> Vec<f64> {
    let one = |rgb: &[u8]| 0.299 * f64::from(rgb[0]) + 0.587 * f64::from(rgb[1]) + 0.114 * f64::from(rgb[2]);
    image.rgb.chunks_exact(3).map(one).collect()
}

/// Weighted means over the window at each place where it lies whole in the picture: along rows, then along columns.
fn blurred(x: &[f64], [width, height]: [usize; 2]) -> Vec<f64> {
    let weight = |at: usize| (-0.5 * ((at as f64 - (WINDOW / 2) as f64) / DEVIATION).powi(2)).exp();
    let sum: f64 = (0..WINDOW).map(weight).sum();
    let weights: [f64; WINDOW] = std::array::from_fn(|at| weight(at) / sum);
    let (narrow, low) = (width - WINDOW + 1, height - WINDOW + 1);
    let mean = |from: usize, step: usize, x: &[f64]| -> f64 {
        weights.iter().enumerate().map(|(at, weight)| weight * x[from + at * step]).sum()
    };
    let rows: Vec<f64> = (0..height)
        .flat_map(|y| (0..narrow).map(move |column| (y, column)))
        .map(|(y, column)| mean(y * width + column, 1, x))
        .collect();
    (0..low)
        .flat_map(|y| (0..narrow).map(move |column| (y, column)))
        .map(|(y, column)| mean(y * narrow + column, narrow, &rows))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(of: impl Fn(usize, usize) -> u8) -> Image {
        let rgb = (0..20).flat_map(|y| (0..24).map(move |x| (x, y))).flat_map(|(x, y)| [of(x, y); 3]).collect();
        Image { width: 24, height: 20, rgb }
    }

    #[test]
    fn equal_pictures_are_as_near_as_can_be() {
        let one = picture(|x, y| (x * 7 + y * 13) as u8);
        assert!((ssim(&one, &one) - 1.0).abs() < 1e-12);
        assert_eq!(psnr(&one, &one), PSNR_MAX);
    }

    #[test]
    fn a_shift_of_brightness_has_the_psnr_and_the_ssim_of_the_formulas() {
        let (dark, bright) = (picture(|_, _| 100), picture(|_, _| 110));
        assert!((psnr(&dark, &bright) - 20.0 * 25.5_f64.log10()).abs() < 1e-9);
        // 6.5025 and 58.5225 in the authors' program.
        assert!((C1 - 6.5025).abs() < 1e-9 && (C2 - 58.5225).abs() < 1e-9);
        // No variance: only the means count.
        let expected = (2.0 * 100.0 * 110.0 + C1) / (100.0_f64.powi(2) + 110.0_f64.powi(2) + C1);
        assert!((ssim(&dark, &bright) - expected).abs() < 1e-9);
    }

    #[test]
    fn half_the_contrast_has_the_ssim_of_the_formula_at_every_place() {
        // Columns in turn: the window's weights of even and odd columns differ a little, so each place has its own
        // mean and variance, which are computed here from the weights themselves.
        let (full, half) =
            (picture(|x, _| if x % 2 == 0 { 80 } else { 120 }), picture(|x, _| if x % 2 == 0 { 90 } else { 110 }));
        let weight = |at: i32| (-0.5 * (f64::from(at) / 1.5).powi(2)).exp();
        let all: f64 = (-5..=5).map(weight).sum();
        let even = (-5..=5).filter(|at| at % 2 == 0).map(weight).sum::<f64>() / all;
        let at = |share: f64| {
            let (ma, mb) = (80.0 * share + 120.0 * (1.0 - share), 90.0 * share + 110.0 * (1.0 - share));
            let spread = share * (1.0 - share);
            let (va, vb, cov) = (1600.0 * spread, 400.0 * spread, 800.0 * spread);
            (2.0 * ma * mb + C1) * (2.0 * cov + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2))
        };
        // 14 places in a row: windows in the middle of even and of odd columns in turn.
        let expected = f64::midpoint(at(even), at(1.0 - even));
        assert!((ssim(&full, &half) - expected).abs() < 1e-9, "{} {expected}", ssim(&full, &half));
    }

    #[test]
    fn a_picture_and_its_negative_are_unlike() {
        let one = picture(|x, y| if (x / 3 + y / 3) % 2 == 0 { 30 } else { 220 });
        let negative = Image { rgb: one.rgb.iter().map(|byte| 255 - byte).collect(), ..one.clone() };
        assert!(ssim(&one, &negative) < -0.8);
    }
}
