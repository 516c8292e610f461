use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::captions::Captions;
use crate::error::{DatasetError, Reason};
use crate::findings::{Choice, LeftOut};
use crate::source::file::{self, Section};
use crate::source::{Source, texts};

/// Tar shards whose members of one key make a sample: `KEY.jpg` with `KEY.txt`, `KEY.json` or `KEY.cls`. The key ends
/// at the first dot of the file's name, and the rest is its extension. `.txt` is the column "caption", `.cls` the column
/// "cls", JSON's keys are columns of their own.
///
/// Of several pictures the first with a plain extension is used, `KEY.jpg` before `KEY.depth.png`, and the first of all
/// where none is plain: [`Source::choice`] says which. Compressed shards are not read: what is inside could not be found without reading all.
#[derive(Debug)]
pub struct WebDataset {
    shards: Vec<Shard>,
    samples: Vec<Sample>,
    pub(super) left_out: Vec<LeftOut>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    /// Below the root.
    name: String,
}

#[derive(Debug)]
struct Sample {
    shard: usize,
    key: String,
    picture: Picture,
    /// The extensions of its other pictures.
    passed_over: Vec<String>,
    texts: Vec<(Text, Section)>,
}

#[derive(Clone, Debug)]
struct Picture {
    section: Section,
    /// In small letters.
    extension: String,
}

#[derive(Clone, Copy, Debug)]
enum Text {
    /// Of this column.
    Column(&'static str),
    Json,
}

/// Members begin at multiples of it, and two empty blocks mark the end.
const BLOCK_BYTES: u64 = 512;

/// A key's members while its shard is read.
#[derive(Debug, Default)]
struct Members {
    /// Of all kinds, read or not, in the order of the shard.
    pictures: Vec<Picture>,
    texts: Vec<(Text, Section)>,
    is_cut_short: bool,
}

impl WebDataset {
    /// Goes through the shards once, from header to header, to know where each member is. `files` in the order of
    /// the samples; ids name them relative to `root`.
    pub fn open(root: &Path, files: &[PathBuf]) -> Result<Self, DatasetError> {
        let mut dataset = WebDataset { shards: Vec::new(), samples: Vec::new(), left_out: Vec::new() };
        for path in files {
            let relative = path.strip_prefix(root).ok().filter(|name| !name.as_os_str().is_empty());
            let name = relative.unwrap_or(Path::new(path.file_name().unwrap_or_default()));
            let name = name.to_string_lossy().replace('\\', "/");
            dataset.shards.push(Shard { path: path.clone(), name });
            dataset.add_shard(dataset.shards.len() - 1)?;
        }
        Ok(dataset)
    }

    fn add_shard(&mut self, shard: usize) -> Result<(), DatasetError> {
        let Shard { path, name } = &self.shards[shard];
        let failed = |problem| DatasetError::reading(path, problem);
        let damaged =
            |problem: std::io::Error| DatasetError::Damaged { path: path.clone(), problem: problem.to_string() };
        let bytes = file::whole(path).map_err(failed)?.bytes;
        let mut archive = tar::Archive::new(BufReader::new(File::open(path).map_err(failed)?));
        let mut keys: Vec<(String, Members)> = Vec::new();
        let mut place_of: HashMap<String, usize> = HashMap::new();
        // What comes next begins here, and at least the end mark should.
        let (mut last, mut end, mut is_unfinished) = (String::new(), 0_u64, false);
        for entry in archive.entries_with_seek().map_err(damaged)? {
            let entry = match entry {
                Ok(entry) => entry,
                // What came before is whole; the first member's header must be one.
                Err(problem) if end == 0 => return Err(damaged(problem)),
                Err(_) => {
                    is_unfinished = true;
                    break;
                }
            };
            let section = Section { offset: entry.raw_file_position(), bytes: entry.size() };
            end = section.offset.saturating_add(section.bytes);
            last = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let Some((key, extension)) = key_of(&last).filter(|_| entry.header().entry_type().is_file()) else {
                continue;
            };
            let place = *place_of.entry(key.to_owned()).or_insert_with(|| {
                keys.push((key.to_owned(), Members::default()));
                keys.len() - 1
            });
            let is_inside = section.offset.checked_add(section.bytes).is_some_and(|end| end <= bytes);
            keys[place].1.add(section, extension, is_inside);
        }
        if is_unfinished || bytes < end.saturating_add(BLOCK_BYTES) {
            self.left_out.push(LeftOut::no_sample(name, Reason::ShardUnfinished { after: last }));
        }
        for (key, members) in keys {
            let id = format!("{name}/{key}");
            match members.sample(shard, key) {
                Ok(sample) => self.samples.push(sample),
                Err(reason) => self.left_out.push(LeftOut::no_sample(id, reason)),
            }
        }
        Ok(())
    }

    fn at(&self, number: u64) -> (&Shard, &Sample) {
        let sample = &self.samples[number as usize];
        (&self.shards[sample.shard], sample)
    }
}

impl Members {
    fn add(&mut self, section: Section, extension: &str, is_inside: bool) {
        self.is_cut_short |= !is_inside;
        let extension = extension.to_lowercase();
        match extension.as_str() {
            _ if is_read(&extension) || file::is_other_picture(&named(&extension)) => {
                self.pictures.push(Picture { section, extension });
            }
            "txt" | "caption" => self.texts.push((Text::Column("caption"), section)),
            "cls" => self.texts.push((Text::Column("cls"), section)),
            "json" => self.texts.push((Text::Json, section)),
            _ => {}
        }
    }

    fn sample(mut self, shard: usize, key: String) -> Result<Sample, Reason> {
        if self.is_cut_short {
            return Err(Reason::ShardCutShort);
        }
        // A depth map, a mask or a thumbnail has a compound extension: it never stands in for a plain one, not even for
        // one that is not read. Of equals, the first.
        let rank = |picture: &Picture| (picture.extension.contains('.'), !is_read(&picture.extension));
        let places = 0..self.pictures.len();
        let place = places.min_by_key(|place| rank(&self.pictures[*place])).ok_or(Reason::NoPicture)?;
        let picture = self.pictures.remove(place);
        if !is_read(&picture.extension) {
            return Err(Reason::UnreadFormat(picture.extension));
        }
        let passed_over = self.pictures.into_iter().map(|picture| picture.extension).collect();
        Ok(Sample { shard, key, picture, passed_over, texts: self.texts })
    }
}

/// Whether a picture of this extension, plain or compound, is read.
fn is_read(extension: &str) -> bool {
    file::is_picture(&named(extension))
}

fn named(extension: &str) -> PathBuf {
    Path::new("x").with_extension(extension)
}

/// The key and the rest of a member's name. `None` for hidden files, as some systems add them, and names without a dot.
fn key_of(member: &str) -> Option<(&str, &str)> {
    let member = member.strip_prefix("./").unwrap_or(member);
    let file = member.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file + member[file..].find('.')?;
    (dot > file).then(|| (&member[..dot], &member[dot + 1..]))
}

impl Source for WebDataset {
    fn count(&self) -> u64 {
        self.samples.len() as u64
    }

    fn id(&self, number: u64) -> String {
        let (shard, sample) = self.at(number);
        format!("{}/{}", shard.name, sample.key)
    }

    fn picture_name(&self, number: u64) -> Option<String> {
        let (_, sample) = self.at(number);
        Some(format!("{}.{}", sample.key, sample.picture.extension))
    }

    fn picture_start(&self, number: u64, bytes: u64) -> Result<Vec<u8>, Reason> {
        let (shard, sample) = self.at(number);
        file::read_picture_section(&shard.path, sample.picture.section, bytes)
    }

    fn captions(&self, number: u64) -> Result<Captions, Reason> {
        let (shard, sample) = self.at(number);
        let mut captions = Captions::default();
        let read = |section: Section| texts::read(&shard.path, section);
        for (text, section) in &sample.texts {
            if let Text::Column(column) = text {
                captions.add(column, texts::utf8(&read(*section)?)?);
            }
        }
        for (text, section) in &sample.texts {
            if let Text::Json = text {
                texts::add_json(&mut captions, &read(*section)?)?;
            }
        }
        Ok(captions)
    }

    fn choice(&self, number: u64) -> Option<Choice> {
        let (_, sample) = self.at(number);
        let (used, passed_over) = (sample.picture.extension.clone(), sample.passed_over.clone());
        (!passed_over.is_empty()).then_some(Choice { used, passed_over })
    }

    fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_at_the_first_dot_of_the_files_name() {
        assert_eq!(key_of("000.jpg"), Some(("000", "jpg")));
        assert_eq!(key_of("./a.b/000.thumb.jpg"), Some(("a.b/000", "thumb.jpg")));
        assert_eq!([key_of("._000.jpg"), key_of("a/.x"), key_of("README"), key_of("")], [None; 4]);
    }
}
