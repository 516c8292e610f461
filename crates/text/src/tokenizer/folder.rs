//! The files of a tokenizer folder that say more than the table.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::TokenizerError;

/// All of a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    std::fs::read(path).map_err(|source| TokenizerError::Read { path: path.into(), source })
}

/// `folder/name`, if there is such a file.
pub(super) fn file(folder: &Path, name: &str) -> Option<PathBuf> {
    Some(folder.join(name)).filter(|path| path.is_file())
}

/// The padding token's name, and the file that gives it.
///
/// The order is that of transformers: `special_tokens_map.json` overrides `tokenizer_config.json`.
pub(super) fn pad_token(folder: &Path) -> Result<Option<(String, PathBuf)>, TokenizerError> {
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        let Some(path) = file(folder, name) else { continue };
        let settings: Value =
            serde_json::from_slice(&read(&path)?).map_err(|error| TokenizerError::broken(&path, error))?;
        match settings.get("pad_token") {
            None | Some(Value::Null) => {}
            Some(value) => {
                let token = token_text(value)
                    .ok_or_else(|| TokenizerError::broken(&path, "its `pad_token` is neither text nor a token"))?;
                return Ok(Some((token.into(), path)));
            }
        }
    }
    Ok(None)
}

/// `tokenizer_config.json`, and where it is.
pub(super) fn settings(folder: &Path) -> Result<Option<(Value, PathBuf)>, TokenizerError> {
    let Some(path) = file(folder, "tokenizer_config.json") else { return Ok(None) };
    let settings: Value =
        serde_json::from_slice(&read(&path)?).map_err(|error| TokenizerError::broken(&path, error))?;
    Ok(Some((settings, path)))
}

/// The class of transformers that the tokenizer is for, and the file that says so.
pub(super) fn class(folder: &Path) -> Result<Option<(String, PathBuf)>, TokenizerError> {
    let Some((settings, path)) = settings(folder)? else { return Ok(None) };
    Ok(settings.get("tokenizer_class").and_then(Value::as_str).map(|class| (class.to_owned(), path)))
}

/// A token is written as its text, or as an object with its text and how it is matched.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}
