//! Weights in another type.

use std::fs;

use safetensors::Dtype;

use crate::support::{Desk, fixture, read, text};

const TRANSFORMER: &str = "transformer/diffusion_pytorch_model.safetensors";

#[test]
fn a_folder_in_half_precision_is_half_as_large_and_draws_nearly_the_same() {
    let desk = Desk::new();
    let stdout = desk.succeed("convert {sd3/model} --dtype f16 --dtype-of text_encoder_3=fp8 --out half");
    assert_eq!(stdout, "half\n");
    assert_eq!(desk.files(), ["half"], "nothing else is left");
    let half = desk.path("half");
    let (wide, narrow) = (read(&fixture("sd3/model").join(TRANSFORMER)), read(&half.join(TRANSFORMER)));
    assert!(wide.keys().eq(narrow.keys()) && narrow.values().all(|tensor| tensor.dtype == Dtype::F16));
    let t5 = read(&half.join("text_encoder_3/model.safetensors"));
    let of = |name: &str| t5.iter().find(|(found, _)| found.contains(name)).unwrap().1.dtype;
    assert_eq!((of("SelfAttention.q"), of("layer_norm")), (Dtype::F8_E4M3, Dtype::BF16));
    for file in ["tokenizer/tokenizer.json", "scheduler/scheduler_config.json", "model_index.json", "vae/config.json"] {
        let original = fs::read(fixture("sd3/model").join(file)).unwrap();
        assert_eq!(fs::read(half.join(file)).unwrap(), original, "{file}");
    }
    for (model, out) in [("{sd3/model}", "wide.png"), ("half", "half.png")] {
        desk.succeed(&format!("generate cat --model {model} --width 64 --height 64 --steps 2 --out {out}"));
    }
    let pixels = |name: &str| {
        let mut reader = png::Decoder::new(fs::File::open(desk.path(name)).map(std::io::BufReader::new).unwrap())
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        pixels
    };
    let (wide, half) = (pixels("wide.png"), pixels("half.png"));
    let apart: u64 = wide.iter().zip(&half).map(|(one, other)| u64::from(one.abs_diff(*other))).sum();
    let mean = apart as f64 / wide.len() as f64;
    assert!(mean > 0.0 && mean < 8.0, "{mean} of 255 apart");
}

#[test]
fn one_file_becomes_one_file() {
    let desk = Desk::new();
    desk.succeed(&format!("convert {{sd3/model/{TRANSFORMER}}} --type bf16 --out small.safetensors"));
    assert!(read(&desk.path("small.safetensors")).values().all(|tensor| tensor.dtype == Dtype::BF16));
    // What is wide again has the same numbers.
    desk.succeed("convert small.safetensors --dtype f32 --out wide.safetensors");
    desk.succeed("convert wide.safetensors --dtype bf16 --out again.safetensors");
    let [one, other] = ["small.safetensors", "again.safetensors"].map(|name| fs::read(desk.path(name)).unwrap());
    assert_eq!(one, other);
}

#[test]
fn what_cannot_be_converted_is_said_and_leaves_nothing() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("empty/part")).unwrap();
    fs::create_dir_all(desk.path("broken/vae")).unwrap();
    let whole = fs::read(fixture("sd3/model/vae/diffusion_pytorch_model.safetensors")).unwrap();
    fs::write(desk.path("broken/vae/diffusion_pytorch_model.safetensors"), &whole[..whole.len() / 2]).unwrap();
    fs::write(desk.path("there"), "").unwrap();
    let before = desk.files();
    for (line, expected) in [
        ("convert {sd3/model} --dtype f16 --out there", "`there` is there already"),
        ("convert {sd3/model} --dtype f17 --out out", "give f32, f16, bf16, fp8, q8_0 or q4_k"),
        ("convert {sd3/model} --dtype f16 --dtype-of t5=fp8 --out out", "has no part `t5`"),
        ("convert {sd3/model} --dtype f16 --dtype-of vae --out out", "give PART=TYPE"),
        ("convert nowhere --dtype f16 --out out", "`nowhere` does not exist"),
        ("convert empty --dtype f16 --out out", "`empty` has no .safetensors files"),
        ("convert broken --dtype f16 --out out", "it is cut short"),
        ("convert broken --dtype f16 --out broken/out", "lies in `broken`"),
        (
            "convert {sd3/official.safetensors} --dtype f16 --dtype-of vae=fp8 --out out.safetensors",
            "is for the parts of a folder",
        ),
        ("convert {sd3/model} --out out", "nothing would be different"),
        ("convert {sd3/model} --dtype q8_0 --out out", "safetensors files have no numbers of type Q8_0"),
        ("convert {sd3/model} --dtype fp8 --out out.gguf", "GGUF files have no numbers of type F8_E4M3"),
        ("convert {sd3/model} --dtype-of tokenizer=q8_0 --out out.gguf", "has no part `tokenizer`"),
        ("convert there --dtype f16 --out out.gguf", "it is empty"),
    ] {
        let stderr = desk.fail(line);
        assert!(stderr.contains(expected), "{line}: {stderr}");
        assert_eq!(desk.files(), before, "{line} left something");
    }
    assert!(text(&desk.run("convert {sd3/model} --dtype f16 --out there").stderr).contains("hint: "));
}
