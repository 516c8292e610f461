//! A model's parts in another layout: from whatever files have them, into one file or into a diffusers folder.
//!
//! What this module does not do: write what stands beside the weights in a folder, or change what a tensor means.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use rectiflow_nn::TensorData;

use super::narrow::narrowed;
use super::{Converted, as_f32};
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::WeightsError;
use crate::file::Container;
use crate::folder;
use crate::gguf::About;
use crate::header::TensorInfo;
use crate::inventory::{OtherTensors, Why};
use crate::keymap::{KeyMap, Layout};
use crate::layout_out::forms;
use crate::part::{Part, PartKind};
use crate::read;
use crate::recognise::PREFIXES;
use crate::source::{arranged, is_in_whole_blocks, joined};
use crate::write::{Entry, Head, write_entries};

/// What a model is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One file with the official names.
    File(Container),
    /// A folder as diffusers has it, with a safetensors file for each part.
    Folder,
}

impl Form {
    fn container(self) -> Container {
        match self {
            Form::File(container) => container,
            Form::Folder => Container::Safetensors,
        }
    }

    /// Whose names a part's tensors get.
    fn layout(self, kind: PartKind, alone: bool) -> Layout {
        match (self, kind) {
            (Form::Folder, PartKind::Transformer | PartKind::Vae) => Layout::Diffusers,
            (Form::File(_), PartKind::Transformer | PartKind::Vae) => Layout::Official,
            // Where ComfyUI and llama.cpp look for them.
            (Form::File(Container::Gguf), PartKind::T5) if alone => Layout::LlamaCpp,
            _ => Layout::Transformers,
        }
    }
}

/// Writes the parts of a model as `form` at `to`: one file, or the weights of each part into its folder, which is made.
/// What is there is replaced.
///
/// `dtype_of` says what a part's weights become; `None` leaves them as they are, to the bit. What has fewer than two
/// dimensions is never narrower than 16 bits. In blocks are only the matrices of blocks and encoders whose rows are whole
/// blocks, as ComfyUI's converter has it: not the embedders, the last layer, tables of places, or convolutions, which become
/// F16, or stay BF16. Rows that are no whole blocks of Q4_K become Q8_0, where they are whole blocks of that.
///
/// A part that is alone in a file has no prefix there.
///
/// # Errors
/// A file cannot be read or written; a value is not finite or too large for its type; tensors of a part have no place in
/// the layout, or a type that the form does not hold. Of one file nothing is left behind.
///
/// # Panics
/// `dtype_of` gives a type that is not written: a bug of the caller.
pub fn convert_model(
    checkpoint: &Checkpoint,
    form: Form,
    to: &Path,
    dtype_of: &dyn Fn(PartKind) -> Option<Dtype>,
) -> Result<Converted, WeightsError> {
    let parts: Vec<&Part> = PartKind::ALL.into_iter().filter_map(|kind| checkpoint.part(kind)).collect();
    let alone = parts.len() == 1;
    let mut converted = Converted { bytes: 0, left_out: checkpoint.inventory().other };
    let mut all = Vec::new();
    for part in parts {
        let kind = part.kind();
        let layout = form.layout(kind, alone);
        let (tensors, left_out) = outgoing(part, layout, form.container(), dtype_of(kind))?;
        converted.left_out.extend(left_out);
        let prefix = PREFIXES.iter().find(|row| row.1 == kind && !alone).map_or("", |row| row.0);
        match form {
            Form::File(_) => {
                all.extend(tensors.into_iter().map(|one| Outgoing { name: format!("{prefix}{}", one.name), ..one }));
            }
            Form::Folder => {
                let folder = to.join(folder::part_folder(kind));
                let failed = |problem| WeightsError::Unwritable { path: folder.clone(), problem };
                std::fs::create_dir_all(&folder).map_err(failed)?;
                let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
                let file = folder.join(folder::weights_file(kind));
                converted.bytes += write(&file, Head::Safetensors(&metadata), &tensors)?;
            }
        }
    }
    let none = BTreeMap::new();
    match form {
        Form::Folder => {}
        Form::File(Container::Safetensors) => converted.bytes = write(to, Head::Safetensors(&none), &all)?,
        Form::File(Container::Gguf) => {
            let t5_alone = alone && checkpoint.part(PartKind::T5).is_some();
            let about = About { architecture: if t5_alone { "t5encoder" } else { "sd3" } };
            converted.bytes = write(to, Head::Gguf(about), &all)?;
        }
    }
    Ok(converted)
}

/// A tensor on its way from one file to another.
struct Outgoing<'a> {
    name: String,
    shape: Vec<usize>,
    /// What it becomes.
    dtype: Dtype,
    /// Where it comes from, and its name and type there.
    part: &'a Part,
    source: String,
    stored: Dtype,
    /// Its numbers as they are stored, one after the other, in the order they are written in.
    pieces: Vec<Bytes>,
}

fn write(path: &Path, head: Head<'_>, tensors: &[Outgoing<'_>]) -> Result<u64, WeightsError> {
    let entry = |one: &Outgoing<'_>| Entry { name: one.name.clone(), dtype: one.dtype, shape: one.shape.clone() };
    let entries: Vec<Entry> = tensors.iter().map(entry).collect();
    let bytes = entries.iter().map(Entry::bytes).sum();
    let by_name: BTreeMap<&str, &Outgoing<'_>> = tensors.iter().map(|one| (&one.name[..], one)).collect();
    write_entries(path, head, entries, |name| by_name[name].bytes())?;
    Ok(bytes)
}

impl Outgoing<'_> {
    fn bytes(&self) -> Result<Bytes, WeightsError> {
        if self.dtype == self.stored {
            return Ok(joined(self.pieces.clone()));
        }
        let data = read::to_data(&self.pieces, self.stored, self.shape.clone());
        let data: TensorData = data.ok_or_else(|| self.unread())?;
        let narrow = narrowed(&as_f32(&data), self.dtype);
        narrow.map(Bytes::from).map_err(|problem| problem.of(self.part.path(), &self.source, self.dtype))
    }

    fn unread(&self) -> WeightsError {
        let (file, name) = (self.part.path().to_owned(), self.source.clone());
        WeightsError::UnsupportedDtype { file, name, dtype: self.stored }
    }
}

/// The tensors of a part in a layout, and what of it has no place there.
fn outgoing<'a>(
    part: &'a Part,
    layout: Layout,
    container: Container,
    wanted: Option<Dtype>,
) -> Result<(Vec<Outgoing<'a>>, Option<OtherTensors>), WeightsError> {
    let from = part.key_map();
    let found: BTreeMap<&str, Option<String>> = part.names().map(|name| (name, from.official(name))).collect();
    let official: BTreeMap<&str, &str> =
        found.iter().filter_map(|(name, of)| Some((&of.as_ref()?[..], *name))).collect();
    let to = KeyMap::for_writing(part.kind(), layout, official.keys().copied());
    // A table that a file has twice has one name in llama.cpp's layout.
    let has_no_place = |name: &str| from.is_not_needed(name) && to.place(name).is_none();
    let nameless = |(name, of): (&&str, &Option<String>)| match of {
        Some(of) => to.place(of).is_none().then(|| (*name).to_owned()),
        None => Some((*name).to_owned()),
    };
    let (left_out, lost): (Vec<String>, Vec<String>) =
        found.iter().filter_map(nameless).partition(|name| has_no_place(name));
    if !lost.is_empty() {
        let names = lost.iter().map(|name| part.name_in_file(name)).collect();
        return Err(WeightsError::Nameless { file: part.path().to_owned(), part: part.kind(), names });
    }
    let mut tensors = Vec::new();
    for (official, name) in official {
        if !left_out.iter().any(|left| left == name) {
            tensors.extend(rearranged(part, (&from, &to), official, container, wanted)?);
        }
    }
    Ok((tensors, left_out_of(part, left_out)))
}

fn left_out_of(part: &Part, names: Vec<String>) -> Option<OtherTensors> {
    let bytes = names.iter().filter_map(|name| part.info(name)).map(|info| info.range.len() as u64).sum();
    let names: Vec<String> = names.iter().map(|name| part.name_in_file(name)).collect();
    let file = part.path().to_owned();
    (!names.is_empty()).then_some(OtherTensors { file, why: Why::Unused(part.kind()), names, bytes })
}

/// An official tensor, from the form it has in its file to that of another layout. No byte is read.
fn rearranged<'a>(
    part: &'a Part,
    (from, to): (&KeyMap, &KeyMap),
    official: &str,
    container: Container,
    wanted: Option<Dtype>,
) -> Result<Vec<Outgoing<'a>>, WeightsError> {
    let place = from.place(official).unwrap_or_else(|| unreachable!("`official` leads back"));
    let infos: Vec<(&String, &TensorInfo)> =
        place.names().iter().filter_map(|name| Some((name, part.info(name)?))).collect();
    let file = || part.path().to_owned();
    if infos.len() < place.names().len() {
        let names = place.names().iter().filter(|name| part.info(name).is_none());
        let missing = names.map(|name| part.name_in_file(name)).collect();
        let (unexpected, misshaped) = (Vec::new(), Vec::new());
        return Err(crate::Mismatch { file: file(), model: part.kind(), missing, unexpected, misshaped }.into());
    }
    let (first, info) = infos[0];
    let source = part.name_in_file(first);
    if infos.iter().any(|(_, other)| (other.dtype, &other.shape) != (info.dtype, &info.shape)) {
        let names = infos.iter().map(|(name, _)| part.name_in_file(name)).collect();
        return Err(WeightsError::MixedDtypes { file: file(), names });
    }
    let mut shape = info.shape.clone();
    if let Some(rows) = shape.first_mut() {
        *rows *= infos.len();
    }
    let pieces = infos.iter().filter_map(|(name, _)| part.bytes(name)).collect();
    let whole = arranged(&place, pieces);
    let dtype = stored_as(part.kind(), official, info.dtype, &shape, wanted);
    let not_held = |dtype| WeightsError::NotHeld { file: file(), name: source.clone(), dtype, container };
    if !container.holds(dtype) {
        return Err(not_held(dtype));
    }
    let mut tensors = Vec::new();
    for form in forms(to, official, &shape) {
        let is_cut = form.of > 1 || matches!(place, crate::keymap::Place::SwappedHalves(_));
        if is_cut && !is_in_whole_blocks(info) {
            return Err(not_held(info.dtype));
        }
        let pieces = form.blocks.iter().flat_map(|block| block_of(&whole, *block, form.of)).collect();
        let (name, stored) = (form.name, info.dtype);
        tensors.push(Outgoing { name, shape: form.shape, dtype, part, source: source.clone(), stored, pieces });
    }
    Ok(tensors)
}

/// One of several equal blocks of bytes.
fn block_of(pieces: &[Bytes], block: usize, of: usize) -> Vec<Bytes> {
    let length = pieces.iter().map(Bytes::len).sum::<usize>() / of;
    let (start, end) = (block * length, (block + 1) * length);
    let mut at = 0;
    let mut cut = Vec::new();
    for piece in pieces {
        let (from, to) = (start.max(at), end.min(at + piece.len()));
        if from < to {
            cut.push(piece.slice(from - at..to - at));
        }
        at += piece.len();
    }
    cut
}

/// Parts of official names that are kept in 16 bits where others become blocks: there is little of them, and what they
/// lose is seen. Of the transformer those of ComfyUI's converter (city96's `lcpp_sd3.patch`), of T5 that of llama.cpp.
const NOT_IN_BLOCKS: [&str; 8] = [
    "final_layer.",
    "context_embedder.",
    "t_embedder.",
    "y_embedder.",
    "x_embedder.",
    "pos_embed",
    "relative_attention_bias",
    "position_embedding",
];
/// Smaller matrices are not worth it.
const NUMBERS_MIN: usize = 1024;

/// What a tensor becomes.
fn stored_as(kind: PartKind, official: &str, found: Dtype, shape: &[usize], wanted: Option<Dtype>) -> Dtype {
    let Some(wanted) = wanted.filter(|_| found.is_weight()) else { return found };
    let Some(blocks) = wanted.blocks() else {
        return if wanted == Dtype::F8E4M3 && shape.len() < 2 { Dtype::BF16 } else { wanted };
    };
    if shape.len() < 2 {
        return if found == Dtype::F16 { Dtype::F16 } else { Dtype::F32 };
    }
    let wide = if found == Dtype::BF16 { Dtype::BF16 } else { Dtype::F16 };
    let is_matrix = kind != PartKind::Vae && shape.len() == 2 && official.ends_with(".weight");
    if !is_matrix || NOT_IN_BLOCKS.iter().any(|part| official.contains(part)) || shape[0] * shape[1] <= NUMBERS_MIN {
        return wide;
    }
    match shape[1] {
        row if row.is_multiple_of(blocks.numbers()) => wanted,
        row if row.is_multiple_of(rectiflow_nn::BlockType::Q8_0.numbers()) => Dtype::Q8_0,
        _ => wide,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_matrices_become_blocks_and_nothing_else() {
        let of = |kind, name, shape: &[usize], wanted| stored_as(kind, name, Dtype::F32, shape, Some(wanted));
        let block = "joint_blocks.0.x_block.mlp.fc1.weight";
        for (kind, name, shape, wanted, expected) in [
            (PartKind::Transformer, block, &[6144, 1536][..], Dtype::Q4K, Dtype::Q4K),
            (PartKind::Transformer, block, &[9728, 2432], Dtype::Q4K, Dtype::Q8_0),
            (PartKind::Transformer, block, &[2432, 9728], Dtype::Q4K, Dtype::Q4K),
            (PartKind::Transformer, block, &[64, 48], Dtype::Q8_0, Dtype::F16),
            (PartKind::Transformer, block, &[32, 32], Dtype::Q8_0, Dtype::F16),
            (PartKind::Transformer, "joint_blocks.0.x_block.mlp.fc1.bias", &[6144], Dtype::Q8_0, Dtype::F32),
            (PartKind::Transformer, "context_embedder.weight", &[1536, 4096], Dtype::Q8_0, Dtype::F16),
            (PartKind::Transformer, "pos_embed", &[1, 36_864, 1536], Dtype::Q8_0, Dtype::F16),
            (PartKind::Vae, "decoder.mid.attn_1.q.weight", &[512, 512], Dtype::Q8_0, Dtype::F16),
            (PartKind::T5, "shared.weight", &[32_128, 4096], Dtype::Q4K, Dtype::Q4K),
            (PartKind::T5, "shared.weight", &[32_128, 4096], Dtype::F8E4M3, Dtype::F8E4M3),
        ] {
            assert_eq!(of(kind, name, shape, wanted), expected, "{name} {shape:?} in {wanted}");
        }
        assert_eq!(
            stored_as(PartKind::Transformer, "pos_embed", Dtype::BF16, &[1, 9, 64], Some(Dtype::Q8_0)),
            Dtype::BF16
        );
        assert_eq!(stored_as(PartKind::ClipL, "x.weight", Dtype::I64, &[1, 77], Some(Dtype::Q8_0)), Dtype::I64);
    }

    #[test]
    fn blocks_of_bytes_are_cut_across_pieces() {
        let pieces = [Bytes::from_static(b"abc"), Bytes::from_static(b"defgh"), Bytes::from_static(b"i")];
        let cut = |block, of| joined(block_of(&pieces, block, of)).to_vec();
        assert_eq!([cut(0, 3), cut(1, 3), cut(2, 3)], [b"abc".to_vec(), b"def".to_vec(), b"ghi".to_vec()]);
        assert_eq!(cut(0, 1), b"abcdefghi");
    }
}
