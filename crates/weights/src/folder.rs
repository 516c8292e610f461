//! What is where in a diffusers folder.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{WeightsError, quoted};
use crate::file::open_regular;
use crate::part::PartKind;

/// Configurations take a few kB; the list of T5-XXL's shards about 30 kB.
const SMALL_BYTES_MAX: u64 = 16 << 20;

/// The folder of each part.
pub(crate) fn part_folder(part: PartKind) -> &'static str {
    match part {
        PartKind::Transformer => "transformer",
        PartKind::Vae => "vae",
        PartKind::ClipL => "text_encoder",
        PartKind::ClipG => "text_encoder_2",
        PartKind::T5 => "text_encoder_3",
    }
}

/// What diffusers and transformers call the weights of each part in its folder.
pub(crate) fn weights_file(part: PartKind) -> &'static str {
    match part {
        PartKind::Transformer | PartKind::Vae => "diffusion_pytorch_model.safetensors",
        PartKind::ClipL | PartKind::ClipG | PartKind::T5 => "model.safetensors",
    }
}

/// The folder of each text encoder's tokenizer.
pub(crate) fn tokenizer_folder(part: PartKind) -> Option<&'static str> {
    match part {
        PartKind::ClipL => Some("tokenizer"),
        PartKind::ClipG => Some("tokenizer_2"),
        PartKind::T5 => Some("tokenizer_3"),
        PartKind::Transformer | PartKind::Vae => None,
    }
}

/// The weights in one part's folder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    Single(PathBuf),
    /// The list of the shards.
    Sharded(PathBuf),
}

/// Finds the weights in a folder: full precision before the fp16 variant, and a single file before shards.
pub(crate) fn find_weights(folder: &Path) -> Result<Weights, WeightsError> {
    let names = file_names(folder)?;
    match choose(&names) {
        Some(name) if name.ends_with(".json") => Ok(Weights::Sharded(folder.join(name))),
        Some(name) => Ok(Weights::Single(folder.join(name))),
        None => Err(no_weights(folder, &names)),
    }
}

/// What diffusers and transformers call their files; `fp16` moved within the name over time.
const CHOICES: [&str; 5] = [
    "{}.safetensors",
    "{}.safetensors.index.json",
    "{}.fp16.safetensors",
    "{}.safetensors.index.fp16.json",
    "{}.fp16.safetensors.index.json",
];
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

pub(crate) fn choose(names: &[String]) -> Option<String> {
    let expected = CHOICES.iter().flat_map(|choice| STEMS.map(|stem| choice.replace("{}", stem)));
    expected.into_iter().find(|name| names.contains(name)).or_else(|| match &loose_files(names)[..] {
        [only] => Some((*only).clone()),
        _ => None,
    })
}

fn loose_files(names: &[String]) -> Vec<&String> {
    names.iter().filter(|name| name.ends_with(".safetensors") || name.ends_with(".gguf")).collect()
}

fn no_weights(folder: &Path, names: &[String]) -> WeightsError {
    let loose = loose_files(names);
    if !loose.is_empty() {
        let files = loose.into_iter().map(|name| folder.join(name)).collect();
        return WeightsError::LooseFiles { path: folder.to_owned(), files };
    }
    let pickled = names.iter().find(|name| name.ends_with(".bin") || name.ends_with(".ckpt") || name.ends_with(".pt"));
    let (found, hint) = match pickled {
        Some(name) => (
            format!("only {}, which PyTorch pickled", quoted(name)),
            "download the .safetensors files of the same folder; pickled files can run code and are not read",
        ),
        None => (
            "no .safetensors or .gguf file".to_owned(),
            "download its weights, or remove the folder if this part is not wanted",
        ),
    };
    WeightsError::NoWeights { path: folder.to_owned(), found, hint }
}

fn file_names(folder: &Path) -> Result<Vec<String>, WeightsError> {
    let failed = |problem| WeightsError::Unreadable { path: folder.to_owned(), problem };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        // A name that is not Unicode is none that we look for.
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Whether there is a folder at `path`. Something else there is an error: it was meant to be one.
pub(crate) fn is_there(path: &Path) -> Result<bool, WeightsError> {
    match path.is_dir() {
        // The link itself: one that leads nowhere is something too.
        false if path.symlink_metadata().is_ok() => Err(WeightsError::NotAFolder { path: path.to_owned() }),
        there => Ok(there),
    }
}

/// The JSON object `name` in `folder`, if it is there.
pub(crate) fn read_json(folder: &Path, name: &str) -> Result<Option<Value>, WeightsError> {
    let path = folder.join(name);
    match read_small(&path) {
        Ok(json) => match serde_json::from_slice(&json) {
            Ok(object @ Value::Object(_)) => Ok(Some(object)),
            Ok(_) => Err(WeightsError::BadJson { path, problem: "it is not an object, `{...}`".into() }),
            Err(error) => Err(WeightsError::BadJson { path, problem: error.to_string() }),
        },
        Err(WeightsError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All of a file that should be small.
pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>, WeightsError> {
    let mut content = Vec::new();
    let read = open_regular(path)?.take(SMALL_BYTES_MAX + 1).read_to_end(&mut content);
    match read {
        Ok(bytes) if bytes as u64 > SMALL_BYTES_MAX => {
            Err(WeightsError::TooLarge { path: path.to_owned(), bytes: bytes as u64, max: SMALL_BYTES_MAX })
        }
        Ok(_) => Ok(content),
        Err(problem) => Err(WeightsError::Unreadable { path: path.to_owned(), problem }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(names: &[&str], chosen: Option<&str>) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(choose(&names).as_deref(), chosen);
    }

    #[test]
    fn full_precision_goes_before_fp16_and_one_file_before_shards() {
        check(&["model.fp16.safetensors", "model.safetensors"], Some("model.safetensors"));
        check(&["model.fp16.safetensors", "model.safetensors.index.json"], Some("model.safetensors.index.json"));
        check(&["model.fp16.safetensors", "config.json"], Some("model.fp16.safetensors"));
        check(
            &[
                "model.fp16-00001-of-00002.safetensors",
                "model.fp16-00002-of-00002.safetensors",
                "model.safetensors.index.fp16.json",
            ],
            Some("model.safetensors.index.fp16.json"),
        );
    }

    #[test]
    fn an_unknown_name_will_do_when_it_is_the_only_one() {
        check(&["config.json", "my_vae.safetensors"], Some("my_vae.safetensors"));
        check(&["a.safetensors", "b.safetensors"], None);
        check(&["pytorch_model.bin"], None);
    }
}
