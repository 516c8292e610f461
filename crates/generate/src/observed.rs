//! What a model said last, kept for who wants to see what becomes of a picture.

use std::cell::RefCell;

use rectiflow_nn::Tensor;
use rectiflow_sample::{SampleError, Velocity};

/// Where a model was asked last, and what it said.
#[derive(Default)]
pub(crate) struct Said(RefCell<Option<Asked>>);

struct Asked {
    latent: Tensor<4>,
    velocity: Tensor<4>,
    sigma: f32,
}

/// A model whose answers are kept. They are tensors that are there anyway: nothing is computed or copied for it.
pub(crate) struct Observed<'a, V> {
    model: V,
    said: &'a Said,
}

impl Said {
    /// What the model takes the latents for without their noise: `latent - sigma velocity`.
    ///
    /// # Panics
    /// It was not asked yet: solvers ask before their first step ends.
    pub(crate) fn denoised(&self) -> Tensor<4> {
        let said = self.0.borrow();
        let Asked { latent, velocity, sigma } = said.as_ref().expect("a step asks the model");
        latent.clone() - velocity.clone() * *sigma
    }
}

impl<'a, V> Observed<'a, V> {
    pub(crate) fn new(model: V, said: &'a Said) -> Self {
        Observed { model, said }
    }
}

impl<V: Velocity> Velocity for Observed<'_, V> {
    fn velocity(&mut self, latent: &Tensor<4>, sigma: f32) -> Result<Tensor<4>, SampleError> {
        let velocity = self.model.velocity(latent, sigma)?;
        *self.said.0.borrow_mut() = Some(Asked { latent: latent.clone(), velocity: velocity.clone(), sigma });
        Ok(velocity)
    }
}

#[cfg(test)]
mod tests {
    use rectiflow_nn::{Device, from_f32, to_f32};

    use super::*;

    /// Says what leads straight to a picture of threes.
    struct Straight;

    impl Velocity for Straight {
        fn velocity(&mut self, latent: &Tensor<4>, sigma: f32) -> Result<Tensor<4>, SampleError> {
            Ok((latent.clone() - 3.0) / sigma)
        }
    }

    #[test]
    fn what_a_latent_is_taken_for_is_the_end_of_its_path() {
        let said = Said::default();
        let mut model = Observed::new(Straight, &said);
        for sigma in [1.0, 0.25] {
            model.velocity(&from_f32(vec![5.0, -1.0], [1, 2, 1, 1], &Device::flex()), sigma).unwrap();
            assert!(to_f32(&said.denoised()).iter().all(|value| (value - 3.0).abs() < 1e-6));
        }
    }
}
