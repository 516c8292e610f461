//! Every way in which a file can be wrong has its own error, and every message says what to do.

use std::path::Path;

use rectiflow_nn::ParamSource;
use rectiflow_weights::{Foreign, HeaderError, PartKind, TensorFile, WeightsError};

use crate::craft::{message, open_model, safetensors, scratch, with_header, zeros};

fn open(content: &[u8]) -> WeightsError {
    let file = scratch("file.safetensors", content);
    let error = TensorFile::open(&file.path).unwrap_err();
    assert!(message(&error).0.contains("file.safetensors"), "{error}");
    error
}

#[track_caller]
fn header_error(content: &[u8]) -> HeaderError {
    match open(content) {
        WeightsError::BadHeader { problem, .. } => problem,
        other => panic!("{other}"),
    }
}

fn one(entry: &str, data: &[u8]) -> HeaderError {
    header_error(&with_header(&format!(r#"{{"a":{entry}}}"#), data))
}

#[test]
fn lengths_that_do_not_fit() {
    assert_eq!(header_error(b""), HeaderError::Empty);
    assert_eq!(header_error(b"1234567"), HeaderError::TooShort { bytes: 7 });
    let lie = |header: u64| [&header.to_le_bytes()[..], b"{}"].concat();
    assert_eq!(header_error(&lie(3)), HeaderError::HeaderPastEnd { header: 3, file: 10 });
    assert_eq!(header_error(&lie(16 << 20)), HeaderError::HeaderPastEnd { header: 16 << 20, file: 10 });
    assert_eq!(header_error(&lie(100_000_000)), HeaderError::HeaderTooLong { header: 100_000_000 });
    assert_eq!(header_error(&lie(100_000_001)), HeaderError::NotALength);
    assert_eq!(header_error(&lie(u64::MAX)), HeaderError::NotALength);
    let long = with_header(&" ".repeat((16 << 20) + 1), b"");
    assert_eq!(header_error(&long), HeaderError::HeaderTooLong { header: (16 << 20) + 1 });
}

#[test]
fn a_file_cut_short_says_how_long_it_should_be() {
    let whole = safetensors(&[zeros("a", &[4]), zeros("b", &[100])]);
    let cut = &whole[..whole.len() - 150];
    let error = open(cut);
    let (problem, hint) = message(&error);
    assert!(problem.contains(&format!("expected {} bytes, it has {}", whole.len(), cut.len())), "{problem}");
    assert!(hint.contains("download it again"), "{hint}");
    let (expected, found) = (whole.len() as u64, whole.len() as u64 + 1);
    assert_eq!(header_error(&[&whole[..], b"x"].concat()), HeaderError::Trailing { expected, found });
}

/// Eight letters, read as a length, are far more than any header has.
#[test]
fn a_text_is_no_interrupted_download() {
    let error = open(b"# Rectiflow\n\nStable Diffusion 3 on your own machine.\n");
    let (problem, hint) = message(&error);
    assert!(problem.contains("is not a safetensors file"), "{problem}");
    assert!(!problem.contains("interrupted") && !hint.contains("download"), "{error}");
    let interrupted = safetensors(&[zeros("a", &[4])]);
    assert!(message(&open(&interrupted[..20])).1.contains("interrupted"));
}

#[test]
fn json_that_is_no_header() {
    for json in [
        "",
        "[]",
        " {}",
        "{",
        r#"{"a":1}"#,
        r#"{"a":{"dtype":"F32","shape":[1]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}"#,
        r#"{"__metadata__":{"a":1}}"#,
    ] {
        assert!(matches!(header_error(&with_header(json, b"1234")), HeaderError::Malformed(_)), "{json}");
    }
    let not_unicode = [&3_u64.to_le_bytes()[..], b"{\xff}"].concat();
    assert!(matches!(header_error(&not_unicode), HeaderError::Malformed(_)));
}

#[test]
fn tensors_that_do_not_fit_their_bytes() {
    let name = || "a".to_owned();
    assert_eq!(
        one(r#"{"dtype":"F33","shape":[1],"data_offsets":[0,4]}"#, b"1234"),
        HeaderError::UnknownDtype { name: name(), dtype: "F33".to_owned() }
    );
    assert!(matches!(
        one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#, b"1234"),
        HeaderError::WrongLength { expected: 8, found: 4, .. }
    ));
    assert_eq!(
        one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#, b"1234"),
        HeaderError::Backwards { name: name() }
    );
    for shape in ["4294967296,4294967296", "18446744073709551615,2,0", "4611686018427387904"] {
        let entry = format!(r#"{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,4]}}"#);
        assert!(matches!(one(&entry, b"1234"), HeaderError::ImpossibleShape { .. }), "{shape}");
    }
    // However its dimensions are ordered, a shape is possible or not.
    for shape in ["0,18446744073709551615,2", "2,18446744073709551615,0", "9223372036854775808,0"] {
        let entry = format!(r#"{{"dtype":"F16","shape":[{shape}],"data_offsets":[0,0]}}"#);
        assert!(matches!(one(&entry, b""), HeaderError::ImpossibleShape { .. }), "{shape}");
    }
    let half_a_byte = one(r#"{"dtype":"F4","shape":[1],"data_offsets":[0,1]}"#, b"1");
    assert!(matches!(half_a_byte, HeaderError::ImpossibleShape { .. }));
}

#[test]
fn tensors_that_do_not_fit_together() {
    let two = |a: &str, b: &str| {
        let entry = |at: &str| format!(r#"{{"dtype":"U8","shape":[4],"data_offsets":[{at}]}}"#);
        header_error(&with_header(&format!(r#"{{"a":{},"b":{}}}"#, entry(a), entry(b)), b"12345678"))
    };
    assert_eq!(two("0,4", "3,7"), HeaderError::Overlap { name: "b".to_owned() });
    assert_eq!(two("1,5", "5,9"), HeaderError::Hole { name: "a".to_owned(), bytes: 1 });
    assert!(matches!(two("4,8", "8,12"), HeaderError::Hole { .. }));
    assert!(matches!(two("0,4", "18446744073709551611,18446744073709551615"), HeaderError::Hole { .. }));
    let entry = r#""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
    assert_eq!(
        header_error(&with_header(&format!("{{{entry},{entry}}}"), b"1234")),
        HeaderError::Duplicate { name: "a".to_owned() }
    );
}

#[test]
fn other_formats_are_named() {
    for (start, what) in [
        (&b"PK\x03\x04\0\0\0\0\0\0\0\0"[..], Foreign::PytorchZip),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j", Foreign::Pickle),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4", Foreign::LfsPointer),
        (b"<!DOCTYPE html><html>", Foreign::WebPage),
    ] {
        let error = open(start);
        assert!(matches!(error, WeightsError::Foreign { what: found, .. } if found == what), "{error}");
    }
}

/// The length of a header can begin like a pickle, and such a file is read.
#[test]
fn a_header_whose_length_looks_like_a_pickle_is_read() {
    let json = format!("{{{}}}", " ".repeat(0x280 - 2));
    let file = scratch("file.safetensors", &with_header(&json, b""));
    assert!(TensorFile::open(&file.path).unwrap().tensors().is_empty());
    assert!(matches!(open(&with_header(&json, b"x")), WeightsError::BadHeader { .. }));
}

#[test]
fn what_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| {
        let error = TensorFile::open(path).unwrap_err();
        message(&error);
        error
    };
    assert!(matches!(open(folder.path()), WeightsError::IsFolder { .. }));
    assert!(matches!(open(&folder.path().join("none")), WeightsError::NotFound { .. }));
    assert!(matches!(open(&folder.path().join("a\0b")), WeightsError::Unreadable { .. }));
    #[cfg(unix)]
    assert!(matches!(open(Path::new("/dev/zero")), WeightsError::NotAFile { .. }));
}

#[test]
fn names_from_a_file_cannot_command_the_terminal() {
    let json = r#"{"\u001b[2J\n":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}"#;
    let error = open(&with_header(json, b"1234")).to_string();
    assert!(!error.contains('\u{1b}'), "{error:?}");
    let long = format!(r#"{{"{}":{{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}}}"#, "x".repeat(10_000));
    assert!(open(&with_header(&long, b"1234")).to_string().len() < 600);
}

/// A file that fuzzing starts from.
fn seed(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/safetensors_header").join(name)).unwrap()
}

#[test]
fn a_block_with_the_largest_number_is_survived() {
    let file = scratch("file.safetensors", &seed("largest_block_number"));
    let checkpoint = open_model(&file.path).unwrap();
    let part = checkpoint.part(PartKind::Transformer).unwrap();
    assert_eq!((part.inventory().tensors, part.source().shape("pos_embed")), (1, None));
    assert!(part.source().finish().is_err());
}

/// Both are empty, so they take no bytes, and their rows together are more than a number holds.
#[test]
fn rows_that_do_not_add_up_are_impossible() {
    let problem = header_error(&seed("rows_past_the_largest_number"));
    assert!(matches!(problem, HeaderError::ImpossibleShape { .. }), "{problem}");
}
