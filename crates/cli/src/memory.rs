//! How much memory the process holds. Linux tells; elsewhere the answer is "unknown".

use std::path::Path;
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

/// Bytes that the system could give without swapping, where it tells. A container may be allowed less than there is.
pub(crate) fn available() -> Option<u64> {
    let of_system = field_of("/proc/meminfo", "MemAvailable:")?;
    Some(of_container(Path::new("/sys/fs/cgroup")).map_or(of_system, |allowed| allowed.min(of_system)))
}

/// What a control group still allows, if it limits anything. Pages of files go when memory is asked for.
fn of_container(group: &Path) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let limit = number("memory.max")?;
    let pages = read("memory.stat")?;
    let of_files = |name: &str| pages.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let given_back = of_files("inactive_file ").unwrap_or(0) + of_files("active_file ").unwrap_or(0);
    Some(limit.saturating_sub(number("memory.current")?.saturating_sub(given_back)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_allows_what_it_has_not_given_yet_and_what_files_hold() {
        let group = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(group.path().join(name), text).unwrap();
        assert_eq!(of_container(group.path()), None, "no group");
        write("memory.max", "max\n");
        assert_eq!(of_container(group.path()), None, "no limit");
        write("memory.max", "1000\n");
        write("memory.current", "700\n");
        write("memory.stat", "anon 400\nfile 300\ninactive_file 200\nactive_file 50\n");
        assert_eq!(of_container(group.path()), Some(550));
        write("memory.current", "2000\n");
        assert_eq!(of_container(group.path()), Some(0));
    }
}
