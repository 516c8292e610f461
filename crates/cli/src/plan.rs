//! `rectiflow plan`

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use rectiflow_generate::{Encoder, ImageError, Picture, PlanError, Rehearsal, Watch, rehearse};
use rectiflow_nn::DeviceChoice;
use serde::Serialize;

use crate::generate::{Carried, Drawn, Free, GenerateArgs, afford, load, open, prompts, resolve, say};
use crate::interrupt::Interrupt;
use crate::memory::{self, human};
use crate::output;
use crate::progress::Progress;

/// Say how long a drawing would take on this machine and how much memory, phase by phase
///
/// Takes the options of `generate` and draws nothing. Memory is computed from the model's sizes; time is found by doing a
/// small part of each phase here. Pages of the model's files are not counted: the system takes them back.
///
/// rectiflow plan --model sd3.5_large.safetensors --precision bf16 -W 1024 -H 1024
#[derive(clap::Args)]
#[command(
    mut_arg("out", |arg| arg.hide(true)),
    mut_arg("latents_out", |arg| arg.hide(true)),
    mut_arg("preview", |arg| arg.hide(true)),
    mut_arg("preview_every", |arg| arg.hide(true))
)]
pub(crate) struct PlanArgs {
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(crate) draw: GenerateArgs,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    phases: Vec<Phase>,
    seconds: f64,
    seconds_a_step: f64,
    /// None on devices that have memory of their own.
    memory_bytes: Option<u64>,
    memory_free_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Phase {
    name: String,
    seconds: f64,
    memory_bytes: Option<u64>,
}

pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<ExitCode> {
    let draw = &args.draw;
    let mut given = draw.prompts()?;
    if given.is_empty() {
        given.push(String::new());
    }
    let seed = draw.seed.number();
    if given.len().checked_mul(draw.count).is_none() {
        bail!(PlanError::TooMany { count: draw.count });
    }
    let paths = draw.model.paths()?;
    let device = draw.compute.device.open()?;
    let mut progress = Progress::new();
    progress.phase("open and check");
    let started = Instant::now();
    let files = open(&paths, draw.guidance.autoguidance.as_deref())?;
    let facts = files.facts();
    let (prompts, count) = prompts::chosen(given, draw.count, seed, draw.wildcards.as_deref())?;
    let (plan, _) = resolve(draw, Drawn { prompts, count, seed }, &facts, &device)?;
    afford::check(&files, &plan, draw.into(), Free::of(draw))?;
    let parts = load(&files, draw)?;
    let opening = started.elapsed();
    let interrupt = Interrupt::catch("; nothing is stored")?;
    if let Some(line) = &draw.preset_line {
        progress.say(line);
    }
    say::plan(&progress, &parts, &plan, &say::Known { side_px: facts.side_px, words: None }, false);
    if plan.solver.is_adaptive() {
        progress.say("note: an adaptive solver chooses its steps, and may take longer than this says");
    }
    if plan.reuse.is_some() {
        progress.say("note: steps that the cache leaves out are not known before, and are counted in full");
    }

    let free = memory::available();
    let mut seen = Rehearsed { progress, interrupt };
    let rehearsal = match rehearse(parts, &plan, &mut seen) {
        Err(error) if error.is_stop() => {
            seen.progress.end_phase();
            return Ok(output::interrupted("nothing is stored"));
        }
        done => done?,
    };
    seen.progress.end_phase();
    let needs = (draw.compute.device == DeviceChoice::Cpu).then(|| files.needs(&plan, Carried::from(draw).means(free)));
    let report = report(opening, &rehearsal, needs.map(|needs| [needs.encode, needs.denoise, needs.decode]), free);
    if args.json {
        output::data(&serde_json::to_string(&report)?);
    } else {
        print(&report, plan.schedule.len());
    }
    Ok(ExitCode::SUCCESS)
}

fn report(opening: Duration, rehearsal: &Rehearsal, needs: Option<[u64; 3]>, free: Option<u64>) -> Report {
    let phase = |name: &str, took: Duration, needs: Option<u64>| Phase {
        name: name.to_owned(),
        seconds: took.as_secs_f64(),
        memory_bytes: needs,
    };
    let of = |index: usize| needs.map(|needs| needs[index]);
    let mut phases = vec![phase("open and check", opening, of(0))];
    phases.extend(rehearsal.encode.iter().map(|(name, took)| phase(name, *took, of(0))));
    phases.push(phase("denoise", rehearsal.denoise, of(1)));
    phases.push(phase(rehearsal.decoding, rehearsal.decode, of(2)));
    Report {
        seconds: phases.iter().map(|phase| phase.seconds).sum(),
        seconds_a_step: rehearsal.step.as_secs_f64(),
        memory_bytes: phases.iter().filter_map(|phase| phase.memory_bytes).max(),
        memory_free_bytes: free,
        phases,
    }
}

fn print(report: &Report, steps: usize) {
    let memory = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), human);
    output::data(&format!("{:<28} {:>10}  {:>9}", "phase", "time", "memory"));
    for Phase { name, seconds, memory_bytes } in &report.phases {
        let each = if name == "denoise" {
            format!("  {steps} steps of {:.2} s", report.seconds_a_step)
        } else {
            String::new()
        };
        output::data(&format!("{name:<28} {seconds:>8.2} s  {:>9}{each}", memory(*memory_bytes)));
    }
    let free = report.memory_bytes.and(report.memory_free_bytes);
    let free = free.map_or_else(String::new, |free| format!(" of {} that are free", human(free)));
    output::data(&format!("{:<28} {:>8.2} s  {:>9}{free}", "all", report.seconds, memory(report.memory_bytes)));
}

/// Shows what is being measured.
struct Rehearsed {
    progress: Progress,
    interrupt: Interrupt,
}

impl Watch for Rehearsed {
    fn phase(&mut self, name: &str) -> ControlFlow<()> {
        self.progress.phase(&format!("measure: {name}"));
        self.interrupt.wish()
    }

    fn step(&mut self, _done: usize, _of: usize) -> ControlFlow<()> {
        self.interrupt.wish()
    }

    fn cut(&mut self, encoder: Encoder, tokens: usize, words: &str) {
        self.progress.say(&say::cut(encoder, tokens, words));
    }

    fn memory_available(&self) -> Option<u64> {
        memory::available()
    }

    fn picture(&mut self, _picture: Picture) -> Result<(), ImageError> {
        Ok(())
    }
}
