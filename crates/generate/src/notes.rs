//! What a model's files hold or say that a picture will not show, and what stands in for something they lack.

use std::fmt;
use std::path::PathBuf;

use rectiflow_text::Origin;
use rectiflow_weights::{OtherTensors, Why, shown};
use serde_json::Value;

use crate::files::{FORMULATION, ModelFiles};
use crate::prompt::Encoder;

/// One thing that a user should know of the files. Each reads as one line.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// Tensors that nothing uses.
    Unused(OtherTensors),
    /// The transformer's file has no table of positions; it is computed, for sides up to this.
    GridComputed {
        /// Pixels.
        side_px_max: usize,
    },
    /// These encoders' texts are cut by the tables in the model's folder, not by the built-in ones.
    OwnTokenizers(Vec<Encoder>),
    /// An encoder's text is cut by the built-in table, because the model's own is in a form that is not read.
    BuiltInTokenizer {
        /// Which encoder.
        encoder: Encoder,
        /// The model's own table.
        instead_of: PathBuf,
    },
    /// A setting of the scheduler that has no effect here.
    SchedulerSetting {
        /// Its name.
        key: String,
        /// Its value, as JSON.
        value: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Unused(OtherTensors { file, why, names, .. }) => {
                let whose = match why {
                    Why::Unused(part) => format!("of the {part}"),
                    Why::Unknown => "that no part of SD3 has".into(),
                };
                let first = names.first().map_or("", String::as_str);
                write!(f, "{}: {} tensors {whose} are not used, first {first:?}", shown(file), names.len())
            }
            Note::GridComputed { side_px_max } => write!(
                f,
                "the transformer's file has no `pos_embed`: the positions are computed by formula, for sides up to \
                 {side_px_max} pixels"
            ),
            Note::OwnTokenizers(encoders) => {
                let names: Vec<String> = encoders.iter().map(ToString::to_string).collect();
                write!(f, "tokens by the model's own tables, not the built-in ones: {}", names.join(", "))
            }
            Note::BuiltInTokenizer { encoder, instead_of } => write!(
                f,
                "tokens for {encoder} by the built-in table: {} is in a form that is not read",
                shown(instead_of)
            ),
            Note::SchedulerSetting { key, value } => {
                write!(f, "the model's scheduler says `{key}` is {value}: that is not carried out")
            }
        }
    }
}

/// All that there is to say of a model's files.
pub(crate) fn notes(files: &ModelFiles, tokenizers: &[(Encoder, &Origin)]) -> Vec<Note> {
    let unused = files.encoders.checkpoint.inventory().other.into_iter().map(Note::Unused);
    let side_px_max = files.facts().side_px_max;
    let grid = (!files.transformer.grid_stored).then_some(Note::GridComputed { side_px_max });
    let scheduler = files.encoders.checkpoint.scheduler_config().map(not_carried_out).unwrap_or_default();
    unused.chain(grid).chain(of_tokenizers(tokenizers)).chain(scheduler).collect()
}

fn of_tokenizers(tokenizers: &[(Encoder, &Origin)]) -> Vec<Note> {
    let own: Vec<Encoder> = tokenizers
        .iter()
        .filter_map(|(encoder, origin)| matches!(origin, Origin::File(_)).then_some(*encoder))
        .collect();
    let instead = tokenizers.iter().filter_map(|(encoder, origin)| match origin {
        Origin::InsteadOf(path) => Some(Note::BuiltInTokenizer { encoder: *encoder, instead_of: path.clone() }),
        _ => None,
    });
    (!own.is_empty()).then_some(Note::OwnTokenizers(own)).into_iter().chain(instead).collect()
}

/// Settings of diffusers' `FlowMatchEulerDiscreteScheduler` that only matter with dynamic shifting.
const OF_DYNAMIC_SHIFTING: [&str; 5] =
    ["base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"];

/// The settings of a scheduler that say something else than what is done here.
fn not_carried_out(scheduler: &Value) -> Vec<Note> {
    let Some(settings) = scheduler.as_object() else { return Vec::new() };
    let is_kept = |key: &str, value: &Value| match key {
        "_class_name" => value == "FlowMatchEulerDiscreteScheduler",
        "_diffusers_version" | FORMULATION => true,
        "shift" => value.is_number(),
        "num_train_timesteps" => value.as_f64() == Some(1000.0),
        key if OF_DYNAMIC_SHIFTING.contains(&key) => true,
        // What is off needs nothing to be done.
        _ => matches!(value, Value::Null | Value::Bool(false)),
    };
    let lost = settings.iter().filter(|(key, value)| !is_kept(key, value));
    lost.map(|(key, value)| Note::SchedulerSetting { key: key.clone(), value: value.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_scheduler_is_carried_out_and_other_settings_are_named() {
        let released = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.29.0.dev0",
            "num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": false, "shift_terminal": null,
            "base_shift": 0.5, "max_shift": 1.15, "time_shift_type": "exponential"}"#;
        assert_eq!(not_carried_out(&serde_json::from_str(released).unwrap()), []);
        let other = r#"{"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": "3", "use_karras_sigmas": true,
            "shift_terminal": 0.1, "num_train_timesteps": 500}"#;
        let lost = not_carried_out(&serde_json::from_str(other).unwrap());
        let text: Vec<String> = lost.iter().map(ToString::to_string).collect();
        for key in ["_class_name", "num_train_timesteps", "shift", "shift_terminal", "use_karras_sigmas"] {
            assert!(text.iter().any(|line| line.contains(&format!("`{key}`"))), "{key}: {text:?}");
        }
        assert_eq!(lost.len(), 5);
    }

    #[test]
    fn a_table_that_is_not_read_is_named_and_the_built_in_ones_are_not() {
        let (own, other) = (Origin::File("a.json".into()), Origin::InsteadOf("spiece.model".into()));
        let origins = [(Encoder::ClipL, &own), (Encoder::ClipG, &Origin::Embedded), (Encoder::T5, &other)];
        let text: Vec<String> = of_tokenizers(&origins).iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 2, "{text:?}");
        assert!(text[0].contains("CLIP-L") && !text[0].contains("CLIP-G"), "{text:?}");
        assert!(text[1].contains("T5") && text[1].contains("spiece.model"), "{text:?}");
    }
}
