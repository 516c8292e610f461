//! How well a model draws sprite scenes, measured: what its pictures show, whether words in them can be read, how far they
//! are from real scenes, what the autoencoder loses, and the loss by noise level.
//!
//! ```text
//! prompts (assets/evaluation) -> pictures (4 seeds each) -> parts: detector, Tesseract, CLIP, features -> figures -> report
//! ```
//!
//! [`Request`] is what was asked for, [`Evaluation::open`] finds everything that can be wrong before anything is drawn,
//! and [`Evaluation::run`] is the journey on one page. [`metrics`] are the formulas, which know no model.
//!
//! Every figure has a 95 % interval, by drawing the prompts again, and stands beside what the same judge says of real
//! scenes: a judge is not believed further than that.
//!
//! This crate prints nothing, knows no training and no terminal.

pub mod metrics;

mod artist;
mod error;
mod gallery;
mod make;
mod measure;
mod model;
mod ocr;
mod prompts;
mod report;
mod results;
mod towers;
mod watch;

use std::path::PathBuf;

use rectiflow_dataset::sprites::Scenes;
use rectiflow_generate::{columns, sheet};
use rectiflow_nn::{Device, DeviceChoice, Precision};
use rectiflow_vision::Detector;
use rectiflow_weights::ModelPaths;

pub use artist::Drawing;
pub use error::EvaluateError;
pub use gallery::{Decided, Gallery};
pub use make::{LETTERS_MAX, SCENE_SEED, held_out_scenes, make_prompts, write_prompts};
pub use ocr::{Reading, Tesseract};
pub use prompts::{Prompt, Prompts, SEEDS_MAX, Task, Thing};
pub use report::Results;
pub use results::{Figure, Of, Part, Unit, UnknownPart};
pub use towers::Towers;
pub use watch::{Unwatched, Watch};

use measure::Ground;
use model::{LeftOut, Model};
use watch::go_on;

/// What a user asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model's files.
    pub model: ModelPaths,
    /// Where it computes.
    pub device: DeviceChoice,
    /// What products are computed in.
    pub precision: Precision,
    /// Where everything goes.
    pub out: PathBuf,
    /// The folder is there and is gone on with.
    pub resume: bool,
    /// What is measured; all that can be, where nothing is said.
    pub parts: Option<Vec<Part>>,
    /// How pictures are drawn.
    pub drawing: Drawing,
    /// The most prompts of a task.
    pub prompts_max: usize,
    /// Pictures of each prompt, at most [`SEEDS_MAX`].
    pub seeds: usize,
    /// Real scenes for the parts that draw nothing.
    pub scenes_max: usize,
    /// Pictures that are drawn at once.
    pub batch: usize,
    /// The detector's folder; without it, `detector` in the model's folder or beside it.
    pub detector: Option<PathBuf>,
    /// Where the prompts are.
    pub prompts: PathBuf,
    /// The art of sprite scenes.
    pub art: PathBuf,
}

/// An evaluation that can begin.
pub struct Evaluation {
    request: Request,
    model: Model,
    detector: Option<(String, Detector)>,
    tesseract: Option<Tesseract>,
    towers: Option<Towers>,
    prompts: Prompts,
    scenes: Scenes,
    gallery: Gallery,
    decided: Decided,
    side_px: usize,
    device: Device,
    parts: Vec<Part>,
    left_out: LeftOut,
}

impl Evaluation {
    /// Opens the model, the judges and the prompts.
    ///
    /// # Errors
    /// A file is missing or damaged, a setting or a part that was asked for cannot be carried out, the folder holds
    /// something else. Nothing was written.
    pub fn open(request: Request, watch: &mut dyn Watch) -> Result<Evaluation, EvaluateError> {
        let prompts = Prompts::open(&request.prompts, request.prompts_max)?;
        let (files, plan) = model::Files::open(&request.model, &request.drawing)?;
        let device = request.device.open().map_err(rectiflow_generate::OpenError::from)?;
        let towers = files.image_tower().map(|model| Towers::open(model, files.checkpoint(), &device)).transpose()?;
        let side_px = match (&plan, request.drawing.side_px, &towers) {
            (Some(plan), _, _) => plan.width,
            (None, Some(side_px), _) => side_px,
            (None, None, Some(towers)) => towers.side_px(),
            (None, None, None) => SIDE_PX,
        };
        let detector = model::detector(request.detector.as_deref(), &request.model, &device)?;
        let tesseract = Tesseract::find();
        let can = model::Can { files: &files, detector: detector.as_ref(), tesseract: tesseract.as_ref(), side_px };
        let (parts, left_out) = can.choose(request.parts.as_deref())?;
        let mut decided = files.decided(plan.as_ref(), &request);
        decided.insert("prompts".to_owned(), prompts.digest.clone());
        let gallery = Gallery::check(&request.out, &decided, request.resume)?;
        let scenes = held_out_scenes(&request.art)?;
        // Refuses a side that no scene can be drawn at.
        scenes.draw(&scenes.scene(0), side_px as u32)?;
        let model = files.load(plan, &request, watch)?;
        Ok(Evaluation {
            request,
            model,
            detector,
            tesseract,
            towers,
            prompts,
            scenes,
            gallery,
            decided,
            side_px,
            device,
            parts,
            left_out,
        })
    }

    /// What will be measured.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// What will not, and why.
    pub fn left_out(&self) -> impl Iterator<Item = (Part, &str)> {
        self.left_out.iter().map(|(part, why)| (*part, &why[..]))
    }

    /// What decides the pictures, in words.
    pub fn decided(&self) -> &Decided {
        &self.decided
    }

    /// Draws what is not there yet, measures, and writes `results.json`, `grid.png` and `report.html`.
    ///
    /// # Errors
    /// Values that are not finite, a judge that fails, a file that cannot be written, or the watcher stopped it. Pictures
    /// that were drawn are stored.
    pub fn run(self, watch: &mut dyn Watch) -> Result<Results, EvaluateError> {
        self.gallery.make(&self.decided, watch)?;
        self.draw(watch)?;
        let mut results = Results::new(&self);
        for part in &self.parts {
            watch.phase(part.name());
            go_on(watch)?;
            self.measure(*part, &mut results, watch)?;
        }
        watch.phase("write the report");
        self.write(&mut results, watch)?;
        Ok(results)
    }

    /// The prompts that some part needs pictures of.
    fn drawn(&self) -> impl Iterator<Item = &Prompt> + Clone {
        let has = |parts: &[Part]| self.model.artist().is_some() && parts.iter().any(|part| self.parts.contains(part));
        let (things, words) = (has(&[Part::Tasks, Part::Clip, Part::Distance]), has(&[Part::Spelling]));
        self.prompts.all.iter().filter(move |prompt| if prompt.task.is_spelling() { words } else { things })
    }

    fn draw(&self, watch: &mut dyn Watch) -> Result<(), EvaluateError> {
        let Some(artist) = self.model.artist() else { return Ok(()) };
        let all: Vec<(&Prompt, usize)> =
            self.drawn().flat_map(|prompt| (0..self.request.seeds).map(move |place| (prompt, place))).collect();
        let missing: Vec<(&Prompt, usize)> =
            all.iter().copied().filter(|(prompt, place)| !self.gallery.has(prompt, *place)).collect();
        let there = all.len() - missing.len();
        if there > 0 {
            watch.say(&format!("{there} of {} pictures are there already", all.len()));
        }
        watch.phase("draw pictures");
        let mut done = 0;
        for some in missing.chunks(self.request.batch.max(1)) {
            go_on(watch)?;
            let asked: Vec<(&str, u64)> =
                some.iter().map(|(prompt, place)| (&prompt.prompt[..], prompt.seed + *place as u64)).collect();
            let pictures = artist.draw(&asked, watch)?;
            for ((prompt, place), drawn) in some.iter().zip(pictures) {
                self.gallery.store(prompt, *place, &drawn.image, &drawn.texts, watch)?;
                done += 1;
            }
            watch.step(done, missing.len());
        }
        Ok(())
    }

    fn measure(&self, part: Part, results: &mut Results, watch: &mut dyn Watch) -> Result<(), EvaluateError> {
        let ground = Ground {
            prompts: &self.prompts,
            gallery: &self.gallery,
            scenes: &self.scenes,
            side_px: self.side_px,
            seeds: self.request.seeds,
            scenes_max: self.request.scenes_max,
            device: &self.device,
        };
        let artist = self.model.artist();
        let figures = match (part, artist, self.model.vae()) {
            (Part::Tasks, Some(_), _) => match &self.detector {
                Some((_, detector)) => {
                    let (figures, verdicts) = measure::tasks::measure(&ground, detector, watch)?;
                    results.verdicts = verdicts;
                    figures
                }
                None => Vec::new(),
            },
            (Part::Spelling, Some(_), Some(vae)) => match &self.tesseract {
                Some(tesseract) => {
                    let (figures, read) = measure::spelling::measure(&ground, tesseract, vae, watch)?;
                    results.read = read;
                    figures
                }
                None => Vec::new(),
            },
            (Part::Clip, ..) => match &self.towers {
                Some(towers) => measure::clip::measure(&ground, towers, artist.is_some(), watch)?,
                None => Vec::new(),
            },
            (Part::Distance, Some(_), _) => measure::distance::measure(&ground, watch)?,
            (Part::Reconstruction, _, Some(vae)) => measure::reconstruction::measure(&ground, vae, watch)?,
            (Part::Loss, Some(artist), _) => measure::loss::measure(&ground, artist, self.model.formulation(), watch)?,
            // `open` chose only parts that have what they need.
            _ => Vec::new(),
        };
        results.figures.extend(figures);
        Ok(())
    }

    /// The first prompts of all tasks in turn, as they are: nothing is chosen.
    fn shown(&self) -> Vec<&Prompt> {
        let mut shown: Vec<&Prompt> = self.drawn().collect();
        shown.sort_by_key(|prompt| (prompt.number, prompt.task));
        shown.truncate(GRID_PROMPTS);
        shown
    }

    fn write(&self, results: &mut Results, watch: &mut dyn Watch) -> Result<(), EvaluateError> {
        let seeds = self.request.seeds.min(GRID_SEEDS);
        let mut tiles = Vec::new();
        for prompt in self.shown() {
            for place in 0..seeds {
                tiles.push(self.gallery.picture(prompt, place, self.side_px)?);
                results.shown.push((prompt.clone(), place, self.gallery.bytes(prompt, place)?));
            }
        }
        if !tiles.is_empty() {
            // Prompts stand in rows; two beside each other where that makes it squarer.
            let across = if tiles.len() > seeds * columns(tiles.len()) { 2 * seeds } else { seeds };
            let path = self.gallery.folder().join("grid.png");
            let grid = sheet(&tiles, across);
            watch.write(&mut || Ok(grid.save_png(&path, rectiflow_weights::IfThere::Replace, &[])?))?;
        }
        let results_json = results.to_json();
        self.gallery.write("results.json", results_json.as_bytes(), watch)?;
        self.gallery.write("report.html", results.to_html().as_bytes(), watch)
    }
}

/// Side of scenes where the model says none.
const SIDE_PX: usize = 128;
/// Prompts and pictures of each on the grid.
const GRID_PROMPTS: usize = 16;
const GRID_SEEDS: usize = 4;
