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
