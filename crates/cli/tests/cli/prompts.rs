//! Prompts from files, with alternatives, and another text for an encoder.

use crate::support::{Desk, png, said, text};

const DRAW: &str = "--model {sd3/model} --width 64 --height 48 --steps 1";

/// The settings in the file of a picture.
fn settings(desk: &Desk, name: &str) -> serde_json::Value {
    crate::support::settings(&desk.path(name))
}

#[test]
fn a_file_has_a_prompt_a_line() {
    let desk = Desk::new();
    std::fs::write(desk.path("prompts.txt"), "# fruit\napple\n\n  pear tree  \n").unwrap();
    desk.succeed(&format!("generate plum --prompt-file prompts.txt {DRAW} --out a.png"));
    let prompts: Vec<_> = (1..=3).map(|number| settings(&desk, &format!("a-{number}.png"))["prompt"].clone()).collect();
    assert_eq!(prompts, ["plum", "apple", "pear tree"]);

    std::fs::write(desk.path("none.txt"), "# nothing\n\n").unwrap();
    std::fs::write(desk.path("bytes.txt"), [0xff, 0xfe, 0]).unwrap();
    for (file, expected) in [
        ("none.txt", "`--prompt-file` `none.txt` has no prompt"),
        ("absent.txt", "`--prompt-file` `absent.txt` cannot be read"),
        ("bytes.txt", "UTF-8"),
    ] {
        let stderr = desk.fail(&format!("generate --prompt-file {file} {DRAW} --out b.png"));
        assert!(stderr.contains(expected), "{stderr}");
    }
    assert!(!desk.path("b.png").exists());
}

#[test]
fn alternatives_are_chosen_by_each_pictures_seed() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("lists")).unwrap();
    std::fs::write(desk.path("lists/animal.txt"), "cat\n# not a dog\n{big|small} dog\n").unwrap();
    let draw = |out: &str, seed: u64| {
        let line = format!("generate --wildcards lists {DRAW} --seed {seed} --count 4 --out {out} -p");
        let output = desk.command(&line).arg("{red|green} __animal__").output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    draw("a.png", 0);
    draw("b.png", 2);
    let prompt = |name: &str| settings(&desk, name)["prompt"].as_str().unwrap().to_owned();
    let all: Vec<String> = (1..=4).map(|number| prompt(&format!("a-{number}.png"))).collect();
    for prompt in &all {
        let (colour, animal) = prompt.split_once(' ').unwrap();
        assert!(["red", "green"].contains(&colour) && ["cat", "big dog", "small dog"].contains(&animal), "{prompt}");
    }
    assert!(all.iter().any(|prompt| *prompt != all[0]), "{all:?}");
    // A seed chooses the same, wherever in a run it comes.
    assert_eq!([prompt("b-1.png"), prompt("b-2.png")], [all[2].clone(), all[3].clone()]);
}

#[test]
fn alternatives_that_cannot_be_chosen_are_refused_before_anything_is_drawn() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("lists")).unwrap();
    std::fs::write(desk.path("lists/itself.txt"), "more __itself__\n").unwrap();
    std::fs::write(desk.path("lists/empty.txt"), "# none\n").unwrap();
    for (prompt, more, expected) in [
        ("__animal__", "", "no folder of such files"),
        ("__animal__", "--wildcards lists", "animal.txt"),
        ("__empty__", "--wildcards lists", "which has none"),
        ("__itself__", "--wildcards lists", "name itself?"),
    ] {
        let stderr = desk.fail(&format!("generate {prompt} {more} {DRAW} --out a.png"));
        assert!(stderr.contains(expected) && stderr.contains("hint: "), "{prompt}: {stderr}");
    }
    assert!(!desk.path("a.png").exists());
}

#[test]
fn an_encoder_may_read_another_text() {
    let desk = Desk::new();
    let draw = |name: &str, more: &str| {
        said(&desk, &format!("generate apple {DRAW} --precision f32 {more} --out {name}.png"));
        std::fs::read(desk.path(&format!("{name}.png"))).unwrap()
    };
    let plain = draw("plain", "");
    let others = [draw("clip", "--prompt-clip pear"), draw("t5", "--prompt-t5 pear")];
    assert!(others.iter().all(|other| *other != plain) && others[0] != others[1]);
    assert_eq!(settings(&desk, "clip.png")["prompt_clip"], "pear");
    assert_eq!(settings(&desk, "t5.png")["prompt_t5"], "pear");
    // Both together are the other prompt, but for what the file says.
    draw("both", "--prompt-clip pear --prompt-t5 pear");
    desk.succeed(&format!("generate pear {DRAW} --precision f32 --out pear.png"));
    assert_eq!(png(&desk.path("both.png")).0, png(&desk.path("pear.png")).0);
}
