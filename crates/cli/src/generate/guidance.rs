//! How the picture is led, as options say it.

use std::path::PathBuf;

use rectiflow_generate::{GuidanceRequest, Hindered, Hindrance};
use rectiflow_sample::{BadWindow, Rule, Scales, Window};

/// Guidance
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Guidance")]
pub(crate) struct GuidanceArgs {
    /// Guidance scale, or one for each step as in 7,6,5 (the last for all further ones); 1 or less turns guidance off
    /// [default: 7; with --compat stability 5, or 4.5 for SD3.5-Large]
    #[arg(
        long,
        visible_aliases = ["cfg-scale", "guidance-scale"],
        value_name = "SCALE",
        allow_negative_numbers = true
    )]
    pub(super) guidance: Option<Scales>,
    /// Guidance begins after this part of the steps
    #[arg(long, value_name = "PART", default_value_t = 0.0, allow_negative_numbers = true)]
    guidance_start: f32,
    /// Guidance ends after this part of the steps
    #[arg(long, value_name = "PART", default_value_t = 1.0, allow_negative_numbers = true)]
    guidance_end: f32,
    /// Bring the deviation of the guided velocity so far back to that of the prompt's, 0 to 1; 0.7 is usual
    #[arg(long, value_name = "PART", default_value_t = 0.0, allow_negative_numbers = true)]
    guidance_rescale: f32,
    /// CFG-Zero*: scale the negative prompt's velocity to fit the prompt's, and leave out the first N steps' velocities
    #[arg(
        long,
        value_name = "N",
        num_args = 0..=1,
        default_missing_value = "1",
        conflicts_with_all = ["apg_eta", "apg_norm_threshold", "apg_momentum"]
    )]
    cfg_zero_star: Option<usize>,
    /// Adaptive projected guidance: what counts of guidance along the prompt's velocity; 1 is plain guidance
    #[arg(long, value_name = "ETA", allow_negative_numbers = true)]
    apg_eta: Option<f32>,
    /// Adaptive projected guidance: longer differences are shortened to this length; 0 leaves them
    #[arg(long, value_name = "LENGTH", allow_negative_numbers = true)]
    apg_norm_threshold: Option<f32>,
    /// Adaptive projected guidance: what counts of the steps before; negative is usual
    #[arg(long, value_name = "PART", allow_negative_numbers = true)]
    apg_momentum: Option<f32>,
    /// Skip-layer guidance: lead away from what the model says without these blocks, counted from 0; 7,8,9 for
    /// SD3.5-Medium
    #[arg(long, value_name = "BLOCKS", value_delimiter = ',')]
    skip_layers: Vec<usize>,
    /// How far to lead away from it
    #[arg(long, value_name = "SCALE", default_value_t = 2.8, allow_negative_numbers = true)]
    slg_scale: f32,
    /// Skip-layer guidance begins after this part of the steps
    #[arg(long, value_name = "PART", default_value_t = 0.01, allow_negative_numbers = true)]
    skip_layer_start: f32,
    /// Skip-layer guidance ends after this part of the steps
    #[arg(long, value_name = "PART", default_value_t = 0.2, allow_negative_numbers = true)]
    skip_layer_end: f32,
    /// Perturbed attention guidance: lead away from what the model says when in these blocks no part of the picture sees
    /// another
    #[arg(long, value_name = "BLOCKS", value_delimiter = ',')]
    pag_layers: Vec<usize>,
    /// How far to lead away from it
    #[arg(long, value_name = "SCALE", default_value_t = 3.0, allow_negative_numbers = true)]
    pag_scale: f32,
    /// Autoguidance: lead away from what this model's transformer says, a smaller or less trained one of the same encoders:
    /// a file or a folder. As in the paper, usually with --guidance 1
    #[arg(long, value_name = "PATH")]
    pub(crate) autoguidance: Option<PathBuf>,
    /// The paper's guidance weight: 1 is none [default: 2]
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    autoguidance_scale: Option<f32>,
}

impl GuidanceArgs {
    /// What is asked for.
    ///
    /// # Errors
    /// Steps from a part to one that is not behind it.
    pub(super) fn request(&self) -> anyhow::Result<GuidanceRequest> {
        let window = |options: &str, start: f32, end: f32| {
            Window::new(start, end).map_err(|bad: BadWindow| anyhow::anyhow!("`{options}`: {bad}"))
        };
        let apg = [self.apg_eta, self.apg_norm_threshold, self.apg_momentum];
        let rule = match self.cfg_zero_star {
            Some(zeroed) => Rule::ZeroStar { zeroed },
            None if apg.iter().any(Option::is_some) => Rule::Projected {
                eta: self.apg_eta.unwrap_or(1.0),
                norm_max: self.apg_norm_threshold.unwrap_or(0.0),
                momentum: self.apg_momentum.unwrap_or(0.0),
            },
            None => Rule::Plain,
        };
        let mut hindered = Vec::new();
        if !self.skip_layers.is_empty() {
            let window = window("--skip-layer-start, --skip-layer-end", self.skip_layer_start, self.skip_layer_end)?;
            let (how, blocks) = (Hindrance::SkippedBlocks, self.skip_layers.clone());
            hindered.push(Hindered { how, blocks, scale: self.slg_scale, window });
        }
        if !self.pag_layers.is_empty() {
            let (how, blocks) = (Hindrance::IsolatedTokens, self.pag_layers.clone());
            hindered.push(Hindered { how, blocks, scale: self.pag_scale, window: Window::ALL });
        }
        match (&self.autoguidance, self.autoguidance_scale) {
            (None, None) => {}
            (None, Some(_)) => {
                anyhow::bail!("`--autoguidance-scale` has no effect without `--autoguidance`\nhint: give both")
            }
            (Some(_), weight) => {
                let (how, scale) = (Hindrance::WorseModel, weight.unwrap_or(2.0) - 1.0);
                hindered.push(Hindered { how, blocks: Vec::new(), scale, window: Window::ALL });
            }
        }
        Ok(GuidanceRequest {
            scales: self.guidance.clone(),
            window: Some(window("--guidance-start, --guidance-end", self.guidance_start, self.guidance_end)?),
            rule,
            rescale: self.guidance_rescale,
            hindered,
        })
    }
}
