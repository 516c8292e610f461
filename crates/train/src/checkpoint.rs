//! The checkpoints of a run: folders that are whole or not there, found damaged when they are, the last few kept.
//!
//! ```text
//! checkpoints/step-000020/checkpoint.json   written last: what the others are, with their checksums
//!                         *.safetensors     parameters, moments and averages
//! ```
//!
//! What this module does not do: know what is in the files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rectiflow_weights::{IfThere, WeightsError, sync_folder, write_whole};
use serde::{Deserialize, Serialize};

use crate::trainee::StateError;

/// What a checkpoint says of itself.
const ABOUT: &str = "checkpoint.json";

/// Of the files' order and meaning; a later one is refused, not guessed at.
const FORMAT: u32 = 2;

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

/// What a checkpoint says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    format: u32,
    /// Steps that were taken.
    pub step: u64,
    /// Of the data that the steps were taken on, which a later process must have too.
    pub data: String,
    /// The best validation loss so far, and its step.
    pub best: Option<Best>,
    /// How often the run went back because something was not finite: which samples it goes on with.
    #[serde(default)]
    pub turn: u64,
    files: BTreeMap<String, Stored>,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps that were taken.
    pub step: u64,
    /// The best validation loss so far, and its step.
    pub best: Option<Best>,
    /// How often it went back.
    pub turn: u64,
}

/// The step with the lowest validation loss of those that have a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Steps that were taken.
    pub step: u64,
    /// The loss then.
    #[serde(with = "exact")]
    pub loss: f64,
}

/// A number as a text: JSON numbers may end in another digit when they are read and written again.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    bytes: u64,
    blake3: String,
}

/// A checkpoint that is whole.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its folder.
    pub folder: PathBuf,
    /// What it says of itself.
    pub about: About,
}

/// A checkpoint that was passed over.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// Its folder.
    pub folder: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// A checkpoint cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Folders and `checkpoint.json`.
    #[error("the checkpoint {} cannot be written: {problem}", folder.display())]
    Unwritable {
        /// Of the checkpoint.
        folder: PathBuf,
        /// What the system says.
        problem: io::Error,
    },
    /// Tensors.
    #[error("the checkpoint {} cannot be written: {problem}", folder.display())]
    State {
        /// Of the checkpoint.
        folder: PathBuf,
        /// What went wrong.
        problem: StateError,
    },
}

impl CheckpointError {
    /// Whether space on the disk would help.
    pub fn is_disk_full(&self) -> bool {
        let problem = match self {
            CheckpointError::Unwritable { problem, .. } => problem,
            CheckpointError::State { problem: StateError::File(problem), .. } => match &**problem {
                WeightsError::Unwritable { problem, .. } => problem,
                _ => return false,
            },
            CheckpointError::State { .. } => return false,
        };
        is_full(problem)
    }
}

/// Whether space on the disk would help.
pub(crate) fn is_full(problem: &io::Error) -> bool {
    matches!(problem.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Checkpoints {
    /// Those in `folder`, which need not be there yet.
    pub fn new(folder: PathBuf) -> Self {
        Checkpoints { folder }
    }

    /// Writes one, in which `fill` puts its files. It appears under its name only when it is complete and on disk; one
    /// of the same step is replaced.
    ///
    /// # Errors
    /// Anything cannot be written. Nothing of it is left.
    pub fn write(
        &self,
        progress: Progress,
        data: &str,
        fill: impl FnOnce(&Path) -> Result<(), StateError>,
    ) -> Result<PathBuf, CheckpointError> {
        let Progress { step, best, turn } = progress;
        let folder = self.folder.join(name_of(step));
        let partial = self.folder.join(format!("{}.partial", name_of(step)));
        let written = self.write_partial(&partial, fill).and_then(|files| {
            let about = About { format: FORMAT, step, data: data.to_owned(), best, turn, files };
            put(&partial, &folder, &about)
                .map_err(|problem| CheckpointError::Unwritable { folder: folder.clone(), problem })
        });
        if written.is_err() {
            let _ = fs::remove_dir_all(&partial);
        }
        written.map(|()| folder)
    }

    fn write_partial(
        &self,
        partial: &Path,
        fill: impl FnOnce(&Path) -> Result<(), StateError>,
    ) -> Result<BTreeMap<String, Stored>, CheckpointError> {
        let unwritable = |problem| CheckpointError::Unwritable { folder: partial.to_owned(), problem };
        if partial.exists() {
            fs::remove_dir_all(partial).map_err(unwritable)?;
        }
        fs::create_dir_all(partial).map_err(unwritable)?;
        fill(partial).map_err(|problem| CheckpointError::State { folder: partial.to_owned(), problem })?;
        stored_in(partial).map_err(unwritable)
    }

    /// The last one that is whole, and those after it that are not. Reads every byte of them.
    ///
    /// # Errors
    /// The folder or a file cannot be read, or is of a later program: what may be whole is not passed over.
    pub fn latest(&self) -> io::Result<(Option<Found>, Vec<Damaged>)> {
        let mut damaged = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            let folder = self.folder.join(name_of(step));
            match read(&folder, step) {
                Ok(about) => return Ok((Some(Found { folder, about }), damaged)),
                Err(Unusable::Damaged(why)) => damaged.push(Damaged { folder, why }),
                Err(Unusable::Refused(problem)) => return Err(problem),
            }
        }
        Ok((None, damaged))
    }

    /// After one of step `last` was written: removes all but the last `keep` up to it and that of step `best`, and what
    /// an interrupted write left. Those of later steps go: the run came back from them because they are damaged.
    ///
    /// # Errors
    /// A folder cannot be removed.
    pub fn prune(&self, last: u64, keep: usize, best: Option<u64>) -> io::Result<()> {
        let steps = self.steps()?;
        let later = steps.range(last.saturating_add(1)..);
        let old = steps.range(..=last).rev().skip(keep.max(1)).filter(|step| Some(**step) != best);
        let old = later.chain(old);
        old.map(|step| self.folder.join(name_of(*step))).try_for_each(remove)?;
        let entries = fs::read_dir(&self.folder)?.collect::<io::Result<Vec<_>>>()?;
        let left = entries.iter().filter(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().ends_with(".partial") || name.to_string_lossy().ends_with(".removed")
        });
        left.map(fs::DirEntry::path).try_for_each(fs::remove_dir_all)
    }

    /// Steps of which there is a checkpoint, whole or not.
    fn steps(&self) -> io::Result<BTreeSet<u64>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            entries => entries?.collect::<io::Result<Vec<_>>>()?,
        };
        let step = |name: &str| name.strip_prefix("step-")?.parse::<u64>().ok().filter(|step| name_of(*step) == name);
        Ok(entries.iter().filter_map(|entry| step(entry.file_name().to_str()?)).collect())
    }
}

fn name_of(step: u64) -> String {
    format!("step-{step:06}")
}

/// Under another name first: a removal that is cut short must not leave a checkpoint that looks damaged.
fn remove(folder: PathBuf) -> io::Result<()> {
    let removed = folder.with_extension("removed");
    fs::rename(&folder, &removed)?;
    fs::remove_dir_all(removed)
}

/// The last of it: what it says of itself, then its name.
fn put(partial: &Path, folder: &Path, about: &About) -> io::Result<()> {
    let json = serde_json::to_vec_pretty(about)?;
    write_whole(&partial.join(ABOUT), IfThere::Replace, |out| out.write_all(&json))?;
    if folder.exists() {
        remove(folder.to_owned())?;
    }
    fs::rename(partial, folder)?;
    sync_folder(folder.parent().unwrap_or(Path::new(".")))
}

fn stored_in(folder: &Path) -> io::Result<BTreeMap<String, Stored>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != ABOUT {
            files.insert(name, stored(&entry.path())?);
        }
    }
    Ok(files)
}

fn stored(path: &Path) -> io::Result<Stored> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(path)?)?;
    Ok(Stored { bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() })
}

/// A checkpoint cannot be gone on from.
enum Unusable {
    /// A part is missing or not as it was written: the one before is taken.
    Damaged(String),
    /// It may be whole, and somebody must look: the disk does not give it, or a later program wrote it.
    Refused(io::Error),
}

impl Unusable {
    /// What a file could not be read for.
    fn of(file: &Path, problem: &io::Error) -> Unusable {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        match problem.kind() {
            io::ErrorKind::NotFound => Unusable::Damaged(format!("{name}: {problem}")),
            kind => Unusable::Refused(io::Error::new(
                kind,
                format!(
                    "{}: {problem}\nhint: make it readable, or move its folder away to go on from the checkpoint before",
                    file.display()
                ),
            )),
        }
    }
}

/// What a checkpoint says of itself, if that is true.
fn read(folder: &Path, step: u64) -> Result<About, Unusable> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let path = folder.join(ABOUT);
    let text = fs::read(&path).map_err(|problem| Unusable::of(&path, &problem))?;
    let damaged = |problem: serde_json::Error| Unusable::Damaged(format!("{ABOUT}: {problem}"));
    let Format { format } = serde_json::from_slice(&text).map_err(damaged)?;
    if format != FORMAT {
        let problem = format!(
            "{} is of format {format}, and this program knows {FORMAT}\nhint: go on with the program that wrote it",
            path.display()
        );
        return Err(Unusable::Refused(io::Error::new(io::ErrorKind::Unsupported, problem)));
    }
    let about: About = serde_json::from_slice(&text).map_err(damaged)?;
    if about.step != step {
        return Err(Unusable::Damaged(format!("{ABOUT} says it is of step {}", about.step)));
    }
    for (name, wanted) in &about.files {
        let file = folder.join(name);
        let found = stored(&file).map_err(|problem| Unusable::of(&file, &problem))?;
        if found.bytes != wanted.bytes {
            return Err(Unusable::Damaged(format!("{name} has {} bytes instead of {}", found.bytes, wanted.bytes)));
        }
        if found.blake3 != wanted.blake3 {
            return Err(Unusable::Damaged(format!("{name} is damaged: its checksum is another")));
        }
    }
    Ok(about)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &'static str) -> impl FnOnce(&Path) -> Result<(), StateError> {
        move |folder| {
            fs::write(folder.join("a.safetensors"), text).unwrap();
            fs::write(folder.join("b.safetensors"), text.repeat(3)).unwrap();
            Ok(())
        }
    }

    fn at(step: u64) -> Progress {
        Progress { step, best: None, turn: 0 }
    }

    struct Run {
        folder: tempfile::TempDir,
        checkpoints: Checkpoints,
    }

    fn run(steps: &[u64]) -> Run {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path().join("checkpoints"));
        for &step in steps {
            checkpoints.write(at(step), "data", fill("some values")).unwrap();
        }
        Run { folder, checkpoints }
    }

    impl Run {
        fn file(&self, step: u64, name: &str) -> PathBuf {
            self.folder.path().join("checkpoints").join(name_of(step)).join(name)
        }

        /// The step it would go on from, and how many damaged ones were passed over.
        fn latest(&self) -> (Option<u64>, usize) {
            let (found, damaged) = self.checkpoints.latest().unwrap();
            (found.map(|found| found.about.step), damaged.len())
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.folder.path().join("checkpoints")).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn the_last_whole_one_is_found() {
        assert_eq!(run(&[]).latest(), (None, 0));
        let run = run(&[5, 20, 100_000_000]);
        assert_eq!(run.latest(), (Some(100_000_000), 0));
        assert_eq!(run.names(), ["step-000005", "step-000020", "step-100000000"]);
    }

    #[test]
    fn damaged_ones_are_passed_over_and_named() {
        let truncate: fn(&Path) = |path| fs::write(path, "some").unwrap();
        let corrupt: fn(&Path) = |path| fs::write(path, "some malues").unwrap();
        let remove: fn(&Path) = |path| fs::remove_file(path).unwrap();
        let cases = [
            (truncate, "a.safetensors", "a.safetensors has 4 bytes instead of 11"),
            (corrupt, "a.safetensors", "a.safetensors is damaged"),
            (remove, "b.safetensors", "b.safetensors: "),
            (remove, ABOUT, "checkpoint.json: "),
            (truncate, ABOUT, "checkpoint.json: "),
        ];
        for (damage, file, expected) in cases {
            let run = run(&[10, 20]);
            damage(&run.file(20, file));
            let (found, damaged) = run.checkpoints.latest().unwrap();
            assert_eq!(found.unwrap().about.step, 10);
            assert!(damaged[0].folder.ends_with("step-000020"));
            assert!(damaged[0].why.contains(expected), "{}", damaged[0].why);
        }
    }

    #[test]
    fn one_that_could_not_be_written_leaves_nothing_and_the_old_ones_alone() {
        let run = run(&[10]);
        let full = |folder: &Path| {
            fs::write(folder.join("a.safetensors"), "half").unwrap();
            let problem = io::Error::from(io::ErrorKind::StorageFull);
            Err(WeightsError::Unwritable { path: folder.to_owned(), problem }.into())
        };
        let error = run.checkpoints.write(at(20), "data", full).unwrap_err();
        assert!(error.is_disk_full(), "{error}");
        assert_eq!(run.names(), ["step-000010"]);
        assert_eq!(run.latest(), (Some(10), 0));
    }

    #[test]
    fn what_a_killed_process_left_is_not_mistaken_for_a_checkpoint() {
        let run = run(&[10]);
        fs::create_dir_all(run.file(20, "").with_extension("partial")).unwrap();
        fs::create_dir_all(run.file(5, "").with_extension("removed")).unwrap();
        assert_eq!(run.latest(), (Some(10), 0));
        run.checkpoints.prune(10, 3, None).unwrap();
        assert_eq!(run.names(), ["step-000010"]);
    }

    #[test]
    fn the_last_ones_and_the_best_stay() {
        let run = run(&[10, 20, 30, 40, 50]);
        run.checkpoints.prune(50, 2, Some(20)).unwrap();
        assert_eq!(run.names(), ["step-000020", "step-000040", "step-000050"]);
        run.checkpoints.prune(50, 0, None).unwrap();
        assert_eq!(run.names(), ["step-000050"], "the last one always stays");
    }

    #[test]
    fn a_new_one_stays_and_the_damaged_ones_after_it_go() {
        let run = run(&[10, 15, 20, 30]);
        run.checkpoints.prune(15, 1, None).unwrap();
        assert_eq!(run.names(), ["step-000015"]);
    }

    #[test]
    fn what_may_be_whole_is_not_passed_over() {
        let of_later_format: fn(&Path) = |path| fs::write(path, r#"{"format": 9, "new": true}"#).unwrap();
        let folder: fn(&Path) = |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        };
        for (change, file, expected) in
            [(of_later_format, ABOUT, "is of format 9, and this program knows"), (folder, "a.safetensors", "directory")]
        {
            let run = run(&[10, 20]);
            change(&run.file(20, file));
            let error = run.checkpoints.latest().unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("\nhint: "), "{error}");
        }
    }

    #[test]
    fn a_checkpoint_of_the_same_step_is_replaced() {
        let run = run(&[10]);
        let best = Some(Best { step: 10, loss: 0.5 });
        run.checkpoints.write(Progress { best, turn: 3, ..at(10) }, "data", fill("other")).unwrap();
        let found = run.checkpoints.latest().unwrap().0.unwrap();
        assert_eq!(found.about.turn, 3);
        assert_eq!((found.about.best, fs::read(run.file(10, "a.safetensors")).unwrap()), (best, b"other".to_vec()));
        assert_eq!(run.names(), ["step-000010"]);
    }
}
