use super::path::{Mix, SIGMA_DATA};

/// What the network is trained to say of a noisy picture `z = a x0 + b eps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// `eps - x0`: what solvers follow (arXiv:2403.03206, sec. 3).
    Velocity,
    /// `eps` (Ho et al. 2020, arXiv:2006.11239).
    Noise,
    /// `a eps - b x0` (Salimans & Ho 2022, arXiv:2202.00512).
    V,
    /// EDM's F: `(x0 - c_skip z) / c_out` for `z = x0 + s eps`, with `c_skip = 0.25 / (s^2 + 0.25)` and
    /// `c_out = 0.5 s / sqrt(s^2 + 0.25)` (Karras et al. 2022, arXiv:2206.00364, table 1).
    F,
}

impl Prediction {
    /// What of the picture and of the noise the prediction is, where `noisy` is what of them the noisy picture is.
    pub(super) fn target(self, noisy: Mix) -> Mix {
        match self {
            Prediction::Velocity => Mix { image: -1.0, noise: 1.0 },
            Prediction::Noise => Mix { image: 0.0, noise: 1.0 },
            Prediction::V => Mix { image: -noisy.noise, noise: noisy.image },
            Prediction::F => {
                let s = noisy.noise / noisy.image;
                let length = s.hypot(SIGMA_DATA);
                let c_skip = (SIGMA_DATA / length).powi(2);
                let c_out = s * SIGMA_DATA / length;
                // 1 - c_skip, without the cancellation.
                Mix { image: (s / length).powi(2) / c_out, noise: -c_skip * s / c_out }
            }
        }
    }
}

impl std::fmt::Display for Prediction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Prediction::Velocity => "velocity: eps - x0",
            Prediction::Noise => "noise: eps",
            Prediction::V => "v: a eps - b x0",
            Prediction::F => "F: (x0 - c_skip z) / c_out",
        })
    }
}

/// What a prediction says of the velocity, where the latent `(1 - sigma) x0 + sigma eps` is known:
/// `eps - x0 = latent * of_latent + prediction * of_prediction`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToVelocity {
    pub(super) of_latent: f64,
    pub(super) of_prediction: f64,
}

impl ToVelocity {
    /// The two equations, one for the picture and one for the noise, solved:
    /// `(1 - sigma) of_latent + target.image of_prediction = -1` and `sigma of_latent + target.noise of_prediction = 1`.
    /// There is no solution where the prediction is the latent again, as the noise is at `sigma = 1`.
    pub(super) fn of(target: Mix, sigma: f64) -> ToVelocity {
        let determinant = (1.0 - sigma) * target.noise - sigma * target.image;
        ToVelocity { of_latent: -(target.image + target.noise) / determinant, of_prediction: 1.0 / determinant }
    }
}

#[cfg(test)]
mod tests {
    use super::super::path::Path;
    use super::*;

    /// Each as its own paper writes the picture that a prediction means.
    #[test]
    fn every_prediction_gives_the_picture_back_as_its_paper_says() {
        let (x0, eps) = (0.7, -1.3);
        for (path, prediction) in [
            (Path::Straight, Prediction::Velocity),
            (Path::Cosine, Prediction::Noise),
            (Path::Cosine, Prediction::V),
            (Path::Linear, Prediction::Noise),
            (Path::Linear, Prediction::V),
            (Path::Exploding, Prediction::F),
        ] {
            for step in 1..50 {
                let sigma = 0.03 + 0.018 * f64::from(step);
                let noisy = path.noisy(sigma);
                let target = prediction.target(noisy);
                let (a, b) = (noisy.image, noisy.noise);
                let z = a * x0 + b * eps;
                let said = target.image * x0 + target.noise * eps;
                let picture = match prediction {
                    Prediction::Velocity => z - sigma * said,
                    Prediction::Noise => (z - b * said) / a,
                    Prediction::V => a * z - b * said,
                    Prediction::F => {
                        let variance = b * b + 0.25;
                        0.25 / variance * z + 0.5 * b / variance.sqrt() * said
                    }
                };
                assert!((picture - x0).abs() < 1e-9, "{path}, {prediction}, {sigma}: {picture}");

                let to_velocity = ToVelocity::of(target, sigma);
                let latent = (1.0 - sigma) * x0 + sigma * eps;
                let velocity = latent * to_velocity.of_latent + said * to_velocity.of_prediction;
                assert!((velocity - (eps - x0)).abs() < 1e-9, "{path}, {prediction}, {sigma}: {velocity}");
            }
        }
    }
}
