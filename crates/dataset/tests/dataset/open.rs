use std::path::Path;

use image::ImageFormat;
use rectiflow_dataset::{Change, DataSettings, Dataset, DatasetError, Kind, Reason, Size, Tail};

use crate::support::{dataset, encoded, picture, png, reasons, settings, write};

#[track_caller]
fn error(path: &Path, more: &str) -> DatasetError {
    dataset(path, more).map(|_| ()).unwrap_err()
}

#[test]
fn what_is_not_there_or_nothing_is_said_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    assert!(matches!(error(&root.join("nowhere"), ""), DatasetError::NotFound { .. }));
    assert!(matches!(error(root, ""), DatasetError::Unrecognised { .. }));
    assert!(matches!(error(root, "kind = \"folder\""), DatasetError::NoCaptions { .. }));
    write(root, &[("x.zip", b"PK")]);
    assert!(error(root, "").to_string().contains("1 files are in it"));
    assert!(error(&root.join("x.zip"), "").to_string().contains("hint: "));
    write(root, &[("a.tar", b""), ("b.parquet", b"")]);
    assert!(error(root, "").to_string().contains("both .tar and .parquet"));
    assert!(error(&root.join("a.tar"), "kind = \"parquet\"").to_string().contains("it is no .parquet file"));
    assert!(matches!(error(&root.join("b.parquet"), ""), DatasetError::Damaged { .. }));
}

#[test]
fn the_kind_shows_from_what_is_inside() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let source = |kind: Option<Kind>| rectiflow_dataset::open(root, kind, None).map(|source| source.count());
    write(root, &[("a.png", &png(40, 40)), ("list.jsonl", b"{\"file\": \"a.png\"}\n{\"file\": \"a.png\"}\n")]);
    assert_eq!(source(None).unwrap(), 1);
    assert_eq!(source(Some(Kind::Jsonl)).unwrap(), 2);
    assert!(source(Some(Kind::WebDataset)).is_err());
    write(
        root,
        &[("metadata.jsonl", b"{\"file_name\": \"a.png\"}\n{\"file_name\": \"a.png\"}\n{\"file_name\": \"a.png\"}\n")],
    );
    assert_eq!(source(None).unwrap(), 3);
    assert_eq!(source(Some(Kind::Folder)).unwrap(), 1);
}

#[test]
fn captions_are_of_a_column_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let bytes = png(40, 40);
    write(root, &[("a.png", &bytes), ("b.png", &bytes)]);
    assert!(matches!(error(root, ""), DatasetError::NoCaptions { .. }));
    write(root, &[("a.json", br#"{"long": "l", "short": "s"}"#), ("b.json", br#"{"long": "only long"}"#)]);
    assert!(matches!(error(root, ""), DatasetError::WhichCaptions { columns, .. } if columns == ["long", "short"]));
    let wrong = error(root, "captions = { long = 0.5, synthetic = 0.5 }");
    assert_eq!(
        wrong.to_string(),
        format!(
            "no sample of `{}` has a caption `synthetic`; there are `long`, `short`\nhint: name one of these in `data.source.captions`",
            root.display()
        )
    );
    let (read, findings) = dataset(root, "captions = { long = 0.5, short = 0.5 }").unwrap();
    assert_eq!((findings.kept, findings.changes[&Change::FewerCaptions]), (2, 1));
    let drawn = |sample| -> std::collections::BTreeSet<String> {
        (0..40).map(|epoch| read.caption(1, epoch, sample).unwrap()).collect()
    };
    assert!(drawn(0).into_iter().eq(["l", "s"]) && drawn(1).into_iter().eq(["only long"]));
    // A share of 0 asks for nothing.
    assert!(dataset(root, "captions = { long = 1, synthetic = 0 }").is_ok());
}

#[test]
fn pictures_alone_need_no_caption_and_no_choice_among_several() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let bytes = png(40, 40);
    write(root, &[("a.png", &bytes), ("b.png", &bytes), ("c.png", b"")]);
    write(root, &[("a.json", br#"{"url": "u", "alt": "a"}"#), ("b.json", b"damaged")]);
    assert!(matches!(error(root, ""), DatasetError::WhichCaptions { .. }));
    for more in ["", "captions = { prompt = 1 }"] {
        let (read, findings) = Dataset::open_pictures(&settings(root, more)).unwrap();
        assert_eq!((read.kept().len(), findings.left_out.len()), (2, 1));
        assert!(findings.changes.is_empty(), "nobody misses a caption: {findings}");
        assert_eq!(read.picture(read.kept()[1]).unwrap().picture.dimensions(), (32, 32));
    }
}

#[test]
fn small_pictures_are_left_out_or_enlarged() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, &[("a.png", &png(100, 30)), ("a.txt", b"a")]);
    let refused = error(root, "side_px_min = 8").to_string();
    assert!(refused.contains("its picture has 100x30 px"), "{refused}");
    assert!(refused.contains("enlarge = true"));
    let (read, findings) = dataset(root, "side_px_min = 8\nenlarge = true").unwrap();
    assert_eq!(findings.changes[&Change::Enlarged], 1);
    let prepared = read.picture(read.kept()[0]).unwrap();
    assert_eq!((prepared.picture.dimensions(), prepared.window.size), ((32, 32), Size::new(30, 30)));
    assert_eq!((prepared.window.x_px, prepared.window.y_px), (35, 0));
}

#[test]
fn batches_have_one_size_and_pictures_come_at_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for number in 0..12_u32 {
        let (width, height) = if number % 3 == 0 { (120 + number, 60) } else { (60, 60 + number) };
        let name = format!("{number:02}");
        write(root, &[(&format!("{name}.png"), &png(width, height)), (&format!("{name}.txt"), name.as_bytes())]);
    }
    let typed = "crop = \"buckets\"\nbuckets = { step_px = 16, ratio_max = 3 }\nflip = true";
    let (read, findings) = dataset(root, typed).unwrap();
    assert_eq!(findings.kept, 12);
    let batches = read.batches(4, Tail::Drop, 9).unwrap();
    let mut samples: Vec<u64> = Vec::new();
    for number in 0..batches.before_epoch(1) {
        let batch = batches.batch(number);
        let size = read.buckets().sizes()[batch.bucket];
        for drawn in &batch.drawn {
            let one = *read.kept().iter().find(|one| one.sample == drawn.sample).unwrap();
            let plain = read.picture(one).unwrap().picture;
            assert_eq!(plain.dimensions(), (size.width_px, size.height_px));
            let mirrored = image::imageops::flip_horizontal(&plain);
            let augmented: Vec<_> = (0..20).map(|epoch| read.augmented(9, epoch, one).unwrap().picture).collect();
            assert!(augmented.iter().all(|picture| *picture == plain || *picture == mirrored));
            assert!(augmented.contains(&plain) && augmented.contains(&mirrored));
        }
        samples.extend(batch.drawn.iter().map(|drawn| drawn.sample));
    }
    samples.sort_unstable();
    assert!(samples.into_iter().eq(0..12));
}

#[test]
fn a_source_may_come_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("a.png", &png(40, 40)), ("a.txt", b"a")]);
    let typed: DataSettings = settings(folder.path(), "");
    let source = rectiflow_dataset::open(folder.path(), None, None).unwrap();
    let (read, _) = Dataset::over(source, typed.sizes().unwrap(), &typed).unwrap();
    assert_eq!(read.id(0), "a.png");
}

#[test]
fn a_sample_that_vanishes_later_is_an_error_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("a.png", &png(40, 40)), ("a.txt", b"a")]);
    let (read, _) = dataset(folder.path(), "").unwrap();
    std::fs::remove_file(folder.path().join("a.png")).unwrap();
    assert_eq!(read.picture(read.kept()[0]).unwrap_err(), Reason::PictureNotThere);
}

#[test]
fn a_caption_that_cannot_be_read_is_no_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = png(40, 40);
    write(folder.path(), &[("a.png", &bytes), ("a.txt", b"a"), ("b.png", &bytes)]);
    let typed = "without_caption = \"empty\"";
    let (read, _) = dataset(folder.path(), typed).unwrap();
    // A folder of that name stands for a disk that fails for a moment.
    std::fs::remove_file(folder.path().join("a.txt")).unwrap();
    std::fs::create_dir(folder.path().join("a.txt")).unwrap();
    let unreadable = Reason::Unreadable("it is not a file".into());
    assert_eq!(read.caption(0, 0, 0).unwrap_err(), unreadable);
    assert_eq!(read.caption(0, 0, 1).unwrap(), "");
    // From the beginning, it is left out.
    let (read, findings) = dataset(folder.path(), typed).unwrap();
    assert_eq!((read.kept().len(), reasons(&findings)), (1, vec![("a.png", &unreadable)]));
    assert_eq!(findings.left_out[0].sample, Some(0));
}

#[test]
fn a_size_that_stands_far_behind_the_beginning_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let jpeg = encoded(picture(48, 40), ImageFormat::Jpeg);
    // Comments, as cameras' notes and previews take the room before the size.
    let comment = [&[0xff, 0xfe, 0xff, 0xff][..], &[b'x'; 0xfffd]].concat();
    let bytes = [&jpeg[..2], &comment.repeat(4), &jpeg[2..]].concat();
    write(folder.path(), &[("a.jpg", &bytes), ("a.txt", b"a")]);
    let (read, _) = dataset(folder.path(), "").unwrap();
    assert_eq!(read.kept()[0].size, Size::new(48, 40));
    assert_eq!(read.picture(read.kept()[0]).unwrap().window.size, Size::new(40, 40));
}
