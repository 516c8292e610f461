//! What was asked for, and what will be done. Everything a user can get wrong in the settings is found here,
//! before any weight is read.

use std::num::NonZeroUsize;

use rectiflow_flow::{Schedule, ScheduleError, Shift, Spacing};
use rectiflow_sample::{Guidance, Solver};
use rectiflow_text::{T5_LENGTHS, WeightError};

use crate::compat::Compat;
use crate::guidance::{GuidanceRequest, Hindered};
use crate::prompt::EncoderTexts;
use crate::reuse::StepReuse;
use crate::syntax::{LongPrompts, PromptSyntax};
use crate::tiling::Tiling;

/// Stretch of the noise levels where neither the user nor the checkpoint says: every release but one.
const SHIFT: f32 = 3.0;
/// Side of a picture where neither the user nor the checkpoint says, as far as the positional grid goes.
const SIDE_PX: usize = 1024;
/// Formulations whose networks say a velocity on the straight path, which is what is integrated.
pub(crate) const DRAWN: &str = "rf";

/// The settings as a user gives them; `None` is "not given".
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What to draw; one or more pictures of each.
    pub prompts: Vec<String>,
    /// What the CLIP encoders read instead of each prompt.
    pub prompt_clip: Option<String>,
    /// What T5 reads instead of each prompt.
    pub prompt_t5: Option<String>,
    /// What to stay away from.
    pub negative: String,
    /// Whether weights are read in these texts.
    pub syntax: PromptSyntax,
    /// What becomes of texts that are too long for CLIP.
    pub long_prompts: LongPrompts,
    /// Picture width in pixels.
    pub width: Option<usize>,
    /// Picture height in pixels.
    pub height: Option<usize>,
    /// Steps of the solver.
    pub steps: Option<usize>,
    /// Guidance.
    pub guidance: GuidanceRequest,
    /// Stretch of the noise levels.
    pub shift: Option<Shift>,
    /// How noise levels are spaced.
    pub spacing: Option<Spacing>,
    /// Noise levels of the user's own, instead of steps, spacing and shift.
    pub sigmas: Option<Vec<f32>>,
    /// Seed of the first picture; picture i has seed + i.
    pub seed: u64,
    /// Pictures of each prompt.
    pub count: usize,
    /// Pictures that are drawn at once; 1 where nobody says.
    pub batch_size: Option<usize>,
    /// Solver.
    pub solver: Option<Solver>,
    /// Most T5 tokens.
    pub t5_length: Option<usize>,
    /// What steps reuse of those before them.
    pub reuse: Option<StepReuse>,
    /// Whose picture to draw where references differ.
    pub compat: Compat,
    /// Whether pictures are decoded in strips.
    pub tiling: Tiling,
}

/// What the settings must fit: facts of the model's headers.
#[derive(Clone, Debug)]
pub struct ModelFacts {
    /// Sides are multiples of this many pixels.
    pub unit_px: usize,
    /// The longest side that the positional grid has room for.
    pub side_px_max: usize,
    /// The same of the model that autoguidance leads away from, if there is one.
    pub worse_side_px_max: Option<usize>,
    /// The side it was trained at, if it says.
    pub side_px: Option<usize>,
    /// The formulation it was trained by, if it says: `rf/lognorm(0.00,1.00)`.
    pub formulation: Option<String>,
    /// Channels of a latent: 16.
    pub latent_channels: usize,
    /// Picture pixels for each latent pixel, on a side: 8.
    pub latent_px: usize,
    /// Joint blocks.
    pub depth: usize,
    /// Queries and keys are normed.
    pub qk_norm: bool,
    /// The shift the checkpoint's scheduler names.
    pub shift: Option<f32>,
    /// Most T5 tokens of a text, if the model says.
    pub t5_length: Option<usize>,
}

/// What will be done. Complete: nothing is left to a default.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What to draw.
    pub prompts: Vec<String>,
    /// What the CLIP encoders read instead of each prompt.
    pub prompt_clip: Option<String>,
    /// What T5 reads instead of each prompt.
    pub prompt_t5: Option<String>,
    /// What to stay away from.
    pub negative: String,
    /// Whether weights are read in these texts.
    pub syntax: PromptSyntax,
    /// What becomes of texts that are too long for CLIP.
    pub long_prompts: LongPrompts,
    /// Picture width in pixels.
    pub width: usize,
    /// Picture height in pixels.
    pub height: usize,
    /// Of one picture: 1, channels, rows, columns.
    pub latent_shape: [usize; 4],
    /// Noise levels, one step between each two.
    pub schedule: Schedule,
    /// Guidance; scales of 1 ask the model once a step.
    pub guidance: Guidance,
    /// What else is gone away from.
    pub hindered: Vec<Hindered>,
    /// Stretch of the noise levels, as used in `schedule`.
    pub shift: f32,
    /// How the noise levels are spaced; none where they are the user's own.
    pub spacing: Option<Spacing>,
    /// Seed of the first picture.
    pub seed: u64,
    /// Pictures of each prompt.
    pub count: usize,
    /// Pictures that are drawn at once, where their texts are equally long.
    pub batch_size: usize,
    /// Solver.
    pub solver: Solver,
    /// Most T5 tokens.
    pub t5_length: usize,
    /// What steps reuse of those before them; nothing, if none.
    pub reuse: Option<StepReuse>,
    /// Whose picture to draw where references differ.
    pub compat: Compat,
    /// Whether pictures are decoded in strips.
    pub tiling: Tiling,
}

/// A setting that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Nothing to draw.
    #[error(
        "no prompt given\nhint: `rectiflow generate \"a red apple\"`; an empty prompt \"\" draws what the model likes"
    )]
    NoPrompt,
    /// What the network says is no velocity.
    #[error(
        "the model was trained by `{0}`, and only networks of rf formulations are drawn with here\n\
         hint: the sheets of samples in its run's folder show what it draws; to draw with one, train it by an rf formulation"
    )]
    Formulation(String),
    /// No pictures wanted.
    #[error("--count 0 draws nothing\nhint: leave it out for one picture")]
    NoCount,
    /// More pictures than there are numbers for.
    #[error(
        "--count {count} is more than can be counted\nhint: give a lower number; Ctrl-C ends a run and keeps its pictures"
    )]
    TooMany {
        /// Of each prompt.
        count: usize,
    },
    /// Pictures at once that would not be what each is alone.
    #[error(
        "--batch-size {size} with {with} would draw pictures that depend on each other\n\
         hint: leave `--batch-size` out, or take a solver of fixed steps without `--cache-mode`"
    )]
    Dependent {
        /// As given.
        size: usize,
        /// What goes by all latents at once.
        with: String,
    },
    /// No picture at once.
    #[error("--batch-size 0 draws nothing\nhint: leave it out for one picture at a time")]
    NoBatch,
    /// A weight in a prompt that no token can have.
    #[error("in a prompt {0}")]
    Weight(#[from] WeightError),
    /// Seeds beyond the last.
    #[error(
        "--seed {seed} leaves no seeds for {pictures} pictures: each has the next\nhint: give at most {}",
        last_seed(*.pictures)
    )]
    Seeds {
        /// Of the first picture.
        seed: u64,
        /// One seed each.
        pictures: usize,
    },
    /// A side that is not a whole number of patches.
    #[error("--{side} {px} is not a multiple of {unit}\nhint: the nearest sizes are {}", nearest(*.px, *.unit, *.max))]
    NotMultiple {
        /// `width` or `height`.
        side: &'static str,
        /// As given.
        px: usize,
        /// What it must be a multiple of.
        unit: usize,
        /// The longest side.
        max: usize,
    },
    /// A side beyond the positional grid.
    #[error("--{side} {px} is beyond this model's positional grid\nhint: the longest side is {max}")]
    TooLarge {
        /// `width` or `height`.
        side: &'static str,
        /// As given.
        px: usize,
        /// The longest side.
        max: usize,
    },
    /// A side beyond the other model's positional grid.
    #[error(
        "--{side} {px} is beyond the positional grid of the model of `--autoguidance`\n\
         hint: its longest side is {max}; give another size, or lead away from a model that knows this one"
    )]
    TooLargeForWorse {
        /// `width` or `height`.
        side: &'static str,
        /// As given.
        px: usize,
        /// The longest side.
        max: usize,
    },
    /// A solver that takes no step.
    #[error("--steps 0 would leave pure noise\nhint: give 1 or more; 28 is usual")]
    NoSteps,
    /// Not a number that guidance can use.
    #[error("--guidance {0} is not possible\nhint: give 0 or more; 1 or less turns guidance off, 4.5 to 7 is usual")]
    Guidance(f32),
    /// Not a part of a deviation.
    #[error("--guidance-rescale {0} is not possible\nhint: give 0 to 1; 0.7 is usual, 0 leaves the velocity as it is")]
    Rescale(f32),
    /// Numbers of an adaptive projected guidance that go nowhere.
    #[error(
        "adaptive projected guidance with eta {eta}, norm threshold {norm_max} and momentum {momentum} is not possible\n\
         hint: give a finite `--apg-eta`, an `--apg-norm-threshold` of 0 or more, and an `--apg-momentum` between -1 and 1"
    )]
    Projection {
        /// What counts of the part along the prompt's velocity.
        eta: f32,
        /// The longest difference.
        norm_max: f32,
        /// What counts of the differences before.
        momentum: f32,
    },
    /// A scale that leads nowhere.
    #[error("the scale of {option} is {scale}\nhint: give a number; 2.8 is usual for skipped layers, 3 for PAG")]
    HinderedScale {
        /// What hinders.
        option: &'static str,
        /// As given.
        scale: f32,
    },
    /// A block that the transformer does not have.
    #[error("{option} has {block}, and this model has the blocks 0 to {}\nhint: give some of those", depth - 1)]
    Block {
        /// What hinders.
        option: &'static str,
        /// As given.
        block: usize,
        /// Blocks there are.
        depth: usize,
    },
    /// Not a part of a change.
    #[error("--cache-threshold {0} is not possible\nhint: give 0 or more; 0.05 to 0.2 is usual, 0 reuses nothing")]
    Reuse(f32),
    /// A length that T5 contexts do not have.
    #[error("--t5-length {0} is not possible\nhint: give 8 to 512; 256 is diffusers' default")]
    T5Length(usize),
    /// Noise levels that do not exist.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
}

impl Request {
    /// Turns what was asked into what will be done.
    ///
    /// # Errors
    /// The first setting that cannot be carried out, with the nearest that can.
    pub fn resolve(self, model: &ModelFacts) -> Result<Plan, PlanError> {
        if self.prompts.is_empty() {
            return Err(PlanError::NoPrompt);
        }
        if self.count == 0 {
            return Err(PlanError::NoCount);
        }
        let pictures = self.prompts.len().checked_mul(self.count).ok_or(PlanError::TooMany { count: self.count })?;
        if self.seed > last_seed(pictures) {
            return Err(PlanError::Seeds { seed: self.seed, pictures });
        }
        if let Some(formulation) = model.formulation.as_ref().filter(|name| !name.starts_with(DRAWN)) {
            return Err(PlanError::Formulation(formulation.clone()));
        }
        let texts = self.prompts.iter().chain(&self.prompt_clip).chain(&self.prompt_t5).chain([&self.negative]);
        texts.map(|text| self.syntax.read(text)).try_for_each(|read| read.map(|_| ()))?;
        let defaults = self.compat.defaults(model.depth, model.qk_norm);
        let steps = NonZeroUsize::new(self.steps.unwrap_or(defaults.steps)).ok_or(PlanError::NoSteps)?;
        let (guidance, hindered) = self.guidance.resolve(defaults.guidance, model.depth)?;
        let longest = model.t5_length.map_or(defaults.t5_length, |length| length.min(defaults.t5_length));
        let t5_length = self.t5_length.unwrap_or(longest);
        if !T5_LENGTHS.contains(&t5_length) {
            return Err(PlanError::T5Length(t5_length));
        }
        if let Some(StepReuse { threshold, .. }) = self.reuse
            && !(threshold.is_finite() && threshold >= 0.0)
        {
            return Err(PlanError::Reuse(threshold));
        }
        let (width, height) = (side("width", self.width, model)?, side("height", self.height, model)?);
        let shift = self.shift.or(defaults.shift.or(model.shift).map(Shift::By)).unwrap_or(Shift::By(SHIFT));
        let shift = shift.of(width * height / (model.unit_px * model.unit_px));
        let solver = self.solver.unwrap_or(defaults.solver);
        let batch_size = self.batch_size.unwrap_or(1);
        if batch_size == 0 {
            return Err(PlanError::NoBatch);
        }
        let by_all = match (solver, self.reuse) {
            (solver, _) if solver.is_adaptive() => Some(solver.to_string()),
            (_, Some(_)) => Some("--cache-mode".to_owned()),
            _ => None,
        };
        if let Some(with) = by_all.filter(|_| batch_size > 1) {
            return Err(PlanError::Dependent { size: batch_size, with });
        }
        let (schedule, spacing) = match &self.sigmas {
            Some(sigmas) => (Schedule::custom(sigmas)?, None),
            None => {
                let spacing = self.spacing.unwrap_or(solver.usual_spacing());
                (Schedule::spaced(spacing, steps, shift)?, Some(spacing))
            }
        };
        Ok(Plan {
            width,
            height,
            latent_shape: [1, model.latent_channels, height / model.latent_px, width / model.latent_px],
            schedule,
            spacing,
            solver,
            prompts: self.prompts,
            prompt_clip: self.prompt_clip,
            prompt_t5: self.prompt_t5,
            negative: self.negative,
            syntax: self.syntax,
            long_prompts: self.long_prompts,
            seed: self.seed,
            count: self.count,
            batch_size,
            compat: self.compat,
            tiling: self.tiling,
            guidance,
            hindered,
            shift,
            t5_length,
            reuse: self.reuse,
        })
    }
}

impl Plan {
    /// Whether a step asks the model with the negative prompt.
    pub fn is_guided(&self) -> bool {
        let steps = self.schedule.len();
        (0..steps).any(|step| self.guidance.scale(step, steps) > 1.0)
    }

    /// What the encoders read of prompt `index`.
    ///
    /// # Errors
    /// A weight that no token can have, in a plan that was changed since it was resolved.
    pub fn read(&self, index: usize) -> Result<EncoderTexts, WeightError> {
        let prompt = &self.prompts[index];
        self.texts(self.prompt_clip.as_ref().unwrap_or(prompt), self.prompt_t5.as_ref().unwrap_or(prompt))
    }

    /// What they read to stay away from.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn read_negative(&self) -> Result<EncoderTexts, WeightError> {
        self.texts(&self.negative, &self.negative)
    }

    fn texts(&self, clip: &str, t5: &str) -> Result<EncoderTexts, WeightError> {
        let clip_chunks_max = self.long_prompts.chunks_max();
        Ok(EncoderTexts { clip: self.syntax.read(clip)?, t5: self.syntax.read(t5)?, clip_chunks_max })
    }

    /// Whether the model is told the same in both: what texts become of one serves the other.
    pub fn is_told_as(&self, other: &Plan) -> bool {
        let texts = |plan: &Plan| {
            let negative = plan.is_guided().then(|| plan.negative.clone());
            (plan.prompts.clone(), plan.prompt_clip.clone(), plan.prompt_t5.clone(), negative)
        };
        let rules = |plan: &Plan| (plan.syntax, plan.long_prompts, plan.t5_length, plan.compat);
        rules(self) == rules(other) && texts(self) == texts(other)
    }

    /// How the noise levels are spaced, or `custom`.
    pub fn schedule_name(&self) -> &'static str {
        self.spacing.map_or("custom", Spacing::name)
    }

    /// Height and width of a latent.
    pub fn latent_size(&self) -> [usize; 2] {
        let [_, _, height, width] = self.latent_shape;
        [height, width]
    }
}

/// The last first seed that leaves one for each of `pictures`, of which there is at least one.
fn last_seed(pictures: usize) -> u64 {
    u64::MAX - (pictures as u64 - 1)
}

fn side(name: &'static str, px: Option<usize>, model: &ModelFacts) -> Result<usize, PlanError> {
    let (unit, max) = (model.unit_px, model.side_px_max);
    let trained = model.side_px.filter(|px| *px > 0 && px.is_multiple_of(unit));
    let worse_max = model.worse_side_px_max.unwrap_or(max);
    let px = px.unwrap_or_else(|| trained.unwrap_or(SIDE_PX).min(max).min(worse_max));
    if px > max {
        return Err(PlanError::TooLarge { side: name, px, max });
    }
    if px > worse_max {
        return Err(PlanError::TooLargeForWorse { side: name, px, max: worse_max });
    }
    if px == 0 || !px.is_multiple_of(unit) {
        return Err(PlanError::NotMultiple { side: name, px, unit, max });
    }
    Ok(px)
}

fn nearest(px: usize, unit: usize, max: usize) -> String {
    let below = px / unit * unit;
    match (below, below + unit) {
        (0, above) => format!("{above} and {}", above + unit),
        (below, above) if above > max => below.to_string(),
        (below, above) => format!("{below} and {above}"),
    }
}

#[cfg(test)]
pub(crate) mod tests;
