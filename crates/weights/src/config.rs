//! Settings that stand beside weights: which `config.json` belongs to a part, and the scheduler's shift.

use std::path::Path;

use rectiflow_nn::ParamSource;
use serde_json::Value;

use crate::error::WeightsError;
use crate::folder;
use crate::part::{Part, PartKind};

/// How a part's `config.json` is known.
struct Mark {
    /// The key that names the kind, and what it says there.
    kind: (&'static str, &'static str),
    /// The key that gives a size, the tensor that tells it (official name), and which of its dimensions over what.
    size: (&'static str, &'static str, usize, usize),
}

fn mark(part: PartKind) -> Mark {
    match part {
        PartKind::Transformer => Mark {
            kind: ("_class_name", "SD3Transformer2DModel"),
            size: ("joint_attention_dim", "context_embedder.weight", 1, 1),
        },
        PartKind::Vae => Mark {
            kind: ("_class_name", "AutoencoderKL"),
            // Mean and logarithm of the variance.
            size: ("latent_channels", "encoder.conv_out.weight", 0, 2),
        },
        PartKind::ClipL | PartKind::ClipG => Mark {
            kind: ("model_type", "clip_text_model"),
            size: ("hidden_size", "text_model.embeddings.token_embedding.weight", 1, 1),
        },
        PartKind::T5 => Mark { kind: ("model_type", "t5"), size: ("d_model", "shared.weight", 1, 1) },
    }
}

/// The `config.json` in the folder of a part that is alone in its file or shards.
///
/// `None` also for one that is not the part's or cannot be read: a file that works alone must work in whatever
/// folder it lies.
pub(crate) fn beside(part: &Part) -> Option<Value> {
    let path = part.path();
    let folder = if path.is_dir() { path } else { path.parent()? };
    let config = folder::read_json(folder, "config.json").ok()??;
    is_of(part, &config).then_some(config)
}

fn is_of(part: &Part, config: &Value) -> bool {
    let Mark { kind: (kind_key, kind), size: (size_key, tensor, axis, over) } = mark(part.kind());
    let stated = config.get(size_key).and_then(Value::as_u64);
    let found = part.source().shape(tensor).and_then(|shape| Some(*shape.get(axis)? / over));
    config.get(kind_key).and_then(Value::as_str) == Some(kind) && stated.is_some() && stated == found.map(|n| n as u64)
}

/// The shift of the noise levels that a scheduler's configuration states, if it states any.
pub(crate) fn shift(path: &Path, scheduler: Option<&Value>) -> Result<Option<f64>, WeightsError> {
    let Some(stated) = scheduler.and_then(|config| config.get("shift")).filter(|shift| !shift.is_null()) else {
        return Ok(None);
    };
    let problem = || format!("`shift` is {stated}, which is not a number");
    let bad = || WeightsError::BadJson { path: path.to_owned(), problem: problem() };
    stated.as_f64().map(Some).ok_or_else(bad)
}
