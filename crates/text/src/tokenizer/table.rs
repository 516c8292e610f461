use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::processors::template::TemplateProcessing;

use super::TokenizerError;
use crate::printable;
use crate::tokens::Pieces;

/// Where a tokenizer's tables are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The program itself.
    Embedded,
    /// This file of the model; beside a `vocab.json`, the merges.
    File(PathBuf),
    /// The program itself, because this file of the model is in a form that is not read. Its tables are the
    /// same ones.
    InsteadOf(PathBuf),
    /// The texts of a training.
    Texts,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Embedded => f.write_str("built in"),
            Origin::File(path) => write!(f, "`{}`", path.display()),
            Origin::Texts => f.write_str("made of the training's texts"),
            Origin::InsteadOf(path) => write!(f, "built in, instead of `{}`", path.display()),
        }
    }
}

/// What every tokenizer of a model has.
pub(super) struct Kind {
    pub(super) model: &'static str,
    pub(super) marks: Vec<Mark>,
    /// Fewer are a file that was cut short.
    pub(super) tokens_min: usize,
    pub(super) merges_min: usize,
}

/// A token with its id.
pub(super) struct Mark {
    pub(super) token: &'static str,
    pub(super) id: u32,
}

/// Text to ids, without marks, padding or length: those are the rules of the model, not of the table.
#[derive(Debug, Clone)]
pub(super) struct Table {
    tokenizer: Tokenizer,
    largest: u32,
    pub(super) origin: Origin,
}

impl Table {
    /// Takes only the text-to-ids part of `tokenizer`: whatever padding, cutting or marks its file asks for.
    pub(super) fn new(mut tokenizer: Tokenizer, origin: Origin) -> Self {
        tokenizer.with_padding(None).with_post_processor(None::<PostProcessorWrapper>);
        tokenizer.with_truncation(None).expect("no truncation has no parameters that could be wrong");
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        Table { tokenizer, largest, origin }
    }

    /// Reads a `tokenizer.json`. `ordinary` is a token that is not found in a text before the others are, even
    /// if the file asks for that; a mark is always.
    ///
    /// # Errors
    /// The file cannot be read, is broken, has patterns of its own, or is not of this kind.
    pub(super) fn from_json_file(path: &Path, kind: &Kind, ordinary: Option<&str>) -> Result<Self, TokenizerError> {
        let mut bytes = super::folder::read(path)?;
        let mut json: Value = serde_json::from_slice(&bytes).map_err(|error| TokenizerError::broken(path, error))?;
        super::patterns::check(path, &json)?;
        let merges = json.pointer("/model/merges").and_then(Value::as_array).map_or(0, Vec::len);
        if let Some(token) = ordinary.filter(|token| kind.marks.iter().all(|mark| mark.token != *token))
            && remove_special(&mut json, token)
        {
            bytes = serde_json::to_vec(&json).map_err(|error| TokenizerError::broken(path, error))?;
        }
        // The library trusts its files in places (it indexes by what they say): a panic there is the file's
        // fault. One short text finds the rest of what can be wrong.
        let parse = || {
            let tokenizer = Tokenizer::from_bytes(&bytes)?;
            tokenizer.encode("a photo of a cat", false).map(|_| tokenizer)
        };
        let tokenizer = match catch_unwind(AssertUnwindSafe(parse)) {
            Ok(Ok(tokenizer)) => tokenizer,
            Ok(Err(error)) => return Err(TokenizerError::broken(path, error)),
            Err(_) => return Err(TokenizerError::broken(path, "its parts contradict each other")),
        };
        let table = Table::new(tokenizer, Origin::File(path.into()));
        table.require(path, kind)?;
        if merges < kind.merges_min {
            return Err(TokenizerError::broken(path, too_few("merges", merges, kind.model, kind.merges_min)));
        }
        Ok(table)
    }

    /// Checks that the marks have their ids and that there are enough tokens.
    pub(super) fn require(&self, path: &Path, kind: &Kind) -> Result<(), TokenizerError> {
        let model = kind.model;
        for &Mark { token, id } in &kind.marks {
            let found = self.tokenizer.token_to_id(token);
            if found != Some(id) {
                return Err(TokenizerError::OtherModel { path: path.into(), model, token, id, found });
            }
        }
        let tokens = self.tokenizer.get_vocab_size(true);
        if tokens < kind.tokens_min {
            return Err(TokenizerError::broken(path, too_few("tokens", tokens, model, kind.tokens_min)));
        }
        Ok(())
    }

    /// The ids of a text and the bytes they stand for.
    pub(super) fn pieces(&self, text: &str) -> Result<Pieces, TokenizerError> {
        let encode = || self.tokenizer.encode(text, false);
        let failed = |reason: String| {
            let (origin, chars) = (self.origin.to_string(), text.chars().count());
            TokenizerError::Text { origin, chars, reason: printable::reason(&reason) }
        };
        let encoding = catch_unwind(AssertUnwindSafe(encode))
            .map_err(|_| failed("its parts contradict each other".into()))?
            .map_err(|error| failed(error.to_string()))?;
        Ok(Pieces { ids: encoding.get_ids().to_vec(), spans: encoding.get_offsets().to_vec() })
    }

    /// The id of `token`.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Makes `token` one that is found in a text before the others are. One without an id gets none.
    pub(super) fn make_special(&mut self, token: &str) {
        let is_so = self.tokenizer.get_added_vocabulary().get_vocab().contains_key(token);
        if self.id(token).is_some() && !is_so {
            let special = tokenizers::AddedToken::from(token, true);
            self.tokenizer.add_special_tokens([special]).expect("a token with an id and no normalisation");
        }
    }

    /// One more than the largest id.
    pub(super) fn ids(&self) -> usize {
        self.largest as usize + 1
    }

    /// A `tokenizer.json` that puts `end` behind a text.
    pub(super) fn to_json(&self, end: Mark) -> Vec<u8> {
        let Mark { token, id } = end;
        let template = TemplateProcessing::builder()
            .try_single(format!("$A {token}"))
            .and_then(|builder| builder.try_pair(format!("$A {token} $B {token}")))
            .expect("a template of a text and a mark")
            .special_tokens(vec![(token, id)])
            .build()
            .expect("its mark has an id");
        let mut tokenizer = self.tokenizer.clone();
        tokenizer.with_post_processor(Some(template));
        tokenizer.to_string(true).expect("a tokenizer is made of what JSON has").into_bytes()
    }

    /// Checks that an embedding table of `rows` vectors has one for every id.
    pub(super) fn check_vectors(&self, rows: usize) -> Result<(), TokenizerError> {
        let largest = self.largest;
        if largest as usize >= rows {
            return Err(TokenizerError::TooFewVectors { origin: self.origin.to_string(), largest, rows });
        }
        Ok(())
    }
}

/// Why a file that was cut short is broken.
pub(super) fn too_few(things: &str, found: usize, model: &str, least: usize) -> String {
    format!("it holds {found} {things}, and every {model} tokenizer {least} or more")
}

/// Makes `token` one of the model's own only, and says whether it was another. One that the model lacks stays.
fn remove_special(json: &mut Value, token: &str) -> bool {
    let is_in_model = json.pointer("/model/vocab").is_some_and(|vocab| vocab.get(token).is_some());
    match json.get_mut("added_tokens").and_then(Value::as_array_mut) {
        Some(added) if is_in_model => {
            let before = added.len();
            added.retain(|one| one["content"] != token);
            added.len() < before
        }
        _ => false,
    }
}
