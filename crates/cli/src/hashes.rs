//! SHA-256 of a model's files, which its pictures carry.
//!
//! Whole files, because that is what other tools show (the first ten digits are AUTOMATIC1111's `Model hash`), and because
//! a few sampled bytes would not tell a model from one that was trained on from it. A large file is read for that once: its
//! digest is kept in the user's cache with its path, size and time of change, as AUTOMATIC1111's web UI does.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::Context;
use rayon::prelude::*;
use rectiflow_generate::ModelFiles;
use rectiflow_weights::{IfThere, PartKind, sha256, sha256_of_file, shown, write_whole};
use serde::{Deserialize, Serialize};

/// Smaller files take no time.
const KEPT_FROM_BYTES: u64 = 64 << 20;
/// A cache that is larger was not written here.
const CACHE_BYTES_MAX: u64 = 1 << 20;
/// More files than anybody draws with; the oldest are forgotten.
const ENTRIES_MAX: usize = 500;
/// A tokenizer or a configuration is smaller.
const SMALL_BYTES_MAX: u64 = 64 << 20;

/// A digest and what the file was like when it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    path: PathBuf,
    bytes: u64,
    changed_ns: u64,
    sha256: String,
}

/// The digests of each part's file, and, where a model has small files that decide what it draws (configurations,
/// tokenizers), one of all of them. Of a part in several files: that of their digests, each a line.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn of(files: &ModelFiles) -> anyhow::Result<BTreeMap<String, String>> {
    let cache = cache_file();
    let mut known = cache.as_deref().map_or_else(Vec::new, read_cache);
    let checkpoint = files.checkpoint();
    let parts: Vec<_> = PartKind::ALL.into_iter().filter_map(|kind| checkpoint.part(kind)).collect();
    let named = parts.iter().map(|part| (key(part.kind()), *part));
    let named: Vec<_> = named.chain(files.worse_transformer().map(|part| ("autoguidance", part))).collect();

    let mut paths: Vec<PathBuf> = named.iter().flat_map(|(_, part)| part.inventory().files).collect();
    paths.sort();
    paths.dedup();
    let found = paths.par_iter().map(|path| digest(path, &known)).collect::<anyhow::Result<Vec<_>>>()?;
    let new: Vec<Known> = found.iter().filter_map(|(_, new)| new.clone()).collect();
    let digests: BTreeMap<&PathBuf, &String> = paths.iter().zip(found.iter().map(|(digest, _)| digest)).collect();
    if let Some(cache) = cache.filter(|_| !new.is_empty()) {
        known.retain(|one| new.iter().all(|new| new.path != one.path));
        known.extend(new);
        known.drain(..known.len().saturating_sub(ENTRIES_MAX));
        // Without it the digest is only made again.
        let _ = write_cache(&cache, &known);
    }

    let mut hashes = BTreeMap::new();
    let mut small = Vec::new();
    for (name, part) in named {
        let of_files: Vec<&str> = part.inventory().files.iter().map(|path| digests[path].as_str()).collect();
        let digest = match of_files[..] {
            [only] => only.to_owned(),
            _ => sha256(of_files.join("\n").as_bytes()),
        };
        hashes.insert(name.to_owned(), digest);
        if let Some(config) = part.config() {
            small.push(format!("{name} {}", sha256(config.to_string().as_bytes())));
        }
        if let Some(folder) = checkpoint.tokenizer_folder(part.kind()).filter(|_| name == key(part.kind())) {
            small.extend(of_folder(folder)?.into_iter().map(|line| format!("{name} {line}")));
        }
    }
    if !small.is_empty() {
        hashes.insert("configuration".to_owned(), sha256(small.join("\n").as_bytes()));
    }
    Ok(hashes)
}

/// What a part is called in a picture's settings.
fn key(part: PartKind) -> &'static str {
    match part {
        PartKind::Transformer => "transformer",
        PartKind::Vae => "vae",
        PartKind::ClipL => "clip_l",
        PartKind::ClipG => "clip_g",
        PartKind::T5 => "t5",
    }
}

/// The digest of a file, and what is to be remembered of it, if that is new.
fn digest(path: &Path, known: &[Known]) -> anyhow::Result<(String, Option<Known>)> {
    let failed = || format!("the model's file {} cannot be read", shown(path));
    // The same file by every name, but each of several that are linked to one place has a time of its own.
    let path = path.canonicalize().with_context(failed)?;
    let file = path.metadata().with_context(failed)?;
    let changed_ns = changed_ns(&file);
    let is_same = |one: &&Known| one.path == path && one.bytes == file.len() && Some(one.changed_ns) == changed_ns;
    if let Some(one) = known.iter().find(is_same) {
        return Ok((one.sha256.clone(), None));
    }
    let sha256 = sha256_of_file(&path).with_context(failed)?;
    let is_kept = file.len() >= KEPT_FROM_BYTES;
    let new = changed_ns.filter(|_| is_kept);
    let new = new.map(|changed_ns| Known { path, bytes: file.len(), changed_ns, sha256: sha256.clone() });
    Ok((sha256, new))
}

/// When a file was changed, if its system says.
fn changed_ns(file: &std::fs::Metadata) -> Option<u64> {
    file.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos().try_into().ok()
}

/// A line for each file of a tokenizer's folder.
fn of_folder(folder: &Path) -> anyhow::Result<Vec<String>> {
    let failed = || format!("the tokenizer's folder {} cannot be read", shown(folder));
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        let is_small = path.metadata().is_ok_and(|file| file.is_file() && file.len() <= SMALL_BYTES_MAX);
        if is_small && let Some(name) = path.file_name() {
            lines.push(format!("{} {}", name.to_string_lossy(), sha256_of_file(&path).with_context(failed)?));
        }
    }
    lines.sort();
    Ok(lines)
}

/// Where digests are kept: in the folder that the system has for what may be lost.
fn cache_file() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home =
        || folder("HOME").map(|home| home.join(if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" }));
    let caches = folder("XDG_CACHE_HOME").or_else(|| folder("LOCALAPPDATA")).or_else(home)?;
    Some(caches.join("rectiflow/hashes.json"))
}

/// What is there, or nothing: a cache that is damaged is written anew.
fn read_cache(path: &Path) -> Vec<Known> {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(CACHE_BYTES_MAX).read_to_string(&mut text));
    read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn write_cache(path: &Path, known: &[Known]) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    let text = serde_json::to_string_pretty(known)?;
    write_whole(path, IfThere::Replace, |out| out.write_all(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_believed_while_path_size_and_time_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("x");
        std::fs::write(&path, "abc").unwrap();
        let changed_ns = changed_ns(&path.metadata().unwrap()).unwrap();
        let known = Known { path: path.clone(), bytes: 3, changed_ns, sha256: "kept".into() };
        assert_eq!(digest(&path, std::slice::from_ref(&known)).unwrap().0, "kept");
        for other in [
            Known { bytes: 4, ..known.clone() },
            Known { changed_ns: changed_ns + 1, ..known.clone() },
            Known { path: folder.path().join("y"), ..known.clone() },
        ] {
            assert!(digest(&path, &[other]).unwrap().0.starts_with("ba7816bf"));
        }
        assert!(digest(&folder.path().join("z"), &[]).unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn a_cache_comes_back_and_a_damaged_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/hashes.json");
        assert_eq!(read_cache(&path), []);
        let known = [Known { path: "/m".into(), bytes: u64::MAX, changed_ns: 1 << 60, sha256: "aa".into() }];
        write_cache(&path, &known).unwrap();
        assert_eq!(read_cache(&path), known);
        std::fs::write(&path, "[{").unwrap();
        assert_eq!(read_cache(&path), []);
    }
}
