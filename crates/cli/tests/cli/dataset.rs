//! Sprite scenes as files.

use crate::support::Desk;

const ART: &str = "--art {../assets/sprites}";

#[test]
fn sprites_become_shards_and_a_sheet_to_look_at() {
    let desk = Desk::new();
    let line = format!("dataset sprites {ART} --out scenes --count 1001 --size 16 --sheet sheet.png");
    let said = desk.succeed(&line);
    assert!(said.contains("sheet.png") && said.contains("1001 scenes of 16 px in 2 shards"), "{said}");
    assert_eq!(desk.files(), ["scenes", "sheet.png"]);
    let read = |name: &str| std::fs::read(desk.path("scenes").join(name)).unwrap();
    let whole = ["shard-000000.tar", "shard-000001.tar"].map(read);
    assert_eq!(std::fs::read_dir(desk.path("scenes")).unwrap().count(), 3);

    // What is there stays, what is not is made again.
    std::fs::remove_file(desk.path("scenes/shard-000001.tar")).unwrap();
    let again = desk.run(&line);
    let notes = crate::support::text(&again.stderr);
    assert!(again.status.success() && notes.contains("1 of 2 shards are there already"), "{notes}");
    assert!(whole == ["shard-000000.tar", "shard-000001.tar"].map(read));
}

#[test]
fn a_sheet_takes_the_place_of_another_only_when_it_is_whole() {
    let desk = Desk::new();
    std::fs::write(desk.path("sheet.png"), "old").unwrap();
    // A second name of the old file: writing into it would show here.
    std::fs::hard_link(desk.path("sheet.png"), desk.path("kept.png")).unwrap();
    desk.succeed(&format!("dataset sprites {ART} --count 2 --size 16 --sheet sheet.png"));
    assert!(std::fs::read(desk.path("sheet.png")).unwrap().starts_with(b"\x89PNG"));
    assert_eq!(std::fs::read(desk.path("kept.png")).unwrap(), b"old");
    assert_eq!(desk.files(), ["kept.png", "sheet.png"]);
}

#[test]
fn held_out_scenes_in_folders_are_other_scenes() {
    let desk = Desk::new();
    for split in ["train", "held-out"] {
        desk.succeed(&format!(
            "dataset sprites {ART} --out {split} --count 2 --size 16 --split {split} --format folder"
        ));
    }
    let caption = |split: &str| std::fs::read_to_string(desk.path(split).join("000000/0000000.txt")).unwrap();
    assert!(caption("train") != caption("held-out"));
    let record = std::fs::read_to_string(desk.path("held-out/000000/0000001.json")).unwrap();
    assert!(record.contains("\"split\":\"held-out\""), "{record}");
}

#[test]
fn scenes_that_cannot_be_made_are_refused_with_what_to_do() {
    let desk = Desk::new();
    let stderr = desk.fail("dataset sprites --out scenes --count 1");
    assert!(stderr.contains("concepts.json") && stderr.contains("hint: "), "{stderr}");
    let desk = Desk::new();
    desk.succeed(&format!("dataset sprites {ART} --out scenes --count 1 --size 16"));
    let stderr = desk.fail(&format!("dataset sprites {ART} --out scenes --count 1 --size 16 --seed 1"));
    assert!(stderr.contains("\"seed\":0") && stderr.contains("\"seed\":1") && stderr.contains("hint: "), "{stderr}");
    let stderr = desk.fail(&format!("dataset sprites {ART} --sheet sheet.jpg"));
    assert!(stderr.contains("sheet.jpg") && stderr.contains(".png"), "{stderr}");
    let stderr = desk.fail(&format!("dataset sprites {ART}"));
    assert!(stderr.contains("--out"), "{stderr}");
    let stderr = desk.fail(&format!("dataset sprites {ART} --out x --count 0"));
    assert!(stderr.contains("--count"), "{stderr}");
    assert_eq!(desk.files(), ["scenes"]);
}
