//! A folder with the same files, whose weights are in another type.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use rectiflow_weights::{Dtype, IfThere, convert_file, shown, write_whole};
use serde_json::Value;

/// Writes the files of the folder `model` into `out`, a folder that is there. Returns the bytes of all weights.
pub(super) fn convert_folder(
    model: &Path,
    out: &Path,
    dtype: Dtype,
    dtype_of: &BTreeMap<String, Dtype>,
) -> anyhow::Result<u64> {
    let parts = folders(model)?;
    if let Some(part) = dtype_of.keys().find(|part| !parts.contains(part)) {
        bail!("{} has no part `{part}`\nhint: its parts are {}", shown(model), parts.join(", "));
    }
    let mut bytes = convert_files(model, out, dtype)?;
    for part in &parts {
        let to = out.join(part);
        fs::create_dir(&to).with_context(|| format!("{} cannot be made", shown(&to)))?;
        bytes += convert_files(&model.join(part), &to, dtype_of.get(part).copied().unwrap_or(dtype))?;
    }
    if bytes == 0 {
        bail!("{} has no .safetensors files\nhint: give a diffusers folder, or a .safetensors file", shown(model));
    }
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
