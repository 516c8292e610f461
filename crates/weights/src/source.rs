use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
use rectiflow_nn::{BlockMatrix, Init, ParamSource, Read, RereadMatrix, StoredMatrix};
use serde::Serialize;

use crate::dtype::Dtype;
use crate::error::{Mismatch, Misshaped, WeightsError};
use crate::finite::count_not_finite;
use crate::header::TensorInfo;
use crate::keymap::{KeyMap, Place};
use crate::part::{Part, PartKind};
use crate::read;

/// Gives one model its parameters from a checkpoint, and notes what does not fit.
///
/// Build the model with it, then ask [`PartSource::finish`]; use the model only if that agrees. To say whether a
/// model and a file fit, [`PartSource::check_fit`] is enough and reads no values.
pub struct PartSource<'a> {
    part: &'a Part,
    map: KeyMap,
    /// Names in the part, of whatever shape.
    claimed: BTreeSet<String>,
    missing: Vec<String>,
    misshaped: Vec<Misshaped>,
    /// The first tensor of a type that cannot be read.
    dtype_error: Option<WeightsError>,
}

/// What was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    /// Which part.
    pub part: PartKind,
    /// The file, or the folder of its shards.
    pub file: PathBuf,
    /// Tensors of the file that the model uses.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them are stored in each type.
    pub dtypes: BTreeMap<Dtype, usize>,
    /// Tensors that were passed over because no model needs them.
    pub not_needed: Vec<String>,
}

impl ParamSource for PartSource<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let place = self.map.place(name)?;
        let shape = |name: &String| self.part.info(name).map(|info| info.shape.clone());
        match &place {
            Place::Whole(name) | Place::SwappedHalves(name) => shape(name),
            Place::Matrix(name) => Some(as_matrix(&shape(name)?).to_vec()),
            Place::Batch(name) => Some(with_leading_one(shape(name)?)),
            Place::Rows(names) => {
                let shapes: Vec<_> = names.iter().map(shape).collect::<Option<_>>()?;
                let rows = shapes.iter().try_fold(0_usize, |rows, shape| rows.checked_add(*shape.first()?))?;
                let mut whole = shapes.first()?.clone();
                *whole.first_mut()? = rows;
                Some(whole)
            }
        }
    }

    fn claim(&mut self, name: &str, shape: &[usize], _init: Init) -> Read {
        let Some((pieces, dtype)) = self.locate(name, shape) else {
            return Box::new(|| panic!("a tensor that does not fit was read: `PartSource::finish` was not heeded"));
        };
        let shape = shape.to_vec();
        Box::new(move || read::to_data(&pieces, dtype, shape).expect("locate gives only types that can be read"))
    }

    fn stored(&self, name: &str, shape: [usize; 2]) -> Option<StoredMatrix> {
        let place = self.map.place(name)?;
        let (names, expected) = stored_as(&place, &shape);
        let infos: Vec<&TensorInfo> = names.iter().map(|name| self.part.info(name)).collect::<Option<_>>()?;
        let dtype = infos.first()?.dtype;
        if !infos.iter().all(|info| info.dtype == dtype && info.shape == expected) {
            return None;
        }
        let pieces: Vec<Bytes> = names.iter().filter_map(|name| self.part.bytes(name)).collect();
        let pieces = arranged(&place, pieces);
        match dtype.blocks() {
            Some(kind) if shape[1].is_multiple_of(kind.numbers()) => {
                Some(StoredMatrix::Blocks(BlockMatrix::new(kind, shape, move || joined(pieces))))
            }
            None if dtype.is_weight() && !read::is_in_place(&pieces, dtype) => {
                let read = move || read::to_data(&pieces, dtype, shape.to_vec()).expect("a weight can be read");
                Some(StoredMatrix::Reread(RereadMatrix::new(shape, read)))
            }
            _ => None,
        }
    }
}

impl<'a> PartSource<'a> {
    pub(crate) fn new(part: &'a Part) -> Self {
        let (claimed, missing, misshaped) = Default::default();
        PartSource { part, map: part.key_map(), claimed, missing, misshaped, dtype_error: None }
    }

    /// Checks that the model got all that it asked for, that the file has no more, and that every value is
    /// finite. Reads all of the file for that.
    pub fn finish(self) -> Result<LoadReport, WeightsError> {
        let (part, claimed) = (self.part, self.claimed.clone());
        let report = self.check_fit()?;
        check_finite(part, &claimed)?;
        Ok(report)
    }

    /// Checks as [`PartSource::finish`] does, but for the values: those are not read.
    pub fn check_fit(self) -> Result<LoadReport, WeightsError> {
        let (not_needed, unexpected) = self
            .part
            .names()
            .filter(|name| !self.claimed.contains(*name))
            .partition::<Vec<_>, _>(|name| self.map.is_not_needed(name));
        if !(self.missing.is_empty() && unexpected.is_empty() && self.misshaped.is_empty()) {
            let unexpected = unexpected.into_iter().map(|name| self.part.name_in_file(name)).collect();
            return Err(self.mismatch(unexpected).into());
        }
        let not_needed = not_needed.into_iter().map(|name| self.part.name_in_file(name)).collect();
        if let Some(error) = self.dtype_error {
            return Err(error);
        }
        Ok(report(self.part, &self.claimed, not_needed))
    }

    /// Where the values of an official tensor are, if the file has them in the model's shape.
    fn locate(&mut self, official: &str, shape: &[usize]) -> Option<(Vec<Bytes>, Dtype)> {
        let Some(place) = self.map.place(official) else {
            self.missing.push(official.to_owned());
            return None;
        };
        let (names, expected) = stored_as(&place, shape);
        let infos = self.find(&names)?;
        if !self.check_shapes(&place, &infos, &expected) || !self.check_dtypes(&place, &infos) {
            return None;
        }
        let dtype = infos.first()?.1.dtype;
        let pieces: Vec<Bytes> = names.iter().filter_map(|name| self.part.bytes(name)).collect();
        Some((arranged(&place, pieces), dtype))
    }

    fn find(&mut self, names: &[String]) -> Option<Vec<(String, &'a TensorInfo)>> {
        let mut infos = Vec::new();
        for name in names {
            match self.part.info(name) {
                Some(info) => {
                    self.claimed.insert(name.clone());
                    infos.push((self.part.name_in_file(name), info));
                }
                None => self.missing.push(self.part.name_in_file(name)),
            }
        }
        (infos.len() == names.len()).then_some(infos)
    }

    fn check_shapes(&mut self, place: &Place, infos: &[(String, &TensorInfo)], expected: &[usize]) -> bool {
        let mut fits = true;
        for (name, info) in infos {
            let fits_here = match place {
                Place::Matrix(_) => as_matrix(&info.shape) == expected,
                Place::Batch(_) => with_leading_one(info.shape.clone()) == expected,
                _ => info.shape == expected,
            };
            if !fits_here {
                fits = false;
                let (expected, found) = (expected.to_vec(), info.shape.clone());
                self.misshaped.push(Misshaped { name: name.clone(), expected, found });
            }
        }
        fits
    }

    fn check_dtypes(&mut self, place: &Place, infos: &[(String, &TensorInfo)]) -> bool {
        let file = || self.part.path().to_owned();
        // Halves are cut between bytes, which must not be in a block.
        let is_cut = |info: &TensorInfo| matches!(place, Place::SwappedHalves(_)) && !is_in_whole_blocks(info);
        let unread = infos.iter().find(|(_, info)| !info.dtype.is_weight() || is_cut(info));
        let error = if let Some((name, info)) = unread {
            WeightsError::UnsupportedDtype { file: file(), name: name.clone(), dtype: info.dtype }
        } else if infos.iter().any(|(_, info)| info.dtype != infos[0].1.dtype) {
            WeightsError::MixedDtypes { file: file(), names: infos.iter().map(|(name, _)| name.clone()).collect() }
        } else {
            return true;
        };
        self.dtype_error.get_or_insert(error);
        false
    }

    fn mismatch(self, unexpected: Vec<String>) -> Mismatch {
        let (missing, misshaped) = (self.missing, self.misshaped);
        Mismatch { file: self.part.path().to_owned(), model: self.part.kind, missing, unexpected, misshaped }
    }
}

/// The tensors of the file that make up an official one, and the shape that each of them should have.
fn stored_as(place: &Place, shape: &[usize]) -> (Vec<String>, Vec<usize>) {
    match place {
        Place::Whole(_) | Place::Matrix(_) | Place::Batch(_) | Place::SwappedHalves(_) => {
            (place.names().to_vec(), shape.to_vec())
        }
        Place::Rows(names) => {
            let blocks = names.len();
            assert!(shape[0].is_multiple_of(blocks), "a model claims {shape:?} for {blocks} equal blocks of rows");
            let mut block = shape.to_vec();
            block[0] /= blocks;
            (names.clone(), block)
        }
    }
}

/// The bytes in the official order.
pub(crate) fn arranged(place: &Place, pieces: Vec<Bytes>) -> Vec<Bytes> {
    match (place, &pieces[..]) {
        (Place::SwappedHalves(_), [whole]) => {
            let middle = whole.len() / 2;
            vec![whole.slice(middle..), whole.slice(..middle)]
        }
        _ => pieces,
    }
}

/// One after the other. A single piece is not copied.
pub(crate) fn joined(pieces: Vec<Bytes>) -> Bytes {
    match &pieces[..] {
        [piece] => piece.clone(),
        _ => pieces.concat().into(),
    }
}

/// Whether every row is in blocks of its own, or there are none.
pub(crate) fn is_in_whole_blocks(info: &TensorInfo) -> bool {
    let row = info.shape.last().copied().unwrap_or(1);
    info.dtype.blocks().is_none_or(|kind| row.is_multiple_of(kind.numbers()))
}

/// Of a table that a file may have without it.
fn with_leading_one(mut shape: Vec<usize>) -> Vec<usize> {
    if shape.len() == 2 {
        shape.insert(0, 1);
    }
    shape
}

/// Without the ones that a convolution of one pixel has at the end.
fn as_matrix(shape: &[usize]) -> &[usize] {
    match shape {
        [_, _, 1, 1] => &shape[..2],
        _ => shape,
    }
}

fn check_finite(part: &Part, claimed: &BTreeSet<String>) -> Result<(), WeightsError> {
    let values: Vec<(Dtype, Bytes)> =
        claimed.iter().filter_map(|name| Some((part.info(name)?.dtype, part.bytes(name)?))).collect();
    let slices: Vec<(Dtype, &[u8])> = values.iter().map(|(dtype, bytes)| (*dtype, &bytes[..])).collect();
    let counts = count_not_finite(&slices);
    let bad = claimed.iter().zip(counts).filter(|(_, count)| *count > 0);
    let tensors: Vec<(String, u64)> = bad.map(|(name, count)| (part.name_in_file(name), count)).collect();
    if tensors.is_empty() {
        return Ok(());
    }
    Err(WeightsError::NotFinite { file: part.path().to_owned(), tensors })
}

fn report(part: &Part, claimed: &BTreeSet<String>, not_needed: Vec<String>) -> LoadReport {
    let mut report = LoadReport {
        part: part.kind,
        file: part.path().to_owned(),
        tensors: 0,
        bytes: 0,
        dtypes: BTreeMap::new(),
        not_needed,
    };
    for info in claimed.iter().filter_map(|name| part.info(name)) {
        report.tensors += 1;
        report.bytes += info.range.len() as u64;
        *report.dtypes.entry(info.dtype).or_default() += 1;
    }
    report
}
