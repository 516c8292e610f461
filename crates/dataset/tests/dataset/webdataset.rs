use rectiflow_dataset::{Dataset, DatasetError, Reason};

use crate::support::{dataset, ids, opened, png, reasons, settings, texts, write};

fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn members_of_one_key_are_a_sample() {
    let folder = tempfile::tempdir().unwrap();
    let (small, large) = (png(40, 40), png(50, 60));
    let long_name = format!("{}/0003.png", "long".repeat(40));
    let one = tar(&[
        ("0001.png", &small),
        ("0001.txt", b"an apple"),
        ("0001.json", br#"{"synthetic": "red", "caption": "unused"}"#),
        ("./0002.JPG", &large),
        ("./0002.cls", b"7"),
        ("._0002.jpg", b"x"),
    ]);
    let two = tar(&[(&long_name, &large), ("0004.txt", b"no picture")]);
    write(folder.path(), &[("sub/b.tar", &two), ("a.tar", &one)]);
    let source = opened(folder.path());
    let long_id = format!("sub/b.tar/{}/0003", "long".repeat(40));
    assert_eq!(ids(source.as_ref()), ["a.tar/0001", "a.tar/0002", &long_id]);
    assert_eq!(texts(source.as_ref(), 0), ["caption=an apple", "synthetic=red"]);
    assert_eq!(texts(source.as_ref(), 1), ["cls=7"]);
    assert_eq!(source.picture_name(1).unwrap(), "0002.jpg");
    for (number, bytes) in [(2, &large), (0, &small), (1, &large)] {
        assert_eq!(source.picture(number).unwrap(), *bytes);
    }
    assert_eq!(source.picture_start(2, 9).unwrap(), large[..9]);
    let left_out: Vec<_> = source.left_out().iter().map(|one| (one.id.as_str(), &one.reason)).collect();
    assert_eq!(left_out, [("sub/b.tar/0004", &Reason::NoPicture)]);
    assert_eq!(ids(opened(&folder.path().join("a.tar")).as_ref()), ["a.tar/0001", "a.tar/0002"]);
}

#[test]
fn of_several_pictures_the_one_with_a_plain_extension_is_used_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let [plain, depth, other] = [png(40, 40), png(50, 50), png(60, 60)];
    let shard = tar(&[
        ("0.depth.png", &depth),
        ("0.png", &plain),
        ("0.txt", b"zero"),
        ("1.depth.png", &depth),
        ("1.png", &plain),
        ("1.jpg", &other),
        ("1.txt", b"one"),
        ("2.v1.png", &plain),
        ("2.v2.png", &other),
        ("2.txt", b"two"),
        ("3.crop.png", &plain),
        ("3.txt", b"three"),
        ("4.depth.png", &depth),
        ("4.tif", b"II*"),
        ("4.txt", b"four"),
        ("5.depth.png", &depth),
        ("5.png", &plain),
        ("5.txt", b"five"),
    ]);
    write(folder.path(), &[("a.tar", &shard)]);
    let (read, findings) = dataset(folder.path(), "").unwrap();
    assert!(read.kept().iter().all(|one| one.size.width_px == 40), "{:?}", read.kept());
    let choices: Vec<(&str, u64)> = findings.several_pictures.iter().map(|(one, count)| (&one[..], *count)).collect();
    assert_eq!(
        choices,
        [
            ("`png` is used, not `depth.png`", 2),
            ("`png` is used, not `depth.png`, `jpg`", 1),
            ("`v1.png` is used, not `v2.png`", 1),
        ]
    );
    let said = findings.to_string();
    assert!(said.contains("\n  2 with several pictures, of which `png` is used, not `depth.png`\n"), "{said}");
    assert_eq!(reasons(&findings), [("a.tar/4", &Reason::UnreadFormat("tif".into()))]);
    let (_, without_texts) = Dataset::open_pictures(&settings(folder.path(), "")).unwrap();
    assert_eq!(without_texts.several_pictures, findings.several_pictures);
}

#[cfg(unix)]
#[test]
fn linked_folders_of_shards_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let shard = tar(&[("0.png", &png(40, 40)), ("0.txt", b"zero")]);
    write(folder.path(), &[("elsewhere/b.tar", &shard), ("here/a.txt", b"")]);
    std::os::unix::fs::symlink("../elsewhere", folder.path().join("here/more")).unwrap();
    let here = folder.path().join("here");
    for kind in ["", "kind = \"webdataset\""] {
        let error = dataset(&here, kind).map(drop).unwrap_err().to_string();
        assert!(error.contains("; links to folders (`more`) are not followed\nhint: "), "{error}");
    }
    write(&here, &[("a.tar", &shard)]);
    let (_, findings) = dataset(&here, "").unwrap();
    assert_eq!((findings.kept, reasons(&findings)), (1, vec![("more", &Reason::LinkToFolder)]));
}

#[test]
fn a_shard_that_was_cut_keeps_its_whole_samples() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = png(200, 200);
    let whole = tar(&[("1.txt", b"one"), ("1.png", &bytes), ("2.txt", b"two"), ("2.png", &bytes)]);
    // In the second picture, in the padding before it, and where its header would begin.
    let second = 3 * 512 + bytes.len().next_multiple_of(512) + 2 * 512;
    for (cut, lost) in
        [(second + 700, Reason::ShardCutShort), (second - 100, Reason::NoPicture), (second, Reason::NoPicture)]
    {
        write(folder.path(), &[("a.tar", &whole[..cut])]);
        let (read, findings) = dataset(folder.path(), "").unwrap();
        assert_eq!(read.kept().len(), 1);
        let after = if cut > second { "2.png" } else { "2.txt" };
        let unfinished = Reason::ShardUnfinished { after: after.into() };
        assert_eq!(reasons(&findings), [("a.tar", &unfinished), ("a.tar/2", &lost)], "{cut}");
    }
    // A header that is no longer one.
    let mut damaged = whole.clone();
    damaged[second + 3] = 0xff;
    write(folder.path(), &[("a.tar", &damaged)]);
    let (_, findings) = dataset(folder.path(), "").unwrap();
    assert_eq!(reasons(&findings)[0], ("a.tar", &Reason::ShardUnfinished { after: "2.txt".into() }));
}

#[test]
fn what_is_no_tar_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("a.tar", &[7; 2_000])]);
    let error = dataset(folder.path(), "").map(|_| ()).unwrap_err();
    assert!(matches!(error, DatasetError::Damaged { .. }), "{error}");
}
