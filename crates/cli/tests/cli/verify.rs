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
fn every_stage_is_near_the_reference_in_int8() {
    PIPELINES.iter().for_each(|name| check(name, "int8"));
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
fn a_golden_file_that_does_not_fit_is_one_error_and_the_status_is_2() {
    let desk = Desk::new();
    let golden = read(&fixture("empty/golden.safetensors"));
    let zeros = |shape: &[usize]| Stored {
        dtype: safetensors::Dtype::F32,
        shape: shape.to_vec(),
        bytes: vec![0; 4 * shape.iter().product::<usize>()],
    };
    for (name, shape) in [
        ("noise", &[1, 16, 5, 5][..]),
        ("image", &[1, 4, 32, 32]),
        ("prompt_embeds", &[1, 154, 8]),
        ("pooled", &[2, 32]),
        ("latents", &[1, 16, 4]),
        ("sigmas", &[9]),
        ("encoded_mean", &[0]),
    ] {
        let mut tensors = golden.clone();
        tensors.insert(name.into(), zeros(shape));
        tensors.remove("velocity");
        write_golden(&desk, &tensors, &golden_args("empty"));
        let line = "verify --model {empty/model} --golden golden.safetensors";
        let output = desk.run(line);
        let stderr = crate::support::failed(line, &output);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        let help = "`rectiflow verify --help`".into();
        let parts =
            [format!("`{name}` has shape {shape:?}, not"), "no tensor `velocity`".into(), "hint: ".into(), help];
        assert!(parts.iter().all(|part| stderr.contains(part)), "{stderr}");
    }
}

#[test]
fn what_a_golden_file_was_made_with_is_judged_by_its_own_names() {
    let desk = Desk::new();
    let tensors = read(&fixture("empty/golden.safetensors"));
    for (name, value, part) in [
        ("size", serde_json::json!("17x32"), "`size` is \"17x32\": 17 is not a multiple of 16"),
        ("size", "32x99999".into(), "`size` is \"32x99999\": this model's longest side is"),
        ("steps", 0.into(), "`steps` is 0"),
        ("cfg", (-1).into(), "`cfg` is -1"),
        ("seqlen", 5.into(), "`seqlen` is 5"),
    ] {
        let mut args: serde_json::Value = serde_json::from_str(&golden_args("empty")).unwrap();
        args[name] = value;
        write_golden(&desk, &tensors, &args.to_string());
        let stderr = desk.fail("verify --model {empty/model} --golden golden.safetensors");
        assert!(stderr.contains(part) && stderr.contains("verify --help"), "{stderr}");
        assert!(
            ["--width", "--height", "--steps", "--guidance", "--t5-length"].iter().all(|o| !stderr.contains(o)),
            "{stderr}"
        );
    }
}

#[test]
fn what_is_not_compared_is_said() {
    let desk = Desk::new();
    let mut tensors = read(&fixture("empty/golden.safetensors"));
    tensors.remove("ids_clip");
    write_golden(&desk, &tensors, &golden_args("empty"));
    let line = "verify --model {empty/model} --golden golden.safetensors";
    let table = desk.succeed(line);
    assert!(table.contains("not compared: the golden file does not have it"), "{table}");
    assert!(table.contains("11 of 12 stages compared: all within their bounds"), "{table}");
    let report: serde_json::Value = serde_json::from_str(&desk.succeed(&format!("{line} --json"))).unwrap();
    assert_eq!(report["not_compared"][0]["stage"], "ids_clip");

    // Without T5 its tokens cannot be compared, and what is made of the prompt is another thing.
    let parts = "--diffusion-model {sd3/model/transformer/diffusion_pytorch_model.safetensors} \
                 --vae {sd3/model/vae/diffusion_pytorch_model.safetensors} \
                 --clip-l {sd3/model/text_encoder/model.safetensors} \
                 --clip-g {sd3/model/text_encoder_2/model.safetensors}";
    let output = desk.run(&format!("verify {parts} --golden {{sd3/golden.safetensors}}"));
    let table = crate::support::text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert!(table.contains("not compared: the model has no T5") && table.contains("11 of 12"), "{table}");
}

#[test]
fn the_rules_of_the_other_reference_may_be_compared() {
    let desk = Desk::new();
    let golden = "{sd3/golden.safetensors}";
    let output = desk.run(&format!("verify --model {{sd3/model}} --golden {golden} --compat stability"));
    let table = crate::support::text(&output.stdout);
    // That file was made by diffusers' rules, with a solver that Stability's code does not use.
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert!(table.contains("by the rules of stability"), "{table}");
    let over = |stage: &str| table.lines().any(|line| line.starts_with(stage) && line.ends_with("OVER"));
    assert!(over("latents") && !over("velocity") && !over("decoded"), "{table}");
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
