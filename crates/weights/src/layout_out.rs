use std::collections::BTreeMap;

use rectiflow_nn::TensorData;

use crate::keymap::{KeyMap, Layout, Place};
use crate::part::PartKind;

/// A tensor of a layout, and what it is of an official one's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// Which of its equal blocks of rows, in the layout's order, and of how many.
    pub(crate) blocks: Vec<usize>,
    pub(crate) of: usize,
}

/// What an official tensor of `shape` becomes in the layout of `map`; itself, where the layout has no name for it.
///
/// # Panics
/// Queries, keys and values of unequal sizes, or halves of an odd number of rows: no network has those.
pub(crate) fn forms(map: &KeyMap, official: &str, shape: &[usize]) -> Vec<Form> {
    let place = map.place(official).unwrap_or_else(|| Place::Whole(official.to_owned()));
    let whole = |name, shape: &[usize]| vec![Form { name, shape: shape.to_vec(), blocks: vec![0], of: 1 }];
    match place {
        Place::Whole(name) | Place::Batch(name) => whole(name, shape),
        Place::Matrix(name) => match (map.layout(), shape) {
            (Layout::Official, &[rows, columns]) => whole(name, &[rows, columns, 1, 1]),
            (Layout::Official, _) => whole(name, shape),
            (_, &[rows, columns, 1, 1]) => whole(name, &[rows, columns]),
            _ => whole(name, shape),
        },
        Place::SwappedHalves(name) => {
            block_of_rows(shape, 2);
            vec![Form { name, shape: shape.to_vec(), blocks: vec![1, 0], of: 2 }]
        }
        Place::Rows(names) => {
            let of = names.len();
            let shape = block_of_rows(shape, of);
            let form = |(index, name)| Form { name, shape: shape.clone(), blocks: vec![index], of };
            names.into_iter().enumerate().map(form).collect()
        }
    }
}

/// The shape of one of `count` equal blocks of rows.
fn block_of_rows(shape: &[usize], count: usize) -> Vec<usize> {
    let mut block = shape.to_vec();
    let rows = block.first_mut().filter(|rows| rows.is_multiple_of(count));
    let rows = rows.unwrap_or_else(|| panic!("{count} equal blocks of rows of {shape:?}"));
    *rows /= count;
    block
}

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
        for Form { name, shape, blocks, of } in forms(&map, &name, &data.shape().to_vec()) {
            let bytes = data.bytes();
            let length = bytes.len() / of;
            let bytes = blocks.iter().flat_map(|block| &bytes[block * length..][..length]).copied().collect();
            found.insert(name, TensorData::from_bytes_vec(bytes, shape, data.dtype()));
        }
    }
    found
}
