//! What decodes pictures, and whether in strips.

use rectiflow_nn::Tensor;
use rectiflow_vae::{Decoding, TinyDecoder, Vae, VaeConfig};

use crate::plan::Plan;

/// Pictures of more pixels go in strips, however much memory there is: those of 1536x1536.
const WHOLE_PX_MAX: usize = 1536 * 1536;

/// Who decides how pictures are decoded. They are the same to the bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiling {
    /// In strips where the whole decode would not fit in the memory that is available, and beyond 1536x1536.
    #[default]
    Auto,
    /// Always in strips.
    On,
    /// Always whole.
    Off,
}

impl Tiling {
    /// Every choice.
    pub const ALL: [Tiling; 3] = [Tiling::Auto, Tiling::On, Tiling::Off];

    /// How a latent of `[height, width]` is decoded where `available` bytes are free, if that is known.
    pub fn decoding(self, vae: &VaeConfig, latent: [usize; 2], available: Option<u64>) -> Decoding {
        let needed = vae.decode_bytes(latent, Decoding::Whole);
        let is_large = latent[0] * latent[1] * vae.downsampling().pow(2) > WHOLE_PX_MAX;
        match self {
            Tiling::On => Decoding::InStrips,
            Tiling::Auto if is_large || available.is_some_and(|available| needed > available) => Decoding::InStrips,
            Tiling::Auto | Tiling::Off => Decoding::Whole,
        }
    }
}

/// What makes a run's latents pictures.
pub(crate) enum Decoder<'a> {
    Tiny(&'a TinyDecoder),
    Autoencoder(&'a Vae, Decoding),
}

impl<'a> Decoder<'a> {
    /// For pictures of a plan's size, where `available` bytes are free, if that is known.
    pub(crate) fn of(vae: &'a Vae, tiny: Option<&'a TinyDecoder>, plan: &Plan, available: Option<u64>) -> Decoder<'a> {
        match tiny {
            Some(tiny) => Decoder::Tiny(tiny),
            None => Decoder::Autoencoder(vae, plan.tiling.decoding(vae.config(), plan.latent_size(), available)),
        }
    }

    /// The name of the phase.
    pub(crate) fn phase(&self) -> &'static str {
        match self {
            Decoder::Tiny(_) => "decode with the tiny decoder",
            Decoder::Autoencoder(_, Decoding::Whole) => "decode",
            Decoder::Autoencoder(_, Decoding::InStrips) => "decode in strips",
        }
    }

    pub(crate) fn decode(&self, latent: Tensor<4>) -> Tensor<4> {
        match self {
            Decoder::Tiny(tiny) => tiny.decode(latent),
            Decoder::Autoencoder(vae, decoding) => vae.decode_as(latent, *decoding),
        }
    }

    /// What a latent of `[height, width]` takes, to be compared with what another takes.
    pub(crate) fn work(&self, latent: [usize; 2]) -> f64 {
        match self {
            Decoder::Tiny(_) => (latent[0] * latent[1]) as f64,
            Decoder::Autoencoder(vae, _) => vae.config().decode_products(latent).operations,
        }
    }
}

impl std::fmt::Display for Tiling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Tiling::Auto => "auto",
            Tiling::On => "on",
            Tiling::Off => "off",
        })
    }
}

impl std::str::FromStr for Tiling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Tiling::ALL.into_iter().find(|tiling| tiling.to_string() == text);
        known.ok_or_else(|| "it is auto, on or off".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_size_decide_where_the_user_does_not() {
        let vae = VaeConfig::released();
        let decoding = |tiling: Tiling, side: usize, gigabytes: Option<u64>| {
            tiling.decoding(&vae, [side / 8; 2], gigabytes.map(|gigabytes| gigabytes * 1_000_000_000))
        };
        assert_eq!(decoding(Tiling::Auto, 1024, None), Decoding::Whole);
        assert_eq!(decoding(Tiling::Auto, 1024, Some(3)), Decoding::Whole);
        assert_eq!(decoding(Tiling::Auto, 1024, Some(2)), Decoding::InStrips);
        assert_eq!(decoding(Tiling::Auto, 1536, Some(100)), Decoding::Whole);
        assert_eq!(decoding(Tiling::Auto, 1552, Some(100)), Decoding::InStrips);
        assert_eq!(decoding(Tiling::On, 64, Some(100)), Decoding::InStrips);
        assert_eq!(decoding(Tiling::Off, 2048, Some(1)), Decoding::Whole);
    }
}
