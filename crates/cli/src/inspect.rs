//! `rectiflow inspect`

use std::path::PathBuf;
use std::process::ExitCode;

use rectiflow_mmdit::MmditConfig;
use rectiflow_weights::{Checkpoint, ModelPaths, PartInventory, PartKind, Why};
use serde::Serialize;

use crate::memory::human;
use crate::output::data;

/// Say what a file or folder is, and what is missing to draw with it
#[derive(clap::Args)]
pub(crate) struct InspectArgs {
    /// A diffusers folder, an official .safetensors file, or a single part
    path: PathBuf,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    path: String,
    /// The released model, by the transformer's tensors; none without one.
    variant: Option<String>,
    #[serde(flatten)]
    inventory: &'a rectiflow_weights::Inventory,
}

pub(crate) fn run(args: InspectArgs) -> anyhow::Result<ExitCode> {
    let checkpoint = Checkpoint::open(&ModelPaths { model: Some(args.path.clone()), ..ModelPaths::default() })?;
    let variant = match checkpoint.part(PartKind::Transformer) {
        Some(part) => Some(MmditConfig::find(&part.source()).map(|config| config.variant())?),
        None => None,
    };
    let inventory = checkpoint.inventory();
    if args.json {
        let report = Report { path: args.path.display().to_string(), variant, inventory: &inventory };
        data(&serde_json::to_string_pretty(&report)?);
        return Ok(ExitCode::SUCCESS);
    }

    data(&format!("{}: {}", args.path.display(), variant.as_deref().unwrap_or("no transformer")));
    data(&format!("{:<19} {:<10} {:>8} {:>15} {:>10}  types", "part", "layout", "tensors", "parameters", "size"));
    for part in &inventory.parts {
        data(&row(part));
    }
    for other in &inventory.other {
        let why = match other.why {
            Why::Unused(kind) => format!("{kind}, not used"),
            Why::Unknown => "unknown".into(),
        };
        let first = other.names.first().map_or("", String::as_str);
        data(&format!("{} more tensors ({why}), {}, first `{first}`", other.names.len(), human(other.bytes)));
    }
    for kind in &inventory.missing {
        data(&format!("missing: {kind} ({})", need(*kind)));
    }
    if inventory.missing.is_empty() {
        data("complete: `rectiflow generate --model` can draw with it");
    }
    Ok(ExitCode::SUCCESS)
}

fn row(part: &PartInventory) -> String {
    let types: Vec<String> = part.dtypes.iter().map(|(dtype, count)| format!("{} x{count}", dtype.name())).collect();
    format!(
        "{:<19} {:<10} {:>8} {:>15} {:>10}  {}",
        part.part.to_string(),
        part.layout.to_string(),
        part.tensors,
        thousands(part.parameters),
        human(part.bytes),
        types.join(", ")
    )
}

fn need(kind: PartKind) -> String {
    match kind {
        PartKind::Transformer | PartKind::Vae => format!("needed to draw; give it with `{}`", kind.flag()),
        PartKind::ClipL | PartKind::ClipG | PartKind::T5 => {
            format!("zeros take its place, or give it with `{}`", kind.flag())
        }
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
