//! Event files that TensorBoard reads: scalars, sheets of samples, and texts.
//!
//! Source: `tensorflow/core/util/event.proto`, `framework/summary.proto`, and the framing of `lib/io/record_writer.h`:
//! `length u64, masked CRC-32C of the length, data, masked CRC-32C of the data`, all little endian.
//!
//! ```text
//! step 1 .. 200 (killed)  -> events.out.tfevents.1700000000.rectiflow
//! goes on at 100          -> events.out.tfevents.1700003600.rectiflow, whose first records take back 101 .. 200
//! ```
//!
//! What this module does not do: read such files, or draw. A file is never changed after its process ended; the journal
//! is what a run is told by.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::journal::Event;

mod message;
mod record;

use message::Message;

/// What the names of all such files begin with; TensorBoard looks for it.
const PREFIX: &str = "events.out.tfevents.";

/// An event file, open for more.
pub struct TensorBoard {
    file: File,
    /// Of the last event.
    step: u64,
}

impl TensorBoard {
    /// Begins a file in `folder`, which is there, for a run that goes on after `step`. What earlier files have after
    /// that step is not shown any more.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(folder: &Path, step: u64) -> io::Result<TensorBoard> {
        let file = create(folder)?;
        let mut board = TensorBoard { file, step };
        let mut version = Message::default();
        version.text(field::FILE_VERSION, "brain.Event:2");
        board.write(0, version)?;
        board.take_back(step)?;
        Ok(board)
    }

    /// The run's plan, as a text of its own.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn plan(&mut self, plan: &str) -> io::Result<()> {
        // Markdown leaves a text alone that is indented by four.
        let indented: Vec<String> = plan.lines().map(|line| format!("    {line}")).collect();
        self.write(self.step, summary([text("plan", &indented.join("\n"))]))
    }

    /// What TensorBoard can show of an event; a sheet of samples is read from the run's folder.
    ///
    /// # Errors
    /// It cannot be written, or the sheet cannot be read.
    pub fn record(&mut self, event: &Event, run_root: &Path) -> io::Result<()> {
        let step = event.step();
        if step < self.step {
            self.take_back(step)?;
        }
        self.step = step;
        match event {
            Event::Step { values, seconds, .. } => {
                let values = values.iter().map(|(name, value)| (format!("train/{name}"), *value));
                let all = values.chain([("train/seconds_a_step".to_owned(), *seconds)]);
                self.write(step, summary(all.map(|(tag, value)| scalar(&tag, value))))
            }
            Event::Validation { values, .. } => {
                let values = values.iter().map(|(name, value)| scalar(&format!("validation/{name}"), *value));
                self.write(step, summary(values))
            }
            Event::Samples { file, .. } => {
                let sheet = image("samples", &fs::read(run_root.join(file))?)?;
                self.write(step, summary([sheet]))
            }
            Event::Note { text: note, .. } => self.write(step, summary([text("notes", note)])),
            Event::Started { .. } | Event::Checkpoint { .. } | Event::Finished { .. } => Ok(()),
        }
    }

    /// Everything after `step` is as if it had not been.
    fn take_back(&mut self, step: u64) -> io::Result<()> {
        const START: u64 = 1;
        let mut session = Message::default();
        session.whole(1, START);
        let mut event = Message::default();
        event.message(field::SESSION_LOG, session);
        // TensorBoard forgets this step and all after it.
        self.write(step + 1, event)
    }

    /// One record, with the time and `step` before what it says.
    fn write(&mut self, step: u64, what: Message) -> io::Result<()> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let mut event = Message::default();
        event.double(field::WALL_TIME, time);
        event.whole(field::STEP, step);
        event.append(what);
        self.file.write_all(&record::framed(event.bytes()))
    }
}

/// Numbers of the fields of `Event`.
mod field {
    pub(super) const WALL_TIME: u32 = 1;
    pub(super) const STEP: u32 = 2;
    pub(super) const FILE_VERSION: u32 = 3;
    pub(super) const SUMMARY: u32 = 5;
    pub(super) const SESSION_LOG: u32 = 7;
}

/// A file that TensorBoard reads after all others: it takes them in the order of their names, which begin with a time.
fn create(folder: &Path) -> io::Result<File> {
    let names = fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let last = names.filter_map(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok()).max();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let time = last.map_or(now, |last| now.max(last.saturating_add(1)));
    let path: PathBuf = folder.join(format!("{PREFIX}{time:010}.rectiflow"));
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// `Event.summary` of some `Summary.Value`s.
fn summary(values: impl IntoIterator<Item = Message>) -> Message {
    let mut summary = Message::default();
    values.into_iter().for_each(|value| summary.message(1, value));
    let mut event = Message::default();
    event.message(field::SUMMARY, summary);
    event
}

/// A `Summary.Value` with its tag.
fn tagged(tag: &str) -> Message {
    let mut value = Message::default();
    value.text(1, tag);
    value
}

fn scalar(tag: &str, number: f64) -> Message {
    let mut value = tagged(tag);
    value.float(2, number as f32);
    value
}

/// A PNG file, as it is.
fn image(tag: &str, png: &[u8]) -> io::Result<Message> {
    const RGB: u64 = 3;
    let reader = png::Decoder::new(io::Cursor::new(png)).read_info().map_err(io::Error::other)?;
    let mut image = Message::default();
    image.whole(1, reader.info().height.into());
    image.whole(2, reader.info().width.into());
    image.whole(3, RGB);
    image.data(4, png);
    let mut value = tagged(tag);
    value.message(4, image);
    Ok(value)
}

/// A text is a tensor of one string, which the plugin "text" shows.
fn text(tag: &str, text: &str) -> Message {
    const DT_STRING: u64 = 7;
    const DATA_CLASS_TENSOR: u64 = 2;
    let mut tensor = Message::default();
    tensor.whole(1, DT_STRING);
    // No dimensions: a scalar.
    tensor.message(2, Message::default());
    tensor.text(8, text);
    let mut plugin = Message::default();
    plugin.text(1, "text");
    let mut metadata = Message::default();
    metadata.message(1, plugin);
    metadata.whole(4, DATA_CLASS_TENSOR);
    let mut value = tagged(tag);
    value.message(8, tensor);
    value.message(9, metadata);
    value
}

#[cfg(test)]
mod tests;
