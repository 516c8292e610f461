//! Training.

#[expect(dead_code, reason = "the command that shows a training comes with it")]
mod display;
