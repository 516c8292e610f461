//! The input is a whole file. What is accepted must be safe to slice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rectiflow_weights::Header;

fuzz_target!(|content: &[u8]| {
    let Ok(header) = Header::parse_gguf(content, content.len() as u64) else { return };
    let data = &content[header.data_start..];
    let mut ranges = Vec::new();
    for info in header.tensors.values() {
        assert_eq!(Some(data[info.range.clone()].len() as u64), info.dtype.bytes_of(info.elements()));
        ranges.push((info.range.start, info.range.end));
    }
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "tensors overlap");
});
