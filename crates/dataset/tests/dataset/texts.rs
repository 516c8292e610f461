//! Texts without pictures.

use std::path::Path;

use rectiflow_dataset::{Dataset, DatasetError, Reason, Texts};

use crate::support::{ART, png, reasons, settings, write};

#[test]
fn each_line_of_a_file_is_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let json = b"\"a red fox\"\n{\"text\": \"two cats\", \"id\": 5}\n\n[1]\n{\"other\": \"x\"}\n";
    write(folder.path(), &[("a.txt", b"a red fox\n\n two cats \r\n\xff\n"), ("b.jsonl", json)]);
    for (name, left_out) in [
        ("a.txt", vec![("line 4", Reason::CaptionNotUtf8)]),
        (
            "b.jsonl",
            vec![
                ("line 4", Reason::BadJson("it is neither a text nor an object".into())),
                ("line 5", Reason::NoCaption),
            ],
        ),
    ] {
        let (texts, findings) = Texts::open(&settings(&folder.path().join(name), "kind = \"texts\"")).unwrap();
        let found: Vec<String> = texts.kept().iter().map(|sample| texts.text(1, 2, *sample).unwrap()).collect();
        assert_eq!(found, ["a red fox", "two cats"], "{name}");
        let expected: Vec<(&str, &Reason)> = left_out.iter().map(|(id, reason)| (*id, reason)).collect();
        assert_eq!(reasons(&findings), expected, "{name}");
    }
    let error = Texts::open(&settings(folder.path(), "kind = \"texts\"")).map(drop).unwrap_err().to_string();
    assert!(error.contains("2 files of texts"), "{error}");
}

#[test]
fn captions_of_pictures_are_texts_too_and_the_pictures_are_not_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        &[("a.png", &png(40, 40)), ("a.txt", b"a red fox"), ("b.png", b"damaged"), ("b.txt", b"cats")],
    );
    let (texts, findings) = Texts::open(&settings(folder.path(), "")).unwrap();
    assert_eq!((texts.kept(), findings.left_out.len()), (&[0, 1][..], 0));
    assert_eq!((texts.text(0, 0, 1).unwrap(), texts.id(1)), ("cats".to_owned(), "b.png".to_owned()));
}

#[test]
fn captions_of_scenes_are_texts_too() {
    let typed = |more: &str| settings(Path::new(ART), &format!("kind = \"sprites\"\n{more}"));
    let (dataset, _) = Dataset::open(&typed("count = 7")).unwrap();
    // Nothing is drawn, so no side is needed.
    for side_px in [32, 0] {
        let (texts, findings) =
            Texts::open(&rectiflow_dataset::DataSettings { side_px, ..typed("count = 7") }).unwrap();
        assert_eq!((texts.kept().len(), findings.left_out.len()), (7, 0));
        for sample in 0..7 {
            assert_eq!(texts.text(0, 0, sample).unwrap(), dataset.caption(0, 0, sample).unwrap());
        }
    }
    assert!(matches!(Texts::open(&typed("")).map(drop), Err(DatasetError::Settings { .. })));
}

#[test]
fn texts_alone_are_no_data_set_of_pictures() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("a.txt", b"a red fox\n")]);
    let error = Dataset::open(&settings(folder.path(), "kind = \"texts\"")).map(drop).unwrap_err().to_string();
    assert!(error.contains("it has no picture"), "{error}");
}
