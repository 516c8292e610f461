//! `rectiflow verify`

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use rectiflow_generate::{Compat, Encoder, ImageError, Parts, Picture, Plan, Request, Told, Watch, denoise};
use rectiflow_nn::{Device, Precision, Tensor, from_f32, to_f32};
use rectiflow_sample::Solver;
use rectiflow_text::{Conditioning, Tokens};
use rectiflow_weights::TensorFile;
use serde::{Deserialize, Serialize};

use crate::args::{ComputeArgs, ModelArgs};
use crate::output::data;

/// The timestep at which golden files hold a velocity.
const VELOCITY_TIMESTEP: f32 = 731.5;

/// Compare every stage with what a reference computed
///
/// A golden file holds the tensors of each stage (ids_clip, ids_clip2, ids_t5, prompt_embeds, pooled and their
/// negatives, sigmas, velocity at timestep 731.5, latents, decoded, image, encoded_mean) and, as JSON under
/// `args` in its metadata, prompt, negative, size, steps, cfg, shift and seqlen. Exit status 1 means that a
/// stage is over its bound.
#[derive(clap::Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// What the reference computed (safetensors)
    #[arg(long, value_name = "FILE")]
    golden: PathBuf,
    #[command(flatten)]
    compute: ComputeArgs,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// The arguments that the golden file was made with.
#[derive(Deserialize)]
struct GoldenArgs {
    prompt: String,
    negative: String,
    size: String,
    steps: usize,
    cfg: f32,
    shift: f32,
    seqlen: usize,
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

#[derive(Serialize)]
struct Report {
    model: String,
    golden: String,
    precision: String,
    stages: Vec<Stage>,
    pass: bool,
}

pub(crate) fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let device = args.compute.device.open()?;
    let golden = Golden::open(&args.golden, &device)?;
    let parts = Parts::open(&args.model.paths(), &device, args.compute.precision, Compat::Diffusers)?;
    let plan = golden.plan(&parts)?;
    let model = parts.name.file.clone();

    let mut check = Check { golden: &golden, precision: args.compute.precision, stages: Vec::new() };
    check.all(parts, &plan)?;
    let stages = check.stages;
    if stages.is_empty() {
        bail!("{} holds no stage to compare\nhint: `rectiflow verify --help` lists the tensors", args.golden.display());
    }
    let pass = stages.iter().all(|stage| stage.pass);
    let report = Report {
        model,
        golden: args.golden.display().to_string(),
        precision: args.compute.precision.to_string(),
        stages,
        pass,
    };
    if args.json {
        data(&serde_json::to_string(&report)?);
    } else {
        report.print();
    }
    Ok(if pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Report {
    fn print(&self) {
        data(&format!("{} against {}, {}", self.model, self.golden, self.precision));
        data(&format!("{:<24} {:>12} {:>10}", "stage", "error", "bound"));
        for Stage { stage, error, bound, pass } in &self.stages {
            let verdict = if *pass { "ok" } else { "OVER" };
            data(&format!("{stage:<24} {error:>12.2e} {bound:>10.0e}  {verdict}"));
        }
    }
}

/// Compares stage by stage. Each network gets the reference's input, so that an error shows where it is made;
/// only `latents` runs from the prompt's own encoding, through every step.
struct Check<'a> {
    golden: &'a Golden,
    precision: Precision,
    stages: Vec<Stage>,
}

impl Check<'_> {
    fn all(&mut self, parts: Parts, plan: &Plan) -> anyhow::Result<()> {
        let Parts { text, transformer, vae, .. } = parts;
        let prompt = text.tokenize(&plan.prompts[0], plan.compat, plan.t5_length)?;
        let negative = text.tokenize(&plan.negative, plan.compat, plan.t5_length)?;
        self.tokens("ids_clip", prompt.clip_l.as_ref())?;
        self.tokens("ids_clip2", prompt.clip_g.as_ref())?;
        self.tokens("ids_t5", prompt.t5.as_ref())?;

        let mut encoded = text.encode(vec![prompt, negative], plan.compat, plan.t5_length, &mut Unwatched)?;
        let (negative, prompt) = (encoded.pop(), encoded.pop());
        let (Some(prompt), Some(negative)) = (prompt, negative) else { bail!("two texts gave fewer encodings") };
        self.close("prompt_embeds", &prompt.context)?;
        self.close("negative_prompt_embeds", &negative.context)?;
        self.close("pooled", &prompt.pooled)?;
        self.close("negative_pooled", &negative.pooled)?;

        let sigmas = plan.schedule.sigmas().to_vec();
        let count = sigmas.len();
        self.close("sigmas", &from_f32(sigmas, [count], &self.golden.device))?;

        let given =
            Conditioning { context: self.golden.tensor("prompt_embeds")?, pooled: self.golden.tensor("pooled")? };
        let noise: Tensor<4> = self.golden.tensor("noise")?;
        let timestep = from_f32(vec![VELOCITY_TIMESTEP], [1], &self.golden.device);
        let velocity = transformer.forward(noise.clone(), timestep, given.context, given.pooled);
        self.close("velocity", &velocity)?;

        let told = Told { prompt: &prompt, negative: plan.is_guided().then_some(&negative) };
        let latents = denoise(&transformer, &told, noise, plan, &mut Unwatched)?;
        self.close("latents", &latents)?;

        self.close("decoded", &vae.decode(self.golden.tensor("latents")?))?;
        self.close("encoded_mean", &vae.encode(self.golden.tensor("image")?).mean)
    }

    fn tokens(&mut self, stage: &'static str, found: Option<&Tokens>) -> anyhow::Result<()> {
        let (Some(found), Some(expected)) = (found, self.golden.ids(stage)?) else { return Ok(()) };
        let differ = found.ids.iter().zip(&expected).filter(|(a, b)| a != b).count();
        let error = (differ + found.ids.len().abs_diff(expected.len())) as f64;
        self.stages.push(Stage { stage, error, bound: 0.0, pass: error == 0.0 });
        Ok(())
    }

    fn close<const D: usize>(&mut self, stage: &'static str, found: &Tensor<D>) -> anyhow::Result<()> {
        let expected: Tensor<D> = self.golden.tensor(stage)?;
        if found.dims() != expected.dims() {
            bail!("{stage} has shape {:?} here and {:?} in the golden file", found.dims(), expected.dims());
        }
        let error = relative_error(&to_f32(found), &to_f32(&expected));
        let bound = bound(stage, self.precision);
        // A NaN is never within a bound.
        self.stages.push(Stage { stage, error, bound, pass: error <= bound });
        Ok(())
    }
}

/// `max|a-b| / max|b|`.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let pairs = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    // `max` would drop a NaN.
    let largest = pairs.fold(0.0_f64, |most, apart| if apart > most || apart.is_nan() { apart } else { most });
    let scale = expected.iter().fold(0.0_f64, |most, b| most.max(f64::from(b.abs())));
    if scale == 0.0 { largest } else { largest / scale }
}

/// What each stage may differ by. f32 leaves rounding in another order; bf16 products keep 8 bits, and the
/// error grows along the stages that follow each other.
fn bound(stage: &str, precision: Precision) -> f64 {
    match (precision, stage) {
        (_, "sigmas") => 1e-6,
        (Precision::F32, "latents") => 1e-3,
        (Precision::F32, _) => 1e-4,
        (Precision::Bf16, "velocity") => 2e-2,
        (Precision::Bf16, "latents") => 1e-1,
        (Precision::Bf16, _) => 3e-2,
    }
}

/// What a reference computed.
struct Golden {
    file: TensorFile,
    args: GoldenArgs,
    device: Device,
}

impl Golden {
    fn open(path: &PathBuf, device: &Device) -> anyhow::Result<Self> {
        let file = TensorFile::open(path)?;
        let text = file.metadata().get("args").with_context(|| {
            format!(
                "{} has no `args` in its metadata\nhint: it is not a golden file; scripts/make_fixtures.py makes them",
                path.display()
            )
        })?;
        let args = serde_json::from_str(text)
            .with_context(|| format!("`args` in the metadata of {} is not as expected", path.display()))?;
        Ok(Golden { file, args, device: device.clone() })
    }

    fn plan(&self, parts: &Parts) -> anyhow::Result<Plan> {
        let args = &self.args;
        let size = args.size.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
        let (width, height) = size.with_context(|| format!("`size` in the golden file is {:?}, not WxH", args.size))?;
        let request = Request {
            prompts: vec![args.prompt.clone()],
            negative: args.negative.clone(),
            width: Some(width),
            height: Some(height),
            steps: Some(args.steps),
            guidance: Some(args.cfg),
            shift: Some(args.shift),
            solver: Some(Solver::Euler),
            t5_length: Some(args.seqlen),
            compat: Compat::Diffusers,
            count: 1,
            seed: 0,
        };
        Ok(request.resolve(&parts.facts)?)
    }

    fn tensor<const D: usize>(&self, name: &str) -> anyhow::Result<Tensor<D>> {
        let data = self.file.data(name)?;
        let shape = data.shape().as_slice().to_vec();
        if shape.len() != D {
            bail!("`{name}` in {} has shape {shape:?}, which is not of {D} axes", self.file.path().display());
        }
        Ok(Tensor::from_data(data, (&self.device, rectiflow_nn::DType::F32)))
    }

    fn ids(&self, name: &str) -> anyhow::Result<Option<Vec<u32>>> {
        let Some(raw) = self.file.raw(name) else { return Ok(None) };
        if raw.dtype != rectiflow_weights::Dtype::I32 {
            bail!("`{name}` in {} is {}, not I32", self.file.path().display(), raw.dtype.name());
        }
        let word = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).unwrap_or(u32::MAX);
        Ok(Some(raw.bytes.chunks_exact(4).map(word).collect()))
    }
}

/// Verification says what it found when it is done.
struct Unwatched;

impl Watch for Unwatched {
    fn phase(&mut self, _name: &str) {}

    fn step(&mut self, _done: usize, _of: usize) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn cut(&mut self, _encoder: Encoder, _tokens: usize, _words: &str) {}

    fn picture(&mut self, _picture: Picture) -> Result<(), ImageError> {
        Ok(())
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
