use crate::support::{Desk, Stored, fixture, read, write};

const PIPELINES: [&str; 5] = ["sd3", "sd35m", "deep-unicode", "long", "empty"];

#[track_caller]
fn check(name: &str, precision: &str) {
    let desk = Desk::new();
    let golden = format!("{{{name}/golden.safetensors}}");
    let stdout =
        desk.succeed(&format!("verify --model {{{name}/model}} --golden {golden} --precision {precision} --json"));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["pass"], true, "{name} {precision}: {stdout}");
    assert_eq!(report["stages"].as_array().unwrap().len(), 12, "every stage was compared: {stdout}");
}

#[test]
fn every_stage_equals_the_reference_in_f32() {
    PIPELINES.iter().for_each(|name| check(name, "f32"));
}

#[test]
fn every_stage_is_near_the_reference_in_bf16() {
    PIPELINES.iter().for_each(|name| check(name, "bf16"));
}

#[test]
fn the_official_file_is_verified_as_the_folder_is() {
    let desk = Desk::new();
    desk.succeed("verify --model {sd3/official.safetensors} --golden {sd3/golden.safetensors}");
}

#[test]
fn a_stage_over_its_bound_is_named_and_the_status_is_1() {
    let desk = Desk::new();
    let mut tensors = read(&fixture("empty/golden.safetensors"));
    let velocity = tensors.get_mut("velocity").unwrap();
    let first = f32::from_le_bytes(velocity.bytes[..4].try_into().unwrap());
    velocity.bytes[..4].copy_from_slice(&(first + 0.01).to_le_bytes());
    let args = golden_args("empty");
    write_golden(&desk, &tensors, &args);

    let output = desk.run("verify --model {empty/model} --golden golden.safetensors");
    assert_eq!(output.status.code(), Some(1));
    let stdout = crate::support::text(&output.stdout);
    let over: Vec<_> = stdout.lines().filter(|line| line.ends_with("OVER")).collect();
    assert!(over.len() == 1 && over[0].starts_with("velocity"), "{stdout}");
}

#[test]
fn a_file_that_is_not_golden_says_so() {
    let desk = Desk::new();
    write(&desk.path("x.safetensors"), &[("a".to_string(), scalar())].into());
    let stderr = desk.fail("verify --model {empty/model} --golden x.safetensors");
    assert!(stderr.contains("no `args` in its metadata"), "{stderr}");
}

fn scalar() -> Stored {
    Stored { dtype: safetensors::Dtype::F32, shape: vec![1], bytes: vec![0; 4] }
}

fn golden_args(name: &str) -> String {
    let bytes = std::fs::read(fixture(name).join("golden.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    header.metadata().as_ref().unwrap()["args"].clone()
}

fn write_golden(desk: &Desk, tensors: &crate::support::Tensors, args: &str) {
    let metadata = [("args".to_string(), args.to_string())].into();
    let views = tensors
        .iter()
        .map(|(name, t)| (name, safetensors::tensor::TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
    safetensors::serialize_to_file(views, Some(metadata), &desk.path("golden.safetensors")).unwrap();
}
