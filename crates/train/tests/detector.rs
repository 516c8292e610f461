//! The detector's objective with a small network: that it learns, goes on to the bit, and leaves what can be opened.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::collections::BTreeMap;
use std::path::Path;

use rectiflow_dataset::DataSettings;
use rectiflow_nn::{Device, DeviceChoice, Precision};
use rectiflow_train::objective::Objective;
use rectiflow_train::objective::detector::DetectorTraining;
use rectiflow_train::plan::{Overrides, Plan};
use rectiflow_train::recipe::Recipe;
use rectiflow_train::setup::{self, Ready};
use rectiflow_vision::Detector;
use rectiflow_vision::judge::Task;

const ART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/sprites");

fn plan(more: &str) -> Plan {
    let text = format!(
        r#"
        steps = 100
        batch = 8
        accumulate = 2
        precision = "f32"
        objective = {{ kind = "detector" }}
        model = {{ kind = "detector", widths = [8, 8, 16, 16, 16] }}
        data = {{ source = {{ path = '{ART}', kind = "sprites", count = 3000, split = "all", side_px = 32{more} }} }}
        schedule = {{ learning_rate = 3e-3 }}
        ema = [{{ kind = "decay", decay = 0.8 }}]
        validation = {{ every = 10, samples = 60 }}
        "#
    );
    Plan::resolve(Recipe::parse(&text, Path::new("recipe.toml")).unwrap(), Overrides::default()).unwrap()
}

fn ready(more: &str) -> DetectorTraining {
    let Ready { objective, parameters, operations, notes, .. } =
        setup::detector(&plan(more), DeviceChoice::Cpu).unwrap();
    assert!(parameters > 10_000 && operations > 1e6 && notes.is_empty(), "{parameters} {operations} {notes:?}");
    objective
}

#[test]
fn a_small_detector_learns_and_its_model_can_be_opened() {
    let mut objective = ready("");
    let before = objective.validate().unwrap();
    let mut last = BTreeMap::new();
    for step in 0..30 {
        last = objective.step(step, 5e-3).unwrap();
    }
    let after = objective.validate().unwrap();
    assert!(after["loss"] < 0.85 * before["loss"], "{before:?} {after:?}");
    assert!(after["centre"] < 0.8 * before["centre"] && after["size"] < before["size"], "{before:?} {after:?}");
    for name in ["loss", "centre", "concept", "colour", "place", "size", "accuracy", "gradient_norm"] {
        assert!(last[name].is_finite(), "{name}");
    }
    // Few scenes have two things that both have a colour.
    let right: Vec<f64> =
        Task::ALL.into_iter().filter_map(|task| after.get(&format!("right/{}", task.name())).copied()).collect();
    assert!(right.len() >= 4 && right.iter().all(|share| (0.0..=1.0).contains(share)), "{after:?}");
    assert!(objective.samples().unwrap().is_none());

    let folder = tempfile::tempdir().unwrap();
    objective.export(folder.path()).unwrap();
    let detector = Detector::open(folder.path(), &Device::flex(), Precision::F32).unwrap();
    let config = detector.config();
    assert_eq!((config.side_px, config.widths), (32, [8, 8, 16, 16, 16]));
    assert_eq!(config.colours, ["red", "orange", "yellow", "green", "blue", "purple", "pink"]);
    assert!(config.concepts.len() > 300 && config.concepts.contains(&"cat".to_owned()));
}

#[test]
fn a_run_that_was_stored_goes_on_to_the_bit() {
    let files = |folder: &Path| -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
    };
    let [whole, middle, again] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let mut objective = ready("");
    for step in 0..4 {
        if step == 2 {
            objective.save(middle.path()).unwrap();
        }
        objective.step(step, 1e-3).unwrap();
    }
    objective.save(whole.path()).unwrap();
    let mut other = ready("");
    other.load(middle.path(), 2).unwrap();
    (2..4).for_each(|step| drop(other.step(step, 1e-3).unwrap()));
    other.save(again.path()).unwrap();
    assert_eq!(files(whole.path()).len(), 3);
    assert!(files(whole.path()) == files(again.path()), "another state");
}

#[test]
fn other_scenes_are_other_data() {
    let digest = |more: &str| ready(more).data_digest();
    assert_ne!(digest(", seed = 0"), digest(", seed = 1"));
}

#[test]
fn too_few_scenes_are_refused_and_few_for_validation_are_told() {
    let count = |count: u64| {
        let mut plan = plan("");
        let source: &mut DataSettings = &mut plan.recipe.data.source;
        source.count = count.try_into().ok();
        setup::detector(&plan, DeviceChoice::Cpu).map(|ready| ready.notes).map_err(|error| error.to_string())
    };
    assert_eq!(count(100).unwrap(), ["scenes kept for validation: 10 instead of 60; a tenth of the data is the most"]);
    let error = count(7).unwrap_err();
    assert!(error.contains("a batch has 8") && error.contains("\nhint: "), "{error}");
}
