//! `rectiflow convert`

mod beside;
mod same;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use rectiflow_weights::{
    Checkpoint, Container, Dtype, Form, ModelPaths, PartKind, TensorFile, WeightsError, convert_file, convert_model,
    shown, sync_folder,
};

use crate::writable::{check_folder, check_outside, check_writable, folder_of};
use crate::{hub, output};

/// Store a model's weights in another layout or type
///
/// A diffusers folder, an official file and a GGUF file each become any of them: what is written is found from the name of
/// `--out`, or is what `--layout` says. A folder made of a file gets settings that follow from the tensors' sizes, and the
/// built-in tokenizers. From a folder to a folder, and from a .safetensors file to one, names and all other files stay as
/// they are. Without `--dtype` types stay as they are, to the bit.
///
/// Biases and norms are never narrower than 16 bits. With q8_0 and q4_k, which only GGUF has, the matrices of blocks and text
/// encoders are in blocks of few bits, and all else in 16 bits. Prints what was written.
#[derive(clap::Args)]
pub(crate) struct ConvertArgs {
    /// A diffusers folder, a folder of one part, a .safetensors file or a .gguf file; or an id on Hugging Face, OWNER/NAME,
    /// which is downloaded
    model: PathBuf,
    /// The new folder, or file
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Type of the weights: f32, f16, bf16, fp8 (e4m3), q8_0, q4_k [default: as they are]
    #[arg(long, visible_alias = "type", value_name = "TYPE", value_parser = dtype)]
    dtype: Option<Dtype>,
    /// Another type for a part, by the name of its folder, such as `text_encoder_3=fp8`; may be given several times
    #[arg(long, value_name = "PART=TYPE", value_parser = part_dtype)]
    dtype_of: Vec<(String, Dtype)>,
    /// What is written [default: by the name of `--out`: .safetensors, .gguf, else a folder]
    #[arg(long, value_enum, value_name = "LAYOUT")]
    layout: Option<LayoutName>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LayoutName {
    /// A diffusers folder
    Folder,
    /// One .safetensors file with the official names
    Single,
    /// One GGUF file with the official names; T5 alone with llama.cpp's
    Gguf,
}

fn dtype(name: &str) -> Result<Dtype, String> {
    match name {
        "f32" | "fp32" => Ok(Dtype::F32),
        "f16" | "fp16" => Ok(Dtype::F16),
        "bf16" => Ok(Dtype::BF16),
        "fp8" | "f8_e4m3" | "fp8_e4m3fn" => Ok(Dtype::F8E4M3),
        "q8_0" | "Q8_0" => Ok(Dtype::Q8_0),
        "q4_k" | "Q4_K" => Ok(Dtype::Q4K),
        _ => Err("give f32, f16, bf16, fp8, q8_0 or q4_k".into()),
    }
}

fn part_dtype(text: &str) -> Result<(String, Dtype), String> {
    let (part, name) = text.split_once('=').ok_or("give PART=TYPE, such as `text_encoder_3=fp8`")?;
    Ok((part.to_owned(), dtype(name)?))
}

pub(crate) fn run(args: ConvertArgs) -> anyhow::Result<ExitCode> {
    let ConvertArgs { model, out, dtype, dtype_of, layout } = args;
    if out.exists() {
        bail!("{} is there already\nhint: give `--out` a new name", shown(&out));
    }
    let model = hub::model(&model, &PartKind::ALL)?;
    let form = match layout.unwrap_or_else(|| by_name(&out)) {
        LayoutName::Folder => Form::Folder,
        LayoutName::Single => Form::File(Container::Safetensors),
        LayoutName::Gguf => Form::File(Container::Gguf),
    };
    let dtype_of: BTreeMap<String, Dtype> = dtype_of.into_iter().collect();
    check_types(form, dtype.iter().chain(dtype_of.values()))?;
    match form {
        Form::Folder => {
            check_outside(&out, &model, "the model that is converted")?;
            check_folder(&out)?;
        }
        Form::File(_) => check_writable(&out)?,
    }
    let bytes = if form == Form::Folder && model.is_dir() {
        let Some(dtype) = dtype else {
            bail!("nothing would be different in {}\nhint: give `--dtype`, or another `--layout`", shown(&out));
        };
        into_folder(&model, &out, |making| same::convert_folder(&model, making, dtype, &dtype_of))?
    } else if let Some(dtype) = dtype
        && layout.is_none()
        && form == Form::File(Container::Safetensors)
        && !model.is_dir()
        && TensorFile::open(&model)?.container() == Container::Safetensors
    {
        if let Some(part) = dtype_of.keys().next() {
            bail!("`--dtype-of {part}=...` is for the parts of a folder, and {} is none", shown(&model));
        }
        convert_file(&model, &out, dtype)?
    } else {
        rearrange(&model, form, &out, dtype, &dtype_of).map_err(|error| of_whole_models(error, &model))?
    };
    output::note(&format!("{:.1} MB of weights", bytes as f64 / 1e6));
    output::data(&out.display().to_string());
    Ok(ExitCode::SUCCESS)
}

/// A part alone is named as what it is, not as what options of other commands take.
fn of_whole_models(error: anyhow::Error, model: &Path) -> anyhow::Error {
    let found = match error.downcast_ref::<WeightsError>() {
        Some(WeightsError::WrongPart { found, .. }) => found.clone(),
        Some(WeightsError::EitherClip { .. }) => "a CLIP text encoder".to_owned(),
        _ => return error,
    };
    anyhow!(
        "{} is {found}, and whole models are arranged anew\n\
         hint: give the model's folder or its single file; `--dtype` with a .safetensors file stores a part's file in another type",
        shown(model)
    )
}

fn by_name(out: &Path) -> LayoutName {
    match out.extension().and_then(|end| end.to_str()) {
        Some("safetensors") => LayoutName::Single,
        Some("gguf") => LayoutName::Gguf,
        _ => LayoutName::Folder,
    }
}

fn check_types<'a>(form: Form, mut types: impl Iterator<Item = &'a Dtype>) -> anyhow::Result<()> {
    let (container, hint) = match form {
        Form::File(Container::Gguf) => (Container::Gguf, "give f16, bf16, f32, q8_0 or q4_k"),
        _ => (Container::Safetensors, "name a .gguf file with `--out`, or give f16, bf16, f32 or fp8"),
    };
    if let Some(dtype) = types.find(|dtype| !container.holds(**dtype)) {
        bail!("{container} files have no numbers of type {dtype}\nhint: {hint}");
    }
    Ok(())
}

/// Writes the parts of a model in another layout.
fn rearrange(
    model: &Path,
    form: Form,
    out: &Path,
    dtype: Option<Dtype>,
    dtype_of: &BTreeMap<String, Dtype>,
) -> anyhow::Result<u64> {
    let checkpoint = Checkpoint::open(&ModelPaths { model: Some(model.to_owned()), ..ModelPaths::default() })?;
    let there: Vec<&str> =
        PartKind::ALL.into_iter().filter(|kind| checkpoint.part(*kind).is_some()).map(PartKind::folder).collect();
    if let Some(part) = dtype_of.keys().find(|part| !there.contains(&&part[..])) {
        bail!("{} has no part `{part}`\nhint: its parts are {}", shown(model), there.join(", "));
    }
    let of = |kind: PartKind| dtype_of.get(kind.folder()).copied().or(dtype);
    let converted = match form {
        Form::File(_) => convert_model(&checkpoint, form, out, &of)?,
        Form::Folder => into_folder(model, out, |making| {
            let converted = convert_model(&checkpoint, form, making, &of)?;
            beside::write_beside(&checkpoint, making)?;
            Ok(converted)
        })?,
    };
    for left in &converted.left_out {
        let first = left.names.first().map_or("", String::as_str);
        output::note(&format!(
            "{} tensors of {} have no place in the new layout and are left out, first {first:?}",
            left.names.len(),
            shown(&left.file)
        ));
    }
    if matches!(form, Form::File(_)) && model.is_dir() {
        output::note("settings, tokenizers and the scheduler's shift of the folder are not in the file");
    }
    Ok(converted.bytes)
}

/// The folder appears under its name when it is whole.
fn into_folder<T>(model: &Path, out: &Path, fill: impl FnOnce(&Path) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let above = folder_of(out);
    fs::create_dir_all(above).with_context(|| format!("{} cannot be made", shown(above)))?;
    let making = tempfile::Builder::new().prefix(".rectiflow-").suffix(".tmp").tempdir_in(above);
    let making = making.with_context(|| format!("{} cannot be written to", shown(above)))?;
    let filled = fill(making.path())?;
    // A temporary folder is its owner's alone: it gets the permissions of the model's.
    let like = if model.is_dir() { model } else { folder_of(model) };
    fs::set_permissions(making.path(), fs::metadata(like)?.permissions())?;
    fs::rename(making.path(), out).with_context(|| format!("{} cannot be named", shown(out)))?;
    let _ = making.keep();
    sync_folder(above)?;
    Ok(filled)
}
