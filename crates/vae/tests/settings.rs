//! What shapes cannot tell comes from the settings, and settings that make no sense are errors.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use rectiflow_nn::{Init, ParamSource, Read};
use rectiflow_vae::VaeConfig;
use serde_json::{Value, json};

/// The shapes of an autoencoder of two levels, 64 channels wide, one of them changed.
struct Shapes(&'static str, Vec<usize>);

impl ParamSource for Shapes {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match name {
            _ if name == self.0 => Some(self.1.clone()),
            "encoder.down.0.block.0.conv1.weight" | "encoder.down.1.block.0.conv1.weight" => Some(vec![64, 64, 3, 3]),
            "encoder.conv_out.weight" => Some(vec![32, 64, 3, 3]),
            _ => None,
        }
    }

    fn claim(&mut self, _name: &str, _shape: &[usize], _init: Init) -> Read {
        unreachable!("only shapes are asked for")
    }
}

fn find(settings: &Value) -> Result<VaeConfig, String> {
    VaeConfig::find(&Shapes("", vec![]), Some(settings)).map_err(|error| error.to_string())
}

#[test]
fn settings_are_taken_and_absent_ones_are_the_released_models() {
    let found = find(&json!({"norm_num_groups": 16, "shift_factor": 0, "scaling_factor": 2})).unwrap();
    assert_eq!((found.groups, found.latent_offset, found.latent_scale), (16, 0.0, 2.0));
    for none in [json!({}), json!({"norm_num_groups": null, "shift_factor": null, "scaling_factor": null})] {
        let found = find(&none).unwrap();
        assert_eq!((found.groups, found.latent_offset, found.latent_scale), (32, 0.0609, 1.5305), "{none}");
    }
}

#[test]
fn settings_that_make_no_sense_are_errors() {
    for (key, stated, why) in [
        ("norm_num_groups", json!(8.7), "is 8.7, but it must be a whole number from 1"),
        ("norm_num_groups", json!(-1), "is -1, but it must be a whole number from 1"),
        ("norm_num_groups", json!("32"), "must be a whole number from 1"),
        ("norm_num_groups", json!(0), "is 0, but it must be a whole number from 1"),
        ("norm_num_groups", json!(24), "so many groups do not divide channels [64, 64]"),
        ("scaling_factor", json!("1.5305"), "must be a number"),
        ("scaling_factor", json!([1.5305]), "must be a number"),
        ("scaling_factor", json!(0), "must be more than 0"),
        ("scaling_factor", json!(-1.5305), "must be more than 0"),
        // 0 and infinity in single precision.
        ("scaling_factor", json!(1e-60), "must be more than 0"),
        ("scaling_factor", json!(1e60), "must be a number, and finite"),
        ("shift_factor", json!(true), "must be a number"),
        ("shift_factor", json!(-1e60), "must be a number, and finite"),
        ("latent_channels", json!(4), "is 4, but the tensors say 16"),
        ("latent_channels", json!("16"), "the tensors say 16"),
        ("block_out_channels", json!([64, 128]), "is [64,128], but the tensors say [64,64]"),
        ("block_out_channels", json!([64]), "the tensors say [64,64]"),
        ("layers_per_block", json!(2), "the tensors say 1"),
        ("layers_per_block", json!("\u{9b}31m"), "is \"\u{fffd}31m\", but"),
    ] {
        let mut settings = json!({});
        settings[key] = stated;
        let error = find(&settings).unwrap_err();
        assert!(error.contains(why) && error.contains(&format!("`{key}` is ")), "{settings}: {error}");
    }
}

#[test]
fn settings_of_the_fixtures_sort_are_taken() {
    find(&json!({"latent_channels": 16, "block_out_channels": [64, 64], "layers_per_block": 1})).unwrap();
}

#[test]
fn sizes_that_no_autoencoder_has_are_errors() {
    let first = "encoder.down.0.block.0.conv1.weight";
    for (name, shape, why) in [
        (first, vec![0, 64, 3, 3], "an axis that is not from 1"),
        (first, vec![64, 64, 3, 0], "an axis that is not from 1"),
        (first, vec![1 << 40, 64, 3, 3], "an axis that is not from 1"),
        (first, vec![64, 64], "is missing or has another rank"),
        (first, vec![48, 64, 3, 3], "put its config.json beside"),
        ("encoder.down.1.block.0.conv1.weight", vec![0, 64, 3, 3], "an axis that is not from 1"),
        ("encoder.conv_out.weight", vec![0, 64, 3, 3], "an axis that is not from 1"),
        ("encoder.conv_out.weight", vec![31, 64, 3, 3], "a mean and a variance"),
    ] {
        let error = VaeConfig::find(&Shapes(name, shape.clone()), None).unwrap_err().to_string();
        assert!(error.contains(why), "{name} {shape:?}: {error}");
    }
}
