//! What stands beside the weights in a diffusers folder: settings, tokenizers, the scheduler and the index.

use std::path::Path;

use anyhow::Context;
use rectiflow_mmdit::MmditConfig;
use rectiflow_text::{ClipConfig, ClipKind, ClipTokenizer, T5Config, T5Tokenizer};
use rectiflow_train::export::{write_index, write_json, write_tokenizer};
use rectiflow_vae::VaeConfig;
use rectiflow_weights::{Checkpoint, Part, PartKind};
use serde_json::json;

/// The released models' stretch of the noise levels.
const SHIFT: f64 = 3.0;
/// Tokens that diffusers has a text padded or cut to for T5.
const T5_TOKENS: usize = 256;

/// Writes all that a folder of these parts has, derived from their tensors' sizes, into `to`, whose weights are there. The
/// tokenizers are the built-in ones.
pub(super) fn write_beside(checkpoint: &Checkpoint, to: &Path) -> anyhow::Result<()> {
    for part in PartKind::ALL.into_iter().filter_map(|kind| checkpoint.part(kind)) {
        let of = || format!("the sizes of the {} cannot be found", part.kind());
        write_part(part, to).with_context(of)?;
    }
    let scheduler = json!({
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": checkpoint.shift().unwrap_or(SHIFT),
    });
    let written = write_json(&to.join("scheduler"), "scheduler_config.json", &scheduler).and_then(|()| write_index(to));
    written.map_err(anyhow::Error::from_boxed)
}

fn write_part(part: &Part, to: &Path) -> anyhow::Result<()> {
    let source = part.source();
    let (folder, settings, tokenizer) = match part.kind() {
        PartKind::Transformer => ("transformer", MmditConfig::find(&source)?.settings(), None),
        PartKind::Vae => ("vae", VaeConfig::find(&source, part.config())?.settings(), None),
        PartKind::ClipL | PartKind::ClipG => {
            let (kind, folder, tokenizer) = match part.kind() {
                PartKind::ClipL => (ClipKind::L, "text_encoder", "tokenizer"),
                _ => (ClipKind::G, "text_encoder_2", "tokenizer_2"),
            };
            let config = ClipConfig::find(&source, kind, part.config())?;
            (folder, config.settings(), Some((tokenizer, ClipTokenizer::files(kind, config.size()))))
        }
        PartKind::T5 => {
            let config = T5Config::find(&source, part.config())?;
            let files = T5Tokenizer::built_in(config.vocabulary).files(T5_TOKENS);
            ("text_encoder_3", config.settings(), Some(("tokenizer_3", files)))
        }
    };
    let written = write_json(&to.join(folder), "config.json", &settings);
    let written = written.and_then(|()| match tokenizer {
        Some((folder, files)) => write_tokenizer(&to.join(folder), &files),
        None => Ok(()),
    });
    written.map_err(anyhow::Error::from_boxed)
}
