//! In which files pictures are stored, and what is in them.

use rectiflow_weights::sha256_of_file;

use crate::support::{Desk, QUICK, fixture, pixels, png, settings, text};

/// What most of these draw.
fn small() -> String {
    format!("{QUICK} --width 64 --height 48 --steps 1")
}

#[test]
fn the_name_decides_the_format_and_lossless_ones_keep_every_pixel() {
    let desk = Desk::new();
    for name in ["a.png", "b.webp", "c.jpg", "d.JPEG"] {
        assert_eq!(desk.succeed(&format!("generate apple {} --out {name}", small())), format!("{name}\n"));
    }
    let read = |name: &str| std::fs::read(desk.path(name)).unwrap();
    assert!(read("a.png").starts_with(b"\x89PNG") && &read("b.webp")[8..12] == b"WEBP");
    assert!(read("c.jpg").starts_with(&[0xff, 0xd8]) && read("d.JPEG").starts_with(&[0xff, 0xd8]));
    let [png, webp] = ["a.png", "b.webp"].map(|name| pixels(&desk.path(name)));
    assert_eq!(png, webp);
    let jpeg = image::load_from_memory(&read("c.jpg")).unwrap().into_rgb8().into_raw();
    assert!(jpeg != png && jpeg.iter().zip(&png).all(|(a, b)| a.abs_diff(*b) < 60));
    desk.succeed(&format!("generate apple {} --out e.jpg --quality 30", small()));
    assert!(read("e.jpg").len() < read("c.jpg").len());
    assert_eq!(desk.files(), ["a.png", "b.webp", "c.jpg", "d.JPEG", "e.jpg"], "nothing half written is left");
}

#[test]
fn pictures_of_every_format_get_numbers_and_replace_nothing() {
    let desk = Desk::new();
    let draw = |more: &str| desk.succeed(&format!("generate a {} --count 2 {more}", small()));
    assert_eq!(draw("--out x.jpg"), "x-1.jpg\nx-2.jpg\n");
    assert_eq!(draw("--format webp --out new/"), "new/rectiflow-0.webp\nnew/rectiflow-1.webp\n");
    assert_eq!(draw("--format jpg --out new/"), "new/rectiflow-0.jpg\nnew/rectiflow-1.jpg\n");
    assert_eq!(draw("--format webp --out new/"), "new/rectiflow-0-1.webp\nnew/rectiflow-1-1.webp\n");
    for (more, part) in [
        ("--count 2 --out x.jpg", "already there"),
        ("--out x.gif", "neither a .png, .jpg or .webp file name"),
        ("--out x.png --format webp", "--out names a PNG, and --format asks for a WebP"),
        ("--out x.png --quality 80", "--quality is for JPEG"),
        ("--out x.jpg --quality 0", "1..=100"),
        ("--format bmp", "png, jpeg or webp"),
        ("--out x.webp --latents-out x.webp", "both go to"),
    ] {
        let stderr = desk.fail(&format!("generate a {} {more}", small()));
        assert!(stderr.contains(part) && !stderr.contains("denoise"), "{more}: {stderr}");
    }
}

#[test]
fn a_prompt_that_a_jpeg_has_no_room_for_is_refused_before_drawing() {
    let desk = Desk::new();
    let prompt = "word ".repeat(8_000);
    let run = |name: &str| {
        desk.command(&format!("generate {} --out {name}", small())).args(["--prompt", &prompt]).output().unwrap()
    };
    let refused = run("x.jpg");
    let stderr = text(&refused.stderr);
    assert!(!refused.status.success() && stderr.contains("a JPEG has room for 65527"), "{stderr}");
    assert!(!stderr.contains("denoise") && !desk.path("x.jpg").exists(), "{stderr}");
    assert!(run("x.webp").status.success());
}

#[test]
fn a_picture_names_its_models_files_by_their_digests() {
    let desk = Desk::new();
    desk.succeed("generate apple --model {sd3/model} --width 64 --height 48 --steps 1 --out a.png");
    let (_, texts) = png(&desk.path("a.png"));
    let hashes = settings(&desk.path("a.png"))["hashes"].clone();
    for (name, part) in [
        ("transformer", "transformer/diffusion_pytorch_model.safetensors"),
        ("vae", "vae/diffusion_pytorch_model.safetensors"),
        ("clip_l", "text_encoder/model.safetensors"),
        ("clip_g", "text_encoder_2/model.safetensors"),
        ("t5", "text_encoder_3/model.safetensors"),
    ] {
        assert_eq!(hashes[name], sha256_of_file(&fixture("sd3/model").join(part)).unwrap(), "{name}");
    }
    assert_eq!(hashes["configuration"].as_str().unwrap().len(), 64);
    let short = &hashes["transformer"].as_str().unwrap()[..10];
    assert!(texts[0].1.contains(&format!("Model hash: {short}, Model: model, ")), "{}", texts[0].1);

    // One file of all parts is the digest of each.
    desk.succeed("generate a --model {sd3/official.safetensors} --width 64 --height 48 --steps 1 --out b.png");
    let hashes = settings(&desk.path("b.png"))["hashes"].clone();
    let whole = sha256_of_file(&fixture("sd3/official.safetensors")).unwrap();
    assert!(["transformer", "vae"].iter().all(|part| hashes[part] == whole), "{hashes}");
}
