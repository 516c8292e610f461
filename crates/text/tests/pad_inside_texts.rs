//! CLIP-G's padding token, `!`, inside a text: what the folder of a diffusers model makes of it.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::path::Path;

use rectiflow_text::{ClipKind, ClipTokenizer};

#[test]
fn the_embedded_tokenizer_can_do_as_a_diffusers_folder_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/sd3/model/tokenizer_2");
    let of_folder = ClipTokenizer::from_folder(&folder, ClipKind::G).unwrap();
    let embedded = ClipTokenizer::embedded(ClipKind::G);
    let as_folder = embedded.clone().with_pad_inside_texts();
    for text in ["wow!", "wow!!! a cat! ", "!", "no mark"] {
        assert_eq!(as_folder.tokenize(text).unwrap(), of_folder.tokenize(text).unwrap(), "{text}");
    }
    assert_ne!(embedded.tokenize("wow!").unwrap().ids, of_folder.tokenize("wow!").unwrap().ids);
    let l = ClipTokenizer::embedded(ClipKind::L);
    assert_eq!(l.clone().with_pad_inside_texts().tokenize("wow!").unwrap(), l.tokenize("wow!").unwrap());
}
