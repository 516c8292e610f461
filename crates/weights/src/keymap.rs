//! Where a tensor of the official naming is in a file that may name and store it otherwise.
//!
//! Sources: Stability-AI/sd3.5 (`mmditx.py`, `sd3_impls.py`, `other_impls.py`) for the official names,
//! huggingface/diffusers (`convert_sd3_to_diffusers.py`) for its own.

mod t5;
mod vae;

use serde::Serialize;

use self::t5::{t5_from_llama, t5_in_llama};
use self::vae::{autoencoder, vae_from_diffusers, vae_in_diffusers};
use crate::part::PartKind;

/// Whose names a part's tensors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Stability AI's.
    Official,
    /// Hugging Face diffusers'.
    Diffusers,
    /// Hugging Face transformers', which text encoders have nearly everywhere.
    Transformers,
    /// llama.cpp's, which T5 encoders in GGUF files have.
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Layout::Official => "official",
            Layout::Diffusers => "diffusers",
            Layout::Transformers => "transformers",
            Layout::LlamaCpp => "llama.cpp",
        })
    }
}

/// Where an official tensor is. Names are the file's, without the part's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// As it is.
    Whole(String),
    /// As it is, but stored as a 1x1 convolution by one layout and as a matrix by the other; read as a matrix.
    Matrix(String),
    /// As it is, but ggml drops the one that its shape begins with.
    Batch(String),
    /// Equal blocks of rows, one after the other: queries, keys and values.
    Rows(Vec<String>),
    /// The second half of the rows comes first.
    SwappedHalves(String),
}

impl Place {
    /// The tensors of the file.
    pub(crate) fn names(&self) -> &[String] {
        match self {
            Place::Whole(name) | Place::Matrix(name) | Place::Batch(name) | Place::SwappedHalves(name) => {
                std::slice::from_ref(name)
            }
            Place::Rows(names) => names,
        }
    }
}

/// Tensors that some files carry and no model needs. They are not an error.
const NOT_NEEDED: [(&[PartKind], &str); 3] = [
    // 0, 1, .. 76, which older versions of transformers stored.
    (&[PartKind::ClipL, PartKind::ClipG], "text_model.embeddings.position_ids"),
    // CLIP's temperature for comparing texts with pictures.
    (&[PartKind::ClipL, PartKind::ClipG], "logit_scale"),
    // The token table again. Where it is the only copy, it is needed.
    (&[PartKind::T5], T5_TABLE_OTHERWISE),
];

/// Whether `name` is a fixed table and not a trained parameter: papers and cards do not count those.
pub(crate) fn is_buffer(part: PartKind, name: &str) -> bool {
    part == PartKind::Transformer && matches!(name, "pos_embed" | "pos_embed.pos_embed")
}

/// The names of one part in one layout.
#[derive(Debug)]
pub(crate) struct KeyMap {
    part: PartKind,
    layout: Layout,
    /// Transformer blocks, or the autoencoder's levels.
    depth: usize,
    has_shared_table: bool,
}

impl KeyMap {
    /// `names` are the part's in the file: depths are counted there.
    pub(crate) fn new<'a>(part: PartKind, layout: Layout, names: impl Iterator<Item = &'a str> + Clone) -> KeyMap {
        let counted = if part == PartKind::Vae { "decoder.up_blocks." } else { "transformer_blocks." };
        let depth =
            names.clone().filter_map(|name| index_after(name, counted)).max().map_or(0, |last| last.saturating_add(1));
        KeyMap { part, layout, depth, has_shared_table: names.into_iter().any(|name| name == T5_TABLE) }
    }

    /// For writing tensors of these official names in a layout.
    pub(crate) fn for_writing<'a>(part: PartKind, layout: Layout, official: impl Iterator<Item = &'a str>) -> KeyMap {
        let counted = if part == PartKind::Vae { "decoder.up." } else { "joint_blocks." };
        let depth =
            official.filter_map(|name| index_after(name, counted)).max().map_or(0, |last| last.saturating_add(1));
        KeyMap { part, layout, depth, has_shared_table: true }
    }

    /// Whose names these are.
    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// The official name of a file's tensor, or of that which it is some rows of. `None` if there is none.
    pub(crate) fn official(&self, name: &str) -> Option<String> {
        let official = match (self.part, self.layout) {
            (PartKind::Transformer, Layout::Diffusers) => transformer_from_diffusers(name)?,
            (PartKind::Vae, Layout::Diffusers) => vae_from_diffusers(name, self.depth)?,
            (PartKind::T5, Layout::LlamaCpp) => t5_from_llama(name)?,
            (PartKind::T5, _) if name == T5_TABLE_OTHERWISE && !self.has_shared_table => T5_TABLE.to_owned(),
            _ => name.to_owned(),
        };
        // What the tables make of it must lead back.
        self.place(&official).is_some_and(|place| place.names().iter().any(|one| one == name)).then_some(official)
    }

    /// Whether a file may have `name` without the model asking for it.
    pub(crate) fn is_not_needed(&self, name: &str) -> bool {
        let is_only_table = name == T5_TABLE_OTHERWISE && !self.has_shared_table;
        NOT_NEEDED.iter().any(|(parts, known)| parts.contains(&self.part) && *known == name) && !is_only_table
    }

    /// `None` if the layout has no such tensor.
    pub(crate) fn place(&self, official: &str) -> Option<Place> {
        match (self.part, self.layout) {
            (PartKind::Transformer, Layout::Diffusers) => transformer_in_diffusers(official, self.depth),
            (PartKind::Vae, Layout::Diffusers) => Some(autoencoder(official, vae_in_diffusers(official, self.depth)?)),
            (PartKind::Vae, _) => Some(autoencoder(official, official.to_owned())),
            (PartKind::Transformer, _) if official == "pos_embed" => Some(Place::Batch(official.to_owned())),
            (PartKind::T5, Layout::LlamaCpp) => Some(Place::Whole(t5_in_llama(official)?)),
            (PartKind::T5, _) if official == T5_TABLE && !self.has_shared_table => {
                Some(Place::Whole(T5_TABLE_OTHERWISE.to_owned()))
            }
            _ => Some(Place::Whole(official.to_owned())),
        }
    }
}

const T5_TABLE: &str = "shared.weight";
const T5_TABLE_OTHERWISE: &str = "encoder.embed_tokens.weight";

fn index_after(name: &str, start: &str) -> Option<usize> {
    name.strip_prefix(start)?.split('.').next()?.parse().ok()
}

const FINAL_MODULATION: &str = "final_layer.adaLN_modulation.1";
const CONTEXT_MODULATION: &str = "context_block.adaLN_modulation.1";

/// Official and diffusers names outside of the blocks, without `.weight` and `.bias`.
const AROUND_BLOCKS: [(&str, &str); 8] = [
    ("x_embedder.proj", "pos_embed.proj"),
    ("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    ("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
    ("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
    ("context_embedder", "context_embedder"),
    (FINAL_MODULATION, "norm_out.linear"),
    ("final_layer.linear", "proj_out"),
];

/// The same inside of a block. Several names: equal rows of one official tensor.
const IN_BLOCK: [(&str, &[&str]); 18] = [
    ("x_block.attn.qkv", &["attn.to_q", "attn.to_k", "attn.to_v"]),
    ("x_block.attn.ln_q", &["attn.norm_q"]),
    ("x_block.attn.ln_k", &["attn.norm_k"]),
    ("x_block.attn.proj", &["attn.to_out.0"]),
    ("x_block.attn2.qkv", &["attn2.to_q", "attn2.to_k", "attn2.to_v"]),
    ("x_block.attn2.ln_q", &["attn2.norm_q"]),
    ("x_block.attn2.ln_k", &["attn2.norm_k"]),
    ("x_block.attn2.proj", &["attn2.to_out.0"]),
    ("x_block.adaLN_modulation.1", &["norm1.linear"]),
    ("x_block.mlp.fc1", &["ff.net.0.proj"]),
    ("x_block.mlp.fc2", &["ff.net.2"]),
    ("context_block.attn.qkv", &["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
    ("context_block.attn.ln_q", &["attn.norm_added_q"]),
    ("context_block.attn.ln_k", &["attn.norm_added_k"]),
    ("context_block.attn.proj", &["attn.to_add_out"]),
    (CONTEXT_MODULATION, &["norm1_context.linear"]),
    ("context_block.mlp.fc1", &["ff_context.net.0.proj"]),
    ("context_block.mlp.fc2", &["ff_context.net.2"]),
];

/// The last layer, and the last block's text side, only scale and shift. The official files store the shift
/// first there, diffusers the scale.
fn transformer_in_diffusers(official: &str, depth: usize) -> Option<Place> {
    if official == "pos_embed" {
        return Some(Place::Batch("pos_embed.pos_embed".to_owned()));
    }
    let (stem, leaf) = official.rsplit_once('.')?;
    let Some(in_blocks) = stem.strip_prefix("joint_blocks.") else {
        let (_, theirs) = AROUND_BLOCKS.iter().find(|row| row.0 == stem)?;
        let name = format!("{theirs}.{leaf}");
        return Some(if stem == FINAL_MODULATION { Place::SwappedHalves(name) } else { Place::Whole(name) });
    };
    let (index, stem) = in_blocks.split_once('.')?;
    let (_, theirs) = IN_BLOCK.iter().find(|row| row.0 == stem)?;
    let is_last = index.parse::<usize>().ok()? + 1 == depth;
    let mut names: Vec<String> =
        theirs.iter().map(|name| format!("transformer_blocks.{index}.{name}.{leaf}")).collect();
    Some(match names.len() {
        1 if is_last && stem == CONTEXT_MODULATION => Place::SwappedHalves(names.remove(0)),
        1 => Place::Whole(names.remove(0)),
        _ => Place::Rows(names),
    })
}

fn transformer_from_diffusers(name: &str) -> Option<String> {
    if name == "pos_embed.pos_embed" {
        return Some("pos_embed".to_owned());
    }
    let (stem, leaf) = name.rsplit_once('.')?;
    let Some(in_blocks) = stem.strip_prefix("transformer_blocks.") else {
        let (ours, _) = AROUND_BLOCKS.iter().find(|row| row.1 == stem)?;
        return Some(format!("{ours}.{leaf}"));
    };
    let (index, stem) = in_blocks.split_once('.')?;
    let (ours, _) = IN_BLOCK.iter().find(|row| row.1.contains(&stem))?;
    Some(format!("joint_blocks.{index}.{ours}.{leaf}"))
}
