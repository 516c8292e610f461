//! Watches the cells of a grid being drawn, one after the other.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rectiflow_generate::{Encoder, GenerateError, Image, ImageError, Picture, Settings, Watch};
use rectiflow_nn::Tensor;

use crate::generate::{Previewer, say};
use crate::interrupt::Interrupt;
use crate::memory;
use crate::progress::Progress;

pub(super) struct Painter {
    pub(super) progress: Progress,
    pub(super) interrupt: Interrupt,
    pub(super) preview: Option<Previewer>,
    /// How many there will be.
    pub(super) cells: usize,
    finished: usize,
    /// How long the finished ones took.
    took: Duration,
    started: Instant,
    picture: Option<Picture>,
}

impl Painter {
    pub(super) fn new(progress: Progress, interrupt: Interrupt, cells: usize) -> Painter {
        let (finished, took, started) = (0, Duration::ZERO, Instant::now());
        Painter { progress, interrupt, preview: None, cells, finished, took, started, picture: None }
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
        self.progress.say(&format!("cell {} of {}: {label}{left}", self.finished + 1, self.cells));
        self.started = Instant::now();
    }

    /// The cell that was drawn.
    ///
    /// # Errors
    /// There is none: the run was stopped.
    pub(super) fn take(&mut self) -> Result<(Image, Settings), GenerateError> {
        let Picture { image, settings, .. } = self.picture.take().ok_or(GenerateError::Stopped)?;
        self.finished += 1;
        self.took += self.started.elapsed();
        Ok((image, settings))
    }
}

impl Watch for Painter {
    fn phase(&mut self, name: &str) -> ControlFlow<()> {
        self.progress.phase(name);
        self.interrupt.wish()
    }

    fn step(&mut self, done: usize, of: usize) -> ControlFlow<()> {
        self.progress.step(done, of);
        self.interrupt.wish()
    }

    fn denoised(&mut self, done: usize, of: usize, denoised: &dyn Fn() -> Tensor<4>) {
        if let Some(preview) = &mut self.preview {
            preview.show((done, of), denoised, &self.progress, &self.interrupt);
        }
    }

    fn cut(&mut self, encoder: Encoder, tokens: usize, words: &str) {
        self.progress.say(&say::cut(encoder, tokens, words));
    }

    fn memory_available(&self) -> Option<u64> {
        memory::available()
    }

    fn picture(&mut self, picture: Picture) -> Result<(), ImageError> {
        self.picture = Some(picture);
        Ok(())
    }
}
