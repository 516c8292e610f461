use std::path::PathBuf;

use rectiflow_sample::SampleError;
use rectiflow_weights::shown;

use crate::image::ImageError;

/// The model could not be opened. Nothing was loaded.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file is missing, damaged, or does not hold what it should.
    #[error(transparent)]
    Weights(#[from] rectiflow_weights::WeightsError),
    /// The transformer's tensors are not those of an SD3 model.
    #[error("{}: {source}\nhint: `rectiflow inspect` shows what the file is", shown(.file))]
    Transformer {
        /// Where the tensors are.
        file: PathBuf,
        /// What is wrong.
        source: rectiflow_mmdit::ConfigError,
    },
    /// The autoencoder's tensors or settings are not those of an SD3 model.
    #[error("{}: {source}\nhint: `rectiflow inspect` shows what the file is", shown(.file))]
    Vae {
        /// Where the tensors are.
        file: PathBuf,
        /// What is wrong.
        source: rectiflow_vae::ConfigError,
    },
    /// A text encoder's tensors or settings are not those of its kind.
    #[error("{}: {source}\nhint: `rectiflow inspect` shows what the file is", shown(.file))]
    Encoder {
        /// Where the tensors are.
        file: PathBuf,
        /// What is wrong.
        source: rectiflow_text::ConfigError,
    },
    /// The latents of the autoencoder are not what the transformer takes.
    #[error(
        "the transformer takes latents of {transformer} channels, the autoencoder makes {vae}\n\
         hint: give the autoencoder of the transformer's own release with `--vae`"
    )]
    Channels {
        /// Of the transformer.
        transformer: usize,
        /// Of the autoencoder.
        vae: usize,
    },
    /// The outputs of the encoders are not what the transformer takes.
    #[error(transparent)]
    Widths(#[from] rectiflow_text::WidthError),
    /// A tokenizer file is missing or damaged.
    #[error(transparent)]
    Tokenizer(#[from] rectiflow_text::TokenizerError),
    /// Only the CPU multiplies 8-bit integers here.
    #[error(
        "int8 products are computed on the CPU only, not on {device}\nhint: give `--device cpu` or `--precision bf16`"
    )]
    Int8Elsewhere {
        /// Where they were to be computed.
        device: rectiflow_nn::DeviceChoice,
    },
    /// The device is not in this build.
    #[error(transparent)]
    Device(#[from] rectiflow_nn::DeviceError),
    /// What autoguidance is to lead away from does not take what the model's transformer takes.
    #[error(
        "{}: its transformer takes and gives {worse:?} (channels in and out, patch, width of context and of pooled text), \
         the model's {drawing:?}\nhint: `--autoguidance` takes a smaller or less trained model of the same encoders",
        shown(.file)
    )]
    Worse {
        /// Where it is.
        file: PathBuf,
        /// Of what it is.
        worse: [usize; 5],
        /// Of the transformer that draws.
        drawing: [usize; 5],
    },
    /// What autoguidance is to lead away from says no velocity.
    #[error(
        "{} was trained by `{formulation}`, and only networks of rf formulations say a velocity\n\
         hint: `--autoguidance` takes a smaller or less trained model of the same kind",
        shown(.file)
    )]
    WorseFormulation {
        /// Where it is.
        file: PathBuf,
        /// What its scheduler's settings say.
        formulation: String,
    },
    /// There is nothing that reads a prompt.
    #[error(
        "the model's files hold no text encoder\nhint: give them with `--clip-l`, `--clip-g` and `--t5xxl`; each may be left out, not all"
    )]
    NoEncoder,
}

/// Why a file is no tiny decoder of a model's latents.
#[derive(Debug, thiserror::Error)]
pub enum TinyDecoderError {
    /// It has other tensors.
    #[error(transparent)]
    Tensors(#[from] rectiflow_vision::MisfitError),
    /// It is of another network.
    #[error(transparent)]
    Other(#[from] rectiflow_vae::TinyError),
    /// It makes pictures of other latents.
    #[error(
        "it decodes latents of {0} channels, the model's have {1}\nhint: TAESD3 is SD3's; TAESD, TAESDXL and TAEF1 are not"
    )]
    Channels(usize, usize),
}

/// Drawing stopped. Pictures that were finished are stored.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A stage gave NaN or infinite values.
    #[error(
        "{stage} has values that are not finite\nhint: try `--precision f32`; if that is what you used, the file is damaged"
    )]
    NotFinite {
        /// Which.
        stage: &'static str,
    },
    /// A stage gave such values under guidance far beyond the usual.
    #[error(
        "guidance {guidance} may be more than can be computed with\nhint: try a lower `--guidance`; 4.5 to 7 is usual"
    )]
    Guidance {
        /// The scale.
        guidance: f32,
        /// What happened.
        source: Box<GenerateError>,
    },
    /// The solver stopped.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The watcher stopped the run between two phases.
    #[error("stopped")]
    Stopped,
    /// A text could not be made tokens.
    #[error(transparent)]
    Tokenizer(#[from] rectiflow_text::TokenizerError),
    /// A weight in a prompt that no token can have.
    #[error(transparent)]
    Weight(#[from] rectiflow_text::WeightError),
    /// The outputs of the encoders are not what the transformer takes.
    #[error(transparent)]
    Widths(#[from] rectiflow_text::WidthError),
    /// A picture could not be stored.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl GenerateError {
    /// More than this is named where values are not finite.
    const GUIDANCE_USUAL_MAX: f32 = 100.0;

    /// Names the guidance with which a picture was drawn, if that may be the reason.
    pub(crate) fn under(self, guidance: f32) -> GenerateError {
        match self {
            GenerateError::NotFinite { .. } | GenerateError::Sample(SampleError::NotFinite { .. })
                if guidance > Self::GUIDANCE_USUAL_MAX =>
            {
                GenerateError::Guidance { guidance, source: Box::new(self) }
            }
            other => other,
        }
    }

    /// Whether the watcher asked for it.
    pub fn is_stop(&self) -> bool {
        matches!(self, GenerateError::Stopped | GenerateError::Sample(SampleError::Stopped { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guidance_is_named_where_it_may_be_the_reason() {
        let not_finite = || GenerateError::NotFinite { stage: "the decoded picture" };
        assert!(not_finite().under(101.0).to_string().starts_with("guidance 101"));
        assert!(matches!(not_finite().under(7.0), GenerateError::NotFinite { .. }));
        assert!(GenerateError::Stopped.under(1e9).is_stop());
    }

    #[test]
    fn a_path_in_a_message_sends_the_terminal_no_commands() {
        let error = OpenError::Vae {
            file: "a\u{1b}[31m\n.safetensors".into(),
            source: rectiflow_vae::ConfigError::Missing("x".into()),
        };
        assert!(error.to_string().starts_with("`a\u{fffd}[31m\u{fffd}.safetensors`: "), "{error}");
    }
}
