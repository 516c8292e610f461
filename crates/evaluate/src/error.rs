use std::io;
use std::path::PathBuf;

use rectiflow_weights::shown;

/// An evaluation could not be made. Pictures that were drawn are stored.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it; the fields are what the message names")]
pub enum EvaluateError {
    #[error(transparent)]
    Open(#[from] rectiflow_generate::OpenError),
    #[error(transparent)]
    Weights(#[from] rectiflow_weights::WeightsError),
    #[error(transparent)]
    Plan(#[from] rectiflow_generate::PlanError),
    #[error(transparent)]
    Generate(#[from] rectiflow_generate::GenerateError),
    #[error(transparent)]
    Image(#[from] rectiflow_generate::ImageError),
    #[error(transparent)]
    Sprites(#[from] rectiflow_dataset::sprites::SpriteError),
    #[error(transparent)]
    Detector(#[from] rectiflow_vision::DetectorError),
    #[error(transparent)]
    Tokenizer(#[from] rectiflow_text::TokenizerError),
    #[error("{} cannot be read: {problem}\nhint: check the path and its permissions", shown(.path))]
    Unreadable { path: PathBuf, problem: io::Error },
    #[error("{} cannot be written: {problem}\nhint: check the folder's permissions and the free space; with `--resume` the same command goes on", shown(.path))]
    Unwritable { path: PathBuf, problem: io::Error },
    #[error("{}, line {line}: {problem}\nhint: `rectiflow dataset prompts` writes these files; they are in `assets/evaluation` of a clone of Rectiflow", shown(.path))]
    BadPrompts { path: PathBuf, line: usize, problem: String },
    #[error("{} is no picture of an evaluation: {problem}\nhint: remove it, and it is drawn again", shown(.path))]
    BadPicture { path: PathBuf, problem: String },
    #[error("{} is no image tower of CLIP: {problem}\nhint: leave the part out with `--parts`, or give a model that was trained with its image tower beside it", shown(.path))]
    BadTower { path: PathBuf, problem: String },
    #[error("the pictures in {} were drawn with another {what}: {there} there, {here} here\nhint: give the settings that they were drawn with, or another `--out`", shown(.folder))]
    OtherPictures { folder: PathBuf, what: String, there: String, here: String },
    #[error("{} is not empty\nhint: give `--out` a new folder; `--resume` goes on with an evaluation that is there", shown(.folder))]
    NotEmpty { folder: PathBuf },
    #[error("there is no evaluation in {}\nhint: leave out `--resume` to begin one", shown(.folder))]
    NothingThere { folder: PathBuf },
    #[error(
        "pictures of {width}x{height} are no sprite scenes, which are square\nhint: give `--size` a side that the model was trained at"
    )]
    NotSquare { width: usize, height: usize },
    #[error("{} cannot be run: {problem}\nhint: check that `tesseract --version` works", shown(.program))]
    Tesseract { program: PathBuf, problem: String },
    #[error("the {part} part cannot be measured: {why}\nhint: {hint}")]
    Impossible { part: &'static str, why: String, hint: String },
    #[error(
        "{what} has values that are not finite\nhint: try `--precision f32`; if that is what you used, the model is damaged"
    )]
    NotFinite { what: &'static str },
    #[error(
        "{scenes} scenes have {there} for the task {task}, which needs {wanted}\nhint: take the art of the repository, `assets/sprites`"
    )]
    FewScenes { task: &'static str, scenes: u64, there: usize, wanted: usize },
    #[error("stopped")]
    Stopped,
}

impl EvaluateError {
    /// Whether the watcher asked for it.
    pub fn is_stop(&self) -> bool {
        match self {
            EvaluateError::Stopped => true,
            EvaluateError::Generate(error) => error.is_stop(),
            _ => false,
        }
    }
}
