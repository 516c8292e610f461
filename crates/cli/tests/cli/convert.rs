//! Weights in another type.

use std::fs;

use safetensors::Dtype;

use crate::layouts::draw;
use crate::support::{Desk, fixture, png, read, text};

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
    let mean = apart(&desk, "wide.png", "half.png");
    assert!(mean > 0.0 && mean < 8.0, "{mean} of 255 apart");
}

/// How far apart two pictures are in the mean, of 255.
fn apart(desk: &Desk, one: &str, other: &str) -> f64 {
    let (one, other) = (png(&desk.path(one)).0, png(&desk.path(other)).0);
    let apart: u64 = one.iter().zip(&other).map(|(one, other)| u64::from(one.abs_diff(*other))).sum();
    apart as f64 / one.len() as f64
}

#[test]
fn a_model_draws_the_same_in_every_layout_to_the_bit() {
    let desk = Desk::new();
    let expected = draw(&desk, "--model {sd3/model}");
    let before = desk.files();
    for (from, to) in [
        ("{sd3/model}", "one.safetensors"),
        ("one.safetensors", "folder"),
        ("folder", "two.gguf"),
        ("two.gguf", "again.safetensors"),
        ("folder/transformer", "transformer.gguf"),
        ("folder/text_encoder_3", "t5.gguf"),
    ] {
        assert_eq!(desk.succeed(&format!("convert {from} --out {to}")), format!("{to}\n"));
    }
    assert_eq!(desk.files().len(), before.len() + 6, "nothing else is left");
    for model in ["one.safetensors", "folder", "two.gguf"] {
        assert_eq!(draw(&desk, &format!("--model {model}")), expected, "{model}");
    }
    assert_eq!(draw(&desk, "--model {sd3/model} --transformer transformer.gguf --t5xxl t5.gguf"), expected);
    let [one, again] = ["one.safetensors", "again.safetensors"].map(|name| fs::read(desk.path(name)).unwrap());
    assert!(one == again);
    // What a folder has beside its weights is what the model's own folder says.
    for file in ["transformer/config.json", "vae/config.json", "text_encoder_3/config.json", "model_index.json"] {
        let read = |folder: &std::path::Path| -> serde_json::Value {
            serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap()
        };
        let (found, original) = (read(&desk.path("folder")), read(&fixture("sd3/model")));
        for key in ["num_layers", "num_attention_heads", "pos_embed_max_size", "block_out_channels", "d_model", "vae"] {
            assert_eq!(found.get(key), original.get(key), "{file}: {key}");
        }
    }
    let stdout = desk.succeed("inspect two.gguf");
    assert!(stdout.contains("complete") && stdout.contains("official"), "{stdout}");
}

/// Measured: Q8_0 0.6, 1.2 and 2.8 apart, Q4_K (where rows are long enough, else Q8_0) 3.2, 3.2 and 4.5; f16 in bf16 0.8.
#[test]
fn models_in_blocks_draw_nearly_the_same_with_every_precision() {
    let desk = Desk::new();
    let draw = |model: &str, precision: &str, out: &str| {
        let size = "--width 64 --height 64 --steps 2 --seed 5";
        desk.succeed(&format!("generate apple --model {model} {size} --precision {precision} --out {out}"));
    };
    draw("{sd3/model}", "f32", "wide.png");
    for (dtype, bounds) in [("q8_0", [1.5, 3.0, 6.0]), ("q4_k", [7.0, 7.0, 9.0])] {
        desk.succeed(&format!("convert {{sd3/model}} --dtype {dtype} --out {dtype}.gguf"));
        for (precision, at_most) in ["f32", "bf16", "int8"].into_iter().zip(bounds) {
            let out = format!("{dtype}-{precision}.png");
            draw(&format!("{dtype}.gguf"), precision, &out);
            let mean = apart(&desk, "wide.png", &out);
            assert!(mean > 0.0 && mean < at_most, "{dtype} in {precision}: {mean} of 255 apart");
        }
    }
    let size = |name: &str| fs::metadata(desk.path(name)).unwrap().len();
    assert!(size("q4_k.gguf") < size("q8_0.gguf"));
    let said = desk.fail("convert q8_0.gguf --out folder");
    assert!(said.contains("have no numbers of type Q8_0") && said.contains("hint: "), "{said}");
    assert!(!desk.path("folder").exists());
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
