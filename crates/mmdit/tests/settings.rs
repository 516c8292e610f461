//! Sizes that no network has are errors, and so are settings that contradict the sizes.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::path::Path;

use rectiflow_mmdit::MmditConfig;
use rectiflow_nn::{Init, ParamSource, Read};
use serde_json::{Value, json};

/// The shapes of a network of two blocks, the first with dual attention, one of the shapes changed.
struct Shapes(&'static str, Vec<usize>);

impl ParamSource for Shapes {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match name {
            _ if name == self.0 => Some(self.1.clone()),
            "x_embedder.proj.weight" => Some(vec![128, 16, 2, 2]),
            "context_embedder.weight" => Some(vec![128, 72]),
            "y_embedder.mlp.0.weight" => Some(vec![128, 64]),
            "final_layer.linear.weight" => Some(vec![64, 128]),
            "pos_embed" => Some(vec![1, 24 * 24, 128]),
            "joint_blocks.0.x_block.attn.qkv.weight"
            | "joint_blocks.0.x_block.attn2.qkv.weight"
            | "joint_blocks.1.x_block.attn.qkv.weight" => Some(vec![384, 128]),
            "joint_blocks.0.context_block.attn.ln_k.weight" => Some(vec![64]),
            _ => None,
        }
    }

    fn claim(&mut self, _name: &str, _shape: &[usize], _init: Init) -> Read {
        unreachable!("only shapes are asked for")
    }
}

fn sd35m() -> MmditConfig {
    MmditConfig::find(&Shapes("", vec![])).unwrap()
}

fn fixture(name: &str) -> Value {
    let path = format!("../../fixtures/{name}/model/transformer/config.json");
    serde_json::from_slice(&std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()).unwrap()
}

#[test]
fn sizes_that_no_network_has_are_errors() {
    for (name, shape, why) in [
        ("x_embedder.proj.weight", vec![0, 16, 2, 2], "an axis that is not from 1"),
        ("x_embedder.proj.weight", vec![128, 0, 2, 2], "an axis that is not from 1"),
        ("x_embedder.proj.weight", vec![128, 16, 0, 0], "an axis that is not from 1"),
        ("x_embedder.proj.weight", vec![128, 16, 1 << 33, 2], "an axis that is not from 1"),
        ("x_embedder.proj.weight", vec![100, 16, 2, 2], "is not in heads of 64"),
        ("x_embedder.proj.weight", vec![128, 16], "has the wrong number of axes"),
        ("context_embedder.weight", vec![128, 0], "an axis that is not from 1"),
        ("y_embedder.mlp.0.weight", vec![128, 0], "an axis that is not from 1"),
        ("final_layer.linear.weight", vec![0, 128], "an axis that is not from 1"),
        ("final_layer.linear.weight", vec![65, 128], "does not fill whole patches"),
        ("pos_embed", vec![1, 0, 128], "is not a square grid"),
    ] {
        let error = MmditConfig::find(&Shapes(name, shape.clone())).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(name), "{shape:?}: {error}");
    }
}

#[test]
fn settings_that_agree_or_are_absent_are_taken() {
    let config = sd35m();
    let without_a_grid = MmditConfig { grid: 192, grid_stored: false, ..config.clone() };
    let settings = fixture("sd35m");
    config.check_settings(&settings).unwrap();
    without_a_grid.check_settings(&settings).unwrap();
    config.check_settings(&json!({})).unwrap();
    config.check_settings(&json!({"num_layers": null, "dual_attention_layers": null})).unwrap();

    let network = |depth, context, pooled, dual_layers, qk_norm| MmditConfig {
        depth,
        width: 64 * depth,
        context_width: context,
        pooled_width: pooled,
        dual_layers,
        qk_norm,
        ..config.clone()
    };
    for (name, config) in [
        ("sd3", network(2, 128, 128, vec![], false)),
        ("long", network(3, 32, 32, vec![0, 1], true)),
        ("empty", network(3, 32, 32, vec![], false)),
        ("deep-unicode", network(4, 48, 48, vec![], true)),
    ] {
        config.check_settings(&fixture(name)).unwrap();
    }
}

#[test]
fn settings_that_contradict_the_tensors_are_errors() {
    for (key, stated, why) in [
        ("num_layers", json!(24), "is 24, but the tensors say 2"),
        ("patch_size", json!(4), "the tensors say 2"),
        ("patch_size", json!(-1), "is -1, but the tensors say 2"),
        ("in_channels", json!(32), "the tensors say 16"),
        ("out_channels", json!(4), "the tensors say 16"),
        ("num_attention_heads", json!(24), "the tensors say 2"),
        ("attention_head_dim", json!(32), "the tensors say 64"),
        ("joint_attention_dim", json!("72"), "is \"72\", but the tensors say 72"),
        ("pooled_projection_dim", json!(2048), "the tensors say 64"),
        ("pos_embed_max_size", json!(384), "the tensors say 24"),
        ("dual_attention_layers", json!([]), "is [], but the tensors say [0]"),
        ("dual_attention_layers", json!([0, 1]), "the tensors say [0]"),
        ("qk_norm", json!(null), "is null, but the tensors say \"rms_norm\""),
        ("qk_norm", json!("layer_norm\u{9b}"), "is \"layer_norm\u{fffd}\", but"),
    ] {
        let mut settings = fixture("sd35m");
        settings[key] = stated;
        let error = sd35m().check_settings(&settings).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(&format!("`{key}`")), "{error}");
    }
    let unnormed = MmditConfig { qk_norm: false, ..sd35m() };
    let error = unnormed.check_settings(&fixture("sd35m")).unwrap_err().to_string();
    assert!(error.contains("is \"rms_norm\", but the tensors say null"), "{error}");
}
