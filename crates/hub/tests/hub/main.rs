//! Downloads from a hub that runs inside the test, with the faults that hubs and networks have.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

mod faults;
mod fetching;
mod refusals;
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rectiflow_hub::{Event, Hub, HubError, HubPath, RepositoryId, Settings};

use crate::server::Server;

/// What a test asks of a hub, and a cache of its own.
struct Desk {
    folder: tempfile::TempDir,
    settings: Settings,
}

impl Desk {
    fn new(server: &Server) -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            endpoint: server.endpoint(),
            cache: folder.path().join("hub"),
            token: None,
            offline: false,
            stall: Duration::from_secs(10),
            first_wait: Duration::from_millis(2),
        };
        Desk { folder, settings }
    }

    fn in_cache(&self, path: &str) -> PathBuf {
        self.settings.cache.join("models--tiny--sd3").join(path)
    }

    /// Opens a repository and fetches files of it. Returns the folder, and what was told on the way.
    fn fetch_of(&self, id: &str, names: &[&str]) -> (Result<PathBuf, HubError>, Vec<String>) {
        let hub = Hub::new(self.settings.clone());
        let mut told = Vec::new();
        let mut watch = |event: Event<'_>| told.push(format!("{event:?}"));
        let fetched = hub.open(&repository(id), &mut watch).and_then(|repository| {
            repository.fetch(names, &mut watch)?;
            Ok(repository.folder())
        });
        (fetched, told)
    }

    fn fetch(&self, names: &[&str]) -> Result<PathBuf, HubError> {
        self.fetch_of("tiny/sd3", names).0
    }

    /// The names of all files in the cache and beside it, without locks.
    fn files(&self) -> Vec<String> {
        let mut names = Vec::new();
        add(self.folder.path(), self.folder.path(), &mut names);
        names.retain(|name| !name.contains(".locks"));
        names.sort();
        names
    }
}

fn add(root: &Path, folder: &Path, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add(root, &path, names);
        } else {
            names.push(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
        }
    }
}

fn repository(id: &str) -> RepositoryId {
    HubPath::parse(id).unwrap().repository
}

/// Content that is longer than what is read at once.
fn large() -> Vec<u8> {
    (0..1_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}
