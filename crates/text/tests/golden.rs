//! The whole way from prompt to conditioning, against what diffusers computed in f32 from the same f16 weights.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "`cargo test -- --nocapture` shows the measured errors")]

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{File, fixture, json};
use rectiflow_nn::{Device, DeviceChoice, Params, Precision, Tensor, from_ids, to_f32};
use rectiflow_text::*;
use safetensors::SafeTensors;

/// What a fixture was made with, and what came out.
struct Golden {
    prompts: [String; 2],
    t5_tokens: usize,
    tensors: HashMap<String, Vec<f32>>,
    ids: HashMap<String, Vec<u32>>,
}

fn words<T>(bytes: &[u8], read: impl Fn([u8; 4]) -> T) -> Vec<T> {
    bytes.chunks_exact(4).map(|word| read(word.try_into().unwrap())).collect()
}

fn golden(name: &str) -> Golden {
    let bytes = std::fs::read(fixture(name).join("golden.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let arguments = header.metadata().as_ref().unwrap()["args"].clone();
    let arguments: serde_json::Value = serde_json::from_str(&arguments).unwrap();
    let text = |key: &str| arguments[key].as_str().unwrap().to_owned();
    let (mut tensors, mut ids) = (HashMap::new(), HashMap::new());
    for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
        if name.starts_with("ids_") {
            ids.insert(name.to_owned(), words(view.data(), u32::from_le_bytes));
        } else {
            tensors.insert(name.to_owned(), words(view.data(), f32::from_le_bytes));
        }
    }
    let t5_tokens = arguments["seqlen"].as_u64().unwrap() as usize;
    Golden { prompts: [text("prompt"), text("negative")], t5_tokens, tensors, ids }
}

struct Clip {
    tokenizer: ClipTokenizer,
    config: ClipConfig,
    encoder: ClipEncoder,
}

impl Clip {
    fn load(model: &Path, kind: ClipKind, device: &Device, precision: Precision) -> Self {
        let (tokens, weights) = match kind {
            ClipKind::L => ("tokenizer", "text_encoder"),
            ClipKind::G => ("tokenizer_2", "text_encoder_2"),
        };
        let tokenizer = match model.join(tokens) {
            folder if folder.is_dir() => ClipTokenizer::from_folder(&folder, kind).unwrap(),
            _ => ClipTokenizer::embedded(kind),
        };
        let mut file = File::open(&model.join(weights).join("model.safetensors"));
        let settings = json(&model.join(weights).join("config.json"));
        let config = ClipConfig::find(&file, kind, Some(&settings)).unwrap();
        tokenizer.check_vectors(config.vocabulary).unwrap();
        let encoder = ClipEncoder::new(Params::new(&mut file, device, precision), &config);
        file.assert_used_up();
        Clip { tokenizer, config, encoder }
    }

    fn encode(&self, text: &str, device: &Device) -> (Tokens, ClipOutput) {
        let tokens = self.tokenizer.tokenize(text).unwrap();
        let output = self.encoder.forward(from_ids(&tokens.ids, device), Pooling::Projected);
        (tokens, output)
    }
}

fn load_t5(model: &Path, device: &Device, precision: Precision) -> (T5Tokenizer, T5Encoder) {
    let tokenizer = match model.join("tokenizer_3") {
        folder if folder.is_dir() => T5Tokenizer::from_folder(&folder).unwrap(),
        _ => T5Tokenizer::embedded(),
    };
    let mut file = File::open(&model.join("text_encoder_3/model.safetensors"));
    let settings = json(&model.join("text_encoder_3/config.json"));
    let config = T5Config::find(&file, Some(&settings)).unwrap();
    tokenizer.check_vectors(config.vocabulary).unwrap();
    let encoder = T5Encoder::new(Params::new(&mut file, device, precision), &config);
    file.assert_used_up();
    (tokenizer, encoder)
}

/// Largest difference over largest expected value.
fn relative_error<const D: usize>(found: &Tensor<D>, expected: &[f32]) -> f32 {
    let found = to_f32(found);
    assert_eq!(found.len(), expected.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| {
        values.fold(0.0_f32, |most, value| if value.abs() > most || value.is_nan() { value.abs() } else { most })
    };
    let difference = largest(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    difference / largest(&mut expected.iter().copied())
}

#[track_caller]
fn check(name: &str, precision: Precision, tolerance: f32) {
    let device = DeviceChoice::Cpu.open().unwrap();
    let (golden, model) = (golden(name), fixture(name).join("model"));
    let [clip_l, clip_g] = [ClipKind::L, ClipKind::G].map(|kind| Clip::load(&model, kind, &device, precision));
    let (t5_tokenizer, t5) = load_t5(&model, &device, precision);
    let pooled = clip_l.config.width + clip_g.config.width;
    let [clip_l_config, clip_g_config] = [Some(&clip_l.config), Some(&clip_g.config)];
    let t5_config = Some(t5.config());
    let widths = ConditioningWidths::find(clip_l_config, clip_g_config, t5_config, t5.config().width, pooled, 77);

    for (prompt, prefix) in golden.prompts.iter().zip(["", "negative_"]) {
        let (tokens_l, output_l) = clip_l.encode(prompt, &device);
        let (tokens_g, output_g) = clip_g.encode(prompt, &device);
        let tokens_t5 = t5_tokenizer.tokenize(prompt, &T5Rule::diffusers(golden.t5_tokens)).unwrap();
        let output_t5 = t5.forward(from_ids(&tokens_t5.ids, &device));
        if prefix.is_empty() {
            assert_eq!(tokens_l.ids, golden.ids["ids_clip"]);
            assert_eq!(tokens_g.ids, golden.ids["ids_clip2"]);
            assert_eq!(tokens_t5.ids, golden.ids["ids_t5"]);
        }
        let widths = *widths.as_ref().unwrap();
        let joined = assemble(Some(output_l), Some(output_g), Some(output_t5), widths, &device).unwrap();
        let context = relative_error(&joined.context, &golden.tensors[&format!("{prefix}prompt_embeds")]);
        let pooled = relative_error(&joined.pooled, &golden.tensors[&format!("{prefix}pooled")]);
        println!("{name} {precision} {prefix}: context {context:.2e}, pooled {pooled:.2e}");
        assert!(context <= tolerance && pooled <= tolerance, "context {context:.2e}, pooled {pooled:.2e}");
    }
}

macro_rules! golden_tests {
    ($($test:ident: $fixture:literal;)*) => {$(
        mod $test {
            use super::*;

            #[test]
            fn f32() {
                check($fixture, Precision::F32, 1e-5); // measured: up to 2.8e-6
            }

            #[test]
            fn bf16() {
                check($fixture, Precision::Bf16, 2e-2); // measured: up to 1.2e-2
            }
        }
    )*};
}

golden_tests! {
    sd3: "sd3";
    sd35m: "sd35m";
    deep_unicode: "deep-unicode";
    long: "long";
    empty: "empty";
}
