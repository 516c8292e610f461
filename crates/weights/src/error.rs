use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::dtype::Dtype;
use crate::file::Container;
use crate::foreign::Foreign;
use crate::gguf::GgufError;
use crate::header::HeaderError;
use crate::part::PartKind;
use crate::shards::IndexError;

/// What can be wrong with the files that a user gave. The message says what is wrong and, in a second line,
/// what to do next.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it; the fields are what the message names")]
pub enum WeightsError {
    #[error("no model was given\nhint: give a diffusers folder or an official .safetensors file with `--model`")]
    NothingGiven,
    #[error("{} does not exist\nhint: check the path", shown(.path))]
    NotFound { path: PathBuf },
    #[error("{} is a folder where a file is expected\nhint: name the .safetensors file inside it", shown(.path))]
    IsFolder { path: PathBuf },
    #[error("{} is not a folder, as it is in a diffusers folder\nhint: download the folder again, or remove {} if it is not wanted", shown(.path), shown(.path))]
    NotAFolder { path: PathBuf },
    #[error("{} is not a regular file\nhint: give a .safetensors file", shown(.path))]
    NotAFile { path: PathBuf },
    #[error("{} cannot be read: {problem}\nhint: check its permissions and its disk", shown(.path))]
    Unreadable { path: PathBuf, problem: io::Error },
    #[error("{} cannot be written: {problem}\nhint: check the folder's permissions and the free space", shown(.path))]
    Unwritable { path: PathBuf, problem: io::Error },
    #[error("{} is not a safetensors file but {what}\nhint: {}", shown(.path), what.hint())]
    Foreign { path: PathBuf, what: Foreign },
    #[error("{} is not a {}safetensors file: {problem}\nhint: {}", shown(.path), readable(.problem), header_hint(.problem))]
    BadHeader { path: PathBuf, problem: HeaderError },
    #[error("{} is not a readable GGUF file: {problem}\nhint: {}", shown(.path), problem.hint())]
    BadGguf { path: PathBuf, problem: GgufError },
    #[error("{} is {bytes} bytes long; files that are read whole may have {max}\nhint: is it the right file?", shown(.path))]
    TooLarge { path: PathBuf, bytes: u64, max: u64 },
    #[error("{} is not the JSON that is expected there: {problem}\nhint: download it again", shown(.path))]
    BadJson { path: PathBuf, problem: String },
    #[error("{} is not a usable list of shards: {problem}\nhint: download the folder again", shown(.path))]
    BadIndex { path: PathBuf, problem: IndexError },
    #[error("{} names the shard {}, which is not there\nhint: the download is incomplete: fetch that file", shown(.index), quoted(.shard))]
    MissingShard { index: PathBuf, shard: String },
    #[error("the shards of {} lack {} of the tensors it lists{}\nhint: download the folder again", shown(.index), tensors.len(), first_three(.tensors))]
    ShardLacks { index: PathBuf, tensors: Vec<String> },
    #[error("{} holds no weights that can be read: {found}\nhint: {hint}", shown(.path))]
    NoWeights { path: PathBuf, found: String, hint: &'static str },
    #[error("{} holds {} files of weights and no list of shards{}\nhint: name one of the files", shown(.path), files.len(), first_three(&file_names(.files)))]
    LooseFiles { path: PathBuf, files: Vec<PathBuf> },
    #[error("{} is not a part of Stable Diffusion 3{}\nhint: SD3's transformer, autoencoder, CLIP-L, CLIP-G and T5 are read, in official or diffusers naming", shown(.path), what.map(|what| format!(" but {what}")).unwrap_or_default())]
    Unrecognised { path: PathBuf, what: Option<&'static str> },
    #[error("{} was given as {wanted} but is {found}\nhint: {hint}", shown(.path))]
    WrongPart { path: PathBuf, wanted: String, found: String, hint: String },
    #[error("{} was given as `--model` but is a CLIP text encoder of unusual width\nhint: give it with `--clip-l` or `--clip-g`", shown(.path))]
    EitherClip { path: PathBuf },
    #[error("the model's files hold no {part}\nhint: give one with `{}`", part.flag())]
    MissingPart { part: PartKind },
    #[error("{0}")]
    Mismatch(Box<Mismatch>),
    #[error("tensor {} of {} is stored as {dtype}, which is not read\nhint: use a file in F32, F16, BF16 or F8_E4M3, or a GGUF file", quoted(.name), shown(.file))]
    UnsupportedDtype { file: PathBuf, name: String, dtype: Dtype },
    #[error("tensors that are read as one have different types in {}{}\nhint: convert the file to one type", shown(.file), first_three(.names))]
    MixedDtypes { file: PathBuf, names: Vec<String> },
    #[error("{} is damaged: {}\nhint: download it again; if it is a training result, use an earlier checkpoint", shown(.file), not_finite(.tensors))]
    NotFinite { file: PathBuf, tensors: Vec<(String, u64)> },
    #[error("tensor {} of {} has the value {value:e}, which {dtype} does not reach\nhint: store it as BF16", quoted(.name), shown(.file))]
    TooLargeFor { file: PathBuf, name: String, dtype: Dtype, value: f32 },
    #[error("{container} files have no numbers of type {dtype}, as of tensor {} of {}\nhint: {}", quoted(.name), shown(.file), not_held(*.container))]
    NotHeld { file: PathBuf, name: String, dtype: Dtype, container: Container },
    #[error("{} has tensors that the {part} has no names for{}\nhint: `rectiflow inspect` says what it holds; it may be of another version", shown(.file), first_three(.names))]
    Nameless { file: PathBuf, part: PartKind, names: Vec<String> },
    #[error("{} has no tensor {}\nhint: `rectiflow inspect` lists what a file has", shown(.file), quoted(.name))]
    NoSuchTensor { file: PathBuf, name: String },
}

/// A file and a model disagree about tensors. Nothing was loaded. All names are the file's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The file, or the folder of its shards.
    pub file: PathBuf,
    /// The model that was to be loaded from it.
    pub model: PartKind,
    /// Tensors that the model needs and the file lacks.
    pub missing: Vec<String>,
    /// Tensors that the file has and the model does not.
    pub unexpected: Vec<String>,
    /// Tensors of another shape than the model's.
    pub misshaped: Vec<Misshaped>,
}

/// A tensor of another shape than the model's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshaped {
    /// Its name in the file.
    pub name: String,
    /// The model's shape.
    pub expected: Vec<usize>,
    /// The file's shape.
    pub found: Vec<usize>,
}

impl std::error::Error for Mismatch {}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let misshaped: Vec<String> = self
            .misshaped
            .iter()
            .map(|one| format!("{} {:?} instead of {:?}", one.name, one.found, one.expected))
            .collect();
        write!(
            f,
            "{} does not fit the {}: {} tensors missing{}, {} unexpected{}, {} of another shape{}\nhint: {}",
            shown(&self.file),
            self.model,
            self.missing.len(),
            first_three(&self.missing),
            self.unexpected.len(),
            first_three(&self.unexpected),
            misshaped.len(),
            first_three(&misshaped),
            self.hint(),
        )
    }
}

impl Mismatch {
    fn hint(&self) -> &'static str {
        let scaled = |name: &String| name.ends_with("scale_weight") || name.ends_with("scaled_fp8");
        if self.unexpected.iter().any(scaled) {
            "this is a scaled fp8 file, which is not read yet; use the plain fp8_e4m3fn or the fp16 file"
        } else if self.missing.is_empty() && self.misshaped.is_empty() {
            "the file has more than this model; it may be another version or a fine-tune with additions"
        } else if self.unexpected.is_empty() && self.misshaped.is_empty() {
            "the file is incomplete; download it again or use the one it was made from"
        } else {
            "the file is of another model or version; `rectiflow inspect` shows what it holds"
        }
    }
}

impl From<Mismatch> for WeightsError {
    fn from(mismatch: Mismatch) -> Self {
        WeightsError::Mismatch(Box::new(mismatch))
    }
}

/// Of what may well be one, but damaged.
fn readable(problem: &HeaderError) -> &'static str {
    if *problem == HeaderError::NotALength { "" } else { "readable " }
}

fn header_hint(problem: &HeaderError) -> &'static str {
    if *problem == HeaderError::NotALength {
        "give the .safetensors file of the weights"
    } else if problem.is_cut_short() {
        "the download was interrupted: download it again"
    } else {
        "it is damaged or something else: download it again"
    }
}

fn not_held(container: Container) -> &'static str {
    match container {
        Container::Safetensors => "store them as f16, with `--dtype f16`, or write a GGUF file",
        Container::Gguf => "store them as f16, with `--dtype f16`, or as q8_0",
    }
}

/// A path for a message.
pub fn shown(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A name from a file for a message: whatever it holds, it stays on its line, short, and sends the terminal
/// no commands.
pub fn quoted(name: &str) -> String {
    const CHARS_MAX: usize = 200;
    let mut text: String = name.chars().take(CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if name.chars().nth(CHARS_MAX).is_some() {
        text.push_str("...");
    }
    format!("`{text}`")
}

fn file_names(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
}

fn first_three(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = names.iter().take(3).map(|name| quoted(name)).collect();
    let more = if names.len() > 3 { ", ..." } else { "" };
    format!(" ({}{more})", shown.join(", "))
}

fn not_finite(tensors: &[(String, u64)]) -> String {
    let listed: Vec<String> =
        tensors.iter().take(3).map(|(name, count)| format!("{count} values of {}", quoted(name))).collect();
    let more = if tensors.len() > 3 { format!(" and of {} other tensors", tensors.len() - 3) } else { String::new() };
    format!("{}{more} are infinite or not a number", listed.join(", "))
}
