//! What will be done: a recipe in which nothing is impossible, before any weight is read.
//!
//! What this module does not do: open the data or a model; whether those fit is found by who opens them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;

use rectiflow_text::T5_LENGTHS;
use rectiflow_vae::VaeConfig;

use crate::ema::{Ema, SIGMA_REL_MAX};
use crate::learning_rate::Schedule;
use crate::optimizer::AdamW;
use crate::recipe::{AutoencoderModel, Model, NotFiniteRule, Objective, Recipe, RecipeError};

mod detector;
mod sizes;
mod text;

/// What the command line says over the recipe.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides {
    /// Instead of the recipe's number of steps.
    pub steps: Option<u64>,
    /// Instead of the recipe's steps from checkpoint to checkpoint.
    pub checkpoint_every: Option<std::num::NonZeroU64>,
}

/// A recipe that can be followed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// With what the command line said.
    pub recipe: Recipe,
    /// When what is done.
    pub pace: Pace,
}

/// When what is done in a run.
#[derive(Clone, Debug)]
pub struct Pace {
    /// All steps.
    pub steps: u64,
    /// The learning rate of each.
    pub schedule: Schedule,
    /// Lines of the journal.
    pub record: Every,
    /// Validation losses.
    pub validation: Every,
    /// Sheets of pictures.
    pub samples: Every,
    /// Checkpoints.
    pub checkpoint: Every,
    /// Checkpoints that stay, besides the best.
    pub keep: NonZeroUsize,
    /// Averages of every checkpoint stay: others can be made of them.
    pub keeps_averages: bool,
    /// What is done about a loss that is not finite.
    pub not_finite: NotFiniteRule,
}

/// At every so many steps, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Every(pub u64);

impl Every {
    /// Whether it is time after `step` steps.
    pub fn at(self, step: u64) -> bool {
        self.is_on() && step.is_multiple_of(self.0)
    }

    /// Whether it is ever time.
    pub fn is_on(self) -> bool {
        self.0 > 0
    }
}

/// Settings that a run may go on with changed: they decide how long and how it is watched, or are a new learning rate.
const CHANGEABLE: [&str; 7] =
    ["steps", "schedule.", "record_every", "validation.every", "samples.", "checkpoint.", "not_finite"];

/// A run's folder has another recipe.
#[derive(Debug, thiserror::Error)]
#[error(
    "the run was begun with another recipe: `{setting}` was {before} and is {now}\n\
     hint: go on with the recipe it was begun with, or give --out another folder; what may change in a run is {}",
    CHANGEABLE.map(|name| name.trim_end_matches('.')).join(", ")
)]
pub struct OtherRecipe {
    /// The first setting that differs.
    pub setting: String,
    /// In the run.
    pub before: String,
    /// In the recipe that was given now.
    pub now: String,
}

impl Plan {
    /// Checks a recipe.
    ///
    /// # Errors
    /// A setting is impossible, or two of them together.
    pub fn resolve(mut recipe: Recipe, overrides: Overrides) -> Result<Plan, RecipeError> {
        if let Some(steps) = overrides.steps {
            recipe.steps = steps;
        }
        if let Some(every) = overrides.checkpoint_every {
            recipe.checkpoint.every = every;
        }
        check(&recipe)?;
        let pace = Pace {
            steps: recipe.steps,
            schedule: recipe.schedule.clone(),
            record: Every(recipe.record_every.get()),
            validation: Every(recipe.validation.every),
            samples: Every(recipe.samples.every),
            checkpoint: Every(recipe.checkpoint.every.get()),
            keep: recipe.checkpoint.keep,
            keeps_averages: recipe.ema.iter().any(|ema| matches!(ema, Ema::Power { .. })),
            not_finite: recipe.not_finite,
        };
        Ok(Plan { recipe, pace })
    }

    /// AdamW as the recipe has it.
    pub fn adamw(&self) -> AdamW {
        let settings = self.recipe.optimizer;
        let [beta_1, beta_2] = settings.betas;
        AdamW { beta_1, beta_2, eps: settings.eps, weight_decay: settings.weight_decay, matrices: settings.matrices }
    }

    /// The norm that longer gradients are shortened to.
    pub fn gradient_norm_max(&self) -> Option<f64> {
        let norm_max = self.recipe.optimizer.gradient_norm_max;
        (norm_max > 0.0).then_some(norm_max)
    }

    /// The text of `plan.toml`: every setting, the ones that were left out too.
    pub fn to_toml(&self) -> String {
        let mut text = "# What this run does: its recipe with every setting that was left out.\n".to_owned();
        // A recipe came from TOML, so it can go back.
        let _ = write!(text, "{}", toml::to_string(&self.recipe).unwrap_or_default());
        text
    }

    /// Checks that a run that was begun with the recipe in `path` can go on with this one.
    ///
    /// # Errors
    /// A setting that a checkpoint depends on is another; or `path` is no recipe.
    pub fn check_same(&self, path: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let before = fixed(&Recipe::read(path)?);
        let now = fixed(&self.recipe);
        let names: std::collections::BTreeSet<_> = before.keys().chain(now.keys()).collect();
        let value = |settings: &BTreeMap<String, String>, name: &String| {
            settings.get(name).cloned().unwrap_or_else(|| "not given".to_owned())
        };
        match names.into_iter().find(|name| before.get(*name) != now.get(*name)) {
            None => Ok(()),
            Some(name) => {
                let (before, now) = (value(&before, name), value(&now, name));
                Err(OtherRecipe { setting: name.clone(), before, now }.into())
            }
        }
    }
}

/// The settings that a checkpoint depends on.
fn fixed(recipe: &Recipe) -> BTreeMap<String, String> {
    let changeable =
        |name: &str| CHANGEABLE.iter().any(|one| name == *one || (one.ends_with('.') && name.starts_with(one)));
    let mut settings = recipe.settings();
    settings.retain(|name, _| !changeable(name));
    // Whether there is any decides which samples are never trained on.
    let validates = if recipe.validation.every > 0 { "more than 0" } else { "0" };
    settings.insert("validation.every".to_owned(), validates.to_owned());
    settings
}

fn impossible(setting: &'static str, why: impl Into<String>, hint: impl Into<String>) -> RecipeError {
    RecipeError::Impossible { setting, why: why.into(), hint: hint.into() }
}

/// `number` must be finite and in a range.
fn within(
    setting: &'static str,
    number: f64,
    range: std::ops::RangeInclusive<f64>,
    hint: &str,
) -> Result<(), RecipeError> {
    if range.contains(&number) {
        return Ok(());
    }
    let [number, start, end] = [number, *range.start(), *range.end()].map(short);
    Err(impossible(setting, format!("is {number}, and must be from {start} to {end}"), hint))
}

/// Without rows of zeros: `0.25`, `1e-20`.
fn short(number: f64) -> String {
    if number != 0.0 && number.abs() < 1e-4 { format!("{number:e}") } else { number.to_string() }
}

fn check(recipe: &Recipe) -> Result<(), RecipeError> {
    if recipe.steps == 0 {
        return Err(impossible("steps", "is 0", "give the number of optimizer steps"));
    }
    if !recipe.batch.get().is_multiple_of(recipe.accumulate.get()) {
        let why = format!("is {}, which does not divide the batch of {}", recipe.accumulate, recipe.batch);
        return Err(impossible("accumulate", why, "give a divisor of `batch`"));
    }
    check_optimizer(recipe)?;
    for ema in &recipe.ema {
        match *ema {
            Ema::Decay { decay, .. } => within("ema.decay", decay, 0.0..=1.0, "the paper has 0.99 every 100 steps")?,
            Ema::Power { sigma_rel } => {
                within("ema.sigma_rel", sigma_rel, 1e-3..=SIGMA_REL_MAX, "usual are 0.05 and 0.10")?;
            }
        }
    }
    check_objective(recipe)?;
    sizes::check(recipe)?;
    text::check(recipe)?;
    detector::check(recipe)?;
    check_data(recipe)
}

/// A gradient whose square f32 takes for 0, which is below about 1e-21 where `1 - beta_2` is 1e-3, is divided by eps alone.
/// With this it moves its parameter by less than the learning rate. Far less, 1e-46, would be 0 itself in f32, and a
/// gradient of 0, which all that lies behind a layer of zeros has, would make its parameter NaN.
const EPS_MIN: f64 = 1e-20;

fn check_optimizer(recipe: &Recipe) -> Result<(), RecipeError> {
    let rate_hint = "usual are 1e-4 from scratch and 1e-5 for a released model";
    within("schedule.learning_rate", recipe.schedule.learning_rate, 0.0..=1.0, rate_hint)?;
    let mut last = None;
    for change in &recipe.schedule.changes {
        within("schedule.changes.learning_rate", change.learning_rate, 0.0..=1.0, rate_hint)?;
        if last.is_some_and(|last| change.step <= last) {
            let why = format!("has step {} after step {}", change.step, last.unwrap_or_default());
            return Err(impossible("schedule.changes", why, "write them in the order of their steps"));
        }
        last = Some(change.step);
    }
    let optimizer = recipe.optimizer;
    // A beta of 1 would never learn.
    let beta_max = 1.0 - f64::EPSILON;
    for beta in optimizer.betas {
        within("optimizer.betas", beta, 0.0..=beta_max, "usual are [0.9, 0.999]")?;
    }
    let eps_hint = "AdamW divides by it in f32, where less makes a parameter leap or become NaN as its gradient vanishes; \
                    usual are 1e-8 and, at high resolution, 1e-15";
    within("optimizer.eps", optimizer.eps, EPS_MIN..=1.0, eps_hint)?;
    within("optimizer.weight_decay", optimizer.weight_decay, 0.0..=10.0, "usual is 0.01")?;
    within("optimizer.gradient_norm_max", optimizer.gradient_norm_max, 0.0..=1e12, "usual is 1; 0 turns it off")
}

fn check_objective(recipe: &Recipe) -> Result<(), RecipeError> {
    let (objective, model) = (kind_of(&recipe.objective), model_kind(&recipe.model));
    if objective != model.1 {
        let why = format!("is \"{}\", which is not trained by the objective \"{objective}\"", model.0);
        let hint = match objective {
            "flow" => "give mmdit, dit, cross-dit or uvit",
            "autoencoder" => "give autoencoder",
            "clip" => "give clip",
            "detector" => "give detector",
            _ => "give t5",
        };
        return Err(impossible("model.kind", why, hint));
    }
    if let Model::Autoencoder(model) = &recipe.model {
        check_autoencoder(model, recipe.data.source.side_px)?;
    }
    if let Some(model) = recipe.model.transformer() {
        within("model.position_crop", model.position_crop, 0.0..=1.0, "it is a share of the batches")?;
    }
    if recipe.validation.every > 0 && recipe.validation.samples == 0 {
        let hint = "give how many samples are kept for it, or set validation.every = 0";
        return Err(impossible("validation.samples", "is 0, and validation.every is not", hint));
    }
    match &recipe.objective {
        Objective::Flow(flow) => {
            within("objective.shift", flow.shift, 1e-3..=1e3, "usual are 1 at 256 px and 3 at 1024 px")?;
            let samples = &recipe.samples;
            if samples.every > 0 && samples.prompts.is_empty() {
                let hint = "give texts to draw, or set samples.every = 0";
                return Err(impossible("samples.prompts", "is empty, and samples.every is not 0", hint));
            }
            within("samples.steps", samples.steps.get() as f64, 1.0..=1000.0, "usual are 28 to 50")?;
            within("samples.guidance", samples.guidance.into(), 0.0..=100.0, "usual is 4")?;
            let dropout = flow.dropout;
            for share in [dropout.clip_l, dropout.clip_g, dropout.t5] {
                within("objective.dropout", share, 0.0..=1.0, "the paper has 0.464 for each encoder")?;
            }
        }
        Objective::Autoencoder(autoencoder) => {
            within("objective.kl_weight", autoencoder.kl_weight, 0.0..=1e3, "usual are 1e-6 and 1")?;
            within("objective.perceptual_weight", autoencoder.perceptual_weight, 0.0..=1e3, "usual is 0.25")?;
            if let Some(adversarial) = &autoencoder.adversarial {
                within("objective.adversarial.weight", adversarial.weight, 0.0..=1e3, "usual is 0.5")?;
            }
        }
        Objective::Clip(_) | Objective::SpanCorruption(_) if recipe.samples.every > 0 => {
            let why = format!("is {}, and a text encoder has no pictures to show", recipe.samples.every);
            return Err(impossible("samples.every", why, "leave out [samples]"));
        }
        Objective::Detector(_) if recipe.samples.every > 0 => {
            let why = format!("is {}, and a detector draws no pictures", recipe.samples.every);
            return Err(impossible("samples.every", why, "leave out [samples]"));
        }
        Objective::Clip(_) if recipe.batch.get() < 2 => {
            return Err(impossible("batch", "is 1, and a pair is told from others", "give at least 2"));
        }
        Objective::Clip(_) if recipe.accumulate.get() > 1 => {
            let why = format!("is {}, and all pairs of a batch are compared with each other", recipe.accumulate);
            return Err(impossible("accumulate", why, "give 1"));
        }
        Objective::Clip(_) | Objective::Detector(_) => {}
        Objective::SpanCorruption(span) => {
            within("objective.noise_density", span.noise_density, 0.01..=0.9, "T5 has 0.15")?;
            within("objective.repeated", span.repeated, 0.0..=1.0, "0.5 is half of the texts")?;
            within("objective.mean_span", span.mean_span, 1.0..=64.0, "T5 has 3")?;
        }
    }
    Ok(())
}

/// What can be known of an autoencoder without its checkpoint.
fn check_autoencoder(model: &AutoencoderModel, side_px: u32) -> Result<(), RecipeError> {
    if let Some(widths) = &model.widths
        && (widths.is_empty() || widths.contains(&0))
    {
        return Err(impossible("model.widths", format!("is {widths:?}"), "give the channels of each level, from 1"));
    }
    if model.from.is_some() {
        return Ok(());
    }
    let config = model.from_scratch();
    if let Some(width) = config.widths.iter().find(|width| !width.is_multiple_of(config.groups)) {
        let why = format!("is {}, which does not divide a width of {width}", config.groups);
        return Err(impossible("model.groups", why, "give a divisor of all widths"));
    }
    let levels_max = 8;
    if config.widths.len() > levels_max {
        let why = format!("has {} levels, and at most {levels_max} are possible", config.widths.len());
        return Err(impossible("model.widths", why, "4 make latents 8 times smaller, as in every release"));
    }
    let (side, unit) = (side_px as usize, config.downsampling());
    if !side.is_multiple_of(unit) {
        let why = format!("is {side_px}, which is no multiple of {unit} px, a latent pixel");
        return Err(impossible("data.source.side_px", why, "give one, or fewer model.widths"));
    }
    Ok(())
}

impl AutoencoderModel {
    /// The sizes of a new one; what is left out is as it suits small pictures.
    pub fn from_scratch(&self) -> VaeConfig {
        let or = |number: Option<NonZeroUsize>, otherwise| number.map_or(otherwise, NonZeroUsize::get);
        VaeConfig {
            widths: self.widths.clone().unwrap_or_else(|| vec![32, 64, 128, 128]),
            blocks: or(self.blocks, 1),
            latent_channels: or(self.latent_channels, 16),
            groups: or(self.groups, 8),
            // Known when it is trained.
            latent_offset: 0.0,
            latent_scale: 1.0,
        }
    }
}

fn kind_of(objective: &Objective) -> &'static str {
    match objective {
        Objective::Flow(_) => "flow",
        Objective::Autoencoder(_) => "autoencoder",
        Objective::Clip(_) => "clip",
        Objective::SpanCorruption(_) => "span-corruption",
        Objective::Detector(_) => "detector",
    }
}

/// A model's kind, and that of the objective that trains it.
fn model_kind(model: &Model) -> (&'static str, &'static str) {
    match model {
        Model::Mmdit(_) => ("mmdit", "flow"),
        Model::Dit(_) => ("dit", "flow"),
        Model::CrossDit(_) => ("cross-dit", "flow"),
        Model::Uvit(_) => ("uvit", "flow"),
        Model::Autoencoder(_) => ("autoencoder", "autoencoder"),
        Model::Clip(_) => ("clip", "clip"),
        Model::T5(_) => ("t5", "span-corruption"),
        Model::Detector(_) => ("detector", "detector"),
    }
}

fn check_data(recipe: &Recipe) -> Result<(), RecipeError> {
    let data = &recipe.data;
    let is_flow = matches!(recipe.objective, Objective::Flow(_));
    if !is_flow && data.cache.is_some() {
        let hint = "leave it out; a cache holds latents and text features, not pictures";
        return Err(impossible("data.cache", "is for the flow objective", hint));
    }
    if is_flow && data.encoders.is_none() {
        let hint = "name the model whose text encoders and autoencoder are used";
        return Err(impossible("data.encoders", "is missing", hint));
    }
    let source = &data.source;
    let reads_texts_alone = matches!(recipe.objective, Objective::SpanCorruption(_));
    if source.side_px == 0 && !reads_texts_alone {
        let hint = "give the side that pictures are trained at, in pixels";
        return Err(impossible("data.source.side_px", "is missing", hint));
    }
    if source.kind == Some(rectiflow_dataset::Kind::Texts) && !reads_texts_alone {
        let hint = "leave it out, or give the kind of a data set of pictures";
        return Err(impossible("data.source.kind", "is \"texts\", and this objective needs pictures", hint));
    }
    if data.cache.is_some() && data.source.flip {
        let hint = "take out one of them; a cache has each picture once";
        return Err(impossible("data.source.flip", "is set, and data.cache is given", hint));
    }
    let tokens = data.encoding.t5_tokens;
    if !T5_LENGTHS.contains(&tokens) {
        let why = format!("is {tokens}, and must be from {} to {}", T5_LENGTHS.start(), T5_LENGTHS.end());
        return Err(impossible("data.encoding.t5_tokens", why, "usual are 77 and 256"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::Matrices;

    const SMALL: &str = r#"
        steps = 100
        batch = 8
        [objective]
        kind = "flow"
        [model]
        kind = "mmdit"
        depth = 2
        [data]
        encoders = "model"
        source = { path = "pictures", side_px = 64 }
        [schedule]
        learning_rate = 1e-4
    "#;

    fn plan(text: &str) -> Result<Plan, RecipeError> {
        Plan::resolve(Recipe::parse(text, Path::new("recipe.toml"))?, Overrides::default())
    }

    #[test]
    fn what_is_left_out_has_the_papers_values() {
        let plan = plan(SMALL).unwrap();
        let Objective::Flow(flow) = &plan.recipe.objective else { panic!("{:?}", plan.recipe.objective) };
        assert_eq!((flow.formulation.as_str(), flow.shift, flow.dropout.t5), ("rf/lognorm(0.00,1.00)", 1.0, 0.464));
        assert_eq!(
            plan.adamw(),
            AdamW { beta_1: 0.9, beta_2: 0.999, eps: 1e-8, weight_decay: 0.01, matrices: Matrices::Adamw }
        );
    }

    #[test]
    fn a_misspelt_key_gets_the_nearest_known_one() {
        for (from, to, expected) in [
            ("depth = 2", "dpeth = 2", "`dpeth` is not a setting here\nhint: did you mean `depth`?"),
            ("batch = 8", "batch_size = 8", "did you mean `batch`?"),
            ("learning_rate", "learning-rate", "did you mean `learning_rate`?"),
            ("\"mmdit\"", "\"mmditx\"", "`mmditx` is no value for this setting\nhint: did you mean `mmdit`?"),
            ("depth = 2", "depth = \"2\"", "expected a whole number from 1 on"),
            ("[schedule]", "[schedule", "recipe.toml, line 12, `[schedule`: unclosed table"),
            ("depth = 2", "depth = \"2\"", "recipe.toml, line 8, `depth = \"2\"`: invalid type"),
            ("depth = 2", "depth = -2", "recipe.toml, line 8, `depth = -2`: invalid value"),
            ("depth = 2", "heads = 2", "recipe.toml, line 8: `heads` is not"),
            ("steps = 100", "", "recipe.toml: `steps` is missing\nhint: add it"),
            (
                "steps = 100",
                "steps = \"100\"",
                "line 2, `steps = \"100\"`: invalid type: string \"100\", expected a whole number from 0 on\nhint: ",
            ),
            ("1e-4", "\"1e-4\"", "expected a number\nhint: "),
        ] {
            let error = plan(&SMALL.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn impossible_settings_are_refused_with_what_to_do() {
        for (from, to, expected) in [
            ("steps = 100", "steps = 0", "`steps` is 0"),
            ("batch = 8", "batch = 8\naccumulate = 3", "`accumulate` is 3, which does not divide the batch of 8"),
            ("\"mmdit\"\n        depth = 2", "\"autoencoder\"", "give mmdit, dit, cross-dit or uvit"),
            ("1e-4", "1e4", "`schedule.learning_rate` is 10000, and must be from 0 to 1"),
            ("1e-4", "nan", "`schedule.learning_rate` is NaN"),
            ("encoders = \"model\"", "", "`data.encoders` is missing"),
            ("side_px = 64", "side_px = 64, flip = true }\ncache = \"x\" #", "`data.source.flip` is set"),
            ("depth = 2", "depth = 2\nposition_crop = 7", "`model.position_crop` is 7"),
            ("steps = 100", "steps = 100\nvalidation = { samples = 0 }", "`validation.samples` is 0"),
            ("steps = 100", "steps = 100\nsamples = { every = 5 }", "`samples.prompts` is empty"),
            ("steps = 100", "steps = 100\nsamples = { guidance = inf }", "`samples.guidance` is inf"),
            ("[data]", "[data]\nencoding = { t5_tokens = 7 }", "`data.encoding.t5_tokens` is 7"),
            ("kind = \"flow\"", "kind = \"flow\"\ndropout = { t5 = 46.4 }", "`objective.dropout` is 46.4"),
            ("1e-4", "1e-4\n[optimizer]\nbetas = [0.9, 1.0]", "`optimizer.betas` is 1"),
            ("1e-4", "1e-4\n[optimizer]\neps = 0.0", "`optimizer.eps` is 0, and must be from 1e-20 to 1"),
            ("1e-4", "1e-4\n[optimizer]\neps = 1e-46", "`optimizer.eps` is 1e-46"),
            ("1e-4", "1e-4\n[[ema]]\nkind = \"power\"\nsigma_rel = 0.5", "`ema.sigma_rel` is 0.5"),
            (
                "1e-4",
                "1e-4\nchanges = [{ step = 5, learning_rate = 0.1 }, { step = 5, learning_rate = 0.2 }]",
                "`schedule.changes` has step 5 after step 5",
            ),
        ] {
            let text = SMALL.replace(from, to);
            assert_ne!(text, SMALL, "{from}");
            let error = plan(&text).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("\nhint: "), "{error}");
        }
    }

    #[test]
    fn an_autoencoders_sizes_fit_each_other_before_anything_is_read() {
        let small = SMALL.replace("\"flow\"", "\"autoencoder\"");
        let small = small.replace("\"mmdit\"\n        depth = 2", "\"autoencoder\"");
        let Model::Autoencoder(model) = plan(&small).unwrap().recipe.model else { panic!("{small}") };
        assert_eq!((model.from_scratch().downsampling(), model.from_scratch().latent_channels), (8, 16));
        for (to, expected) in [
            ("widths = [32, 36]", "`model.groups` is 8, which does not divide a width of 36"),
            ("groups = 5", "`model.groups` is 5, which does not divide a width of 32"),
            ("widths = []", "`model.widths` is []"),
            ("widths = [8, 0]", "`model.widths` is [8, 0]"),
            ("widths = [8, 8, 8, 8, 8, 8, 8, 8]", "`data.source.side_px` is 64, which is no multiple of 128 px"),
            ("widths = [8, 8, 8, 8, 8, 8, 8, 8, 8]", "`model.widths` has 9 levels"),
        ] {
            let text = small.replace("[data]", &format!("{to}\n[data]"));
            let error = plan(&text).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("\nhint: "), "{error}");
        }
        plan(&small.replace("[data]", "groups = 5\nfrom = \"model\"\n[data]")).unwrap();
    }

    #[test]
    fn a_run_goes_on_with_its_own_recipe_and_with_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.toml");
        std::fs::write(&path, plan(SMALL).unwrap().to_toml()).unwrap();
        plan(SMALL).unwrap().check_same(&path).unwrap();

        let longer = plan(&SMALL.replace("steps = 100", "steps = 200").replace("1e-4", "5e-5")).unwrap();
        longer.check_same(&path).unwrap();
        let unchecked = plan(&format!("{SMALL}[validation]\nevery = 0")).unwrap();
        let error = unchecked.check_same(&path).unwrap_err().to_string();
        assert!(error.contains("`validation.every` was more than 0 and is 0"), "{error}");

        let other = plan(&SMALL.replace("depth = 2", "depth = 3")).unwrap();
        let error = other.check_same(&path).unwrap_err().to_string();
        assert!(error.contains("`model.depth` was 2 and is 3"), "{error}");
    }
}
