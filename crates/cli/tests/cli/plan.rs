use serde_json::Value;

use crate::support::{Desk, failed, said};

const SMALL: &str = "plan a --model {sd3/model} --width 64 --height 48";

fn report(desk: &Desk, line: &str) -> Value {
    serde_json::from_str(&desk.succeed(line)).unwrap()
}

#[test]
fn a_plan_says_time_and_memory_of_each_phase_and_draws_nothing() {
    let desk = Desk::new();
    let table = desk.succeed(SMALL);
    let phases = ["open and check", "encode CLIP-L", "encode CLIP-G", "encode T5", "denoise", "decode", "all"];
    let firsts: Vec<&str> = table.lines().skip(1).map(|line| line[..28].trim_end()).collect();
    assert_eq!(firsts, phases, "{table}");
    assert!(table.contains("28 steps of "), "{table}");
    assert_eq!(std::fs::read_dir(desk.folder.path()).unwrap().count(), 0, "nothing is written");
}

#[test]
fn what_is_asked_more_often_or_is_larger_takes_longer_and_more_memory() {
    let desk = Desk::new();
    let number = |report: &Value, name: &str| report[name].as_f64().unwrap();
    let small = report(&desk, &format!("{SMALL} --json --steps 40"));
    let other = report(&desk, "plan a --model {sd3/model} --width 384 --height 384 --json --steps 40 --solver rk4");
    for name in ["seconds", "seconds_a_step", "memory_bytes"] {
        assert!(number(&other, name) > number(&small, name), "{name}: {other}, {small}");
    }
    let phases = small["phases"].as_array().unwrap();
    let sum: f64 = phases.iter().map(|phase| number(phase, "seconds")).sum();
    assert!((sum - number(&small, "seconds")).abs() < 1e-9);
}

#[test]
fn presets_and_what_cannot_be_known_are_said() {
    let desk = Desk::new();
    let stderr = said(&desk, &format!("{SMALL} --preset sd3.5-large-turbo"));
    assert!(stderr.contains("preset sd3.5-large-turbo") && stderr.contains("4 steps of"), "{stderr}");
    let stderr = said(&desk, &format!("{SMALL} --solver dopri5"));
    assert!(stderr.contains("an adaptive solver chooses its steps"), "{stderr}");
    let stderr = said(&desk, &format!("{SMALL} --cache-mode taylor"));
    assert!(stderr.contains("steps that the cache leaves out"), "{stderr}");
    said(&desk, &format!("{SMALL} --guidance-rescale 0.7 --solver midpoint --apg-eta 0.5"));
    let stderr = desk.fail("plan a --model {sd3/model} --width 63");
    assert!(stderr.contains("--width 63 is not a multiple of"), "{stderr}");
}

/// A million pictures at once are more than any machine that runs tests has.
#[test]
fn what_would_not_fit_is_refused_before_a_weight_is_read_with_what_would() {
    let desk = Desk::new();
    let line = "a --model {sd3/model} --width 384 --height 384 --count 1000000 --batch-size 1000000";
    for command in ["plan", "generate"] {
        let stderr = desk.fail(&format!("{command} {line}"));
        assert!(stderr.contains("GB of memory while it denoises, and "), "{stderr}");
        assert!(stderr.contains("hint: `--batch-size 1` takes ") && stderr.contains("--ignore-memory"), "{stderr}");
    }
    assert_eq!(std::fs::read_dir(desk.folder.path()).unwrap().count(), 0, "nothing is written");
    let limited = desk.command("plan a --model {sd3/model} --count 0").output().unwrap();
    assert!(failed("plan --count 0", &limited).contains("--count 0 draws nothing"));
}
