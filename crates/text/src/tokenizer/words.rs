//! A vocabulary for a small T5: each word that a data set's texts often have is one token, everything else is spelled.
//!
//! What stands in quotes is always spelled, letter by letter, so an encoder that was trained on words in quotes can read
//! one it has never seen, as ByT5 does (Xue et al. 2022, arXiv:2105.13626), and the rest of a text is as short as T5's.
//! The form is T5's own: a unigram model over spaces written as `▁`, here with bytes for what it has no letter for.
//!
//! What this module does not do: read a folder; that is [`super::T5Tokenizer::from_folder`].

use std::collections::BTreeMap;

use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::unicode::NFKC;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, Tokenizer};

/// With the place of each as its id.
const MARKS: [&str; 3] = ["<pad>", "</s>", "<unk>"];
const UNKNOWN: usize = 2;
/// Tokens that stand for hidden runs.
pub(super) const SENTINELS: usize = 100;
/// Words that are fewer than this have no token: what their vectors would learn is little.
const OFTEN: usize = 10;
/// The most words that have one.
const WORDS_MAX: usize = 30_000;

/// A word is better whole than spelled, and a letter better than its bytes. Logarithms of probabilities, as the model
/// adds them.
const WHOLE: f64 = -5.0;
const LETTER: f64 = -10.0;
const BYTE: f64 = -20.0;

/// A tokenizer with the words of `texts`. The same texts give the same ids.
pub(super) fn tokenizer<'a>(texts: impl Iterator<Item = &'a str>) -> Tokenizer {
    let mut counts = BTreeMap::<&str, usize>::new();
    for text in texts {
        text.split(' ').filter_map(word).for_each(|word| *counts.entry(word).or_default() += 1);
    }
    let mut words: Vec<(&str, usize)> = counts.into_iter().filter(|(_, count)| *count >= OFTEN).collect();
    // The commonest first; words that are as common stay in their alphabetical order.
    words.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    words.truncate(WORDS_MAX);

    let mut vocabulary: Vec<(String, f64)> = MARKS.map(|mark| (mark.to_owned(), 0.0)).into();
    vocabulary.push(("▁".to_owned(), LETTER));
    vocabulary.extend(('!'..='~').map(|letter| (letter.to_string(), LETTER)));
    // An opening quote.
    vocabulary.push(("▁\"".to_owned(), WHOLE));
    vocabulary.extend(words.iter().map(|(word, _)| (format!("▁{word}"), WHOLE)));
    vocabulary.extend((0..=u8::MAX).map(|byte| (format!("<0x{byte:02X}>"), BYTE)));

    let model = Unigram::from(vocabulary, Some(UNKNOWN), true).expect("the unknown token is in the vocabulary");
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(NFKC)).expect("no vocabulary is normalised");
    let spaces = Metaspace::new('▁', PrependScheme::Always, true);
    tokenizer.with_pre_tokenizer(Some(spaces.clone())).with_decoder(Some(spaces));
    let special = |text: &str| AddedToken::from(text, true);
    let sentinels = (0..SENTINELS).rev().map(|number| special(&format!("<extra_id_{number}>")));
    tokenizer.add_special_tokens(MARKS.map(special)).expect("marks have an id each");
    tokenizer.add_special_tokens(sentinels).expect("sentinels are given the next ids");
    tokenizer
}

/// What is left of a part of a text without the punctuation behind it, if that is a word and not quoted.
fn word(part: &str) -> Option<&str> {
    let word = part.trim_end_matches(['.', ',', ':', ';', '!', '?']);
    let is_word = !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '\'');
    is_word.then_some(word)
}
