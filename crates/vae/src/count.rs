//! How many products a decode takes, from an autoencoder's sizes alone. Norms and activations, a percent or two, are left
//! out.

use crate::VaeConfig;

/// What a decoder multiplies.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Products {
    /// Two for a multiplication with its addition.
    pub operations: f64,
    /// Numbers of its weights.
    pub weights: f64,
}

impl VaeConfig {
    /// The convolutions and the attention of a whole decode, of a latent of `height` x `width`.
    pub fn decode_products(&self, [height, width]: [usize; 2]) -> Products {
        let mut all = Products::default();
        let mut tokens = (height * width) as f64;
        let mut conv = |count: usize, from: usize, to: usize, kernel: usize, pixels: f64| {
            let weights = (count * from * to * kernel * kernel) as f64;
            all.weights += weights;
            all.operations += 2.0 * weights * pixels;
        };
        let deepest = self.widths[self.widths.len() - 1];
        let attention = 4.0 * tokens * tokens * deepest as f64;
        conv(1, self.latent_channels, deepest, 3, tokens);
        conv(4, deepest, deepest, 3, tokens);
        conv(4, deepest, deepest, 1, tokens);
        let mut width = deepest;
        for (level, &out) in self.widths.iter().enumerate().rev() {
            for _ in 0..=self.blocks {
                conv(1, width, out, 3, tokens);
                conv(1, out, out, 3, tokens);
                if width != out {
                    conv(1, width, out, 1, tokens);
                }
                width = out;
            }
            if level > 0 {
                tokens *= 4.0;
                conv(1, width, width, 3, tokens);
            }
        }
        conv(1, width, 3, 3, tokens);
        all.operations += attention;
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_released_decoder_has_its_weights_and_grows_with_the_picture() {
        let config = VaeConfig::released();
        let at = |side: usize| config.decode_products([side; 2]);
        // Its 49,545,475 parameters, less biases and norms.
        assert!((at(64).weights / 49_545_475.0 - 1.0).abs() < 0.01, "{}", at(64).weights);
        let attention = |side: usize| 4.0 * (side as f64).powi(4) * 512.0;
        let grows = (at(128).operations - attention(128)) / (at(64).operations - attention(64));
        assert!((grows - 4.0).abs() < 1e-9, "{grows}");
    }
}
