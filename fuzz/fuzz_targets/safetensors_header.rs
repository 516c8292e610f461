//! The input is a whole file. What is accepted must be safe to slice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rectiflow_weights::Header;

fuzz_target!(|content: &[u8]| {
    let Ok(header) = Header::parse(content, content.len() as u64) else { return };
    let data = &content[header.data_start..];
    let mut bytes = 0;
    for info in header.tensors.values() {
        assert_eq!(Some(data[info.range.clone()].len() as u64), info.dtype.bytes_of(info.elements()));
        bytes += info.range.len();
    }
    assert_eq!(bytes, data.len(), "tensors overlap or leave holes");
});
