//! Nothing that is written takes the place of something else, and what cannot be written is said, early if it can be.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use crate::support::{Desk, copy_folder, failed, fixture, text};

const TINY: &str = "--model {empty/model} --width 32 --height 32 --steps 1";

/// The line is refused before a step is taken, says each of `parts`, and leaves every file as it was.
#[track_caller]
fn refused(desk: &Desk, line: &str, parts: &[&str]) {
    let contents = || desk.files().iter().map(|name| std::fs::read(desk.path(name)).ok()).collect::<Vec<_>>();
    let before = (desk.files(), contents());
    let stderr = desk.fail(line);
    for part in parts.iter().chain(&["hint: "]) {
        assert!(stderr.contains(part), "{line}: no {part:?} in\n{stderr}");
    }
    assert!(!stderr.contains("denoise"), "{line}: found only after drawing\n{stderr}");
    assert!((desk.files(), contents()) == before, "{line}: files were changed");
}

#[test]
fn an_output_that_is_an_input_is_refused() {
    let desk = Desk::new();
    copy_folder(&fixture("empty/model"), &desk.path("model"));
    let vae = "model/vae/diffusion_pytorch_model.safetensors";
    std::fs::copy(desk.path(vae), desk.path("vae.safetensors")).unwrap();
    std::fs::copy(fixture("sd3/official.safetensors"), desk.path("off.safetensors")).unwrap();
    std::fs::hard_link(desk.path("off.safetensors"), desk.path("off.png")).unwrap();
    for (line, parts) in [
        ("-m off.safetensors -o x.png --latents-out off.safetensors", ["--latents-out", "`--model` reads"]),
        ("-m off.png -o ./off.png", ["--out", "`--model` reads"]),
        ("-m off.safetensors -o off.png", ["--out", "`--model` reads"]),
        (
            "-m model --vae vae.safetensors -o x.png --latents-out model/../vae.safetensors",
            ["--latents-out", "`--vae`"],
        ),
        (
            "-m model -o x.png --latents-out model/vae/diffusion_pytorch_model.safetensors",
            ["--latents-out", "`--model`"],
        ),
        ("-m model -o model/new.png", ["--out", "model/new.png"]),
        (
            "-m model --latents-in noise.safetensors -o x.png --latents-out ./noise.safetensors",
            ["--latents-out", "`--latents-in`"],
        ),
    ] {
        refused(&desk, &format!("generate a --steps 1 {line}"), &parts);
    }
    #[cfg(unix)]
    {
        std::fs::rename(desk.path(vae), desk.path("blob")).unwrap();
        std::os::unix::fs::symlink("../../blob", desk.path(vae)).unwrap();
        refused(&desk, "generate a --steps 1 -m model -o x.png --latents-out blob", &["--latents-out", "`--model`"]);
    }
}

#[test]
fn two_outputs_of_one_name_are_refused() {
    let desk = Desk::new();
    for line in [
        "-o same.png --latents-out same.png",
        "-o same.png --latents-out ./same.png",
        "--count 3 -o k.png --latents-out k-2.png",
        "--latents-out rectiflow-0.png",
        "-o new/ --latents-out new",
    ] {
        refused(&desk, &format!("generate a {TINY} {line}"), &["--latents-out", "both go to"]);
    }
    desk.succeed(&format!("generate a {TINY} --count 3 -o k.png --latents-out k-4.png"));
}

#[cfg(unix)]
#[test]
fn a_pipe_is_not_replaced_by_a_file() {
    let desk = Desk::new();
    for name in ["pipe", "pipe.png"] {
        assert!(Command::new("mkfifo").arg(desk.path(name)).status().unwrap().success());
    }
    let stays = |line: &str| {
        let stderr = desk.fail(&format!("generate a {TINY} {line}"));
        assert!(stderr.contains("device or a pipe") && !stderr.contains("denoise"), "{stderr}");
        assert!(["pipe", "pipe.png"].iter().all(|name| !desk.path(name).is_file()), "{line}");
    };
    stays("-o x.png --latents-out pipe");
    stays("-o pipe.png");
}

#[test]
fn numbered_names_that_were_not_given_replace_nothing() {
    let desk = Desk::new();
    for name in ["k-2.png", "k-3.png", "k-4.png"] {
        std::fs::write(desk.path(name), name).unwrap();
    }
    refused(&desk, &format!("generate a {TINY} --count 3 -o k.png"), &["`k-2.png`", "already there"]);
    desk.succeed(&format!("generate a {TINY} -o k-2.png"));
    assert_ne!(std::fs::read(desk.path("k-2.png")).unwrap(), b"k-2.png", "a name that was given is replaced");
}

#[test]
fn names_that_cannot_be_are_found_before_drawing() {
    let desk = Desk::new();
    let long = "x".repeat(252);
    std::fs::create_dir(desk.path("o")).unwrap();
    std::fs::write(desk.path("o/x.png"), "").unwrap();
    for (line, part) in [
        (format!("-o {long}.png"), "no name for a file"),
        (format!("--count 10 -o {}.png", &long[3..]), "no name for a file"),
        (format!("-o x.png --latents-out {long}.safetensors"), "no name for a file"),
        (format!("-o new/{long}{long}/"), "no name for a file"),
        ("-o o/x.png/".into(), "is a file"),
        ("-o o/x.png/y/".into(), "is a file"),
        ("-o x.png --latents-out y.safetensors/".into(), "no name for a file"),
        ("-o x.png --latents-out y/.".into(), "no name for a file"),
    ] {
        refused(&desk, &format!("generate a {TINY} {line}"), &[part]);
    }
    // Names that may be, though they look like those above.
    for folder in ["new/o/", "new/../other/"] {
        let named = desk.succeed(&format!("generate a {TINY} -o {folder}"));
        assert!(desk.path(named.trim()).is_file(), "{named}");
    }
}

#[cfg(unix)]
#[test]
fn latents_that_cannot_be_stored_leave_the_pictures_named() {
    let desk = Desk::new();
    // A limit on the size of files that the pictures keep and the latents of all of them do not.
    let output = shell(
        &desk,
        "trap '' XFSZ; ulimit -f 16;",
        "generate a --count 10 --model {sd3/model} --width 64 --height 48 --steps 1 --out x.png --latents-out l",
        "",
    );
    let stderr = failed("latents", &output);
    assert_eq!(text(&output.stdout).lines().count(), 10, "{stderr}");
    assert!(
        stderr.contains("the latents cannot be stored in `l`") && stderr.contains("another `--latents-out`"),
        "{stderr}"
    );
    assert!(!stderr.contains("`--out`") && desk.files().len() == 10, "{stderr}");
}

#[cfg(target_os = "linux")]
#[test]
fn lost_data_is_an_error_and_a_reader_that_went_away_is_not() {
    let desk = Desk::new();
    let verify = "verify --model {empty/model} --golden {empty/golden.safetensors} --json";
    let draw = format!("generate a {TINY} -o a.png");
    for line in [verify, "inspect {empty/model}", &draw] {
        let output = shell(&desk, "", line, ">/dev/full");
        let stderr = failed(line, &output);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("standard output") && stderr.contains("hint: "), "{stderr}");
        let output = shell(&desk, "set -o pipefail;", line, "| true");
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
    }
    assert_eq!(desk.files(), ["a.png"], "the picture is stored all the same");
}

#[cfg(unix)]
#[test]
fn a_run_that_nohup_started_outlives_its_terminal() {
    let desk = Desk::new();
    let line = "generate a --count 3 --model {sd3/model} --width 64 --height 48 --steps 20 -o x.png";
    let mut child = in_shell(&desk, "trap '' HUP; exec", line, "").stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(stdout.next().unwrap().unwrap(), "x-1.png");
    assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(stdout.map(Result::unwrap).collect::<Vec<_>>(), ["x-2.png", "x-3.png"]);
    assert!(child.wait().unwrap().success());
}

#[cfg(unix)]
#[test]
fn names_send_the_terminal_no_commands() {
    let desk = Desk::new();
    std::fs::copy(fixture("sd3/official.safetensors"), desk.path("m\x1b[31m.safetensors")).unwrap();
    let clip = "--clip-l {sd3/model/text_encoder/model.safetensors}";
    for (line, part) in [
        (format!("generate a {TINY} -o o\x1b[31m.png"), "o\u{fffd}[31m.png"),
        (format!("generate a {TINY} -o no\x1b[31m/x.png"), "no\u{fffd}[31m"),
        (format!("generate a {TINY} -o o\x1b[31m.gif"), "o\u{fffd}[31m.gif"),
        (format!("generate a {TINY} -o x.png --latents-in l\u{9b}31m"), "l\u{fffd}31m"),
        (format!("generate a --model m\x1b[31m.safetensors {clip} --width 17"), "--width 17"),
        ("inspect m\x1b[31m.safetensors".into(), "m\u{fffd}[31m.safetensors"),
        ("verify --model {empty/model} --golden m\x1b[31m.safetensors".into(), "m\u{fffd}[31m.safetensors"),
    ] {
        let output = desk.run(&line);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains(part), "{said:?}");
        assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{said:?}");
    }
}

#[test]
fn guidance_beyond_all_use_is_named_where_values_are_not_finite() {
    let desk = Desk::new();
    let stderr =
        desk.fail("generate a --model {sd3/model} --width 64 --height 48 --steps 2 -o a.png --guidance 3.4e38");
    assert!(stderr.contains("not finite") && stderr.contains("lower `--guidance`"), "{stderr}");
    assert!(desk.files().is_empty());
}

#[test]
fn pictures_and_seeds_that_cannot_be_counted_are_refused() {
    let desk = Desk::new();
    let line = |rest: &str| format!("generate a b {TINY} -o x.png {rest}");
    refused(&desk, &line("--seed 18446744073709551615"), &["--seed", "at most 18446744073709551614"]);
    refused(&desk, &line("--count 9223372036854775808"), &["--count 9223372036854775808"]);
    assert_eq!(desk.succeed(&line("--seed 18446744073709551614")), "x-1.png\nx-2.png\n");
}

/// A line in a shell, with words before and after it.
#[cfg(unix)]
fn in_shell(desk: &Desk, before: &str, line: &str, after: &str) -> Command {
    let ours = desk.command(line);
    let mut command = Command::new("bash");
    command.current_dir(desk.folder.path()).env("RAYON_NUM_THREADS", "1");
    command.args(["-c", &format!("{before} \"$0\" \"$@\" {after}")]).arg(ours.get_program()).args(ours.get_args());
    command
}

#[cfg(unix)]
fn shell(desk: &Desk, before: &str, line: &str, after: &str) -> Output {
    in_shell(desk, before, line, after).output().unwrap()
}
