//! What happened in a run, a JSON object a line: `journal.jsonl`.
//!
//! What this module does not do: decide what is worth a line, or read the clock.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rectiflow_weights::{IfThere, write_whole};
use serde::{Deserialize, Deserializer, Serialize};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A process began, at the first step of the run or later.
    Started {
        /// Steps that were taken before.
        step: u64,
        /// Of how many.
        steps: u64,
        /// Seconds since 1970.
        time: f64,
    },
    /// Steps were taken.
    Step {
        /// How many so far.
        step: u64,
        /// Means over the steps since the last such line: `loss`, `gradient_norm`, `learning_rate`, `loss/sigma_0.25` ...
        #[serde(deserialize_with = "numbers")]
        values: BTreeMap<String, f64>,
        /// What one of them took.
        seconds: f64,
    },
    /// The validation data was looked at.
    Validation {
        /// Steps that were taken.
        step: u64,
        /// `loss` is what the best checkpoint is chosen by.
        #[serde(deserialize_with = "numbers")]
        values: BTreeMap<String, f64>,
    },
    /// Pictures were drawn.
    Samples {
        /// Steps that were taken.
        step: u64,
        /// Relative to the run's folder.
        file: PathBuf,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// Steps that were taken.
        step: u64,
        /// Relative to the run's folder.
        folder: PathBuf,
    },
    /// Something that the one who trains should know.
    Note {
        /// Steps that were taken.
        step: u64,
        /// What.
        text: String,
    },
    /// The last step was taken.
    Finished {
        /// How many.
        step: u64,
        /// Seconds since 1970.
        time: f64,
    },
}

/// JSON has no NaN and no infinity: such a number is written as `null`.
fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let numbers = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
    Ok(numbers.into_iter().map(|(name, number)| (name, number.unwrap_or(f64::NAN))).collect())
}

impl Event {
    /// Steps that were taken when it happened.
    pub fn step(&self) -> u64 {
        match self {
            Event::Started { step, .. }
            | Event::Step { step, .. }
            | Event::Validation { step, .. }
            | Event::Samples { step, .. }
            | Event::Checkpoint { step, .. }
            | Event::Note { step, .. }
            | Event::Finished { step, .. } => *step,
        }
    }
}

/// The journal of a run, open for more.
pub struct Journal {
    file: File,
}

impl Journal {
    /// Opens it for a run that goes on after `step`. What an earlier process did after that step will be done again,
    /// so its lines go, and half of a line too.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path, step: u64) -> io::Result<Journal> {
        if path.exists() {
            let text = fs::read(path)?;
            // As they stand: a number that is read and written again may end in another digit.
            let mut kept = lines(&text).filter(|(_, event)| event.step() <= step).map(|(line, _)| line);
            write_whole(path, IfThere::Replace, |out| {
                kept.try_for_each(|line| out.write_all(&[line, b"\n"].concat()))
            })?;
        }
        Ok(Journal { file: OpenOptions::new().create(true).append(true).open(path)? })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// The disk is full, or gone. No part of the line stays.
    pub fn record(&mut self, event: &Event) -> io::Result<()> {
        let bytes = self.file.metadata()?.len();
        write_line(&mut self.file, event).inspect_err(|_| {
            let _ = self.file.set_len(bytes);
        })
    }

    /// Its lines are on the disk: a checkpoint that comes after them must not outlive them.
    ///
    /// # Errors
    /// The disk is full, or gone.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn write_line(out: &mut dyn Write, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    out.write_all(&line)
}

/// All events of a journal. Half of a last line, which a killed process leaves, is no event.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<Event>> {
    let text = fs::read(path)?;
    Ok(lines(&text).map(|(_, event)| event).collect())
}

fn lines(text: &[u8]) -> impl Iterator<Item = (&[u8], Event)> {
    text.split(|byte| *byte == b'\n').filter_map(|line| Some((line, serde_json::from_slice(line).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> Event {
        Event::Step { step, values: [("loss".to_owned(), 0.5)].into(), seconds: 0.1 }
    }

    #[test]
    fn a_value_that_is_not_finite_costs_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let values = [("loss".to_owned(), 0.5), ("loss/sigma_1.000".to_owned(), f64::INFINITY)].into();
        Journal::open(&path, 0).unwrap().record(&Event::Validation { step: 1, values }).unwrap();
        let Event::Validation { values, .. } = &read(&path).unwrap()[0] else { panic!("another event") };
        assert!(values["loss"] == 0.5 && values["loss/sigma_1.000"].is_nan(), "{values:?}");
    }

    #[test]
    fn what_stays_of_a_journal_stays_to_the_last_digit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let values = |step: u64| (0..50).map(|n| (format!("{n}"), ((step * 50 + n) as f64).sqrt() / 7.0)).collect();
        let mut journal = Journal::open(&path, 0).unwrap();
        for step in 1..=20 {
            journal.record(&Event::Step { step, values: values(step), seconds: 0.1 }).unwrap();
        }
        let before = fs::read(&path).unwrap();
        Journal::open(&path, 20).unwrap();
        assert!(fs::read(&path).unwrap() == before);
    }

    #[test]
    fn a_run_that_goes_on_from_an_earlier_step_has_each_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, 0).unwrap();
        (1..=5).for_each(|number| journal.record(&step(number)).unwrap());
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"event\":\"st").unwrap();
        let mut journal = Journal::open(&path, 3).unwrap();
        journal.record(&step(4)).unwrap();
        assert_eq!(read(&path).unwrap(), [1, 2, 3, 4].map(step));
    }
}
