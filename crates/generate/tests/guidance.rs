//! Latents under guidance are those of diffusers (`fixtures/guidance.safetensors`, by `scripts/make_guidance.py`), with the
//! text features and the noise that diffusers had.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::path::Path;

use rectiflow_generate::{
    Compat, GuidanceRequest, Hindered, Hindrance, ModelFiles, Parts, Request, Told, Unwatched, denoise,
};
use rectiflow_nn::{DType, Device, DeviceChoice, Precision, Tensor, to_f32};
use rectiflow_sample::{Rule, Window};
use rectiflow_text::Conditioning;
use rectiflow_weights::{ModelPaths, TensorFile};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures");
const STEPS: usize = 6;
const SCALE: f32 = 4.5;

fn tensor<const D: usize>(file: &TensorFile, name: &str) -> Tensor<D> {
    Tensor::from_data(file.data(name).unwrap(), (&Device::flex(), DType::F32))
}

/// What the guidances of the cases are.
fn cases() -> Vec<(&'static str, GuidanceRequest)> {
    let plain = || GuidanceRequest::of(SCALE);
    let away = |how, blocks: &[usize], scale, [start, stop]: [f32; 2]| GuidanceRequest {
        hindered: vec![Hindered { how, blocks: blocks.to_vec(), scale, window: Window::new(start, stop).unwrap() }],
        ..plain()
    };
    let skip = |blocks| away(Hindrance::SkippedBlocks, blocks, 2.8, [0.01, 0.6]);
    let isolate = |blocks| away(Hindrance::IsolatedTokens, blocks, 3.0, [0.0, 1.0]);
    let projected = Rule::Projected { eta: 0.5, norm_max: 5.0, momentum: -0.3 };
    vec![
        ("skip_first", skip(&[0])),
        ("skip_last", skip(&[1])),
        ("pag_first", isolate(&[0])),
        ("pag_both", isolate(&[0, 1])),
        ("zero_star", GuidanceRequest { rule: Rule::ZeroStar { zeroed: 1 }, ..plain() }),
        ("projected", GuidanceRequest { rule: projected, ..plain() }),
        ("rescaled", GuidanceRequest { rescale: 0.7, ..plain() }),
    ]
}

#[test]
fn guided_latents_are_diffusers() {
    let file = |path: &str| TensorFile::open(Path::new(FIXTURES).join(path)).unwrap();
    let (golden, expected) = (file("sd3/golden.safetensors"), file("guidance.safetensors"));
    let files =
        ModelFiles::open(&ModelPaths { model: Some(Path::new(FIXTURES).join("sd3/model")), ..ModelPaths::default() })
            .unwrap();
    let told = |prefix: &str| Conditioning {
        context: tensor(&golden, &format!("{prefix}prompt_embeds")),
        pooled: tensor(&golden, &format!("{prefix}pooled")),
    };
    let (prompt, negative) = (told(""), told("negative_"));
    let noise: Tensor<4> = tensor(&golden, "noise");
    let [_, _, height, width] = noise.dims();
    let parts = Parts::load(&files, DeviceChoice::Cpu, Precision::F32, Compat::Diffusers).unwrap();
    let plain = {
        let request = GuidanceRequest::of(SCALE);
        ("plain", request)
    };
    let mut unguided = Vec::new();
    for (name, guidance) in [plain].into_iter().chain(cases()) {
        let request = Request {
            prompts: vec![String::new()],
            count: 1,
            width: Some(8 * width),
            height: Some(8 * height),
            steps: Some(STEPS),
            guidance,
            ..Request::default()
        };
        let plan = request.resolve(&files.facts()).unwrap();
        let told = Told { prompt: &prompt, negative: Some(&negative) };
        let found = to_f32(&denoise(&parts.transformer, &told, noise.clone(), &[0], &plan, &mut Unwatched).unwrap());
        let apart = |other: &[f32]| found.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        if name == "plain" {
            unguided = found;
            continue;
        }
        assert!(apart(&unguided) > 0.01, "{name} is plain guidance");
        let worst = apart(&to_f32(&tensor::<4>(&expected, name)));
        assert!(worst < 1e-4, "{name}: {worst}");
    }
}
