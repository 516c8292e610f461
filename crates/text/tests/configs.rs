//! Sizes from tensors and settings, and the released sizes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use burn::module::Module;
use common::{File, fixture, json};
use rectiflow_nn::{DeviceChoice, Params, Precision, RandomInit};
use rectiflow_text::*;
use serde_json::{Value, json as value};

fn part(name: &str) -> (File, Value) {
    let folder = fixture("sd3/model").join(name);
    (File::open(&folder.join("model.safetensors")), json(&folder.join("config.json")))
}

fn params(random: &mut RandomInit) -> Params<'_> {
    Params::new(random, &DeviceChoice::Cpu.open().unwrap(), Precision::F32)
}

fn clip_parameters(config: &ClipConfig) -> usize {
    ClipEncoder::new(params(&mut RandomInit { seed: 0 }), config).num_params()
}

/// The counts are those of the released files. Parameters are not read to be counted.
#[test]
fn the_released_encoders_have_their_parameters() {
    assert_eq!(clip_parameters(&ClipConfig::clip_l()), 123_060_480);
    assert_eq!(clip_parameters(&ClipConfig::clip_g()), 694_659_840);
    let xxl = T5Encoder::new(params(&mut RandomInit { seed: 0 }), &T5Config::xxl());
    assert_eq!(xxl.num_params(), 4_762_310_656);
}

#[test]
fn sizes_are_found_with_and_without_settings() {
    let clip_g = ClipConfig { width: 64, layers: 4, heads: 1, mlp: 256, projection: Some(64), ..ClipConfig::clip_g() };
    let (file, settings) = part("text_encoder_2");
    assert_eq!(ClipConfig::find(&file, ClipKind::G, Some(&settings)).unwrap(), clip_g);
    assert_eq!(ClipConfig::find(&file, ClipKind::G, None).unwrap(), clip_g);

    let mut clip_l = ClipConfig { layers: 3, activation: Activation::QuickGelu, ..clip_g };
    let (mut file, settings) = part("text_encoder");
    assert_eq!(ClipConfig::find(&file, ClipKind::L, Some(&settings)).unwrap(), clip_l);
    file.remove("text_projection.weight");
    clip_l.projection = None;
    assert_eq!(ClipConfig::find(&file, ClipKind::L, None).unwrap(), clip_l);

    let t5 = T5Config { width: 128, layers: 3, heads: 4, head_width: 16, mlp: 256, ..T5Config::xxl() };
    let (file, settings) = part("text_encoder_3");
    assert_eq!(T5Config::find(&file, Some(&settings)).unwrap(), t5);
    assert_eq!(T5Config::find(&file, None).unwrap(), t5);
}

#[track_caller]
fn clip_fails(file: &File, kind: ClipKind, settings: Option<&Value>, part: &str) {
    let message = ClipConfig::find(file, kind, settings).unwrap_err().to_string();
    assert!(message.contains(part), "{message}");
}

#[test]
fn clip_settings_that_contradict_the_tensors_are_errors() {
    for (key, stated, part) in [
        ("hidden_size", value!(128), "the tensors say 64"),
        ("num_hidden_layers", value!(12), "the tensors say 3"),
        ("intermediate_size", value!(64), "the tensors say 256"),
        ("vocab_size", value!(49409), "the tensors say 49408"),
        ("max_position_embeddings", value!(248), "the tensors say 77"),
        ("projection_dim", value!(768), "the tensors say 64"),
        ("num_attention_heads", value!(5), "does not divide the width, 64"),
        ("num_attention_heads", value!(0), "a whole number from 1"),
        ("num_attention_heads", value!(u64::MAX), "a whole number from 1"),
        ("num_attention_heads", value!("one"), "a whole number from 1"),
        ("hidden_act", value!("relu"), "only `quick_gelu` and `gelu`"),
        ("hidden_act", value!(1), "must be a text"),
        ("layer_norm_eps", value!(0), "between 0 and 1"),
        ("hidden_act", value!("\u{9b}31m"), "is \"\u{fffd}31m\", but"),
    ] {
        let (file, mut settings) = part_of_clip_l();
        settings[key] = stated;
        clip_fails(&file, ClipKind::L, Some(&settings), part);
        clip_fails(&file, ClipKind::L, Some(&settings), key);
    }
}

fn part_of_clip_l() -> (File, Value) {
    part("text_encoder")
}

#[test]
fn tensors_that_are_not_clips_are_errors() {
    let (t5, _) = part("text_encoder_3");
    clip_fails(&t5, ClipKind::L, None, "`text_model.embeddings.token_embedding.weight` is missing");

    let (mut unprojected, _) = part("text_encoder_2");
    unprojected.remove("text_projection.weight");
    clip_fails(&unprojected, ClipKind::G, None, "`text_projection.weight` is missing");

    let (mut file, _) = part_of_clip_l();
    file.remove("text_model.encoder.layers.0.layer_norm1.weight");
    clip_fails(&file, ClipKind::L, None, "layers.0.layer_norm1.weight` is missing");

    for (name, shape, part) in [
        ("text_model.embeddings.token_embedding.weight", vec![49407, 64], "no row for the end mark"),
        ("text_model.embeddings.token_embedding.weight", vec![49408], "1 axes instead of 2"),
        ("text_model.embeddings.token_embedding.weight", vec![49408, 1 << 40], "an axis that is not from 1"),
        ("text_model.embeddings.token_embedding.weight", vec![49408, 0], "an axis that is not from 1"),
        ("text_model.embeddings.token_embedding.weight", vec![49408, 48], "put its config.json beside"),
        ("text_model.embeddings.position_embedding.weight", vec![64, 77], "no row for each of 77"),
    ] {
        let (mut file, _) = part_of_clip_l();
        file.set_shape(name, &shape);
        clip_fails(&file, ClipKind::L, None, part);
    }
}

#[track_caller]
fn t5_fails(file: &File, settings: Option<&Value>, part: &str) {
    let message = T5Config::find(file, settings).unwrap_err().to_string();
    assert!(message.contains(part), "{message}");
}

#[test]
fn t5_settings_that_contradict_the_tensors_are_errors() {
    for (key, stated, expected) in [
        ("d_model", value!(64), "the tensors say 128"),
        ("num_layers", value!(24), "the tensors say 3"),
        ("num_heads", value!(8), "the tensors say 4"),
        ("d_kv", value!(32), "the tensors say 16"),
        ("d_ff", value!(64), "the tensors say 256"),
        ("relative_attention_num_buckets", value!(64), "the tensors say 32"),
        ("relative_attention_max_distance", value!(8), "near buckets alone reach to 8"),
        ("feed_forward_proj", value!("relu"), "only `gated-gelu`"),
        ("layer_norm_epsilon", value!(-1.0), "between 0 and 1"),
    ] {
        let (file, mut settings) = part("text_encoder_3");
        settings[key] = stated;
        t5_fails(&file, Some(&settings), expected);
        t5_fails(&file, Some(&settings), key);
    }
}

#[test]
fn tensors_that_are_not_t5s_are_errors() {
    let (clip, _) = part("text_encoder");
    t5_fails(&clip, None, "`shared.weight` is missing");
    let attention = "encoder.block.0.layer.0.SelfAttention";
    for (name, shape, expected) in [
        ("shared.weight".to_owned(), vec![102, 128], "no row for each of T5's three marks and a hundred sentinels"),
        (format!("{attention}.relative_attention_bias.weight"), vec![6, 4], "near and far buckets"),
        (format!("{attention}.relative_attention_bias.weight"), vec![32, 5], "is not 5 heads"),
        (format!("{attention}.q.weight"), vec![64], "1 axes instead of 2"),
    ] {
        let (mut file, _) = part("text_encoder_3");
        file.set_shape(&name, &shape);
        t5_fails(&file, None, expected);
    }
    let (mut old, _) = part("text_encoder_3");
    old.remove("encoder.block.0.layer.1.DenseReluDense.wi_0.weight");
    t5_fails(&old, None, "wi_0.weight` is missing");
}

/// A tensor that only `new` asks for is noted by the source, by its official name.
#[test]
fn mis_shaped_tensors_are_asked_for_in_their_shape() {
    let (mut file, _) = part("text_encoder_3");
    file.set_shape("encoder.block.1.layer.0.SelfAttention.k.weight", &[64, 64]);
    let config = T5Config::find(&file, None).unwrap();
    T5Encoder::new(Params::new(&mut file, &DeviceChoice::Cpu.open().unwrap(), Precision::F32), &config);
    let expected = "encoder.block.1.layer.0.SelfAttention.k.weight: [64, 128] asked for, the file has Some([64, 64])";
    assert_eq!(file.problems, [expected]);
}
