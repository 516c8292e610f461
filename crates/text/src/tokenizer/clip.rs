use std::collections::HashMap;
use std::path::Path;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as Splitters;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::TokenizerError;
use super::folder;
use super::table::{Kind, Mark, Origin, Table, too_few};
use crate::ClipKind;
use crate::printable;
use crate::tokens::{Cut, Tokens};
use crate::weighted::WeightedText;

/// Positions of a released CLIP text encoder.
pub(crate) const CLIP_LENGTH: usize = 77;
/// The id that ends a text for a released CLIP. The pooled output is read at the first of these.
pub const END_OF_TEXT: u32 = 49407;
pub(super) const START: &str = "<|startoftext|>";
pub(super) const END: &str = "<|endoftext|>";

/// The built-in tables.
pub(super) const VOCABULARY: &[u8] = include_bytes!("../../data/clip_vocab.json");
pub(super) const MERGES: &str = include_str!("../../data/clip_merges.txt");

/// How many tokens and places a CLIP has.
///
/// The released ones have 49,408 and 77. Smaller encoders may do with the first merges of the same table, which are those
/// of the most frequent pairs, and with fewer places: other words are cut into more pieces. The marks stand last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipSize {
    /// Tokens with both marks: from 514, which is single bytes.
    pub vocabulary: usize,
    /// Ids of a text with both marks: 3 to 77.
    pub length: usize,
}

/// A token for each byte, inside and at the end of a word, and the two marks.
const VOCABULARY_MIN: usize = 2 * 256 + MARKS;
const MARKS: usize = 2;
const LENGTH_MIN: usize = 3;

impl ClipSize {
    /// Of every released CLIP.
    pub const RELEASED: ClipSize = ClipSize { vocabulary: 49408, length: CLIP_LENGTH };

    /// Whether there is such a tokenizer.
    pub fn is_possible(self) -> bool {
        (VOCABULARY_MIN..=Self::RELEASED.vocabulary).contains(&self.vocabulary)
            && (LENGTH_MIN..=CLIP_LENGTH).contains(&self.length)
    }

    /// The id that ends a text.
    pub fn end_of_text(self) -> u32 {
        self.vocabulary as u32 - 1
    }

    /// The id that begins one.
    pub fn start_of_text(self) -> u32 {
        self.vocabulary as u32 - 2
    }

    fn merges(self) -> usize {
        self.vocabulary - VOCABULARY_MIN
    }

    fn kind(self) -> Kind {
        let marks = vec![Mark { token: START, id: self.start_of_text() }, Mark { token: END, id: self.end_of_text() }];
        Kind { model: "CLIP", marks, tokens_min: self.vocabulary, merges_min: self.merges() }
    }
}

/// What a word is: `CLIPTokenizer` in transformers, after `SimpleTokenizer` in openai/CLIP.
pub(super) const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// CLIP's byte-pair tokenizer: 77 ids, start mark, at most 75 tokens, end mark, padding; fewer for a smaller encoder.
#[derive(Debug, Clone)]
pub struct ClipTokenizer {
    table: Table,
    size: ClipSize,
    pad: u32,
    pad_token: String,
}

impl ClipTokenizer {
    /// The built-in tokenizer, as Stability-AI/sd3.5 uses it: CLIP-L pads with the end mark, CLIP-G with 0.
    ///
    /// There a `!` in a text is an ordinary character for CLIP-G; see [`Self::with_pad_inside_texts`].
    pub fn embedded(kind: ClipKind) -> Self {
        ClipTokenizer::sized(kind, ClipSize::RELEASED)
    }

    /// The built-in tokenizer with as many tokens and places.
    ///
    /// # Panics
    /// The size is not possible: a bug of the caller.
    pub fn sized(kind: ClipKind, size: ClipSize) -> Self {
        assert!(size.is_possible(), "a CLIP tokenizer of {size:?}");
        let table = parse_vocab(VOCABULARY)
            .map(|vocab| smaller(vocab, size))
            .and_then(|vocab| build(parse_merges(&merges_file(size), &vocab)?, vocab))
            .map(|tokenizer| Table::new(tokenizer, Origin::Embedded))
            .expect("the embedded tables are tested");
        let (pad_token, pad) = default_pad(kind, size);
        ClipTokenizer { table, size, pad, pad_token: pad_token.into() }
    }

    /// The tokenizer of a model's folder: `tokenizer.json`, or else `vocab.json` with `merges.txt`.
    ///
    /// The padding token is the one the folder names (SD3's `tokenizer_2` names `!`). `kind` decides only if the
    /// folder names none. Inside texts it is an ordinary token, whatever the folder says, as in
    /// [`Self::embedded`]; see [`Self::with_pad_inside_texts`].
    ///
    /// # Errors
    /// The files are not there, are broken, or are not CLIP's.
    pub fn from_folder(folder: &Path, kind: ClipKind) -> Result<Self, TokenizerError> {
        let named = folder::pad_token(folder)?;
        let size = folder_size(folder)?;
        let (default_token, default_id) = default_pad(kind, size);
        let pad_token = named.as_ref().map_or(default_token, |(token, _)| token).to_owned();
        let table = match folder::file(folder, "tokenizer.json") {
            Some(path) => Table::from_json_file(&path, &size.kind(), Some(&pad_token))?,
            None => from_vocab_and_merges(folder, size)?,
        };
        let pad = match named {
            None => default_id,
            Some((token, path)) => table.id(&token).ok_or(TokenizerError::Pad { path, token })?,
        };
        Ok(ClipTokenizer { table, size, pad, pad_token })
    }

    /// The same, with the padding token found inside texts too, as transformers does with every padding token:
    /// for diffusers' CLIP-G a `!` is padding, id 0.
    #[must_use]
    pub fn with_pad_inside_texts(mut self) -> Self {
        self.table.make_special(&self.pad_token);
        self
    }

    /// The ids of a text, as many as the size has places.
    ///
    /// # Errors
    /// A tokenizer from a broken file fails. The built-in one does not.
    pub fn tokenize(&self, text: &str) -> Result<Tokens, TokenizerError> {
        self.tokenize_weighted(&WeightedText::plain(text), 1)
    }

    /// The ids of a text that may be long: one run of as many as the size has places, with its marks, after the other, at
    /// most `chunks_max`. A new one begins where one is full, before the word that does not fit, and at the text's breaks.
    ///
    /// # Errors
    /// A tokenizer from a broken file fails. The built-in one does not.
    ///
    /// # Panics
    /// No run is wanted: a bug of the caller.
    pub fn tokenize_weighted(&self, text: &WeightedText, chunks_max: usize) -> Result<Tokens, TokenizerError> {
        assert!(chunks_max > 0, "no run of tokens");
        let pieces = self.table.pieces(text.text())?;
        let (count, all_weights) = (pieces.ids.len(), pieces.weights(text));
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        let (mut from, mut runs, mut real) = (0, 0, 0);
        while runs == 0 || (from < count && runs < chunks_max) {
            runs += 1;
            let run = pieces.chunk(from, self.size.length - MARKS, text.breaks(), runs == chunks_max);
            from = run.end;
            real += run.len() + MARKS;
            ids.push(self.size.start_of_text());
            ids.extend_from_slice(&pieces.ids[run.clone()]);
            ids.push(self.size.end_of_text());
            ids.resize(runs * self.size.length, self.pad);
            weights.push(1.0);
            weights.extend_from_slice(&all_weights[run]);
            weights.resize(ids.len(), 1.0);
        }
        let cut = pieces.spans.get(from).and_then(|span| Cut::report(text.text(), count - from, span.0));
        Ok(Tokens { ids, weights, real, cut })
    }

    /// The id that fills a short text.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Where the tables are from.
    pub fn origin(&self) -> &Origin {
        &self.table.origin
    }

    /// Tokens and places.
    pub fn size(&self) -> ClipSize {
        self.size
    }

    /// Checks that an encoder with `vectors` rows in its embedding table has one for every id.
    ///
    /// # Errors
    /// It has not: the tokenizer is of another model.
    pub fn check_vectors(&self, vectors: usize) -> Result<(), TokenizerError> {
        self.table.check_vectors(vectors)
    }

    /// Checks that an encoder is of this size.
    ///
    /// # Errors
    /// It has no vector for a token, ends its texts with another one, or has another number of places.
    pub fn check_encoder(&self, encoder: ClipSize) -> Result<(), TokenizerError> {
        self.check_vectors(encoder.vocabulary)?;
        if encoder.length == self.size.length && encoder.end_of_text() == self.size.end_of_text() {
            return Ok(());
        }
        let origin = self.table.origin.to_string();
        Err(TokenizerError::OtherSize { origin, tokenizer: self.size, encoder })
    }
}

/// Stability-AI/sd3.5 `other_impls.py`: `SDXLClipGTokenizer` has `pad_with_end=False`.
pub(super) fn default_pad(kind: ClipKind, size: ClipSize) -> (&'static str, u32) {
    match kind {
        ClipKind::L => (END, size.end_of_text()),
        ClipKind::G => ("!", 0),
    }
}

/// The size that a folder's `tokenizer_config.json` states: `model_max_length`, and `vocab_size`, which transformers has
/// elsewhere; without them, or with more, that of the released ones.
fn folder_size(folder: &Path) -> Result<ClipSize, TokenizerError> {
    let Some((settings, path)) = folder::settings(folder)? else { return Ok(ClipSize::RELEASED) };
    let stated = |key: &str, released: usize| {
        let value = settings.get(key).and_then(serde_json::Value::as_u64).and_then(|value| usize::try_from(value).ok());
        value.unwrap_or(released).min(released)
    };
    let ClipSize { vocabulary, length } = ClipSize::RELEASED;
    let size = ClipSize { vocabulary: stated("vocab_size", vocabulary), length: stated("model_max_length", length) };
    if size.is_possible() {
        return Ok(size);
    }
    let why = format!("{} tokens and {} places are too few", size.vocabulary, size.length);
    Err(TokenizerError::broken(&path, why))
}

/// The tokens of the first merges, and the marks behind them.
fn smaller(vocab: Vocab, size: ClipSize) -> Vocab {
    let mut kept: Vocab = vocab.into_iter().filter(|(_, id)| *id < size.start_of_text()).collect();
    kept.insert(START.into(), size.start_of_text());
    kept.insert(END.into(), size.end_of_text());
    kept
}

/// `vocab.json` of a size.
pub(super) fn vocabulary_file(size: ClipSize) -> Vec<u8> {
    let vocab = parse_vocab(VOCABULARY).map(|vocab| smaller(vocab, size)).expect("the embedded tables are tested");
    let mut tokens: Vec<(String, u32)> = vocab.into_iter().map(|(token, id)| (token.to_string(), id)).collect();
    tokens.sort_by_key(|(_, id)| *id);
    let lines: Vec<String> = tokens.iter().map(|(token, id)| format!("{}: {id}", serde_json::json!(token))).collect();
    format!("{{{}}}", lines.join(", ")).into_bytes()
}

/// `merges.txt` of a size.
pub(super) fn merges_file(size: ClipSize) -> String {
    // The first line is the format's version.
    MERGES.lines().take(1 + size.merges()).map(|line| format!("{line}\n")).collect()
}

/// The older form of a CLIP tokenizer folder.
fn from_vocab_and_merges(folder: &Path, size: ClipSize) -> Result<Table, TokenizerError> {
    let wanted = "`tokenizer.json`, nor `vocab.json` with `merges.txt`";
    let not_there = || TokenizerError::NotThere { folder: folder.into(), wanted };
    let vocab_path = folder::file(folder, "vocab.json").ok_or_else(not_there)?;
    let merges_path = folder::file(folder, "merges.txt").ok_or_else(not_there)?;

    let in_vocab = |reason: String| TokenizerError::broken(&vocab_path, reason);
    let in_merges = |reason: String| TokenizerError::broken(&merges_path, reason);
    let vocab = parse_vocab(&folder::read(&vocab_path)?).map_err(in_vocab)?;
    let merges = String::from_utf8(folder::read(&merges_path)?).map_err(|error| in_merges(error.to_string()))?;
    let merges = parse_merges(&merges, &vocab).map_err(in_merges)?;
    let kind = size.kind();
    if merges.len() < kind.merges_min {
        return Err(in_merges(too_few("merges", merges.len(), kind.model, kind.merges_min)));
    }
    let table = Table::new(build(merges, vocab).map_err(in_vocab)?, Origin::File(vocab_path.clone()));
    table.require(&vocab_path, &kind)?;
    Ok(table)
}

/// `{"token": id}`.
fn parse_vocab(bytes: &[u8]) -> Result<Vocab, String> {
    let vocab: HashMap<String, u32> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(vocab.into_iter().collect())
}

/// One merge a line, its halves with a space between, after a first line that gives the format's version.
///
/// Every half and every result must be a token: the library would stop the program over a result that is not.
fn parse_merges(text: &str, vocab: &Vocab) -> Result<Merges, String> {
    let mut merges = Merges::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with("#version") {
            continue;
        }
        let (left, right) = line.split_once(' ').ok_or_else(|| format!("line {} is not a merge", number + 1))?;
        for token in [left, right, &format!("{left}{right}")] {
            if !vocab.contains_key(token) {
                let token = printable::name(token);
                return Err(format!("line {} needs `{token}`, which is not in the vocabulary", number + 1));
            }
        }
        merges.push((left.into(), right.into()));
    }
    Ok(merges)
}

/// The tokenizer that transformers' `CLIPTokenizer` builds from these tables.
fn build(merges: Merges, vocab: Vocab) -> Result<Tokenizer, String> {
    let assemble = || -> tokenizers::Result<Tokenizer> {
        let model = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .unk_token(END.into())
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix("</w>".into())
            .build()?;
        let one_space = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ")?;
        let words = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true)?;
        let bytes = ByteLevel::new(false, true, true);

        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_normalizer(Some(Normalizers::new(vec![NFC.into(), one_space.into(), Lowercase.into()])))?;
        tokenizer.with_pre_tokenizer(Some(Splitters::new(vec![words.into(), bytes.into()])));
        tokenizer.add_special_tokens([START, END].map(|mark| AddedToken::from(mark, true)))?;
        Ok(tokenizer)
    };
    assemble().map_err(|error| error.to_string())
}
