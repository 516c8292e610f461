//! Prompts with weights, and long ones, become what transformers' encoders give by ComfyUI's rule
//! (`fixtures/weighted.safetensors`, by `scripts/make_weighted.py`).
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::path::Path;

use rectiflow_generate::{Compat, EncoderTexts, ModelFiles, Parts, Unwatched};
use rectiflow_nn::{DeviceChoice, Precision, TensorData, to_f32};
use rectiflow_text::{Conditioning, WeightedText};
use rectiflow_weights::{ModelPaths, TensorFile};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures");
const T5_LENGTH: usize = 128;
const BOUND: f32 = 1e-4;

fn encoded(marked: &str, clip_chunks_max: usize) -> Conditioning {
    let model = Some(Path::new(FIXTURES).join("sd3/model"));
    let files = ModelFiles::open(&ModelPaths { model, ..ModelPaths::default() }).unwrap();
    let parts = Parts::load(&files, DeviceChoice::Cpu, Precision::F32, Compat::Diffusers).unwrap();
    let text = WeightedText::parse(marked).unwrap();
    let texts = EncoderTexts { clip: text.clone(), t5: text, clip_chunks_max };
    let tokens = parts.text.tokenize(&texts, Compat::Diffusers, T5_LENGTH).unwrap();
    let encoded = parts.text.encode(vec![tokens], Compat::Diffusers, T5_LENGTH, &mut Unwatched).unwrap();
    encoded.into_iter().next().unwrap()
}

#[track_caller]
fn check(name: &str, found: &Conditioning) {
    let file = TensorFile::open(Path::new(FIXTURES).join("weighted.safetensors")).unwrap();
    let expected = |what: &str| -> TensorData { file.data(&format!("{name}/{what}")).unwrap() };
    for (what, found, shape) in [
        ("context", to_f32(&found.context), found.context.dims().to_vec()),
        ("pooled", to_f32(&found.pooled), found.pooled.dims().to_vec()),
    ] {
        let expected = expected(what);
        assert_eq!(expected.shape().to_vec(), shape, "{name}/{what}");
        let expected = expected.try_to_vec::<f32>().unwrap();
        let largest = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest <= BOUND, "{name}/{what}: {largest}");
    }
}

#[test]
fn weighed_tokens_are_comfyuis() {
    let found = encoded("a photo of a (red cat:1.5) on [grass] (with dogs:-0.5)", 1);
    check("weighed", &found);
}

/// With diffusers each `!` is a token of CLIP-G's, so that it may have more chunks.
#[test]
fn encoders_that_cut_a_text_differently_have_as_many_chunks() {
    let marked = format!("{}wow!!!!!!!!", "cat ".repeat(70));
    assert_eq!(encoded(&marked, 32).context.dims(), [1, 2 * 77 + T5_LENGTH, 128]);
}

#[test]
fn a_long_text_is_read_in_chunks() {
    let words: Vec<String> = (0..40).map(|number| format!("word {number} of many")).collect();
    let marked = format!("{} (and a castle:2)", words.join(" "));
    check("long", &encoded(&marked, 32));
    let cut = encoded(&marked, 1);
    assert_eq!(cut.context.dims(), [1, 77 + T5_LENGTH, 128], "CLIP reads its 77 tokens where nobody asks for more");
}
