//! Each solver's latents for one seed stay what they were (`fixtures/fixed_seed.safetensors`). Where a reference has the
//! solver, `rectiflow-sample`'s tests hold it against that; here nothing changes unnoticed.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rectiflow_generate::{
    Compat, GuidanceRequest, ModelFiles, Parts, Plan, Request, Told, Unwatched, denoise, draw_noise,
};
use rectiflow_nn::{DType, Device, DeviceChoice, Precision, Tensor, TensorData, to_f32};
use rectiflow_sample::Solver;
use rectiflow_text::Conditioning;
use rectiflow_weights::{ModelPaths, TensorFile, read_all, write_safetensors};

const SEED: u64 = 7;
/// Processors add in other orders, and multi-step solvers carry that on.
const BOUND: f32 = 2e-3;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn latents() -> Vec<(String, TensorData)> {
    let model = Some(fixture("sd3/model"));
    let files = ModelFiles::open(&ModelPaths { model, ..ModelPaths::default() }).unwrap();
    let golden = TensorFile::open(fixture("sd3/golden.safetensors")).unwrap();
    let told = |prefix: &str| Conditioning {
        context: tensor(&golden, &format!("{prefix}prompt_embeds")),
        pooled: tensor(&golden, &format!("{prefix}pooled")),
    };
    let (prompt, negative) = (told(""), told("negative_"));
    let parts = Parts::load(&files, DeviceChoice::Cpu, Precision::F32, Compat::Diffusers).unwrap();
    let plan = |solver| -> Plan {
        let request = Request {
            prompts: vec![String::new()],
            count: 1,
            width: Some(64),
            height: Some(48),
            steps: Some(6),
            guidance: GuidanceRequest::of(4.5),
            solver: Some(solver),
            seed: SEED,
            ..Request::default()
        };
        request.resolve(&files.facts()).unwrap()
    };
    let drawn = Solver::ALL.into_iter().map(|solver| {
        let (plan, told) = (plan(solver), Told { prompt: &prompt, negative: Some(&negative) });
        let noise = draw_noise(&plan, SEED, &parts.device);
        let latent = denoise(&parts.transformer, &told, noise, &[SEED], &plan, &mut Unwatched).unwrap();
        (solver.to_string(), TensorData::new(to_f32(&latent), latent.dims()))
    });
    drawn.collect()
}

fn tensor<const D: usize>(file: &TensorFile, name: &str) -> Tensor<D> {
    Tensor::from_data(file.data(name).unwrap(), (&Device::flex(), DType::F32))
}

#[test]
fn every_solver_draws_what_it_drew() {
    let expected = read_all(fixture("fixed_seed.safetensors")).unwrap();
    let found = latents();
    assert_eq!(found.len(), expected.len());
    for (name, found) in found {
        let values = |data: &TensorData| data.clone().try_to_vec::<f32>().unwrap();
        let apart = values(&found).into_iter().zip(values(&expected[&name])).map(|(a, b)| (a - b).abs());
        let worst = apart.fold(0.0, f32::max);
        assert!(worst < BOUND, "{name}: {worst}");
    }
}

#[test]
#[ignore = "writes the fixture: only where a solver is meant to draw something else"]
fn write_the_fixture() {
    let latents = latents();
    let named: Vec<(&str, &TensorData)> = latents.iter().map(|(name, data)| (name.as_str(), data)).collect();
    write_safetensors(fixture("fixed_seed.safetensors"), &named, &BTreeMap::new()).unwrap();
}
