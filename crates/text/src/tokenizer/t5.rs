use std::path::Path;

use tokenizers::Tokenizer;

use super::TokenizerError;
use super::bytes;
use super::folder;
use super::table::{Kind, Mark, Origin, Table};
use super::words;
use crate::t5::Sentinels;
use crate::tokens::{Cut, Pieces, T5Rule, Tokens};
use crate::weighted::WeightedText;

const END_OF_SENTENCE: u32 = 1;
const PAD: u32 = 0;

/// Marks and sentinels at least; no merges. How many pieces there must be is known by the encoder.
fn kind() -> Kind {
    let marks = vec![Mark { token: "</s>", id: END_OF_SENTENCE }, Mark { token: "<pad>", id: PAD }];
    Kind { model: "T5", marks, tokens_min: words::SENTINELS, merges_min: 0 }
}
/// Vectors of a token table come in such numbers: T5 v1.1 has 32,128 for 32,100 tokens.
const ALIGNMENT: usize = 128;

/// The built-in table of T5 v1.1.
pub(super) const TABLE: &[u8] = include_bytes!("../../data/t5_tokenizer.json");

/// What a model's folder calls a tokenizer of bytes.
pub(super) const BYTES_CLASS: &str = "ByT5Tokenizer";

/// A T5's tokenizer: tokens, end mark, padding with 0. There is no start mark.
#[derive(Debug, Clone)]
pub struct T5Tokenizer {
    vocabulary: Vocabulary,
}

/// What a token is.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one a model")]
enum Vocabulary {
    /// A piece of a word: T5, by its unigram model.
    Pieces(Table),
    /// A byte: ByT5. There is no table; something said that this is the kind.
    Bytes(Origin),
}

impl T5Tokenizer {
    /// The built-in tokenizer: T5 v1.1's.
    pub fn embedded() -> Self {
        let tokenizer = Tokenizer::from_bytes(TABLE).expect("the embedded table is tested");
        T5Tokenizer { vocabulary: Vocabulary::Pieces(Table::new(tokenizer, Origin::Embedded)) }
    }

    /// A tokenizer whose tokens are the words that `texts` often have, and letters for everything else and for what stands
    /// in quotes. The same texts give the same ids.
    pub fn of_words<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        T5Tokenizer { vocabulary: Vocabulary::Pieces(Table::new(words::tokenizer(texts), Origin::Texts)) }
    }

    /// The tokenizer whose tokens are bytes: ByT5's.
    pub fn bytes() -> Self {
        T5Tokenizer { vocabulary: Vocabulary::Bytes(Origin::Embedded) }
    }

    /// The built-in tokenizer of an encoder with `rows` vectors in its token table.
    pub fn built_in(rows: usize) -> Self {
        if rows == bytes::VOCABULARY { T5Tokenizer::bytes() } else { T5Tokenizer::embedded() }
    }

    /// The tokenizer of a model's folder: `tokenizer.json`, or that of bytes where `tokenizer_config.json` says
    /// `ByT5Tokenizer`.
    ///
    /// A folder with only `spiece.model`, which is not read, gives the built-in tokenizer; [`origin`](Self::origin)
    /// says so. Every T5 v1.1 has that same `spiece.model`.
    ///
    /// # Errors
    /// The files are not there, are broken, or are not T5's.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        if let Some((class, path)) = folder::class(folder)?
            && class == BYTES_CLASS
        {
            return Ok(T5Tokenizer { vocabulary: Vocabulary::Bytes(Origin::File(path)) });
        }
        if let Some(path) = folder::file(folder, "tokenizer.json") {
            return Ok(T5Tokenizer { vocabulary: Vocabulary::Pieces(Table::from_json_file(&path, &kind(), None)?) });
        }
        let wanted = "`tokenizer.json`, nor `spiece.model`, nor a `tokenizer_config.json` of `ByT5Tokenizer`";
        let not_there = || TokenizerError::NotThere { folder: folder.into(), wanted };
        let sentencepiece = folder::file(folder, "spiece.model").ok_or_else(not_there)?;
        let mut tokenizer = T5Tokenizer::embedded();
        if let Vocabulary::Pieces(table) = &mut tokenizer.vocabulary {
            table.origin = Origin::InsteadOf(sentencepiece);
        }
        Ok(tokenizer)
    }

    /// The ids of a text.
    ///
    /// A tokenizer of bytes cuts where the bytes end, as transformers does, perhaps inside a character; [`Cut::words`]
    /// then begins with that whole character.
    ///
    /// # Errors
    /// The rule's length is impossible. A tokenizer from a broken file fails.
    pub fn tokenize(&self, text: &str, rule: &T5Rule) -> Result<Tokens, TokenizerError> {
        self.tokenize_weighted(&WeightedText::plain(text), rule)
    }

    /// The same of a text whose parts may count more or less.
    ///
    /// # Errors
    /// Those of [`Self::tokenize`].
    pub fn tokenize_weighted(&self, text: &WeightedText, rule: &T5Rule) -> Result<Tokens, TokenizerError> {
        if !rule.length.is_possible() {
            return Err(TokenizerError::Length(rule.length));
        }
        let (length_min, length_max) = rule.length.bounds();
        let (weighted, text) = (text, text.text());
        let seen = rule.visible(text);
        let mut pieces = self.pieces(seen)?;
        let (mut lost, start) = pieces.cut_to(length_max - 1).unwrap_or((0, seen.len()));
        if seen.len() < text.len() {
            // What is lost is counted in tokens of the whole text.
            lost = self.pieces(text)?.past(start);
        }
        let cut = Cut::report(text, lost, start);

        let mut weights = pieces.weights(weighted);
        let mut ids = pieces.ids;
        // A text that ends in the end mark has it twice in T5, and once in ByT5.
        if matches!(self.vocabulary, Vocabulary::Pieces(_)) || ids.last() != Some(&END_OF_SENTENCE) {
            ids.push(END_OF_SENTENCE);
        }
        let real = ids.len();
        ids.resize(real.max(length_min), PAD);
        weights.resize(ids.len(), 1.0);
        Ok(Tokens { ids, weights, real, cut })
    }

    /// The ids of a text without marks or padding, for training on it.
    ///
    /// # Errors
    /// A tokenizer from a broken file fails.
    pub fn whole_text(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.pieces(text)?.ids)
    }

    /// Tokens that stand for hidden runs of a text, from the last one of the vocabulary down.
    ///
    /// The released ByT5 took the last bytes instead, which no text has; its vocabulary has room for others.
    pub fn sentinels(&self) -> Sentinels {
        match &self.vocabulary {
            Vocabulary::Pieces(table) => {
                let ids = (0..).map_while(|number| table.id(&format!("<extra_id_{number}>")));
                let first = ids.clone().next().unwrap_or(0);
                let count = ids.zip(0..).take_while(|(id, number)| first.checked_sub(*number) == Some(*id)).count();
                Sentinels { first, count }
            }
            Vocabulary::Bytes(_) => Sentinels { first: bytes::VOCABULARY as u32 - 1, count: bytes::SENTINELS },
        }
    }

    /// Vectors that the token table of a new encoder has: of T5 v1.1's and ByT5's, as many as the released ones.
    pub fn rows(&self) -> usize {
        match &self.vocabulary {
            Vocabulary::Pieces(table) => table.ids().next_multiple_of(ALIGNMENT),
            Vocabulary::Bytes(_) => bytes::VOCABULARY,
        }
    }

    /// Where the table is from.
    pub fn origin(&self) -> &Origin {
        match &self.vocabulary {
            Vocabulary::Pieces(table) => &table.origin,
            Vocabulary::Bytes(origin) => origin,
        }
    }

    /// Checks that an encoder with `vectors` rows in its embedding table has one for every id, and is not one of words
    /// that would be given bytes.
    ///
    /// # Errors
    /// It has not: the tokenizer is of another model.
    pub fn check_vectors(&self, vectors: usize) -> Result<(), TokenizerError> {
        match &self.vocabulary {
            Vocabulary::Pieces(table) if vectors >= table.ids() + ALIGNMENT => Err(TokenizerError::TooManyVectors {
                origin: table.origin.to_string(),
                ids: table.ids(),
                rows: vectors,
            }),
            Vocabulary::Pieces(table) => table.check_vectors(vectors),
            Vocabulary::Bytes(_) if vectors == bytes::VOCABULARY => Ok(()),
            Vocabulary::Bytes(origin) => {
                Err(TokenizerError::NotOfBytes { origin: origin.to_string(), rows: vectors, wanted: bytes::VOCABULARY })
            }
        }
    }

    /// The table as a file, if there is one.
    pub(super) fn table_file(&self) -> Option<Vec<u8>> {
        match &self.vocabulary {
            Vocabulary::Pieces(table) => Some(table.to_json(Mark { token: "</s>", id: END_OF_SENTENCE })),
            Vocabulary::Bytes(_) => None,
        }
    }

    fn pieces(&self, text: &str) -> Result<Pieces, TokenizerError> {
        match &self.vocabulary {
            Vocabulary::Pieces(table) => table.pieces(text),
            Vocabulary::Bytes(_) => Ok(bytes::pieces(text)),
        }
    }
}
