use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ureq::Agent;

use crate::answers::{Asked, listing};
use crate::cache::RepositoryCache;
use crate::error::{Fault, HubError, OFFLINE};
use crate::hash::ObjectId;
use crate::id::{RepositoryId, percent_encoded};
use crate::partial::Partial;
use crate::settings::Settings;
use crate::transfer::{Request, agent};
use crate::{Event, Watch, space};

/// How often a transfer that fails is tried again.
const RETRIES: u32 = 5;

/// A hub, and the cache of what came from it.
pub struct Hub {
    settings: Settings,
    agent: Agent,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// With `/` between folders. It does not leave the repository's folder.
    pub name: String,
    /// Its size, if the hub says it.
    pub bytes: Option<u64>,
    /// What its content is known by, if the hub says it.
    pub(crate) id: Option<ObjectId>,
}

/// A repository at a commit: what it has, and what of that is in the cache.
pub struct Repository<'h> {
    hub: &'h Hub,
    id: RepositoryId,
    commit: String,
    cache: RepositoryCache,
    files: Vec<RemoteFile>,
    /// Why only the cache is used, if so. Then `files` are those that it has.
    only_cache: Option<String>,
}

impl Hub {
    /// Asks nobody yet.
    pub fn new(settings: Settings) -> Hub {
        let agent = agent(&settings);
        Hub { settings, agent }
    }

    /// What a repository has at a revision. Where the hub does not answer and the cache has the revision, the cache's
    /// files, and `watch` is told so.
    ///
    /// # Errors
    /// The hub refuses, has no such repository or revision, or does not answer and the cache has nothing.
    pub fn open(&self, id: &RepositoryId, watch: &mut Watch<'_>) -> Result<Repository<'_>, HubError> {
        let cache = RepositoryCache::new(&self.settings.cache, id);
        let (commit, files, only_cache) = if self.settings.offline {
            let (commit, files) = cached(&cache, id, OFFLINE)?;
            (commit, files, Some(OFFLINE.to_owned()))
        } else {
            match self.list(id, watch) {
                Ok((commit, files)) => (commit, files, None),
                Err(HubError::Transfer { fault, .. }) if cache.commit(id).is_some() => {
                    let (commit, files) = cached(&cache, id, "")?;
                    watch(Event::FromCache { commit: &commit, why: fault.to_string() });
                    (commit, files, Some(fault.to_string()))
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Repository { hub: self, id: id.clone(), commit, cache, files, only_cache })
    }

    fn list(&self, id: &RepositoryId, watch: &mut Watch<'_>) -> Result<(String, Vec<RemoteFile>), HubError> {
        let revision = percent_encoded(&id.revision, false);
        let url = format!("{}/api/models/{}/revision/{revision}?blobs=true", self.settings.endpoint, id.path());
        let mut retries = Retries::new(self);
        loop {
            match self.request(id, None).read(&url) {
                Ok(json) => return listing(&json, id),
                // Who is not connected wants to know that now.
                Err(error @ HubError::Transfer { fault: Fault::Unreachable(_), .. }) => return Err(error),
                Err(error) => retries.wait(error, watch)?,
            }
        }
    }

    fn request<'a>(&'a self, id: &'a RepositoryId, file: Option<&'a str>) -> Request<'a> {
        let (endpoint, has_token) = (&self.settings.endpoint, self.settings.token.is_some());
        Request { agent: &self.agent, settings: &self.settings, asked: Asked { id, endpoint, has_token, file } }
    }
}

fn cached(cache: &RepositoryCache, id: &RepositoryId, why: &str) -> Result<(String, Vec<RemoteFile>), HubError> {
    let Some(commit) = cache.commit(id) else {
        let (repository, cache) = (id.to_string(), cache.root().to_owned());
        return Err(HubError::NotCached { repository, cache, why: why.to_owned() });
    };
    let file = |(name, bytes)| RemoteFile { name, bytes: Some(bytes), id: None };
    let files = cache.files(&commit).into_iter().map(file).collect();
    Ok((commit, files))
}

/// A file, with what the hub must have said of it.
struct Wanted<'a> {
    name: &'a str,
    bytes: u64,
    id: &'a ObjectId,
}

impl Repository<'_> {
    /// The files, in the order of their names. Where only the cache is used, those that it has.
    pub fn files(&self) -> &[RemoteFile] {
        &self.files
    }

    /// The commit that the files are of.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// Why only the cache is used, if so.
    pub fn only_cache(&self) -> Option<&str> {
        self.only_cache.as_deref()
    }

    /// The cache of all repositories.
    pub fn cache(&self) -> &Path {
        self.cache.root()
    }

    /// Where the files lie under their names once they were fetched.
    pub fn folder(&self) -> PathBuf {
        self.cache.snapshot(&self.commit)
    }

    /// Brings files into the cache, unless they are there, and gives them their names below [`Self::folder`].
    ///
    /// # Errors
    /// There is no such file; the disk lacks room; a transfer failed six times, or brought something else than the hub's
    /// list says. What came is kept, but for what is wrong, and gone on with.
    pub fn fetch(&self, names: &[&str], watch: &mut Watch<'_>) -> Result<(), HubError> {
        if let Some(why) = &self.only_cache {
            return self.check_cached(names, why);
        }
        let wanted = names.iter().map(|name| self.find(name)).collect::<Result<Vec<_>, _>>()?;
        let mut tally = self.plan(&wanted, watch)?;
        for file in &wanted {
            if !self.is_named(file) {
                self.bring(file, &mut tally, watch)?;
                self.cache.link(&self.commit, file.name, file.id)?;
            }
        }
        self.cache.write_ref(&self.id, &self.commit)
    }

    fn check_cached(&self, names: &[&str], why: &str) -> Result<(), HubError> {
        match names.iter().find(|name| !self.files.iter().any(|file| file.name == **name)) {
            None => Ok(()),
            Some(name) => Err(HubError::FileNotCached {
                name: (*name).to_owned(),
                repository: self.id.to_string(),
                cache: self.cache.root().to_owned(),
                why: why.to_owned(),
            }),
        }
    }

    fn find(&self, name: &str) -> Result<Wanted<'_>, HubError> {
        let asked = self.hub.request(&self.id, Some(name)).asked;
        let Some(file) = self.files.iter().find(|file| file.name == name) else {
            let (repository, name) = (self.id.path(), name.to_owned());
            let page = format!("{}/{repository}", self.hub.settings.endpoint);
            return Err(HubError::NoFile { repository, name, page });
        };
        match (file.bytes, &file.id) {
            (Some(bytes), Some(id)) => Ok(Wanted { name: &file.name, bytes, id }),
            _ => {
                Err(HubError::BadAnswer { what: asked.what(), problem: "it has no size and hash to check".to_owned() })
            }
        }
    }

    /// Whether the file has its name in the commit, and its size.
    fn is_named(&self, file: &Wanted<'_>) -> bool {
        self.folder().join(file.name).metadata().is_ok_and(|there| there.is_file() && there.len() == file.bytes)
    }

    fn has_content(&self, file: &Wanted<'_>) -> bool {
        self.cache.blob(file.id).metadata().is_ok_and(|there| there.is_file() && there.len() == file.bytes)
    }

    /// Sums up what is missing, and whether there is room for it.
    fn plan(&self, wanted: &[Wanted<'_>], watch: &mut Watch<'_>) -> Result<Tally, HubError> {
        let mut ids = BTreeSet::new();
        let (mut files, mut begun, mut total) = (0, 0, 0_u64);
        for file in wanted.iter().filter(|file| !self.is_named(file) && !self.has_content(file)) {
            if ids.insert(file.id.as_str()) {
                files += 1;
                let there = self.cache.incomplete(file.id).metadata().map_or(0, |there| there.len());
                begun += if there > file.bytes { 0 } else { there };
                total = total.saturating_add(file.bytes);
            }
        }
        let bytes = total.saturating_sub(begun);
        let tally = Tally { done: 0, total };
        if files == 0 {
            return Ok(tally);
        }
        let root = self.cache.root();
        std::fs::create_dir_all(root).map_err(HubError::disk(root))?;
        let free = space::free(root);
        watch(Event::Plan { files, bytes, begun, free });
        match free {
            Some(free) if free < bytes => Err(HubError::NoRoom {
                what: format!("the files of {}", self.id),
                needed: bytes,
                free,
                folder: root.to_owned(),
            }),
            _ => Ok(tally),
        }
    }

    /// The content of one file. Another process may be bringing it, and is waited for.
    fn bring(&self, file: &Wanted<'_>, tally: &mut Tally, watch: &mut Watch<'_>) -> Result<(), HubError> {
        if self.has_content(file) {
            return Ok(());
        }
        let _lock = self.cache.lock(file.id, || watch(Event::Waiting { name: file.name }))?;
        if !self.has_content(file) {
            let begun = self.download(file, tally, watch)?;
            begun.keep(&self.cache.blob(file.id))?;
        }
        tally.done += file.bytes;
        Ok(())
    }

    /// The content, whole and checked, not yet under its name.
    fn download(&self, file: &Wanted<'_>, tally: &Tally, watch: &mut Watch<'_>) -> Result<Partial, HubError> {
        let path = percent_encoded(file.name, true);
        let url = format!("{}/{}/resolve/{}/{path}", self.hub.settings.endpoint, self.id.path(), self.commit);
        let request = self.hub.request(&self.id, Some(file.name));
        let mut partial = Partial::open(&self.cache.incomplete(file.id), file.id, file.bytes)?;
        let mut is_anew = partial.at() == 0;
        let mut retries = Retries::new(self.hub);
        loop {
            while !partial.is_whole() {
                let before = partial.at();
                let show = |at| watch(Event::Bytes { name: file.name, done: tally.done + at, total: tally.total });
                if let Err(error) = request.continue_with(&url, &mut partial, show) {
                    retries.progress(before, partial.at());
                    if let Err(error) = retries.wait(error, watch) {
                        // Of a file of which nothing came, nothing is left either.
                        return Err(partial.leave().err().unwrap_or(error));
                    }
                } else {
                    is_anew |= before == 0;
                }
            }
            let (found, is_right) = partial.verify();
            if is_right {
                return Ok(partial);
            }
            if std::mem::replace(&mut is_anew, true) {
                partial.discard()?;
                let (what, expected) = (request.asked.what(), file.id.as_str().to_owned());
                return Err(HubError::WrongHash { what, expected, found });
            }
            // What an earlier run left may have been the damaged part.
            partial.restart()?;
        }
    }
}

/// Bytes of a plan.
struct Tally {
    /// Of files that are whole.
    done: u64,
    total: u64,
}

/// Tries that failed one after the other.
struct Retries<'h> {
    hub: &'h Hub,
    failed: u32,
    /// The most bytes of the file that were ever there: less is no progress.
    most: u64,
}

impl<'h> Retries<'h> {
    fn new(hub: &'h Hub) -> Self {
        Retries { hub, failed: 0, most: 0 }
    }

    /// A try that brought something new does not count as failed.
    fn progress(&mut self, before: u64, now: u64) {
        self.most = self.most.max(before);
        if now > self.most {
            (self.most, self.failed) = (now, 0);
        }
    }

    /// Waits before the next try; after the last one, or where none would help, gives the error back.
    fn wait(&mut self, error: HubError, watch: &mut Watch<'_>) -> Result<(), HubError> {
        let HubError::Transfer { what, fault, .. } = error else { return Err(error) };
        if self.failed == RETRIES {
            return Err(HubError::Transfer { what, fault, tries: RETRIES + 1 });
        }
        let after = self.hub.settings.first_wait * 2_u32.pow(self.failed);
        self.failed += 1;
        watch(Event::Again { problem: format!("{what}: {fault}"), after });
        std::thread::sleep(after);
        Ok(())
    }
}
