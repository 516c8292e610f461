use crate::support::{Desk, png, said};

const SMALL: &str = "generate a --model {sd3/model} --width 64 --height 48";

#[test]
fn a_preset_is_what_its_options_are_on_the_line_and_the_line_overrides_it() {
    let desk = Desk::new();
    let file =
        "steps = 2\nguidance = [3, 2.5]\nskip_layers = [0, 1]\nsolver = \"heun\"\nnegative-prompt = \"two words\"\n";
    std::fs::write(desk.path("mine.toml"), file).unwrap();
    let stderr = said(&desk, &format!("{SMALL} --preset mine.toml --solver euler --out a.png"));
    let line = "preset mine.toml: guidance 3,2.5, negative-prompt two words, skip_layers 0,1, steps 2; not its solver";
    assert!(stderr.contains(line), "{stderr}");
    let by_hand = "--steps 2 --guidance 3,2.5 --skip-layers 0,1 --solver euler --out b.png --negative";
    let output = desk.command(&format!("{SMALL} {by_hand}")).arg("two words").output().unwrap();
    assert!(output.status.success());
    let [a, b] = ["a.png", "b.png"].map(|name| png(&desk.path(name)));
    assert!(a.0 == b.0);
    assert_eq!(a.1, b.1, "and it says the same of itself");
}

#[test]
fn a_preset_gives_way_to_noise_levels_of_ones_own() {
    let desk = Desk::new();
    let stderr = said(&desk, &format!("{SMALL} --preset sd3.5-large-turbo --sigmas 1,0.5 --guidance 1 --out a.png"));
    assert!(stderr.contains("2 steps of euler, noise levels of your own"), "{stderr}");
}

#[test]
fn what_does_not_go_with_the_line_gives_way_and_is_named() {
    let desk = Desk::new();
    let write = |text: &str| std::fs::write(desk.path("mine.toml"), text).unwrap();
    write("sigmas = [1, 0.6, 0.3]\ncfg-zero-star = 1\n");
    let stderr = said(&desk, &format!("{SMALL} --preset mine.toml --steps 2 --apg-eta 0.5 --out a.png"));
    assert!(stderr.contains("preset mine.toml: nothing; not its cfg-zero-star, sigmas"), "{stderr}");
    assert!(stderr.contains("2 steps of euler") && stderr.contains("by APG"), "{stderr}");
    write("cache-mode = \"taylor\"");
    said(&desk, &format!("{SMALL} --preset mine.toml --steps 2 --cache-threshold 0.3 --out a.png"));
    write("prompt = [\"a cat\", \"a dog\"]\nsteps = 1\n");
    let line = "generate --model {sd3/model} --width 64 --height 48 --preset mine.toml --out b.png";
    assert_eq!(desk.succeed(line), "b-1.png\nb-2.png\n");
    write("sigmas = [1, 0.5]\nsteps = 3\n");
    let stderr = desk.fail(&format!("{SMALL} --preset mine.toml"));
    assert!(stderr.contains("has both `sigmas` and `steps`"), "{stderr}");
    let stderr = desk.fail(&format!("{SMALL} --cache-threshold 0.3"));
    assert!(stderr.contains("no effect without `--cache-mode`"), "{stderr}");
}

#[test]
fn presets_that_come_with_the_program_draw() {
    let desk = Desk::new();
    for (name, said_of_it) in [
        ("sd3-medium", "steps of dpmpp_2m, shift 1, guidance 5"),
        ("sd3.5-large", "steps of dpmpp_2m, shift 3, guidance 4.5"),
        ("sd3.5-large-turbo", "4 steps of euler, shift 3, no guidance"),
    ] {
        let steps = if name.ends_with("turbo") { "" } else { "--steps 1" };
        let stderr = said(&desk, &format!("{SMALL} --preset {name} {steps} --out a.png"));
        assert!(stderr.contains(said_of_it) && stderr.contains(&format!("preset {name}: ")), "{stderr}");
    }
    // Its blocks are not in a network of two.
    let stderr = desk.fail(&format!("{SMALL} --preset sd3.5-medium --out a.png"));
    assert!(stderr.contains("--skip-layers has 7"), "{stderr}");
    let stderr = desk.fail(&format!("{SMALL} --preset auto --out a.png"));
    assert!(stderr.contains("none for this model, MMDiT, depth 2") && stderr.contains("sd3.5-large-turbo"), "{stderr}");
}

#[test]
fn what_is_wrong_with_a_preset_is_said_with_its_name() {
    let desk = Desk::new();
    for (file, wanted) in [
        ("stepps = 3", "it has `stepps`, which is no option of `rectiflow generate`; the nearest is `steps`"),
        ("preset = \"sd3-medium\"", "it has `preset`, which is no option"),
        ("steps = \"many\"", "invalid value 'many' for '--steps <N>'"),
        ("steps = true", "neither a text nor a number"),
        ("steps = [[1]]", "neither a text nor a number"),
        ("steps = ", "is no TOML"),
    ] {
        std::fs::write(desk.path("mine.toml"), file).unwrap();
        let stderr = desk.fail(&format!("{SMALL} --preset mine.toml --out a.png"));
        assert!(stderr.contains(wanted) && stderr.contains("mine.toml"), "{file}: {stderr}");
    }
    let stderr = desk.fail(&format!("{SMALL} --preset sd4 --out a.png"));
    assert!(stderr.contains("there is no preset") && stderr.contains("sd3.5-medium"), "{stderr}");
    assert_eq!(desk.files(), ["mine.toml"]);
}
