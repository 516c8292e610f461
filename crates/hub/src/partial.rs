use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ring::digest::Context;

use crate::error::HubError;
use crate::hash::{self, ObjectId};

/// Bytes that are read at once.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// Content on its way, in a file that a later run goes on with.
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    id: ObjectId,
    /// Of the content when it is whole.
    bytes: u64,
    /// Bytes that are there.
    at: u64,
    /// Of those.
    hash: Context,
}

impl Partial {
    /// Takes up what is there. More than the whole cannot be a part of it, and is thrown away.
    pub(crate) fn open(path: &Path, id: &ObjectId, bytes: u64) -> Result<Partial, HubError> {
        let failed = || HubError::disk(path);
        let opened = File::options().create(true).truncate(false).read(true).write(true).open(path);
        let file = opened.map_err(failed())?;
        let there = file.metadata().map_err(failed())?.len();
        let mut partial = Partial { path: path.to_owned(), file, id: id.clone(), bytes, at: 0, hash: id.begin(bytes) };
        if there > bytes {
            partial.restart()?;
            return Ok(partial);
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match partial.file.read(&mut chunk).map_err(failed())? {
                0 => return Ok(partial),
                count => {
                    partial.hash.update(&chunk[..count]);
                    partial.at += count as u64;
                }
            }
        }
    }

    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.at == self.bytes
    }

    /// Throws away what is there.
    pub(crate) fn restart(&mut self) -> Result<(), HubError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(HubError::disk(&self.path))?;
        (self.at, self.hash) = (0, self.id.begin(self.bytes));
        Ok(())
    }

    /// Adds what came.
    pub(crate) fn append(&mut self, chunk: &[u8]) -> Result<(), HubError> {
        self.file.write_all(chunk).map_err(HubError::disk(&self.path))?;
        self.hash.update(chunk);
        self.at += chunk.len() as u64;
        Ok(())
    }

    /// The hash of what is there, and whether that is the content's.
    pub(crate) fn verify(&self) -> (String, bool) {
        let found = hash::finish(self.hash.clone());
        let is_right = self.is_whole() && found == self.id.as_str();
        (found, is_right)
    }

    /// Puts the content on disk, then gives it its name.
    pub(crate) fn keep(self, blob: &Path) -> Result<(), HubError> {
        self.file.sync_all().map_err(HubError::disk(&self.path))?;
        fs::rename(&self.path, blob).map_err(HubError::disk(blob))?;
        let folder = blob.parent().unwrap_or(blob);
        // Other systems than Unix cannot open folders and need no such step.
        if cfg!(unix) {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(HubError::disk(folder))
        } else {
            Ok(())
        }
    }

    /// Leaves what is there to a later run.
    pub(crate) fn leave(self) -> Result<(), HubError> {
        if self.at == 0 { self.discard() } else { Ok(()) }
    }

    /// Removes what turned out to be something else.
    pub(crate) fn discard(self) -> Result<(), HubError> {
        fs::remove_file(&self.path).map_err(HubError::disk(&self.path))
    }
}
