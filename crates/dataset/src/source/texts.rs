//! Texts out of the files beside a picture.

use std::path::Path;

use serde_json::Value;

use crate::captions::{CAPTION_BYTES_MAX, Captions};
use crate::error::Reason;
use crate::source::file::{self, Section};

/// Refuses what is too large to be read as a text.
pub(super) fn check_bytes(bytes: u64) -> Result<(), Reason> {
    match bytes > CAPTION_BYTES_MAX {
        true => Err(Reason::CaptionBytes { bytes, max: CAPTION_BYTES_MAX }),
        false => Ok(()),
    }
}

/// Reads a text that is a file, or a part of one.
pub(super) fn read(path: &Path, section: Section) -> Result<Vec<u8>, Reason> {
    check_bytes(section.bytes)?;
    file::read_section(path, section, u64::MAX).map_err(|problem| Reason::Unreadable(problem.to_string()))
}

/// UTF-8, with or without a byte-order mark.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, Reason> {
    let text = std::str::from_utf8(bytes).map_err(|_| Reason::CaptionNotUtf8)?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Adds the texts of a JSON object: each string, and each list of strings, is a column by its key.
pub(super) fn add_json(captions: &mut Captions, bytes: &[u8]) -> Result<(), Reason> {
    match serde_json::from_str(utf8(bytes)?) {
        Ok(Value::Object(object)) => {
            add_object(captions, &object);
            Ok(())
        }
        Ok(_) => Err(Reason::BadJson("it is not an object, {...}".into())),
        Err(error) => Err(Reason::BadJson(error.to_string())),
    }
}

/// Adds each string of an object, and each list of strings, as a column by its key.
pub(super) fn add_object(captions: &mut Captions, object: &serde_json::Map<String, Value>) {
    for (key, value) in object {
        // A text file's caption goes before a key of that name.
        if captions.has(key) {
            continue;
        }
        match value {
            Value::String(text) => captions.add(key, text),
            Value::Array(list) => list.iter().filter_map(Value::as_str).for_each(|text| captions.add(key, text)),
            _ => {}
        }
    }
}
