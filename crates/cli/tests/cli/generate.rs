use std::io::BufReader;
use std::path::Path;

use crate::support::{Desk, read, text};

const SMALL: &str = "--width 64 --height 48 --steps 2";

fn png(path: &Path) -> (Vec<u8>, Vec<(String, String)>) {
    let mut reader = png::Decoder::new(BufReader::new(std::fs::File::open(path).unwrap())).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let texts = reader.info().utf8_text.iter().map(|t| (t.keyword.clone(), t.get_text().unwrap())).collect();
    (pixels, texts)
}

#[test]
fn a_picture_holds_its_settings_and_the_same_seed_draws_it_again() {
    let desk = Desk::new();
    let line = format!("generate apple --model {{sd3/model}} {SMALL} -n blurry --guidance 4.5");
    assert_eq!(desk.succeed(&format!("{line} --seed 7 --out a.png")), "a.png\n");
    desk.succeed(&format!("{line} --seed 7 --out b.png"));
    desk.succeed(&format!("{line} --seed 8 --out c.png"));
    let [(a, texts), (b, _), (c, _)] = ["a.png", "b.png", "c.png"].map(|name| png(&desk.path(name)));
    assert_eq!(a.len(), 3 * 64 * 48);
    assert!(a == b && a != c);
    assert_eq!(texts[0].0, "parameters");
    assert!(texts[0].1.starts_with("apple\nNegative prompt: blurry\nSteps: 2, Sampler: euler"), "{}", texts[0].1);
    let settings: serde_json::Value = serde_json::from_str(&texts[1].1).unwrap();
    assert_eq!(
        (&settings["seed"], &settings["shift"], &settings["compat"]),
        (&7.into(), &3.0.into(), &"diffusers".into())
    );
    assert_eq!(desk.files(), ["a.png", "b.png", "c.png"], "nothing else is left behind");
}

#[test]
fn several_prompts_and_counts_have_seeds_in_a_row() {
    let desk = Desk::new();
    let stdout = desk.succeed(&format!("generate a b --count 2 --model {{sd3/model}} {SMALL} --seed 3 --out x.png"));
    assert_eq!(stdout, "x-1.png\nx-2.png\nx-3.png\nx-4.png\n");
    desk.succeed(&format!("generate b --model {{sd3/model}} {SMALL} --seed 6 --out y.png"));
    assert_eq!(png(&desk.path("x-4.png")).0, png(&desk.path("y.png")).0, "picture 4 is prompt b with seed 3 + 3");
}

#[test]
fn pictures_without_a_name_never_replace_one_another() {
    let desk = Desk::new();
    for name in ["./rectiflow-0.png\n", "./rectiflow-0-1.png\n"] {
        assert_eq!(desk.succeed("generate a --model {empty/model} --width 32 --height 32 --steps 1"), name);
    }
}

#[test]
fn latents_go_out_and_come_back_in() {
    let desk = Desk::new();
    let golden = crate::support::fixture("sd3/golden.safetensors");
    let noise = read(&golden).remove("noise").unwrap();
    crate::support::write(&desk.path("noise.safetensors"), &[("latents".to_string(), noise.clone())].into());
    // The golden noise is torch's for seed 0 of that fixture, so both ways start from the same.
    let seed = "--seed 0";
    desk.succeed(&format!("generate a --model {{sd3/model}} {SMALL} {seed} --out a.png --latents-out a.safetensors"));
    desk.succeed(
        "generate a --model {sd3/model} --steps 2 --latents-in noise.safetensors --out b.png --latents-out b.safetensors",
    );
    let [a, b] = ["a", "b"].map(|name| read(&desk.path(&format!("{name}.safetensors"))).remove("latents").unwrap());
    assert_eq!(a.shape, [1, 16, 6, 8]);
    assert_eq!(a, b);
    assert_ne!(a, noise);
}

#[test]
fn without_guidance_the_negative_prompt_is_not_asked() {
    let desk = Desk::new();
    let line = format!("generate a --model {{sd3/model}} {SMALL} --guidance 1");
    desk.succeed(&format!("{line} --out a.png"));
    desk.succeed(&format!("{line} --out b.png -n other"));
    assert_eq!(png(&desk.path("a.png")).0, png(&desk.path("b.png")).0);
}

#[test]
fn each_encoder_may_be_absent_and_that_is_said() {
    let desk = Desk::new();
    let parts = "--diffusion-model {sd3/model/transformer/diffusion_pytorch_model.safetensors} \
                 --vae {sd3/model/vae/diffusion_pytorch_model.safetensors}";
    let encoders = [
        "--clip-l {sd3/model/text_encoder/model.safetensors}",
        "--clip-g {sd3/model/text_encoder_2/model.safetensors}",
        "--t5xxl {sd3/model/text_encoder_3/model.safetensors}",
    ];
    for (left_out, name) in ["CLIP-L", "CLIP-G", "T5"].into_iter().enumerate() {
        let kept: Vec<_> = encoders.iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, e)| *e).collect();
        let output = desk.run(&format!("generate a {parts} {} {SMALL} --out a.png", kept.join(" ")));
        let stderr = text(&output.stderr);
        assert!(output.status.success() && stderr.contains(&format!("without {name}: zeros")), "{stderr}");
    }
    let stderr = desk.fail(&format!("generate a {parts} {SMALL}"));
    assert!(stderr.contains("no text encoder") && stderr.contains("--clip-l"), "{stderr}");
}

#[test]
fn what_is_cut_from_a_prompt_is_said_with_the_lost_words() {
    let desk = Desk::new();
    let mut command = desk.command(&format!("generate --model {{sd3/model}} {SMALL} --t5-length 77 --out a.png"));
    let prompt = format!("{}the last WORDS of all", "one two three ".repeat(30));
    let output = command.arg(prompt).output().unwrap();
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    for encoder in ["CLIP-L", "CLIP-G", "T5"] {
        let line = stderr.lines().find(|line| line.contains(&format!("warning: {encoder} does not see")));
        assert!(line.is_some_and(|line| line.contains("the last WORDS of all")), "{encoder}: {stderr}");
    }
}

#[test]
fn every_solver_and_both_references_draw_their_own_picture() {
    let desk = Desk::new();
    let mut pictures = Vec::new();
    for how in ["--solver euler", "--solver heun", "--solver dpmpp_2m", "--compat stability"] {
        desk.succeed(
            &format!("generate apple --model {{sd35m/model}} --width 64 --height 64 --steps 4 {how} --out a.png")
                .replace("--steps 4 --compat stability --steps 4", "--compat stability --steps 4"),
        );
        pictures.push(png(&desk.path("a.png")).0);
    }
    for i in 0..pictures.len() {
        assert!(pictures[..i].iter().all(|other| *other != pictures[i]), "picture {i} repeats an earlier one");
    }
}

#[test]
fn phases_are_printed_with_time_and_memory() {
    let desk = Desk::new();
    let output = desk.run(&format!("generate a --model {{sd3/model}} {SMALL} --out a.png"));
    let stderr = text(&output.stderr);
    for phase in ["open and check", "encode CLIP-L", "encode CLIP-G", "encode T5", "denoise", "decode", "write"] {
        let line = stderr.lines().find(|line| line.starts_with(phase) && line.contains(" s "));
        assert!(line.is_some(), "{phase}: {stderr}");
    }
    assert!(stderr.contains("denoise: step 2/2"), "plain lines where there is no terminal: {stderr}");
}
