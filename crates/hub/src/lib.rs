//! Models from a Hugging Face hub: what a repository has, the transfer of its files, and the cache on disk.
//!
//! The cache is that of Python's `huggingface_hub`: what `hf download` or diffusers fetched is used, and the other way
//! round. [`Hub::open`] asks the hub for a repository's list at a revision, [`Repository::fetch`] brings files into the
//! cache, and they lie below [`Repository::folder`] under the repository's names.
//!
//! ```no_run
//! use rectiflow_hub::{Hub, HubPath, Settings};
//!
//! # fn main() -> Result<(), rectiflow_hub::HubError> {
//! let hub = Hub::new(Settings::from_environment()?);
//! let Some(path) = HubPath::parse("stabilityai/stable-diffusion-3.5-medium@main") else { return Ok(()) };
//! let repository = hub.open(&path.repository, &mut |event| println!("{event:?}"))?;
//! repository.fetch(&["model_index.json"], &mut |event| println!("{event:?}"))?;
//! println!("{}", repository.folder().join("model_index.json").display());
//! # Ok(())
//! # }
//! ```
//!
//! Nothing that a server says is believed before it is checked: names stay inside the folder, sizes and hashes are compared.
//! A transfer that ends early, by whatever cause, is gone on with where it stands. This crate prints nothing, knows no
//! model's layout (`rectiflow-weights` chooses the files), uploads nothing, and keeps no list of what is cached.

mod answers;
mod cache;
mod error;
mod hash;
mod id;
mod partial;
mod repository;
mod settings;
mod space;
mod transfer;

pub use error::{Fault, HubError};
pub use id::{HubPath, RepositoryId};
pub use repository::{Hub, RemoteFile, Repository};
pub use settings::Settings;

use std::time::Duration;

/// What happens on the way, for whoever shows it.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// The hub does not answer, and what the cache has of the revision is used.
    FromCache {
        /// The commit that is used.
        commit: &'a str,
        /// Why the hub was not asked.
        why: String,
    },
    /// What will be downloaded. Comes once, before the first byte; not at all where everything is there.
    Plan {
        /// Files that are not in the cache, or not whole.
        files: usize,
        /// Their bytes that are not there yet.
        bytes: u64,
        /// Bytes of unfinished downloads that are gone on with.
        begun: u64,
        /// Free bytes on the cache's disk, where the system tells.
        free: Option<u64>,
    },
    /// Bytes of all files of the plan that are there now, `begun` ones included.
    Bytes {
        /// The file that is being downloaded.
        name: &'a str,
        /// Bytes that are there.
        done: u64,
        /// Bytes that will be.
        total: u64,
    },
    /// Another process downloads this file, and is waited for.
    Waiting {
        /// The file.
        name: &'a str,
    },
    /// A transfer failed and is tried again.
    Again {
        /// What failed.
        problem: String,
        /// How long is waited before.
        after: Duration,
    },
}

/// Whoever shows what happens.
pub type Watch<'w> = dyn FnMut(Event<'_>) + 'w;
