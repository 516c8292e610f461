//! Whatever the bytes are, reading a GGUF header returns, and what it accepts is safe to slice.

use proptest::prelude::*;
use rectiflow_weights::Header;

use crate::craft::{F32, Gguf, Q8_0, array};

fn check(content: &[u8]) -> Result<(), TestCaseError> {
    let Ok(header) = Header::parse_gguf(content, content.len() as u64) else { return Ok(()) };
    let data = &content[header.data_start..];
    let mut ranges: Vec<_> = header.tensors.values().map(|info| info.range.clone()).collect();
    for info in header.tensors.values() {
        prop_assert_eq!(Some(data[info.range.clone()].len() as u64), info.dtype.bytes_of(info.elements()));
    }
    ranges.sort_by_key(|range| (range.start, range.end));
    prop_assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
    Ok(())
}

fn valid() -> impl Strategy<Value = Gguf> {
    let one = (prop::sample::select(vec![F32, Q8_0]), prop::collection::vec(1_u64..4, 0..3), 1_u64..3);
    prop::collection::vec(one, 0..5).prop_map(|list| {
        let dims = |rest: &[u64], blocks: u64| [&[32 * blocks][..], rest].concat();
        let named: Vec<_> = list
            .iter()
            .enumerate()
            .map(|(at, (kind, rest, blocks))| (format!("t{at}"), dims(rest, *blocks), *kind))
            .collect();
        let tensors: Vec<_> = named.iter().map(|(name, dims, kind)| (&name[..], &dims[..], *kind)).collect();
        Gguf::of(&tensors).value("list", 9, &array(4, 2, &[7; 8]))
    })
}

fn edge() -> impl Strategy<Value = u64> {
    prop::sample::select(vec![0, 1, 2, 31, 32, 33, 64, 1 << 31, 1 << 32, 1 << 63, u64::MAX - 31, u64::MAX])
}

proptest! {
    #[test]
    fn valid_files_are_read(file in valid()) {
        let content = file.bytes();
        prop_assert!(Header::parse_gguf(&content, content.len() as u64).is_ok());
        check(&content)?;
    }

    #[test]
    fn random_bytes_are_survived(content in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&content)?;
        check(&[b"GGUF\x03\0\0\0", &content[..]].concat())?;
    }

    #[test]
    fn a_changed_byte_is_survived(file in valid(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut content = file.bytes();
        let at = at.index(content.len());
        content[at] = byte;
        check(&content)?;
    }

    #[test]
    fn numbers_that_break_arithmetic_are_survived(
        file in valid(), dims in prop::collection::vec(edge(), 0..5), kind in 0_u32..32, offset in edge(),
    ) {
        let mut file = file;
        file.tensors.push(("odd".to_owned(), dims, kind, offset));
        check(&file.bytes())?;
    }
}
