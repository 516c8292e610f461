//! `rectiflow inspect`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rectiflow_generate::check;
use rectiflow_mmdit::MmditConfig;
use rectiflow_nn::{Device, DeviceChoice};
use rectiflow_weights::{
    Checkpoint, Inventory, ModelPaths, OtherTensors, Part, PartInventory, PartKind, WeightsError, Why, quoted,
};
use serde::Serialize;

use crate::hub;
use crate::memory::human;
use crate::output::data;

/// Say what a file or folder is, and what is missing to draw with it
#[derive(clap::Args)]
pub(crate) struct InspectArgs {
    /// A diffusers folder, an official .safetensors or .gguf file, a single part, or a folder of such files; or an id on
    /// Hugging Face, OWNER/NAME, which is downloaded
    path: PathBuf,
    /// JSON instead of a table: an object, or a list of them for a folder of files
    #[arg(long)]
    json: bool,
}

/// What is said of one file or folder.
#[derive(Serialize)]
struct Report {
    path: PathBuf,
    /// The released model, by the transformer's tensors; none without one.
    variant: Option<String>,
    /// What is not known of a part.
    unsure: Option<&'static str>,
    /// Every part that drawing needs is there, and nothing is wrong. Values have not been looked at.
    can_draw: bool,
    /// What does not fit, as `generate` would say it.
    wrong: Vec<String>,
    #[serde(flatten)]
    inventory: Inventory,
}

/// A file of a folder that could not be read as part of a model.
#[derive(Serialize)]
struct Failure {
    path: PathBuf,
    error: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Look {
    Report(Box<Report>),
    Failure(Failure),
}

const EITHER_CLIP: &str =
    "one of the two CLIP text encoders, of unusual width; give it with `--clip-l` or `--clip-g`, whichever it is";
const OTHER_MODEL: &str =
    "compare it with the file that was released for SD3 or SD3.5: it may be of another model, or changed";

pub(crate) fn run(args: InspectArgs) -> anyhow::Result<ExitCode> {
    let device = DeviceChoice::Cpu.open()?;
    let given = hub::model(&args.path, &PartKind::ALL)?;
    match look(&given, &device) {
        Err(WeightsError::LooseFiles { path, files }) if path == given => {
            let looks: Vec<Look> = files.into_iter().map(|file| look_at_one_of_many(file, &device)).collect();
            show_many(&looks, args.json)?;
        }
        report => show(&report?, args.json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn look(path: &Path, device: &Device) -> Result<Report, WeightsError> {
    let model = ModelPaths { model: Some(path.to_owned()), ..ModelPaths::default() };
    let (checkpoint, unsure) = match Checkpoint::open(&model) {
        Err(WeightsError::EitherClip { .. }) => {
            // CLIP-L's rules hold for both.
            let clip = ModelPaths { clip_l: Some(path.to_owned()), ..ModelPaths::default() };
            (Checkpoint::open(&clip)?, Some(EITHER_CLIP))
        }
        opened => (opened?, None),
    };
    let config = |part: &Part| MmditConfig::find(&part.source()).ok();
    let variant = checkpoint.part(PartKind::Transformer).and_then(config).map(|config| config.variant());
    let wrong: Vec<String> = check(&checkpoint, device).iter().map(ToString::to_string).collect();
    let inventory = checkpoint.inventory();
    let has_needed = !inventory.missing.iter().any(|kind| !is_encoder(*kind)) && has_encoder(&inventory);
    let can_draw = has_needed && wrong.is_empty();
    Ok(Report { path: path.to_owned(), variant, unsure, can_draw, wrong, inventory })
}

fn look_at_one_of_many(path: PathBuf, device: &Device) -> Look {
    match look(&path, device) {
        Ok(report) => Look::Report(Box::new(report)),
        Err(error) => Look::Failure(Failure { path, error: error.to_string() }),
    }
}

fn show(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        data(&serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    say_what_is_there(report);
    say_what_is_missing(report);
    Ok(())
}

/// What is missing is not said: the files of such a folder are not meant to be whole models.
fn show_many(looks: &[Look], json: bool) -> anyhow::Result<()> {
    if json {
        data(&serde_json::to_string_pretty(looks)?);
        return Ok(());
    }
    for (index, look) in looks.iter().enumerate() {
        if index > 0 {
            data("");
        }
        match look {
            Look::Report(report) => say_what_is_there(report),
            Look::Failure(Failure { path, error }) => {
                say(&format!("{}: not a model or part that is read", path.display()));
                say_wrong(error);
            }
        }
    }
    Ok(())
}

fn say_what_is_there(Report { path, variant, unsure, wrong, inventory, .. }: &Report) {
    let has_transformer = !inventory.missing.contains(&PartKind::Transformer);
    let otherwise = if has_transformer { "unknown transformer" } else { "no transformer" };
    say(&format!("{}: {}", path.display(), variant.as_deref().unwrap_or(otherwise)));
    say(&format!("{:<19} {:<12} {:>8} {:>15} {:>10}  types", "part", "layout", "tensors", "parameters", "size"));
    for part in &inventory.parts {
        let name = if unsure.is_some() { "CLIP text encoder".to_owned() } else { part.part.to_string() };
        say(&row(&name, part));
    }
    for other in &inventory.other {
        say(&other_line(other));
    }
    unsure.iter().for_each(|unsure| say(unsure));
    wrong.iter().for_each(|error| say_wrong(error));
}

fn say_what_is_missing(report: &Report) {
    let has_encoder = has_encoder(&report.inventory);
    for kind in &report.inventory.missing {
        if report.unsure.is_none() || !matches!(kind, PartKind::ClipL | PartKind::ClipG) {
            say(&format!("missing: {kind} ({})", need(*kind, has_encoder)));
        }
    }
    match (report.can_draw, report.inventory.missing.is_empty()) {
        (true, true) => say("complete: `rectiflow generate --model` can draw with it"),
        (true, false) => say("enough: `rectiflow generate --model` can draw with it"),
        (false, _) => {}
    }
}

/// A line of data. Names and settings come from files: what would command a terminal is replaced.
fn say(line: &str) {
    data(&line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>());
}

fn say_wrong(error: &str) {
    let (what, hint) = error.split_once("\nhint: ").map_or((error, None), |(what, hint)| (what, Some(hint)));
    say(&format!("wrong: {what}"));
    if let Some(hint) = hint {
        // Who reads this has asked already.
        say(&format!("hint: {}", if hint.contains("rectiflow inspect") { OTHER_MODEL } else { hint }));
    }
}

fn is_encoder(kind: PartKind) -> bool {
    matches!(kind, PartKind::ClipL | PartKind::ClipG | PartKind::T5)
}

fn has_encoder(inventory: &Inventory) -> bool {
    inventory.parts.iter().any(|part| is_encoder(part.part))
}

fn other_line(other: &OtherTensors) -> String {
    let why = match other.why {
        Why::Unused(kind) => format!("{kind}, not used"),
        Why::Unknown => "unknown".into(),
    };
    let first = quoted(other.names.first().map_or("", String::as_str));
    format!("{} more tensors ({why}), {}, first {first}", other.names.len(), human(other.bytes))
}

fn row(name: &str, part: &PartInventory) -> String {
    let types: Vec<String> = part.dtypes.iter().map(|(dtype, count)| format!("{} x{count}", dtype.name())).collect();
    format!(
        "{:<19} {:<12} {:>8} {:>15} {:>10}  {}",
        name,
        part.layout.to_string(),
        part.tensors,
        thousands(part.parameters),
        human(part.bytes),
        types.join(", ")
    )
}

fn need(kind: PartKind, has_encoder: bool) -> String {
    let flag = kind.flag();
    match (is_encoder(kind), has_encoder) {
        (false, _) => format!("needed to draw; give it with `{flag}`"),
        (true, true) => format!("zeros take its place, or give it with `{flag}`"),
        (true, false) => format!("at least one text encoder is needed; give it with `{flag}`"),
    }
}

/// `2028328000` as `2,028,328,000`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
