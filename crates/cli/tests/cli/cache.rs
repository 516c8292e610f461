//! `rectiflow cache`: several processes, other data, damage, and what is said.

use std::fs::File;
use std::time::Duration;

use crate::support::{Desk, copy_folder, fixture, text};
use crate::training::{Started, pictures};

/// Data and a recipe that caches them.
fn desk(count: u8) -> Desk {
    let desk = Desk::new();
    pictures(&desk.path("pictures"), count);
    recipe(&desk, "", "");
    desk
}

fn recipe(desk: &Desk, from: &str, to: &str) {
    let text = r#"
steps = 2
batch = 3
precision = "f32"
objective = { kind = "flow" }
model = { kind = "mmdit", depth = 1, grid = 8 }
schedule = { learning_rate = 1e-3 }
validation = { every = 0 }
[data]
encoders = "MODEL"
cache = "cache"
source = { path = "pictures", side_px = 32 }
"#;
    assert!(text.contains(from), "{from}");
    let text = text.replacen(from, to, 1).replace("MODEL", fixture("empty/model").to_str().unwrap());
    std::fs::write(desk.path("recipe.toml"), text).unwrap();
}

/// Holds the claim of the only shard, as a process does that is making it.
fn claim(desk: &Desk) -> File {
    std::fs::create_dir_all(desk.path("cache/claims")).unwrap();
    let file = File::create(desk.path("cache/claims/000000")).unwrap();
    file.try_lock().unwrap();
    file
}

/// A process that waits for the shard that another has claimed.
fn waiting(desk: &Desk) -> (Started, std::thread::JoinHandle<String>) {
    use std::io::{BufRead, BufReader};
    let mut started = Started::of(&mut desk.command("cache recipe.toml"));
    let mut lines = BufReader::new(started.stderr()).lines().map_while(Result::ok);
    let mut said = String::new();
    for line in lines.by_ref() {
        said += &line;
        if line.starts_with("waiting: 1 of 1 shards") {
            let rest = std::thread::spawn(move || said + &lines.collect::<Vec<_>>().join("\n"));
            return (started, rest);
        }
    }
    panic!("it does not wait: {said}");
}

#[test]
fn what_another_process_gave_up_is_made_by_one_that_waits() {
    let desk = desk(5);
    let claimed = claim(&desk);
    let (started, said) = waiting(&desk);
    std::thread::sleep(Duration::from_millis(300));
    // As when it is killed: the system takes the lock away, and the file stays.
    drop(claimed);
    let output = started.wait();
    let said = said.join().unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("5 samples encoded, ") && said.contains("the cache holds 5 of 5 samples"), "{said}");
    desk.succeed("train recipe.toml --out run");
}

#[cfg(unix)]
#[test]
fn a_process_that_waits_ends_when_it_is_asked_to() {
    let desk = desk(5);
    let _claimed = claim(&desk);
    let (mut started, said) = waiting(&desk);
    started.signal("INT");
    let status = started.wait().status;
    let said = said.join().unwrap();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("0 samples encoded\n") && said.contains("the same command goes on"), "{said}");
}

#[test]
fn a_cache_is_gone_on_with_only_with_its_own_samples_and_trained_from_without_them() {
    let desk = desk(6);
    desk.succeed("cache recipe.toml");
    for (from, to, key) in [
        ("side_px = 32", "side_px = 32, side_px_min = 8", "`choice of samples`"),
        ("side_px = 32", "side_px = 32, pixels_max = 9999", "`choice of samples`"),
        ("side_px = 32", "side_px = 32, without_caption = \"empty\"", "`choice of samples`"),
        ("side_px = 32", "side_px = 32, enlarge = true", "`preparation of pictures`"),
    ] {
        recipe(&desk, from, to);
        for line in ["cache recipe.toml", "train recipe.toml --out run"] {
            let said = desk.fail(line);
            assert!(said.contains(&format!("made with another {key}")), "{line}, {to}: {said}");
        }
    }
    recipe(&desk, "", "");
    let pictures = desk.path("pictures");
    std::fs::rename(pictures.join("01.png"), pictures.join("99.png")).unwrap();
    std::fs::rename(pictures.join("01.txt"), pictures.join("99.txt")).unwrap();
    let said = desk.fail("cache recipe.toml");
    assert!(said.contains("made with another `data set`") && said.contains("hint: "), "{said}");
    std::fs::remove_dir_all(pictures).unwrap();
    desk.succeed("train recipe.toml --out run");
}

#[test]
fn what_is_not_in_a_cache_is_there_with_its_reason() {
    let desk = desk(6);
    let put = |name: &str, bytes: &[u8]| std::fs::write(desk.path("pictures").join(name), bytes).unwrap();
    put("01.png", b"");
    std::fs::remove_file(desk.path("pictures/02.txt")).unwrap();
    let whole = std::fs::read(desk.path("pictures/03.png")).unwrap();
    put("03.png", &whole[..whole.len() - 30]);
    let output = desk.run("cache recipe.toml");
    let said = text(&output.stderr);
    assert!(said.contains("encode: step 4/4") && said.contains("1 left out, which its manifest.json lists"), "{said}");
    let manifest = std::fs::read_to_string(desk.path("cache/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let left_out = &manifest["shards"][0]["left_out"];
    assert_eq!(left_out["1"], "its picture is an empty file");
    assert_eq!(left_out["2"], "it has no caption");
    assert!(left_out["3"].as_str().unwrap().starts_with("its picture "), "{left_out}");
}

#[test]
fn a_cache_that_is_gone_on_with_counts_what_is_left() {
    let desk = desk(133);
    desk.succeed("cache recipe.toml");
    let shards: Vec<_> = std::fs::read_dir(desk.path("cache/shards")).unwrap().collect();
    assert_eq!(shards.len(), 4, "two shards, each with its record");
    std::fs::remove_file(desk.path("cache/shards/shard-000001.json")).unwrap();
    let said = text(&desk.run("cache recipe.toml").stderr);
    assert!(said.contains("encode: step 5/5, ") && said.contains("5 samples encoded, "), "{said}");
    assert!(!said.contains("inf"), "{said}");
    // All is there: nothing is encoded, and nothing is said of how fast.
    let said = text(&desk.run("cache recipe.toml").stderr);
    assert!(said.contains("0 samples encoded\n"), "{said}");
}

#[test]
fn a_folder_that_can_hold_no_cache_is_refused_before_anything_is_read() {
    let desk = desk(5);
    std::fs::write(desk.path("file"), "").unwrap();
    recipe(&desk, "path = \"pictures\"", "path = \"nowhere\"");
    let said = desk.fail("cache recipe.toml --out file");
    assert!(said.contains("`file` is a file, and a cache is a folder\nhint: "), "{said}");
    let said = desk.fail("cache recipe.toml --out file/below");
    assert!(said.contains("`file` is a file"), "{said}");
    let said = desk.fail("cache recipe.toml");
    assert!(said.contains("`nowhere` does not exist") && !desk.path("cache").exists(), "{said}");
}

#[test]
fn a_cache_without_a_sample_is_no_data_to_train_on() {
    let desk = desk(3);
    for name in ["00.png", "01.png", "02.png"] {
        let whole = std::fs::read(desk.path("pictures").join(name)).unwrap();
        std::fs::write(desk.path("pictures").join(name), &whole[..whole.len() - 30]).unwrap();
    }
    for captions in ["", ", captions = { caption = 1 }"] {
        let _ = std::fs::remove_dir_all(desk.path("cache"));
        recipe(&desk, "side_px = 32", &format!("side_px = 32{captions}"));
        desk.succeed("cache recipe.toml");
        let said = desk.fail("train recipe.toml --out run");
        assert!(said.contains("0 samples are left to train on, and a batch has 3\nhint: "), "{said}");
    }
}

#[test]
fn pictures_without_captions_are_trained_on_from_a_cache_as_without_one() {
    let desk = desk(6);
    std::fs::remove_file(desk.path("pictures/00.txt")).unwrap();
    for without in [1, 6] {
        for number in 0..without {
            let _ = std::fs::remove_file(desk.path(&format!("pictures/{number:02}.txt")));
        }
        let _ = std::fs::remove_dir_all(desk.path("cache"));
        recipe(&desk, "side_px = 32", "side_px = 32, without_caption = \"empty\"");
        desk.succeed("cache recipe.toml");
        desk.succeed(&format!("train recipe.toml --out run-{without}"));
    }
}

#[test]
fn scenes_are_trained_on_without_their_art_and_the_model_lists_their_words() {
    let desk = Desk::new();
    copy_folder(&fixture("../assets/sprites"), &desk.path("art"));
    recipe(&desk, "path = \"pictures\"", "path = \"art\", kind = \"sprites\", count = 12");
    desk.succeed("cache recipe.toml");
    std::fs::remove_dir_all(desk.path("art")).unwrap();
    desk.succeed("train recipe.toml --out run");
    let words = std::fs::read_to_string(desk.path("run/model/known_words.txt")).unwrap();
    let words: Vec<&str> = words.lines().collect();
    assert!(words.len() > 20 && words.is_sorted() && words.contains(&"a") && !words.contains(&""), "{words:?}");

    // Of other pictures nobody counts the words.
    let desk = self::desk(5);
    desk.succeed("cache recipe.toml");
    desk.succeed("train recipe.toml --out run");
    assert!(desk.path("run/model/transformer").is_dir() && !desk.path("run/model/known_words.txt").exists());
}
