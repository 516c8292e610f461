//! Trained text encoders and image towers, with the tokenizers that they were trained with.

use std::fs;
use std::path::Path;

use rectiflow_nn::{Module, ParamNames};
use rectiflow_text::{ClipKind, ClipTokenizer, T5Encoder, T5Tokenizer, TokenizerFile};
use rectiflow_vision::{ClipImageConfig, PICTURE_MEAN, PICTURE_STD};
use rectiflow_weights::{IfThere, write_whole};
use serde_json::{Value, json};

use super::{at, complete, write_json, write_part};
use crate::objective::Problem;
use crate::objective::clip::ClipNetwork;
use crate::trainee::Trainee;

/// What transformers calls the weights of a model.
const WEIGHTS: &str = "model.safetensors";
/// What diffusers calls an image tower in a model's folder.
const IMAGE_ENCODER: &str = "image_encoder";

/// Writes the towers of a CLIP into `to`: the text encoder and its tokenizer as those of SD3 that `kind` says, and the
/// image tower as `image_encoder`. All else that a model has is taken over from `beside`, if that is a diffusers folder.
///
/// # Errors
/// A file cannot be written.
pub fn write_clip(
    network: &ClipNetwork,
    names: &ParamNames,
    kind: ClipKind,
    beside: Option<&Path>,
    to: &Path,
) -> Result<(), Problem> {
    let (encoder, tokenizer) = match kind {
        ClipKind::L => ("text_encoder", "tokenizer"),
        ClipKind::G => ("text_encoder_2", "tokenizer_2"),
    };
    write_module(&network.text, names, &to.join(encoder), &network.text.config().settings())?;
    write_tokenizer(&to.join(tokenizer), &ClipTokenizer::files(kind, network.text.config().size()))?;
    let (image, config) = (to.join(IMAGE_ENCODER), network.image.config());
    write_module(&network.image, names, &image, &image_settings(config))?;
    write_json(&image, "preprocessor_config.json", &picture_settings(config))?;
    complete(to, beside, &[encoder, tokenizer, IMAGE_ENCODER])
}

/// Writes a T5 encoder, trained with texts of `tokens`, and its tokenizer into `to`. All else that a model has is taken over from `beside`, if that is a
/// diffusers folder.
///
/// # Errors
/// A file cannot be written.
pub fn write_t5(
    encoder: &T5Encoder,
    names: &ParamNames,
    tokenizer: &T5Tokenizer,
    tokens: usize,
    beside: Option<&Path>,
    to: &Path,
) -> Result<(), Problem> {
    write_module(encoder, names, &to.join("text_encoder_3"), &encoder.config().settings())?;
    write_tokenizer(&to.join("tokenizer_3"), &tokenizer.files(tokens))?;
    complete(to, beside, &["text_encoder_3", "tokenizer_3"])
}

fn write_module<M: Module>(module: &M, names: &ParamNames, folder: &Path, settings: &Value) -> Result<(), Problem> {
    write_part(folder, WEIGHTS, Trainee::weights(module, names), settings)
}

/// Writes the files of a tokenizer into its folder.
///
/// # Errors
/// A file cannot be written.
pub fn write_tokenizer(folder: &Path, files: &[TokenizerFile]) -> Result<(), Problem> {
    fs::create_dir_all(folder).map_err(|problem| at(folder, &problem))?;
    for (name, content) in files {
        let path = folder.join(name);
        write_whole(&path, IfThere::Replace, |out| out.write_all(content)).map_err(|problem| at(&path, &problem))?;
    }
    Ok(())
}

/// The `config.json` of transformers.
fn image_settings(config: &ClipImageConfig) -> Value {
    json!({
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "image_size": config.side_px,
        "patch_size": config.patch_px,
        "num_channels": 3,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp,
        "hidden_act": config.activation.name(),
        "layer_norm_eps": config.eps,
        "projection_dim": config.projection,
    })
}

/// How transformers makes pictures ready for the tower. Resampling 3 is bicubic.
fn picture_settings(config: &ClipImageConfig) -> Value {
    json!({
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": true,
        "size": { "shortest_edge": config.side_px },
        "resample": 3,
        "do_center_crop": true,
        "crop_size": { "height": config.side_px, "width": config.side_px },
        "do_rescale": true,
        "do_normalize": true,
        "image_mean": PICTURE_MEAN,
        "image_std": PICTURE_STD,
    })
}
