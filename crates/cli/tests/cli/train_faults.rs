//! Faults under way: damaged checkpoints, a full disk, folders of something else.

use std::path::{Path, PathBuf};

use crate::support::{Desk, copy_folder, failed, text};
use crate::training::{FLOW, Training};

/// A training without pictures on the way, whose start costs less, and with steps that do not depend on how many follow.
fn desk() -> Desk {
    let desk = FLOW.desk();
    let recipe = FLOW.recipe();
    let without: Vec<&str> = recipe.lines().filter(|line| !line.trim().starts_with("samples")).collect();
    std::fs::write(desk.path("recipe.toml"), without.join("\n").replace("\"cosine\"", "\"constant\"")).unwrap();
    desk
}

/// A way to damage the checkpoint in a folder.
type Damage = fn(&Path);

fn file(checkpoint: &Path, part: &str) -> PathBuf {
    let entries = std::fs::read_dir(checkpoint).unwrap().map(|entry| entry.unwrap().path());
    entries.into_iter().find(|path| path.to_string_lossy().contains(part)).unwrap()
}

const DAMAGES: [(Damage, &str); 5] = [
    (|checkpoint| truncate(&file(checkpoint, "optimizer")), "bytes instead of"),
    (|checkpoint| change_a_byte(&file(checkpoint, "weights")), "its checksum is another"),
    (|checkpoint| std::fs::remove_file(file(checkpoint, "ema-1")).unwrap(), "No such file"),
    (
        |checkpoint| std::fs::write(file(checkpoint, "checkpoint.json"), "{\"format\": 2, \0").unwrap(),
        "checkpoint.json: ",
    ),
    (|checkpoint| std::fs::remove_file(file(checkpoint, "checkpoint.json")).unwrap(), "checkpoint.json: "),
];

fn truncate(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn change_a_byte(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn change_text(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn damaged_checkpoints_are_passed_over_said_and_made_up_for() {
    let desk = desk();
    let whole = Training { desk: &desk, run: "whole" };
    whole.finish("");
    let outcome = whole.outcome();

    // With checkpoints of steps 16 and 17.
    Training { desk: &desk, run: "ended" }.finish("--steps 17");

    for (damage, expected) in DAMAGES {
        let training = Training { desk: &desk, run: "damaged" };
        copy_folder(&desk.path("ended"), &desk.path("damaged"));
        damage(&training.checkpoint(17));
        let said = training.finish("--resume");
        for part in ["step-000017 is damaged (", expected, "going on from", "step-000016"] {
            assert!(said.contains(part), "no {part:?} in\n{said}");
        }
        training.outcome().assert_same(&outcome, expected);
        std::fs::remove_dir_all(desk.path("damaged")).unwrap();
    }

    // What a later program wrote may be whole.
    let training = Training { desk: &desk, run: "later" };
    copy_folder(&desk.path("ended"), &desk.path("later"));
    change_text(&file(&training.checkpoint(17), "checkpoint.json"), "\"format\": 2", "\"format\": 9");
    let said = desk.fail(&training.line("--resume"));
    assert!(said.contains("is of format 9") && said.contains("hint: go on with the program that wrote it"), "{said}");

    // None is whole: nothing is begun anew unless somebody says so.
    let training = Training { desk: &desk, run: "ended" };
    let checkpoints = std::fs::read_dir(training.path("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    checkpoints.filter(|path| path.is_dir()).for_each(|checkpoint| truncate(&file(&checkpoint, "weights")));
    let said = desk.fail(&training.line("--resume"));
    assert!(said.contains("no checkpoint of the run is whole") && said.contains("hint: put a copy"), "{said}");
    std::fs::remove_dir_all(training.path("checkpoints")).unwrap();
    let said = training.finish("--resume");
    assert!(said.contains("step 1/20"), "{said}");
    training.outcome().assert_same(&outcome, "all damaged");
}

/// A small disk of its own, which only an administrator may have.
#[cfg(target_os = "linux")]
struct SmallDisk {
    folder: PathBuf,
}

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn mount(folder: PathBuf, megabytes: u64) -> Option<SmallDisk> {
        std::fs::create_dir(&folder).unwrap();
        let size = format!("size={megabytes}m");
        let mut mount = std::process::Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&folder).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(SmallDisk { folder })
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_waited_for() {
    use std::io::{BufRead, BufReader};
    let desk = desk();
    let whole = Training { desk: &desk, run: "whole" };
    whole.finish("");
    let Some(disk) = SmallDisk::mount(desk.path("disk"), 64) else {
        eprintln!("SKIPPED: no disk can be mounted here, so that a full one is not tried (root can)");
        return;
    };
    let training = Training { desk: &desk, run: "disk/run" };
    let mut started = training.start("");
    started.until("step 5", || training.has_taken(5));
    started.signal("STOP");
    let filler = disk.folder.join("filler");
    // Everything that is left. Nothing is free until the filler goes: old checkpoints are removed after new ones only.
    let mut file = std::fs::File::create(&filler).unwrap();
    let block = vec![0; 4096];
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    drop(file);
    started.signal("CONT");
    let mut lines = BufReader::new(started.stderr()).lines().map(Result::unwrap);
    let said = lines.by_ref().find(|line| line.contains("waiting for space")).unwrap_or_default();
    assert!(said.contains("disk/run") && said.contains("Ctrl-C"), "it did not wait: {said}");
    std::fs::remove_file(filler).unwrap();
    let rest: Vec<String> = lines.collect();
    assert!(started.wait().status.success(), "{rest:?}");
    assert!(!rest.iter().any(|line| line.contains("waiting")), "said once: {rest:?}");
    training.outcome().assert_same(&whole.outcome(), "a full disk");
}

#[cfg(unix)]
#[test]
fn folders_that_cannot_be_written_or_are_of_something_else_are_refused() {
    let desk = desk();
    let training = Training { desk: &desk, run: "run" };
    let said = desk.fail(&training.line("--resume"));
    assert!(said.contains("there is no run in `run`") && said.contains("hint: leave out `--resume`"), "{said}");
    assert!(!desk.path("run").exists());

    training.finish("--steps 4");
    let said = desk.fail(&training.line(""));
    assert!(said.contains("there is a run in `run`") && said.contains("hint: `--resume` goes on with it"), "{said}");

    let recipe = std::fs::read_to_string(desk.path("recipe.toml")).unwrap();
    std::fs::write(desk.path("recipe.toml"), recipe.replace("depth = 1", "depth = 2")).unwrap();
    let before = std::fs::read(training.path("plan.toml")).unwrap();
    let said = desk.fail(&training.line("--resume"));
    assert!(said.contains("`model.depth` was 1 and is 2") && said.contains("hint: "), "{said}");
    assert!(before == std::fs::read(training.path("plan.toml")).unwrap(), "the plan was changed");
    std::fs::write(desk.path("recipe.toml"), &recipe).unwrap();

    std::fs::write(training.path("plan.toml"), "steps = ").unwrap();
    let said = desk.fail(&training.line("--resume"));
    assert!(said.contains("plan.toml, line 1"), "{said}");

    std::fs::create_dir(desk.path("photos")).unwrap();
    std::fs::write(desk.path("photos/cat.jpg"), "a cat").unwrap();
    let said = desk.fail("train recipe.toml --out photos");
    assert!(said.contains("`photos` has other files") && said.contains("hint: "), "{said}");
    let said = desk.fail("train recipe.toml --out photos/cat.jpg");
    assert!(said.contains("`photos/cat.jpg` is a file"), "{said}");
    // Root may write everywhere, but not here.
    let said = desk.fail("train recipe.toml --out /proc/run");
    assert!(said.contains("the folder /proc is missing or not writable"), "{said}");
}

#[test]
fn a_folder_that_a_process_left_before_its_plan_was_written_is_free() {
    let desk = desk();
    std::fs::create_dir(desk.path("run")).unwrap();
    for name in ["run.lock", ".rectiflow-a1B2c3.tmp"] {
        std::fs::write(desk.path("run").join(name), "").unwrap();
    }
    let training = Training { desk: &desk, run: "run" };
    let output = desk.run(&training.line("--steps 2"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(failed("again", &desk.run(&training.line(""))).contains("there is a run"));
}
