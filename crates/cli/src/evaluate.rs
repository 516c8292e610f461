//! `rectiflow evaluate`

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rectiflow_evaluate::{Drawing, EvaluateError, Evaluation, Part, Request, Watch};
use rectiflow_flow::{Shift, Spacing};
use rectiflow_sample::Solver;

use crate::args::{ComputeArgs, ModelArgs};
use crate::interrupt::Interrupt;
use crate::output::{self, INTERRUPTED};
use crate::progress::Progress;
use crate::writable::{check_folder, check_outside};

/// Measure how well a model draws sprite scenes, and write a report with pictures
///
/// Six tasks as in GenEval on combinations that no training has, spelling, CLIP score, distance from real scenes, what the
/// autoencoder loses, and the loss by noise level; each beside what real scenes get, with a 95 % interval. Ctrl-C keeps
/// the pictures that are drawn, and `--resume` goes on.
#[derive(clap::Args)]
pub(crate) struct EvaluateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Folder for results.json, report.html, grid.png and pictures/: a new one, or with --resume the one that is there
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Go on in a folder that is there: pictures that are drawn are judged again, and not drawn again
    #[arg(long)]
    resume: bool,
    /// What to measure, of tasks, spelling, clip, distance, reconstruction, loss [default: all that the model has files for]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    parts: Option<Vec<Part>>,
    /// The folder of the detector that judges tasks [default: detector/ in the model's folder, or beside it]
    #[arg(long, value_name = "DIR")]
    detector: Option<PathBuf>,
    /// The most prompts of a task
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    prompts: u64,
    /// Pictures of each prompt
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=rectiflow_evaluate::SEEDS_MAX))]
    seeds: u64,
    /// The most real scenes, where those alone are measured: 256 for clip and loss, all for reconstruction
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    scenes: u64,
    /// Width and height of the pictures in pixels, a multiple of 16 [default: what the model's settings say]
    #[arg(long, value_name = "PX")]
    size: Option<usize>,
    /// Steps of the solver [default: 28]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Guidance scale; 1 or less turns guidance off [default: 4]
    #[arg(long, visible_alias = "cfg-scale", value_name = "SCALE", allow_negative_numbers = true)]
    guidance: Option<f32>,
    /// Timestep shift: stretch of the noise levels towards noise; dynamic goes by the picture's size [default: the model's, or 3]
    #[arg(long, value_name = "SHIFT", allow_negative_numbers = true)]
    shift: Option<Shift>,
    /// How noise levels are spaced: released, simple, karras, exponential, beta or linear-quadratic [default: what suits
    /// the solver]
    #[arg(long, visible_alias = "scheduler", value_name = "NAME")]
    schedule: Option<Spacing>,
    /// Solver: euler, heun, midpoint, rk4, dopri5, dpmpp_2m, dpmpp_2m_flow, dpmpp_2m_sde, dpmpp_3m_sde, uni_pc,
    /// deis, ipndm, euler_a or lcm; dopri5(1e-4) for another tolerance [default: euler]
    #[arg(long, value_name = "NAME")]
    solver: Option<Solver>,
    /// Most T5 tokens, 8 to 512 [default: those the model says it was trained with, else 256]
    #[arg(long, value_name = "TOKENS")]
    t5_length: Option<usize>,
    /// Pictures that are drawn at once; they do not depend on it
    // A small model on two cores: 48.5 s of processor time one by one, 45.0 s by 4, 48.7 s by 8, 48.0 s by 16.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1024))]
    batch: u64,
    /// Prompts, as `rectiflow dataset prompts` writes them
    #[arg(long, value_name = "DIR", default_value = "assets/evaluation")]
    prompts_from: PathBuf,
    /// The art of sprite scenes
    #[arg(long, value_name = "DIR", default_value = "assets/sprites")]
    art: PathBuf,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Between two steps that are shown.
const EVERY: Duration = Duration::from_secs(1);

pub(crate) fn run(args: EvaluateArgs) -> anyhow::Result<ExitCode> {
    check_folder(&args.out)?;
    let model = args.model.paths()?;
    let read = args.model.given().map(|(_, path)| (path, "which is part of the model"));
    let others = [(&args.prompts_from, "the prompts"), (&args.art, "the art")];
    let read = read.chain(others.iter().map(|(path, what)| (path.as_path(), *what)));
    for (path, what) in read.chain(args.detector.as_deref().map(|path| (path, "the detector"))) {
        check_outside(&args.out, path, what)?;
    }
    let request = Request {
        model,
        device: args.compute.device,
        precision: args.compute.precision,
        out: args.out,
        resume: args.resume,
        parts: args.parts,
        drawing: Drawing {
            side_px: args.size,
            steps: args.steps,
            guidance: args.guidance,
            shift: args.shift,
            spacing: args.schedule,
            solver: args.solver,
            t5_length: args.t5_length,
        },
        prompts_max: args.prompts as usize,
        seeds: args.seeds as usize,
        scenes_max: args.scenes as usize,
        batch: args.batch as usize,
        detector: args.detector,
        prompts: args.prompts_from,
        art: args.art,
    };
    let out = request.out.clone();

    let mut hall = Hall {
        progress: Progress::new(),
        interrupt: Interrupt::catch("; the pictures that were drawn are stored")?,
        shown: None,
    };
    hall.progress.phase("open and check");
    let evaluation = Evaluation::open(request, &mut hall)?;
    for (part, why) in evaluation.left_out() {
        hall.progress.say(&format!("without {}: {why}", part.name()));
    }
    let names: Vec<&str> = evaluation.parts().iter().map(|part| part.name()).collect();
    match names.is_empty() {
        true => hall.progress.say("nothing is left to measure"),
        false => hall.progress.say(&format!("measures {}", names.join(", "))),
    }
    match evaluation.run(&mut hall) {
        Ok(results) => {
            let Hall { progress, .. } = hall;
            progress.finish();
            results.lines().iter().for_each(|line| output::data(line));
            output::data(&out.join("report.html").display().to_string());
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if error.is_stop() => {
            hall.progress.end_phase();
            output::note("interrupted: every picture that was drawn is stored, nothing is half written");
            output::note("hint: the same command with `--resume` goes on from there");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => {
            hall.progress.end_phase();
            Err(error.into())
        }
    }
}

/// Shows an evaluation to a person, and lets it be interrupted.
struct Hall {
    progress: Progress,
    interrupt: Interrupt,
    /// When a step was shown last.
    shown: Option<Instant>,
}

impl Watch for Hall {
    fn phase(&mut self, name: &str) {
        self.progress.phase(name);
    }

    /// Some steps take milliseconds, and a log has a line for each that is shown.
    fn step(&mut self, done: usize, of: usize) {
        if done == of || self.shown.is_none_or(|shown| shown.elapsed() > EVERY) {
            self.progress.step(done, of);
            self.shown = Some(Instant::now());
        }
    }

    fn say(&mut self, line: &str) {
        self.progress.say(line);
    }

    fn wish(&self) -> ControlFlow<()> {
        if self.interrupt.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn write(&mut self, write: &mut dyn FnMut() -> Result<(), EvaluateError>) -> Result<(), EvaluateError> {
        let _turn = self.interrupt.writing();
        write()
    }
}
