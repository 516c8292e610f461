//! Wrong input gets one message that says what, where and what next; nothing half written is left.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use half::f16;

use crate::support::{Desk, failed, fixture, read, text, write};

/// The line fails, says each of `parts`, and leaves the folder as it was.
#[track_caller]
fn refused(desk: &Desk, line: &str, parts: &[&str]) {
    let before = desk.files();
    let stderr = desk.fail(line);
    for part in parts {
        assert!(stderr.contains(part), "{line}: no {part:?} in\n{stderr}");
    }
    assert_eq!(desk.files(), before, "{line}");
}

#[test]
fn settings_that_cannot_be_carried_out() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("folder")).unwrap();
    let line = |rest: &str| format!("generate a --model {{sd3/model}} --steps 1 --width 64 --height 48 {rest}");
    for (rest, parts) in [
        ("--out folder/x", &["neither a .png, .jpg or .webp file name nor a folder"][..]),
        ("--out no/such/x.png", &["no/such", "make it first"]),
        ("--out x.gif", &["NAME.png"]),
        ("--latents-out no/such/x.safetensors", &["--latents-out no/such/x.safetensors"]),
        ("--latents-in none.safetensors", &["none.safetensors", "does not exist"]),
        ("--latents-in folder", &["folder", "is a folder"]),
        ("--solver dpm", &["euler", "heun", "dpmpp_2m"]),
        ("--solver dopri5(7)", &["`7` is no tolerance", "dopri5(0.001)"]),
        ("--solver heun(0.1)", &["heun takes no tolerance"]),
        ("--schedule even", &["`even` is no schedule", "karras"]),
        ("--shift auto", &["dynamic"]),
        ("--precision f8", &["f32, bf16 or int8"]),
        ("--device tpu", &["cpu, vulkan, metal or cuda"]),
        ("--device cuda", &["no cuda support", "--features cuda"]),
        ("--compat comfyui", &["diffusers or stability"]),
        ("--guidance nan", &["--guidance"]),
        ("--guidance -2", &["--guidance -2"]),
        ("--shift inf", &["shift"]),
        ("--shift -1", &["shift"]),
        ("--t5-length 1000", &["8 to 512"]),
        ("--count 0", &["--count 0"]),
        ("--seed -2", &["--seed", "0 to 18446744073709551615", "random"]),
        ("--out absent/x", &["NAME.png", "absent/x/ to have the folder made"]),
        ("--stepz 3", &["--steps"]),
    ] {
        refused(&desk, &line(rest), parts);
    }
    let line = |rest: &str| format!("generate a --model {{sd3/model}} --width 64 --height 48 {rest}");
    for (rest, parts) in [
        ("--sigmas 1,0.5,0.7", &["0.7 comes after 0.5", "1,0.9,0.6,0.2"][..]),
        ("--sigmas 2,1", &["2 is no noise level"]),
        ("--sigmas 1,x", &["--sigmas"]),
        ("--sigmas 1,0.5 --steps 3", &["--sigmas", "--steps"]),
        ("--guidance 7,x", &["`7,x` is no guidance scale"]),
        ("--guidance 7,-1", &["--guidance -1"]),
        ("--guidance-start 0.7 --guidance-end 0.3", &["--guidance-start, --guidance-end", "0.7 to 0.3"]),
        ("--guidance-rescale 2", &["--guidance-rescale 2", "0 to 1"]),
        ("--apg-momentum 1", &["momentum 1", "--apg-momentum"]),
        ("--cfg-zero-star --apg-eta 1", &["--cfg-zero-star", "--apg-eta"]),
        ("--skip-layers 2", &["--skip-layers has 2", "blocks 0 to 1"]),
        ("--skip-layers 0 --slg-scale inf", &["the scale of --skip-layers is inf"]),
        ("--pag-layers 0,7", &["--pag-layers has 7", "blocks 0 to 1"]),
        ("--pag-layers some", &["--pag-layers"]),
        ("--cache-mode some", &["first-block or taylor"]),
        ("--cache-mode taylor --cache-threshold -1", &["--cache-threshold -1"]),
        ("--cache-threshold 0.1", &["--cache-mode"]),
    ] {
        refused(&desk, &line(rest), parts);
    }
    for (line, parts) in [
        ("generate a --model {sd3/model} --width 100", &["96 and 112"][..]),
        ("generate a --model {sd3/model} --height 4096", &["longest side is 384"]),
        ("generate a --model {sd3/model} --steps 0", &["--steps 0"]),
        ("generate --model {sd3/model}", &["no prompt given", "hint"]),
        ("generate a", &["no model given", "--model PATH", "models/sprites"]),
        ("generate a --model some/model", &["no file or folder `some/model`", "HF_HUB_OFFLINE is set"]),
    ] {
        refused(&desk, line, parts);
    }
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let desk = Desk::new();
    let official = std::fs::read(fixture("sd3/official.safetensors")).unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(desk.path(name), bytes).unwrap();
    put("empty.safetensors", b"");
    put("short.safetensors", b"1234");
    put("random.safetensors", &(0..5000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>());
    put("truncated.safetensors", &official[..official.len() / 2]);
    put("lying.safetensors", &[&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    put("model.gguf", b"GGUF\x03\0\0\0");
    std::fs::create_dir(desk.path("nothing")).unwrap();
    for (name, part) in [
        ("none.safetensors", "does not exist"),
        ("empty.safetensors", "empty.safetensors"),
        ("short.safetensors", "short.safetensors"),
        ("random.safetensors", "random.safetensors"),
        ("truncated.safetensors", "truncated.safetensors"),
        ("lying.safetensors", "lying.safetensors"),
        ("model.gguf", "GGUF"),
        ("nothing", "nothing"),
    ] {
        refused(&desk, &format!("generate a --model {name} --out x.png"), &[part, "hint"]);
        refused(&desk, &format!("inspect {name}"), &[part, "hint"]);
    }
    refused(&desk, "generate a --model {sd3/model} --vae {sd3/model/text_encoder/model.safetensors}", &["--vae"]);
    refused(&desk, "generate a --model {sd3/model} --t5xxl {sd3/model}", &["no .safetensors or .gguf file", "hint"]);
}

#[test]
fn weights_that_are_not_finite_and_tensors_that_do_not_fit() {
    let desk = Desk::new();
    let official = read(&fixture("sd3/official.safetensors"));
    let name = "model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight";

    let mut damaged = official.clone();
    damaged.get_mut(name).unwrap().bytes[10..12].copy_from_slice(&f16::NAN.to_le_bytes());
    write(&desk.path("x.safetensors"), &damaged);
    refused(&desk, "generate a --model x.safetensors", &["joint_blocks.0.x_block.mlp.fc1.weight", "damaged"]);

    let mut missing = official.clone();
    missing.remove(name);
    write(&desk.path("x.safetensors"), &missing);
    refused(&desk, "generate a --model x.safetensors", &["joint_blocks.0.x_block.mlp.fc1.weight", "missing"]);

    let mut reshaped = official.clone();
    reshaped.get_mut(name).unwrap().shape.reverse();
    write(&desk.path("x.safetensors"), &reshaped);
    refused(&desk, "generate a --model x.safetensors", &["joint_blocks.0.x_block.mlp.fc1.weight", "512"]);

    let mut more = official;
    more.insert("model.diffusion_model.joint_blocks.0.x_block.extra".into(), more[name].clone());
    write(&desk.path("x.safetensors"), &more);
    refused(&desk, "generate a --model x.safetensors", &["joint_blocks.0.x_block.extra", "unexpected"]);
}

#[test]
fn settings_are_judged_before_the_weights_are_read() {
    let desk = Desk::new();
    let mut official = read(&fixture("sd3/official.safetensors"));
    // A file whose values were read would be refused as damaged.
    let name = "model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight";
    official.get_mut(name).unwrap().bytes[10..12].copy_from_slice(&f16::NAN.to_le_bytes());
    write(&desk.path("x.safetensors"), &official);
    for (rest, part) in [
        ("", "damaged"),
        ("--steps 0", "--steps 0"),
        ("--width 4096", "longest side is 384"),
        ("--height 100", "96 and 112"),
        ("--guidance -1", "--guidance -1"),
        ("--shift 0", "shift"),
    ] {
        refused(&desk, &format!("generate a --model x.safetensors {rest}"), &[part]);
    }
}

#[test]
fn prompts_that_are_unusual_draw() {
    let desk = Desk::new();
    for prompt in ["", " ", "\u{0}\u{7f}", "🍎 苹果 e\u{301}", &"very ".repeat(4000), "<|endoftext|> </s> <pad>"] {
        let mut command = desk.command("generate --model {empty/model} --width 32 --height 32 --steps 1 --out a.png");
        // A command line cannot hold a NUL; everything else goes through.
        let output = command.arg("--").arg(prompt.replace('\0', "")).output().unwrap();
        assert!(output.status.success(), "{prompt:?}: {}", text(&output.stderr));
    }
}

#[cfg(unix)]
#[test]
fn invalid_utf8_on_the_command_line() {
    use std::os::unix::ffi::OsStrExt;
    let desk = Desk::new();
    let mut command = desk.command("generate --model {empty/model}");
    let output = command.arg(std::ffi::OsStr::from_bytes(b"caf\xe9")).output().unwrap();
    assert!(failed("invalid UTF-8", &output).contains("UTF-8"));
    assert!(desk.files().is_empty());
}

#[cfg(unix)]
#[test]
fn a_picture_that_cannot_be_stored_leaves_the_earlier_ones_and_their_latents() {
    let desk = Desk::new();
    let line = "generate a --count 30 --model {sd3/model} --width 64 --height 48 --steps 4 --out x.png \
                --latents-out x.safetensors";
    let mut child = desk.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let first = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    assert_eq!(first, "x-1.png");
    // The name is taken while the run is on: before it, that would be refused.
    std::fs::create_dir(desk.path("x-30.png")).unwrap();
    let stderr = failed(line, &child.wait_with_output().unwrap());
    assert!(stderr.contains("cannot write `x-30.png`"), "{stderr}");
    assert_eq!(desk.files().len(), 29 + 2, "{:?}", desk.files());
    assert_eq!(read(&desk.path("x.safetensors")).remove("latents").unwrap().shape, [29, 16, 6, 8]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_no_half_written_picture() {
    let desk = Desk::new();
    // A limit on the size of files stands for a full disk: every user may set it.
    let script = format!(
        "trap '' XFSZ; ulimit -f 1; exec {} generate a --model {} --width 64 --height 48 --steps 1 --out a.png",
        env!("CARGO_BIN_EXE_rectiflow"),
        fixture("sd3/model").display()
    );
    let output = Command::new("bash").arg("-c").arg(script).current_dir(desk.folder.path()).output().unwrap();
    let stderr = failed("full disk", &output);
    assert!(stderr.contains("cannot write `a.png`") && stderr.contains("hint"), "{stderr}");
    assert!(desk.files().is_empty(), "{:?}", desk.files());
}

/// Starts a line, sends it Ctrl-C as soon as `stderr` has a line that starts with `at`; returns status and stderr.
#[cfg(unix)]
fn interrupted_at(desk: &Desk, line: &str, at: &str) -> (Option<i32>, String) {
    let mut child = desk.command(line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.starts_with(at) {
            let id = child.id().to_string();
            assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        }
        said.extend([&line, "\n"]);
    }
    (child.wait().unwrap().code(), said)
}

#[cfg(unix)]
#[test]
fn ctrl_c_in_the_last_decode_stores_the_picture_and_is_not_a_success() {
    let desk = Desk::new();
    let line =
        "generate a --model {sd3/model} --width 384 --height 384 --steps 1 --out x.png --latents-out x.safetensors";
    let (status, stderr) = interrupted_at(&desk, line, "denoise: step 1/1");
    assert_eq!(status, Some(130), "{stderr}");
    assert!(stderr.contains("interrupted: "), "{stderr}");
    // The signal may come before the decoder starts; then there is no picture, and that is what is said.
    let stored = if stderr.contains("interrupted: 1 of 1") { &["x.png", "x.safetensors"][..] } else { &[] };
    assert_eq!(desk.files(), stored, "{stderr}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_while_texts_are_encoded_ends_the_run_before_a_step_is_taken() {
    let desk = Desk::new();
    let prompts: String = (0..150).map(|i| format!("word{i} ")).collect();
    let line = format!("generate {prompts} --model {{sd3/model}} --width 64 --height 48 --steps 1 --t5-length 512");
    // The last line before the encoders start.
    let (status, stderr) = interrupted_at(&desk, &line, "64x48");
    assert_eq!(status, Some(130), "{stderr}");
    assert!(stderr.contains("interrupted: 0 of 150 pictures") && !stderr.contains("denoise"), "{stderr}");
    assert!(desk.files().is_empty(), "{:?}", desk.files());
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_finished_and_leaves_nothing_half_written() {
    let desk = Desk::new();
    let line = "generate a --count 100 --model {sd3/model} --width 64 --height 48 --steps 20 --out x.png \
                --latents-out x.safetensors";
    let mut child = desk.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let first = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    assert_eq!(first, "x-1.png");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("of 100 pictures are finished"), "{stderr}");
    let mut files = desk.files();
    let latents = files.pop().filter(|name| name == "x.safetensors");
    assert!(latents.is_some() && files.contains(&"x-1.png".to_string()), "{files:?}");
    assert!(files.iter().all(|name| name.ends_with(".png")), "{files:?}");
    let stored = read(&desk.path("x.safetensors")).remove("latents").unwrap().shape;
    assert_eq!(stored, [files.len(), 16, 6, 8], "latents of every finished picture");
}
