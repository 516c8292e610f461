//! The built-in tokenizers as files of a model's folder, for encoders that were trained with them: what transformers
//! reads, and [`ClipTokenizer::from_folder`] and [`T5Tokenizer::from_folder`] too.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::clip::{ClipTokenizer, default_pad};
use super::t5::T5Tokenizer;
use super::{BYTES, bytes, clip, t5};
use crate::ClipKind;

/// Name and content of a file.
pub type TokenizerFile = (&'static str, Cow<'static, [u8]>);

impl ClipTokenizer {
    /// [`Self::embedded`] as the files of its folder.
    pub fn embedded_files(kind: ClipKind) -> Vec<TokenizerFile> {
        let (pad, _) = default_pad(kind);
        let marks = json!({
            "bos_token": clip::START,
            "eos_token": clip::END,
            "pad_token": pad,
            "unk_token": clip::END,
        });
        let class = json!({ "tokenizer_class": "CLIPTokenizer", "model_max_length": clip::CLIP_LENGTH });
        vec![
            ("vocab.json", Cow::Borrowed(clip::VOCABULARY)),
            ("merges.txt", Cow::Borrowed(clip::MERGES.as_bytes())),
            ("special_tokens_map.json", text(&marks)),
            ("tokenizer_config.json", text(&joined(class, marks))),
        ]
    }
}

impl T5Tokenizer {
    /// The built-in tokenizer of an encoder with `rows` vectors in its token table, as the files of its folder.
    pub fn built_in_files(rows: usize) -> Vec<TokenizerFile> {
        let marks = json!({ "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>" });
        let map = ("special_tokens_map.json", text(&marks));
        if rows == BYTES {
            let class = json!({ "tokenizer_class": t5::BYTES_CLASS, "extra_ids": bytes::SENTINELS });
            return vec![map, ("tokenizer_config.json", text(&joined(class, marks)))];
        }
        let class = json!({ "tokenizer_class": "T5Tokenizer", "extra_ids": 0 });
        vec![("tokenizer.json", Cow::Borrowed(t5::TABLE)), map, ("tokenizer_config.json", text(&joined(class, marks)))]
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
        for kind in [ClipKind::L, ClipKind::G] {
            let folder = written(ClipTokenizer::embedded_files(kind));
            let other = if kind == ClipKind::L { ClipKind::G } else { ClipKind::L };
            // The folder knows its padding; the kind is not asked.
            let read = ClipTokenizer::from_folder(folder.path(), other).unwrap();
            let embedded = ClipTokenizer::embedded(kind);
            assert_eq!(read.pad(), embedded.pad());
            for text in TEXTS {
                assert_eq!(read.tokenize(text).unwrap(), embedded.tokenize(text).unwrap(), "{text}");
            }
        }
    }

    #[test]
    fn the_files_of_a_t5_tokenizer_are_read_back_as_the_same() {
        for rows in [BYTES, 32128] {
            let folder = written(T5Tokenizer::built_in_files(rows));
            let read = T5Tokenizer::from_folder(folder.path()).unwrap();
            read.check_vectors(rows).unwrap();
            assert!(matches!(read.origin(), Origin::File(_)));
            for text in TEXTS {
                let rule = T5Rule::diffusers(77);
                let built_in = T5Tokenizer::built_in(rows).tokenize(text, &rule).unwrap();
                assert_eq!(read.tokenize(text, &rule).unwrap(), built_in, "{text}");
            }
        }
    }
}
