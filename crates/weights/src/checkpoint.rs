use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::config;
use crate::error::WeightsError;
use crate::folder;
use crate::inventory::{Inventory, OtherTensors, Why};
use crate::part::{Part, PartKind};
use crate::recognise::{Found, recognise};
use crate::tensor_set::TensorSet;

/// What a user gives: a whole model, single parts, or both. A single part replaces the one in the model.
///
/// A part that is alone in its file may have its `config.json` beside it, for what its tensors cannot tell, such as
/// the number of heads. It counts only if it is of the part's kind and of its tensors' size; any other `config.json`
/// there is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelPaths {
    /// A diffusers folder or an official file.
    pub model: Option<PathBuf>,
    /// The transformer alone.
    pub diffusion_model: Option<PathBuf>,
    /// The autoencoder alone.
    pub vae: Option<PathBuf>,
    /// CLIP-L alone.
    pub clip_l: Option<PathBuf>,
    /// CLIP-G alone.
    pub clip_g: Option<PathBuf>,
    /// T5 alone: a file, or a folder of shards.
    pub t5xxl: Option<PathBuf>,
}

impl ModelPaths {
    fn single_parts(&self) -> impl Iterator<Item = (PartKind, &Path)> {
        let of = |kind| match kind {
            PartKind::Transformer => self.diffusion_model.as_deref(),
            PartKind::Vae => self.vae.as_deref(),
            PartKind::ClipL => self.clip_l.as_deref(),
            PartKind::ClipG => self.clip_g.as_deref(),
            PartKind::T5 => self.t5xxl.as_deref(),
        };
        PartKind::ALL.into_iter().filter_map(move |kind| Some((kind, of(kind)?)))
    }
}

/// The parts that were found in the files a user gave. Only headers and configurations have been read.
#[derive(Debug, Default)]
pub struct Checkpoint {
    parts: BTreeMap<PartKind, Part>,
    scheduler: Option<Value>,
    shift: Option<f64>,
    tokenizers: BTreeMap<PartKind, PathBuf>,
    other: Vec<OtherTensors>,
}

impl Checkpoint {
    /// Opens what was given and finds the parts in it.
    pub fn open(paths: &ModelPaths) -> Result<Checkpoint, WeightsError> {
        let mut checkpoint = Checkpoint::default();
        // Single parts first: what they replace in a folder is then not even opened.
        for (kind, path) in paths.single_parts() {
            checkpoint.add_single(kind, path)?;
        }
        match &paths.model {
            Some(path) if is_model_folder(path) => checkpoint.add_folder(path)?,
            Some(path) => checkpoint.add_file(path)?,
            None if checkpoint.parts.is_empty() => return Err(WeightsError::NothingGiven),
            None => {}
        }
        Ok(checkpoint)
    }

    /// A part, if the files have it.
    pub fn part(&self, kind: PartKind) -> Option<&Part> {
        self.parts.get(&kind)
    }

    /// A part that is needed.
    pub fn require(&self, kind: PartKind) -> Result<&Part, WeightsError> {
        self.part(kind).ok_or(WeightsError::MissingPart { part: kind })
    }

    /// The folder's `scheduler_config.json`.
    pub fn scheduler_config(&self) -> Option<&Value> {
        self.scheduler.as_ref()
    }

    /// The shift of the noise levels that the folder's scheduler asks for.
    pub fn shift(&self) -> Option<f64> {
        self.shift
    }

    /// The folder of a text encoder's tokenizer, in a diffusers folder.
    pub fn tokenizer_folder(&self, encoder: PartKind) -> Option<&Path> {
        self.tokenizers.get(&encoder).map(PathBuf::as_path)
    }

    /// What the files hold and lack.
    pub fn inventory(&self) -> Inventory {
        Inventory {
            parts: self.parts.values().map(Part::inventory).collect(),
            missing: PartKind::ALL.into_iter().filter(|kind| !self.parts.contains_key(kind)).collect(),
            other: self.other.clone(),
        }
    }

    fn add_single(&mut self, kind: PartKind, path: &Path) -> Result<(), WeightsError> {
        let set = Arc::new(TensorSet::open(path)?);
        let found = recognise(&set)?;
        let wanted = found.iter().find(|found| found.may_be(kind));
        let wanted = wanted.ok_or_else(|| wrong_part(path, format!("`{}`", kind.flag()), &found))?;
        let config = if path.is_dir() { folder::read_json(path, "config.json")? } else { None };
        self.add_part(kind, wanted, &set, config);
        let unused = found.iter().filter(|one| !one.may_be(kind));
        self.note_other(&set, unused, &found);
        Ok(())
    }

    /// A file of one or several parts, or a folder of such a file's shards.
    fn add_file(&mut self, path: &Path) -> Result<(), WeightsError> {
        let set = Arc::new(TensorSet::open(path)?);
        let found = recognise(&set)?;
        let mut unused = Vec::new();
        for one in &found {
            let [kind] = *one.kinds else { return Err(WeightsError::EitherClip { path: path.to_owned() }) };
            if self.parts.contains_key(&kind) {
                unused.push(one);
            } else {
                self.add_part(kind, one, &set, None);
            }
        }
        self.note_other(&set, unused.into_iter(), &found);
        Ok(())
    }

    fn add_folder(&mut self, folder: &Path) -> Result<(), WeightsError> {
        for kind in PartKind::ALL {
            if let Some(tokenizer) = folder::tokenizer_folder(kind).map(|name| folder.join(name))
                && folder::is_there(&tokenizer)?
            {
                self.tokenizers.insert(kind, tokenizer);
            }

            let path = folder.join(folder::part_folder(kind));
            if self.parts.contains_key(&kind) || !folder::is_there(&path)? {
                continue;
            }
            let set = Arc::new(TensorSet::open(&path)?);
            let found = recognise(&set)?;
            let wanted = found.iter().find(|found| found.may_be(kind));
            let wanted = wanted.ok_or_else(|| wrong_part(&path, format!("the {kind}"), &found))?;
            self.add_part(kind, wanted, &set, folder::read_json(&path, "config.json")?);
        }
        let scheduler = folder.join("scheduler");
        if folder::is_there(&scheduler)? {
            self.scheduler = folder::read_json(&scheduler, "scheduler_config.json")?;
        }
        self.shift = config::shift(&scheduler.join("scheduler_config.json"), self.scheduler.as_ref())?;
        Ok(())
    }

    fn add_part(&mut self, kind: PartKind, found: &Found, set: &Arc<TensorSet>, config: Option<Value>) {
        let (layout, prefix) = (found.layout, found.prefix);
        let mut part = Part { kind, layout, prefix, set: Arc::clone(set), config };
        if part.config.is_none() && prefix.is_empty() {
            part.config = config::beside(&part);
        }
        self.parts.insert(kind, part);
    }

    /// Keeps account of what no part will use.
    fn note_other<'a>(&mut self, set: &TensorSet, unused: impl Iterator<Item = &'a Found>, all: &[Found]) {
        for found in unused {
            let names = set.names().filter(|name| name.starts_with(found.prefix));
            self.other.extend(other(set, Why::Unused(found.kinds[0]), names));
        }
        let unknown = set.names().filter(|name| !all.iter().any(|found| name.starts_with(found.prefix)));
        self.other.extend(other(set, Why::Unknown, unknown));
    }
}

fn other<'a>(set: &TensorSet, why: Why, names: impl Iterator<Item = &'a str>) -> Option<OtherTensors> {
    let names: Vec<String> = names.map(str::to_owned).collect();
    let bytes = names.iter().filter_map(|name| set.info(name)).map(|info| info.range.len() as u64).sum();
    (!names.is_empty()).then(|| OtherTensors { file: set.path().to_owned(), why, names, bytes })
}

fn is_model_folder(path: &Path) -> bool {
    PartKind::ALL.iter().any(|kind| path.join(folder::part_folder(*kind)).is_dir())
}

fn wrong_part(path: &Path, wanted: String, found: &[Found]) -> WeightsError {
    let described: Vec<String> = found.iter().map(Found::describe).collect();
    let hint = match found {
        [only] => format!("give it with {}", only.flags()),
        _ => "give it with `--model`".to_owned(),
    };
    WeightsError::WrongPart { path: path.to_owned(), wanted, found: described.join(", "), hint }
}
