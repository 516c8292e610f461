//! What is known of a training.

use std::collections::VecDeque;
use std::time::Duration;

use rectiflow_train::journal::Event;

/// Lines of the journal that the time left is told from: it follows a machine that becomes slower.
const PACE_LEN_MAX: usize = 64;

/// What is known of a training.
#[derive(Default)]
pub(super) struct State {
    samples_a_step: u64,
    /// Steps that were taken, and of how many.
    pub(super) step: u64,
    pub(super) steps: u64,
    /// Steps and losses.
    pub(super) losses: Vec<(f64, f64)>,
    pub(super) validation: Vec<(f64, f64)>,
    /// Noise levels and the last loss at each, the least noise first.
    pub(super) bands: Vec<(String, f64)>,
    pub(super) learning_rate: Option<f64>,
    pub(super) gradient_norm: Option<f64>,
    /// Of a step.
    pub(super) seconds: Option<f64>,
    /// In bytes.
    pub(super) memory: Option<u64>,
    /// Of what the machine can do at most.
    pub(super) share: Option<f64>,
    /// What was said last.
    pub(super) said: String,
    /// Steps, and when they had been taken.
    pace: VecDeque<(u64, Duration)>,
}

impl State {
    pub(super) fn new(samples_a_step: u64) -> Self {
        State { samples_a_step, ..State::default() }
    }

    /// Something happened, `now` after the process began.
    pub(super) fn event(&mut self, event: &Event, now: Duration) {
        let step = event.step();
        if step < self.step {
            // The run went back.
            self.pace.clear();
            for points in [&mut self.losses, &mut self.validation] {
                points.retain(|(at, _)| *at <= step as f64);
            }
        }
        self.step = step;
        match event {
            Event::Started { steps, .. } => {
                self.steps = *steps;
                self.pace = [(step, now)].into();
            }
            Event::Step { values, seconds, .. } => {
                let value = |name: &str| values.get(name).copied().filter(|value| value.is_finite());
                self.losses.extend(value("loss").map(|loss| (step as f64, loss)));
                (self.learning_rate, self.gradient_norm) = (value("learning_rate"), value("gradient_norm"));
                self.seconds = Some(*seconds);
                for (name, loss) in values.iter().filter(|(_, loss)| loss.is_finite()) {
                    if let Some(band) = name.strip_prefix("loss/sigma_") {
                        self.band(band, *loss);
                    }
                }
                self.pace.push_back((step, now));
                if self.pace.len() > PACE_LEN_MAX {
                    self.pace.pop_front();
                }
            }
            Event::Validation { values, .. } => {
                let loss = values.get("loss").filter(|loss| loss.is_finite());
                self.validation.extend(loss.map(|loss| (step as f64, *loss)));
            }
            Event::Samples { file, .. } => self.say(&format!("samples {}", file.display())),
            Event::Checkpoint { folder, .. } => self.say(&format!("checkpoint {}", folder.display())),
            Event::Note { text, .. } => self.say(text),
            Event::Finished { .. } => self.say("finished"),
        }
    }

    /// Remembers what was said last.
    pub(super) fn say(&mut self, text: &str) {
        self.said = format!("step {}: {text}", self.step);
    }

    fn band(&mut self, band: &str, loss: f64) {
        match self.bands.iter_mut().find(|(name, _)| name == band) {
            Some((_, before)) => *before = loss,
            None => {
                let number = |band: &str| band.parse::<f64>().unwrap_or(f64::INFINITY);
                let at = self.bands.partition_point(|(name, _)| number(name) < number(band));
                self.bands.insert(at, (band.to_owned(), loss));
            }
        }
    }

    pub(super) fn samples_a_second(&self) -> Option<f64> {
        self.seconds.filter(|seconds| *seconds > 0.0).map(|seconds| self.samples_a_step as f64 / seconds)
    }

    /// With validations, samples and checkpoints as often as lately.
    pub(super) fn seconds_left(&self) -> Option<f64> {
        let ((from, begun), (to, ended)) = (self.pace.front()?, self.pace.back()?);
        let left = self.steps.saturating_sub(*to) as f64;
        (to > from).then(|| ended.saturating_sub(*begun).as_secs_f64() / (to - from) as f64 * left)
    }

    /// Step and loss.
    pub(super) fn least_validation(&self) -> Option<(f64, f64)> {
        self.validation.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1))
    }
}
