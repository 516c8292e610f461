//! A training that is ended anywhere goes on to the same end, to the bit.

use std::path::Path;

use crate::support::text;
use crate::training::{FLOW, Outcome, ROWS, Row, STEPS, Started, Training};

/// The end of a training that nothing happened to, and the desk for more of the same.
fn undisturbed(row: &Row) -> (crate::support::Desk, Outcome) {
    let desk = row.desk();
    let whole = Training { desk: &desk, run: "whole" };
    whole.finish("");
    let outcome = whole.outcome();
    outcome.assert_whole();
    (desk, outcome)
}

/// Whether a checkpoint is being written.
fn is_writing(checkpoints: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(checkpoints) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(".partial"))
}

#[test]
fn a_training_that_is_killed_again_and_again_ends_as_if_it_had_not_been() {
    for row in &ROWS {
        let (desk, whole) = undisturbed(row);
        let training = Training { desk: &desk, run: "killed" };
        let killed_when = |rest: &str, what: &str, is_so: &dyn Fn() -> bool| {
            let mut started = training.start(rest);
            started.until(what, is_so);
            !started.kill().success()
        };
        // On a busy machine one may come too late, after the end; not all of them.
        let in_time = [
            killed_when("", "right after a checkpoint", &|| training.checkpoint(4).exists()),
            killed_when("--resume", "between two", &|| training.has_taken(10)),
            killed_when("--resume", "while one is written", &|| {
                training.has_taken(12) && is_writing(&training.path("checkpoints"))
            }),
        ];
        assert!(in_time.contains(&true), "{}: no process was killed", row.name);
        training.finish("--resume");
        training.outcome().assert_same(&whole, row.name);
        assert!(!is_writing(&training.path("checkpoints")), "{}: what was half written is left", row.name);
        let (started, steps) = (training.events("started"), training.steps());
        assert!(started.len() > 1 && steps.len() as u64 == STEPS, "{}: {started:?}", row.name);
        if row.name.starts_with("flow") {
            let settings = std::fs::read_to_string(training.path("model/transformer/config.json")).unwrap();
            assert!(
                settings.contains("\"sample_size\": 4\n"),
                "pictures of 32 px, which it draws by itself: {settings}"
            );
        }
    }
}

#[cfg(unix)]
#[test]
fn a_training_that_is_asked_to_end_writes_a_checkpoint_first() {
    for row in &ROWS {
        let (desk, whole) = undisturbed(row);
        let training = Training { desk: &desk, run: "asked" };
        for (signal, rest, step) in [("INT", "", 2), ("TERM", "--resume", 9)] {
            let mut started = training.start(rest);
            started.until("some steps", || training.has_taken(step));
            started.signal(signal);
            let output = started.wait();
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(130), "{} {signal}: {said}", row.name);
            let last = training.steps().last().unwrap()["step"].as_u64().unwrap();
            assert!(said.contains(&format!("stopped after step {last}; `--resume` goes on")), "{said}");
            assert!(training.checkpoint(last).exists(), "{}: no checkpoint of step {last}", row.name);
        }
        training.finish("--resume");
        training.outcome().assert_same(&whole, row.name);
    }
}

#[test]
fn a_training_that_has_ended_stays_and_can_be_made_longer() {
    let (desk, whole) = undisturbed(&FLOW);
    let training = Training { desk: &desk, run: "whole" };
    training.finish("--resume");
    training.outcome().assert_same(&whole, "resumed at its end");
    let said = training.finish("--resume --steps 22");
    assert!(said.contains("step 22/22"), "{said}");
    assert_eq!(training.steps().len(), 22);
}

#[cfg(target_os = "linux")]
#[test]
fn a_training_of_two_processes_in_one_folder_is_refused_to_the_second() {
    let desk = FLOW.desk();
    let training = Training { desk: &desk, run: "run" };
    let mut first: Started = training.start("--steps 100000");
    first.until("it trains", || training.has_taken(1));
    let said = desk.fail(&training.line("--resume --steps 100000"));
    assert!(said.contains("another process trains in `run`") && said.contains("hint: wait"), "{said}");
    first.signal("INT");
    assert_eq!(first.wait().status.code(), Some(130));
}
