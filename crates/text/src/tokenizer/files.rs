//! Tokenizers as files of a model's folder, for encoders that were trained with them: what transformers
//! reads, and [`ClipTokenizer::from_folder`] and [`T5Tokenizer::from_folder`] too.

use std::borrow::Cow;
use std::path::Path;

use serde_json::{Value, json};

use super::clip::{ClipSize, ClipTokenizer, default_pad};
use super::t5::T5Tokenizer;
use super::{TokenizerError, bytes, clip, folder, t5};
use crate::ClipKind;

/// Name and content of a file.
pub type TokenizerFile = (&'static str, Cow<'static, [u8]>);

impl ClipTokenizer {
    /// [`Self::sized`] as the files of its folder.
    pub fn files(kind: ClipKind, size: ClipSize) -> Vec<TokenizerFile> {
        let (pad, _) = default_pad(kind, size);
        let marks = json!({
            "bos_token": clip::START,
            "eos_token": clip::END,
            "pad_token": pad,
            "unk_token": clip::END,
        });
        let mut class = json!({ "tokenizer_class": "CLIPTokenizer", "model_max_length": size.length });
        let (vocabulary, merges) = if size.vocabulary == ClipSize::RELEASED.vocabulary {
            (Cow::Borrowed(clip::VOCABULARY), Cow::Borrowed(clip::MERGES.as_bytes()))
        } else {
            class["vocab_size"] = json!(size.vocabulary);
            (Cow::Owned(clip::vocabulary_file(size)), Cow::Owned(clip::merges_file(size).into_bytes()))
        };
        vec![
            ("vocab.json", vocabulary),
            ("merges.txt", merges),
            ("special_tokens_map.json", text(&marks)),
            ("tokenizer_config.json", text(&joined(class, marks))),
        ]
    }
}

impl T5Tokenizer {
    /// The files of its folder. `length`: tokens of a text that its encoder was trained with, as [`Self::stated_length`]
    /// finds it again.
    pub fn files(&self, length: usize) -> Vec<TokenizerFile> {
        let marks = json!({ "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>" });
        let map = ("special_tokens_map.json", text(&marks));
        let (table, class) = match self.table_file() {
            Some(table) => (Some(table), json!({ "tokenizer_class": "T5Tokenizer", "extra_ids": 0 })),
            None => (None, json!({ "tokenizer_class": t5::BYTES_CLASS, "extra_ids": bytes::SENTINELS })),
        };
        let class = joined(joined(class, json!({ "model_max_length": length })), marks);
        let table = table.map(|table| ("tokenizer.json", Cow::Owned(table)));
        table.into_iter().chain([map, ("tokenizer_config.json", text(&class))]).collect()
    }
}

impl T5Tokenizer {
    /// How many tokens a text may have, if the folder's `tokenizer_config.json` says so: `model_max_length`.
    ///
    /// # Errors
    /// The file cannot be read, or is no JSON.
    pub fn stated_length(folder: &Path) -> Result<Option<usize>, TokenizerError> {
        let stated = folder::settings(folder)?;
        let length = stated.and_then(|(settings, _)| settings.get("model_max_length").and_then(Value::as_u64));
        Ok(length.and_then(|length| usize::try_from(length).ok()))
    }
}

/// All keys of both objects.
fn joined(mut one: Value, other: Value) -> Value {
    if let (Value::Object(one), Value::Object(other)) = (&mut one, other) {
        one.extend(other);
    }
    one
}

fn text(value: &Value) -> Cow<'static, [u8]> {
    Cow::Owned(format!("{value:#}").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Origin, T5Rule};

    const TEXTS: [&str; 4] = ["a photo of a cat", "Wow!! 3 crème brûlées", "", "<|endoftext|> </s> <extra_id_0>"];

    fn written(files: Vec<TokenizerFile>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, content)| std::fs::write(folder.path().join(name), content).unwrap());
        folder
    }

    #[test]
    fn the_files_of_a_clip_tokenizer_are_read_back_as_the_same() {
        let small = ClipSize { vocabulary: 4096, length: 32 };
        for (kind, size) in [(ClipKind::L, ClipSize::RELEASED), (ClipKind::G, ClipSize::RELEASED), (ClipKind::L, small)]
        {
            let folder = written(ClipTokenizer::files(kind, size));
            let other = if kind == ClipKind::L { ClipKind::G } else { ClipKind::L };
            // The folder knows its padding; the kind is not asked.
            let read = ClipTokenizer::from_folder(folder.path(), other).unwrap();
            let embedded = ClipTokenizer::sized(kind, size);
            assert_eq!((read.pad(), read.size()), (embedded.pad(), size));
            read.check_encoder(size).unwrap();
            for text in TEXTS {
                assert_eq!(read.tokenize(text).unwrap(), embedded.tokenize(text).unwrap(), "{text}");
            }
        }
    }

    #[test]
    fn a_small_clip_tokenizer_has_the_first_merges_and_its_marks_last() {
        let size = ClipSize { vocabulary: 1000, length: 12 };
        let (small, whole) = (ClipTokenizer::sized(ClipKind::L, size), ClipTokenizer::embedded(ClipKind::L));
        let [short, long] = [&small, &whole].map(|tokenizer| tokenizer.tokenize("a cat and a hedgehog").unwrap());
        assert_eq!((short.ids.len(), short.ids[0], short.ids[1]), (12, 998, long.ids[1]));
        assert!(short.real > long.real && short.ids[short.real - 1] == 999);
        assert!(short.ids[1..short.real - 1].iter().all(|&id| id < 998));
        assert_eq!((small.pad(), ClipTokenizer::sized(ClipKind::G, size).pad()), (999, 0));
        let cut = small.tokenize("one two three four five six seven eight nine ten eleven twelve").unwrap();
        assert!(cut.cut.is_some() && cut.ids.len() == 12 && cut.ids[11] == 999);
        let other = small.check_encoder(ClipSize { length: 20, ..size }).unwrap_err().to_string();
        assert!(other.contains("12") && other.contains("20") && other.contains("hint: "), "{other}");
    }

    #[test]
    fn a_small_clip_tokenizer_whose_files_were_cut_short_is_refused() {
        let size = ClipSize { vocabulary: 1000, length: 12 };
        let mut files = ClipTokenizer::files(ClipKind::L, size);
        let merges = files.iter_mut().find(|(name, _)| *name == "merges.txt").unwrap();
        let text = String::from_utf8(merges.1.to_vec()).unwrap();
        let cut: String = text.lines().take(300).map(|line| format!("{line}\n")).collect();
        merges.1 = Cow::Owned(cut.into_bytes());
        let error = ClipTokenizer::from_folder(written(files).path(), ClipKind::L).unwrap_err().to_string();
        assert!(error.contains("299 merges") && error.contains("486"), "{error}");
    }

    #[test]
    fn the_files_of_a_t5_tokenizer_are_read_back_as_the_same() {
        let words = T5Tokenizer::of_words(std::iter::repeat_n("a photo of a cat", 10));
        for tokenizer in [T5Tokenizer::bytes(), T5Tokenizer::embedded(), words] {
            let folder = written(tokenizer.files(96));
            let read = T5Tokenizer::from_folder(folder.path()).unwrap();
            assert_eq!(T5Tokenizer::stated_length(folder.path()).unwrap(), Some(96));
            read.check_vectors(tokenizer.rows()).unwrap();
            assert!(matches!(read.origin(), Origin::File(_)));
            assert_eq!((read.sentinels(), read.rows()), (tokenizer.sentinels(), tokenizer.rows()));
            for text in TEXTS {
                let rule = T5Rule::diffusers(77);
                let before = tokenizer.tokenize(text, &rule).unwrap();
                assert_eq!(read.tokenize(text, &rule).unwrap(), before, "{text}");
            }
        }
    }
}
