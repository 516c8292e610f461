//! `rectiflow verify`

mod golden;

use std::path::PathBuf;
use std::process::ExitCode;

use rectiflow_generate::{
    Compat, Encoder, EncoderTexts, ModelFiles, Parts, Plan, PromptTokens, Told, Unwatched, denoise,
};
use rectiflow_nn::{Device, Precision, Tensor, from_f32, to_f32};
use rectiflow_text::{Conditioning, Tokens};
use serde::Serialize;

use self::golden::{Expected, Golden};
use crate::args::{ComputeArgs, ModelArgs};
use crate::output::data;

/// The timestep at which golden files hold a velocity.
const VELOCITY_TIMESTEP: f32 = 731.5;

/// Compare every stage with what a reference computed
///
/// A golden file holds the tensors of each stage (ids_clip, ids_clip2, ids_t5, prompt_embeds, pooled and their
/// negatives, noise, sigmas, velocity at timestep 731.5, latents, decoded, image, encoded_mean) and, as JSON under
/// `args` in its metadata, prompt, negative, size, steps, cfg, shift, seqlen and perhaps solver.
/// scripts/make_golden.py makes one from a diffusers folder.
///
/// Token ids are not compared where the file or the model has none of that encoder; that is said.
///
/// Exit status: 0 all that was compared is within its bound, 1 a stage is over its bound, 2 an error.
#[derive(clap::Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// What the reference computed (safetensors)
    #[arg(long, value_name = "FILE")]
    golden: PathBuf,
    /// Whose rules the golden file was made by: diffusers or stability
    #[arg(long, default_value_t = Compat::Diffusers, value_name = "NAME")]
    compat: Compat,
    #[command(flatten)]
    compute: ComputeArgs,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// One stage's result.
#[derive(Serialize)]
struct Stage {
    stage: &'static str,
    /// `max|a-b| / max|b|`; for tokens the number that differ.
    error: f64,
    bound: f64,
    pass: bool,
}

/// A stage that there is nothing to compare for.
#[derive(Serialize)]
struct NotCompared {
    stage: &'static str,
    why: String,
}

#[derive(Serialize)]
struct Report {
    model: String,
    golden: String,
    precision: String,
    compat: String,
    stages: Vec<Stage>,
    not_compared: Vec<NotCompared>,
    pass: bool,
}

pub(crate) fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let paths = args.model.paths()?;
    let device = args.compute.device.open()?;
    let golden = Golden::open(&args.golden, &device)?;
    let files = ModelFiles::open(&paths)?;
    let plan = golden.plan(&files.facts(), args.compat)?;
    let parts = Parts::load(&files, args.compute.device, args.compute.precision, args.compat)?;
    let model = parts.name.file.clone();

    let precision = args.compute.precision;
    let mut check = Check { golden: &golden, precision, stages: Vec::new(), not_compared: Vec::new() };
    check.all(parts, &plan, &device)?;
    let report = Report {
        model,
        golden: args.golden.display().to_string(),
        precision: precision.to_string(),
        compat: args.compat.to_string(),
        pass: check.stages.iter().all(|stage| stage.pass),
        stages: check.stages,
        not_compared: check.not_compared,
    };
    if args.json {
        data(&serde_json::to_string(&report)?);
    } else {
        report.print();
    }
    Ok(if report.pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Report {
    fn print(&self) {
        data(&format!("{} against {}, {}, by the rules of {}", self.model, self.golden, self.precision, self.compat));
        data(&format!("{:<24} {:>12} {:>10}", "stage", "error", "bound"));
        for Stage { stage, error, bound, pass } in &self.stages {
            let verdict = if *pass { "ok" } else { "OVER" };
            data(&format!("{stage:<24} {error:>12.2e} {bound:>10.0e}  {verdict}"));
        }
        for NotCompared { stage, why } in &self.not_compared {
            data(&format!("{stage:<24} not compared: {why}"));
        }
        let (compared, over) = (self.stages.len(), self.stages.iter().filter(|stage| !stage.pass).count());
        let all = compared + self.not_compared.len();
        let verdict = if over == 0 { "all within their bounds".into() } else { format!("{over} over the bound") };
        data(&format!("{compared} of {all} stages compared: {verdict}"));
    }
}

/// Compares stage by stage. Each network gets the reference's input, so that an error shows where it is made;
/// only `latents` runs from the prompt's own encoding, through every step.
struct Check<'a> {
    golden: &'a Golden,
    precision: Precision,
    stages: Vec<Stage>,
    not_compared: Vec<NotCompared>,
}

impl Check<'_> {
    fn all(&mut self, parts: Parts, plan: &Plan, device: &Device) -> anyhow::Result<()> {
        let Parts { text, transformer, vae, .. } = parts;
        let prompt = text.tokenize(&EncoderTexts::plain(&plan.prompts[0]), plan.compat, plan.t5_length)?;
        let negative = text.tokenize(&EncoderTexts::plain(&plan.negative), plan.compat, plan.t5_length)?;
        let config = transformer.config();
        self.golden.check_fits(&expected(plan, &prompt, &negative, [config.context_width, config.pooled_width]))?;
        self.tokens("ids_clip", Encoder::ClipL, prompt.clip_l.as_ref())?;
        self.tokens("ids_clip2", Encoder::ClipG, prompt.clip_g.as_ref())?;
        self.tokens("ids_t5", Encoder::T5, prompt.t5.as_ref())?;

        let encoded = text.encode(vec![prompt, negative], plan.compat, plan.t5_length, &mut Unwatched)?;
        let [prompt, negative] = <[Conditioning; 2]>::try_from(encoded).expect("two texts give two encodings");
        self.close("prompt_embeds", &prompt.context)?;
        self.close("negative_prompt_embeds", &negative.context)?;
        self.close("pooled", &prompt.pooled)?;
        self.close("negative_pooled", &negative.pooled)?;

        let sigmas = plan.schedule.sigmas().to_vec();
        let count = sigmas.len();
        self.close("sigmas", &from_f32(sigmas, [count], device))?;

        let given =
            Conditioning { context: self.golden.tensor("prompt_embeds")?, pooled: self.golden.tensor("pooled")? };
        let noise: Tensor<4> = self.golden.tensor("noise")?;
        let timestep = from_f32(vec![VELOCITY_TIMESTEP], [1], device);
        let velocity = transformer.forward(noise.clone(), timestep, given.context, given.pooled);
        self.close("velocity", &velocity)?;

        let told = Told { prompt: &prompt, negative: plan.is_guided().then_some(&negative) };
        let latents = denoise(&transformer, &told, noise, &[plan.seed], plan, &mut Unwatched)?;
        self.close("latents", &latents)?;

        self.close("decoded", &vae.decode(self.golden.tensor("latents")?))?;
        self.close("encoded_mean", &vae.encode(self.golden.tensor("image")?).mean)
    }

    fn tokens(&mut self, stage: &'static str, encoder: Encoder, found: Option<&Tokens>) -> anyhow::Result<()> {
        let (found, expected) = match (found, self.golden.ids(stage)?) {
            (Some(found), Some(expected)) => (found, expected),
            (None, _) => return self.skip(stage, format!("the model has no {encoder}")),
            (_, None) => return self.skip(stage, "the golden file does not have it".into()),
        };
        let differ = found.ids.iter().zip(&expected).filter(|(a, b)| a != b).count();
        let error = (differ + found.ids.len().abs_diff(expected.len())) as f64;
        self.stages.push(Stage { stage, error, bound: 0.0, pass: error == 0.0 });
        Ok(())
    }

    fn skip(&mut self, stage: &'static str, why: String) -> anyhow::Result<()> {
        self.not_compared.push(NotCompared { stage, why });
        Ok(())
    }

    fn close<const D: usize>(&mut self, stage: &'static str, found: &Tensor<D>) -> anyhow::Result<()> {
        let expected: Tensor<D> = self.golden.tensor(stage)?;
        assert_eq!(found.dims(), expected.dims(), "{stage}: the golden file was checked before");
        let error = relative_error(&to_f32(found), &to_f32(&expected));
        let bound = bound(stage, self.precision);
        // A NaN is never within a bound.
        self.stages.push(Stage { stage, error, bound, pass: error <= bound });
        Ok(())
    }
}

/// The tensors that a golden file must have for this run, token ids apart.
///
/// widths: of a context token and of the pooled text.
fn expected(
    plan: &Plan,
    prompt: &PromptTokens,
    negative: &PromptTokens,
    [context, pooled]: [usize; 2],
) -> Vec<Expected> {
    let tokens = |text: &PromptTokens| text.context_tokens(plan.compat, plan.t5_length);
    let latent = plan.latent_shape.to_vec();
    let picture = vec![1, 3, plan.height, plan.width];
    [
        ("prompt_embeds", vec![1, tokens(prompt), context]),
        ("negative_prompt_embeds", vec![1, tokens(negative), context]),
        ("pooled", vec![1, pooled]),
        ("negative_pooled", vec![1, pooled]),
        ("sigmas", vec![plan.schedule.len() + 1]),
        ("noise", latent.clone()),
        ("velocity", latent.clone()),
        ("latents", latent.clone()),
        ("decoded", picture.clone()),
        ("image", picture),
        ("encoded_mean", latent),
    ]
    .map(|(name, shape)| Expected { name, shape })
    .into()
}

/// `max|a-b| / max|b|`.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let pairs = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    // `max` would drop a NaN.
    let largest = pairs.fold(0.0_f64, |most, apart| if apart > most || apart.is_nan() { apart } else { most });
    let scale = expected.iter().fold(0.0_f64, |most, b| most.max(f64::from(b.abs())));
    if scale == 0.0 { largest } else { largest / scale }
}

/// What each stage may differ by. f32 leaves rounding in another order; bf16 products keep 8 bits, int8 ones 7 of
/// each row's largest number, and the error grows along the stages that follow each other.
fn bound(stage: &str, precision: Precision) -> f64 {
    match (precision, stage) {
        (_, "sigmas") => 1e-6,
        (Precision::F32, "latents") => 1e-3,
        (Precision::F32, _) => 1e-4,
        (Precision::Int8, "velocity") => 3e-2,
        (Precision::Int8, "latents") => 1e-1,
        (Precision::Int8, _) => 6e-2,
        (Precision::Bf16, "velocity") => 2e-2,
        (Precision::Bf16, "latents") => 1e-1,
        (Precision::Bf16, _) => 3e-2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_relative_to_the_largest_value_and_keeps_nan() {
        assert_eq!(relative_error(&[1.0, 2.5], &[1.0, 2.0]), 0.25);
        assert!(relative_error(&[f32::NAN, 1.0], &[1.0, 1.0]).is_nan());
        assert!(relative_error(&[1.0, f32::NAN, 1.0], &[1.0, 1.0, 1.0]).is_nan());
    }
}
