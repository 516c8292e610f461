use std::cmp::Reverse;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::DatasetError;

/// Width and height, px.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "[u32; 2]", into = "[u32; 2]")]
pub struct Size {
    /// Px.
    pub width_px: u32,
    /// Px.
    pub height_px: u32,
}

impl Size {
    /// Width before height.
    pub fn new(width_px: u32, height_px: u32) -> Self {
        Size { width_px, height_px }
    }

    /// Px.
    pub fn pixels(self) -> u64 {
        u64::from(self.width_px) * u64::from(self.height_px)
    }

    /// The logarithm of width over height: 0 for a square, and as far from it lying as standing.
    fn log_ratio(self) -> f64 {
        (f64::from(self.width_px) / f64::from(self.height_px)).ln()
    }

    /// Whether this size can be cut from `whole` without enlarging it.
    pub(crate) fn fits_into(self, whole: Size) -> bool {
        self.width_px <= whole.width_px && self.height_px <= whole.height_px
    }
}

impl From<[u32; 2]> for Size {
    fn from([width_px, height_px]: [u32; 2]) -> Self {
        Size { width_px, height_px }
    }
}

impl From<Size> for [u32; 2] {
    fn from(size: Size) -> Self {
        [size.width_px, size.height_px]
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width_px, self.height_px)
    }
}

/// The sizes that pictures are trained at: none twice, each side a multiple of 16 px, which is one patch of the
/// transformer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets(Vec<Size>);

/// A patch of 2x2 latent pixels, each of 8x8 picture pixels.
const PATCH_PX: u32 = 16;
/// What the largest positional table of an SD3 model has room for: 384 patches.
const SIDE_PX_MAX: u32 = 6_144;

/// The sizes of Stability's tutorial on fine-tuning SD3.5; the widest has no standing twin there.
const STABILITY_1024: [[u32; 2]; 8] =
    [[1_024, 1_024], [1_152, 896], [896, 1_152], [1_216, 832], [832, 1_216], [1_344, 768], [768, 1_344], [1_472, 704]];

impl Buckets {
    /// One size for all.
    pub fn square(side_px: u32) -> Result<Self, DatasetError> {
        Buckets::listed(vec![Size::new(side_px, side_px)])
    }

    /// The eight sizes around 1024x1024 that Stability names.
    pub fn stability_1024() -> Self {
        Buckets(STABILITY_1024.map(Size::from).to_vec())
    }

    /// Sizes of about `side_px`^2 pixels: for each longer side, a multiple of `step_px`, the shorter one whose area
    /// is nearest, lying and standing, up to `ratio_max` of longer to shorter. The paper asks for width times height
    /// near S^2 (arXiv:2403.03206, section 5.3.2) and gives no list.
    ///
    /// # Errors
    /// A step that is no multiple of 16 px, a side that is none of the step, a ratio below 1, more than 6144 px.
    pub fn of_area(side_px: u32, step_px: u32, ratio_max: f64) -> Result<Self, DatasetError> {
        let refused = |problem, hint| Err(DatasetError::Settings { problem, hint });
        if step_px == 0 || !step_px.is_multiple_of(PATCH_PX) {
            return refused(format!("`step_px` = {step_px} is no multiple of {PATCH_PX}"), "64 is usual");
        }
        if side_px == 0 || !side_px.is_multiple_of(step_px) {
            return refused(
                format!("`side_px` = {side_px} is no multiple of `step_px` = {step_px}"),
                "choose a multiple, or a smaller step",
            );
        }
        if !(1.0..=16.0).contains(&ratio_max) {
            return refused(format!("`ratio_max` = {ratio_max} is not between 1 and 16"), "2.5 is usual");
        }
        if side_px > SIDE_PX_MAX {
            return refused(
                format!("`side_px` = {side_px} is more than {SIDE_PX_MAX}"),
                "SD3's models work up to about 2 megapixels",
            );
        }
        let area = u64::from(side_px) * u64::from(side_px);
        let step = u64::from(step_px);
        let mut sizes = vec![Size::new(side_px, side_px)];
        for long in (u64::from(side_px) + step..=u64::from(SIDE_PX_MAX)).step_by(step_px as usize) {
            // The nearest multiple; a half goes down, where it costs less.
            let short = (2 * area).div_ceil(long * step) / 2 * step;
            if short == 0 || long as f64 > ratio_max * short as f64 {
                break;
            }
            sizes.push(Size::new(long as u32, short as u32));
            sizes.push(Size::new(short as u32, long as u32));
        }
        Buckets::listed(sizes)
    }

    /// These sizes.
    ///
    /// # Errors
    /// No size, one twice, one that is no multiple of 16 px or above 6144 px.
    pub fn listed(sizes: Vec<Size>) -> Result<Self, DatasetError> {
        let refused = |problem, hint| Err(DatasetError::Settings { problem, hint });
        if sizes.is_empty() {
            return refused("the list of buckets is empty".into(), "name at least one size, as [1024, 1024]");
        }
        for (place, size) in sizes.iter().enumerate() {
            let fits = |side: u32| side > 0 && side.is_multiple_of(PATCH_PX) && side <= SIDE_PX_MAX;
            if !(fits(size.width_px) && fits(size.height_px)) {
                return refused(
                    format!("the size {size} has a side that is no multiple of {PATCH_PX} px up to {SIDE_PX_MAX}"),
                    "multiples of 64 are usual",
                );
            }
            if sizes[..place].contains(size) {
                return refused(format!("the bucket {size} is named twice"), "remove one of them");
            }
        }
        Ok(Buckets(sizes))
    }

    /// All of them; a bucket's number is its place here.
    pub fn sizes(&self) -> &[Size] {
        &self.0
    }

    /// The number of the bucket for a picture: the one whose logarithm of width over height is nearest. Of several
    /// with that ratio, the largest that the picture fills, or else the smallest.
    pub fn nearest(&self, picture: Size) -> usize {
        let key = |size: &Size| {
            let filled = size.fits_into(picture);
            let area = size.pixels();
            // `total_cmp`'s order of what is never negative, as a number: ratios that are equal give equal floats.
            let distance = (size.log_ratio() - picture.log_ratio()).abs().to_bits();
            (distance, Reverse(filled), if filled { u64::MAX - area } else { area })
        };
        (0..self.0.len()).min_by_key(|number| key(&self.0[*number])).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_sizes_stability_names_come_out_of_the_rule() {
        let ours = Buckets::of_area(1_024, 64, 2.5).unwrap();
        let theirs = Buckets::stability_1024();
        assert!(theirs.sizes().iter().all(|size| ours.sizes().contains(size)), "{ours:?}");
        assert_eq!(Buckets::listed(theirs.sizes().to_vec()).unwrap(), theirs);
    }

    #[test]
    fn a_picture_goes_where_its_shape_is_nearest() {
        let buckets = Buckets::stability_1024();
        let nearest = |width, height| buckets.sizes()[buckets.nearest(Size::new(width, height))];
        assert_eq!(nearest(3_000, 3_100), Size::new(1_024, 1_024));
        assert_eq!(nearest(4_000, 3_000), Size::new(1_152, 896));
        assert_eq!(nearest(2_000, 3_000), Size::new(832, 1_216));
        assert_eq!(nearest(20_000, 10), Size::new(1_472, 704));
        // Nearest by the ratio's logarithm: by the plain ratio, 1.13 would be nearer to the square.
        let two = Buckets::listed(vec![Size::new(1_024, 1_024), Size::new(1_280, 1_024)]).unwrap();
        assert_eq!(two.nearest(Size::new(1_121, 1_000)), 1);
    }

    #[test]
    fn of_sizes_with_one_shape_the_largest_that_is_filled_is_taken() {
        let buckets = Buckets::listed([256, 1_024, 512].map(|side| Size::new(side, side)).to_vec()).unwrap();
        let side = |px| buckets.sizes()[buckets.nearest(Size::new(px, px))].width_px;
        assert_eq!([100, 300, 512, 1_023, 9_000].map(side), [256, 256, 512, 512, 1_024]);
    }

    #[test]
    fn sizes_that_the_transformer_cannot_take_are_refused() {
        assert!(Buckets::of_area(1_000, 64, 2.0).is_err());
        assert!(Buckets::of_area(1_024, 8, 2.0).is_err());
        assert!(Buckets::of_area(1_024, 0, 2.0).is_err());
        assert!(Buckets::of_area(1_024, 64, f64::NAN).is_err());
        assert!(Buckets::of_area(8_192, 64, 2.0).is_err());
        assert!(Buckets::listed(vec![]).is_err());
        assert!(Buckets::square(100).is_err());
        assert!(Buckets::listed(vec![Size::new(64, 64), Size::new(64, 64)]).is_err());
    }

    proptest! {
        #[test]
        fn every_size_is_near_the_area_and_within_the_bounds(
            steps in 1_u32..40, step_of in 1_u32..9, ratio_max in 1.0..6.0_f64, width in 1_u32..9_000, height in 1_u32..9_000,
        ) {
            let step = step_of * 16;
            let side = steps * step;
            prop_assume!(side <= SIDE_PX_MAX);
            let Ok(buckets) = Buckets::of_area(side, step, ratio_max) else {
                return Err(TestCaseError::fail("refused"));
            };
            for size in buckets.sizes() {
                let (long, short) = (size.width_px.max(size.height_px), size.width_px.min(size.height_px));
                prop_assert!(long % step == 0 && short % step == 0 && short > 0);
                prop_assert!(f64::from(long) <= ratio_max * f64::from(short));
                // No other multiple is nearer to the area.
                let off = (size.pixels() as i64 - i64::from(side) * i64::from(side)).unsigned_abs();
                prop_assert!(off * 2 <= u64::from(long) * u64::from(step), "{size} is {off} off");
                prop_assert!(buckets.sizes().contains(&Size::new(size.height_px, size.width_px)));
            }
            let chosen = buckets.nearest(Size::new(width, height));
            let distance = |size: Size| (size.log_ratio() - Size::new(width, height).log_ratio()).abs();
            prop_assert!(buckets.sizes().iter().all(|size| distance(*size) >= distance(buckets.sizes()[chosen])));
        }
    }
}
