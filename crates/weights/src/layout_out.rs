use std::collections::BTreeMap;

use rectiflow_nn::TensorData;

use crate::keymap::{KeyMap, Layout, Place};
use crate::part::PartKind;

/// The tensors of a part, given by official name, with the names and in the forms that they have in a layout: what
/// reading a file of that layout gives back.
///
/// A tensor that the layout has no name for keeps its own.
///
/// # Panics
/// Queries, keys and values of unequal sizes, or halves of an odd number of rows: no network has those.
pub fn in_layout(
    part: PartKind,
    layout: Layout,
    official: BTreeMap<String, TensorData>,
) -> BTreeMap<String, TensorData> {
    let map = KeyMap::for_writing(part, layout, official.keys().map(String::as_str));
    let mut found = BTreeMap::new();
    for (name, data) in official {
        match map.place(&name) {
            None => {
                found.insert(name, data);
            }
            Some(Place::Whole(theirs) | Place::Matrix(theirs)) => {
                found.insert(theirs, data);
            }
            Some(Place::SwappedHalves(theirs)) => {
                found.insert(theirs, joined(rows_of(&data, 2).into_iter().rev(), &data));
            }
            Some(Place::Rows(theirs)) => {
                let count = theirs.len();
                found.extend(theirs.into_iter().zip(rows_of(&data, count)));
            }
        }
    }
    found
}

/// Equal blocks of rows.
fn rows_of(data: &TensorData, count: usize) -> Vec<TensorData> {
    let mut shape = data.shape().to_vec();
    assert!(shape[0].is_multiple_of(count), "{count} equal blocks of {} rows", shape[0]);
    shape[0] /= count;
    let bytes = data.bytes();
    let block = |bytes: &[u8]| TensorData::from_bytes_vec(bytes.to_vec(), shape.clone(), data.dtype());
    bytes.chunks_exact((bytes.len() / count).max(1)).map(block).collect()
}

/// Blocks of rows one after the other, in the shape of `like`.
fn joined(blocks: impl Iterator<Item = TensorData>, like: &TensorData) -> TensorData {
    let bytes = blocks.flat_map(|block| block.bytes().to_vec()).collect();
    TensorData::from_bytes_vec(bytes, like.shape().to_vec(), like.dtype())
}
