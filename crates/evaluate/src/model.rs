//! The model that is evaluated, which may lack parts, and what can be measured of it.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use rectiflow_flow::Formulation;
use rectiflow_generate::{Compat, ModelFiles, OpenError, Parts, Plan};
use rectiflow_nn::{Device, Params};
use rectiflow_vae::{Vae, VaeConfig};
use rectiflow_vision::Detector;
use rectiflow_weights::{Checkpoint, ModelPaths, PartKind};

use crate::artist::{Artist, Drawing};
use crate::gallery::Decided;
use crate::ocr::{ABSENT, Tesseract};
use crate::results::Part;
use crate::towers::Towers;
use crate::watch::Watch;
use crate::{EvaluateError, Request};

/// What a model's training was where it does not say.
const FORMULATION: &str = "rf/lognorm(0.00,1.00)";

/// The files of a model, of which only headers have been read.
pub(crate) struct Files {
    checkpoint: Checkpoint,
    whole: Option<ModelFiles>,
    folder: Option<PathBuf>,
}

/// The networks.
pub(crate) enum Model {
    /// All that draws.
    Whole(Box<Artist>, Formulation),
    /// No transformer.
    Autoencoder(Box<Vae>),
    /// Neither.
    Neither,
}

impl Model {
    pub(crate) fn artist(&self) -> Option<&Artist> {
        if let Model::Whole(artist, _) = self { Some(artist) } else { None }
    }

    pub(crate) fn vae(&self) -> Option<&Vae> {
        match self {
            Model::Whole(artist, _) => Some(&artist.parts().vae),
            Model::Autoencoder(vae) => Some(vae),
            Model::Neither => None,
        }
    }

    /// How the transformer was trained.
    pub(crate) fn formulation(&self) -> Formulation {
        match self {
            Model::Whole(_, formulation) => *formulation,
            _ => default_formulation(),
        }
    }
}

fn default_formulation() -> Formulation {
    FORMULATION.parse().expect("a formulation of the paper")
}

impl Files {
    /// Opens a model, and finds how it draws if it has a transformer.
    pub(crate) fn open(paths: &ModelPaths, drawing: &Drawing) -> Result<(Files, Option<Plan>), EvaluateError> {
        let checkpoint = Checkpoint::open(paths)?;
        let whole = checkpoint.part(PartKind::Transformer).map(|_| ModelFiles::open(paths)).transpose()?;
        let plan = whole.as_ref().map(|files| drawing.resolve(&files.facts())).transpose()?;
        let folder = paths.model.clone().filter(|path| path.is_dir());
        Ok((Files { checkpoint, whole, folder }, plan))
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The folder that has an image tower.
    pub(crate) fn image_tower(&self) -> Option<&Path> {
        self.folder.as_deref().filter(|folder| Towers::are_in(folder))
    }

    /// What decides the pictures. Reads all of the model.
    pub(crate) fn decided(&self, plan: Option<&Plan>, request: &Request) -> Decided {
        let mut decided = Decided::new();
        for kind in PartKind::ALL {
            if let Some(part) = self.checkpoint.part(kind) {
                decided.insert(kind.to_string(), part.digest());
            }
        }
        if let Some(plan) = plan {
            let settings = [
                ("side in pixels", plan.width.to_string()),
                ("steps", plan.schedule.len().to_string()),
                ("guidance scale", plan.guidance.scales.to_string()),
                ("shift", plan.shift.to_string()),
                ("schedule", plan.schedule_name().to_owned()),
                ("solver", plan.solver.to_string()),
                ("T5 length", plan.t5_length.to_string()),
                ("precision", request.precision.to_string()),
                ("device", request.device.to_string()),
            ];
            decided.extend(settings.map(|(name, value)| (name.to_owned(), value)));
        }
        decided
    }

    /// Builds the networks.
    pub(crate) fn load(
        self,
        plan: Option<Plan>,
        request: &Request,
        watch: &mut dyn Watch,
    ) -> Result<Model, EvaluateError> {
        if let (Some(files), Some(plan)) = (&self.whole, plan) {
            let facts = files.facts();
            let formulation = facts.formulation.as_deref().and_then(|name| Formulation::from_str(name).ok());
            let parts = Parts::load(files, request.device, request.precision, Compat::Diffusers)?;
            let artist = Artist::new(parts, plan, watch)?;
            return Ok(Model::Whole(Box::new(artist), formulation.unwrap_or_else(default_formulation)));
        }
        let Some(part) = self.checkpoint.part(PartKind::Vae) else { return Ok(Model::Neither) };
        let mut source = part.source();
        let failed = |source| OpenError::Vae { file: part.path().to_owned(), source };
        let config = VaeConfig::find(&source, part.config()).map_err(failed)?;
        let device = request.device.open().map_err(OpenError::from)?;
        let vae = Vae::new(&config, Params::new(&mut source, &device, request.precision));
        source.finish()?;
        Ok(Model::Autoencoder(Box::new(vae)))
    }
}

/// Opens the detector, with the digest of its weights: the one that was given, or the one that lies in the model's folder
/// or beside it.
pub(crate) fn detector(
    given: Option<&Path>,
    model: &ModelPaths,
    device: &Device,
) -> Result<Option<(String, Detector)>, EvaluateError> {
    const FOLDER: &str = "detector";
    let beside = model.model.iter().flat_map(|model| [model.join(FOLDER), model.join("..").join(FOLDER)]);
    let Some(folder) = given.map(Path::to_owned).or_else(|| beside.into_iter().find(|folder| folder.is_dir())) else {
        return Ok(None);
    };
    let detector = Detector::open(&folder, device, rectiflow_nn::Precision::F32)?;
    let path = folder.join("model.safetensors");
    let weights = std::fs::read(&path).map_err(|problem| EvaluateError::Unreadable { path, problem })?;
    Ok(Some((blake3::hash(&weights).to_hex().to_string(), detector)))
}

/// The parts that are not measured, and why.
pub(crate) type LeftOut = Vec<(Part, String)>;

/// What there is to measure with.
pub(crate) struct Can<'a> {
    pub(crate) files: &'a Files,
    pub(crate) detector: Option<&'a (String, Detector)>,
    pub(crate) tesseract: Option<&'a Tesseract>,
    pub(crate) side_px: usize,
}

impl Can<'_> {
    /// The parts that can be measured of those that were asked for, and why the others cannot. Where Tesseract is all that
    /// lacks, the rest goes on.
    ///
    /// # Errors
    /// A part was asked for by name and cannot be measured.
    pub(crate) fn choose(&self, asked: Option<&[Part]>) -> Result<(Vec<Part>, LeftOut), EvaluateError> {
        let (mut parts, mut left_out) = (Vec::new(), Vec::new());
        for part in Part::ALL.into_iter().filter(|part| asked.is_none_or(|asked| asked.contains(part))) {
            match self.lacks(part) {
                None => parts.push(part),
                Some((why, hint)) if asked.is_some() && !(part == Part::Spelling && self.tesseract.is_none()) => {
                    return Err(EvaluateError::Impossible { part: part.name(), why, hint: hint.to_owned() });
                }
                Some((why, _)) => left_out.push((part, why)),
            }
        }
        Ok((parts, left_out))
    }

    /// Why a part cannot be measured, and what would help.
    fn lacks(&self, part: Part) -> Option<(String, &'static str)> {
        let has = |kind| self.files.checkpoint.part(kind).is_some();
        let draws = matches!(part, Part::Tasks | Part::Spelling | Part::Distance | Part::Loss);
        if draws && !has(PartKind::Transformer) {
            return Some((
                "the model has no transformer, so it draws nothing".to_owned(),
                "give a whole model, or name other parts with `--parts`",
            ));
        }
        match (part, self.detector) {
            (Part::Tasks, None) => Some((
                "there is no detector in the model's folder or beside it".to_owned(),
                "give its folder with `--detector`; `rectiflow train recipes/sprites-detector.toml` trains one",
            )),
            (Part::Tasks, Some((_, detector))) if detector.config().side_px != self.side_px => Some((
                format!(
                    "the detector was trained on pictures of {0}x{0} px, and these have {1}x{1}",
                    detector.config().side_px,
                    self.side_px
                ),
                "give a detector of such pictures with `--detector`, or draw pictures of its size with `--size`",
            )),
            (Part::Spelling, _) if self.tesseract.is_none() => Some((ABSENT.to_owned(), "install it")),
            (Part::Clip, _) if self.files.image_tower().is_none() => Some((
                "the model's folder has no `image_encoder`".to_owned(),
                "give a model that was trained with its image tower beside it, or name other parts with `--parts`",
            )),
            (Part::Reconstruction, _) if !has(PartKind::Vae) => Some((
                "the model has no autoencoder".to_owned(),
                "give one with `--vae`, or name other parts with `--parts`",
            )),
            _ => None,
        }
    }
}
