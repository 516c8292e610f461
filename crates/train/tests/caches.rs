//! What a cache depends on, and steps on data that are encoded in each of them.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use rectiflow_generate::EncoderFiles;
use rectiflow_nn::DeviceChoice;
use rectiflow_train::encode::keys;
use rectiflow_train::objective::flow::Flow;
use rectiflow_train::objective::{Objective, StepError, Values};
use rectiflow_train::plan::{Overrides, Plan};
use rectiflow_train::recipe::{Objective as ObjectiveRecipe, Recipe};
use rectiflow_train::setup::{self, model_at};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/empty/model")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn plan(data: &Path, encoders: &Path, source: &str) -> Plan {
    let text = format!(
        r#"
        steps = 4
        batch = 4
        accumulate = 2
        precision = "f32"
        objective = {{ kind = "flow" }}
        model = {{ kind = "mmdit", depth = 1, grid = 8 }}
        schedule = {{ learning_rate = 1e-3 }}
        validation = {{ every = 0 }}
        [data]
        encoders = {encoders:?}
        source = {{ path = {data:?}, side_px = 32{source} }}
        "#,
    );
    Plan::resolve(Recipe::parse(&text, Path::new("recipe.toml")).unwrap(), Overrides::default()).unwrap()
}

fn ready(plan: &Plan) -> Flow {
    let ObjectiveRecipe::Flow(flow) = &plan.recipe.objective else { panic!("{plan:?}") };
    setup::flow(plan, flow, DeviceChoice::Cpu).unwrap().objective
}

fn pictures(folder: &Path, caption: &str) {
    for number in 0..4_u8 {
        let picture = RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8 * 7, y as u8 * 7, number * 60]));
        picture.save(folder.join(format!("{number}.png"))).unwrap();
        std::fs::write(folder.join(format!("{number}.txt")), caption).unwrap();
    }
}

fn state(objective: &dyn Objective) -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    objective.save(folder.path()).unwrap();
    let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn every_setting_and_file_that_changes_what_is_cached_is_in_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    copy(&fixture(), &model);
    let of = |source: &str| {
        let recipe = plan(Path::new("pictures"), &model, source).recipe;
        let files = EncoderFiles::open(&model_at(&model)).unwrap();
        keys(&files, &recipe.data.source, &recipe.data.encoding, recipe.seed).unwrap()
    };
    let whole = of("");
    let changed = |keys: BTreeMap<String, String>| -> Vec<String> {
        assert!(keys.keys().eq(whole.keys()), "{keys:?}");
        keys.into_iter().filter(|(key, digest)| whole[key] != *digest).map(|(key, _)| key).collect()
    };
    for (source, key) in [
        (", picture_column = \"image\"", "choice of samples"),
        (", count = 9, kind = \"sprites\"", "choice of samples"),
        (", side_px_min = 9", "choice of samples"),
        (", pixels_max = 99", "choice of samples"),
        (", without_caption = \"empty\"", "choice of samples"),
        (", background = \"#000000\"", "preparation of pictures"),
        (", captions = { alt = 1 }", "kind of text features"),
    ] {
        assert_eq!(changed(of(source)), [key], "{source}");
    }
    assert!(changed(of(", check = \"pixels\"")).is_empty());

    let rewrite = |file: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(model.join(file)).unwrap();
        assert!(text.contains(from), "{file}: {from}");
        std::fs::write(model.join(file), text.replacen(from, to, 1)).unwrap();
    };
    for (file, from, to, key) in [
        ("vae/config.json", "1.5305", "1.25", "autoencoder"),
        ("vae/config.json", "0.0609", "0.5", "autoencoder"),
        ("vae/config.json", "\"norm_num_groups\": 8", "\"norm_num_groups\": 4", "autoencoder"),
        ("text_encoder/config.json", "quick_gelu", "gelu", "CLIP-L"),
        ("text_encoder_2/config.json", "\"num_attention_heads\": 4", "\"num_attention_heads\": 2", "CLIP-G"),
    ] {
        rewrite(file, from, to);
        assert_eq!(changed(of("")), [key], "{file}: {to}");
        rewrite(file, to, from);
    }
    for (tokenizer, name) in [("tokenizer", "CLIP-L"), ("tokenizer_2", "CLIP-G"), ("tokenizer_3", "T5")] {
        std::fs::create_dir(model.join(tokenizer)).unwrap();
        std::fs::write(model.join(tokenizer).join("merges.txt"), "a b").unwrap();
        assert_eq!(changed(of("")), [format!("tokenizer of {name}")]);
        std::fs::remove_dir_all(model.join(tokenizer)).unwrap();
    }
    assert!(changed(of("")).is_empty());
}

#[test]
fn a_step_that_failed_in_its_second_part_leaves_no_gradients() {
    let data = tempfile::tempdir().unwrap();
    pictures(data.path(), "a square");
    let plan = plan(data.path(), &fixture(), "");
    let mut whole = ready(&plan);
    let values: Vec<Values> = (0..2).map(|step| whole.step(step, 1e-3).unwrap()).collect();
    assert!(!values[0].contains_key("captions_cut"), "{values:?}");

    // Of the four pictures of a step, each is once in its second part, if it is not in its first.
    let mut other = ready(&plan);
    for number in 0..4 {
        let (there, away) = (data.path().join(format!("{number}.png")), data.path().join("away"));
        std::fs::rename(&there, &away).unwrap();
        assert!(matches!(other.step(0, 1e-3), Err(StepError::Failed(_))));
        std::fs::rename(&away, &there).unwrap();
    }
    let again: Vec<Values> = (0..2).map(|step| other.step(step, 1e-3).unwrap()).collect();
    assert_eq!(again, values);
    assert!(state(&other) == state(&whole), "another state");
    assert_eq!(other.data_digest(), whole.data_digest());
}

#[test]
fn captions_that_encoders_do_not_see_the_end_of_are_counted() {
    let data = tempfile::tempdir().unwrap();
    pictures(data.path(), &"a red square beside a blue one, ".repeat(40));
    let values = ready(&plan(data.path(), &fixture(), "")).step(0, 1e-3).unwrap();
    assert_eq!(values["captions_cut"], 4.0);
}
