//! The model that comes with the program: small, and there without a download.

use std::path::{Path, PathBuf};

/// Its folder, below the program's or below the source that the program was built from.
const FOLDER: &str = "models/sprites";

/// Where it may be: beside the program; above it, where a build leaves it in a clone; in the source.
fn places() -> Vec<PathBuf> {
    let program = std::env::current_exe().and_then(|program| program.canonicalize()).unwrap_or_default();
    let above = program.ancestors().skip(1).take(3).map(Path::to_owned);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    above.chain([source]).map(|folder| folder.join(FOLDER)).collect()
}

/// Where it is.
///
/// # Errors
/// It is in none of its places.
pub(crate) fn model() -> anyhow::Result<PathBuf> {
    let places = places();
    match places.iter().find(|folder| folder.join("model_index.json").is_file()) {
        Some(folder) => Ok(folder.clone()),
        None => {
            let looked: Vec<String> = places.iter().map(|folder| folder.display().to_string()).collect();
            anyhow::bail!(
                "no model given, and the one that comes with the program is in none of its places: {}\n\
                 hint: keep its folder `{FOLDER}` beside the program; or `--model PATH` takes a diffusers folder or an \
                 official .safetensors file, such as sd3_medium_incl_clips.safetensors",
                looked.join(", ")
            )
        }
    }
}
