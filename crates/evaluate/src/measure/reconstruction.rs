//! What the autoencoder loses of held-out scenes: from a picture to the posterior's mean and back, in bytes.

use rectiflow_vae::Vae;

use super::{AT_ONCE, Ground};
use crate::EvaluateError;
use crate::metrics::{psnr, ssim};
use crate::results::{Figure, Of, Part, Unit, mean_of};
use crate::watch::{Watch, go_on};

pub(crate) fn measure(ground: &Ground<'_>, vae: &Vae, watch: &mut dyn Watch) -> Result<Vec<Figure>, EvaluateError> {
    let scenes = ground.held_out(usize::MAX);
    let (mut noise, mut structure) = (Vec::new(), Vec::new());
    for some in scenes.chunks(AT_ONCE) {
        go_on(watch)?;
        let real = some.iter().map(|scene| ground.real(scene)).collect::<Result<Vec<_>, _>>()?;
        let made = ground.reconstructed(vae, &real)?;
        noise.extend(real.iter().zip(&made).map(|(real, made)| psnr(real, made)));
        structure.extend(real.iter().zip(&made).map(|(real, made)| ssim(real, made)));
        watch.step(noise.len(), scenes.len());
    }
    Ok(vec![
        mean_of(&noise, Part::Reconstruction, "PSNR", Of::Reconstructed, Unit::Decibel),
        mean_of(&structure, Part::Reconstruction, "SSIM", Of::Reconstructed, Unit::Number),
    ])
}
