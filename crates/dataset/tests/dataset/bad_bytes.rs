//! Bytes that nobody wrote on purpose: everything that reads them answers, and nothing panics.

use image::ImageFormat;
use proptest::prelude::*;
use rectiflow_dataset::{Background, decode, inspect};

use crate::support::{dataset, encoded, picture, png, write};

/// The first bytes of what is read.
const BEGINNINGS: [&[u8]; 8] = [
    b"",
    b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR",
    b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    b"RIFF\x40\0\0\0WEBPVP8 ",
    b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0",
    b"GIF89a",
    b"BM",
    b"PAR1",
];

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    (0..BEGINNINGS.len(), proptest::collection::vec(any::<u8>(), 0..600))
        .prop_map(|(beginning, rest)| [BEGINNINGS[beginning], &rest[..]].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_pictures(bytes in bytes()) {
        let _ = inspect(&bytes, Some("x.gif"), 1_000_000);
        let _ = decode(&bytes, Background::WHITE, 1_000_000);
    }

    #[test]
    fn pictures_with_a_few_bytes_changed(
        format in 0..5_usize, changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let format = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp][format];
        let mut bytes = encoded(picture(12, 9), format);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let _ = decode(&bytes, Background::WHITE, 1_000_000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn random_files_of_every_name(contents in proptest::collection::vec(bytes(), 13)) {
        const NAMES: [&str; 13] = [
            "a.png", "a.txt", "a.json", "b.jpg", "b.caption", "c.webp", "d.gif", "e.bmp", "f.jpeg", "f.json",
            "x.tar", "x.parquet", "x.jsonl",
        ];
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<(&str, &[u8])> = NAMES.into_iter().zip(contents.iter().map(Vec::as_slice)).collect();
        write(folder.path(), &files);
        for kind in ["folder", "webdataset", "parquet", "jsonl"] {
            let more = format!("kind = \"{kind}\"\nwithout_caption = \"empty\"\nenlarge = true\nside_px_min = 1\ncheck = \"pixels\"");
            let _ = dataset(folder.path(), &more);
        }
    }

    #[test]
    fn shards_with_a_few_bytes_changed(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in [("1.png", &png(40, 40)[..]), ("1.txt", b"one"), ("2.png", &png(50, 50)), ("2.txt", b"two")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, content).unwrap();
        }
        let mut bytes = builder.into_inner().unwrap();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        write(folder.path(), &[("x.tar", &bytes)]);
        let _ = dataset(folder.path(), "without_caption = \"empty\"\ncheck = \"pixels\"");
    }
}
