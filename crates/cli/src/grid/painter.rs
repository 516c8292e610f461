//! Watches the cells of a grid being drawn, one after the other.

use std::time::{Duration, Instant};

use rectiflow_generate::{GenerateError, Image, Picture, Settings};

use crate::interrupt::Interrupt;
use crate::onlooker::Onlooker;
use crate::progress::Progress;

pub(super) struct Painter {
    /// Keeps the cell that was drawn.
    pub(super) seen: Onlooker<Option<Picture>>,
    /// How many there will be.
    pub(super) cells: usize,
    finished: usize,
    /// How long the finished ones took.
    took: Duration,
    started: Instant,
}

impl Painter {
    pub(super) fn new(progress: Progress, interrupt: Interrupt, cells: usize) -> Painter {
        let (finished, took, started) = (0, Duration::ZERO, Instant::now());
        let seen = Onlooker { progress, interrupt, preview: None, taker: None };
        Painter { seen, cells, finished, took, started }
    }

    pub(super) fn finished(&self) -> usize {
        self.finished
    }

    /// A cell begins. What is left is reckoned from those that are finished, whatever their settings were.
    pub(super) fn start(&mut self, label: &str) {
        let left = match self.finished {
            0 => String::new(),
            done => {
                let each = self.took.as_secs_f64() / done as f64;
                format!(", {:.0} s left", each * (self.cells - done) as f64)
            }
        };
        self.seen.progress.say(&format!("cell {} of {}: {label}{left}", self.finished + 1, self.cells));
        self.started = Instant::now();
    }

    /// The cell that was drawn.
    ///
    /// # Errors
    /// There is none: the run was stopped.
    pub(super) fn take(&mut self) -> Result<(Image, Settings), GenerateError> {
        let Picture { image, settings, .. } = self.seen.taker.take().ok_or(GenerateError::Stopped)?;
        self.finished += 1;
        self.took += self.started.elapsed();
        Ok((image, settings))
    }
}
