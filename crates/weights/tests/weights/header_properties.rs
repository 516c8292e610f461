//! Whatever the bytes are, reading a header returns, and what it accepts is what the format's own crate accepts.

use proptest::prelude::*;
use rectiflow_weights::{Header, ShardIndex};
use safetensors::SafeTensors;

use crate::craft::{safetensors, tensor, with_header};

/// What is accepted must be safe to use: every tensor inside the file, and as the format's own crate sees it.
fn check(content: &[u8]) {
    let Ok(header) = Header::parse(content, content.len() as u64) else { return };
    let theirs = SafeTensors::deserialize(content).expect("the format's own crate refuses it");
    assert_eq!(theirs.len(), header.tensors.len());
    let data = &content[header.data_start..];
    for (name, info) in &header.tensors {
        let their = theirs.tensor(name).unwrap();
        assert_eq!((their.shape(), their.data()), (&info.shape[..], &data[info.range.clone()]), "{name}");
    }
}

/// A file of a few small tensors.
fn valid() -> impl Strategy<Value = Vec<u8>> {
    let one =
        (prop::sample::select(vec![("F32", 4), ("F16", 2), ("F8_E4M3", 1)]), prop::collection::vec(0_usize..4, 0..4));
    prop::collection::vec(one, 0..5).prop_map(|list| {
        let tensors = list.iter().enumerate().map(|(at, ((dtype, bytes), shape))| {
            tensor(&format!("t{at}"), dtype, shape, vec![0; bytes * shape.iter().product::<usize>()])
        });
        safetensors(&tensors.collect::<Vec<_>>())
    })
}

/// JSON near a header, with the numbers that break arithmetic.
fn entry() -> impl Strategy<Value = String> {
    let number = || {
        prop::sample::select(vec![
            "0",
            "1",
            "2",
            "4",
            "8",
            "4294967296",
            "18446744073709551615",
            "1e3",
            "-1",
            "99999999999999999999",
        ])
    };
    let shape = prop::collection::vec(number(), 0..4).prop_map(|dims| dims.join(","));
    let name = prop::sample::select(vec!["a", "b", "__metadata__", "\\u0000"]);
    (name, prop::sample::select(vec!["F32", "F4", "BOOL", "X"]), shape, number(), number()).prop_map(
        |(name, dtype, shape, begin, end)| {
            format!(r#""{name}":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{begin},{end}]}}"#)
        },
    )
}

proptest! {
    #[test]
    fn valid_files_are_read(content in valid()) {
        prop_assert!(Header::parse(&content, content.len() as u64).is_ok());
        check(&content);
    }

    #[test]
    fn random_bytes_are_survived(content in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&content);
        let _ = ShardIndex::parse(&content);
    }

    #[test]
    fn changed_bytes_are_survived(content in valid(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut content = content;
        for (at, byte) in changes {
            let at = at.index(content.len());
            content[at] = byte;
        }
        check(&content);
    }

    #[test]
    fn every_cut_is_an_error(content in valid(), at in any::<prop::sample::Index>()) {
        let cut = &content[..at.index(content.len())];
        prop_assert!(Header::parse(cut, cut.len() as u64).is_err());
    }

    #[test]
    fn lying_lengths_are_survived(content in valid(), header in any::<u64>(), file in any::<u64>()) {
        let mut content = content;
        prop_assert!(Header::parse(&content, file).is_err() || file == content.len() as u64);
        content[..8].copy_from_slice(&header.to_le_bytes());
        check(&content);
    }

    #[test]
    fn strange_numbers_are_survived(entries in prop::collection::vec(entry(), 0..4), data in 0_usize..20) {
        check(&with_header(&format!("{{{}}}", entries.join(",")), &vec![0; data]));
    }

    #[test]
    fn lists_of_shards_name_only_files_of_their_folder(shard in "[a./\\\\:]{0,4}(\\.safetensors)?") {
        let json = serde_json::json!({ "weight_map": { "t": shard } }).to_string();
        if let Ok(index) = ShardIndex::parse(json.as_bytes()) {
            for shard in index.shards() {
                prop_assert_eq!(std::path::Path::new(shard).file_name(), Some(shard.as_ref()));
            }
        }
    }
}
