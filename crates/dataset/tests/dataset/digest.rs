//! That digests tell data sets apart.

use rectiflow_dataset::Texts;

use crate::support::{dataset, png, settings, write};

#[test]
fn a_data_set_that_is_renamed_resized_or_grown_has_another_digest() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, &[("a.png", &png(40, 40)), ("a.txt", b"a"), ("b.png", &png(40, 40)), ("b.txt", b"b")]);
    let digest = |more: &str| dataset(root, more).unwrap().0.digest();
    let mut seen = vec![digest("")];
    assert_eq!(digest("check = \"pixels\""), seen[0], "how closely it is looked at changes nothing");
    // Neither do texts.
    write(root, &[("a.txt", b"another")]);
    assert_eq!(digest(""), seen[0]);

    seen.push(digest("crop = \"buckets\"\nbuckets = [[16, 16]]"));
    write(root, &[("a.png", &png(40, 48))]);
    seen.push(digest(""));
    std::fs::rename(root.join("a.png"), root.join("c.png")).unwrap();
    std::fs::rename(root.join("a.txt"), root.join("c.txt")).unwrap();
    seen.push(digest(""));
    write(root, &[("d.png", &png(40, 40)), ("d.txt", b"d")]);
    seen.push(digest(""));
    let mut different = seen.clone();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), seen.len(), "{seen:?}");
}

#[test]
fn texts_are_told_apart_by_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("texts.txt");
    let digest = |texts: &str| {
        std::fs::write(&path, texts).unwrap();
        Texts::open(&settings(&path, "kind = \"texts\"")).unwrap().0.digest()
    };
    let one = digest("a red fox\ntwo cats\n");
    assert_eq!(digest("a red fox\ntwo cats\n"), one);
    for other in ["a red fox\ntwo dogs\n", "two cats\na red fox\n", "a red fox\n", "a red foxtwo cats\n"] {
        assert_ne!(digest(other), one, "{other}");
    }
}
