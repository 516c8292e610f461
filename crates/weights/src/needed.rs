//! Which of a repository's files a model or a part needs, by their names. Full precision before the fp16 variant, one file
//! before shards, as [`folder`](crate::folder) reads them; nothing that is not read. Files of other kinds of the same
//! weights (pickled, ONNX, a single file beside a folder) are left.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::error::quoted;
use crate::folder::{choose, part_folder, tokenizer_folder};
use crate::part::PartKind;
use crate::shards::ShardIndex;

/// What is needed of a repository.
#[derive(Debug, PartialEq, Eq)]
pub enum Needed {
    /// These files, and the folder that they are in is the model or part.
    Folder(Vec<String>),
    /// One file, which is the model or part.
    File(String),
}

/// Why nothing of a repository can be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum NotNeeded {
    #[error("it is a {}, and no Stable Diffusion 3 model\nhint: give a model of Stable Diffusion 3 or 3.5", quoted(.0))]
    OtherPipeline(String),
    #[error("its model_index.json names {}, of which it has no weights in safetensors", quoted(.0))]
    Lacks(String),
    #[error(
        "it has several .safetensors or .gguf files, and no folder of a model's parts\nhint: name one of them: ID/FILE"
    )]
    Several,
    #[error(
        "it has no .safetensors or .gguf file where a model or part would have it\nhint: name a file or folder in it: ID/NAME"
    )]
    Nothing,
    #[error("{} cannot be used: {problem}", quoted(.file))]
    Unusable { file: String, problem: String },
}

/// What files of one model are called that a user may name alone.
const ALONE: [&str; 2] = [".safetensors", ".gguf"];

/// Whether a file alone may be a model or part, by its name.
pub fn may_be_alone(name: &str) -> bool {
    ALONE.iter().any(|ending| name.ends_with(ending))
}

const INDEX: &str = "model_index.json";

/// Lists the words that a small model knows; `rectiflow-generate` reads it.
const KNOWN_WORDS: &str = "known_words.txt";

/// The files of a model's `parts`, by the names of all files of its folder. `read` gives the content of a small one: the model's index
/// and lists of shards.
///
/// # Errors
/// It is another kind of model, a part lacks its weights, or what is meant is not clear; or `read` failed.
pub fn model_files<E: From<NotNeeded>>(
    names: &[&str],
    parts: &[PartKind],
    mut read: impl FnMut(&str) -> Result<Vec<u8>, E>,
) -> Result<Needed, E> {
    let mut index = None;
    if names.contains(&INDEX) {
        let object: Value = serde_json::from_slice(&read(INDEX)?)
            .map_err(|problem| NotNeeded::Unusable { file: INDEX.to_owned(), problem: problem.to_string() })?;
        let class = object.get("_class_name").and_then(Value::as_str).unwrap_or_default();
        if !class.is_empty() && !class.starts_with("StableDiffusion3") {
            return Err(NotNeeded::OtherPipeline(class.to_owned()).into());
        }
        index = Some(object);
    }
    let mut files: BTreeSet<String> =
        [INDEX, KNOWN_WORDS].into_iter().filter(|name| names.contains(name)).map(str::to_owned).collect();
    let mut has_weights = false;
    for kind in parts {
        let part = part_folder(*kind);
        match weights_in(part, names, &mut read)? {
            Some(weights) => {
                has_weights = true;
                files.extend(weights);
                files.extend(tokenizer_folder(*kind).into_iter().flat_map(|folder| texts_in(folder, names)));
            }
            None if index.as_ref().is_some_and(|index| is_named(index, part)) => {
                return Err(NotNeeded::Lacks(part.to_owned()).into());
            }
            None => {}
        }
    }
    if has_weights {
        files.extend(texts_in("scheduler", names));
        return Ok(Needed::Folder(files.into_iter().collect()));
    }
    part_files(names, read)
}

/// The files of one part, by the names of all files of its folder. `read` is as for [`model_files`].
///
/// # Errors
/// There are no weights, or it is not clear which are meant; or `read` failed.
pub fn part_files<E: From<NotNeeded>>(
    names: &[&str],
    mut read: impl FnMut(&str) -> Result<Vec<u8>, E>,
) -> Result<Needed, E> {
    match weights_in("", names, &mut read)?.as_deref() {
        // Not the folder: others of its files may have been named before, and lie there too.
        Some([only, ..]) if may_be_alone(only) => Ok(Needed::File(only.clone())),
        Some(files) => Ok(Needed::Folder(files.to_vec())),
        None if names.iter().any(|name| !name.contains('/') && may_be_alone(name)) => Err(NotNeeded::Several.into()),
        None => Err(NotNeeded::Nothing.into()),
    }
}

/// Whether a model's index names a part: `["transformers", "T5EncoderModel"]`, not `[null, null]`.
fn is_named(index: &Value, part: &str) -> bool {
    index.get(part).and_then(|entry| entry.get(0)).is_some_and(Value::is_string)
}

/// The names directly in a folder, without it; `""` is all of it.
fn in_folder<'n>(folder: &str, names: &[&'n str]) -> Vec<&'n str> {
    let inside = |name: &&'n str| match folder {
        "" => Some(*name),
        _ => name.strip_prefix(folder)?.strip_prefix('/'),
    };
    names.iter().filter_map(inside).filter(|name| !name.contains('/')).collect()
}

fn within(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// The weights of a folder with its configuration, if it has weights.
fn weights_in<E: From<NotNeeded>>(
    folder: &str,
    names: &[&str],
    read: &mut impl FnMut(&str) -> Result<Vec<u8>, E>,
) -> Result<Option<Vec<String>>, E> {
    let inside: Vec<String> = in_folder(folder, names).into_iter().map(str::to_owned).collect();
    let Some(chosen) = choose(&inside) else { return Ok(None) };
    let mut files = vec![within(folder, &chosen)];
    if chosen.ends_with(".json") {
        let list = within(folder, &chosen);
        let unusable = |problem: String| NotNeeded::Unusable { file: list.clone(), problem };
        let index = ShardIndex::parse(&read(&list)?).map_err(|problem| unusable(problem.to_string()))?;
        if let Some(absent) = index.shards().into_iter().find(|shard| !inside.iter().any(|name| name == shard)) {
            return Err(unusable(format!("it names {}, which is not there", quoted(absent))).into());
        }
        files.extend(index.shards().into_iter().map(|shard| within(folder, shard)));
    }
    files.extend(inside.iter().filter(|name| *name == "config.json").map(|name| within(folder, name)));
    Ok(Some(files))
}

/// Settings and vocabularies: what tokenizers and schedulers are made of.
fn texts_in(folder: &str, names: &[&str]) -> Vec<String> {
    let is_text = |name: &&str| [".json", ".txt", ".model"].iter().any(|ending| name.ends_with(ending));
    in_folder(folder, names).into_iter().filter(is_text).map(|name| within(folder, name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX_TEXT: &str = r#"{"_class_name":"StableDiffusion3Pipeline","transformer":["diffusers","X"],
        "text_encoder_3":["transformers","T5EncoderModel"],"image_encoder":[null,null]}"#;
    const SHARDS: &str =
        r#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;

    fn content(name: &str) -> Result<Vec<u8>, NotNeeded> {
        Ok(if name == INDEX { INDEX_TEXT } else { SHARDS }.as_bytes().to_vec())
    }

    #[test]
    fn of_a_released_repository_nothing_is_taken_twice() {
        let names = [
            "LICENSE.md",
            "README.md",
            "mmdit.png",
            "model_index.json",
            "scheduler/scheduler_config.json",
            "sd3.5_medium.safetensors",
            "text_encoder/config.json",
            "text_encoder/model.fp16.safetensors",
            "text_encoder/model.safetensors",
            "text_encoder/pytorch_model.bin",
            "text_encoder_3/config.json",
            "text_encoder_3/model-00001-of-00002.safetensors",
            "text_encoder_3/model-00002-of-00002.safetensors",
            "text_encoder_3/model.fp16-00001-of-00002.safetensors",
            "text_encoder_3/model.safetensors.index.json",
            "text_encoder_3/model.safetensors.index.fp16.json",
            "text_encoders/t5xxl_fp16.safetensors",
            "tokenizer/merges.txt",
            "tokenizer/vocab.json",
            "tokenizer_3/spiece.model",
            "tokenizer_2/vocab.json",
            "transformer/config.json",
            "transformer/diffusion_pytorch_model.safetensors",
            "transformer/model.onnx",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ];
        let needed = model_files(&names, &PartKind::ALL, content).unwrap();
        let Needed::Folder(files) = needed else { panic!("{needed:?}") };
        assert_eq!(
            files,
            [
                "model_index.json",
                "scheduler/scheduler_config.json",
                "text_encoder/config.json",
                "text_encoder/model.safetensors",
                "text_encoder_3/config.json",
                "text_encoder_3/model-00001-of-00002.safetensors",
                "text_encoder_3/model-00002-of-00002.safetensors",
                "text_encoder_3/model.safetensors.index.json",
                "tokenizer/merges.txt",
                "tokenizer/vocab.json",
                "tokenizer_3/spiece.model",
                "transformer/config.json",
                "transformer/diffusion_pytorch_model.safetensors",
                "vae/config.json",
                "vae/diffusion_pytorch_model.safetensors",
            ]
        );
    }

    #[test]
    fn a_part_that_is_named_and_not_there_is_an_error() {
        let names = ["model_index.json", "transformer/diffusion_pytorch_model.safetensors", "text_encoder_3/model.bin"];
        assert_eq!(model_files(&names, &PartKind::ALL, content), Err(NotNeeded::Lacks("text_encoder_3".into())));
        let without = [PartKind::Transformer, PartKind::Vae];
        assert_eq!(
            model_files(&names, &without, content),
            Ok(Needed::Folder(names[..2].iter().map(|name| (*name).to_owned()).collect()))
        );
        let half = [&names[..2], &["text_encoder_3/model.safetensors.index.json"]].concat();
        assert!(matches!(model_files(&half, &PartKind::ALL, content), Err(NotNeeded::Unusable { .. })));
    }

    #[test]
    fn a_single_file_is_taken_where_there_is_one() {
        let alone = ["README.md", "sd3.5_medium.safetensors", "text_encoders/clip_g.safetensors"];
        assert_eq!(model_files(&alone, &PartKind::ALL, content), Ok(Needed::File("sd3.5_medium.safetensors".into())));
        let several = ["sd3_medium.safetensors", "sd3_medium_incl_clips.safetensors"];
        assert_eq!(model_files(&several, &PartKind::ALL, content), Err(NotNeeded::Several));
        assert_eq!(model_files(&["sd3-Q8_0.gguf"], &PartKind::ALL, content), Ok(Needed::File("sd3-Q8_0.gguf".into())));
        assert_eq!(model_files(&["x/y.safetensors"], &PartKind::ALL, content), Err(NotNeeded::Nothing));
    }

    #[test]
    fn other_models_are_known_by_their_index() {
        let flux = |_: &str| Ok::<_, NotNeeded>(br#"{"_class_name":"FluxPipeline"}"#.to_vec());
        let names = ["model_index.json", "transformer/diffusion_pytorch_model.safetensors"];
        assert_eq!(model_files(&names, &PartKind::ALL, flux), Err(NotNeeded::OtherPipeline("FluxPipeline".into())));
    }

    #[test]
    fn a_part_is_a_file_or_a_folder_of_shards() {
        let one = ["config.json", "model.safetensors", "model.fp16.safetensors", "flax_model.msgpack"];
        assert_eq!(part_files(&one, content), Ok(Needed::File("model.safetensors".into())));
        let names =
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        assert_eq!(part_files(&names, content), Ok(Needed::Folder(names.map(str::to_owned).into())));
        assert_eq!(part_files(&["a.safetensors", "b.safetensors"], content), Err(NotNeeded::Several));
        assert_eq!(part_files(&["pytorch_model.bin"], content), Err(NotNeeded::Nothing));
    }
}
