//! Draws prompts with the model, several at once.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_flow::{Shift, Spacing};
use rectiflow_generate::{
    Compat, GenerateError, GuidanceRequest, Image, ModelFacts, Parts, Plan, Request, Settings, Tiling, Told, denoise,
    draw_noise,
};
use rectiflow_nn::{Tensor, is_finite};
use rectiflow_sample::Solver;
use rectiflow_text::Conditioning;

use crate::EvaluateError;
use crate::watch::{OneDrawing, Watch};

/// How pictures are drawn, as a user gives it; `None` is "not given".
#[derive(Clone, Debug, Default)]
pub struct Drawing {
    /// Side of a picture in pixels.
    pub side_px: Option<usize>,
    /// Steps of the solver.
    pub steps: Option<usize>,
    /// Guidance scale.
    pub guidance: Option<f32>,
    /// Stretch of the noise levels.
    pub shift: Option<Shift>,
    /// How noise levels are spaced.
    pub spacing: Option<Spacing>,
    /// Solver.
    pub solver: Option<Solver>,
    /// Most T5 tokens.
    pub t5_length: Option<usize>,
}

/// GenEval's tasks are hard to see at a low guidance scale, and pictures too contrasty at a high one.
const GUIDANCE: f32 = 4.0;

impl Drawing {
    /// What will be done, for a model; `rectiflow generate` has the other defaults.
    ///
    /// # Errors
    /// A setting that cannot be carried out; a model of pictures that are not square.
    pub fn resolve(&self, model: &ModelFacts) -> Result<Plan, EvaluateError> {
        let request = Request {
            prompts: vec![String::new()],
            width: self.side_px,
            height: self.side_px,
            steps: self.steps,
            guidance: GuidanceRequest::of(self.guidance.unwrap_or(GUIDANCE)),
            shift: self.shift,
            spacing: self.spacing,
            solver: self.solver,
            t5_length: self.t5_length,
            count: 1,
            compat: Compat::Diffusers,
            tiling: Tiling::Auto,
            ..Request::default()
        };
        let plan = request.resolve(model)?;
        if plan.width != plan.height {
            return Err(EvaluateError::NotSquare { width: plan.width, height: plan.height });
        }
        Ok(plan)
    }
}

/// A picture, and the text chunks of its file.
pub(crate) struct Drawn {
    pub(crate) image: Image,
    pub(crate) texts: [(&'static str, String); 2],
}

/// A model that draws, and how.
pub(crate) struct Artist {
    parts: Parts,
    plan: Plan,
    negative: Option<Conditioning>,
}

impl Artist {
    /// Of a model whose facts the plan was made for. Encodes the empty negative prompt.
    ///
    /// # Errors
    /// An encoder's output is not finite or does not fit.
    pub(crate) fn new(parts: Parts, plan: Plan, watch: &mut dyn Watch) -> Result<Artist, EvaluateError> {
        let mut artist = Artist { parts, plan, negative: None };
        if artist.plan.is_guided() {
            artist.negative = artist.told(&[&artist.plan.negative], watch)?.pop();
        }
        Ok(artist)
    }

    /// The model.
    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// What the transformer is told of texts, one row each.
    ///
    /// # Errors
    /// As [`Artist::new`].
    pub(crate) fn told(&self, texts: &[&str], watch: &mut dyn Watch) -> Result<Vec<Conditioning>, EvaluateError> {
        let Plan { compat, t5_length, .. } = self.plan;
        Ok(self.parts.text.conditionings(texts, compat, t5_length, &mut OneDrawing(watch))?)
    }

    /// A picture of each prompt with its seed. Each is what `rectiflow generate` draws
    /// of the same settings, however many are drawn at once.
    ///
    /// # Errors
    /// Values that are not finite, or the watcher stopped it.
    pub(crate) fn draw(&self, asked: &[(&str, u64)], watch: &mut dyn Watch) -> Result<Vec<Drawn>, EvaluateError> {
        let Artist { parts, plan, negative } = self;
        if plan.solver.is_adaptive() && asked.len() > 1 {
            return asked.iter().map(|one| Ok(self.draw(&[*one], watch)?.remove(0))).collect();
        }
        let texts: Vec<&str> = asked.iter().map(|(prompt, _)| *prompt).collect();
        let prompts = Conditioning::stacked(self.told(&texts, watch)?.iter());
        let negative = negative.as_ref().map(|one| Conditioning::stacked(asked.iter().map(|_| one)));
        let told = Told { prompt: &prompts, negative: negative.as_ref() };
        let seeds: Vec<u64> = asked.iter().map(|(_, seed)| *seed).collect();
        let noise = seeds.iter().map(|seed| draw_noise(plan, *seed, &parts.device)).collect();
        let mut watch = OneDrawing(watch);
        let latents_BZhw = denoise(&parts.transformer, &told, Tensor::cat(noise, 0), &seeds, plan, &mut watch)
            .map_err(GenerateError::from)?;
        let each = latents_BZhw.chunk(asked.len(), 0).into_iter().zip(asked).map(|(latent, (prompt, seed))| {
            let decoding = plan.tiling.decoding(parts.vae.config(), plan.latent_size(), None);
            let decoded = parts.vae.decode_as(latent, decoding);
            if !is_finite(&decoded) {
                return Err(EvaluateError::NotFinite { what: "a drawn picture" });
            }
            let settings = Settings::of(plan, &parts.name, prompt, *seed, false);
            Ok(Drawn { image: Image::from_decoded(&decoded, plan.compat.quantise()), texts: settings.texts() })
        });
        each.collect()
    }
}
