//! `rectiflow train`

mod display;
mod folder;

use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rectiflow_kernels::Isa;
use rectiflow_kernels::limits::{self, Arithmetic};
use rectiflow_nn::DeviceChoice;
use rectiflow_train::journal::Event;
use rectiflow_train::objective::Objective;
use rectiflow_train::plan::{Overrides, Plan};
use rectiflow_train::recipe::{Objective as ObjectiveRecipe, Recipe, TrainPrecision};
use rectiflow_train::run::{Outcome, Run, TrainError, Watch};
use rectiflow_train::setup::{self, Ready};
use rectiflow_train::tensorboard::TensorBoard;
use rectiflow_train::{journal, report};
use rectiflow_weights::shown;

use self::display::Display;

use crate::hub;
use crate::interrupt::Interrupt;
use crate::left_out;
use crate::memory;
use crate::output::{self, INTERRUPTED};

/// Train or fine-tune a network by a recipe
///
/// Writes into the folder: plan.toml (every setting), left-out.jsonl (samples that are not used, and why, if there are
/// any), journal.jsonl, TensorBoard's files, checkpoints/, samples/, and at the end model/ and report.html. Ctrl-C writes a
/// checkpoint first; `--resume` goes on from the last one, to the bit.
#[derive(clap::Args)]
pub(crate) struct TrainArgs {
    /// What to train, on what, and how: a TOML file
    recipe: PathBuf,
    /// Folder of the run
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Optimizer steps, instead of the recipe's
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Steps from checkpoint to checkpoint, instead of the recipe's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: Option<u64>,
    /// Go on with the run in the folder
    #[arg(long)]
    resume: bool,
    /// Where to compute: cpu; or vulkan, metal or cuda where built in, of which none has been tried yet
    #[arg(long, default_value_t = DeviceChoice::Cpu)]
    device: DeviceChoice,
}

pub(crate) fn run(args: TrainArgs) -> anyhow::Result<ExitCode> {
    let recipe = Recipe::read(&args.recipe)?;
    let overrides = Overrides { steps: args.steps, checkpoint_every: args.checkpoint_every.and_then(NonZeroU64::new) };
    let mut plan = Plan::resolve(recipe, overrides)?;
    // Names what is wrong in a recipe before a folder is made for it.
    if let ObjectiveRecipe::Flow(flow) = &plan.recipe.objective {
        setup::formulation_of(flow)?;
    }
    if !args.resume {
        // Before gigabytes come; a run that goes on has them.
        folder::check(&args.out, &plan, args.resume)?;
    }
    hub::bring_models_of(&mut plan.recipe)?;
    folder::check(&args.out, &plan, args.resume)?;
    rectiflow_train::keep_freed_memory(kept_bytes());
    let interrupt = Interrupt::catch("; the steps since the last checkpoint are lost")?;
    output::note("opening and checking files ...");
    match &plan.recipe.objective {
        ObjectiveRecipe::Flow(flow) => {
            let ready = setup::flow(&plan, flow, args.device).map_err(reported)?;
            train(ready, &plan, &args, interrupt)
        }
        ObjectiveRecipe::Autoencoder(autoencoder) => {
            let ready = setup::autoencoder(&plan, autoencoder, args.device).map_err(reported)?;
            train(ready, &plan, &args, interrupt)
        }
        ObjectiveRecipe::Clip(_) => {
            let ready = setup::clip(&plan, args.device).map_err(reported)?;
            train(ready, &plan, &args, interrupt)
        }
        ObjectiveRecipe::Detector(_) => {
            let ready = setup::detector(&plan, args.device).map_err(reported)?;
            train(ready, &plan, &args, interrupt)
        }
        ObjectiveRecipe::SpanCorruption(span) => {
            let ready = setup::t5(&plan, span, args.device).map_err(reported)?;
            train(ready, &plan, &args, interrupt)
        }
    }
}

/// Memory that a step frees and the next one takes again: a quarter of what there is.
fn kept_bytes() -> usize {
    const OTHERWISE: u64 = 8 << 30;
    usize::try_from(memory::available().unwrap_or(OTHERWISE) / 4).unwrap_or(usize::MAX)
}

fn reported(problem: Box<dyn std::error::Error + Send + Sync>) -> anyhow::Error {
    anyhow!(problem)
}

fn train<O: Objective>(
    ready: Ready<O>,
    plan: &Plan,
    args: &TrainArgs,
    interrupt: Interrupt,
) -> anyhow::Result<ExitCode> {
    // Only now: a run that cannot begin leaves no folder.
    let folder = folder::take(&args.out, plan, args.resume)?;
    let Ready { mut objective, parameters, operations, findings, notes } = ready;
    if let Some(findings) = findings {
        output::note(&format!("note: {}", left_out::list(&findings, folder.run().root())?));
    }
    notes.iter().for_each(|note| output::note(&format!("note: {note}")));
    let precision = plan.recipe.precision;
    output::note(&format!("training {} million parameters", millions(parameters)));
    let run_folder = folder.run();
    let journal = run_folder.journal();
    let earlier = if journal.exists() { journal::read(&journal) } else { Ok(Vec::new()) };
    let earlier = earlier.with_context(|| format!("{} cannot be read", shown(&journal)))?;
    let mut display = Display::new(plan.recipe.batch.get() as u64);
    display.earlier(&earlier);
    let mut watcher = Watcher {
        display,
        board: None,
        plan: plan.to_toml(),
        root: run_folder.root().to_owned(),
        interrupt,
        operations,
        limit: limit(precision),
        waited: false,
    };
    let outcome = Run::take_up(&mut objective, &plan.pace, run_folder, &mut watcher).and_then(Run::finish);
    let Watcher { display, .. } = watcher;
    display.finish();
    let written = report::write(run_folder.root(), &plan.to_toml())
        .with_context(|| format!("{} cannot be written", run_folder.root().join("report.html").display()));
    match outcome? {
        Outcome::Stopped { step } => {
            written?;
            output::note(&format!("stopped after step {step}; `--resume` goes on from there"));
            Ok(ExitCode::from(INTERRUPTED))
        }
        Outcome::Finished => {
            objective.export(&run_folder.model()).map_err(reported)?;
            written?;
            output::data(&run_folder.model().display().to_string());
            output::data(&run_folder.root().join("report.html").display().to_string());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn millions(parameters: usize) -> String {
    format!("{:.2}", parameters as f64 / 1e6)
}

/// What this machine can multiply at most in a second.
fn limit(precision: TrainPrecision) -> Option<f64> {
    let isa = Isa::chosen().ok()?;
    let which = match precision {
        TrainPrecision::Bf16 => Arithmetic::Bf16,
        TrainPrecision::F32 => Arithmetic::F32,
    };
    limits::arithmetic(isa, which).or_else(|| limits::arithmetic(isa, Arithmetic::F32))
}

/// Shows a run, writes TensorBoard's files, and listens for Ctrl-C.
struct Watcher {
    display: Display,
    board: Option<TensorBoard>,
    plan: String,
    root: PathBuf,
    interrupt: Interrupt,
    /// Of a step; 0 where that is not known.
    operations: f64,
    limit: Option<f64>,
    /// For space on the disk, and has said so.
    waited: bool,
}

impl Watcher {
    /// TensorBoard is a second telling of the journal: what fails there is said once, and training goes on.
    fn tell_board(&mut self, event: &Event) {
        if let Event::Started { step, .. } = event {
            let opened =
                TensorBoard::open(&self.root, *step).and_then(|mut board| board.plan(&self.plan).map(|()| board));
            self.board = self.or_said(opened);
        }
        if let Some(mut board) = self.board.take() {
            let recorded = board.record(event, &self.root);
            self.board = self.or_said(recorded).map(|()| board);
        }
    }

    fn or_said<T>(&mut self, result: std::io::Result<T>) -> Option<T> {
        result.map_err(|problem| self.display.note(&format!("warning: no more for TensorBoard: {problem}"))).ok()
    }
}

impl Watch for Watcher {
    fn event(&mut self, event: &Event) {
        if let Event::Step { seconds, .. } = event {
            let share = self.limit.filter(|_| self.operations > 0.0);
            self.display.share_of_limit(share.map(|limit| self.operations / seconds / limit));
        }
        self.tell_board(event);
        self.display.event(event);
        self.waited = false;
    }

    fn wish(&mut self) -> ControlFlow<()> {
        self.display.tick();
        if self.interrupt.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn disk_full(&mut self, problem: &TrainError) -> ControlFlow<()> {
        const BETWEEN: Duration = Duration::from_millis(500);
        if !std::mem::replace(&mut self.waited, true) {
            let text = problem.to_string();
            // What to do is said here, for all files alike.
            let what = text.split("\nhint: ").next().unwrap_or(&text);
            self.display.note(&format!("{what}; waiting for space. Ctrl-C ends the run without it"));
        }
        std::thread::sleep(BETWEEN);
        if self.interrupt.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
