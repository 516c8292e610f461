//! A model whose T5 reads bytes.

use crate::support::{Desk, copy_folder, fixture, png, read, write};

/// `m`, a copy of a fixture without a T5 tokenizer, whose T5 has only the first 384 vectors.
fn byte_model(desk: &Desk) {
    let model = desk.path("m");
    copy_folder(&fixture("sd3/model"), &model);
    let weights = model.join("text_encoder_3/model.safetensors");
    let mut tensors = read(&weights);
    let table = tensors.get_mut("shared.weight").unwrap();
    let row = table.bytes.len() / table.shape[0];
    table.bytes.truncate(384 * row);
    table.shape[0] = 384;
    write(&weights, &tensors);
    let settings = model.join("text_encoder_3/config.json");
    let stated: serde_json::Value = serde_json::from_slice(&std::fs::read(&settings).unwrap()).unwrap();
    let mut stated = stated.as_object().unwrap().clone();
    stated.insert("vocab_size".into(), 384.into());
    std::fs::write(&settings, serde_json::to_vec(&stated).unwrap()).unwrap();
    std::fs::remove_dir_all(model.join("tokenizer_3")).unwrap();
}

#[test]
fn a_model_whose_t5_reads_bytes_draws_with_and_without_a_tokenizer_folder() {
    let desk = Desk::new();
    byte_model(&desk);
    let line = "generate apple --model m --width 64 --height 48 --steps 2 --seed 7 --out";
    desk.succeed("inspect m");
    desk.succeed(&format!("{line} without.png"));
    let folder = desk.path("m/tokenizer_3");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("tokenizer_config.json"), br#"{"tokenizer_class": "ByT5Tokenizer"}"#).unwrap();
    desk.succeed(&format!("{line} with.png"));
    // Only the digests of the model's files differ.
    let [without, with] = ["without.png", "with.png"].map(|name| png(&desk.path(name)).0);
    assert!(without == with);
}

#[test]
fn a_tokenizer_of_words_is_refused_for_an_encoder_of_bytes_and_the_other_way_round() {
    let desk = Desk::new();
    byte_model(&desk);
    let folder = desk.path("m/tokenizer_3");
    copy_folder(&fixture("sd3/model/tokenizer_3"), &folder);
    let error = desk.fail("generate apple --model m --width 64 --height 48 --steps 1");
    assert!(error.contains("the encoder has 384 vectors"), "{error}");

    let words = desk.path("m");
    copy_folder(&fixture("sd3/model"), &words);
    std::fs::write(folder.join("tokenizer_config.json"), br#"{"tokenizer_class": "ByT5Tokenizer"}"#).unwrap();
    let error = desk.fail("generate apple --model m --width 64 --height 48 --steps 1");
    assert!(error.contains("makes bytes"), "{error}");
}
