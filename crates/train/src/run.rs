//! The loop of a training: steps, and between them what the plan asks for.
//!
//! ```text
//! step -> journal -> validation -> samples -> checkpoint -> step
//! ```
//!
//! What this module does not do: know what is trained ([`crate::objective`]), or print.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rectiflow_weights::{IfThere, sync_folder};

use crate::checkpoint::{self, Best, CheckpointError, Checkpoints, Damaged, Found, Progress};
use crate::export::link_or_copy;
use crate::journal::{Event, Journal};
use crate::objective::{Objective, StepError, Values};
use crate::plan::Pace;
use crate::recipe::NotFiniteRule;
use crate::trainee::StateError;

/// Sees a training happen.
pub trait Watch {
    /// Something happened; it is in the journal.
    fn event(&mut self, event: &Event);

    /// Asked after each step. `Break`: a checkpoint is written and the run ends.
    fn wish(&mut self) -> ControlFlow<()>;

    /// There is no space for a file of the run. `Continue`: it is tried again, so wait in here; `Break`: the run ends
    /// with what is on the disk.
    fn disk_full(&mut self, problem: &TrainError) -> ControlFlow<()>;
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were taken.
    Finished,
    /// The watcher wished it; a checkpoint has all steps that were taken.
    Stopped {
        /// How many.
        step: u64,
    },
}

/// A run ended before its last step.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A loss, a gradient or a validation loss.
    #[error(
        "step {step}: {what} is not finite{}\nhint: the last good checkpoint is {}; {}",
        of_samples(samples),
        last.as_ref().map_or_else(|| "none".to_owned(), |last| last.display().to_string()),
        tried.hint(),
    )]
    NotFinite {
        /// The step that was not taken, counted from 0.
        step: u64,
        /// What is not finite.
        what: String,
        /// Ids of its samples; none of a validation.
        samples: Vec<String>,
        /// Where the run can go on from.
        last: Option<PathBuf>,
        /// What was done about it.
        tried: Tried,
    },
    /// There are checkpoints, and none is whole.
    #[error(
        "no checkpoint of the run is whole: {}\n\
         hint: put a copy of one back; or remove {} to begin anew, which begins the journal anew too",
        damaged.iter().map(|one| format!("{} ({})", one.folder.display(), one.why)).collect::<Vec<_>>().join(", "),
        folder.display(),
    )]
    NoneWhole {
        /// Of the checkpoints.
        folder: PathBuf,
        /// What is wrong with each.
        damaged: Vec<Damaged>,
    },
    /// Data, networks or files that the objective needs.
    #[error("step {step}: {problem}")]
    Objective {
        /// Counted from 0.
        step: u64,
        /// What went wrong.
        problem: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Going on would train on samples that are kept for validation, and never on others.
    #[error(
        "the data are not those that {} was trained on: samples have come, gone or changed their size, or the cache is \
         another\nhint: put them back, or begin another run",
        .0.display()
    )]
    OtherData(PathBuf),
    /// A checkpoint could not be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint that is whole could not be gone on from.
    #[error(transparent)]
    State(#[from] StateError),
    /// Other files of the run.
    #[error("{}: {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        problem: io::Error,
    },
}

/// What was done before a number that is not finite ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// Nothing: the plan says so.
    Nothing,
    /// Other samples, from one checkpoint on, as often as is tried.
    OtherSamples,
    /// Nothing would help: it is the parameters that are measured.
    Validation,
}

impl Tried {
    fn hint(self) -> &'static str {
        match self {
            Tried::Nothing => "look at those samples, lower the learning rate, or set `not_finite = \"roll-back\"`",
            Tried::OtherSamples => "other samples from there on did not help: lower the learning rate",
            Tried::Validation => "the averaged parameters are too large to compute with: lower the learning rate",
        }
    }
}

fn of_samples(samples: &[String]) -> String {
    if samples.is_empty() { String::new() } else { format!("; samples of the step: {}", samples.join(", ")) }
}

impl TrainError {
    /// Whether space on the disk would help.
    fn is_disk_full(&self) -> bool {
        match self {
            TrainError::Checkpoint(problem) => problem.is_disk_full(),
            TrainError::File { problem, .. } => checkpoint::is_full(problem),
            TrainError::NotFinite { .. }
            | TrainError::NoneWhole { .. }
            | TrainError::OtherData(_)
            | TrainError::Objective { .. }
            | TrainError::State(_) => false,
        }
    }
}

/// A run's folder: `journal.jsonl`, `checkpoints/`, `samples/`, `model/`.
#[derive(Clone, Debug)]
pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// At `root`, which is there.
    pub fn new(root: PathBuf) -> Self {
        RunFolder { root }
    }

    /// Its path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `journal.jsonl`.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal.jsonl")
    }

    /// `checkpoints/`.
    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(self.root.join("checkpoints"))
    }

    /// What the run was told to do.
    pub fn plan(&self) -> PathBuf {
        self.root.join("plan.toml")
    }

    /// The trained model.
    pub fn model(&self) -> PathBuf {
        self.root.join("model")
    }

    /// Averages of each checkpoint, of which others can be made.
    pub fn averages(&self) -> PathBuf {
        self.root.join("averages")
    }

    fn samples(&self) -> PathBuf {
        self.root.join("samples")
    }
}

/// The averages of a checkpoint under another name, where they stay when the checkpoint goes. They cost no room while
/// both are there.
fn keep_averages(checkpoint: &Path, kept: &Path) -> io::Result<()> {
    std::fs::create_dir_all(kept)?;
    for entry in std::fs::read_dir(checkpoint)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().contains(".ema-") {
            link_or_copy(&entry.path(), &kept.join(entry.file_name()))?;
        }
    }
    sync_folder(kept)
}

/// Removes averages of steps after `step`, which the run will take again.
fn forget_averages(kept: &Path, step: u64) -> io::Result<()> {
    let entries = match std::fs::read_dir(kept) {
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let of = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok());
        if of.is_some_and(|of| of > step) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// A run under way.
pub struct Run<'a> {
    objective: &'a mut dyn Objective,
    pace: &'a Pace,
    folder: &'a RunFolder,
    checkpoints: Checkpoints,
    journal: Journal,
    watch: &'a mut dyn Watch,
    /// Digest of what is drawn from.
    data: String,
    /// Steps that were taken.
    step: u64,
    best: Option<Best>,
    /// How often it went back because something was not finite.
    turn: u64,
    since: Sums,
    /// Steps of the checkpoints that this process went back to, and how often.
    gone_back: BTreeMap<u64, u64>,
}

/// Values since the last line of the journal.
#[derive(Default)]
struct Sums {
    steps: u64,
    seconds: f64,
    sums: BTreeMap<String, (f64, u64)>,
}

impl<'a> Run<'a> {
    /// Takes up a run where its last whole checkpoint left it, or at its beginning.
    ///
    /// # Errors
    /// The folder cannot be read or written, or the checkpoint is of another network.
    pub fn take_up(
        objective: &'a mut dyn Objective,
        pace: &'a Pace,
        folder: &'a RunFolder,
        watch: &'a mut dyn Watch,
    ) -> Result<Run<'a>, TrainError> {
        let checkpoints = folder.checkpoints();
        let at = |path: PathBuf| move |problem| TrainError::File { path, problem };
        let (found, damaged) = checkpoints.latest().map_err(at(folder.root.join("checkpoints")))?;
        if found.is_none() && !damaged.is_empty() {
            return Err(TrainError::NoneWhole { folder: folder.root.join("checkpoints"), damaged });
        }
        let data = objective.data_digest();
        let (mut step, mut best, mut turn) = (0, None, 0);
        if let Some(found) = &found {
            if found.about.data != data {
                return Err(TrainError::OtherData(found.folder.clone()));
            }
            objective.load(&found.folder, found.about.step)?;
            (step, best) = (found.about.step, found.about.best);
            turn = found.about.turn;
            objective.turn(turn);
        }
        let journal = Journal::open(&folder.journal(), step).map_err(at(folder.journal()))?;
        let (since, gone_back) = (Sums::default(), BTreeMap::new());
        let mut run =
            Run { objective, pace, folder, checkpoints, journal, watch, data, step, best, turn, since, gone_back };
        run.restore_averages(found.as_ref())?;
        run.record(Event::Started { step, steps: pace.steps, time: now() })?;
        for (damaged, found) in damaged.iter().zip(found.iter().cycle()) {
            let [damaged_at, next] = [&damaged.folder, &found.folder].map(|folder| folder.display());
            let text = format!("{damaged_at} is damaged ({}); going on from {next}", damaged.why);
            run.record(Event::Note { step, text })?;
        }
        Ok(run)
    }

    /// Takes all steps that are left.
    ///
    /// # Errors
    /// What cannot be gone on after. The last good checkpoint is as it was.
    pub fn finish(mut self) -> Result<Outcome, TrainError> {
        while self.step < self.pace.steps {
            if !self.take_step()? {
                continue;
            }
            let is_last = self.step == self.pace.steps;
            if is_last || self.pace.record.at(self.step) {
                self.record_steps()?;
            }
            let validates = self.pace.validation.at(self.step) || (is_last && self.pace.validation.is_on());
            let is_best = validates && self.validate()?;
            if self.pace.samples.at(self.step) || (is_last && self.pace.samples.is_on()) {
                self.samples()?;
            }
            let stops = self.watch.wish().is_break();
            // The last thing of a step, and once: what a run that goes on from it would not do again must be done.
            if stops || is_last || is_best || self.pace.checkpoint.at(self.step) {
                self.record_steps()?;
                self.checkpoint()?;
            }
            if stops && !is_last {
                return Ok(Outcome::Stopped { step: self.step });
            }
        }
        self.record(Event::Finished { step: self.step, time: now() })?;
        Ok(Outcome::Finished)
    }

    /// One step. Returns whether it was taken, or the run went back instead.
    fn take_step(&mut self) -> Result<bool, TrainError> {
        let started = Instant::now();
        let step = self.step;
        match self.objective.step(step, self.pace.schedule.at(step, self.pace.steps)) {
            Ok(values) => {
                self.step += 1;
                self.since.add(values, started.elapsed().as_secs_f64());
                Ok(true)
            }
            Err(StepError::Failed(problem)) => Err(TrainError::Objective { step, problem }),
            Err(StepError::NotFinite { what, samples }) => self.go_back(what, samples).map(|()| false),
        }
    }

    /// To the last checkpoint, if the plan says so; a few times to each, whichever step it is for.
    fn go_back(&mut self, what: String, samples: Vec<String>) -> Result<(), TrainError> {
        const TIMES_MAX: u64 = 2;
        let step = self.step;
        let root = self.folder.root.join("checkpoints");
        let (found, _) = self.checkpoints.latest().map_err(|problem| TrainError::File { path: root, problem })?;
        let (Some(found), NotFiniteRule::RollBack) = (&found, self.pace.not_finite) else {
            let last = found.map(|found| found.folder);
            return Err(TrainError::NotFinite { step, what, samples, last, tried: Tried::Nothing });
        };
        let times = self.gone_back.entry(found.about.step).or_default();
        if *times == TIMES_MAX {
            let last = Some(found.folder.clone());
            return Err(TrainError::NotFinite { step, what, samples, last, tried: Tried::OtherSamples });
        }
        *times += 1;
        let text = format!(
            "step {step}: {what} is not finite; samples of the step: {}; back to step {}, with other samples from there on",
            samples.join(", "),
            found.about.step
        );
        self.objective.load(&found.folder, found.about.step)?;
        // Whatever the checkpoint was of: no turn comes twice.
        self.turn += 1;
        self.objective.turn(self.turn);
        (self.step, self.best) = (found.about.step, found.about.best);
        self.since = Sums::default();
        let path = self.folder.journal();
        self.journal = Journal::open(&path, self.step).map_err(|problem| TrainError::File { path, problem })?;
        self.restore_averages(Some(found))?;
        self.record(Event::Note { step: self.step, text })
    }

    fn record_steps(&mut self) -> Result<(), TrainError> {
        match std::mem::take(&mut self.since).means() {
            Some((values, seconds)) => self.record(Event::Step { step: self.step, values, seconds }),
            None => Ok(()),
        }
    }

    /// Returns whether the loss is the lowest so far.
    fn validate(&mut self) -> Result<bool, TrainError> {
        let values = self.objective.validate().map_err(|problem| self.failed(problem))?;
        let Some(loss) = values.get("loss").copied() else { return Ok(false) };
        let last = || self.checkpoints.latest().ok().and_then(|(found, _)| Some(found?.folder));
        if !loss.is_finite() {
            let what = "the validation loss".to_owned();
            let (step, samples, last, tried) = (self.step, Vec::new(), last(), Tried::Validation);
            return Err(TrainError::NotFinite { step, what, samples, last, tried });
        }
        self.record(Event::Validation { step: self.step, values })?;
        let is_best = self.best.is_none_or(|best| loss < best.loss);
        if is_best {
            self.best = Some(Best { step: self.step, loss });
        }
        Ok(is_best)
    }

    fn samples(&mut self) -> Result<(), TrainError> {
        let Some(sheet) = self.objective.samples().map_err(|problem| self.failed(problem))? else { return Ok(()) };
        let folder = self.folder.samples();
        let name = format!("step-{:06}.png", self.step);
        let path = folder.join(&name);
        self.with_space(|run| {
            std::fs::create_dir_all(&folder).map_err(|problem| TrainError::File { path: folder.clone(), problem })?;
            let saved = sheet.save_png(&path, IfThere::Replace, &[]);
            saved.map_err(|problem| match problem.is_disk_full() {
                true => TrainError::File { path: path.clone(), problem: io::ErrorKind::StorageFull.into() },
                false => run.failed(problem.into()),
            })
        })?;
        self.record(Event::Samples { step: self.step, file: Path::new("samples").join(name) })
    }

    fn checkpoint(&mut self) -> Result<(), TrainError> {
        let path = self.folder.journal();
        self.with_space(|run| run.journal.sync().map_err(|problem| TrainError::File { path: path.clone(), problem }))?;
        let progress = Progress { step: self.step, best: self.best, turn: self.turn };
        let folder = self.with_space(|run| {
            let objective = &*run.objective;
            Ok(run.checkpoints.write(progress, &run.data, |folder| objective.save(folder))?)
        })?;
        self.keep_averages(&folder, self.step)?;
        let best = self.best.map(|best| best.step);
        self.checkpoints
            .prune(self.step, self.pace.keep.get(), best)
            .map_err(|problem| TrainError::File { path: self.folder.root.join("checkpoints"), problem })?;
        let folder = folder.strip_prefix(&self.folder.root).unwrap_or(&folder).to_owned();
        self.record(Event::Checkpoint { step: self.step, folder })
    }

    /// Those of a checkpoint, if the plan wants them.
    fn keep_averages(&mut self, checkpoint: &Path, step: u64) -> Result<(), TrainError> {
        if !self.pace.keeps_averages {
            return Ok(());
        }
        let kept = self.folder.averages().join(format!("step-{step:06}"));
        self.with_space(|_| {
            keep_averages(checkpoint, &kept).map_err(|problem| TrainError::File { path: kept.clone(), problem })
        })
    }

    /// As they were at a checkpoint, or at the beginning: a process may have ended between the two, and what comes after
    /// will come again.
    fn restore_averages(&mut self, found: Option<&Found>) -> Result<(), TrainError> {
        let path = self.folder.averages();
        forget_averages(&path, self.step).map_err(|problem| TrainError::File { path, problem })?;
        found.map_or(Ok(()), |found| self.keep_averages(&found.folder, found.about.step))
    }

    /// Into the journal and to the watcher. The journal waits for the disk too: a line is small, and a step that is not
    /// in it would look as if it had not been taken.
    fn record(&mut self, event: Event) -> Result<(), TrainError> {
        let path = self.folder.journal();
        self.with_space(|run| {
            run.journal.record(&event).map_err(|problem| TrainError::File { path: path.clone(), problem })
        })?;
        self.watch.event(&event);
        Ok(())
    }

    /// Writes something, again and again while the disk is full and the watcher wants to wait.
    fn with_space<T>(&mut self, write: impl Fn(&mut Self) -> Result<T, TrainError>) -> Result<T, TrainError> {
        loop {
            match write(self) {
                Err(problem) if problem.is_disk_full() && self.watch.disk_full(&problem).is_continue() => {}
                written => return written,
            }
        }
    }

    fn failed(&self, problem: Box<dyn std::error::Error + Send + Sync>) -> TrainError {
        TrainError::Objective { step: self.step, problem }
    }
}

impl Sums {
    fn add(&mut self, values: Values, seconds: f64) {
        self.steps += 1;
        self.seconds += seconds;
        for (name, value) in values {
            let (sum, count) = self.sums.entry(name).or_default();
            *sum += value;
            *count += 1;
        }
    }

    /// The mean of each value over the steps that had it, and what a step took.
    fn means(self) -> Option<(Values, f64)> {
        let mean = |(name, (sum, count)): (String, (f64, u64))| (name, sum / count as f64);
        (self.steps > 0).then(|| (self.sums.into_iter().map(mean).collect(), self.seconds / self.steps as f64))
    }
}

/// Seconds since 1970, for people; nothing depends on it.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
