//! Trained networks as models that can be used: diffusers' folders.
//!
//! What this module does not do: choose whose parameters are written; averages are the caller's.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rectiflow_generate::{FORMULATION, KnownWords};
use rectiflow_mmdit::{NetworkConfig, VelocityNetwork};
use rectiflow_nn::ParamNames;
use rectiflow_vae::{Vae, VaeConfig};
use rectiflow_vision::DetectorNetwork;
use rectiflow_weights::{IfThere, Layout, PartKind, in_layout, write_safetensors, write_whole};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use crate::objective::Problem;
use crate::trainee::Trainee;

/// What a model needs beside its transformer.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// The model whose autoencoder and text encoders it was trained with.
    pub encoders: PathBuf,
    /// Stretch of the noise levels, which its scheduler is told.
    pub shift: f64,
    /// What it was trained by, which its scheduler is told too.
    pub formulation: String,
    /// Side of the latents that it was trained with, or of squares as large: what it draws where nobody says.
    pub latent_px: usize,
}

mod text;

pub use text::{write_clip, write_t5, write_tokenizer};

/// What stands for the class of a network that no pipeline has.
const OTHER_CLASS: &str = "RectiflowBackbone";

/// Folders of a diffusers model that a trained part is used with as they are.
const PARTS: [&str; 10] = [
    "scheduler",
    "transformer",
    "vae",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
    "tokenizer",
    "tokenizer_2",
    "tokenizer_3",
    "image_encoder",
];

/// Writes a velocity network as the transformer of a model in `to`, with all else that the model needs where the
/// encoders are a diffusers folder; else the transformer alone. `known`: all words of its captions, where they are so few
/// that a user should hear of others; else none.
///
/// # Errors
/// A file cannot be written.
pub fn write_transformer(
    network: &VelocityNetwork,
    names: &ParamNames,
    folder: &ModelFolder,
    known: &KnownWords,
    to: &Path,
) -> Result<(), Problem> {
    let tensors = Trainee::weights(network, names);
    let (tensors, mut settings) = match network.config() {
        NetworkConfig::Mmdit(config) => {
            (in_layout(PartKind::Transformer, Layout::Diffusers, tensors), config.settings())
        }
        other => (tensors, other_settings(other)),
    };
    settings["sample_size"] = folder.latent_px.into();
    write_part(&to.join("transformer"), "diffusion_pytorch_model.safetensors", tensors, &settings)?;
    write_json(
        &to.join("scheduler"),
        "scheduler_config.json",
        &json!({
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "shift": folder.shift,
            FORMULATION: folder.formulation,
        }),
    )?;
    if !known.is_empty() {
        let text = known.to_text();
        write_whole(&to.join(KnownWords::FILE), IfThere::Replace, |out| out.write_all(text.as_bytes()))?;
    }
    complete(to, Some(&folder.encoders), &["scheduler", "transformer"])
}

/// The sizes of a network that diffusers does not have, and that is only trained here.
fn other_settings(config: &NetworkConfig) -> Value {
    let frame = config.frame();
    json!({
        "_class_name": OTHER_CLASS,
        "kind": match config {
            NetworkConfig::Mmdit(_) => "mmdit",
            NetworkConfig::ThreeSets { .. } => "three-sets",
            NetworkConfig::Dit(_) => "dit",
            NetworkConfig::CrossDit(_) => "cross-dit",
            NetworkConfig::Uvit(_) => "uvit",
        },
        "width": frame.width,
        "grid": frame.grid,
        "joint_attention_dim": frame.context_width,
        "pooled_projection_dim": frame.pooled_width,
    })
}

/// Makes a model of the parts `made`, which were written into `to`: takes over all others that `from`, a diffusers
/// folder, has, so that one part can be trained after the other, and writes the index.
fn complete(to: &Path, from: Option<&Path>, made: &[&str]) -> Result<(), Problem> {
    let mut index = json!({ "_class_name": "StableDiffusion3Pipeline" });
    for name in PARTS {
        let is_made = made.contains(&name);
        let taken = from.map(|from| from.join(name)).filter(|from| !is_made && from.is_dir());
        if let Some(from) = &taken {
            link_folder(from, &to.join(name))?;
        }
        index[name] = class_of(name, is_made || taken.is_some());
    }
    if has_class(&to.join("transformer"), OTHER_CLASS) {
        index["transformer"] = json!(["rectiflow", OTHER_CLASS]);
    }
    write_json(to, "model_index.json", &index)
}

/// Writes the index of a model of the parts whose folders are in `to`.
///
/// # Errors
/// A file cannot be written.
pub fn write_index(to: &Path) -> Result<(), Problem> {
    complete(to, None, &PARTS.map(|name| if to.join(name).is_dir() { name } else { "" }))
}

/// Writes an autoencoder into `to`, with all else that the model `encoders` has where that is a diffusers folder: so a
/// transformer can be trained with it, and pictures drawn once there is one.
///
/// `config` has its sizes, and the mean and deviation of its latents.
///
/// # Errors
/// A file cannot be written.
pub fn write_autoencoder(
    network: &Vae,
    names: &ParamNames,
    config: &VaeConfig,
    encoders: Option<&Path>,
    to: &Path,
) -> Result<(), Problem> {
    let tensors = in_layout(PartKind::Vae, Layout::Diffusers, Trainee::weights(network, names));
    write_part(&to.join("vae"), "diffusion_pytorch_model.safetensors", tensors, &config.settings())?;
    complete(to, encoders, &["vae"])
}

/// Writes a detector into `to`, a folder of its own: what [`rectiflow_vision::Detector::open`] reads.
///
/// # Errors
/// A file cannot be written.
pub fn write_detector(network: &DetectorNetwork, names: &ParamNames, to: &Path) -> Result<(), Problem> {
    write_part(to, "model.safetensors", Trainee::weights(network, names), &network.config().to_json())
}

/// Whether the settings in a part's folder name that class.
fn has_class(part: &Path, class: &str) -> bool {
    let settings = fs::read(part.join("config.json")).ok();
    let settings = settings.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    settings.is_some_and(|settings| settings["_class_name"] == class)
}

/// What `model_index.json` says of a folder.
fn class_of(name: &str, is_there: bool) -> Value {
    let class = match name {
        "scheduler" => ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "transformer" => ["diffusers", "SD3Transformer2DModel"],
        "vae" => ["diffusers", "AutoencoderKL"],
        "image_encoder" => ["transformers", "CLIPVisionModelWithProjection"],
        "text_encoder" | "text_encoder_2" => ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3" => ["transformers", "T5EncoderModel"],
        "tokenizer_3" => ["transformers", "T5TokenizerFast"],
        _ => ["transformers", "CLIPTokenizer"],
    };
    if is_there { json!(class) } else { json!([null, null]) }
}

/// Writes one part: its tensors and its `config.json`.
///
/// # Errors
/// A file cannot be written.
pub fn write_part(
    folder: &Path,
    file: &str,
    tensors: BTreeMap<String, rectiflow_nn::TensorData>,
    settings: &Value,
) -> Result<(), Problem> {
    fs::create_dir_all(folder).map_err(|problem| at(folder, &problem))?;
    let tensors: Vec<_> = tensors.iter().map(|(name, data)| (&name[..], data)).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write_safetensors(folder.join(file), &tensors, &metadata)?;
    write_json(folder, "config.json", settings)
}

/// Writes a JSON file.
///
/// # Errors
/// It cannot be written.
pub fn write_json(folder: &Path, file: &str, value: &Value) -> Result<(), Problem> {
    fs::create_dir_all(folder).map_err(|problem| at(folder, &problem))?;
    let path = folder.join(file);
    let text = serde_json::to_vec_pretty(value)?;
    Ok(write_whole(&path, IfThere::Replace, |out| out.write_all(&text)).map_err(|problem| at(&path, &problem))?)
}

/// The same files under another folder: a second name where the disk can, a copy elsewhere. Text encoders are many
/// gigabytes. Files that are there already because both folders are one stay.
pub(crate) fn link_folder(from: &Path, to: &Path) -> Result<(), Problem> {
    fs::create_dir_all(to).map_err(|problem| at(to, &problem))?;
    for entry in fs::read_dir(from).map_err(|problem| at(from, &problem))? {
        let entry = entry.map_err(|problem| at(from, &problem))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            link_folder(&source, &target)?;
            continue;
        }
        // Behind a link, as caches of hubs have them, lies the file itself.
        let source = source.canonicalize().map_err(|problem| at(&source, &problem))?;
        if target.canonicalize().is_ok_and(|target| target == source) {
            continue;
        }
        link_or_copy(&source, &target).map_err(|problem| at(&target, &problem))?;
    }
    Ok(())
}

/// A second name for a file where the disk can give one, a copy elsewhere. Replaces what had the name, at once and as a
/// whole.
pub(crate) fn link_or_copy(source: &Path, target: &Path) -> io::Result<()> {
    let mut name = OsString::from(".rectiflow-");
    name.push(target.file_name().unwrap_or_default());
    let linked = target.with_file_name(name);
    let _ = fs::remove_file(&linked);
    if fs::hard_link(source, &linked).is_ok() {
        let renamed = fs::rename(&linked, target);
        // Both may be one file already, and then a rename does nothing.
        let _ = fs::remove_file(&linked);
        return renamed;
    }
    write_whole(target, IfThere::Replace, |out| io::copy(&mut fs::File::open(source)?, out).map(drop))
}

/// The system's words, with the place.
fn at(path: &Path, problem: &io::Error) -> io::Error {
    io::Error::new(problem.kind(), format!("{}: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_linked_onto_itself_keeps_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let [model, other] = ["model", "other"].map(|name| folder.path().join(name));
        fs::create_dir_all(model.join("tokenizer")).unwrap();
        fs::write(model.join("tokenizer/vocab.json"), "{}").unwrap();
        let reads = |at: &Path| fs::read_to_string(at.join("tokenizer/vocab.json")).unwrap();
        link_folder(&model, &model).unwrap();
        assert_eq!(reads(&model), "{}");
        link_folder(&model, &other).unwrap();
        link_folder(&model, &other).unwrap();
        assert_eq!([reads(&model), reads(&other)], ["{}", "{}"]);
    }
}
