use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::captions::Captions;
use crate::error::{DatasetError, Reason};
use crate::findings::LeftOut;
use crate::source::file::{self, Section};
use crate::source::{Source, texts};

/// A list with a line of JSON for each sample: `{"file": "a/b.png", "caption": "..."}`. The path is relative to the
/// list's folder; other tools' keys for it are read too. The other keys with texts are columns.
#[derive(Debug)]
pub struct Jsonl {
    list: PathBuf,
    samples: Vec<Line>,
    pub(super) left_out: Vec<LeftOut>,
}

#[derive(Debug)]
struct Line {
    section: Section,
    /// As the list names it.
    picture: String,
}

/// What the picture's path is called: ours, then diffusers', the hub's and kohya's.
const FILE_KEYS: [&str; 5] = ["file", "file_name", "image", "image_path", "path"];
/// A line of more is no line of a list.
const LINE_BYTES_MAX: u64 = 16 << 20;

impl Jsonl {
    /// Reads the list once, to know where each line is. No picture is looked for.
    pub fn open(list: &Path) -> Result<Self, DatasetError> {
        let failed = |problem| DatasetError::reading(list, problem);
        let mut lines = BufReader::new(File::open(list).map_err(failed)?);
        let (mut samples, mut left_out) = (Vec::new(), Vec::new());
        let mut offset = 0;
        for number in 1.. {
            let mut line = Vec::new();
            let read = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(failed)? as u64;
            if read == 0 {
                break;
            }
            if read == LINE_BYTES_MAX && line.last() != Some(&b'\n') {
                let problem = format!("line {number} has more than {LINE_BYTES_MAX} bytes");
                return Err(DatasetError::Damaged { path: list.to_owned(), problem });
            }
            let section = Section { offset, bytes: read };
            offset += read;
            if line.trim_ascii().is_empty() {
                continue;
            }
            match object(&line).and_then(|(object, key)| path_in(&object, key)) {
                Ok(picture) => samples.push(Line { section, picture }),
                Err(reason) => left_out.push(LeftOut::no_sample(format!("line {number}"), reason)),
            }
        }
        Ok(Jsonl { list: list.to_owned(), samples, left_out })
    }

    /// Whether a picture lies in this folder.
    pub(super) fn is_used(&self, folder: &Path) -> bool {
        (0..self.count()).any(|number| self.picture_path(number).starts_with(folder))
    }

    fn picture_path(&self, number: u64) -> PathBuf {
        let folder = self.list.parent().unwrap_or(Path::new(""));
        folder.join(&self.samples[number as usize].picture)
    }
}

/// A line's object, and the key of its picture.
fn object(line: &[u8]) -> Result<(Map<String, Value>, &'static str), Reason> {
    let object: Map<String, Value> =
        serde_json::from_str(texts::utf8(line)?).map_err(|error| Reason::BadJson(error.to_string()))?;
    let key = FILE_KEYS.into_iter().find(|key| object.contains_key(*key)).ok_or(Reason::NoPicture)?;
    Ok((object, key))
}

fn path_in(object: &Map<String, Value>, key: &str) -> Result<String, Reason> {
    object[key].as_str().filter(|path| !path.is_empty()).map(str::to_owned).ok_or(Reason::NoPicture)
}

impl Source for Jsonl {
    fn count(&self) -> u64 {
        self.samples.len() as u64
    }

    fn id(&self, number: u64) -> String {
        self.samples[number as usize].picture.clone()
    }

    fn picture_name(&self, number: u64) -> Option<String> {
        Some(self.id(number))
    }

    fn picture_start(&self, number: u64, bytes: u64) -> Result<Vec<u8>, Reason> {
        file::read_picture(&self.picture_path(number), bytes)
    }

    fn captions(&self, number: u64) -> Result<Captions, Reason> {
        let line = texts::read(&self.list, self.samples[number as usize].section)?;
        let (mut object, key) = object(&line)?;
        object.remove(key);
        let mut captions = Captions::default();
        texts::add_object(&mut captions, &object);
        Ok(captions)
    }

    fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }
}
