use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::error::quoted;

/// Which file of a folder holds which tensor: `*.safetensors.index.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardIndex {
    shard_of: BTreeMap<String, String>,
}

/// Why a list of shards cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum IndexError {
    #[error("{0}")]
    Malformed(String),
    #[error("it lists no tensors")]
    Empty,
    #[error("the shard {} is not the plain name of a .safetensors file", quoted(.0))]
    BadShardName(String),
}

#[derive(Deserialize)]
struct File {
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Reads and checks a list. Afterwards every shard is a plain file name: a list that came from elsewhere
    /// cannot make us open files outside of its folder.
    pub fn parse(json: &[u8]) -> Result<ShardIndex, IndexError> {
        let file: File = serde_json::from_slice(json).map_err(|error| IndexError::Malformed(error.to_string()))?;
        if file.weight_map.is_empty() {
            return Err(IndexError::Empty);
        }
        match file.weight_map.values().find(|shard| !is_plain(shard)) {
            Some(shard) => Err(IndexError::BadShardName(shard.clone())),
            None => Ok(ShardIndex { shard_of: file.weight_map }),
        }
    }

    /// The shards' file names.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.shard_of.values().map(String::as_str).collect()
    }

    /// The tensors with the shards that they are in.
    pub fn tensors(&self) -> &BTreeMap<String, String> {
        &self.shard_of
    }
}

/// Separators of every system, so that a list is judged alike everywhere.
fn is_plain(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ShardIndex, IndexError> {
        ShardIndex::parse(json.as_bytes())
    }

    #[test]
    fn a_list_gives_its_shards_once_each() {
        let index =
            parse(r#"{"metadata":{},"weight_map":{"a":"1.safetensors","b":"2.safetensors","c":"1.safetensors"}}"#);
        assert_eq!(index.unwrap().shards().into_iter().collect::<Vec<_>>(), ["1.safetensors", "2.safetensors"]);
    }

    #[test]
    fn shards_outside_of_the_folder_are_refused() {
        for shard in [
            "../x.safetensors",
            "/etc/x.safetensors",
            "a/x.safetensors",
            "C:x.safetensors",
            "a\\\\x.safetensors",
            "..safetensors",
            "x.bin",
            "",
            "x\\u0000.safetensors",
        ] {
            let result = parse(&format!(r#"{{"weight_map":{{"a":"{shard}"}}}}"#));
            assert!(matches!(result, Err(IndexError::BadShardName(_))), "{shard}: {result:?}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for json in ["", "[]", "{}", r#"{"weight_map":[]}"#, r#"{"weight_map":{"a":1}}"#] {
            assert!(matches!(parse(json), Err(IndexError::Malformed(_))), "{json}");
        }
        assert_eq!(parse(r#"{"weight_map":{}}"#), Err(IndexError::Empty));
    }
}
