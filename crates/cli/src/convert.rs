//! `rectiflow convert`

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use rectiflow_weights::{Dtype, IfThere, PartKind, convert_file, shown, sync_folder, write_whole};
use serde_json::Value;

use crate::writable::{check_folder, check_outside, check_writable, folder_of};
use crate::{hub, output};

/// Store a model's weights in another type
///
/// Of a diffusers folder all parts are written, sharded ones too, and every other file is taken along; of one
/// .safetensors file, one file. Biases and norms are never narrower than 16 bits. Prints what was written.
#[derive(clap::Args)]
pub(crate) struct ConvertArgs {
    /// A diffusers folder, or a .safetensors file; or an id on Hugging Face, OWNER/NAME, which is downloaded
    model: PathBuf,
    /// The new folder, or file
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Type of the weights: f32, f16, bf16, fp8 (e4m3)
    #[arg(long, visible_alias = "type", value_name = "TYPE", value_parser = dtype)]
    dtype: Dtype,
    /// Another type for a part, by the name of its folder, such as `text_encoder_3=fp8`; may be given several times
    #[arg(long, value_name = "PART=TYPE", value_parser = part_dtype)]
    dtype_of: Vec<(String, Dtype)>,
}

fn dtype(name: &str) -> Result<Dtype, String> {
    match name {
        "f32" | "fp32" => Ok(Dtype::F32),
        "f16" | "fp16" => Ok(Dtype::F16),
        "bf16" => Ok(Dtype::BF16),
        "fp8" | "f8_e4m3" | "fp8_e4m3fn" => Ok(Dtype::F8E4M3),
        _ => Err("give f32, f16, bf16 or fp8".into()),
    }
}

fn part_dtype(text: &str) -> Result<(String, Dtype), String> {
    let (part, name) = text.split_once('=').ok_or("give PART=TYPE, such as `text_encoder_3=fp8`")?;
    Ok((part.to_owned(), dtype(name)?))
}

pub(crate) fn run(args: ConvertArgs) -> anyhow::Result<ExitCode> {
    let ConvertArgs { model, out, dtype, dtype_of } = args;
    if out.exists() {
        bail!("{} is there already\nhint: give `--out` a new name", shown(&out));
    }
    let model = hub::model(&model, &PartKind::ALL)?;
    let bytes = if model.is_dir() {
        check_outside(&out, &model, "the model that is converted")?;
        check_folder(&out)?;
        convert_folder(&model, &out, dtype, &dtype_of.into_iter().collect())?
    } else {
        if let Some((part, _)) = dtype_of.first() {
            bail!("`--dtype-of {part}=...` is for the parts of a folder, and {} is none", shown(&model));
        }
        check_writable(&out)?;
        convert_file(&model, &out, dtype)?
    };
    output::note(&format!("{:.1} MB of weights", bytes as f64 / 1e6));
    output::data(&out.display().to_string());
    Ok(ExitCode::SUCCESS)
}

/// The folder appears under its name when it is whole.
fn convert_folder(model: &Path, out: &Path, dtype: Dtype, dtype_of: &BTreeMap<String, Dtype>) -> anyhow::Result<u64> {
    let parts = folders(model)?;
    if let Some(part) = dtype_of.keys().find(|part| !parts.contains(part)) {
        bail!("{} has no part `{part}`\nhint: its parts are {}", shown(model), parts.join(", "));
    }
    let above = folder_of(out);
    fs::create_dir_all(above).with_context(|| format!("{} cannot be made", shown(above)))?;
    let making = tempfile::Builder::new().prefix(".rectiflow-").suffix(".tmp").tempdir_in(above);
    let making = making.with_context(|| format!("{} cannot be written to", shown(above)))?;
    let mut bytes = convert_files(model, making.path(), dtype)?;
    for part in &parts {
        let to = making.path().join(part);
        fs::create_dir(&to).with_context(|| format!("{} cannot be made", shown(&to)))?;
        bytes += convert_files(&model.join(part), &to, dtype_of.get(part).copied().unwrap_or(dtype))?;
    }
    if bytes == 0 {
        bail!("{} has no .safetensors files\nhint: give a diffusers folder, or a .safetensors file", shown(model));
    }
    // A temporary folder is its owner's alone.
    fs::set_permissions(making.path(), fs::metadata(model)?.permissions())?;
    fs::rename(making.path(), out).with_context(|| format!("{} cannot be named", shown(out)))?;
    let _ = making.keep();
    sync_folder(above)?;
    Ok(bytes)
}

/// The names of the folders in a folder, in their order.
fn folders(of: &Path) -> anyhow::Result<Vec<String>> {
    let name = |path: PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.map(ToOwned::to_owned).ok_or_else(|| anyhow!("{} has a name that is no text", shown(&path)))
    };
    entries(of)?.into_iter().filter(|entry| entry.is_dir()).map(name).collect()
}

fn entries(of: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = || fs::read_dir(of)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
    let mut entries = read().with_context(|| format!("{} cannot be read", shown(of)))?;
    entries.sort();
    Ok(entries)
}

/// The files of one folder. Returns the bytes of its weights.
fn convert_files(from: &Path, to: &Path, dtype: Dtype) -> anyhow::Result<u64> {
    let (mut bytes, mut indices) = (0, Vec::new());
    for file in entries(from)?.into_iter().filter(|entry| entry.is_file()) {
        let Some(name) = file.file_name() else { continue };
        let target = to.join(name);
        let name = name.to_string_lossy();
        if name.ends_with(".safetensors") {
            bytes += convert_file(&file, &target, dtype)?;
        } else if name.ends_with(".safetensors.index.json") {
            indices.push((file, target));
        } else {
            fs::copy(&file, &target).with_context(|| format!("{} cannot be copied", shown(&file)))?;
        }
    }
    for (file, target) in indices {
        // Which tensor is in which file is the same; only the sum of the bytes is another.
        let text = fs::read(&file).with_context(|| format!("{} cannot be read", shown(&file)))?;
        let mut index: Value = serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", shown(&file)))?;
        if let Some(total) = index.pointer_mut("/metadata/total_size") {
            *total = bytes.into();
        }
        let text = format!("{index:#}\n");
        write_whole(&target, IfThere::Keep, |out| out.write_all(text.as_bytes()))
            .with_context(|| format!("{} cannot be written", shown(&target)))?;
    }
    Ok(bytes)
}
