mod bytes;
mod clip;
mod error;
mod files;
mod folder;
mod patterns;
mod t5;
mod table;
mod words;

pub use clip::{ClipSize, ClipTokenizer, END_OF_TEXT};
pub use error::TokenizerError;
pub use files::TokenizerFile;
pub use t5::T5Tokenizer;
pub use table::Origin;

pub(crate) use clip::CLIP_LENGTH;
