//! Whether a model can be drawn with, from headers and settings alone.

use rectiflow_nn::{Device, Precision};
use rectiflow_text::{ClipKind, T5_LENGTHS};
use rectiflow_weights::{Checkpoint, PartKind};

use crate::compat::Compat;
use crate::error::OpenError;
use crate::parts::{Builder, check_channels};
use crate::prompt::TextEncoders;

/// Everything about the parts that [`Parts::open`](crate::Parts::open) would refuse, without reading values.
///
/// A part that is not there is nothing wrong here: the checkpoint's inventory lists it.
pub fn check(checkpoint: &Checkpoint, device: &Device) -> Vec<OpenError> {
    let (precision, compat) = (Precision::F32, Compat::default());
    let mut builder =
        Builder { checkpoint, device, precision, compat, finish: |source| source.check_fit(), reports: Vec::new() };
    let mut wrong = Vec::new();
    let has = |kind| checkpoint.part(kind).is_some();
    let transformer = has(PartKind::Transformer).then(|| noted(builder.transformer(), &mut wrong)).flatten();
    let vae = has(PartKind::Vae).then(|| noted(builder.vae(), &mut wrong)).flatten();
    let clip_l = noted(builder.clip(PartKind::ClipL, ClipKind::L), &mut wrong).flatten();
    let clip_g = noted(builder.clip(PartKind::ClipG, ClipKind::G), &mut wrong).flatten();
    let t5 = noted(builder.t5(), &mut wrong).flatten();

    // Parts fit each other only if each is what it should be.
    let Some(transformer) = transformer.filter(|_| wrong.is_empty()) else { return wrong };
    let config = transformer.config();
    wrong.extend(vae.and_then(|vae| check_channels(config, vae.config()).err()));
    let (context_width, pooled_width) = (config.context_width, config.pooled_width);
    let text = TextEncoders { clip_l, clip_g, t5, context_width, pooled_width, device: device.clone() };
    if !text.present().is_empty() {
        wrong.extend(text.widths(compat, *T5_LENGTHS.start()).err().map(OpenError::from));
    }
    wrong
}

/// What was built; what was wrong goes to the list.
fn noted<T>(result: Result<T, OpenError>, wrong: &mut Vec<OpenError>) -> Option<T> {
    result.map_err(|error| wrong.push(error)).ok()
}
