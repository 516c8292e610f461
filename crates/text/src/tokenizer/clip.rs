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

/// Positions of a CLIP text encoder.
pub(crate) const CLIP_LENGTH: usize = 77;
/// The id that ends a text for CLIP. The pooled output is read at the first of these.
pub const END_OF_TEXT: u32 = 49407;
pub(crate) const START_OF_TEXT: u32 = 49406;
pub(super) const START: &str = "<|startoftext|>";
pub(super) const END: &str = "<|endoftext|>";

/// The built-in tables.
pub(super) const VOCABULARY: &[u8] = include_bytes!("../../data/clip_vocab.json");
pub(super) const MERGES: &str = include_str!("../../data/clip_merges.txt");

const MARKS: &[Mark] = &[Mark { token: START, id: START_OF_TEXT }, Mark { token: END, id: END_OF_TEXT }];

/// One token for each byte, inside and at the end of a word, one for each merge, and the two marks.
const KIND: Kind = Kind { model: "CLIP", marks: MARKS, tokens_min: 49408, merges_min: MERGES_MIN };
const MERGES_MIN: usize = 48894;

/// What a word is: `CLIPTokenizer` in transformers, after `SimpleTokenizer` in openai/CLIP.
pub(super) const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// CLIP's byte-pair tokenizer: 77 ids, start mark, at most 75 tokens, end mark, padding.
#[derive(Debug, Clone)]
pub struct ClipTokenizer {
    table: Table,
    pad: u32,
    pad_token: String,
}

impl ClipTokenizer {
    /// The built-in tokenizer, as Stability-AI/sd3.5 uses it: CLIP-L pads with the end mark, CLIP-G with 0.
    ///
    /// There a `!` in a text is an ordinary character for CLIP-G; see [`Self::with_pad_inside_texts`].
    pub fn embedded(kind: ClipKind) -> Self {
        let table = parse_vocab(VOCABULARY)
            .and_then(|vocab| build(parse_merges(MERGES, &vocab)?, vocab))
            .map(|tokenizer| Table::new(tokenizer, Origin::Embedded))
            .expect("the embedded tables are tested");
        let (pad_token, pad) = default_pad(kind);
        ClipTokenizer { table, pad, pad_token: pad_token.into() }
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
        let (default_token, default_id) = default_pad(kind);
        let pad_token = named.as_ref().map_or(default_token, |(token, _)| token).to_owned();
        let table = match folder::file(folder, "tokenizer.json") {
            Some(path) => Table::from_json_file(&path, &KIND, Some(&pad_token))?,
            None => from_vocab_and_merges(folder)?,
        };
        let pad = match named {
            None => default_id,
            Some((token, path)) => table.id(&token).ok_or(TokenizerError::Pad { path, token })?,
        };
        Ok(ClipTokenizer { table, pad, pad_token })
    }

    /// The same, with the padding token found inside texts too, as transformers does with every padding token:
    /// for diffusers' CLIP-G a `!` is padding, id 0.
    #[must_use]
    pub fn with_pad_inside_texts(mut self) -> Self {
        self.table.make_special(&self.pad_token);
        self
    }

    /// The 77 ids of a text.
    ///
    /// # Errors
    /// A tokenizer from a broken file fails. The built-in one does not.
    pub fn tokenize(&self, text: &str) -> Result<Tokens, TokenizerError> {
        let mut pieces = self.table.pieces(text)?;
        let cut = pieces.cut_to(CLIP_LENGTH - 2).and_then(|(lost, start)| Cut::report(text, lost, start));

        let mut ids = Vec::with_capacity(CLIP_LENGTH);
        ids.push(START_OF_TEXT);
        ids.append(&mut pieces.ids);
        ids.push(END_OF_TEXT);
        let real = ids.len();
        ids.resize(CLIP_LENGTH, self.pad);
        Ok(Tokens { ids, real, cut })
    }

    /// The id that fills a short text.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Where the tables are from.
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

/// Stability-AI/sd3.5 `other_impls.py`: `SDXLClipGTokenizer` has `pad_with_end=False`.
pub(super) fn default_pad(kind: ClipKind) -> (&'static str, u32) {
    match kind {
        ClipKind::L => (END, END_OF_TEXT),
        ClipKind::G => ("!", 0),
    }
}

/// The older form of a CLIP tokenizer folder.
fn from_vocab_and_merges(folder: &Path) -> Result<Table, TokenizerError> {
    let wanted = "`tokenizer.json`, nor `vocab.json` with `merges.txt`";
    let not_there = || TokenizerError::NotThere { folder: folder.into(), wanted };
    let vocab_path = folder::file(folder, "vocab.json").ok_or_else(not_there)?;
    let merges_path = folder::file(folder, "merges.txt").ok_or_else(not_there)?;

    let in_vocab = |reason: String| TokenizerError::broken(&vocab_path, reason);
    let in_merges = |reason: String| TokenizerError::broken(&merges_path, reason);
    let vocab = parse_vocab(&folder::read(&vocab_path)?).map_err(in_vocab)?;
    let merges = String::from_utf8(folder::read(&merges_path)?).map_err(|error| in_merges(error.to_string()))?;
    let merges = parse_merges(&merges, &vocab).map_err(in_merges)?;
    if merges.len() < MERGES_MIN {
        return Err(in_merges(too_few("merges", merges.len(), "CLIP", MERGES_MIN)));
    }
    let table = Table::new(build(merges, vocab).map_err(in_vocab)?, Origin::File(vocab_path.clone()));
    table.require(&vocab_path, &KIND)?;
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
