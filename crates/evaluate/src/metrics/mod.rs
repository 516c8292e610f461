//! Formulas on numbers and pictures: they know no model and no prompt.

mod bootstrap;
mod frechet;
mod kid;
mod retrieval;
mod similarity;
mod spelling;

pub use bootstrap::{RESAMPLES, drawn_again, interval, percentiles, ratio};
pub use frechet::{Gaussian, frechet, frechet_interval};
pub use kid::{Kid, kid};
pub use retrieval::{cosine, found};
pub use similarity::{PSNR_MAX, psnr, ssim};
pub use spelling::{edits, letters};
