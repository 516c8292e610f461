use std::path::{Path, PathBuf};

use super::ClipSize;
use crate::printable;
use crate::tokens::{T5_LENGTHS, T5Length};

/// A tokenizer cannot be built, or a text cannot be tokenized.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The folder holds no tokenizer.
    #[error(
        "`{folder}` holds no tokenizer: there is no {wanted}; copy them from the model's repository, or remove the folder to use the built-in tokenizer"
    )]
    NotThere {
        /// Where it was looked for.
        folder: PathBuf,
        /// The files that make one.
        wanted: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file does not hold what its name says.
    #[error("`{path}` is broken: {reason}; download it again, or remove its folder to use the built-in tokenizer")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file has a regular expression run over texts that could take forever over one.
    #[error(
        "`{path}` searches texts for `{pattern}`, as neither CLIP's nor T5's tokenizer does, and only their patterns are run; download it again, or remove its folder to use the built-in tokenizer"
    )]
    Pattern {
        /// The file.
        path: PathBuf,
        /// The regular expression.
        pattern: String,
    },
    /// The tokenizer is of another model.
    #[error(
        "`{path}` is not a {model} tokenizer: the id of `{token}` is {found:?} instead of {id}; take the folder of the right encoder"
    )]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// What it should be for.
        model: &'static str,
        /// A token that every tokenizer of this model has.
        token: &'static str,
        /// The id it should have.
        id: u32,
        /// The id it has, if any.
        found: Option<u32>,
    },
    /// The padding token is not in the vocabulary.
    #[error("`{path}` pads with `{}`, which is not in the vocabulary; correct its `pad_token`", printable::name(.token))]
    Pad {
        /// The file that names it.
        path: PathBuf,
        /// Its name.
        token: String,
    },
    /// The encoder has other marks, or another number of places.
    #[error(
        "the tokenizer ({origin}) has {} tokens and {} places, the encoder {} and {}; they are not of the same model\nhint: put the encoder's own tokenizer beside it, in `tokenizer` or `tokenizer_2`",
        tokenizer.vocabulary,
        tokenizer.length,
        encoder.vocabulary,
        encoder.length
    )]
    OtherSize {
        /// Where the tables are from.
        origin: String,
        /// Its size.
        tokenizer: ClipSize,
        /// The encoder's.
        encoder: ClipSize,
    },
    /// The encoder has no vector for some token.
    #[error(
        "the tokenizer ({origin}) makes ids up to {largest}, the encoder has {rows} vectors; they are not of the same model"
    )]
    TooFewVectors {
        /// Where the tokenizer is from.
        origin: String,
        /// The largest token id.
        largest: u32,
        /// Rows of the encoder's embedding table.
        rows: usize,
    },
    /// The encoder has vectors for many more tokens.
    #[error(
        "the tokenizer ({origin}) makes {ids} ids, the encoder has {rows} vectors; they are not of the same model, or the tokenizer was cut short"
    )]
    TooManyVectors {
        /// Where the tokenizer is from.
        origin: String,
        /// How many ids it makes.
        ids: usize,
        /// Rows of the encoder's embedding table.
        rows: usize,
    },
    /// The encoder is not one whose tokens are bytes.
    #[error(
        "the tokenizer ({origin}) makes bytes, for which an encoder has {wanted} vectors; this one has {rows}: they are not of the same model"
    )]
    NotOfBytes {
        /// What says that tokens are bytes.
        origin: String,
        /// Rows of the encoder's embedding table.
        rows: usize,
        /// Rows it should have.
        wanted: usize,
    },
    /// No token list can have this length.
    #[error("T5 cannot be given {0:?} tokens; choose from {start} to {end}", start = T5_LENGTHS.start(), end = T5_LENGTHS.end())]
    Length(T5Length),
    /// The tokenizer failed on a text. The built-in ones do not.
    #[error("the tokenizer ({origin}) failed on a text of {chars} characters: {reason}; its file is probably broken")]
    Text {
        /// Where the tokenizer is from.
        origin: String,
        /// The text's length.
        chars: usize,
        /// What it said.
        reason: String,
    },
}

impl TokenizerError {
    pub(crate) fn broken(path: &Path, reason: impl ToString) -> Self {
        TokenizerError::Broken { path: path.into(), reason: printable::reason(&reason.to_string()) }
    }
}
