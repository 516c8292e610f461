use std::collections::BTreeMap;

use rectiflow_flow::Spacing;
use rectiflow_sample::{Rule, Solver, Window};

use super::*;
use crate::plan;
use crate::{
    Compat, Hindered, Hindrance, LongPrompts, ModelFacts, ModelName, Plan, PromptSyntax, ReuseMode, StepReuse,
};

const MODEL: ModelFacts = ModelFacts { depth: 4, qk_norm: true, shift: Some(3.0), ..plan::tests::MODEL };

fn name() -> ModelName {
    ModelName {
        file: "m".into(),
        variant: "v".into(),
        precision: "f32".into(),
        device: "cpu".into(),
        encoders: vec!["T5".into()],
        decoder: "autoencoder".into(),
        worse: None,
        instructions: Some("avx2".into()),
        hashes: BTreeMap::from([("vae".to_owned(), "00ff".to_owned())]),
    }
}

fn request() -> Request {
    Request { prompts: vec!["a 猫 \"quoted\"\nof two lines".into()], count: 1, seed: u64::MAX, ..Request::default() }
}

fn settings(plan: &Plan) -> Settings {
    Settings::of(plan, &name(), &plan.prompts[0], plan.seed, false)
}

/// Request, plan, settings, JSON and back.
#[track_caller]
fn comes_back(request: Request) {
    let plan = request.resolve(&MODEL).unwrap();
    let [_, (_, json)] = settings(&plan).texts();
    let read = Settings::from_json(&json).unwrap();
    assert_eq!(read, settings(&plan));
    assert_eq!(read.request().unwrap().resolve(&MODEL).unwrap(), plan);
}

fn guided(guidance: GuidanceRequest) -> Request {
    Request { guidance, ..request() }
}

#[test]
fn every_solver_schedule_and_reference_comes_back() {
    let tolerances = ["dopri5(1e-4)", "dopri5(0.033)"].map(|name| name.parse().unwrap());
    for solver in Solver::ALL.into_iter().chain(tolerances) {
        comes_back(Request { solver: Some(solver), steps: Some(7), ..request() });
        for compat in [Compat::Diffusers, Compat::Stability] {
            comes_back(Request { solver: Some(solver), compat, ..request() });
        }
    }
    for spacing in Spacing::ALL {
        for shift in [0.3, 1.15, 3.0, 7.777_777] {
            let shift = Some(Shift::By(shift));
            comes_back(Request { spacing: Some(spacing), shift, steps: Some(11), ..request() });
        }
    }
    comes_back(Request { shift: Some(Shift::Dynamic), width: Some(320), height: Some(16), ..request() });
    comes_back(Request { compat: Compat::Stability, ..request() });
}

#[test]
fn every_guidance_comes_back() {
    comes_back(guided(GuidanceRequest::of(0.0)));
    comes_back(guided(GuidanceRequest::of(0.1 + 0.2)));
    comes_back(guided(GuidanceRequest { scales: Some("7,6.3,0.5".parse().unwrap()), ..Default::default() }));
    let window = Some(Window::new(0.1, 0.7).unwrap());
    comes_back(guided(GuidanceRequest { window, rescale: 0.7, ..Default::default() }));
    for rule in
        [Rule::Plain, Rule::ZeroStar { zeroed: 3 }, Rule::Projected { eta: -0.3, norm_max: 2.5, momentum: -0.75 }]
    {
        comes_back(guided(GuidanceRequest { rule, ..Default::default() }));
    }
    let one = |how, scale| Hindered { how, blocks: vec![0, 3], scale, window: Window::new(0.01, 0.2).unwrap() };
    let hindered = vec![one(Hindrance::SkippedBlocks, 2.8), one(Hindrance::IsolatedTokens, -1.0)];
    comes_back(guided(GuidanceRequest { hindered: hindered.clone(), ..Default::default() }));
    comes_back(guided(GuidanceRequest { hindered: vec![one(Hindrance::SkippedBlocks, 0.0)], ..Default::default() }));
    let worse = Hindered { blocks: Vec::new(), ..one(Hindrance::WorseModel, 1.5) };
    comes_back(guided(GuidanceRequest { hindered: [hindered, vec![worse]].concat(), ..Default::default() }));
}

#[test]
fn levels_reuse_lengths_and_texts_come_back() {
    comes_back(Request { sigmas: Some(vec![1.0, 0.857_692, 0.602_151, 0.008_928_6]), ..request() });
    comes_back(Request { sigmas: Some(vec![0.9, 0.1, 0.0]), solver: Some(Solver::UniPc), ..request() });
    for mode in [ReuseMode::FirstBlock, ReuseMode::Taylor] {
        comes_back(Request { reuse: Some(StepReuse { mode, threshold: 0.1 }), ..request() });
    }
    for t5_length in [8, 77, 512] {
        comes_back(Request { t5_length: Some(t5_length), ..request() });
    }
    comes_back(Request { prompt_clip: Some(String::new()), prompt_t5: Some("é".into()), ..request() });
    let syntax = PromptSyntax::Plain;
    comes_back(Request { syntax, long_prompts: LongPrompts::Chunks, prompts: vec!["(a:1e9)".into()], ..request() });
    comes_back(Request { negative: "no\u{1}control\\".into(), seed: 0, prompts: vec![String::new()], ..request() });
}

/// The settings of a usual picture with one value replaced.
fn changed(key: &str, value: Value) -> String {
    let plan = request().resolve(&MODEL).unwrap();
    let mut all = flat(&settings(&plan)).unwrap();
    all.retain(|key, _| !key.starts_with("hashes."));
    all.insert(key.to_owned(), value);
    Value::Object(all).to_string()
}

#[test]
fn settings_that_no_picture_has_are_refused_with_their_name() {
    for (text, part) in [
        ("", "not those of a picture"),
        ("[]", "not those of a picture"),
        ("{}", "missing field"),
        (&changed("path", "/etc/passwd".into()), "unknown field `path`"),
        (&changed("steps", "many".into()), "invalid type"),
        (&changed("steps", (-1).into()), "invalid value"),
        (&changed("guidance_window", vec![0.7, 0.2].into()), "no steps"),
        (&changed("grid", Value::Null), "`rectiflow grid`"),
        (&"[".repeat(100_000), "invalid type"),
    ] {
        let error = Settings::from_json(text).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("hint: "), "{error}");
    }
    for (key, value, part) in [
        ("steps", Value::from(10_001), "only take time"),
        ("steps", u64::MAX.into(), "only take time"),
        ("solver", "../../x\u{1b}[31m".into(), "is not a solver"),
        ("schedule", "custom".into(), "is no schedule"),
        ("compat", "".into(), "is not a reference"),
        ("guidance", Value::Array(Vec::new()), "no guidance scale"),
        (
            "hindered",
            vec![serde_json::json!({"how": "skipped_blocks", "blocks": [0], "scale": 1, "window": [0, 1]}); 4].into(),
            "three kinds",
        ),
    ] {
        let error = Settings::from_json(&changed(key, value)).unwrap().request().unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(&format!("`{key}`")), "{error}");
    }
    // What only a model can refuse is left to the checks that a user's settings go through.
    for (key, value, part) in [
        ("width", Value::from(u64::MAX), "longest side is 384"),
        ("width", 100.into(), "multiple of 16"),
        ("steps", 0.into(), "1 or more"),
        ("guidance", 1e39.into(), "guidance"),
        ("shift", 1e39.into(), "shift"),
        ("t5_length", 1_000_000.into(), "8 to 512"),
        ("sigmas", vec![0.5, 0.6].into(), "comes after"),
        ("guidance_rescale", 2.into(), "0 to 1"),
    ] {
        let request = Settings::from_json(&changed(key, value)).unwrap().request().unwrap();
        let error = request.resolve(&MODEL).unwrap_err().to_string();
        assert!(error.contains(part), "{key}: {error}");
    }
}

#[test]
fn differences_are_named_one_by_one() {
    let plan = request().resolve(&MODEL).unwrap();
    let was = settings(&plan);
    assert_eq!(was.differences(&was), []);
    let mut is = was.clone();
    is.precision = "bf16".into();
    is.instructions = None;
    is.hashes.insert("vae".into(), "aa".into());
    let said: Vec<String> = was.differences(&is).iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "hashes.vae: \"00ff\" then, \"aa\" now",
            "instructions: \"avx2\" then, not said now",
            "precision: \"f32\" then, \"bf16\" now"
        ]
    );
}

#[test]
fn pictures_of_earlier_versions_are_read() {
    let mut all: Map<String, Value> = serde_json::from_str(&changed("seed", 1.into())).unwrap();
    for key in ["instructions", "hashes", "latents_sha256", "jpeg_quality"] {
        all.remove(key);
    }
    assert!(Settings::from_json(&Value::Object(all).to_string()).unwrap().request().is_ok());
}
