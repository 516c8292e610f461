use rectiflow_nn::Tensor;

use super::stepper::{At, History, Stepper};
use crate::{SampleError, Velocity};

/// Improved PNDM (Zhang and Chen 2022, arXiv:2204.13902, appendix; k-diffusion's and ComfyUI's `ipndm`): the
/// Adams-Bashforth formulas of up to order 4 on velocities, with the weights of steps that are equally wide. Steps of
/// schedules are not, so what is gained over order 2 depends on how slowly their widths change.
#[derive(Default)]
pub(super) struct Ipndm(History);

/// Weights of the velocity now and of those before, by how many there are.
const WEIGHTS: [&[f64]; 4] = [
    &[1.0],
    &[3.0 / 2.0, -1.0 / 2.0],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

impl Stepper for Ipndm {
    fn step(&mut self, model: &mut dyn Velocity, latent: Tensor<4>, at: &mut At<'_>) -> Result<Tensor<4>, SampleError> {
        let velocity = model.velocity(&latent, at.sigma)?;
        let known = (0..WEIGHTS.len() - 1).take_while(|ago| self.0.get(*ago).is_some()).count();
        // The step to a picture is Euler's: there the widths change most.
        let weights = WEIGHTS[if at.left > 0 { known } else { 0 }];
        let mut mixed = velocity.clone() * weights[0];
        for (ago, weight) in weights[1..].iter().enumerate() {
            mixed = mixed + self.0.get(ago).expect("as many as are known").value.clone() * *weight;
        }
        self.0.push(at.sigma, velocity, WEIGHTS.len() - 1);
        Ok(latent + mixed * at.width())
    }
}
