//! A header cannot make us allocate more than it is long, but for a constant.
#![allow(unsafe_code, reason = "a global allocator is unsafe to write; this one counts and passes on")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use rectiflow_weights::{Header, ShardIndex};

struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn add(bytes: isize) {
    let now = NOW.get() + bytes;
    NOW.set(now);
    PEAK.set(PEAK.get().max(now));
}

// SAFETY: every call goes to the system's allocator as it came; the counters are plain cells of the thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was held at once while `work` ran, beyond what was held before.
fn peak(work: impl FnOnce()) -> usize {
    let before = NOW.get();
    PEAK.set(before);
    work();
    (PEAK.get() - before) as usize
}

fn file(header_len: u64, json: &str) -> Vec<u8> {
    [&header_len.to_le_bytes(), json.as_bytes()].concat()
}

#[test]
fn lies_cost_nothing() {
    const SLACK: usize = 16 << 10;
    let huge = u64::MAX / 2;
    let entry = format!(r#"{{"a":{{"dtype":"U8","shape":[{huge}],"data_offsets":[0,{huge}]}}}}"#);
    let deep = format!(r#"{{"a":{}"#, "[".repeat(5000));
    let escaped = format!(r#"{{"{}":1}}"#, "\\u0041".repeat(1000));
    for content in [
        file(huge, "{}"),
        file(1 << 24, "{}"),
        file(entry.len() as u64, &entry),
        file(deep.len() as u64, &deep),
        file(escaped.len() as u64, &escaped),
    ] {
        for file_len in [content.len() as u64, 1 << 40, u64::MAX] {
            let used = peak(|| assert!(Header::parse(&content, file_len).is_err()));
            assert!(used <= content.len() + SLACK, "{used} bytes for a file of {}", content.len());
        }
        let used = peak(|| assert!(ShardIndex::parse(&content).is_err()));
        assert!(used <= content.len() + SLACK, "{used}");
    }
}

/// The worst that can be packed into a header: as many tensors as are allowed, of the most dimensions.
#[test]
fn the_largest_header_costs_a_bounded_amount() {
    let entry = |i: usize| format!(r#""{i}":{{"dtype":"U8","shape":[0,0,0,0,0,0,0,0],"data_offsets":[0,0]}}"#);
    let json = |count: usize| format!("{{{}}}", (0..count).map(entry).collect::<Vec<_>>().join(","));
    let most = json(1 << 16);
    let content = file(most.len() as u64, &most);
    let used = peak(|| assert_eq!(Header::parse(&content, content.len() as u64).unwrap().tensors.len(), 1 << 16));
    assert!(used <= content.len() + (48 << 20), "{used} bytes for a file of {}", content.len());

    let too_many = json((1 << 16) + 1);
    assert!(Header::parse(&file(too_many.len() as u64, &too_many), too_many.len() as u64 + 8).is_err());
}

fn gguf(tensors: u64, values: u64, rest: &[u8]) -> Vec<u8> {
    [b"GGUF\x03\0\0\0", &tensors.to_le_bytes()[..], &values.to_le_bytes(), rest].concat()
}

#[test]
fn lies_of_a_gguf_file_cost_nothing() {
    const SLACK: usize = 16 << 10;
    let huge = (u64::MAX / 2).to_le_bytes();
    let key = [&1_u64.to_le_bytes()[..], b"k"].concat();
    let value = |kind: u32, rest: &[&[u8]]| [&key[..], &kind.to_le_bytes(), &rest.concat()].concat();
    for content in [
        gguf(u64::MAX, 0, &[]),
        gguf(1 << 16, 0, &[]),
        gguf(0, 1 << 16, &[]),
        gguf(0, 1, &huge),
        gguf(0, 1, &value(8, &[&huge])),
        gguf(0, 1, &value(9, &[&0_u32.to_le_bytes(), &huge])),
        gguf(0, 1, &value(9, &[&8_u32.to_le_bytes(), &huge, &[0; 800]])),
        gguf(0, 1, &value(9, &[&9_u32.to_le_bytes(), &huge, &[9; 800]])),
        gguf(1, 0, &[&key[..], &u32::MAX.to_le_bytes(), &huge, &huge].concat()),
        gguf(1, 0, &[&key[..], &2_u32.to_le_bytes(), &huge, &huge, &[0; 12]].concat()),
    ] {
        for file_len in [content.len() as u64, 1 << 40, u64::MAX] {
            let used = peak(|| assert!(Header::parse_gguf(&content, file_len).is_err()));
            assert!(used <= content.len() + SLACK, "{used} bytes for a file of {}", content.len());
        }
    }
}

/// As many tensors as are allowed, of the most dimensions, and texts that are kept.
#[test]
fn the_largest_gguf_header_costs_a_bounded_amount() {
    let name = |i: usize| [&8_u64.to_le_bytes()[..], format!("{i:08}").as_bytes()].concat();
    let tensor = |i: usize| [&name(i)[..], &8_u32.to_le_bytes(), &[0; 64], &[0; 12]].concat();
    let value = |i: usize| [&name(i)[..], &8_u32.to_le_bytes(), &4_u64.to_le_bytes(), b"text"].concat();
    let count = 1 << 16;
    let rest: Vec<u8> = (0..count).flat_map(value).chain((0..count).flat_map(tensor)).collect();
    let mut content = gguf(count as u64, count as u64, &rest);
    content.resize(content.len().next_multiple_of(32), 0);
    let read = || assert_eq!(Header::parse_gguf(&content, content.len() as u64).unwrap().tensors.len(), count);
    let used = peak(read);
    assert!(used <= content.len() + (64 << 20), "{used} bytes for a file of {}", content.len());
}
