use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;
use rectiflow_nn::TensorData;

use crate::dtype::Dtype;
use crate::error::WeightsError;
use crate::foreign::Foreign;
use crate::gguf;
use crate::header::{Header, TensorInfo};
use crate::read;

/// A safetensors or GGUF file, checked and mapped into memory. Nothing is read until it is asked for.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    container: Container,
    header: Header,
    data: Bytes,
}

/// What a file keeps its tensors in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// Hugging Face's, the usual one.
    Safetensors,
    /// llama.cpp's, for numbers in blocks of few bits.
    Gguf,
}

impl Container {
    /// Whether its files can have numbers of that type.
    pub fn holds(self, dtype: Dtype) -> bool {
        match self {
            Container::Safetensors => dtype.blocks().is_none(),
            Container::Gguf => gguf::number_of(dtype).is_some(),
        }
    }
}

impl std::fmt::Display for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Container::Safetensors => "safetensors",
            Container::Gguf => "GGUF",
        })
    }
}

/// A tensor as it is stored, of whatever type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawTensor<'a> {
    /// How its numbers are stored.
    pub dtype: Dtype,
    /// Its dimensions, slowest first.
    pub shape: &'a [usize],
    /// Its numbers, little-endian, at any alignment.
    pub bytes: &'a [u8],
}

impl TensorFile {
    /// Opens a file and checks all of its header.
    pub fn open(path: impl AsRef<Path>) -> Result<TensorFile, WeightsError> {
        let path = path.as_ref().to_owned();
        let file = open_regular(&path)?;
        let map = match map(&file) {
            Ok(map) => map,
            Err(problem) => return Err(WeightsError::Unreadable { path, problem }),
        };
        let (container, header) = match map.starts_with(gguf::MAGIC) {
            true => match Header::parse_gguf(&map, map.len() as u64) {
                Ok(header) => (Container::Gguf, header),
                Err(problem) => return Err(WeightsError::BadGguf { path, problem }),
            },
            false => match Header::parse(&map, map.len() as u64) {
                Ok(header) => (Container::Safetensors, header),
                Err(problem) => {
                    return Err(match Foreign::recognise(&map) {
                        Some(what) => WeightsError::Foreign { path, what },
                        None => WeightsError::BadHeader { path, problem },
                    });
                }
            },
        };
        let data = map.slice(header.data_start..);
        Ok(TensorFile { path, container, header, data })
    }

    /// What it keeps its tensors in.
    pub fn container(&self) -> Container {
        self.container
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors by name, without their values.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.header.tensors
    }

    /// The free text under `__metadata__`; of a GGUF file, its single values as text.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// One tensor as it is stored.
    pub fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        let info = self.header.tensors.get(name)?;
        Some(RawTensor { dtype: info.dtype, shape: &info.shape, bytes: &self.data[info.range.clone()] })
    }

    /// One tensor, without a copy where the file has it aligned. 8-bit floats become bf16, blocks f32.
    pub fn data(&self, name: &str) -> Result<TensorData, WeightsError> {
        self.data_by(name, read::to_data)
    }

    /// One tensor in memory of its own, so that the file may change afterwards. 8-bit floats become bf16, blocks f32.
    pub fn read(&self, name: &str) -> Result<TensorData, WeightsError> {
        self.data_by(name, read::to_owned_data)
    }

    fn data_by(
        &self,
        name: &str,
        to_data: fn(&[Bytes], Dtype, Vec<usize>) -> Option<TensorData>,
    ) -> Result<TensorData, WeightsError> {
        let info = self.header.tensors.get(name).ok_or_else(|| self.no_such(name))?;
        to_data(&[self.bytes(info)], info.dtype, info.shape.clone()).ok_or_else(|| WeightsError::UnsupportedDtype {
            file: self.path.clone(),
            name: name.to_owned(),
            dtype: info.dtype,
        })
    }

    /// A handle on a tensor's bytes that keeps the map alive.
    pub(crate) fn bytes(&self, info: &TensorInfo) -> Bytes {
        self.data.slice(info.range.clone())
    }

    fn no_such(&self, name: &str) -> WeightsError {
        WeightsError::NoSuchTensor { file: self.path.clone(), name: name.to_owned() }
    }
}

/// For latents and for the expected values of tests; a model is mapped, a checkpoint of a training read tensor by tensor.
const READ_ALL_BYTES_MAX: u64 = 1 << 30;

/// Reads every tensor of a small file into memory of its own, so that the file may change afterwards.
pub fn read_all(path: impl AsRef<Path>) -> Result<BTreeMap<String, TensorData>, WeightsError> {
    let file = TensorFile::open(path)?;
    let bytes = file.data.len() as u64;
    if bytes > READ_ALL_BYTES_MAX {
        return Err(WeightsError::TooLarge { path: file.path, bytes, max: READ_ALL_BYTES_MAX });
    }
    let owned = |name: &String| Ok((name.clone(), file.read(name)?));
    file.header.tensors.keys().map(owned).collect()
}

/// Opens a file but neither a folder nor a pipe or device, which could block or never end.
pub(crate) fn open_regular(path: &Path) -> Result<File, WeightsError> {
    let failed = |problem: io::Error| match problem.kind() {
        io::ErrorKind::NotFound => WeightsError::NotFound { path: path.to_owned() },
        _ => WeightsError::Unreadable { path: path.to_owned(), problem },
    };
    let about = std::fs::metadata(path).map_err(failed)?;
    if about.is_dir() {
        return Err(WeightsError::IsFolder { path: path.to_owned() });
    }
    if !about.is_file() {
        return Err(WeightsError::NotAFile { path: path.to_owned() });
    }
    File::open(path).map_err(failed)
}

#[allow(unsafe_code, reason = "mapping a file is unsafe because the file may change under the map")]
fn map(file: &File) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new()); // an empty map is an error on some systems
    }
    // SAFETY: the map is private and only read. What `mmap` cannot promise is that nobody rewrites the file
    // meanwhile. Then values change, which no reader of weights relies on (every bit pattern is a valid
    // number), or, when the file is cut short, the process ends with SIGBUS; memory is never corrupted.
    // Checkpoints are replaced by renaming, `write_safetensors` included, which leaves an open map as it was.
    let map = unsafe { Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}
