//! The regular expressions that a `tokenizer.json` may have run over texts.
//!
//! The engine of the library backtracks: an expression of a file's own choice can take time that doubles with
//! each character, and the library stops the program when the engine gives up.

use std::path::Path;

use serde_json::Value;

use super::TokenizerError;
use super::clip::WORDS;
use crate::printable;

/// All that CLIP's and T5's files have, from older and newer releases of transformers.
const KNOWN: [&str; 4] = [WORDS, r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", r"\s+", r" {2,}"];

/// Checks that what is done to a text before the table is asked has only known patterns.
pub(super) fn check(path: &Path, tokenizer: &Value) -> Result<(), TokenizerError> {
    let stages = ["normalizer", "pre_tokenizer"].into_iter().filter_map(|stage| tokenizer.get(stage));
    match stages.into_iter().find_map(unknown) {
        Some(pattern) => Err(TokenizerError::Pattern { path: path.into(), pattern: printable::name(&pattern) }),
        None => Ok(()),
    }
}

/// A pattern at any depth that is not known.
fn unknown(value: &Value) -> Option<String> {
    match value {
        Value::Object(object) => object.iter().find_map(|(key, value)| match value.as_str() {
            Some(pattern) if key == "Regex" => (!KNOWN.contains(&pattern)).then(|| pattern.to_owned()),
            _ => unknown(value),
        }),
        Value::Array(values) => values.iter().find_map(unknown),
        _ => None,
    }
}
