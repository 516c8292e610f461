//! What a reference computed.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use rectiflow_flow::{Shift, Spacing};
use rectiflow_generate::{
    Compat, GuidanceRequest, LongPrompts, ModelFacts, Plan, PlanError, PromptSyntax, Request, Tiling,
};
use rectiflow_nn::{DType, Device, Tensor};
use rectiflow_sample::Solver;
use rectiflow_weights::{Dtype, TensorFile};
use serde::Deserialize;

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
    /// Without it: the reference's own.
    solver: Option<String>,
}

impl GoldenArgs {
    /// The error in the words of the file: the user gave no options.
    fn refuse(&self, error: PlanError) -> anyhow::Error {
        let what = match error {
            PlanError::NotMultiple { px, unit, .. } => {
                format!("`size` is {:?}: {px} is not a multiple of {unit}", self.size)
            }
            PlanError::TooLarge { max, .. } => {
                format!("`size` is {:?}: this model's longest side is {max}", self.size)
            }
            PlanError::NoSteps => "`steps` is 0".into(),
            PlanError::Guidance(guidance) => format!("`cfg` is {guidance}: it is 0 or more"),
            PlanError::T5Length(length) => format!("`seqlen` is {length}: it is 8 to 512"),
            other => return other.into(),
        };
        anyhow!("{what}\nhint: was it made with this model? `rectiflow verify --help` says what a golden file holds")
    }
}

/// A golden file, of which only the header and the arguments have been read.
pub(super) struct Golden {
    file: TensorFile,
    args: GoldenArgs,
    device: Device,
}

/// A tensor that the file must have, and its shape.
pub(super) struct Expected {
    pub(super) name: &'static str,
    pub(super) shape: Vec<usize>,
}

impl Golden {
    pub(super) fn open(path: &Path, device: &Device) -> anyhow::Result<Self> {
        let file = TensorFile::open(path)?;
        let text = file.metadata().get("args").with_context(|| {
            format!(
                "{} has no `args` in its metadata\nhint: it is not a golden file; scripts/make_golden.py makes them",
                path.display()
            )
        })?;
        let args = serde_json::from_str(text).with_context(|| {
            format!(
                "`args` in the metadata of {} is not as expected\nhint: `rectiflow verify --help` says what it holds",
                path.display()
            )
        })?;
        Ok(Golden { file, args, device: device.clone() })
    }

    /// The run that the arguments describe.
    pub(super) fn plan(&self, model: &ModelFacts, compat: Compat) -> anyhow::Result<Plan> {
        let args = &self.args;
        let of_golden = || format!("the arguments in {}", self.file.path().display());
        let size = args.size.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
        let (width, height) = size
            .with_context(|| format!("`size` is {:?}\nhint: it is written as 64x48: width, then height", args.size))
            .with_context(of_golden)?;
        let request = Request {
            prompts: vec![args.prompt.clone()],
            prompt_clip: None,
            prompt_t5: None,
            negative: args.negative.clone(),
            // Brackets are brackets in diffusers.
            syntax: PromptSyntax::Plain,
            long_prompts: LongPrompts::Cut,
            width: Some(width),
            height: Some(height),
            steps: Some(args.steps),
            guidance: GuidanceRequest::of(args.cfg),
            shift: Some(Shift::By(args.shift)),
            spacing: Some(Spacing::Released),
            sigmas: None,
            solver: args.solver.as_deref().map(str::parse::<Solver>).transpose().with_context(of_golden)?,
            t5_length: Some(args.seqlen),
            compat,
            reuse: None,
            count: 1,
            batch_size: None,
            seed: 0,
            tiling: Tiling::Off,
        };
        request.resolve(model).map_err(|error| args.refuse(error)).with_context(of_golden)
    }

    /// Checks that the file has all of these tensors in these shapes.
    pub(super) fn check_fits(&self, expected: &[Expected]) -> anyhow::Result<()> {
        let misfits: Vec<String> = expected.iter().filter_map(|one| self.misfit(one)).collect();
        if misfits.is_empty() {
            return Ok(());
        }
        bail!(
            "{} does not fit the model and its own arguments: {}\n\
             hint: was it made with this model? `rectiflow verify --help` says what it holds; \
             scripts/make_golden.py makes one for a diffusers folder",
            self.file.path().display(),
            misfits.join("; ")
        )
    }

    fn misfit(&self, Expected { name, shape }: &Expected) -> Option<String> {
        match self.file.raw(name) {
            None => Some(format!("no tensor `{name}`")),
            Some(raw) if raw.shape != shape => Some(format!("`{name}` has shape {:?}, not {shape:?}", raw.shape)),
            Some(raw) if !raw.dtype.is_weight() => Some(format!("`{name}` is stored as {}", raw.dtype.name())),
            Some(_) => None,
        }
    }

    /// A tensor that [`Self::check_fits`] has seen.
    pub(super) fn tensor<const D: usize>(&self, name: &str) -> anyhow::Result<Tensor<D>> {
        Ok(Tensor::from_data(self.file.data(name)?, (&self.device, DType::F32)))
    }

    /// Token ids, if the file has them.
    pub(super) fn ids(&self, name: &str) -> anyhow::Result<Option<Vec<u32>>> {
        let Some(raw) = self.file.raw(name) else { return Ok(None) };
        if raw.dtype != Dtype::I32 {
            bail!(
                "`{name}` in {} is {}, not I32\nhint: scripts/make_golden.py stores it as it should be",
                self.file.path().display(),
                raw.dtype.name()
            );
        }
        let word = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).unwrap_or(u32::MAX);
        Ok(Some(raw.bytes.chunks_exact(4).map(word).collect()))
    }
}
