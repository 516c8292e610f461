//! What a journal says, ordered for a report: values over steps, sheets, notes, and how the run stands.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::chart::{Look, Series};
use crate::journal::Event;

/// Names of the values of one noise level begin so.
const LEVEL: &str = "loss/sigma_";

/// Values of one kind of event, by name.
#[derive(Debug, Default)]
pub(super) struct Values {
    lines: Vec<(u64, BTreeMap<String, f64>)>,
}

/// A run so far.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Means over some steps each, `seconds_a_step` too.
    pub(super) training: Values,
    pub(super) validation: Values,
    /// Steps and files.
    pub(super) sheets: Vec<(u64, PathBuf)>,
    /// Steps and texts.
    pub(super) notes: Vec<(u64, String)>,
    /// Steps that were taken, and of how many.
    pub(super) step: u64,
    pub(super) steps: u64,
    pub(super) is_finished: bool,
    /// Times that the run was gone on with.
    pub(super) restarts: usize,
    /// What all steps took together.
    pub(super) seconds: f64,
}

impl History {
    pub(super) fn of(events: Vec<Event>) -> History {
        let mut history = History::default();
        let mut step_before = 0;
        for event in events {
            history.step = history.step.max(event.step());
            match event {
                Event::Started { step, steps, .. } => {
                    history.restarts += usize::from(step > 0);
                    (history.steps, history.is_finished) = (steps, false);
                }
                Event::Step { step, mut values, seconds } => {
                    history.seconds += seconds * step.saturating_sub(step_before) as f64;
                    step_before = step;
                    values.insert("seconds_a_step".to_owned(), seconds);
                    history.training.lines.push((step, values));
                }
                Event::Validation { step, values } => history.validation.lines.push((step, values)),
                Event::Samples { step, file } => history.sheets.push((step, file)),
                Event::Note { step, text } => history.notes.push((step, text)),
                Event::Checkpoint { .. } => {}
                Event::Finished { .. } => history.is_finished = true,
            }
        }
        history
    }
}

impl Values {
    /// One of them; a line without it, or in which it is not finite, is a gap.
    pub(super) fn series(&self, key: &str, name: &str, colour: usize, look: Look) -> Series {
        let value = |values: &BTreeMap<String, f64>| values.get(key).copied().filter(|value| value.is_finite());
        let points = self.lines.iter().map(|(step, values)| (*step, value(values))).collect();
        Series { name: name.to_owned(), colour, look, points }
    }

    /// Those of single noise levels, the least noise first.
    pub(super) fn levels(&self, look: Look) -> Vec<Series> {
        let keys: BTreeSet<&str> =
            self.lines.iter().flat_map(|(_, values)| values.keys().map(String::as_str)).collect();
        let mut levels: Vec<(&str, &str)> =
            keys.into_iter().filter_map(|key| Some((key, key.strip_prefix(LEVEL)?))).collect();
        let number = |level: &str| level.parse::<f64>().unwrap_or(f64::INFINITY);
        levels.sort_by(|(_, a), (_, b)| number(a).total_cmp(&number(b)));
        let series = |(colour, (key, level)): (usize, (&str, &str))| {
            // The first colour is that of all levels together.
            self.series(key, &format!("sigma {level}"), colour + 1, look)
        };
        levels.into_iter().enumerate().map(series).collect()
    }

    /// The last line.
    pub(super) fn last(&self) -> Option<&(u64, BTreeMap<String, f64>)> {
        self.lines.last()
    }

    /// The line with the least finite `loss`.
    pub(super) fn best(&self) -> Option<(u64, f64)> {
        let losses = self.lines.iter().filter_map(|(step, values)| Some((*step, *values.get("loss")?)));
        losses.filter(|(_, loss)| loss.is_finite()).min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// The mean of each value and its neighbours, a hundredth of the line to either side, so that it does not lag behind. At
/// the beginning, where a loss falls, as many on both sides. A gap stays one.
pub(super) fn smoothed(raw: &Series, name: &str) -> Series {
    let points = &raw.points;
    // Sums and counts of the values before each point.
    let mut before = vec![(0.0, 0_u64)];
    for (_, value) in points {
        let (sum, count) = before.last().copied().unwrap_or_default();
        before.push((sum + value.unwrap_or_default(), count + u64::from(value.is_some())));
    }
    let mean = |index: usize| {
        let side = (points.len() / 100).min(index);
        let [from, to] = [before[index - side], before[(index + side + 1).min(points.len())]];
        points[index].1.map(|value| if side == 0 { value } else { (to.0 - from.0) / (to.1 - from.1) as f64 })
    };
    let points = (0..points.len()).map(|index| (points[index].0, mean(index))).collect();
    Series { name: name.to_owned(), colour: raw.colour, look: Look::Line, points }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64, values: &[(&str, f64)]) -> Event {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Event::Step { step, values, seconds: 2.0 }
    }

    #[test]
    fn noise_levels_are_ordered_as_numbers() {
        let values = [("loss/sigma_0.5", 1.0), ("loss/sigma_0.25", 2.0), ("loss/sigma_1e-3", 3.0), ("loss", 4.0)];
        let history = History::of(vec![step(1, &values)]);
        let names: Vec<String> = history.training.levels(Look::Line).into_iter().map(|series| series.name).collect();
        assert_eq!(names, ["sigma 1e-3", "sigma 0.25", "sigma 0.5"]);
    }

    #[test]
    fn a_value_that_is_missing_or_not_finite_is_a_gap() {
        let lines =
            vec![step(1, &[("loss", 1.0)]), step(2, &[]), step(3, &[("loss", f64::NAN)]), step(4, &[("loss", 2.0)])];
        let series = History::of(lines).training.series("loss", "loss", 0, Look::Line);
        assert_eq!(series.points, [(1, Some(1.0)), (2, None), (3, None), (4, Some(2.0))]);
        // Few values are as they are.
        assert_eq!(smoothed(&series, "mean").points, series.points);
    }

    #[test]
    fn a_mean_does_not_lag_behind() {
        let slope = |step: u64| 5.0 - 0.001 * step as f64;
        let points = (0..1000).map(|step| (step, Some(slope(step) + if step % 2 == 0 { 1.0 } else { -1.0 }))).collect();
        let raw = Series { name: String::new(), colour: 0, look: Look::Faint, points };
        let smooth = smoothed(&raw, "mean").points;
        assert_eq!(smooth[0].1, Some(6.0));
        assert!((smooth[999].1.unwrap() - slope(999)).abs() < 0.1);
        assert!(smooth[10..990].iter().all(|(step, value)| (value.unwrap() - slope(*step)).abs() < 0.05));
    }

    #[test]
    fn a_run_that_is_gone_on_with_is_not_finished_and_counts_each_step_once() {
        let started = |step| Event::Started { step, steps: 20, time: 0.0 };
        let mut events = vec![started(0), step(10, &[]), Event::Finished { step: 10, time: 0.0 }];
        assert!(History::of(events.clone()).is_finished);
        events.extend([started(10), step(15, &[])]);
        let history = History::of(events);
        assert_eq!((history.is_finished, history.step, history.steps, history.restarts), (false, 15, 20, 1));
        assert_eq!(history.seconds, 30.0);
    }
}
