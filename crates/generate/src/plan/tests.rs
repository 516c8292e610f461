use rectiflow_sample::{Rule, Window};

use super::*;
use crate::guidance::Hindrance;
use crate::reuse::ReuseMode;

pub(crate) const MODEL: ModelFacts = ModelFacts {
    unit_px: 16,
    side_px_max: 384,
    worse_side_px_max: None,
    side_px: None,
    formulation: None,
    latent_channels: 16,
    latent_px: 8,
    depth: 2,
    qk_norm: false,
    shift: None,
    t5_length: None,
};

fn request() -> Request {
    Request { prompts: vec!["a".into()], count: 1, ..Request::default() }
}

#[track_caller]
fn refused(request: Request, part: &str) {
    let text = request.resolve(&MODEL).unwrap_err().to_string();
    assert!(text.contains(part), "{text}");
}

#[test]
fn impossible_settings_are_refused_with_what_is_possible() {
    refused(Request { width: Some(100), ..request() }, "96 and 112");
    refused(Request { width: Some(5), ..request() }, "16 and 32");
    refused(Request { height: Some(400), ..request() }, "longest side is 384");
    refused(Request { height: Some(0), ..request() }, "16 and 32");
    refused(Request { width: Some(usize::MAX), ..request() }, "longest side is 384");
    refused(Request { steps: Some(0), ..request() }, "1 or more");
    refused(Request { count: 0, ..request() }, "--count 0");
    refused(Request { guidance: GuidanceRequest::of(f32::NAN), ..request() }, "guidance");
    let rule = Rule::Projected { eta: 1.0, norm_max: 0.0, momentum: 1.0 };
    refused(Request { guidance: GuidanceRequest { rule, ..Default::default() }, ..request() }, "momentum");
    let hindered = |blocks: Vec<usize>, scale| {
        let one = Hindered { how: Hindrance::SkippedBlocks, blocks, scale, window: Window::ALL };
        Request { guidance: GuidanceRequest { hindered: vec![one], ..Default::default() }, ..request() }
    };
    refused(hindered(vec![0, 2], 2.8), "--skip-layers has 2, and this model has the blocks 0 to 1");
    refused(hindered(vec![0], f32::NAN), "the scale of --skip-layers is NaN");
    refused(
        Request { guidance: GuidanceRequest { rescale: 1.5, ..Default::default() }, ..request() },
        "--guidance-rescale 1.5",
    );
    refused(Request { t5_length: Some(7), ..request() }, "8 to 512");
    refused(Request { batch_size: Some(0), ..request() }, "--batch-size 0");
    let batch_size = Some(2);
    refused(Request { batch_size, solver: Some("dopri5".parse().unwrap()), ..request() }, "dopri5");
    let reuse = Some(StepReuse { mode: ReuseMode::FirstBlock, threshold: 0.1 });
    refused(Request { batch_size, reuse, ..request() }, "--cache-mode");
    refused(Request { negative: "(dog:1e9)".into(), ..request() }, "\"dog\"");
    assert!(Request { negative: "(dog:1e9)".into(), syntax: PromptSyntax::Plain, ..request() }.resolve(&MODEL).is_ok());
    refused(Request { shift: Some(Shift::By(0.0)), ..request() }, "shift");
    refused(Request { sigmas: Some(vec![0.5, 0.6]), ..request() }, "0.6 comes after 0.5");
    refused(Request { prompts: vec![], ..request() }, "no prompt");
    refused(Request { count: 2, seed: u64::MAX, ..request() }, "at most 18446744073709551614");
    refused(Request { prompts: vec!["a".into(); 2], count: usize::MAX, ..request() }, "lower number");
    assert!(Request { count: 2, seed: u64::MAX - 1, ..request() }.resolve(&MODEL).is_ok());
}

#[test]
fn a_scheduler_file_sets_the_shift_and_a_user_overrides_it() {
    let short = ModelFacts { t5_length: Some(128), ..MODEL };
    assert_eq!(request().resolve(&short).unwrap().t5_length, 128, "what the model was trained with");
    let long = ModelFacts { t5_length: Some(512), ..MODEL };
    assert_eq!(request().resolve(&long).unwrap().t5_length, 256, "diffusers' default");
    let model = ModelFacts { shift: Some(5.0), ..MODEL };
    assert_eq!(request().resolve(&model).unwrap().shift, 5.0);
    assert_eq!(Request { shift: Some(Shift::By(2.0)), ..request() }.resolve(&model).unwrap().shift, 2.0);
    assert_eq!(request().resolve(&MODEL).unwrap().shift, 3.0);
}

#[test]
fn a_plan_is_guided_if_one_of_its_steps_is() {
    let guided = |guidance: GuidanceRequest| Request { guidance, ..request() }.resolve(&MODEL).unwrap().is_guided();
    assert!(guided(GuidanceRequest::default()) && guided(GuidanceRequest::of(1.5)));
    assert!(!guided(GuidanceRequest::of(1.0)) && !guided(GuidanceRequest::of(0.0)));
    let scales = |text: &str| GuidanceRequest { scales: Some(text.parse().unwrap()), ..Default::default() };
    assert!(guided(scales("4,1")) && !guided(scales("1,0.5")));
    // Of 28 steps none begins in the last hundredth.
    let window = Some(Window::new(0.99, 1.0).unwrap());
    assert!(!guided(GuidanceRequest { window, ..GuidanceRequest::of(4.0) }));
}

#[test]
fn texts_serve_every_plan_that_is_told_the_same() {
    let plan = |request: Request| request.resolve(&MODEL).unwrap();
    let first = plan(Request { negative: "dog".into(), ..request() });
    let same = Request { negative: "dog".into(), steps: Some(3), seed: 5, ..request() };
    assert!(first.is_told_as(&plan(same.clone())));
    for other in [
        Request { negative: "cat".into(), ..same.clone() },
        Request { guidance: GuidanceRequest::of(1.0), ..same.clone() },
        Request { prompts: vec!["other".into()], ..same.clone() },
        Request { t5_length: Some(77), ..same.clone() },
        Request { prompt_t5: Some("other".into()), ..same.clone() },
        Request { syntax: PromptSyntax::Plain, ..same.clone() },
    ] {
        assert!(!first.is_told_as(&plan(other.clone())), "{other:?}");
    }
    let unguided = |negative: &str| {
        let guidance = GuidanceRequest::of(1.0);
        plan(Request { negative: negative.into(), guidance, ..request() })
    };
    assert!(unguided("cat").is_told_as(&unguided("dog")), "nobody reads it");
}

#[test]
fn a_picture_has_room_in_the_worse_model_too() {
    let model = ModelFacts { worse_side_px_max: Some(128), ..MODEL };
    assert_eq!(request().resolve(&model).unwrap().width, 128);
    let error = Request { width: Some(256), ..request() }.resolve(&model).unwrap_err().to_string();
    assert!(error.contains("--width 256") && error.contains("`--autoguidance`") && error.contains("128"), "{error}");
}

#[test]
fn levels_are_those_that_were_asked_for_or_that_suit_the_solver() {
    let plan = |request: Request| request.resolve(&MODEL).unwrap();
    assert_eq!(plan(request()).spacing, Some(Spacing::Released));
    let solver = Some(Solver::UniPc);
    assert_eq!(plan(Request { solver, ..request() }).spacing, Some(Spacing::Simple));
    assert_eq!(plan(Request { solver, spacing: Some(Spacing::Beta), ..request() }).spacing, Some(Spacing::Beta));
    let own = plan(Request { sigmas: Some(vec![1.0, 0.5]), ..request() });
    assert_eq!((own.schedule.sigmas(), own.spacing), (&[1.0, 0.5, 0.0][..], None));
    // 384 x 384 px are 576 tokens.
    let dynamic = plan(Request { shift: Some(Shift::Dynamic), ..request() });
    assert!((dynamic.shift - 0.554_166_7_f32.exp()).abs() < 1e-5, "{}", dynamic.shift);
}

#[test]
fn stability_draws_the_first_release_without_shift_and_the_later_ones_with() {
    let plan = |qk_norm| {
        let request = Request { compat: Compat::Stability, ..request() };
        request.resolve(&ModelFacts { qk_norm, shift: Some(3.0), ..MODEL }).unwrap()
    };
    assert_eq!((plan(false).shift, plan(true).shift), (1.0, 3.0));
    assert_eq!(plan(true).solver, Solver::Dpmpp2m);
}
