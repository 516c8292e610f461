//! How a training is shown: a picture of it in the last lines of a terminal, plain lines elsewhere.
//!
//! ```text
//! event -> state -> view -> screen     on a terminal
//!                -> line               elsewhere
//! ```
//!
//! The terminal is left as it is: no other screen, no hidden cursor, no mode that would have to be undone. So whatever
//! ends the program, a panic or a second Ctrl-C too, the last picture stays and the next line stands below it.
//!
//! What this module does not do: read keys, catch signals, or know what is trained.

use std::io::{IsTerminal, Stderr};
use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;
use ratatui::crossterm::terminal;
use ratatui::layout::Rect;
use ratatui::widgets::Widget;
use rectiflow_train::journal::Event;

use crate::memory::Watcher;
use crate::output;

mod line;
mod screen;
mod state;
mod view;

use screen::Screen;
use state::State;

/// Lines of the picture.
const LINES: u16 = 14;
/// A terminal that is smaller, in columns and lines, gets plain lines.
const SMALLEST: [u16; 2] = [40, 10];
/// From one picture to the next, at least.
const PAUSE: Duration = Duration::from_millis(200);
/// From one picture to the next, at most, while steps are taken: memory and speed change too.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Shows a training.
pub(crate) struct Display {
    state: State,
    started: Instant,
    memory: Watcher,
    /// None: plain lines.
    screen: Option<Screen<Stderr>>,
    drawn: Option<Instant>,
    /// Something happened since.
    is_behind: bool,
}

impl Display {
    /// For a training with so many samples in a step.
    pub(crate) fn new(samples_a_step: u64) -> Self {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let is_large = terminal::size().is_ok_and(|(columns, rows)| columns >= SMALLEST[0] && rows >= SMALLEST[1]);
        let can_draw = std::io::stderr().is_terminal() && !is_dumb && is_large;
        Display {
            state: State::new(samples_a_step),
            started: Instant::now(),
            memory: Watcher::start(),
            screen: can_draw.then(|| Screen::new(std::io::stderr())),
            drawn: None,
            is_behind: false,
        }
    }

    /// What happened before this process, so that the curves begin where the run began. Says nothing.
    pub(crate) fn earlier(&mut self, events: &[Event]) {
        for event in events {
            self.state.event(event, Duration::ZERO);
        }
    }

    /// Something happened.
    pub(crate) fn event(&mut self, event: &Event) {
        self.read_memory();
        self.state.event(event, self.started.elapsed());
        match (&self.screen, event) {
            (None, _) => output::note(&line::of(event, &self.state)),
            (Some(_), Event::Note { step, text }) => self.above(&format!("step {step}: {text}")),
            (Some(_), _) => self.show(PAUSE),
        }
    }

    /// Called after each step: shows what came too soon after the last picture.
    pub(crate) fn tick(&mut self) {
        if self.screen.is_some() {
            self.read_memory();
            self.show(if self.is_behind { PAUSE } else { PAUSE_MAX });
        }
    }

    /// A line that stays.
    pub(crate) fn note(&mut self, text: &str) {
        match self.screen {
            None => output::note(text),
            Some(_) => {
                self.state.say(text);
                self.above(text);
            }
        }
    }

    /// The share of what the machine can do at most that the training reaches, where it is known.
    pub(crate) fn share_of_limit(&mut self, share: Option<f64>) {
        self.state.share = share;
    }

    /// Shows the last state, which stays.
    pub(crate) fn finish(mut self) {
        self.show(Duration::ZERO);
    }

    /// A line above the picture.
    fn above(&mut self, text: &str) {
        let Some(screen) = &mut self.screen else { return };
        let Ok((columns, _)) = terminal::size() else { return };
        // A terminal that is gone is noticed by whoever ends the program.
        let _ = screen.erase(columns);
        output::note(text);
        self.show(Duration::ZERO);
    }

    /// Draws, unless it has not been as long as `pause`.
    fn show(&mut self, pause: Duration) {
        let Some(screen) = &mut self.screen else { return };
        self.is_behind = true;
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < pause) {
            return;
        }
        let Ok((columns, rows)) = terminal::size() else { return };
        // The last column stays free: what a terminal does after a letter there differs. So does the last line, where
        // the cursor waits.
        let area = Rect::new(0, 0, columns.saturating_sub(1), LINES.min(rows.saturating_sub(1)));
        let mut buffer = Buffer::empty(area);
        view::View(&self.state).render(area, &mut buffer);
        let _ = screen.draw(&buffer, columns);
        (self.drawn, self.is_behind) = (Some(Instant::now()), false);
    }

    fn read_memory(&mut self) {
        self.state.memory = self.memory.read().map(|memory| memory.own);
    }
}

/// Three digits that count: `0.512`, `31.2`, `1234`, `1e-4`.
fn figure(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    match value.abs().log10().floor() as i32 {
        magnitude @ -2..7 => format!("{value:.*}", (2 - magnitude).max(0) as usize),
        _ => format!("{value:.1e}").replace(".0e", "e"),
    }
}

/// `4 h 12 min`, `3 min 20 s`, `45 s`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests;
