//! Every way in which a GGUF file can be wrong has its own error, and every message says what to do.

use rectiflow_weights::{Dtype, GgufError, Header, TensorFile, WeightsError};

use crate::craft::{F32, Gguf, Q8_0, array, message, scratch, text};

#[track_caller]
fn error(content: &[u8]) -> GgufError {
    let file = scratch("file.gguf", content);
    let error = TensorFile::open(&file.path).unwrap_err();
    assert!(message(&error).0.contains("file.gguf"), "{error}");
    match error {
        WeightsError::BadGguf { problem, .. } => problem,
        other => panic!("{other}"),
    }
}

fn one() -> Gguf {
    Gguf::of(&[("a", &[32, 2], F32), ("b", &[64, 2], Q8_0)])
}

#[test]
fn a_whole_file_is_read() {
    let bytes = one().bytes();
    let header = Header::parse_gguf(&bytes, bytes.len() as u64).unwrap();
    assert_eq!(header.tensors["a"].shape, [2, 32]);
    assert_eq!((header.tensors["b"].dtype, header.tensors["b"].range.len()), (Dtype::Q8_0, 4 * 34));
    assert!(header.tensors.values().all(|info| header.data_start + info.range.end <= bytes.len()));
}

#[test]
fn other_versions_and_byte_orders() {
    for version in [0, 1, 4, u32::MAX] {
        assert_eq!(error(&Gguf { version, ..one() }.bytes()), GgufError::Version { version });
    }
    for version in [2_u32, 3] {
        assert_eq!(error(&Gguf { version: version.swap_bytes(), ..one() }.bytes()), GgufError::BigEndian);
    }
    let older = Gguf { version: 2, ..one() }.bytes();
    assert!(Header::parse_gguf(&older, older.len() as u64).is_ok());
    assert_eq!(Header::parse_gguf(b"GGML0000", 8), Err(GgufError::NotGguf));
}

#[test]
fn a_file_cut_short_anywhere_is_an_error() {
    let whole = one().value("general.name", 8, &text("x")).value("list", 9, &array(8, 1, &text("y"))).bytes();
    let header_len = whole.len() - one().data.len();
    for length in 4..whole.len() - 24 {
        let problem = error(&whole[..length]);
        let within = length < header_len - 31;
        let truncated = matches!(problem, GgufError::Truncated { .. });
        assert!(problem == GgufError::CutShort && !truncated || truncated && !within, "{length}: {problem}");
    }
    // What a tensor does not fill may be missing at the end.
    let used = whole.len() - (one().data.len() - (32 * 2 * 4 + 4 * 34));
    assert!(Header::parse_gguf(&whole[..used], used as u64).is_ok());
    assert!(Header::parse_gguf(&whole[..used - 1], used as u64 - 1).is_err());
}

#[test]
fn counts_and_lengths_that_cannot_be() {
    for count in [u64::MAX, 1 << 40, (1 << 16) + 1] {
        let file = |counts| Gguf { counts, ..one() }.bytes();
        assert_eq!(error(&file([Some(count), None])), GgufError::TooManyTensors { count });
        assert_eq!(error(&file([None, Some(count)])), GgufError::TooManyValues { count });
    }
    assert_eq!(error(&Gguf { counts: [Some(60_000), None], ..Gguf::of(&[]) }.bytes()), GgufError::CutShort);
    for length in [u64::MAX, u64::MAX - 7, 1 << 40] {
        let value = |kind, bytes: &[u8]| one().value("key", kind, bytes).bytes();
        assert_eq!(error(&value(8, &length.to_le_bytes())), GgufError::CutShort);
        for kind in [0, 8, 10] {
            assert_eq!(error(&value(9, &array(kind, length, &[]))), GgufError::CutShort);
        }
    }
}

#[test]
fn metadata_that_cannot_be() {
    assert_eq!(error(&one().value("key", 13, &[]).bytes()), GgufError::UnknownValue { kind: 13 });
    assert_eq!(error(&one().value("key", 9, &array(77, 1, &[])).bytes()), GgufError::UnknownValue { kind: 77 });
    let deep = (0..6).fold(array(0, 1, &[1]), |inner, _| array(9, 1, &inner));
    assert_eq!(error(&one().value("key", 9, &deep).bytes()), GgufError::DeepArray);
    for alignment in [0_u32, 3, 4, 33, 1 << 20] {
        let file = one().value("general.alignment", 4, &alignment.to_le_bytes());
        assert_eq!(error(&file.bytes()), GgufError::Alignment { alignment: alignment.into() });
    }
    assert_eq!(error(&one().value("split.count", 2, &[3, 0]).bytes()), GgufError::Piece { count: 3 });
    let mut file = one().bytes();
    let at = 24 + 8;
    file[at] = 0xff;
    assert_eq!(error(&file), GgufError::NotText);
}

#[test]
fn tensors_that_cannot_be() {
    let with = |change: fn(&mut Gguf)| {
        let mut file = one();
        change(&mut file);
        error(&file.bytes())
    };
    let name = || "b".to_owned();
    assert_eq!(with(|file| file.tensors[1].2 = 99), GgufError::UnknownType { name: name(), number: 99 });
    assert_eq!(with(|file| file.tensors[1].2 = 10), GgufError::UnknownType { name: name(), number: 10 });
    assert_eq!(with(|file| file.tensors[1].1 = vec![1; 9]), GgufError::Rank { name: name(), rank: 9 });
    assert_eq!(with(|file| file.tensors[1].3 += 8), GgufError::Unaligned { name: name(), offset: 264 });
    assert_eq!(with(|file| file.tensors[1].3 = 224), GgufError::Overlap { name: name() });
    assert_eq!(with(|file| file.tensors[1].0 = "a".to_owned()), GgufError::Duplicate { name: "a".to_owned() });
    for offset in [1 << 20, 1 << 60, u64::MAX - 31] {
        let mut file = one();
        file.tensors[1].3 = offset;
        assert!(matches!(error(&file.bytes()), GgufError::Truncated { .. }), "{offset}");
    }
    let most = u64::MAX;
    for dims in
        [vec![most, most], vec![most, 2, 0], vec![2, most, 0], vec![1 << 62], vec![31, 32], vec![0, 1 << 63], vec![]]
    {
        let mut file = one();
        file.tensors[1].1 = dims.clone();
        assert!(matches!(error(&file.bytes()), GgufError::ImpossibleShape { .. }), "{dims:?}");
    }
    for shape in [&[64, 3][..], &[-64, -2], &[128, 1, 1, 1, 1, 1, 1, 1, 1], &[i32::MAX, i32::MAX]] {
        let sides: Vec<u8> = shape.iter().flat_map(|side: &i32| side.to_le_bytes()).collect();
        let file = one().value("comfy.gguf.orig_shape.b", 9, &array(5, shape.len() as u64, &sides));
        assert!(matches!(error(&file.bytes()), GgufError::ImpossibleShape { .. }), "{shape:?}");
    }
}

#[test]
fn names_from_a_file_cannot_command_the_terminal() {
    let file = scratch("x.gguf", &Gguf::of(&[("\u{1b}[2J\n", &[32], 99)]).bytes());
    let error = TensorFile::open(&file.path).unwrap_err().to_string();
    assert!(!error.contains('\u{1b}'), "{error:?}");
}
