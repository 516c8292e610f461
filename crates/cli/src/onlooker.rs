//! Sees pictures being drawn, for whoever sits at the terminal. What becomes of a picture is its taker's business.

use std::ops::ControlFlow;

use rectiflow_generate::{Encoder, ImageError, Picture, Watch};
use rectiflow_nn::Tensor;

use crate::generate::{Previewer, say};
use crate::interrupt::Interrupt;
use crate::memory;
use crate::progress::Progress;

/// Shows how a run goes, and ends it where that is asked for.
pub(crate) struct Onlooker<T> {
    pub(crate) progress: Progress,
    pub(crate) interrupt: Interrupt,
    pub(crate) preview: Option<Previewer>,
    pub(crate) taker: T,
}

/// Takes pictures.
pub(crate) trait Take {
    /// # Errors
    /// It could not be stored.
    fn take(&mut self, picture: Picture, interrupt: &Interrupt) -> Result<(), ImageError>;
}

/// Keeps the last one.
impl Take for Option<Picture> {
    fn take(&mut self, picture: Picture, _interrupt: &Interrupt) -> Result<(), ImageError> {
        *self = Some(picture);
        Ok(())
    }
}

impl<T: Take> Watch for Onlooker<T> {
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

    fn reused(&mut self, reused: usize, asked: usize) {
        self.progress.say(&format!("cache: {reused} of {asked} askings left out the blocks after the first"));
    }

    fn memory_available(&self) -> Option<u64> {
        memory::available()
    }

    fn picture(&mut self, picture: Picture) -> Result<(), ImageError> {
        self.taker.take(picture, &self.interrupt)
    }
}
