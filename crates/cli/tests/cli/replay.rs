//! Pictures made again from what their files say.

use std::path::Path;

use crate::support::{Desk, QUICK, fixture, pixels, png, read, settings, text, write, write_png};

const SMALL: &str = "--width 64 --height 48 --steps 2";

/// The settings in a PNG, with some changed, in a PNG of the same pixels.
fn changed(desk: &Desk, from: &str, to: &str, change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let (rgb, _) = png(&desk.path(from));
    let mut all = settings(&desk.path(from)).as_object().unwrap().clone();
    change(&mut all);
    let size = image::image_dimensions(desk.path(from)).unwrap();
    write_png(&desk.path(to), size, &rgb, &[("rectiflow", &serde_json::Value::Object(all).to_string())]);
}

/// Exit status and stdout of a replay.
fn replay(desk: &Desk, line: &str) -> (i32, String, String) {
    let output = desk.run(&format!("replay {line}"));
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn twenty_pictures_are_drawn_again_to_the_bit() {
    let desk = Desk::new();
    let (three, two) = ("--model {sd3/model}", "--model {sd35m/model}");
    for (number, (model, how)) in [
        (QUICK, "--steps 2"),
        (QUICK, "--steps 2 --seed 18446744073709551615 -n blurry --guidance 4.5"),
        (QUICK, "--sigmas 1,0.857692,0.1 --solver heun"),
        (QUICK, "--steps 3 --schedule karras --solver dpmpp_2m_sde --seed 7"),
        (QUICK, "--compat stability --steps 2"),
        (three, "--steps 2 --prompt-clip pear --prompt-t5 plum"),
        (three, "--steps 2 --precision bf16 --t5-length 77"),
        (QUICK, "--steps 2 --precision int8"),
        (QUICK, "--steps 2 --shift dynamic --schedule beta --vae-tiling on"),
        ("--model {sd3/official.safetensors}", "--steps 2 --guidance 7,5"),
        (QUICK, "--steps 2 --solver dopri5(0.05)"),
        (QUICK, "--steps 3 --solver euler_a --guidance-rescale 0.7"),
        (QUICK, "--steps 3 --solver uni_pc --cfg-zero-star"),
        (QUICK, "--steps 2 --apg-eta 0.2 --apg-momentum -0.5 --apg-norm-threshold 2.5"),
        (two, "--steps 4 --skip-layers 0 --skip-layer-end 0.9 --pag-layers 0,1"),
        (two, "--steps 5 --cache-mode taylor --cache-threshold 0.3"),
        (QUICK, "--steps 3 --solver lcm --guidance 1 --shift 1.15"),
        (QUICK, "--steps 1 --seed 3"),
        (QUICK, "--steps 2 --solver deis --schedule linear-quadratic"),
        (QUICK, "--steps 2 --guidance-start 0.1 --guidance-end 0.6"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{number}.{}", ["png", "jpg", "webp"][number % 3]);
        let size = if number % 2 == 0 { "--width 32 --height 48" } else { "--width 64 --height 32" };
        let quality = if name.ends_with("jpg") { "--quality 80" } else { "" };
        desk.succeed(&format!("generate apple {model} {size} {how} {quality} --out {name}"));
        let (status, stdout, stderr) = replay(&desk, &format!("{name} {model}"));
        assert_eq!(status, 0, "{how}: {stdout}\n{stderr}");
        assert!(stdout.starts_with(&format!("equal: `{name}`, all ")), "{how}: {stdout}");
        assert!(!stderr.contains("makes no difference"), "{how}: {stderr}");
    }
}

#[test]
fn what_differs_is_named_and_has_a_status_of_its_own() {
    let desk = Desk::new();
    desk.succeed(&format!("generate apple --model {{sd3/official.safetensors}} {SMALL} --out a.png"));

    let mut tensors = read(&fixture("sd3/official.safetensors"));
    tensors.get_mut("model.diffusion_model.final_layer.linear.weight").unwrap().bytes.fill(0);
    write(&desk.path("other.safetensors"), &tensors);
    let (status, stdout, stderr) = replay(&desk, "a.png --model other.safetensors --out b.png");
    assert_eq!(status, 1, "{stderr}");
    assert!(stdout.starts_with("different: `a.png`, ") && stdout.contains("hashes.transformer: "), "{stdout}");
    assert!(stderr.contains("`official.safetensors`") && stderr.contains("is another"), "{stderr}");
    assert!(stdout.contains("model: \"official.safetensors\" then, \"other.safetensors\" now"), "{stdout}");
    // What was drawn now is a picture like any other.
    assert_eq!(replay(&desk, "b.png --model other.safetensors").0, 0);

    // Of another version, and of another processor: that is said, whether it makes a difference or not.
    changed(&desk, "a.png", "old.png", |all| {
        all.insert("software".into(), "rectiflow 0.0.1".into());
        all.insert("instructions".into(), "sse2".into());
    });
    let (status, _, stderr) = replay(&desk, "old.png --model {sd3/official.safetensors}");
    assert_eq!(status, 0, "{stderr}");
    assert!(stderr.contains("no difference to the picture: instructions: \"sse2\" then, "), "{stderr}");
    assert!(stderr.contains("software: \"rectiflow 0.0.1\" then, \"rectiflow "), "{stderr}");

    // A pixel that somebody painted.
    let (mut rgb, texts) = png(&desk.path("a.png"));
    rgb[100] ^= 8;
    let texts: Vec<(&str, &str)> = texts.iter().map(|(keyword, text)| (keyword.as_str(), text.as_str())).collect();
    write_png(&desk.path("painted.png"), (64, 48), &rgb, &texts);
    let (status, stdout, _) = replay(&desk, "painted.png --model {sd3/official.safetensors}");
    assert_eq!(status, 1);
    assert!(stdout.contains("1 of 3072 pixels, by up to 8 of 255\nno setting differs"), "{stdout}");
}

#[test]
fn other_instructions_are_named() {
    let desk = Desk::new();
    desk.succeed(&format!("generate apple {QUICK} {SMALL} --precision bf16 --out a.png"));
    let output = desk.command(&format!("replay a.png {QUICK}")).env("RECTIFLOW_ISA", "portable").output().unwrap();
    let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
    let was = settings(&desk.path("a.png"))["instructions"].clone();
    assert!(
        was == "portable" || output.status.success() || all.contains(&format!("hint: RECTIFLOW_ISA={was}")),
        "{all}"
    );
    assert!(was == "portable" || all.contains(&format!("instructions: {was} then, \"portable\" now")), "{all}");
    assert!(matches!(output.status.code(), Some(0 | 1)), "{all}");
}

#[test]
fn without_a_model_only_the_programs_own_is_taken() {
    let desk = Desk::new();
    desk.succeed(&format!("generate apple --model {{sd3/model}} {SMALL} --out a.png"));
    let stderr = desk.fail("replay a.png");
    // The program's own model may be there or not; it is not taken for the picture's.
    assert!(stderr.contains("was drawn by `model` (SHA-256 of its transformer `"), "{stderr}");
    assert!(stderr.contains("hint: give that model with `--model PATH`"), "{stderr}");
    // A picture that names a path gets it read no more than another.
    changed(&desk, "a.png", "path.png", |all| {
        all.insert("model".into(), fixture("sd3/model").display().to_string().into());
    });
    assert!(desk.fail("replay path.png").contains("--model") && !desk.path("b.png").exists());
}

#[test]
fn latents_of_a_file_are_asked_for_and_told_from_others() {
    let desk = Desk::new();
    let draw = format!("generate a b {QUICK} --steps 1 --width 64 --height 48");
    desk.succeed(&format!("{draw} --seed 5 --out s.png --latents-out noise.safetensors"));
    desk.succeed(&format!("{draw} --latents-in noise.safetensors --out x.png"));
    assert!(desk.fail(&format!("replay x-2.png {QUICK}")).contains("--latents-in"));
    assert_eq!(replay(&desk, &format!("x-2.png {QUICK} --latents-in noise.safetensors")).0, 0);
    desk.succeed(&format!("{draw} --seed 8 --out t.png --latents-out other.safetensors"));
    let stderr = desk.fail(&format!("replay x-2.png {QUICK} --latents-in other.safetensors"));
    assert!(stderr.contains("none of the 2 latents"), "{stderr}");
    assert!(desk.fail(&format!("replay s-1.png {QUICK} --latents-in noise.safetensors")).contains("leave"));
}

#[test]
fn pictures_of_other_programs_say_what_can_be_taken_over() {
    let desk = Desk::new();
    let words = "it's a cat; $(touch evil)\nNegative prompt: dog\nSteps: 20, Sampler: DPM++ 2M, CFG scale: 7, Seed: 42, \
                 Size: 64x48, Model hash: 0123456789, Clip skip: 2, Version: v1.10.1";
    write_png(&desk.path("a.png"), (64, 48), &[9; 64 * 48 * 3], &[("parameters", words)]);
    let (status, stdout, stderr) = replay(&desk, "a.png --model {sd3/model}");
    assert_eq!(status, 1, "{stderr}");
    let expected = "rectiflow generate --prompt 'it'\\''s a cat; $(touch evil)' --negative dog --steps=20 \
                    --solver=dpmpp_2m --guidance=7 --seed=42 --width=64 --height=48 --model MODEL\n";
    assert_eq!(stdout, expected);
    assert!(stderr.contains("nothing is compared") && stderr.contains("`Clip skip` `2`"), "{stderr}");
    assert!(!stdout.contains("equal"));
}

#[test]
fn files_that_are_no_pictures_of_ours_are_refused() {
    let desk = Desk::new();
    desk.succeed(&format!("generate apple {QUICK} {SMALL} --out a.png"));
    let refused = |name: &str, part: &str| {
        let output = desk.run(&format!("replay {name} {QUICK}"));
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {stderr}");
        assert!(stderr.contains(part) && stderr.contains("hint: "), "{name}: {stderr}");
        assert!(!stderr.contains("denoise"), "{name}: {stderr}");
    };
    std::fs::write(desk.path("text.png"), "no picture").unwrap();
    std::fs::write(desk.path("short.png"), &std::fs::read(desk.path("a.png")).unwrap()[..60]).unwrap();
    write_png(&desk.path("plain.png"), (8, 8), &[0; 192], &[]);
    write_png(&desk.path("words.png"), (8, 8), &[0; 192], &[("rectiflow", "no JSON")]);
    let mut bomb = png::Encoder::new(std::fs::File::create(desk.path("bomb.png")).unwrap(), 1, 1);
    bomb.add_ztxt_chunk("rectiflow".into(), "[".repeat(32 << 20)).unwrap();
    bomb.write_header().unwrap().write_image_data(&[0]).unwrap();
    for (name, part) in [
        ("text.png", "no PNG, JPEG or WebP"),
        ("short.png", "damaged"),
        ("plain.png", "does not say how it was made"),
        ("words.png", "not those of a picture"),
        ("bomb.png", "longer than 1024 KB"),
    ] {
        refused(name, part);
    }
    let with = |key: &str, value: serde_json::Value| {
        changed(&desk, "a.png", "odd.png", |all| {
            all.insert(key.into(), value);
        });
    };
    for (key, value, part) in [
        ("run", serde_json::json!("rm -rf /"), "unknown field"),
        ("steps", serde_json::json!(4_000_000_000_u64), "only take time"),
        ("width", serde_json::json!(u64::MAX), "longest side is "),
        ("width", serde_json::json!(128), "is 64x48, and its settings say 128x48"),
        ("width", serde_json::json!(-64), "invalid value"),
        ("solver", serde_json::json!("\u{1b}]0;x\u{7}"), "is not a solver"),
        ("device", serde_json::json!("../../dev/sda"), "its setting `device`"),
        ("precision", serde_json::json!("f7"), "is not a precision"),
        (
            "hindered",
            serde_json::json!([{"how": "skipped_blocks", "blocks": [99], "scale": 1.0, "window": [0.0, 1.0]}]),
            "has 99",
        ),
        ("t5_length", serde_json::json!(1_000_000), "8 to 512"),
        ("seed", serde_json::json!(1.5), "invalid type"),
    ] {
        with(key, value);
        refused("odd.png", part);
    }
    let error = desk.fail(&format!("replay a.png {QUICK} --out a.png"));
    assert!(error.contains("`PICTURE` reads"), "{error}");
    assert!(desk.fail("replay absent.png").contains("cannot be made again"));
}

#[test]
fn a_jpeg_that_another_program_made_of_a_png_is_not_compared() {
    let desk = Desk::new();
    desk.succeed(&format!("generate apple {QUICK} {SMALL} --out a.webp"));
    // As a converter does: other pixels, the same fields.
    let file = std::fs::read(desk.path("a.webp")).unwrap();
    let start = file.windows(4).position(|four| four == b"EXIF").unwrap();
    let length = u32::from_le_bytes(file[start + 4..start + 8].try_into().unwrap()) as usize;
    let fields = file[start + 8..start + 8 + length].to_vec();
    let path = desk.path("a.jpg");
    convert(&desk.path("a.webp"), &path, fields);
    let stderr = desk.fail(&format!("replay a.jpg {QUICK}"));
    assert!(stderr.contains("another program made it a JPEG"), "{stderr}");
}

fn convert(from: &Path, to: &Path, fields: Vec<u8>) {
    use image::ImageEncoder;
    let (width, height) = image::image_dimensions(from).unwrap();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new(std::fs::File::create(to).unwrap());
    encoder.set_exif_metadata(fields).unwrap();
    encoder.write_image(&pixels(from), width, height, image::ExtendedColorType::Rgb8).unwrap();
}
