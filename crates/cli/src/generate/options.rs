use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::bail;
use rectiflow_flow::{Shift, Spacing};
use rectiflow_generate::{Compat, LongPrompts, PromptSyntax, ReuseMode, StepReuse, Tiling};
use rectiflow_sample::Solver;

use super::format::FormatArgs;
use super::guidance::GuidanceArgs;
use super::preview::PreviewArgs;
use super::prompts;
use crate::args::{ComputeArgs, ModelArgs};

/// Draw pictures from prompts
#[derive(clap::Args, Clone)]
pub(crate) struct GenerateArgs {
    /// What to draw; give several for several pictures. "" draws what the model likes
    #[arg(value_name = "PROMPT")]
    prompt: Vec<String>,
    /// The same as PROMPT, after those; repeat it for several pictures
    #[arg(long = "prompt", short = 'p', value_name = "TEXT")]
    prompt_option: Vec<String>,
    /// Prompts from a text file, one a line, after those; - reads standard input
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Another text for both CLIP encoders, whatever the prompt
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) prompt_clip: Option<String>,
    /// Another text for T5, whatever the prompt
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) prompt_t5: Option<String>,
    /// A folder of files for __NAME__ in prompts: a line of NAME.txt is chosen by each picture's seed, as one of
    /// {red|green} is
    #[arg(long, value_name = "FOLDER")]
    pub(crate) wildcards: Option<PathBuf>,
    /// weights reads `(word:1.2)`, `(word)`, `[word]`, `\(` and BREAK in prompts, as A1111 does; plain draws
    /// them as text, as diffusers does
    #[arg(long, value_name = "HOW", default_value_t = PromptSyntax::Weights)]
    pub(super) prompt_syntax: PromptSyntax,
    /// What becomes of prompts beyond CLIP's 77 tokens: cut, as diffusers does, or chunks, which CLIP reads one after the
    /// other, as in ComfyUI. T5 reads as far as --t5-length in any case
    #[arg(long, value_name = "HOW", default_value_t = LongPrompts::Cut)]
    pub(super) long_prompts: LongPrompts,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Settings instead of the defaults below, which the line overrides: sd3-medium, sd3.5-medium, sd3.5-large or
    /// sd3.5-large-turbo as Stability draws them, auto for the one of the model, or a TOML file of options by their names
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<String>,
    /// What the preset set.
    #[arg(skip)]
    pub(crate) preset_line: Option<String>,
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
    /// Timestep shift: stretch of the noise levels towards noise; dynamic goes by the picture's size [default: the model's, or 3; with --compat
    /// stability 3, or 1 for SD3-Medium]
    #[arg(long, visible_alias = "flow-shift", value_name = "SHIFT", allow_negative_numbers = true)]
    pub(super) shift: Option<Shift>,
    /// How noise levels are spaced: released, simple, karras, exponential, beta or linear-quadratic [default: released,
    /// but simple for dpmpp_2m_flow, dpmpp_2m_sde, dpmpp_3m_sde, uni_pc, deis and ipndm]
    #[arg(long, visible_alias = "scheduler", value_name = "NAME")]
    pub(super) schedule: Option<Spacing>,
    /// Noise levels of your own instead of steps, schedule and shift: from 1 downwards, as in 1,0.9,0.6,0.2; 0 is added
    #[arg(
        long,
        value_name = "LEVELS",
        value_delimiter = ',',
        allow_negative_numbers = true,
        conflicts_with_all = ["steps", "schedule", "shift"]
    )]
    pub(super) sigmas: Option<Vec<f32>>,
    /// Seed of the first picture; picture i has seed + i. -1 or `random` draws a new one and prints it
    #[arg(long, short, default_value = "0", value_name = "SEED", allow_negative_numbers = true)]
    pub(crate) seed: Seed,
    /// Pictures of each prompt
    #[arg(long, short, visible_alias = "batch-count", default_value_t = 1, value_name = "N")]
    pub(crate) count: usize,
    /// Pictures that are drawn at once: the same pictures, sooner where they are small, with more memory
    #[arg(long, visible_alias = "batch_size", value_name = "N")]
    pub(super) batch_size: Option<usize>,
    /// Solver: euler, heun, midpoint, rk4, dopri5, dpmpp_2m, dpmpp_2m_flow, dpmpp_2m_sde, dpmpp_3m_sde, uni_pc,
    /// deis, ipndm, euler_a or lcm; dopri5(1e-4) for another tolerance [default: euler; with --compat stability dpmpp_2m]
    #[arg(long, visible_aliases = ["sampler", "sampling-method"], value_name = "NAME")]
    pub(super) solver: Option<Solver>,
    /// Leave out the blocks after the first in steps where it changes little: first-block takes what they added the last
    /// time, taylor what lies on the line through the last two times. docs/sampling.md says what that costs
    #[arg(long, value_name = "MODE")]
    pub(super) cache_mode: Option<ReuseMode>,
    /// How much the first block may have changed for that, in parts of what it adds
    /// [default: 0.1]
    #[arg(long, value_name = "PART", allow_negative_numbers = true)]
    cache_threshold: Option<f32>,
    /// Most T5 tokens, 8 to 512 [default: those the model says it was trained with, at most 256; with --compat stability 512]
    #[arg(long, value_name = "TOKENS")]
    pub(super) t5_length: Option<usize>,
    /// Whose picture to draw where the references differ: diffusers or stability; also sets the defaults
    #[arg(long, default_value_t = Compat::Diffusers, value_name = "NAME")]
    pub(crate) compat: Compat,
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
    /// Decode with this tiny decoder, TAESD3 (taesd3_decoder.safetensors): in a fraction of the time and memory, a little
    /// less exactly
    #[arg(long, value_name = "FILE")]
    pub(crate) taesd: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) guidance: GuidanceArgs,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Start even if the memory that is free would not do, by what `rectiflow plan` says
    #[arg(long)]
    pub(crate) ignore_memory: bool,
    /// Start from these latents (safetensors, tensor `latents` [1 or N, 16, H/8, W/8]) instead of the seed's noise
    #[arg(long, value_name = "FILE")]
    pub(super) latents_in: Option<PathBuf>,
    /// Store the final latents (safetensors, tensor `latents` [N, 16, H/8, W/8]) when the run ends
    #[arg(long, value_name = "FILE")]
    pub(super) latents_out: Option<PathBuf>,
    /// A .png, .jpg or .webp file, replaced if it is there; several pictures go to NAME-1.png and so on, which must not
    /// be there. Or a folder for new rectiflow-SEED.png files, made if its name ends in a slash [default: this folder]
    #[arg(long, short, visible_alias = "output", value_name = "PATH")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
    #[command(flatten)]
    pub(crate) preview: PreviewArgs,
}

impl GenerateArgs {
    /// What steps reuse.
    ///
    /// # Errors
    /// A threshold of nothing.
    pub(super) fn reuse(&self) -> anyhow::Result<Option<StepReuse>> {
        match (self.cache_mode, self.cache_threshold) {
            (None, Some(_)) => bail!("`--cache-threshold` has no effect without `--cache-mode`\nhint: give both"),
            (None, None) => Ok(None),
            (Some(mode), threshold) => Ok(Some(StepReuse { mode, threshold: threshold.unwrap_or(0.1) })),
        }
    }

    /// Every prompt, those without `--prompt` first, and those of a file last.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn prompts(&self) -> anyhow::Result<Vec<String>> {
        let of_file = self.prompt_file.as_deref().map(prompts::from_file).transpose()?.unwrap_or_default();
        Ok(self.prompt.iter().chain(&self.prompt_option).cloned().chain(of_file).collect())
    }
}

impl GenerateArgs {
    /// Each file that is written beside the pictures, with its option.
    pub(crate) fn other_outputs(&self) -> Vec<(&'static str, &Path)> {
        let latents = self.latents_out.as_deref().map(|path| ("--latents-out", path));
        latents.into_iter().chain(self.preview.file().map(|path| ("--preview", path))).collect()
    }

    /// Each file or folder that is read, with its option.
    pub(crate) fn inputs(&self) -> Vec<(&'static str, &Path)> {
        let beside = [
            ("--latents-in", &self.latents_in),
            ("--taesd", &self.taesd),
            ("--autoguidance", &self.guidance.autoguidance),
        ];
        let beside = beside.into_iter().filter_map(|(option, path)| Some((option, path.as_deref()?)));
        self.model.given().chain(beside).collect()
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
    pub(crate) fn number(self) -> u64 {
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
