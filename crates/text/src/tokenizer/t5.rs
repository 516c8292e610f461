use std::path::Path;

use tokenizers::Tokenizer;

use super::TokenizerError;
use super::folder;
use super::table::{Kind, Mark, Origin, Table};
use crate::tokens::{Cut, T5Rule, Tokens};

const END_OF_SENTENCE: u32 = 1;
const PAD: u32 = 0;

const MARKS: &[Mark] = &[Mark { token: "</s>", id: END_OF_SENTENCE }, Mark { token: "<pad>", id: PAD }];

/// 32,000 pieces and 100 sentinels; no merges.
const KIND: Kind = Kind { model: "T5", marks: MARKS, tokens_min: 32100, merges_min: 0 };

/// T5's unigram tokenizer: tokens, end mark, padding with 0. There is no start mark.
#[derive(Debug, Clone)]
pub struct T5Tokenizer {
    table: Table,
}

impl T5Tokenizer {
    /// The built-in tokenizer: T5 v1.1's.
    pub fn embedded() -> Self {
        let bytes = include_bytes!("../../data/t5_tokenizer.json");
        let tokenizer = Tokenizer::from_bytes(bytes).expect("the embedded table is tested");
        T5Tokenizer { table: Table::new(tokenizer, Origin::Embedded) }
    }

    /// The tokenizer of a model's folder: `tokenizer.json`.
    ///
    /// A folder with only `spiece.model`, which is not read, gives the built-in tokenizer; [`origin`](Self::origin)
    /// says so. Every T5 v1.1 has that same `spiece.model`.
    ///
    /// # Errors
    /// The files are not there, are broken, or are not T5's.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        if let Some(path) = folder::file(folder, "tokenizer.json") {
            return Ok(T5Tokenizer { table: Table::from_json_file(&path, &KIND, None)? });
        }
        let wanted = "`tokenizer.json`, nor `spiece.model`";
        let not_there = || TokenizerError::NotThere { folder: folder.into(), wanted };
        let sentencepiece = folder::file(folder, "spiece.model").ok_or_else(not_there)?;
        let mut tokenizer = T5Tokenizer::embedded();
        tokenizer.table.origin = Origin::InsteadOf(sentencepiece);
        Ok(tokenizer)
    }

    /// The ids of a text.
    ///
    /// # Errors
    /// The rule's length is impossible. A tokenizer from a broken file fails.
    pub fn tokenize(&self, text: &str, rule: &T5Rule) -> Result<Tokens, TokenizerError> {
        if !rule.length.is_possible() {
            return Err(TokenizerError::Length(rule.length));
        }
        let (length_min, length_max) = rule.length.bounds();
        let seen = rule.visible(text);
        let mut pieces = self.table.pieces(seen)?;
        let (mut lost, start) = pieces.cut_to(length_max - 1).unwrap_or((0, seen.len()));
        if seen.len() < text.len() {
            // What is lost is counted in tokens of the whole text.
            lost = self.table.pieces(text)?.past(start);
        }
        let cut = Cut::report(text, lost, start);

        let mut ids = pieces.ids;
        ids.push(END_OF_SENTENCE);
        let real = ids.len();
        ids.resize(real.max(length_min), PAD);
        Ok(Tokens { ids, real, cut })
    }

    /// Where the table is from.
    pub fn origin(&self) -> &Origin {
        &self.table.origin
    }

    /// Checks that an encoder with `vectors` rows in its embedding table has one for every id.
    ///
    /// # Errors
    /// It has not: the tokenizer is of another model.
    pub fn check_vectors(&self, vectors: usize) -> Result<(), TokenizerError> {
        self.table.check_vectors(vectors)
    }
}
