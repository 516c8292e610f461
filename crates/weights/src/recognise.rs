//! What a file is, found from its tensors' names.

use crate::error::WeightsError;
use crate::keymap::Layout;
use crate::part::PartKind;
use crate::tensor_set::TensorSet;

/// A part that was found in a file.
#[derive(Debug)]
pub(crate) struct Found {
    /// Usually one. The two CLIP encoders have the same names and differ in width only.
    pub(crate) kinds: &'static [PartKind],
    pub(crate) layout: Layout,
    pub(crate) prefix: &'static str,
}

impl Found {
    pub(crate) fn may_be(&self, kind: PartKind) -> bool {
        self.kinds.contains(&kind)
    }

    /// Fit for "is ...".
    pub(crate) fn describe(&self) -> String {
        match self.kinds {
            [kind] => format!("the {kind}"),
            _ => "a CLIP text encoder of unusual width".to_owned(),
        }
    }

    /// Fit for "give it with ...".
    pub(crate) fn flags(&self) -> String {
        let flags: Vec<String> = self.kinds.iter().map(|kind| format!("`{}`", kind.flag())).collect();
        flags.join(" or ")
    }
}

/// What an official file of several parts puts before the names of each.
pub(crate) const PREFIXES: [(&str, PartKind); 5] = [
    ("model.diffusion_model.", PartKind::Transformer),
    ("first_stage_model.", PartKind::Vae),
    ("text_encoders.clip_l.transformer.", PartKind::ClipL),
    ("text_encoders.clip_g.transformer.", PartKind::ClipG),
    ("text_encoders.t5xxl.transformer.", PartKind::T5),
];

/// How one of each part's names begins, and no other part's.
const MARKS: [(&str, &[PartKind], Layout); 7] = [
    ("joint_blocks.", &[PartKind::Transformer], Layout::Official),
    ("transformer_blocks.", &[PartKind::Transformer], Layout::Diffusers),
    ("decoder.up.", &[PartKind::Vae], Layout::Official),
    ("decoder.up_blocks.", &[PartKind::Vae], Layout::Diffusers),
    ("text_model.encoder.", &[PartKind::ClipL, PartKind::ClipG], Layout::Transformers),
    ("encoder.block.", &[PartKind::T5], Layout::Transformers),
    ("enc.blk.", &[PartKind::T5], Layout::LlamaCpp),
];

/// What people give by mistake: part of a name, and what has it.
const STRANGERS: [(&str, &str); 6] = [
    (".input_blocks.", "a U-Net, as in Stable Diffusion 1, 2 and XL"),
    ("single_transformer_blocks.", "a FLUX transformer"),
    ("double_blocks.", "a FLUX transformer"),
    ("controlnet_blocks.", "a ControlNet"),
    ("lora_unet_", "a LoRA"),
    (".lora_", "a LoRA"),
];

/// The parts in a file. An error if there is none, or if it is of another system.
pub(crate) fn recognise(set: &TensorSet) -> Result<Vec<Found>, WeightsError> {
    let unrecognised = |what| WeightsError::Unrecognised { path: set.path().to_owned(), what };
    let stranger = STRANGERS.iter().find(|(mark, _)| set.names().any(|name| name.contains(mark)));
    if let Some((_, what)) = stranger {
        return Err(unrecognised(Some(what)));
    }
    let mut found: Vec<Found> = PREFIXES.iter().filter_map(|(prefix, kind)| prefixed(set, prefix, *kind)).collect();
    if found.is_empty() {
        found.extend(unprefixed(set));
    }
    if found.is_empty() { Err(unrecognised(None)) } else { Ok(found) }
}

fn prefixed(set: &TensorSet, prefix: &'static str, kind: PartKind) -> Option<Found> {
    let (kinds, layout) = marked(set, prefix)?;
    let only = PartKind::ALL.iter().position(|one| *one == kind && kinds.contains(one))?;
    Some(Found { kinds: &const { PartKind::ALL }[only..=only], layout, prefix })
}

fn unprefixed(set: &TensorSet) -> Option<Found> {
    let (kinds, layout) = marked(set, "")?;
    // Widths of ViT-L/14 and ViT-bigG/14.
    let kinds = match set.info("text_model.embeddings.token_embedding.weight").map(|info| &info.shape[..]) {
        Some([_, 768]) => &[PartKind::ClipL],
        Some([_, 1280]) => &[PartKind::ClipG],
        _ => kinds,
    };
    Some(Found { kinds, layout, prefix: "" })
}

fn marked(set: &TensorSet, prefix: &str) -> Option<(&'static [PartKind], Layout)> {
    let names = || set.names().filter_map(|name| name.strip_prefix(prefix));
    let (_, kinds, layout) = MARKS.iter().find(|(mark, ..)| names().any(|name| name.starts_with(mark)))?;
    Some((kinds, *layout))
}
