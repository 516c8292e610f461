use std::ops::ControlFlow;

use rectiflow_generate::{Encoder, ImageError, Picture};

use crate::EvaluateError;

/// Sees an evaluation happen.
pub trait Watch {
    /// A phase begins: `draw pictures`, `tasks` and so on.
    fn phase(&mut self, name: &str);

    /// So many of the phase's steps are done.
    fn step(&mut self, done: usize, of: usize);

    /// A line that a person should see.
    fn say(&mut self, line: &str);

    /// Asked between steps and within long ones: `Break` ends the evaluation, what is stored stays.
    fn wish(&self) -> ControlFlow<()>;

    /// Has a file written. A program that may be ended at any time does not let that happen inside of `write`.
    ///
    /// # Errors
    /// Those of `write`.
    fn write(&mut self, write: &mut dyn FnMut() -> Result<(), EvaluateError>) -> Result<(), EvaluateError> {
        write()
    }
}

/// Watches nothing and stops nothing.
pub struct Unwatched;

impl Watch for Unwatched {
    fn phase(&mut self, _name: &str) {}

    fn step(&mut self, _done: usize, _of: usize) {}

    fn say(&mut self, _line: &str) {}

    fn wish(&self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Goes on if that is wished.
pub(crate) fn go_on(watch: &dyn Watch) -> Result<(), EvaluateError> {
    if watch.wish().is_break() { Err(EvaluateError::Stopped) } else { Ok(()) }
}

/// One drawing in the eyes of who watches the evaluation: it can be stopped at every step, and shows nothing of its own
/// but what an encoder did not see.
pub(crate) struct OneDrawing<'a>(pub(crate) &'a mut dyn Watch);

impl rectiflow_generate::Watch for OneDrawing<'_> {
    fn phase(&mut self, _name: &str) -> ControlFlow<()> {
        self.0.wish()
    }

    fn step(&mut self, _done: usize, _of: usize) -> ControlFlow<()> {
        self.0.wish()
    }

    fn cut(&mut self, encoder: Encoder, tokens: usize, words: &str) {
        self.0
            .say(&format!("warning: {encoder} does not see the last {tokens} tokens of a prompt: {:?}", words.trim()));
    }

    fn picture(&mut self, _picture: Picture) -> Result<(), ImageError> {
        Ok(())
    }
}
