//! Tokenizers against transformers, and what they say about texts that do not fit.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{fixture, json};
use rectiflow_text::*;
use serde_json::{Value, json as value};

/// The rule that loses least: T5's ids without padding.
const WHOLE: T5Rule = T5Rule { length: T5Length::AtLeast { min: 77, max: 512 }, t5_chars_max: None };

fn folder(name: &str) -> std::path::PathBuf {
    fixture("").join(name)
}

fn real(tokens: &Tokens) -> &[u32] {
    &tokens.ids[..tokens.real]
}

/// A case of `clip_tokens.json`: what transformers makes of a prompt, without padding or cutting.
#[derive(serde::Deserialize)]
struct Case {
    prompt: String,
    clip: Vec<u32>,
    t5: Vec<u32>,
    byt5: Vec<u32>,
}

fn cases() -> Vec<Case> {
    serde_json::from_value(json(&fixture("clip_tokens.json"))).unwrap()
}

/// Transformers' truncation: the first tokens and the end mark.
fn cut_to(ids: &[u32], length: usize) -> Vec<u32> {
    let (end, rest) = ids.split_last().unwrap();
    let mut kept: Vec<u32> = rest.iter().copied().take(length - 1).collect();
    kept.push(*end);
    kept
}

#[track_caller]
fn check_clip(tokenizer: &ClipTokenizer) {
    for Case { prompt, clip, .. } in cases() {
        let tokens = tokenizer.tokenize(&prompt).unwrap();
        assert_eq!(real(&tokens), cut_to(&clip, 77), "{prompt:?}");
        assert_eq!(tokens.ids.len(), 77, "{prompt:?}");
        assert!(tokens.ids[tokens.real..].iter().all(|&id| id == tokenizer.pad()), "{prompt:?}");
        let lost = tokens.cut.map_or(0, |cut| cut.tokens);
        assert_eq!(lost, clip.len().saturating_sub(77), "{prompt:?}");
    }
}

#[track_caller]
fn check_t5(tokenizer: &T5Tokenizer) {
    for Case { prompt, t5, .. } in cases() {
        let tokens = tokenizer.tokenize(&prompt, &WHOLE).unwrap();
        assert_eq!(real(&tokens), cut_to(&t5, 512), "{prompt:?}");
        assert_eq!(tokens.ids.len(), t5.len().clamp(77, 512), "{prompt:?}");
        assert!(tokens.ids[tokens.real..].iter().all(|&id| id == 0), "{prompt:?}");
        let lost = tokens.cut.map_or(0, |cut| cut.tokens);
        assert_eq!(lost, t5.len().saturating_sub(512), "{prompt:?}");
    }
}

/// A break ends a run where it stands, a full one ends before the word that does not fit, and what is beyond the last run is
/// cut.
#[test]
fn long_texts_are_cut_into_runs_at_breaks_and_between_words() {
    let clip = ClipTokenizer::embedded(ClipKind::L);
    let runs = |marked: &str, chunks_max| {
        let tokens = clip.tokenize_weighted(&WeightedText::parse(marked).unwrap(), chunks_max).unwrap();
        let end = clip.size().end_of_text();
        let real = |run: &[u32]| run.iter().position(|id| *id == end).unwrap() - 1;
        (tokens.ids.chunks(77).map(real).collect::<Vec<_>>(), tokens.cut.map(|cut| cut.words))
    };
    assert_eq!(runs("a cat BREAK two dogs BREAK", 32), (vec![2, 2], None));
    assert_eq!(runs("a cat BREAK two dogs", 1).0, [4], "one run knows no breaks");
    // "anthropomorphization" is several tokens, and begins the second run.
    let long = format!("{}anthropomorphization", "cat ".repeat(74));
    let (found, cut) = runs(&long, 32);
    assert!(found.len() == 2 && found[0] == 74 && found[1] > 1 && cut.is_none(), "{found:?}");
    let (found, cut) = runs(&"cat ".repeat(200), 2);
    assert_eq!((found, cut.unwrap().split_whitespace().count()), (vec![75, 75], 50));
}

#[test]
fn bytes_agree_with_transformers() {
    let tokenizer = T5Tokenizer::bytes();
    let ids = |text: &str| real(&tokenizer.tokenize(text, &WHOLE).unwrap()).to_vec();
    for Case { prompt, byt5, .. } in cases() {
        assert_eq!(ids(&prompt), cut_to(&byt5, 512), "{prompt:?}");
    }
    // What ByT5Tokenizer gives: marks take spaces along, and an end mark is not doubled.
    assert_eq!(ids(" x <unk>  y"), [35, 123, 2, 124, 1]);
    assert_eq!(ids("a  </s>"), [100, 1]);
    assert_eq!(ids("</s></s>"), [1, 1]);
    assert_eq!(ids("<extra_id_0> <extra_id_1>"), [259, 35, 260, 1]);
    assert_eq!(ids("q <extra_id_124> r"), [116, 35, 383, 35, 117, 1]);
    let plain = |text: &str| text.bytes().map(|byte| u32::from(byte) + 3).chain([1]).collect::<Vec<_>>();
    for text in
        ["<extra_id_125>", "<extra_id_07>", "<extra_id_+7>", "<extra_id_", "<extra_id_1", "<extra_id_é>", "< pad>"]
    {
        assert_eq!(ids(text), plain(text), "{text}");
    }
}

#[test]
fn bytes_have_the_lengths_and_cuts_of_the_rule() {
    let tokenizer = T5Tokenizer::bytes();
    let padded = tokenizer.tokenize("hé", &T5Rule::diffusers(80)).unwrap();
    assert_eq!((padded.ids.len(), padded.real, &padded.ids[..5]), (80, 4, &[107, 198, 172, 1, 0][..]));
    // The cut is after the first byte of é: its report has the whole character.
    let text = format!("{}é and more", "a".repeat(75));
    let cut = tokenizer.tokenize(&text, &T5Rule::diffusers(77)).unwrap();
    assert_eq!((cut.real, &cut.ids[75..]), (77, &[198, 1][..]));
    assert_eq!(cut.cut, Some(Cut { tokens: 10, words: "é and more".into() }));
    let cut = tokenizer.tokenize(&"é".repeat(230), &T5Rule::stability()).unwrap();
    assert_eq!((cut.real, cut.cut.unwrap().words), (453, "éééé".into()));
}

/// The tokens that stand for hidden runs are those that the tokenizer finds in a text.
#[test]
fn sentinels_are_the_last_tokens() {
    for (tokenizer, first, last) in [
        (T5Tokenizer::embedded(), "<extra_id_0>", "<extra_id_99>"),
        (T5Tokenizer::bytes(), "<extra_id_124>", "<extra_id_0>"),
    ] {
        let Sentinels { first: id, count } = tokenizer.sentinels();
        let ids = |text: &str| tokenizer.whole_text(text).unwrap();
        assert_eq!((ids(first), ids(last)), (vec![id], vec![id + 1 - count as u32]));
    }
}

#[test]
fn folders_say_that_tokens_are_bytes() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "tokenizer_config.json", &value!({"tokenizer_class": "ByT5Tokenizer"}));
    let tokenizer = T5Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(tokenizer.origin(), &Origin::File(folder.path().join("tokenizer_config.json")));
    assert_eq!(tokenizer.whole_text("ab").unwrap(), [100, 101]);
    write(folder.path(), "tokenizer_config.json", &value!({"tokenizer_class": "T5Tokenizer"}));
    assert!(T5Tokenizer::from_folder(folder.path()).unwrap_err().to_string().contains("holds no tokenizer"));
}

#[test]
fn an_encoder_of_words_is_given_no_bytes() {
    let bytes = T5Tokenizer::built_in(384);
    assert!(bytes.check_vectors(384).is_ok());
    for rows in [383, 32128] {
        let message = bytes.check_vectors(rows).unwrap_err().to_string();
        assert!(message.contains("makes bytes") && message.contains(&rows.to_string()), "{message}");
    }
    assert!(T5Tokenizer::built_in(32128).check_vectors(32128).is_ok());
    assert!(T5Tokenizer::embedded().check_vectors(384).is_err());
    let cut_short = T5Tokenizer::embedded().check_vectors(32228).unwrap_err().to_string();
    assert!(cut_short.contains("makes 32100 ids") && cut_short.contains("32228 vectors"), "{cut_short}");
}

#[test]
fn a_vocabulary_of_words_has_those_that_are_common_and_spells_the_rest() {
    let texts = ["a red fox, in the snow", "the word \"fox\" in red"].repeat(10);
    let tokenizer = T5Tokenizer::of_words(texts.iter().map(|text| &text[..]));
    let again = T5Tokenizer::of_words(texts.iter().map(|text| &text[..]));
    let length = |text: &str| tokenizer.whole_text(text).unwrap().len();
    assert_eq!(length("the red fox in a word"), 6);
    assert_eq!(length("the fox,"), 3, "punctuation is a token of its own");
    assert_eq!(length("\"fox\""), 5, "an opening quote, three letters, a closing quote");
    assert_eq!(length("wolf"), 5, "a space and four letters");
    assert_eq!(length("é"), 3, "a space and two bytes");
    let ids = |text: &str| tokenizer.whole_text(text).unwrap();
    assert_eq!(ids("\"fox\"")[1..4], ids("Xfox")[2..], "letters are the same wherever they stand");
    assert!(!ids("Ünïcödé \u{1f98a} \"ﬁ\"").contains(&2), "nothing is unknown");
    assert_eq!(ids("the red fox"), again.whole_text("the red fox").unwrap());
    assert_eq!(tokenizer.rows() % 128, 0);
    assert_eq!(tokenizer.sentinels().count, 100);
}

#[test]
fn embedded_clip_agrees_with_transformers() {
    check_clip(&ClipTokenizer::embedded(ClipKind::L));
}

#[test]
fn clip_of_a_tokenizer_json_agrees_with_transformers() {
    check_clip(&ClipTokenizer::from_folder(&folder("sd3/model/tokenizer"), ClipKind::L).unwrap());
}

#[test]
fn clip_of_vocab_and_merges_agrees_with_transformers() {
    check_clip(&ClipTokenizer::from_folder(&folder("sd35m/model/tokenizer"), ClipKind::L).unwrap());
}

#[test]
fn embedded_t5_agrees_with_transformers() {
    check_t5(&T5Tokenizer::embedded());
}

#[test]
fn t5_of_a_folder_agrees_with_transformers() {
    check_t5(&T5Tokenizer::from_folder(&folder("sd3/model/tokenizer_3")).unwrap());
}

#[test]
fn pads_are_those_of_the_encoder_and_of_the_folder() {
    let pad_of = |name: &str, kind| ClipTokenizer::from_folder(&folder(name), kind).unwrap().pad();
    assert_eq!(ClipTokenizer::embedded(ClipKind::L).pad(), END_OF_TEXT);
    assert_eq!(ClipTokenizer::embedded(ClipKind::G).pad(), 0);
    assert_eq!(pad_of("sd3/model/tokenizer", ClipKind::G), END_OF_TEXT);
    assert_eq!(pad_of("sd3/model/tokenizer_2", ClipKind::L), 0);
    assert_eq!(pad_of("sd35m/model/tokenizer", ClipKind::G), END_OF_TEXT);
    assert_eq!(pad_of("sd35m/model/tokenizer_2", ClipKind::L), 0);
}

/// Ids from transformers 5.23. diffusers' `tokenizer_2` pads with `!` and so finds it inside texts.
#[test]
fn a_padding_token_is_found_inside_texts() {
    let text = "hi!! there! x";
    for name in ["sd3/model/tokenizer_2", "sd35m/model/tokenizer_2"] {
        let tokenizer = ClipTokenizer::from_folder(&folder(name), ClipKind::G).unwrap();
        assert_eq!(real(&tokenizer.tokenize(text).unwrap()), [49406, 1883, 748, 997, 256, 343, 49407], "{name}");
        let tokens = tokenizer.with_pad_inside_texts().tokenize(text).unwrap();
        assert_eq!(real(&tokens), [49406, 1883, 0, 0, 997, 0, 343, 49407], "{name}");
    }
    let embedded = ClipTokenizer::embedded(ClipKind::G).tokenize(text).unwrap();
    assert_eq!(real(&embedded), [49406, 1883, 748, 997, 256, 343, 49407]);
}

/// A copy of a folder's files, to be changed.
fn copy_of(name: &str, files: &[&str]) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in files {
        fs::copy(folder(name).join(file), copy.path().join(file)).unwrap();
    }
    copy
}

fn write(folder: &Path, name: &str, content: &Value) {
    fs::write(folder.join(name), serde_json::to_vec(content).unwrap()).unwrap();
}

#[test]
fn the_special_tokens_map_overrides_the_config() {
    let copy = copy_of("sd35m/model/tokenizer", &["vocab.json", "merges.txt"]);
    let pad = || ClipTokenizer::from_folder(copy.path(), ClipKind::G).unwrap().pad();
    assert_eq!(pad(), 0, "CLIP-G's own");
    write(copy.path(), "tokenizer_config.json", &value!({"pad_token": {"content": "<|endoftext|>", "special": true}}));
    assert_eq!(pad(), END_OF_TEXT);
    write(copy.path(), "special_tokens_map.json", &value!({"pad_token": null}));
    assert_eq!(pad(), END_OF_TEXT);
    write(copy.path(), "special_tokens_map.json", &value!({"pad_token": "cat</w>"}));
    assert_eq!(pad(), 2368);
}

#[test]
fn a_tokenizer_json_that_cuts_and_pads_does_not() {
    let copy = copy_of("sd3/model/tokenizer", &["tokenizer.json"]);
    let mut content = json(&copy.path().join("tokenizer.json"));
    content["truncation"] = value!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    content["padding"] = value!({"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": null,
        "pad_id": 5, "pad_type_id": 0, "pad_token": "&"});
    write(copy.path(), "tokenizer.json", &content);
    check_clip(&ClipTokenizer::from_folder(copy.path(), ClipKind::L).unwrap());
}

#[test]
fn where_a_tokenizer_is_from_is_known() {
    let sd3 = folder("sd3/model/tokenizer");
    let from_json = ClipTokenizer::from_folder(&sd3, ClipKind::L).unwrap();
    assert_eq!(from_json.origin(), &Origin::File(sd3.join("tokenizer.json")));
    let sd35m = folder("sd35m/model/tokenizer");
    let from_vocab = ClipTokenizer::from_folder(&sd35m, ClipKind::L).unwrap();
    assert_eq!(from_vocab.origin(), &Origin::File(sd35m.join("vocab.json")));
    assert_eq!(ClipTokenizer::embedded(ClipKind::L).origin(), &Origin::Embedded);

    let only_sentencepiece = tempfile::tempdir().unwrap();
    let model = only_sentencepiece.path().join("spiece.model");
    fs::write(&model, b"not read").unwrap();
    let t5 = T5Tokenizer::from_folder(only_sentencepiece.path()).unwrap();
    assert_eq!(t5.origin(), &Origin::InsteadOf(model));
    check_t5(&t5);
}

#[test]
fn clip_reports_what_it_cut_as_it_was_typed() {
    let tokenizer = ClipTokenizer::embedded(ClipKind::L);
    let fits = "cat ".repeat(75);
    assert_eq!(tokenizer.tokenize(&fits).unwrap().cut, None);
    assert_eq!(tokenizer.tokenize(&format!("{fits}  \n ")).unwrap().cut, None);

    let tokens = tokenizer.tokenize(&format!("{fits} Cafe\u{301}   ÉTÉ, Straße! ")).unwrap();
    let words = "Cafe\u{301}   ÉTÉ, Straße!".to_owned();
    assert_eq!(tokens.cut, Some(Cut { tokens: 9, words }));
    assert_eq!((tokens.ids[75], tokens.ids[76], tokens.real), (2368, END_OF_TEXT, 77));
}

#[test]
fn a_character_that_is_cut_in_two_is_reported_whole() {
    // U+20000 is four tokens of a byte each.
    let text = format!("{}\u{20000} end", "cat ".repeat(73));
    let cut = ClipTokenizer::embedded(ClipKind::L).tokenize(&text).unwrap().cut.unwrap();
    assert_eq!(cut.words, "\u{20000} end");
}

#[test]
fn t5_reports_what_it_cut_as_it_was_typed() {
    let tokenizer = T5Tokenizer::embedded();
    let tokens = tokenizer.tokenize(&format!("{}  Ｔwo   Dogs ", "cat ".repeat(76)), &T5Rule::diffusers(77)).unwrap();
    let cut = tokens.cut.unwrap();
    assert_eq!((cut.tokens, cut.words.as_str()), (4, "Ｔwo   Dogs"));
    assert_eq!((tokens.ids.len(), tokens.real, tokens.ids[75], tokens.ids[76]), (77, 77, 1712, 1));
}

#[test]
fn stability_shows_t5_the_first_226_characters() {
    let tokenizer = T5Tokenizer::embedded();
    let seen = "é".repeat(220) + " apple";
    let hidden = "tree and a dog";
    assert_eq!(seen.chars().count(), 226);
    let tokens = tokenizer.tokenize(&format!("{seen}{hidden}"), &T5Rule::stability()).unwrap();
    assert_eq!(tokens.ids, tokenizer.tokenize(&seen, &WHOLE).unwrap().ids);
    // The whole text goes on with "tre", "e", " and", " ", "a", " dog".
    assert_eq!(tokens.cut, Some(Cut { tokens: 6, words: hidden.into() }));
    assert_eq!(tokenizer.tokenize(&seen, &T5Rule::stability()).unwrap().cut, None);
    assert_eq!(tokenizer.tokenize(&format!("{seen}   "), &T5Rule::stability()).unwrap().cut, None);
}

#[test]
fn both_of_t5s_cuts_are_counted() {
    let rule = T5Rule { length: T5Length::Padded(77), t5_chars_max: Some(400) };
    let text = "cat ".repeat(110);
    let cut = T5Tokenizer::embedded().tokenize(&text, &rule).unwrap().cut.unwrap();
    assert_eq!(cut.words, text[76 * 4..].trim());
    // The space at the end is a token too.
    assert_eq!(cut.tokens, 110 - 76 + 1);
}

#[test]
fn t5_lengths_are_padded_grown_and_checked() {
    let tokenizer = T5Tokenizer::embedded();
    let length_of = |count: usize, length| {
        let rule = T5Rule { length, t5_chars_max: None };
        tokenizer.tokenize(&"cat ".repeat(count), &rule).map(|tokens| (tokens.ids.len(), tokens.real))
    };
    let grows = T5Length::AtLeast { min: 77, max: 100 };
    assert_eq!(length_of(3, T5Length::Padded(256)).unwrap(), (256, 5));
    assert_eq!(length_of(300, T5Length::Padded(256)).unwrap(), (256, 256));
    assert_eq!(length_of(3, grows).unwrap(), (77, 5));
    assert_eq!(length_of(80, grows).unwrap(), (82, 82));
    assert_eq!(length_of(300, grows).unwrap(), (100, 100));
    for impossible in [T5Length::Padded(0), T5Length::Padded(513), T5Length::AtLeast { min: 100, max: 77 }] {
        let error = length_of(3, impossible).unwrap_err();
        assert!(matches!(error, TokenizerError::Length(length) if length == impossible), "{error}");
    }
}

#[test]
fn texts_of_20_000_characters_are_fast() {
    let (clip, t5) = (ClipTokenizer::embedded(ClipKind::L), T5Tokenizer::embedded());
    let texts = [
        "a photo of a cat, ",
        "a",
        " ",
        "😀",
        "日本語のテキスト",
        "!",
        "e\u{301}",
        "\0",
        "<|endoftext|>",
        "a\n",
        "</s>",
    ]
    .map(|part| part.repeat(20_000 / part.chars().count()));
    for text in texts {
        let start = Instant::now();
        let clip_tokens = clip.tokenize(&text).unwrap();
        let t5_tokens = t5.tokenize(&text, &T5Rule::diffusers(256)).unwrap();
        t5.tokenize(&text, &T5Rule::stability()).unwrap();
        let time = start.elapsed();
        println!("{:?}: {time:?}", &text.chars().take(8).collect::<String>());
        assert_eq!((clip_tokens.ids.len(), t5_tokens.ids.len()), (77, 256));
        // Measured: below 0.1 s each. The limit only tells linear from quadratic.
        assert!(time < Duration::from_secs(3), "{time:?}");
    }
}

#[track_caller]
fn fails(folder: &Path, part: &str) {
    for error in [
        ClipTokenizer::from_folder(folder, ClipKind::L).map(drop).unwrap_err(),
        T5Tokenizer::from_folder(folder).map(drop).unwrap_err(),
    ] {
        let message = error.to_string();
        assert!(message.contains(part) && message.contains(&folder.display().to_string()), "{message}");
    }
}

#[test]
fn folders_without_a_tokenizer_are_errors() {
    let empty = tempfile::tempdir().unwrap();
    fails(empty.path(), "holds no tokenizer");
    fails(&empty.path().join("not there"), "holds no tokenizer");
}

#[test]
fn broken_tokenizer_json_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let bpe = |vocab: Value, merges: Value| value!({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": vocab, "merges": merges}});
    let marks = value!({"<|startoftext|>": 49406, "<|endoftext|>": 49407});
    let contents = [
        value!(null),
        value!({}),
        value!({"version": "1.0", "model": {"type": "Unigram", "unk_id": 9, "vocab": []}}),
        bpe(marks, value!([["a", "b"]])),
        // The library indexes past its buffer over this one.
        bpe(value!({"aaaa": 0, "bbbb": 1}), value!([["aaaa", "bbbb"]])),
    ];
    for content in contents {
        write(folder.path(), "tokenizer.json", &content);
        fails(folder.path(), "is broken");
    }
    fs::write(folder.path().join("tokenizer.json"), b"{\"version\": \"1.0\", \"model\": {\"ty").unwrap();
    fails(folder.path(), "is broken");
    fs::write(folder.path().join("tokenizer.json"), [0xff, 0xfe, 0]).unwrap();
    fails(folder.path(), "is broken");
}

#[test]
fn another_models_tokenizer_is_an_error() {
    let t5_for_clip = ClipTokenizer::from_folder(&folder("sd3/model/tokenizer_3"), ClipKind::L).unwrap_err();
    assert!(t5_for_clip.to_string().contains("is not a CLIP tokenizer"), "{t5_for_clip}");
    let clip_for_t5 = T5Tokenizer::from_folder(&folder("sd3/model/tokenizer")).unwrap_err();
    assert!(clip_for_t5.to_string().contains("is not a T5 tokenizer"), "{clip_for_t5}");
}

#[track_caller]
fn clip_fails(folder: &Path, part: &str) {
    let message = ClipTokenizer::from_folder(folder, ClipKind::L).unwrap_err().to_string();
    assert!(message.contains(part), "{message}");
}

#[test]
fn broken_vocab_and_merges_are_errors() {
    let copy = copy_of("sd35m/model/tokenizer", &["vocab.json", "merges.txt"]);
    fs::write(copy.path().join("merges.txt"), "#version: 0.2\ni n\ninn\n").unwrap();
    clip_fails(copy.path(), "line 3 is not a merge");
    fs::write(copy.path().join("merges.txt"), "#version: 0.2\ni n\n\u{e000} n\n").unwrap();
    clip_fails(copy.path(), "line 3 needs `\u{e000}`");
    fs::write(copy.path().join("merges.txt"), [b'i', b' ', 0xff]).unwrap();
    clip_fails(copy.path(), "merges.txt` is broken");
    write(copy.path(), "vocab.json", &value!({"a": -1}));
    clip_fails(copy.path(), "vocab.json` is broken");
    fs::remove_file(copy.path().join("merges.txt")).unwrap();
    clip_fails(copy.path(), "holds no tokenizer");
}

#[test]
fn merges_that_were_cut_short_are_an_error() {
    let copy = copy_of("sd35m/model/tokenizer", &["vocab.json", "merges.txt"]);
    let whole = fs::read_to_string(copy.path().join("merges.txt")).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    for kept in [0, 1, 1000, lines.len() - 1] {
        fs::write(copy.path().join("merges.txt"), lines[..kept].join("\n")).unwrap();
        let found = kept.saturating_sub(1);
        clip_fails(copy.path(), &format!("it holds {found} merges, and every CLIP tokenizer 48894 or more"));
        clip_fails(copy.path(), "merges.txt` is broken");
    }

    let copy = copy_of("sd3/model/tokenizer", &["tokenizer.json"]);
    let mut content = json(&copy.path().join("tokenizer.json"));
    content["model"]["merges"].as_array_mut().unwrap().truncate(48893);
    write(copy.path(), "tokenizer.json", &content);
    clip_fails(copy.path(), "it holds 48893 merges");
}

#[test]
fn a_table_that_was_cut_short_is_an_error() {
    let copy = copy_of("sd3/model/tokenizer_3", &["tokenizer.json"]);
    let mut content = json(&copy.path().join("tokenizer.json"));
    content["added_tokens"] = value!([]);
    content["model"]["vocab"].as_array_mut().unwrap().truncate(3);
    write(copy.path(), "tokenizer.json", &content);
    let message = T5Tokenizer::from_folder(copy.path()).map(drop).unwrap_err().to_string();
    assert!(message.contains("it holds 3 tokens, and every T5 tokenizer 100 or more"), "{message}");

    let copy = copy_of("sd35m/model/tokenizer", &["vocab.json", "merges.txt"]);
    let mut vocab = json(&copy.path().join("vocab.json"));
    vocab.as_object_mut().unwrap().remove("A").unwrap();
    write(copy.path(), "vocab.json", &vocab);
    clip_fails(copy.path(), "it holds 49407 tokens, and every CLIP tokenizer 49408 or more");
}

/// The engine gives up on the expression, and the library stops the program over that.
#[test]
fn a_files_own_patterns_are_not_run() {
    let split = value!({"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Removed", "invert": true});
    let replace = value!({"type": "Replace", "pattern": {"Regex": "(a+)+$\u{1b}[31m"}, "content": " "});
    for (model, stage, value) in [
        ("sd3/model/tokenizer", "pre_tokenizer", split.clone()),
        ("sd3/model/tokenizer", "pre_tokenizer", value!({"type": "Sequence", "pretokenizers": [split]})),
        ("sd3/model/tokenizer_3", "normalizer", value!({"type": "Sequence", "normalizers": [replace]})),
    ] {
        let copy = copy_of(model, &["tokenizer.json"]);
        let mut content = json(&copy.path().join("tokenizer.json"));
        content[stage] = value;
        write(copy.path(), "tokenizer.json", &content);
        fails(copy.path(), "searches texts for `(a+)+$");
        let message = T5Tokenizer::from_folder(copy.path()).map(drop).unwrap_err().to_string();
        assert!(!message.contains('\u{1b}'), "{message:?}");
    }
}

/// Older files of CLIP do not name the marks.
#[test]
fn the_older_pattern_of_clip_is_known() {
    let copy = copy_of("sd3/model/tokenizer", &["tokenizer.json"]);
    let mut content = json(&copy.path().join("tokenizer.json"));
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] =
        value!(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+");
    write(copy.path(), "tokenizer.json", &content);
    ClipTokenizer::from_folder(copy.path(), ClipKind::L).unwrap();
}

#[test]
fn tokens_of_a_file_cannot_command_the_terminal() {
    let copy = copy_of("sd35m/model/tokenizer", &["vocab.json", "merges.txt"]);
    let long = "x".repeat(1000);
    write(copy.path(), "tokenizer_config.json", &value!({"pad_token": format!("\u{1b}]0;\u{9b}{long}")}));
    let pad = ClipTokenizer::from_folder(copy.path(), ClipKind::L).unwrap_err().to_string();
    fs::write(copy.path().join("merges.txt"), format!("i n\n\u{1b}[2J\u{7} n{long}\n")).unwrap();
    let merge = ClipTokenizer::from_folder(copy.path(), ClipKind::L).unwrap_err().to_string();
    write(copy.path(), "vocab.json", &value!({"a": "\u{1b}[2J"}));
    let vocab = ClipTokenizer::from_folder(copy.path(), ClipKind::L).unwrap_err().to_string();
    for message in [pad, merge, vocab] {
        assert!(!message.contains(char::is_control) && message.len() < 800, "{message:?}");
    }
}

#[test]
fn broken_padding_is_an_error() {
    let copy = copy_of("sd35m/model/tokenizer", &["vocab.json", "merges.txt"]);
    for (content, part) in [
        (value!({"pad_token": "no such token"}), "not in the vocabulary"),
        (value!({"pad_token": 7}), "neither text nor a token"),
        (value!({"pad_token": {"special": true}}), "neither text nor a token"),
    ] {
        write(copy.path(), "tokenizer_config.json", &content);
        clip_fails(copy.path(), part);
    }
    fs::write(copy.path().join("tokenizer_config.json"), b"{").unwrap();
    clip_fails(copy.path(), "tokenizer_config.json` is broken");
}

#[test]
fn an_encoder_with_too_few_vectors_is_an_error() {
    let clip = ClipTokenizer::embedded(ClipKind::L);
    assert!(clip.check_vectors(49408).is_ok());
    let message = clip.check_vectors(49407).unwrap_err().to_string();
    assert!(message.contains("ids up to 49407") && message.contains("built in"), "{message}");
    let t5 = T5Tokenizer::embedded();
    assert!(t5.check_vectors(32100).is_ok() && t5.check_vectors(32099).is_err());
}
