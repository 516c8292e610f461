//! Sheets of pictures that differ in one or two settings.

use crate::support::{Desk, QUICK, pixels, png, settings, text};

const SMALL: &str = "--width 64 --height 48";

/// Runs a grid that must succeed; returns its lines and what it said.
#[track_caller]
fn grid(desk: &Desk, line: &str) -> (String, String) {
    let output = desk.run(&format!("grid {line}"));
    assert!(output.status.success(), "{line}\n{}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn cells_are_the_pictures_that_generate_draws_and_the_model_is_loaded_once() {
    let desk = Desk::new();
    let axes = "--x steps=1,2,3 --y guidance=1,4";
    let (stdout, stderr) = grid(&desk, &format!("apple {QUICK} {SMALL} {axes} --seed 7 --out sheet.png --cells cells"));
    assert_eq!(stdout.lines().count(), 7);
    assert!(stdout.ends_with("sheet.png\n") && stdout.contains("cells/row-2-column-3.png"), "{stdout}");
    assert_eq!(stderr.matches("computes in f32").count(), 1, "{stderr}");
    assert!(stderr.contains("cell 1 of 6: steps 1, guidance 1\n"), "{stderr}");
    assert!(stderr.contains("cell 6 of 6: steps 3, guidance 4, ") && stderr.contains(" s left"), "{stderr}");

    let sheet = image::open(desk.path("sheet.png")).unwrap().into_rgb8();
    let (left, top) = (sheet.width() - 3 * 68, sheet.height() - 2 * 52);
    for (row, guidance) in ["1", "4"].iter().enumerate() {
        for (column, steps) in ["1", "2", "3"].iter().enumerate() {
            let how = format!("--steps {steps} --guidance {guidance} --seed 7 --out one.png");
            desk.succeed(&format!("generate apple {QUICK} {SMALL} {how}"));
            let one = pixels(&desk.path("one.png"));
            let cell = desk.path(&format!("cells/row-{}-column-{}.png", row + 1, column + 1));
            assert_eq!(pixels(&cell), one, "steps {steps}, guidance {guidance}");
            let (x, y) = (left + column as u32 * 68, top + row as u32 * 52);
            let there = image::imageops::crop_imm(&sheet, x, y, 64, 48).to_image().into_raw();
            assert_eq!(there, one, "steps {steps}, guidance {guidance}");
        }
    }
    // Labels are ink on white.
    let ink = sheet.enumerate_pixels().filter(|(x, y, pixel)| (*x < left || *y < top) && pixel.0[0] < 128).count();
    assert!(ink > 300, "{ink}");

    let (_, texts) = png(&desk.path("sheet.png"));
    assert!(
        texts[0].1.contains("Script: X/Y/Z plot, X Type: steps, X Values: \"1, 2, 3\", Y Type: guidance"),
        "{texts:?}"
    );
    let common = settings(&desk.path("sheet.png"));
    assert_eq!(common["grid"]["x"], serde_json::json!({"name": "steps", "values": ["1", "2", "3"]}));
    assert_eq!((&common["seed"], &common["prompt"]), (&7.into(), &"apple".into()));
    assert!(common.get("steps").is_none() && common.get("guidance").is_none());

    desk.succeed(&format!("replay cells/row-2-column-2.png {QUICK}"));
    assert!(desk.fail(&format!("replay sheet.png {QUICK}")).contains("sheet of pictures"));
    // Cells replace nothing.
    let stderr = desk.fail(&format!("grid apple {QUICK} {SMALL} {axes} --out other.png --cells cells"));
    assert!(stderr.contains("already there") && !stderr.contains("denoise"), "{stderr}");
}

#[test]
fn words_seeds_and_models_can_differ() {
    let desk = Desk::new();
    let run = |axes: &str| {
        let _ = std::fs::remove_dir_all(desk.path("cells"));
        let mut command = desk.command(&format!("grid {QUICK} --steps 1 {axes} --out sheet.webp --cells cells"));
        let output = command.arg("--prompt").arg("a cat and a cat").output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    let cell = |row: u32, column: u32| desk.path(&format!("cells/row-{row}-column-{column}.webp"));
    run(&format!("{SMALL} --x prompt=cat,dog --y seed=1,2"));
    let pictures: Vec<_> = [(1, 1), (1, 2), (2, 1), (2, 2)].map(|(row, column)| pixels(&cell(row, column))).into();
    assert!((0..4).all(|i| pictures[..i].iter().all(|other| *other != pictures[i])));
    let mut command = desk.command(&format!("generate {QUICK} {SMALL} --steps 1 --seed 2 --out dog.png"));
    assert!(command.arg("--prompt").arg("a dog and a dog").status().unwrap().success());
    assert_eq!(pixels(&desk.path("dog.png")), pictures[3]);

    // Two precisions are two models, each loaded once.
    let stderr = run(&format!("{SMALL} --x seed=1,2 --y precision=f32,bf16"));
    assert_eq!([stderr.matches("computes in f32").count(), stderr.matches("computes in bf16").count()], [1, 1]);
    // Pictures of several sizes, and values with commas.
    run("--height 48 --y width=64,32");
    let sizes = [(1, 1), (2, 1)].map(|(row, column)| image::image_dimensions(cell(row, column)).unwrap());
    assert_eq!(sizes, [(64, 48), (32, 48)]);
    run(&format!("{SMALL} --x guidance=7,5;4"));
    assert!(cell(1, 2).exists() && !cell(1, 3).exists());
}

#[test]
fn what_is_no_grid_is_refused_before_anything_is_drawn() {
    let desk = Desk::new();
    for (line, part) in [
        ("apple", "--x <NAME=VALUES>"),
        ("apple --x steps", "NAME=VALUE"),
        ("apple --x colour=red,green", "no setting that cells can differ in"),
        ("apple --x out=a.png,b.png", "no setting that cells can differ in"),
        ("apple --x steps=1,many", "the cell steps=many: invalid value 'many'"),
        ("apple --x steps=1,0", "--steps 0"),
        ("apple --x width=64,70", "not a multiple of 16"),
        ("apple --x steps=1,2 --steps 3", "given for all cells"),
        ("apple --x steps=1,2 --y num-inference-steps=3", "both"),
        ("apple --x sigmas=1 --y steps=1,2", "cannot be used with"),
        ("apple pear --x steps=1,2", "a grid is of one prompt"),
        ("apple --x prompt=pear,plum", "not in the prompt"),
        ("apple --x steps=1,2 --out x.gif", "neither a .png, .jpg or .webp"),
    ] {
        let stderr = desk.fail(&format!("grid {line} {QUICK} --height 48"));
        assert!(stderr.contains(part) && !stderr.contains("denoise"), "{line}: {stderr}");
    }
    assert_eq!(desk.files(), [""; 0]);
}
