//! The input is a list of shards. What is accepted must stay in its folder.
#![no_main]

use std::ffi::OsStr;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rectiflow_weights::ShardIndex;

fuzz_target!(|json: &[u8]| {
    let Ok(index) = ShardIndex::parse(json) else { return };
    assert!(!index.tensors().is_empty());
    for shard in index.shards() {
        assert_eq!(Path::new(shard).file_name(), Some(OsStr::new(shard)));
    }
});
