//! CLIP pairs and T5s in training, from a recipe to a folder that is read back.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use image::{Rgb, RgbImage};
use rectiflow_generate::{EncoderFiles, Encoders};
use rectiflow_nn::{DeviceChoice, Precision, to_f32};
use rectiflow_train::objective::{Objective, Problem, StepError, Values};
use rectiflow_train::plan::{Overrides, Plan};
use rectiflow_train::recipe::{Objective as ObjectiveRecipe, Recipe};
use rectiflow_train::setup::{self, model_at};
use rectiflow_weights::{Checkpoint, PartKind, read_all};

const COLOURS: [(&str, [u8; 3]); 6] = [
    ("a red wall", [220, 20, 20]),
    ("green grass", [20, 200, 20]),
    ("the blue sky", [30, 60, 230]),
    ("black coal", [5, 5, 5]),
    ("white snow", [250, 250, 250]),
    ("an orange cat", [240, 150, 20]),
];

/// Pictures of one colour each, and their captions.
fn pictures(folder: &Path, copies: usize) {
    for copy in 0..copies {
        for (place, (caption, colour)) in COLOURS.iter().enumerate() {
            let picture = RgbImage::from_pixel(16, 16, Rgb(*colour));
            picture.save(folder.join(format!("{copy}-{place}.png"))).unwrap();
            std::fs::write(folder.join(format!("{copy}-{place}.txt")), caption).unwrap();
        }
    }
}

fn clip_plan(data: &Path, encoder: &str, more: &str) -> Plan {
    let image = "image = { width = 16, layers = 1, heads = 2, patch = 8 }";
    plan(
        data,
        "{ kind = \"clip\" }",
        &format!(
            "{{ kind = \"clip\", encoder = \"{encoder}\", width = 16, layers = 2, heads = 2, projection = 16, {image} }}"
        ),
        more,
    )
}

fn t5_plan(data: &Path, vocabulary: &str, more: &str) -> Plan {
    let sizes = "width = 32, layers = 1, decoder_layers = 1, heads = 2, head_width = 8, mlp = 32, tokens = 77";
    plan(
        data,
        "{ kind = \"span-corruption\" }",
        &format!("{{ kind = \"t5\", vocabulary = \"{vocabulary}\", {sizes} }}"),
        more,
    )
}

fn plan(data: &Path, objective: &str, model: &str, more: &str) -> Plan {
    let path = data.to_str().unwrap();
    let text = format!(
        r#"
        steps = 40
        batch = 6
        precision = "f32"
        objective = {objective}
        model = {model}
        schedule = {{ learning_rate = 1e-2 }}
        validation = {{ samples = 6 }}
        ema = [{{ kind = "decay", decay = 0.5 }}]
        [data]
        source = {{ path = {path:?}, side_px = 16, side_px_min = 8 }}
        {more}
        "#
    );
    Plan::resolve(Recipe::parse(&text, Path::new("recipe.toml")).unwrap(), Overrides::default()).unwrap()
}

/// An objective of a plan.
fn ready(plan: &Plan) -> Box<dyn Objective> {
    match &plan.recipe.objective {
        ObjectiveRecipe::Clip(_) => Box::new(setup::clip(plan, DeviceChoice::Cpu).unwrap().objective),
        ObjectiveRecipe::SpanCorruption(span) => Box::new(setup::t5(plan, span, DeviceChoice::Cpu).unwrap().objective),
        other => panic!("{other:?}"),
    }
}

fn steps(objective: &mut dyn Objective, range: std::ops::Range<u64>) -> Vec<Values> {
    range.map(|step| objective.step(step, 1e-2).unwrap()).collect()
}

fn state(objective: &dyn Objective) -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    objective.save(folder.path()).unwrap();
    let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

/// Six steps are three, another process and three; to the bit. Another turn has other samples.
fn check_resumes(plan: &Plan) {
    let mut whole = ready(plan);
    let values = steps(&mut *whole, 0..6);
    let mut first = ready(plan);
    steps(&mut *first, 0..3);
    let folder = tempfile::tempdir().unwrap();
    first.save(folder.path()).unwrap();
    let mut second = ready(plan);
    second.load(folder.path(), 3).unwrap();
    assert_eq!(steps(&mut *second, 3..6), values[3..]);
    assert!(state(&*second) == state(&*whole), "another state");

    let mut other = ready(plan);
    other.load(folder.path(), 3).unwrap();
    other.turn(1);
    assert_ne!(steps(&mut *other, 3..4), values[3..4]);
}

/// Parameters that overflow: the step names what is not finite and its samples, and changes nothing.
fn check_not_finite(plan: &Plan, ending: &str) {
    let mut objective = ready(plan);
    objective.step(0, 1e30).unwrap();
    let before = state(&*objective);
    let StepError::NotFinite { what, samples } = objective.step(1, 1e-2).unwrap_err() else { panic!("it failed") };
    assert!(what.starts_with("the loss") || what.starts_with("the gradient of "), "{what}");
    assert!(samples.len() == 6 && samples.iter().all(|id| id.ends_with(ending)), "{samples:?}");
    assert!(state(&*objective) == before, "it was changed");
}

#[test]
fn a_clip_pair_learns_colours_and_goes_on_as_if_it_had_not_stopped() {
    let data = tempfile::tempdir().unwrap();
    pictures(data.path(), 12);
    let plan = clip_plan(data.path(), "l", "");
    let mut pair = ready(&plan);
    let values = steps(&mut *pair, 0..40);
    let (first, last) = (&values[0], &values[39]);
    assert!((first["logit_scale"] - 1.0 / 0.07).abs() < 1e-3, "{first:?}");
    assert!(first["loss"] > 1.0 && first["accuracy"] < 0.7, "{first:?}");
    // Captions of one wording cannot be told apart, so it depends on the batch how good is good.
    let mean = |values: &[Values], name: &str| values.iter().map(|one| one[name]).sum::<f64>() / values.len() as f64;
    let (loss, accuracy) = (mean(&values[30..], "loss"), mean(&values[30..], "accuracy"));
    assert!(loss < 0.6 * first["loss"] && accuracy > 0.4, "{loss} {accuracy}, {first:?} {last:?}");
    let validation = pair.validate().unwrap();
    assert_eq!(validation, pair.validate().unwrap(), "always the same pairs");
    assert!(validation["accuracy"] > 0.4, "{validation:?}");
    check_resumes(&plan);
    check_not_finite(&plan, ".png");
}

#[test]
fn a_t5_learns_captions_and_goes_on_as_if_it_had_not_stopped() {
    let data = tempfile::tempdir().unwrap();
    pictures(data.path(), 12);
    let plan = t5_plan(data.path(), "bytes", "");
    let mut t5 = ready(&plan);
    let values = steps(&mut *t5, 0..40);
    let (first, last) = (&values[0], &values[39]);
    assert!(first["loss"] > 4.0 && last["loss"] < 0.6 * first["loss"], "{first:?} {last:?}");
    assert!(last["accuracy"] > first["accuracy"] + 0.2, "{first:?} {last:?}");
    let validation = t5.validate().unwrap();
    assert_eq!(validation, t5.validate().unwrap(), "always the same runs");
    assert!(validation["loss"] < 0.7 * first["loss"], "{validation:?}");
    check_resumes(&plan);
    check_not_finite(&plan, ".png");
}

#[test]
fn a_t5_learns_from_a_file_of_texts() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("texts.txt");
    let line = |number: usize| format!("{} {}\n", COLOURS[number % 6].0, number);
    std::fs::write(&path, (0..12).map(line).collect::<String>()).unwrap();
    let mut plan = t5_plan(&path, "unigram", "");
    plan.recipe.data.source.kind = Some(rectiflow_dataset::Kind::Texts);
    let mut t5 = ready(&plan);
    assert!(t5.step(0, 1e-2).unwrap()["loss"] > 4.0);
    let drawn = t5.validate().unwrap();
    assert!(drawn["loss"].is_finite(), "{drawn:?}");
}

/// A T5 of bytes in training, of texts of these lengths in bytes, in steps of `batch` texts.
fn t5_of_lengths(lengths: &[usize], batch: usize, accumulate: usize) -> Result<Box<dyn Objective>, Problem> {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("texts.txt");
    let line =
        |length: &usize| "the quick brown fox jumps over a dog ".chars().cycle().take(*length).collect::<String>();
    std::fs::write(&path, lengths.iter().map(line).collect::<Vec<_>>().join("\n")).unwrap();
    let mut plan = t5_plan(&path, "bytes", "");
    plan.recipe.data.source.kind = Some(rectiflow_dataset::Kind::Texts);
    plan.recipe.batch = NonZeroUsize::new(batch).unwrap();
    plan.recipe.accumulate = NonZeroUsize::new(accumulate).unwrap();
    let ObjectiveRecipe::SpanCorruption(span) = &plan.recipe.objective else { panic!("{plan:?}") };
    Ok(Box::new(setup::t5(&plan, span, DeviceChoice::Cpu)?.objective))
}

/// The first moments after a first step: the gradients, times a number.
fn first_moments(t5: &dyn Objective) -> Vec<f64> {
    let folder = tempfile::tempdir().unwrap();
    t5.save(folder.path()).unwrap();
    let memory = read_all(folder.path().join("t5.optimizer.safetensors")).unwrap();
    let first = memory.iter().filter(|(name, _)| name.ends_with(".exp_avg"));
    first.flat_map(|(_, data)| data.iter::<f64>().collect::<Vec<_>>()).collect()
}

/// Parts of very different lengths, and one of a single byte each: every hidden token counts as much as the others.
#[test]
fn the_gradients_of_a_t5_do_not_depend_on_the_parts_of_a_step() {
    let lengths = [1, 70, 2, 60, 1, 3, 2, 50];
    let [whole, parts, singles] = [1, 4, 8].map(|accumulate| {
        let mut t5 = t5_of_lengths(&lengths, 8, accumulate).unwrap();
        let values = t5.step(0, 1e-3).unwrap();
        assert_eq!(values["texts_too_short"], 2.0, "{accumulate}");
        (first_moments(&*t5), values)
    });
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    for (moments, values) in [parts, singles] {
        let apart: Vec<f64> = moments.iter().zip(&whole.0).map(|(one, other)| one - other).collect();
        assert!(norm(&apart) < 1e-4 * norm(&whole.0), "{} of {}", norm(&apart), norm(&whole.0));
        for name in ["loss", "accuracy", "gradient_norm"] {
            let (found, expected) = (values[name], whole.1[name]);
            assert!((found - expected).abs() <= 1e-4 * expected.abs(), "{name}: {found} instead of {expected}");
        }
    }
}

#[test]
fn texts_too_short_to_hide_anything_of_count_nothing() {
    let mut t5 = t5_of_lengths(&[1, 1, 1, 1, 40], 1, 1).unwrap();
    let (mut learned, mut idle) = (0, 0);
    let mut before = first_moments(&*t5);
    for step in 0..5 {
        let values = t5.step(step, 1e-2).unwrap();
        let after = first_moments(&*t5);
        match values.get("loss") {
            Some(loss) => {
                learned += 1;
                assert!(loss.is_finite() && !values.contains_key("texts_too_short"), "{values:?}");
            }
            None => {
                idle += 1;
                assert!(values["texts_too_short"] == 1.0 && before == after, "{values:?}");
            }
        }
        before = after;
    }
    assert_eq!((learned, idle), (1, 4));

    // Those that are kept for validation may all be too short.
    let mut short = vec![1; 99];
    short.push(20);
    let validation = t5_of_lengths(&short, 4, 1).unwrap().validate().unwrap();
    assert!(validation.get("loss").is_none_or(|loss| loss.is_finite()), "{validation:?}");

    let error = t5_of_lengths(&[1; 12], 4, 1).err().unwrap().to_string();
    assert!(error.starts_with("none of the 12 texts has two tokens") && error.contains("\nhint: "), "{error}");
}

/// What the encoders of a folder make of a text, one after the other: CLIP-L, CLIP-G, T5.
fn features(folder: &Path, text: &str) -> Vec<Vec<f32>> {
    let files = EncoderFiles::open(&model_at(folder)).unwrap();
    let encoders = Encoders::load(&files, DeviceChoice::Cpu, Precision::F32, 77, files.conditioning_widths()).unwrap();
    let features = encoders.texts(&[text]).unwrap().remove(0).features;
    let clip = |clip: Option<rectiflow_text::ClipFeatures>| {
        clip.map(|clip| [to_f32(&clip.penultimate), to_f32(&clip.pooled)].concat()).unwrap_or_default()
    };
    let t5 = features.t5.map(|t5| to_f32(&t5)).unwrap_or_default();
    vec![clip(features.clip_l), clip(features.clip_g), t5]
}

/// The exported parts have the averages that are kept of the parameters, all that drawing needs of them, and no others.
fn check_exported(objective: &dyn Objective, model: &Path) {
    let folder = tempfile::tempdir().unwrap();
    objective.save(folder.path()).unwrap();
    let is_clip = folder.path().join("clip.ema-0.safetensors").exists();
    let averages = if is_clip { "clip.ema-0.safetensors" } else { "t5.ema-0.safetensors" };
    let mut averages = read_all(folder.path().join(averages)).unwrap();
    averages.retain(|name, _| name != "logit_scale" && !name.starts_with("decoder.") && name != "lm_head.weight");
    let of_text = |name: &str| name.starts_with("text_") || name.starts_with("encoder.") || name == "shared.weight";
    let (texts, pictures): (BTreeMap<_, _>, BTreeMap<_, _>) = averages.into_iter().partition(|(name, _)| of_text(name));
    let names = ["text_encoder", "text_encoder_2", "text_encoder_3"];
    let exported = names.map(|name| model.join(name).join("model.safetensors"));
    let is_of = |path: &&std::path::PathBuf| path.exists() && read_all(path).unwrap() == texts;
    assert_eq!(exported.iter().filter(is_of).count(), 1, "{} tensors", texts.len());
    if is_clip {
        assert!(read_all(model.join("image_encoder/model.safetensors")).unwrap() == pictures);
    }
}

/// An autoencoder, then CLIP-G, then CLIP-L, then T5: each run takes over what the ones before have made.
#[test]
fn parts_that_are_trained_one_after_the_other_grow_into_one_folder() {
    let (data, models) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    pictures(data.path(), 3);
    let released = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/sd3/model");
    let [start, with_g, with_l, with_t5] = ["0", "1", "2", "3"].map(|name| models.path().join(name));
    std::fs::create_dir_all(start.join("vae")).unwrap();
    for entry in std::fs::read_dir(released.join("vae")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), start.join("vae").join(entry.file_name())).unwrap();
    }
    let train = |plan: &Plan, to: &Path| {
        let mut objective = ready(plan);
        steps(&mut *objective, 0..2);
        objective.export(to).unwrap();
        check_exported(&*objective, to);
    };
    let from = |folder: &Path| format!("encoders = {:?}", folder.to_str().unwrap());
    let text = "Two cats! On green grass.";

    train(&clip_plan(data.path(), "g", &from(&start)), &with_g);
    let one = features(&with_g, text);
    assert_eq!([one[0].len(), one[1].len(), one[2].len()], [0, 77 * 16 + 16, 0]);
    train(&clip_plan(data.path(), "l", &from(&with_g)), &with_l);
    let two = features(&with_l, text);
    assert_eq!((two[0].len(), &two[1]), (77 * 16 + 16, &one[1]));
    train(&t5_plan(data.path(), "bytes", &from(&with_l)), &with_t5);
    let three = features(&with_t5, text);
    assert_eq!((&three[0], &three[1], three[2].len()), (&two[0], &two[1], 77 * 32));

    let checkpoint = Checkpoint::open(&model_at(&with_t5)).unwrap();
    let inventory = checkpoint.inventory();
    assert_eq!(inventory.missing, [PartKind::Transformer]);
    assert!(inventory.other.is_empty(), "{:?}", inventory.other);
    let index = std::fs::read_to_string(with_t5.join("model_index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    assert_eq!(index["text_encoder_3"][1], "T5EncoderModel");
    assert_eq!(
        (&index["image_encoder"][1], &index["transformer"][0]),
        (&"CLIPVisionModelWithProjection".into(), &serde_json::Value::Null)
    );
}

#[test]
fn a_model_to_take_parts_over_from_must_be_a_folder_before_anything_is_trained() {
    let data = tempfile::tempdir().unwrap();
    pictures(data.path(), 1);
    let more = format!("encoders = {:?}", data.path().join("0-0.png").to_str().unwrap());
    let clip = setup::clip(&clip_plan(data.path(), "l", &more), DeviceChoice::Cpu).map(drop);
    let plan = t5_plan(data.path(), "bytes", &more);
    let ObjectiveRecipe::SpanCorruption(span) = &plan.recipe.objective else { panic!("{plan:?}") };
    for error in [clip, setup::t5(&plan, span, DeviceChoice::Cpu).map(drop)].map(Result::unwrap_err) {
        assert!(error.to_string().starts_with("`data.encoders` is "), "{error}");
    }
}

#[test]
fn the_recipes_of_text_encoders_can_be_followed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    for name in ["sprites-clip-g.toml", "sprites-clip-l.toml", "sprites-t5.toml"] {
        let recipe = Recipe::read(&folder.join(name)).unwrap();
        Plan::resolve(recipe, Overrides::default()).unwrap();
    }
}
