//! CLIP's two towers, from a model's own folder.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use std::fs;
use std::path::Path;

use image::RgbImage;
use image::imageops::{FilterType, resize};
use rectiflow_generate::{Compat, Image, to_network};
use rectiflow_nn::{Device, Params, Precision, Tensor, from_id_rows, to_f32};
use rectiflow_text::{Activation, ClipConfig, ClipEncoder, ClipKind, ClipTokenizer, Pooling};
use rectiflow_vision::{ClipImageConfig, ClipImageTower, NamedTensors, without_mean};
use rectiflow_weights::{Checkpoint, PartKind};
use serde_json::Value;

use crate::EvaluateError;

/// What diffusers calls an image tower in a model's folder.
const FOLDER: &str = "image_encoder";
/// Texts or pictures that go through at once.
const AT_ONCE: usize = 16;
/// What towers give.
const VECTOR: &str = "a vector of CLIP";

/// A text tower and an image tower that were trained together.
pub struct Towers {
    tokenizer: ClipTokenizer,
    text: ClipEncoder,
    image: ClipImageTower,
    device: Device,
    /// Blake3 digest of the image tower's file, in hex.
    pub digest: String,
}

impl Towers {
    /// Whether a model's folder has an image tower.
    pub fn are_in(model: &Path) -> bool {
        model.join(FOLDER).is_dir()
    }

    /// Opens the image tower of a model's folder and the text encoder of `checkpoint` that has its width: CLIP-L, or
    /// CLIP-G.
    ///
    /// # Errors
    /// A file is missing or damaged, or no text encoder fits.
    pub fn open(model: &Path, checkpoint: &Checkpoint, device: &Device) -> Result<Towers, EvaluateError> {
        let folder = model.join(FOLDER);
        let bad = |problem: String| EvaluateError::BadTower { path: folder.clone(), problem };
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|problem| EvaluateError::Unreadable { path, problem })
        };
        let settings: Value = serde_json::from_slice(&read("config.json")?).map_err(|error| bad(error.to_string()))?;
        let config = config(&settings).map_err(bad)?;
        let weights = read("model.safetensors")?;
        let mut source = NamedTensors::of(&weights).map_err(|error| bad(error.to_string()))?;
        let image = ClipImageTower::new(Params::new(&mut source, device, Precision::F32), &config);
        source.finish().map_err(|error| bad(error.to_string()))?;

        for (part, kind) in [(PartKind::ClipL, ClipKind::L), (PartKind::ClipG, ClipKind::G)] {
            let Some(part) = checkpoint.part(part) else { continue };
            let mut source = part.source();
            let Ok(text) = ClipConfig::find(&source, kind, part.config()) else { continue };
            if text.projection.unwrap_or(text.width) != config.projection {
                continue;
            }
            let encoder = ClipEncoder::new(Params::new(&mut source, device, Precision::F32), &text);
            source.finish()?;
            let folder = checkpoint.tokenizer_folder(part.kind());
            let tokenizer = Compat::Diffusers.clip_tokenizer(folder, kind, &text)?;
            let digest = blake3::hash(&weights).to_hex().to_string();
            return Ok(Towers { tokenizer, text: encoder, image, device: device.clone(), digest });
        }
        Err(bad(format!("no CLIP text encoder of the model gives vectors of width {}", config.projection)))
    }

    /// Side of the pictures that the image tower takes.
    pub fn side_px(&self) -> usize {
        self.image.config().side_px
    }

    /// The vector of each text, of any length.
    ///
    /// # Errors
    /// The tokenizer's own table does not cover a text; values are not finite.
    pub fn texts(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EvaluateError> {
        let mut all = Vec::new();
        for some in texts.chunks(AT_ONCE) {
            let tokens = some.iter().map(|text| self.tokenizer.tokenize(text)).collect::<Result<Vec<_>, _>>()?;
            let ids: Vec<&[u32]> = tokens.iter().map(|tokens| &tokens.ids[..]).collect();
            let ids_BL = from_id_rows(&ids, &self.device);
            all.extend(finite_rows(&self.text.forward(ids_BL, Pooling::Projected).pooled, VECTOR)?);
        }
        Ok(all)
    }

    /// The vector of each picture, which is brought to the tower's size as transformers does it: bicubic.
    ///
    /// # Errors
    /// Values are not finite.
    pub fn pictures(&self, pictures: &[Image]) -> Result<Vec<Vec<f32>>, EvaluateError> {
        let mut all = Vec::new();
        for some in pictures.chunks(AT_ONCE) {
            let sized: Vec<Vec<u8>> = some.iter().map(|picture| at_side(picture, self.side_px())).collect();
            let bytes: Vec<&[u8]> = sized.iter().map(|rgb| &rgb[..]).collect();
            let pictures_B3HW = to_network(&bytes, [self.side_px(); 2], &self.device);
            all.extend(finite_rows(&self.image.forward(without_mean(pictures_B3HW)), VECTOR)?);
        }
        Ok(all)
    }
}

/// The rows of what networks gave; `what` names one.
///
/// # Errors
/// Values are not finite.
pub(crate) fn finite_rows(x_BP: &Tensor<2>, what: &'static str) -> Result<Vec<Vec<f32>>, EvaluateError> {
    let values = to_f32(x_BP);
    if values.iter().any(|value| !value.is_finite()) {
        return Err(EvaluateError::NotFinite { what });
    }
    Ok(values.chunks(x_BP.dims()[1]).map(<[f32]>::to_vec).collect())
}

/// The bytes of a square picture at another side.
pub(crate) fn at_side(picture: &Image, side_px: usize) -> Vec<u8> {
    if [picture.width, picture.height] == [side_px; 2] {
        return picture.rgb.clone();
    }
    let (width, height) = (picture.width as u32, picture.height as u32);
    let full = RgbImage::from_raw(width, height, picture.rgb.clone()).unwrap_or_default();
    resize(&full, side_px as u32, side_px as u32, FilterType::CatmullRom).into_raw()
}

/// The sizes in transformers' `config.json`.
fn config(settings: &Value) -> Result<ClipImageConfig, String> {
    let number = |key: &str| {
        let value = settings.get(key).and_then(Value::as_u64).filter(|value| (1..1 << 20).contains(value));
        value.map(|value| value as usize).ok_or_else(|| format!("`{key}` of its config.json is no size"))
    };
    let activation = match settings.get("hidden_act").and_then(Value::as_str) {
        Some("quick_gelu") => Activation::QuickGelu,
        Some("gelu") => Activation::Gelu,
        other => return Err(format!("its activation is {other:?}, not quick_gelu or gelu")),
    };
    let config = ClipImageConfig {
        side_px: number("image_size")?,
        patch_px: number("patch_size")?,
        width: number("hidden_size")?,
        layers: number("num_hidden_layers")?,
        heads: number("num_attention_heads")?,
        mlp: number("intermediate_size")?,
        activation,
        eps: settings.get("layer_norm_eps").and_then(Value::as_f64).unwrap_or(1e-5),
        projection: number("projection_dim")?,
    };
    if !config.width.is_multiple_of(config.heads) || !config.side_px.is_multiple_of(config.patch_px) {
        return Err("heads do not divide its width, or patches its pictures".to_owned());
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_that_cannot_be_are_refused_before_a_tower_is_built() {
        let good = json!({ "image_size": 64, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 64, "hidden_act": "gelu", "projection_dim": 16 });
        assert_eq!(config(&good).unwrap().eps, 1e-5);
        for (key, value, part) in [
            ("image_size", json!(60), "divide"),
            ("num_attention_heads", json!(5), "divide"),
            ("num_hidden_layers", json!(0), "num_hidden_layers"),
            ("hidden_act", json!("relu"), "relu"),
            ("projection_dim", json!("16"), "projection_dim"),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert!(config(&bad).unwrap_err().contains(part), "{key}");
        }
    }

    #[test]
    fn a_picture_of_the_right_side_is_not_touched_and_others_are_resized() {
        let picture = Image { width: 4, height: 4, rgb: (0..48).collect() };
        assert_eq!(at_side(&picture, 4), picture.rgb);
        assert_eq!(at_side(&picture, 8).len(), 3 * 64);
    }
}
