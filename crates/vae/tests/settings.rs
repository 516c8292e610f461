//! What shapes cannot tell comes from the settings, and settings that make no sense are errors.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use rectiflow_nn::{Init, ParamSource, Read};
use rectiflow_vae::VaeConfig;
use serde_json::{Value, json};

/// The shapes of an autoencoder of two levels, 64 channels wide.
struct Shapes;

impl ParamSource for Shapes {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match name {
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
    VaeConfig::find(&Shapes, Some(settings)).map_err(|error| error.to_string())
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
        ("norm_num_groups", json!(8.7), "is 8.7, which is not a whole number"),
        ("norm_num_groups", json!(-8), "not a whole number"),
        ("norm_num_groups", json!("32"), "not a whole number"),
        ("norm_num_groups", json!(0), "do not divide"),
        ("norm_num_groups", json!(24), "do not divide"),
        ("scaling_factor", json!("1.5305"), "not a number"),
        ("scaling_factor", json!([1.5305]), "not a number"),
        ("scaling_factor", json!(0), "is 0"),
        ("shift_factor", json!(true), "not a number"),
    ] {
        let mut settings = json!({});
        settings[key] = stated;
        let error = find(&settings).unwrap_err();
        assert!(error.contains(why) && (error.contains(key) || error.contains("groups")), "{settings}: {error}");
    }
}
