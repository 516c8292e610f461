//! The averages that a run kept at its checkpoints, and others that are made of them.
//!
//! What this module does not do: train, or choose a length.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use rectiflow_nn::TensorData;
use rectiflow_weights::{Layout, PartKind, TensorFile, WeightsError, in_layout, write_safetensors};

use crate::ema::Ema;
use crate::ema::reweigh::{Profile, ReweighError, Shares, reweigh};
use crate::export::link_folder;
use crate::objective::Problem;
use crate::recipe::{Recipe, RecipeError};
use crate::run::RunFolder;

/// No average can be made.
#[derive(Debug, thiserror::Error)]
pub enum AveragesError {
    /// The run's plan.
    #[error(transparent)]
    Plan(#[from] RecipeError),
    /// The wanted average.
    #[error(transparent)]
    Reweigh(#[from] ReweighError),
    /// A kept average.
    #[error(transparent)]
    File(Box<WeightsError>),
    /// The folder of kept averages.
    #[error("{}: {problem}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system says.
        problem: io::Error,
    },
    /// The kept ones do not make it.
    #[error(
        "what was kept does not make that average: its weights of the steps would be off by {:.0} %\n\
         hint: ask for a later step or a length nearer to those of the recipe; next time keep more, with a smaller \
         `checkpoint.every` or a second `[[ema]]` of kind \"power\"",
        100.0 * .0
    )]
    TooFar(f64),
    /// There is no model that the average could be put into.
    #[error("{} has no model yet\nhint: the run writes it after its last step", .0.display())]
    NoModel(PathBuf),
    /// Networks of other kinds.
    #[error(
        "averages of a run that trains {0} are not made afterwards\nhint: they are of transformers and autoencoders"
    )]
    Network(String),
}

impl From<WeightsError> for AveragesError {
    fn from(problem: WeightsError) -> Self {
        AveragesError::File(Box::new(problem))
    }
}

/// An average that is further off than this is none: it would be mostly of other steps.
const ERROR_MAX: f64 = 0.3;

/// One kept average.
struct Kept {
    profile: Profile,
    file: PathBuf,
}

/// The averages of a run.
pub struct Averages {
    /// Of the network, in its files.
    name: String,
    kept: Vec<Kept>,
}

impl Averages {
    /// Finds those of a run.
    ///
    /// # Errors
    /// The run's plan or folder cannot be read, or it kept none.
    pub fn of(run: &RunFolder) -> Result<Averages, AveragesError> {
        let recipe = Recipe::read(&run.plan())?;
        let folder = run.averages();
        let at = |problem| AveragesError::Folder { path: folder.clone(), problem };
        let mut all = Averages { name: String::new(), kept: Vec::new() };
        let entries = match std::fs::read_dir(&folder) {
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Err(ReweighError::Nothing.into()),
            entries => entries.map_err(at)?,
        };
        for entry in entries {
            let entry = entry.map_err(at)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse().ok()) else { continue };
            for file in std::fs::read_dir(entry.path()).map_err(at)? {
                let file = file.map_err(at)?;
                all.add(step, &file.file_name().to_string_lossy(), file.path(), &recipe.ema);
            }
        }
        all.kept.sort_by(|one, two| one.file.cmp(&two.file));
        Ok(all)
    }

    /// `NAME.ema-INDEX.safetensors`, if it is of a power-function average.
    fn add(&mut self, step: u64, file: &str, path: PathBuf, averages: &[Ema]) {
        let parsed = file.strip_suffix(".safetensors").and_then(|stem| stem.rsplit_once(".ema-"));
        let Some((name, index)) = parsed else { return };
        let ema = index.parse::<usize>().ok().and_then(|index| averages.get(index));
        if let Some(Ema::Power { sigma_rel }) = ema {
            self.name = name.to_owned();
            self.kept.push(Kept { profile: Profile { step, sigma_rel: *sigma_rel }, file: path });
        }
    }

    /// The last step of which there are some.
    pub fn last_step(&self) -> u64 {
        self.kept.iter().map(|kept| kept.profile.step).max().unwrap_or_default()
    }

    /// The nearest to the wanted one, by official name, and how near it is.
    ///
    /// # Errors
    /// It is not possible, or a file cannot be read.
    pub fn nearest(&self, wanted: Profile) -> Result<(BTreeMap<String, TensorData>, f64), AveragesError> {
        let profiles: Vec<Profile> = self.kept.iter().map(|kept| kept.profile).collect();
        let Shares { shares, error } = reweigh(&profiles, wanted)?;
        if error > ERROR_MAX {
            return Err(AveragesError::TooFar(error));
        }
        let used = self.kept.iter().zip(shares).filter(|(_, share)| *share != 0.0);
        let files = used.map(|(kept, share)| Ok((TensorFile::open(&kept.file)?, share)));
        let files = files.collect::<Result<Vec<_>, WeightsError>>()?;
        let names: BTreeSet<&String> = files.iter().flat_map(|(file, _)| file.tensors().keys()).collect();
        let tensors = names.into_iter().map(|name| Ok((name.clone(), summed(&files, name)?)));
        Ok((tensors.collect::<Result<_, WeightsError>>()?, error))
    }

    /// Writes the run's model into `to` with these parameters in the place of its own.
    ///
    /// # Errors
    /// The run has no model yet, or a file cannot be read or written.
    pub fn write_model(
        &self,
        run: &RunFolder,
        tensors: BTreeMap<String, TensorData>,
        to: &Path,
    ) -> Result<(), Problem> {
        let (part, folder) = match self.name.as_str() {
            "transformer" => (PartKind::Transformer, "transformer"),
            "autoencoder" => (PartKind::Vae, "vae"),
            other => return Err(AveragesError::Network(other.to_owned()).into()),
        };
        let file = Path::new(folder).join("diffusion_pytorch_model.safetensors");
        if !run.model().join(&file).is_file() {
            return Err(AveragesError::NoModel(run.root().to_owned()).into());
        }
        link_folder(&run.model(), to)?;
        // What is not trained, the positional grid, has no average.
        let model = TensorFile::open(to.join(&file))?;
        let mapped = model.tensors().keys().map(|name| Ok((name.clone(), model.data(name)?)));
        let mut all = mapped.collect::<Result<BTreeMap<_, _>, WeightsError>>()?;
        all.extend(in_layout(part, Layout::Diffusers, tensors));
        let tensors: Vec<_> = all.iter().map(|(name, data)| (&name[..], data)).collect();
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        Ok(write_safetensors(to.join(file), &tensors, &metadata)?)
    }
}

/// One tensor of those files that have it, each multiplied with its share. The sum is in f64 and one tensor long: the files
/// of a large network together would not fit in memory.
fn summed(files: &[(TensorFile, f64)], name: &str) -> Result<TensorData, WeightsError> {
    let (mut shape, mut sum) = (Vec::new(), Vec::new());
    for (file, share) in files.iter().filter(|(file, _)| file.tensors().contains_key(name)) {
        let data = file.data(name)?;
        if sum.is_empty() {
            (shape, sum) = (data.shape().to_vec(), vec![0.0; data.num_elements()]);
        }
        sum.iter_mut().zip(data.iter::<f32>()).for_each(|(sum, value)| *sum += share * f64::from(value));
    }
    let rounded: Vec<f32> = sum.into_iter().map(|value| value as f32).collect();
    Ok(TensorData::new(rounded, shape))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse;

    fn averages(folder: &Path, step: u64) -> PathBuf {
        let file = folder.join(format!("step-{step}.ema-0.safetensors"));
        let values = TensorData::new(vec![step as f32, 1.0], [2, 1]);
        write_safetensors(&file, &[("weight", &values)], &BTreeMap::new()).unwrap();
        file
    }

    fn kept(folder: &Path) -> Averages {
        let kept =
            [10, 20].map(|step| Kept { profile: Profile { step, sigma_rel: 0.1 }, file: averages(folder, step) });
        Averages { name: "transformer".to_owned(), kept: kept.into() }
    }

    #[test]
    fn an_average_that_was_kept_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let (found, error) = kept(folder.path()).nearest(Profile { step: 20, sigma_rel: 0.1 }).unwrap();
        assert!(error < 1e-5, "{error}");
        let values = found["weight"].as_slice::<f32>().unwrap();
        assert!((values[0] - 20.0).abs() < 1e-3 && (values[1] - 1.0).abs() < 1e-4, "{values:?}");
        assert_eq!(found["weight"].shape().to_vec(), [2, 1]);
    }

    /// Two gigabytes of zeros that take no room, of a type that is not read: the sum ends at them, not at the file's size.
    #[test]
    fn files_of_more_than_a_gigabyte_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let averages = kept(folder.path());
        sparse::lengthen(&averages.kept[1].file, "zeros", "F64", 8);
        let Err(AveragesError::File(error)) = averages.nearest(Profile { step: 20, sigma_rel: 0.1 }) else {
            panic!("f64 was read")
        };
        assert!(matches!(*error, WeightsError::UnsupportedDtype { .. }), "{error}");
    }
}
