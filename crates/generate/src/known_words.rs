//! The words that a small model was trained with, which stand in a file of its folder: it draws what it likes for others,
//! and a user should hear of that.
//!
//! What this module does not do: judge what a model makes of a word that it knows.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;

/// The words of a model's captions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownWords(BTreeSet<String>);

impl KnownWords {
    /// Its name in a model's folder: a word a line, in small letters.
    pub const FILE: &str = "known_words.txt";

    /// More is no list of words that a model could be told by.
    const BYTES_MAX: u64 = 1 << 20;

    /// Those of a model's folder, if it has a list.
    ///
    /// # Errors
    /// The list cannot be read, is no text, or is larger than a megabyte.
    pub fn open(folder: &Path) -> io::Result<Option<KnownWords>> {
        let file = match std::fs::File::open(folder.join(Self::FILE)) {
            Ok(file) => file,
            Err(problem) if matches!(problem.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(problem) => return Err(problem),
        };
        let mut text = String::new();
        let read = file.take(Self::BYTES_MAX + 1).read_to_string(&mut text)?;
        if read as u64 > Self::BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than a megabyte"));
        }
        Ok(Some(KnownWords(
            text.lines().map(str::trim).filter(|word| !word.is_empty()).map(str::to_lowercase).collect(),
        )))
    }

    /// Adds those of a caption.
    pub fn learn(&mut self, caption: &str) {
        self.0.extend(words(caption).map(str::to_lowercase));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The list as its file has it.
    pub fn to_text(&self) -> String {
        self.0.iter().map(|word| format!("{word}\n")).collect()
    }

    /// The words of a prompt that are not in the list, each once, in their order.
    pub fn unknown<'a>(&self, prompt: &'a str) -> Vec<&'a str> {
        let mut seen = BTreeSet::new();
        words(prompt)
            .filter(|word| !self.0.contains(&word.to_lowercase()) && seen.insert(word.to_lowercase()))
            .collect()
    }
}

/// The words of a text outside of quotation marks: what is in them is to be written, and may be anything.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_mark = |c: char| matches!(c, '"' | '\u{201c}' | '\u{201d}' | '\u{201e}');
    let outside = text.split(is_mark).step_by(2);
    outside.flat_map(|part| {
        part.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '\'' && c != '\u{2019}')
            .map(|word| word.trim_matches(['-', '\'', '\u{2019}']))
            .filter(|word| !word.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> KnownWords {
        let mut known = KnownWords::default();
        let captions = ["a red apple", "two jack-o-lanterns, 3D style", "the word \"HELLO\" on a T. rex"];
        captions.into_iter().for_each(|text| known.learn(text));
        known
    }

    #[test]
    fn words_outside_of_quotes_that_no_caption_had_are_unknown_once() {
        let known = known();
        assert_eq!(known.unknown("A Red apple on a zeppelin, 3d zeppelin"), ["zeppelin"]);
        assert_eq!(known.unknown("two jack-o-lanterns and the word \"XYZZY\"; 'red'"), ["and"]);
        assert_eq!(known.unknown("un renard \u{201c}red\u{201d} \u{72d0}"), ["un", "renard", "\u{72d0}"]);
        assert!(known.unknown("").is_empty() && known.unknown("T. rex").is_empty());
        assert_eq!(known.unknown("hello"), ["hello"], "it was only to be written");
    }

    #[test]
    fn a_list_is_read_back_and_a_folder_without_one_has_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(KnownWords::open(folder.path()).unwrap(), None);
        std::fs::write(folder.path().join(KnownWords::FILE), known().to_text()).unwrap();
        assert_eq!(KnownWords::open(folder.path()).unwrap(), Some(known()));
        std::fs::write(folder.path().join(KnownWords::FILE), vec![b'a'; (1 << 20) + 1]).unwrap();
        assert!(KnownWords::open(folder.path()).unwrap_err().to_string().contains("megabyte"));
        std::fs::write(folder.path().join(KnownWords::FILE), [0xff, 0xfe]).unwrap();
        assert!(KnownWords::open(folder.path()).is_err());
    }
}
