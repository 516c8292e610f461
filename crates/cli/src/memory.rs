//! How much memory the process holds. Linux tells; elsewhere the answer is "unknown".

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The most that one phase held, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// With the pages of mapped files, which the system takes back when it needs them.
    pub(crate) total: u64,
    /// Without: what the process itself needs.
    pub(crate) own: u64,
}

/// Watches the process's memory from a thread of its own: the system keeps no peak of what is the process's own.
pub(crate) struct Watcher {
    own_max: Arc<AtomicU64>,
}

impl Watcher {
    const EVERY: Duration = Duration::from_millis(20);

    /// Starts watching. The thread ends with the watcher.
    pub(crate) fn start() -> Self {
        let own_max = Arc::new(AtomicU64::new(0));
        let seen = Arc::downgrade(&own_max);
        std::thread::spawn(move || {
            while let Some(own_max) = seen.upgrade() {
                if let Some(own) = field("RssAnon:") {
                    own_max.fetch_max(own, Ordering::Relaxed);
                }
                drop(own_max);
                std::thread::sleep(Self::EVERY);
            }
        });
        Watcher { own_max }
    }

    /// Starts a new phase.
    pub(crate) fn reset(&self) {
        // Not permitted in some containers; then the total is that of the whole run so far, which is still true.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        self.own_max.store(0, Ordering::Relaxed);
    }

    /// The most since [`Self::reset`], where the system tells.
    pub(crate) fn read(&self) -> Option<Memory> {
        let own = field("RssAnon:")?.max(self.own_max.load(Ordering::Relaxed));
        Some(Memory { total: field("VmHWM:")?, own })
    }
}

/// Bytes that the system could give without swapping, where it tells.
pub(crate) fn available() -> Option<u64> {
    field_of("/proc/meminfo", "MemAvailable:")
}

fn field(name: &str) -> Option<u64> {
    field_of("/proc/self/status", name)
}

fn field_of(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// As people read it: `9.5 GB`.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [(&str, f64); 3] = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let bytes = bytes as f64;
    match UNITS.iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", bytes / size),
        None => format!("{bytes} B"),
    }
}
