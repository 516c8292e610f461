use std::path::PathBuf;
use std::str::FromStr;

use rectiflow_generate::{Compat, Tiling};
use rectiflow_sample::Solver;

use crate::args::{ComputeArgs, ModelArgs};

/// Draw pictures from prompts
#[derive(clap::Args)]
pub(crate) struct GenerateArgs {
    /// What to draw; give several for several pictures. "" draws what the model likes
    #[arg(value_name = "PROMPT")]
    prompt: Vec<String>,
    /// The same as PROMPT, after those; repeat it for several pictures
    #[arg(long = "prompt", short = 'p', value_name = "TEXT")]
    prompt_option: Vec<String>,
    #[command(flatten)]
    pub(super) model: ModelArgs,
    /// Negative prompt: what to stay away from
    #[arg(
        long,
        short,
        visible_alias = "negative-prompt",
        alias = "negative_prompt",
        default_value = "",
        value_name = "TEXT",
        allow_hyphen_values = true
    )]
    pub(super) negative: String,
    /// Width in pixels, a multiple of 16 [default: what the model's settings say, else 1024 or its largest]
    #[arg(long, short = 'W', value_name = "PX")]
    pub(super) width: Option<usize>,
    /// Height in pixels, a multiple of 16 [default: what the model's settings say, else 1024 or its largest]
    #[arg(long, short = 'H', value_name = "PX")]
    pub(super) height: Option<usize>,
    /// Steps of the solver [default: 28; with --compat stability 50, or 40 for SD3.5-Large]
    #[arg(long, visible_alias = "num-inference-steps", value_name = "N")]
    pub(super) steps: Option<usize>,
    /// Guidance scale; 1 or less turns guidance off [default: 7; with --compat stability 5, or 4.5 for SD3.5-Large]
    #[arg(
        long,
        visible_aliases = ["cfg-scale", "guidance-scale"],
        value_name = "SCALE",
        allow_negative_numbers = true
    )]
    pub(super) guidance: Option<f32>,
    /// Timestep shift: stretch of the noise levels towards noise [default: the model's, or 3; with --compat
    /// stability 3, or 1 for SD3-Medium]
    #[arg(long, visible_alias = "flow-shift", value_name = "SHIFT", allow_negative_numbers = true)]
    pub(super) shift: Option<f32>,
    /// Seed of the first picture; picture i has seed + i. -1 or `random` draws a new one and prints it
    #[arg(long, short, default_value = "0", value_name = "SEED", allow_negative_numbers = true)]
    pub(super) seed: Seed,
    /// Pictures of each prompt
    #[arg(long, short, visible_alias = "batch-count", default_value_t = 1, value_name = "N")]
    pub(super) count: usize,
    /// Solver: euler, heun or dpmpp_2m [default: euler; with --compat stability dpmpp_2m]
    #[arg(long, visible_aliases = ["sampler", "sampling-method"], value_name = "NAME")]
    pub(super) solver: Option<Solver>,
    /// Most T5 tokens, 8 to 512 [default: those the model says it was trained with, at most 256; with --compat stability 512]
    #[arg(long, value_name = "TOKENS")]
    pub(super) t5_length: Option<usize>,
    /// Whose picture to draw where the references differ: diffusers or stability; also sets the defaults
    #[arg(long, default_value_t = Compat::Diffusers, value_name = "NAME")]
    pub(super) compat: Compat,
    /// Decode in strips of rows, which takes less than half of the memory and half as long again, and gives the same
    /// picture: auto, on or off; without a value on. auto does so beyond 1536x1536, and where the memory that the
    /// system has free would not do
    #[arg(
        long,
        visible_alias = "enable-tiling",
        default_value_t = Tiling::Auto,
        default_missing_value = "on",
        num_args = 0..=1,
        value_name = "WHEN"
    )]
    pub(super) vae_tiling: Tiling,
    #[command(flatten)]
    pub(super) compute: ComputeArgs,
    /// Start from these latents (safetensors, tensor `latents` [1 or N, 16, H/8, W/8]) instead of the seed's noise
    #[arg(long, value_name = "FILE")]
    pub(super) latents_in: Option<PathBuf>,
    /// Store the final latents (safetensors, tensor `latents` [N, 16, H/8, W/8]) when the run ends
    #[arg(long, value_name = "FILE")]
    pub(super) latents_out: Option<PathBuf>,
    /// A .png file, replaced if it is there; several pictures go to NAME-1.png and so on, which must not be there.
    /// Or a folder for new rectiflow-SEED.png files, made if its name ends in a slash [default: this folder]
    #[arg(long, short, visible_alias = "output", value_name = "PATH")]
    pub(super) out: Option<PathBuf>,
}

impl GenerateArgs {
    /// Every prompt, those without `--prompt` first.
    pub(super) fn prompts(&self) -> Vec<String> {
        self.prompt.iter().chain(&self.prompt_option).cloned().collect()
    }
}

/// Which noise to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seed {
    Given(u64),
    /// A new one for each run.
    Random,
}

impl Seed {
    /// The seed of the first picture.
    pub(super) fn number(self) -> u64 {
        match self {
            Seed::Given(seed) => seed,
            Seed::Random => new_seed(),
        }
    }
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "-1" | "random" => Ok(Seed::Random),
            number => number.parse().map(Seed::Given).map_err(|_| {
                format!("a seed is a whole number from 0 to {}, or -1 or `random` for a new one", u64::MAX)
            }),
        }
    }
}

/// Of 32 bits, which every other tool takes too. The standard library seeds its hash tables from the system's
/// entropy.
fn new_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::SystemTime::now()) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_number_or_a_wish_for_one() {
        assert_eq!("7".parse(), Ok(Seed::Given(7)));
        assert_eq!("18446744073709551615".parse(), Ok(Seed::Given(u64::MAX)));
        for text in ["-1", "random"] {
            assert_eq!(text.parse(), Ok(Seed::Random));
        }
        for text in ["-2", "18446744073709551616", "1.5", ""] {
            assert!(text.parse::<Seed>().unwrap_err().contains("0 to 18446744073709551615"), "{text}");
        }
        assert_ne!(Seed::Random.number(), Seed::Random.number());
    }
}
