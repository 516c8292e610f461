use std::collections::BTreeMap;
use std::path::Path;

use rectiflow_dataset::DataSettings;
use rectiflow_generate::EncoderFiles;
use rectiflow_weights::PartKind;
use serde_json::json;

use super::EncodeError;
use crate::recipe::{Encoding, LatentOf};

/// The files of a tokenizer's folder that decide what becomes of a text.
const TOKENIZER_FILES: [&str; 5] =
    ["tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"];

/// What a cache depends on beside the data set itself, each with a digest: the encoders' tensors and settings, their
/// tokenizers, which samples are taken, and how pictures and texts are made ready.
///
/// Where the data lie is not among them, nor `check`: damage that it finds is found when a picture is encoded too. A
/// cache that is being made has [`super::DATA_KEY`] beside these; who trains from one need not have the data any more.
///
/// # Errors
/// A file of a tokenizer cannot be read.
pub fn keys(
    files: &EncoderFiles,
    settings: &DataSettings,
    encoding: &Encoding,
    seed: u64,
) -> Result<BTreeMap<String, String>, EncodeError> {
    let mut keys = BTreeMap::new();
    for (name, kind) in
        [("autoencoder", PartKind::Vae), ("CLIP-L", PartKind::ClipL), ("CLIP-G", PartKind::ClipG), ("T5", PartKind::T5)]
    {
        let Some(part) = files.checkpoint().part(kind) else {
            keys.insert(name.to_owned(), "none".to_owned());
            continue;
        };
        // Its settings change what the same tensors give: scale and offset of latents, an activation.
        keys.insert(name.to_owned(), digest(&[part.digest(), files.settings_of(kind)]));
        if kind != PartKind::Vae {
            let tokenizer = match files.checkpoint().tokenizer_folder(kind) {
                Some(folder) => tokenizer(folder)?,
                None => "built in".to_owned(),
            };
            keys.insert(format!("tokenizer of {name}"), tokenizer);
        }
    }
    let DataSettings { picture_column, side_px_min, pixels_max, count, without_caption, .. } = settings;
    let DataSettings { side_px, crop, buckets, background, enlarge, .. } = settings;
    let noise = match encoding.latent {
        LatentOf::Sample => Some(seed),
        LatentOf::Mean => None,
    };
    let columns: Option<Vec<&str>> = settings.captions.as_ref().map(|mix| mix.columns().collect());
    let choice = json!([picture_column, side_px_min, pixels_max, count, without_caption]);
    // Those of most caches are the first scenes of all, and their digest has no word of it.
    let choice = match (settings.seed, settings.split) {
        (None, None) => choice,
        scenes => json!([choice, scenes]),
    };
    let choice = match settings.layout {
        None => choice,
        layout => json!([choice, layout]),
    };
    for (name, settings) in [
        ("choice of samples", choice),
        ("preparation of pictures", json!([side_px, crop, buckets, background, enlarge])),
        ("kind of latents", json!([encoding.latent, encoding.latents_stored, noise, encoding.precision])),
        ("kind of text features", json!([encoding.t5_tokens, encoding.pads, encoding.precision, columns])),
    ] {
        keys.insert(name.to_owned(), digest(&[settings.to_string()]));
    }
    Ok(keys)
}

/// Of the files' contents, where they lie being of no account.
fn tokenizer(folder: &Path) -> Result<String, EncodeError> {
    let mut contents = Vec::new();
    for name in TOKENIZER_FILES {
        let path = folder.join(name);
        if path.is_file() {
            let content = std::fs::read(&path).map_err(|problem| EncodeError::Tokenizer { path, problem })?;
            contents.push(format!("{name} {}", blake3::hash(&content)));
        }
    }
    Ok(digest(&contents))
}

fn digest(lines: &[String]) -> String {
    blake3::hash(lines.join("\n").as_bytes()).to_hex().to_string()
}
