//! Networks that look at pictures: features, judges and critics.
//!
//! - [`EfficientNetLite0`]: features of a photograph classifier whose weights are in the program.
//! - [`PerceptualDistance`]: how different two pictures look, by those features.
//! - [`PatchGan`] and [`adversarial`]: a critic that tells real pictures from made ones, and what it is trained for.
//! - [`Detector`] and [`judge`]: which things are where in a picture, and whether that was asked for.
//! - [`ClipImageTower`] and [`contrastive_loss`]: a picture as a vector beside its text's.
//!
//! Each is built by [`rectiflow_nn::Params`], and the same forward trains and judges: gradients reach the picture also
//! where the weights are frozen.
//!
//! This crate reads no file but a detector's, resizes no picture and takes no optimizer's step.

pub mod adversarial;
pub mod detector;
pub mod judge;

mod clip;
mod efficientnet;
mod patch_gan;
mod perceptual;
mod source;

pub use clip::{
    ClipImageConfig, ClipImageTower, LogitScale, PICTURE_MEAN, PICTURE_STD, contrastive_loss, without_mean,
};
pub use detector::{Detection, Detector, DetectorConfig, DetectorError, DetectorFiles, DetectorNetwork};
pub use efficientnet::{EfficientNetLite0, SIDE_PX_MIN};
pub use patch_gan::PatchGan;
pub use perceptual::PerceptualDistance;
pub use source::{MisfitError, NamedTensors};
