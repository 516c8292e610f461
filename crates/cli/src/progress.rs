//! How a run is shown: a bar with rate and time left on a terminal, plain lines elsewhere; at the end a table of
//! what each phase took.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::memory::{Memory, Watcher, human};
use crate::output;

/// A phase that is over.
struct Phase {
    name: String,
    took: Duration,
    memory: Option<Memory>,
}

pub(crate) struct Progress {
    done: Vec<Phase>,
    current: Option<(String, Instant)>,
    bar: Option<ProgressBar>,
    on_terminal: bool,
    memory: Watcher,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Progress {
            done: Vec::new(),
            current: None,
            bar: None,
            on_terminal: std::io::stderr().is_terminal(),
            memory: Watcher::start(),
        }
    }

    /// Ends the phase before and starts `name`.
    pub(crate) fn phase(&mut self, name: &str) {
        self.end_phase();
        self.memory.reset();
        if self.on_terminal {
            let spinner = ProgressBar::new_spinner().with_style(style("{spinner} {msg} {elapsed}"));
            spinner.set_message(name.to_string());
            spinner.enable_steady_tick(Duration::from_millis(120));
            self.bar = Some(spinner);
        }
        self.current = Some((name.to_string(), Instant::now()));
    }

    /// One of `total` steps of the phase is done.
    pub(crate) fn step(&mut self, done: usize, total: usize) {
        let Some((name, started)) = &self.current else { return };
        if !self.on_terminal {
            let each = started.elapsed().as_secs_f64() / done as f64;
            let left = each * (total - done) as f64;
            output::note(&format!("{name}: step {done}/{total}, {each:.2} s a step, {left:.0} s left"));
            return;
        }
        let needs_bar = self.bar.as_ref().is_none_or(|bar| bar.length() != Some(total as u64));
        if needs_bar {
            if let Some(spinner) = self.bar.take() {
                spinner.finish_and_clear();
            }
            let target = ProgressDrawTarget::stderr();
            let bar = ProgressBar::with_draw_target(Some(total as u64), target).with_elapsed(started.elapsed());
            bar.set_style(style("{msg} {wide_bar} {pos}/{len}, {per_sec}, {eta} left"));
            bar.set_message(name.clone());
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
        }
    }

    /// A line that stays, above the bar.
    pub(crate) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(line)),
            None => output::note(line),
        }
    }

    /// What `show` writes to the terminal, above the bar.
    pub(crate) fn show(&self, show: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(show),
            None => show(),
        }
    }

    /// Ends the last phase and prints the table.
    pub(crate) fn finish(mut self) {
        self.end_phase();
        output::note(&format!("{:<22} {:>9}  {:>11}  {:>9}", "phase", "time", "peak memory", "own"));
        for phase in &self.done {
            let [total, own] = match phase.memory {
                Some(memory) => [human(memory.total), human(memory.own)],
                None => ["unknown".into(), "unknown".into()],
            };
            output::note(&format!("{:<22} {:>7.2} s  {total:>11}  {own:>9}", phase.name, phase.took.as_secs_f64()));
        }
        let total: Duration = self.done.iter().map(|phase| phase.took).sum();
        output::note(&format!("{:<22} {:>7.2} s", "all", total.as_secs_f64()));
    }

    /// A phase that comes again, for the next picture, is one line of the table.
    fn add(&mut self, phase: Phase) {
        let Some(before) = self.done.iter_mut().find(|before| before.name == phase.name) else {
            return self.done.push(phase);
        };
        before.took += phase.took;
        if let (Some(before), Some(now)) = (&mut before.memory, phase.memory) {
            before.total = before.total.max(now.total);
            before.own = before.own.max(now.own);
        }
    }

    /// Takes the bar away, so that an error stands alone.
    pub(crate) fn end_phase(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if let Some((name, started)) = self.current.take() {
            self.add(Phase { name, took: started.elapsed(), memory: self.memory.read() });
        }
    }
}

pub(crate) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant")
}
