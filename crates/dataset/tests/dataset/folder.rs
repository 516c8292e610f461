use rectiflow_dataset::{Change, Reason};

use crate::support::{dataset, ids, opened, png, reasons, texts, write};

#[test]
fn pictures_are_found_in_all_folders_with_the_texts_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = png(40, 40);
    write(
        folder.path(),
        &[
            ("b.PNG", &bytes),
            ("b.txt", b" a red apple\n"),
            ("a/deep/c.jpeg", &bytes),
            ("a/deep/c.caption", "\u{feff}zwei \u{c4}pfel".as_bytes()),
            ("a/deep/c.json", br#"{"caption": "unused?", "synthetic": ["one", "two", ""], "n": 3}"#),
            ("d.webp", &bytes),
            ("d.txt", b"from txt"),
            ("d.caption", b"from caption"),
            (".hidden.png", &bytes),
            ("notes.md", b"x"),
        ],
    );
    let source = opened(folder.path());
    assert_eq!(ids(source.as_ref()), ["a/deep/c.jpeg", "b.PNG", "d.webp"]);
    assert_eq!(texts(source.as_ref(), 0), ["caption=zwei \u{c4}pfel", "synthetic=one", "synthetic=two"]);
    assert_eq!(texts(source.as_ref(), 1), ["caption=a red apple"]);
    assert_eq!(texts(source.as_ref(), 2), ["caption=from txt"]);
    assert_eq!(source.picture(1).unwrap(), bytes);
    assert_eq!(source.picture_start(1, 8).unwrap(), bytes[..8]);
}

#[test]
fn every_sample_that_is_left_out_is_listed_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = png(40, 40);
    let long = "word ".repeat(20_000);
    let cut = &bytes[..bytes.len() / 2];
    write(
        folder.path(),
        &[
            ("good.png", &bytes),
            ("good.txt", b"good"),
            ("long.png", &bytes),
            ("long.txt", long.as_bytes()),
            ("no_caption.png", &bytes),
            ("blank.png", &bytes),
            ("blank.txt", b" \n\t"),
            ("latin1.png", &bytes),
            ("latin1.txt", b"caf\xe9"),
            ("huge_caption.png", &bytes),
            ("huge_caption.txt", &vec![b'x'; 2 << 20]),
            ("bad_json.png", &bytes),
            ("bad_json.json", b"{\"caption\": "),
            ("empty.png", b""),
            ("empty.txt", b"x"),
            ("text.png", b"<html>not found</html>"),
            ("text.txt", b"x"),
            ("scan.tiff", b"II*\0"),
            ("pixel.png", &png(1, 1)),
            ("pixel.txt", b"x"),
            ("cut.png", cut),
            ("cut.txt", b"x"),
        ],
    );
    let (read, findings) = dataset(folder.path(), "check = \"pixels\"").unwrap();
    let kept: Vec<String> = read.kept().iter().map(|one| read.id(one.sample)).collect();
    assert_eq!(kept, ["good.png", "long.png"]);
    assert_eq!(read.caption(0, 0, read.kept()[1].sample).unwrap(), long.trim());
    assert_eq!(findings.changes[&Change::LongCaption], 1);
    let listed = reasons(&findings);
    let reason = |id: &str| listed.iter().find(|(one, _)| *one == id).map(|(_, reason)| (*reason).clone());
    assert_eq!(reason("scan.tiff"), Some(Reason::UnreadFormat("tiff".into())));
    assert_eq!(reason("no_caption.png"), Some(Reason::NoCaption));
    assert_eq!(reason("blank.png"), Some(Reason::NoCaption));
    assert_eq!(reason("latin1.png"), Some(Reason::CaptionNotUtf8));
    assert!(matches!(reason("huge_caption.png"), Some(Reason::CaptionBytes { bytes: 0x0020_0000, .. })));
    assert!(matches!(reason("bad_json.png"), Some(Reason::BadJson(_))));
    assert_eq!(reason("empty.png"), Some(Reason::EmptyPicture));
    assert_eq!(reason("text.png"), Some(Reason::NotAPicture));
    assert!(matches!(reason("pixel.png"), Some(Reason::TooSmall { min: 32, .. })));
    assert_eq!(reason("cut.png"), Some(Reason::PictureCutShort));
    assert_eq!((listed.len(), findings.kept), (10, 2));
}

#[test]
fn samples_without_captions_are_kept_if_that_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = png(40, 40);
    write(
        folder.path(),
        &[("a.png", &bytes), ("b.png", &bytes), ("b.txt", b"caf\xe9"), ("c.png", &bytes), ("c.txt", b"c")],
    );
    let (read, findings) = dataset(folder.path(), "without_caption = \"empty\"").unwrap();
    assert_eq!((findings.kept, findings.changes[&Change::EmptyCaption], findings.left_out.len()), (3, 2, 0));
    let captions: Vec<String> = (0..3).map(|sample| read.caption(1, 1, sample).unwrap()).collect();
    assert_eq!(captions, ["", "", "c"]);
}

#[cfg(unix)]
#[test]
fn links_to_files_are_followed_and_links_to_folders_listed() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("a.png", &png(40, 40)), ("a.txt", b"a"), ("b.txt", b"b")]);
    std::os::unix::fs::symlink("a.png", folder.path().join("b.png")).unwrap();
    std::os::unix::fs::symlink("nowhere.png", folder.path().join("c.png")).unwrap();
    std::os::unix::fs::symlink(".", folder.path().join("round")).unwrap();
    let (_, findings) = dataset(folder.path(), "").unwrap();
    assert_eq!(findings.kept, 2);
    assert_eq!(reasons(&findings), [("round", &Reason::LinkToFolder), ("c.png", &Reason::PictureNotThere)]);
}
