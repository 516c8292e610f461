//! A run on one page: `report.html`, which needs nothing but itself.
//!
//! ```text
//! journal.jsonl -> history -> charts, tables, sheets of samples -> report.html
//! ```
//!
//! What this module does not do: measure anything. It has no script and loads nothing, so it can be kept and sent.

use std::fmt::Write as _;
use std::path::{Component, Path};
use std::{fs, io};

use rectiflow_page::{escaped, number, picture, row, section, table};
use rectiflow_weights::{IfThere, write_whole};

use crate::journal;
use crate::run::RunFolder;

mod axis;
mod chart;
mod history;

use chart::{Look, figure};
use history::{History, smoothed};

/// More sheets than this would make a page that no phone opens.
const SHEETS_MAX: usize = 24;

/// Settings that a reader looks for first, by their path in the plan. Those that a plan has not are left out.
const SETTINGS: [&str; 19] = [
    "objective.kind",
    "objective.formulation",
    "objective.shift",
    "model.kind",
    "model.from",
    "model.depth",
    "model.width",
    "model.latent_channels",
    "data.source",
    "data.cache",
    "steps",
    "batch",
    "accumulate",
    "precision",
    "schedule.learning_rate",
    "schedule.warmup_steps",
    "schedule.shape",
    "optimizer.weight_decay",
    "seed",
];

/// Writes `report.html` into a run's folder, about its journal so far; one that is there is replaced. `plan` is the text
/// of `plan.toml`.
///
/// # Errors
/// The journal cannot be read, or the report not written. A sheet of samples that is gone is no error; the report says
/// so in its place.
pub fn write(root: &Path, plan: &str) -> io::Result<()> {
    let events = journal::read(&RunFolder::new(root.to_owned()).journal())?;
    let page = page(&History::of(events), root, plan);
    write_whole(&root.join("report.html"), IfThere::Replace, |out| out.write_all(page.as_bytes()))
}

fn page(history: &History, root: &Path, plan: &str) -> String {
    let name = root.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let mut out = String::new();
    section(&mut out, "Settings", &settings(plan));
    section(&mut out, "Curves", &curves(history));
    section(&mut out, "Samples", &sheets(history, root));
    section(&mut out, "Notes", &notes(history));
    section(&mut out, "Values at the end", &last_values(history));
    rectiflow_page::page(name.as_deref().unwrap_or("run"), &state(history), &out)
}

/// How the run stands, in a sentence.
fn state(history: &History) -> String {
    let mut text = match history.is_finished {
        true => format!("Finished after {} steps", number(history.step as f64, 9)),
        false => format!("At step {} of {}", number(history.step as f64, 9), number(history.steps as f64, 9)),
    };
    if history.seconds > 0.0 {
        let _ = write!(text, ", which took {}", duration(history.seconds));
    }
    match history.restarts {
        0 => {}
        1 => text.push_str("; gone on with once"),
        times => {
            let _ = write!(text, "; gone on with {times} times");
        }
    }
    text.push('.');
    text
}

/// `4 h 12 min`, `3 min 20 s`, `1.25 s`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{} s", number(seconds, 3)),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

fn settings(plan: &str) -> String {
    let mut rows = String::new();
    if let Ok(table) = plan.parse::<toml::Table>() {
        for path in SETTINGS {
            let value = match path.split_once('.') {
                Some((section, name)) => table.get(section).and_then(|section| section.get(name)),
                None => table.get(path),
            };
            let Some(value) = value else { continue };
            let value = match value {
                toml::Value::String(text) => text.clone(),
                toml::Value::Float(value) => number(*value, 6),
                other => other.to_string(),
            };
            row(&mut rows, path, &value);
        }
    }
    let rows = table(&rows);
    let all = escaped(plan.trim_end());
    if all.is_empty() {
        rows
    } else {
        format!("{rows}<details><summary>The whole plan</summary><pre>{all}</pre></details>\n")
    }
}

fn curves(history: &History) -> String {
    let training = &history.training;
    let with_mean = |key: &str| {
        let raw = training.series(key, "each line of the journal", 0, Look::Faint);
        let mean = smoothed(&raw, "running mean");
        [raw, mean]
    };
    let bands: Vec<_> = training.levels(Look::Line).iter().map(|band| smoothed(band, &band.name)).collect();
    let mut validation = vec![history.validation.series("loss", "all levels", 0, Look::Dots)];
    validation.extend(history.validation.levels(Look::Dots));
    let [raw, mean] = with_mean("accuracy");
    let accuracy = [raw, mean, history.validation.series("accuracy", "validation", 0, Look::Dots)];
    let charts = [
        figure("Loss", "", &with_mean("loss")),
        figure("Validation loss", "", &validation),
        figure("Accuracy", "share of what was guessed right", &accuracy),
        figure("Loss by noise level", "running means", &bands),
        figure("Learning rate", "", &[training.series("learning_rate", "", 0, Look::Line)]),
        figure("Norm of the gradient", "before it is shortened", &with_mean("gradient_norm")),
        figure("Time of a step", "s", &with_mean("seconds_a_step")),
    ];
    let charts = charts.concat();
    if charts.is_empty() { charts } else { format!("<div class=\"grids\">\n{charts}</div>\n") }
}

fn sheets(history: &History, root: &Path) -> String {
    let all = &history.sheets;
    let mut out = String::new();
    for index in evenly(all.len(), SHEETS_MAX) {
        let (step, file) = &all[index];
        let step = number(*step as f64, 9);
        let content = match sheet(root, file) {
            Ok(png) => picture(&format!("samples at step {step}"), &png),
            Err(problem) => format!(
                "<span class=\"pale\">{}: {}</span>",
                escaped(&file.display().to_string()),
                escaped(&problem.to_string())
            ),
        };
        let _ = writeln!(out, "<figure><figcaption>step {step}</figcaption>{content}</figure>");
    }
    if out.is_empty() { out } else { format!("<div class=\"grids\">\n{out}</div>\n") }
}

/// A journal may come from anywhere: nothing outside of the run's folder gets into a page that is sent around.
fn sheet(root: &Path, file: &Path) -> io::Result<Vec<u8>> {
    if !file.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not within the run's folder"));
    }
    fs::read(root.join(file))
}

/// At most `most` of `count` places, the first and the last among them.
fn evenly(count: usize, most: usize) -> Vec<usize> {
    if count <= most {
        return (0..count).collect();
    }
    (0..most).map(|index| index * (count - 1) / (most - 1)).collect()
}

fn notes(history: &History) -> String {
    let mut rows = String::new();
    for (step, note) in &history.notes {
        row(&mut rows, &format!("step {}", number(*step as f64, 9)), note);
    }
    table(&rows)
}

fn last_values(history: &History) -> String {
    let mut rows = String::new();
    for (what, values) in [("training", &history.training), ("validation", &history.validation)] {
        let Some((step, values)) = values.last() else { continue };
        for (name, value) in values {
            let name = format!("{what}, step {}: {name}", number(*step as f64, 9));
            row(&mut rows, &name, &number(*value, 5));
        }
    }
    if let Some((step, loss)) = history.validation.best() {
        row(&mut rows, &format!("least validation loss, step {}", number(step as f64, 9)), &number(loss, 5));
    }
    table(&rows)
}

#[cfg(test)]
mod tests;
