//! A line for each event, where there is no terminal to draw on.

use rectiflow_train::journal::Event;

use super::state::State;
use super::{duration, figure};
use crate::memory::human;

/// What happened, and how the training stands after it.
pub(super) fn of(event: &Event, state: &State) -> String {
    let mut parts = vec![format!("step {}/{}", event.step(), state.steps)];
    match event {
        Event::Started { .. } => parts.push("started".to_owned()),
        Event::Step { .. } => steps(&mut parts, state),
        Event::Validation { values, .. } => {
            parts.extend(values.get("loss").map(|loss| format!("validation {}", figure(*loss))));
        }
        Event::Samples { file, .. } => parts.push(format!("samples {}", file.display())),
        Event::Checkpoint { folder, .. } => parts.push(format!("checkpoint {}", folder.display())),
        Event::Note { text, .. } => parts.push(text.clone()),
        Event::Finished { .. } => parts.push("finished".to_owned()),
    }
    parts.join("  ")
}

fn steps(parts: &mut Vec<String>, state: &State) {
    let last = |points: &[(f64, f64)]| points.last().map(|(_, loss)| figure(*loss));
    parts.extend(last(&state.losses).map(|loss| format!("loss {loss}")));
    parts.extend(last(&state.validation).map(|loss| format!("validation {loss}")));
    parts.extend(state.samples_a_second().map(|rate| format!("{} samples/s", figure(rate))));
    parts.extend(state.seconds_left().map(|left| format!("{} left", duration(left))));
    parts.extend(state.memory.map(|bytes| format!("memory {}", human(bytes))));
}
