//! CLIP-G's padding token, `!`, inside a text: a rule of the caller's, whatever form the tokenizer has.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::path::Path;

use rectiflow_text::{ClipKind, ClipTokenizer};

const TEXTS: [&str; 5] = ["wow!", "wow! a cat", "wow!!! a cat! ", "!", "no mark"];

fn of_folder(name: &str, kind: ClipKind) -> ClipTokenizer {
    ClipTokenizer::from_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name), kind).unwrap()
}

/// With and without the padding token found inside texts, the folder's tokenizer gives what the built-in one does.
#[track_caller]
fn check(name: &str, kind: ClipKind) {
    let (ordinary, embedded) = (of_folder(name, kind), ClipTokenizer::embedded(kind));
    let (special, embedded_special) =
        (ordinary.clone().with_pad_inside_texts(), embedded.clone().with_pad_inside_texts());
    for text in TEXTS {
        assert_eq!(ordinary.tokenize(text).unwrap(), embedded.tokenize(text).unwrap(), "{name}: {text}");
        assert_eq!(special.tokenize(text).unwrap(), embedded_special.tokenize(text).unwrap(), "{name}: {text}");
    }
}

#[test]
fn a_folder_and_the_built_in_tokenizer_agree_under_both_rules() {
    check("sd3/model/tokenizer", ClipKind::L);
    check("sd3/model/tokenizer_2", ClipKind::G);
    check("sd35m/model/tokenizer", ClipKind::L);
    check("sd35m/model/tokenizer_2", ClipKind::G);
}

#[test]
fn the_rule_makes_a_difference_for_clip_g_only() {
    let differs = |kind| {
        let ordinary = ClipTokenizer::embedded(kind);
        ordinary.tokenize("wow! a cat").unwrap() != ordinary.with_pad_inside_texts().tokenize("wow! a cat").unwrap()
    };
    assert!(differs(ClipKind::G) && !differs(ClipKind::L));
}
