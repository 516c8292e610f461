use std::io;
use std::path::PathBuf;

use rectiflow_weights::{quoted, shown};

/// What can be wrong with the art of sprite scenes, or with the folder for scenes.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it; the fields are what the message names")]
pub enum SpriteError {
    #[error("{} cannot be read: {problem}\nhint: the art is in `assets/sprites` of a clone of Rectiflow; give its path", shown(.path))]
    Unreadable { path: PathBuf, problem: io::Error },
    #[error("{} is not what the art of sprite scenes has there: {problem}\nhint: restore it from the repository", shown(.path))]
    BadArt { path: PathBuf, problem: String },
    #[error("{} is not what it should be: {problem}\nhint: {hint}", quoted(.setting))]
    BadSetting { setting: &'static str, problem: String, hint: &'static str },
    #[error("{} holds scenes of other settings: {there} there, {here} here\nhint: give another folder, or the settings that it was made with", shown(.folder))]
    OtherSettings { folder: PathBuf, there: String, here: String },
    #[error("{} is not empty and holds no sprite scenes\nhint: give a new folder", shown(.folder))]
    NotEmpty { folder: PathBuf },
    #[error("{} cannot be written: {problem}\nhint: check the folder's permissions and the free space", shown(.path))]
    Unwritable { path: PathBuf, problem: io::Error },
}
