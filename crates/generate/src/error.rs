use std::path::PathBuf;

use rectiflow_sample::SampleError;

use crate::image::ImageError;

/// The model could not be opened. Nothing was loaded.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file is missing, damaged, or does not hold what it should.
    #[error(transparent)]
    Weights(#[from] rectiflow_weights::WeightsError),
    /// The transformer's tensors are not those of an SD3 model.
    #[error("{}: {source}\nhint: `rectiflow inspect` shows what the file is", .file.display())]
    Transformer {
        /// Where the tensors are.
        file: PathBuf,
        /// What is wrong.
        source: rectiflow_mmdit::ConfigError,
    },
    /// The autoencoder's tensors or settings are not those of an SD3 model.
    #[error("{}: {source}\nhint: `rectiflow inspect` shows what the file is", .file.display())]
    Vae {
        /// Where the tensors are.
        file: PathBuf,
        /// What is wrong.
        source: rectiflow_vae::ConfigError,
    },
    /// A text encoder's tensors or settings are not those of its kind.
    #[error("{}: {source}\nhint: `rectiflow inspect` shows what the file is", .file.display())]
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
    /// The device is not in this build.
    #[error(transparent)]
    Device(#[from] rectiflow_nn::DeviceError),
    /// There is nothing that reads a prompt.
    #[error(
        "the model's files hold no text encoder\nhint: give them with `--clip-l`, `--clip-g` and `--t5xxl`; each may be left out, not all"
    )]
    NoEncoder,
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
    /// The solver stopped.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The watcher stopped the run between two phases.
    #[error("stopped")]
    Stopped,
    /// A text could not be made tokens.
    #[error(transparent)]
    Tokenizer(#[from] rectiflow_text::TokenizerError),
    /// The outputs of the encoders are not what the transformer takes.
    #[error(transparent)]
    Widths(#[from] rectiflow_text::WidthError),
    /// A picture could not be stored.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl GenerateError {
    /// Whether the watcher asked for it.
    pub fn is_stop(&self) -> bool {
        matches!(self, GenerateError::Stopped | GenerateError::Sample(SampleError::Stopped { .. }))
    }
}
