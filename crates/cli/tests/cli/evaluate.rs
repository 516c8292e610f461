use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Desk, fixture, text};
use crate::training::{ROWS, Training};

/// A tiny model of random weights: its figures mean nothing, and every stage is gone through.
const LINE: &str = "evaluate --model {sd3/model} --size 64 --steps 1 --guidance 1 --t5-length 77 --prompts 2 --seeds 2 --scenes 4 \
                    --prompts-from {../assets/evaluation} --art {../assets/sprites}";

fn results(desk: &Desk, out: &str) -> Value {
    serde_json::from_slice(&std::fs::read(desk.path(out).join("results.json")).unwrap()).unwrap()
}

/// `part name of` of every figure, each of which must lie in its interval.
fn figures(results: &Value) -> BTreeSet<String> {
    let name = |figure: &Value| {
        let [value, low, high] =
            [&figure["value"], &figure["interval"][0], &figure["interval"][1]].map(|number| number.as_f64().unwrap());
        // Those of several prompts whose interval is moved to the middle of what resamples give.
        let is_moved = figure["part"] == "distance";
        assert!(is_moved || (low <= value + 1e-9 && value <= high + 1e-9), "{figure}");
        ["part", "name", "of"].map(|key| figure[key].as_str().unwrap()).join(" ")
    };
    results["figures"].as_array().unwrap().iter().map(name).collect()
}

fn files(folder: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_string_lossy().into_owned();
        match entry.is_dir() {
            true => all.extend(files(&entry).into_iter().map(|inner| format!("{name}/{inner}"))),
            false => _ = all.insert(name),
        }
    }
    all
}

#[test]
fn a_model_is_measured_and_gone_on_with_without_drawing_again() {
    let desk = Desk::new();
    let output = desk.run(&format!("{LINE} --parts distance,reconstruction,loss --out out"));
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("measures distance, reconstruction, loss"), "{stderr}");
    assert!(
        stdout.lines().any(|line| line.starts_with("reconstruction: PSNR (through the autoencoder): ")),
        "{stdout}"
    );
    assert_eq!(stdout.lines().last(), Some("out/report.html"));

    let there = files(&desk.path("out"));
    let pictures: Vec<&String> = there.iter().filter(|name| name.starts_with("pictures/")).collect();
    assert_eq!(pictures.len(), 6 * 2 * 2, "{there:?}");
    assert_eq!(there.len(), pictures.len() + 4, "nothing else is left: {there:?}");
    let first = results(&desk, "out");
    let names = figures(&first);
    for name in [
        "distance kernel distance drawn",
        "distance Frechet distance drawn",
        "reconstruction SSIM reconstructed",
        "loss mean of the levels below 1 model",
        "loss sigma 1.000 model",
    ] {
        assert!(names.contains(name), "{name}: {names:?}");
    }
    assert_eq!(first["drawn_with"]["steps"], "1");
    assert_eq!(first["drawn_with"]["transformer"].as_str().unwrap().len(), 64);
    let page = std::fs::read_to_string(desk.path("out/report.html")).unwrap();
    // 12 prompts with 2 pictures each are on the page.
    assert_eq!(page.matches("data:image/png;base64,").count(), 24);

    // A picture that is gone is drawn again, the same, with others at once or alone; the rest is not.
    let gone = desk.path("out/pictures/position/001-1.png");
    let was = std::fs::read(&gone).unwrap();
    std::fs::remove_file(&gone).unwrap();
    let line = format!("{LINE} --parts distance,reconstruction,loss --out out --batch 1 --resume");
    let output = desk.run(&line);
    let stderr = text(&output.stderr);
    assert!(output.status.success() && stderr.contains("23 of 24 pictures are there already"), "{stderr}");
    assert_eq!(std::fs::read(&gone).unwrap(), was);
    assert_eq!(results(&desk, "out")["figures"], first["figures"]);

    for (line, part) in [
        (line.replace("--steps 1", "--steps 2"), "drawn with another steps: 1 there, 2 here"),
        (line.replace(" --resume", ""), "is not empty"),
        (line.replace("--out out", "--out other"), "there is no evaluation in `other`"),
    ] {
        let stderr = desk.fail(&line);
        assert!(stderr.contains(part) && stderr.contains("hint: "), "{stderr}");
    }
    std::fs::write(&gone, "no picture").unwrap();
    let stderr = desk.fail(&line);
    assert!(stderr.contains("001-1.png` is no picture of an evaluation") && stderr.contains("remove it"), "{stderr}");
}

#[test]
fn a_detector_judges_tasks_and_chance_stands_beside() {
    let row = ROWS.iter().find(|row| row.name == "detector").unwrap();
    let desk = row.desk();
    let training = Training { desk: &desk, run: "run" };
    training.finish("");
    let line = LINE.replace("--size 64", "--size 32");
    desk.succeed(&format!("{line} --parts tasks --detector run/model --out out"));
    let found = results(&desk, "out");
    let names = figures(&found);
    for task in
        ["single_object", "two_object", "counting", "colours", "position", "colour_attribution", "mean of the tasks"]
    {
        for of in ["drawn", "real", "control"] {
            assert!(names.contains(&format!("tasks {task} {of}")), "{task} {of}: {names:?}");
        }
    }
    assert_eq!(found["right"]["counting/001"].as_array().unwrap().len(), 2);

    // Of pictures of another size it is not believed.
    let stderr = desk.fail(&format!("{LINE} --parts tasks --detector run/model --out other"));
    assert!(stderr.contains("trained on pictures of 32x32 px, and these have 64x64"), "{stderr}");
    std::fs::remove_file(desk.path("run/model/model.safetensors")).unwrap();
    let stderr = desk.fail(&format!("{line} --parts tasks --detector run/model --out other"));
    assert!(stderr.contains("model.safetensors` cannot be read"), "{stderr}");
    assert!(!desk.path("other").exists());
}

#[test]
fn words_are_read_where_tesseract_is_and_else_that_is_said() {
    let desk = Desk::new();
    let line = format!("{LINE} --parts spelling,reconstruction");
    let output = desk.command(&format!("{line} --out without")).env("PATH", "").output().unwrap();
    let stderr = text(&output.stderr);
    assert!(
        output.status.success() && stderr.contains("without spelling: the program `tesseract` is not found"),
        "{stderr}"
    );
    assert!(stderr.contains("apt-get install tesseract-ocr"), "{stderr}");
    let page = std::fs::read_to_string(desk.path("without/report.html")).unwrap();
    assert!(page.contains("Not measured"), "{page}");

    if Command::new("tesseract").arg("--version").output().is_err() {
        println!("skipped: tesseract is not installed");
        return;
    }
    desk.succeed(&format!("{} --out with", line.replace("--size 64", "--size 128")));
    let found = results(&desk, "with");
    let names = figures(&found);
    for of in ["drawn", "real", "reconstructed"] {
        for kind in ["known words", "held-out words"] {
            assert!(names.contains(&format!("spelling {kind}, right in every letter {of}")), "{kind} {of}: {names:?}");
            assert!(names.contains(&format!("spelling {kind}, character error rate {of}")), "{kind} {of}: {names:?}");
        }
    }
    assert_eq!(found["read"]["spelling_known/000"].as_array().unwrap().len(), 2);
}

#[test]
fn what_cannot_be_measured_is_said_before_anything_is_drawn() {
    let desk = Desk::new();
    let line = format!("{LINE} --out out");
    for (line, part) in [
        (line.replace("--model {sd3/model}", ""), "no model given"),
        (line.replace("{sd3/model}", "nowhere"), "`nowhere` does not exist"),
        (format!("{line} --parts tasks"), "no detector in the model's folder or beside it"),
        (format!("{line} --parts clip"), "no `image_encoder`"),
        (format!("{line} --parts fid"), "`fid` is not a part; give tasks, spelling"),
        (format!("{line} --parts tasks --detector nowhere"), "nowhere/config.json` cannot be read"),
        (line.replace("{../assets/evaluation}", "nowhere"), "nowhere/single_object.jsonl` cannot be read"),
        (line.replace("{../assets/sprites}", "nowhere"), "the art is in `assets/sprites`"),
        (line.replace("--size 64", "--size 100"), "the nearest sizes are 96 and 112"),
        (line.replace("--steps 1", "--steps 0"), "--steps 0"),
        (format!("{line} --resume"), "there is no evaluation in `out`"),
        (line.replace("--out out", "--out {sd3/model}/out"), "which is part of the model"),
    ] {
        let stderr = desk.fail(&line);
        assert!(stderr.contains(part), "{line}\n{stderr}");
    }
    let prompts = desk.path("prompts");
    std::fs::create_dir(&prompts).unwrap();
    for entry in std::fs::read_dir(fixture("../assets/evaluation")).unwrap().map(|entry| entry.unwrap().path()) {
        std::fs::copy(&entry, prompts.join(entry.file_name().unwrap())).unwrap();
    }
    std::fs::write(prompts.join("counting.jsonl"), "{}\n").unwrap();
    let stderr = desk.fail(&line.replace("{../assets/evaluation}", "prompts"));
    assert!(stderr.contains("counting.jsonl`, line 1: missing field"), "{stderr}");
    assert_eq!(desk.files(), ["prompts"]);
}

#[cfg(unix)]
#[test]
fn a_model_without_a_transformer_is_measured_as_far_as_it_goes() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("model")).unwrap();
    std::os::unix::fs::symlink(fixture("sd3/model/vae").canonicalize().unwrap(), desk.path("model/vae")).unwrap();
    let line = LINE.replace("{sd3/model}", "model");
    let output = desk.run(&format!("{line} --out out"));
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    for part in ["tasks", "spelling", "distance", "loss"] {
        assert!(stderr.contains(&format!("without {part}: the model has no transformer")), "{part}: {stderr}");
    }
    assert_eq!(figures(&results(&desk, "out")).len(), 2);
    let stderr = desk.fail(&format!("{line} --parts loss --out other"));
    assert!(stderr.contains("the loss part cannot be measured: the model has no transformer"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_the_pictures_and_the_same_command_goes_on() {
    let desk = Desk::new();
    let line = format!("{} --parts distance --out out --batch 1", LINE.replace("--steps 1", "--steps 30"));
    let child = desk.command(&line).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while !desk.path("out/pictures/single_object/000-0.png").exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "no picture was drawn");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("with `--resume` goes on"), "{stderr}");
    let there = files(&desk.path("out"));
    assert!(there.iter().all(|name| name.ends_with(".png") || name == "drawing.json"), "{there:?}");
    let stderr = text(&desk.run(&format!("{line} --resume")).stderr);
    assert!(stderr.contains(&format!("{} of 24 pictures are there already", there.len() - 1)), "{stderr}");
    assert_eq!(files(&desk.path("out")).len(), 24 + 4);
}

#[test]
fn the_prompts_of_the_repository_are_those_of_its_art() {
    let desk = Desk::new();
    assert_eq!(desk.succeed("dataset prompts --out made --art {../assets/sprites}"), "made: 700 prompts\n");
    for name in files(&desk.path("made")) {
        let [made, there] = [desk.path("made"), fixture("../assets/evaluation")].map(|folder| folder.join(&name));
        let [made, there] = [made, there].map(|path| std::fs::read_to_string(path).unwrap());
        assert!(
            made == there,
            "{name} is not what the program makes: `rectiflow dataset prompts --out assets/evaluation`"
        );
    }
}
