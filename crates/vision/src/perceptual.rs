//! How different two pictures look.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::{Device, Module, Precision, Tensor};

use crate::EfficientNetLite0;

/// Added to squared lengths: a place where a feature map is 0 has no direction.
const EPS: f64 = 1e-10;

/// A distance between pictures in the features of [`EfficientNetLite0`].
///
/// It is made as LPIPS is (Zhang et al. 2018, arXiv:1801.03924, equation 1): at every place of a feature map the
/// channels are scaled to length 1, and squared differences are summed over channels and averaged over places. But the
/// network is another one and the five depths weigh the same, none of it fitted to what people said. So it is called
/// "perceptual", and its numbers must not be put beside published LPIPS.
#[derive(Module, Debug)]
pub struct PerceptualDistance {
    network: EfficientNetLite0,
}

impl PerceptualDistance {
    /// With the weights that are in the program.
    pub fn new(device: &Device, precision: Precision) -> Self {
        PerceptualDistance { network: EfficientNetLite0::pretrained(device, precision) }
    }

    /// Between pictures `[B, 3, H, W]`, RGB in -1..1: `[B]`, from 0 for the same picture to 4.
    ///
    /// # Panics
    /// A side is shorter than [`SIDE_PX_MIN`](crate::SIDE_PX_MIN).
    pub fn between(&self, a_B3HW: Tensor<4>, b_B3HW: Tensor<4>) -> Tensor<1> {
        assert_eq!(a_B3HW.dims(), b_B3HW.dims(), "pictures to compare");
        let (a, b) = (self.network.features(a_B3HW), self.network.features(b_B3HW));
        let depths = a.len() as f64;
        let apart = a.into_iter().zip(b).map(|(a_BCHW, b_BCHW)| {
            let apart_BCHW = (unit(a_BCHW) - unit(b_BCHW)).square();
            let places_B1HW = apart_BCHW.sum_dim(1);
            places_B1HW.flatten::<2>(1, 3).mean_dim(1).squeeze_dim::<1>(1)
        });
        apart.reduce(|sum, of_depth| sum + of_depth).expect("a network has depths") / depths
    }
}

/// Channels scaled to length 1 at every place.
fn unit(x_BCHW: Tensor<4>) -> Tensor<4> {
    let length_B1HW = (x_BCHW.clone().square().sum_dim(1) + EPS).sqrt();
    x_BCHW / length_B1HW
}
