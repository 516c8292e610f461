use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::captions::Captions;
use crate::error::{DatasetError, Reason};
use crate::findings::LeftOut;
use crate::source::{Source, file, texts};

/// Texts alone: a file with one on each line, `.jsonl` with `{"text": "..."}` or `"..."`, or any other as it is. There
/// are no pictures, so only what learns from texts can use it.
#[derive(Debug)]
pub struct Lines {
    samples: Vec<(u64, Captions)>,
    pub(super) left_out: Vec<LeftOut>,
}

/// The column of a line that has no keys.
const COLUMN: &str = "text";

impl Lines {
    /// Reads the file: texts are small beside what is trained on them.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(path: &Path) -> Result<Self, DatasetError> {
        let all = std::fs::read(path).map_err(|problem| DatasetError::reading(path, problem))?;
        let is_json = file::extension(path) == "jsonl";
        let (mut samples, mut left_out) = (Vec::new(), Vec::new());
        for (line, number) in all.split(|byte| *byte == b'\n').zip(1..) {
            if line.trim_ascii().is_empty() {
                continue;
            }
            match captions(line, is_json) {
                Ok(captions) => samples.push((number, captions)),
                Err(reason) => left_out.push(LeftOut::no_sample(name(number), reason)),
            }
        }
        Ok(Lines { samples, left_out })
    }

    /// The only file of a folder that can be one of texts, or the file itself.
    pub(super) fn find(path: &Path, files: &[PathBuf]) -> Result<PathBuf, String> {
        match files {
            _ if path.is_file() => Ok(path.to_owned()),
            [only] => Ok(only.clone()),
            _ => Err(format!("{} files of texts (.txt, .jsonl) are in it; name one", files.len())),
        }
    }
}

fn captions(line: &[u8], is_json: bool) -> Result<Captions, Reason> {
    texts::check_bytes(line.len() as u64)?;
    let line = texts::utf8(line)?;
    let mut captions = Captions::default();
    if !is_json {
        captions.add(COLUMN, line);
        return Ok(captions);
    }
    match serde_json::from_str(line) {
        Ok(Value::String(text)) => captions.add(COLUMN, &text),
        Ok(Value::Object(object)) => texts::add_object(&mut captions, &object),
        Ok(_) => return Err(Reason::BadJson("it is neither a text nor an object".into())),
        Err(error) => return Err(Reason::BadJson(error.to_string())),
    }
    Ok(captions)
}

fn name(line: u64) -> String {
    format!("line {line}")
}

impl Source for Lines {
    fn count(&self) -> u64 {
        self.samples.len() as u64
    }

    fn id(&self, number: u64) -> String {
        name(self.samples[number as usize].0)
    }

    fn picture_name(&self, _number: u64) -> Option<String> {
        None
    }

    fn picture_start(&self, _number: u64, _bytes: u64) -> Result<Vec<u8>, Reason> {
        Err(Reason::NoPicture)
    }

    fn captions(&self, number: u64) -> Result<Captions, Reason> {
        Ok(self.samples[number as usize].1.clone())
    }

    fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }
}
