use rectiflow_nn::ParamSource;
use serde_json::{Value, json};

use crate::config::{ConfigError, Evidence};
use crate::tokenizer::{CLIP_LENGTH, ClipSize};

/// The width of a head in every released CLIP text encoder.
const HEAD_WIDTH: usize = 64;
/// torch's default, which no released config changes.
const EPSILON: f64 = 1e-5;

/// Which of SD3's two CLIP text encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClipKind {
    /// OpenAI's CLIP ViT-L/14.
    L,
    /// OpenCLIP's ViT-bigG/14.
    G,
}

/// What stands between the two products of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`: CLIP-L.
    QuickGelu,
    /// By the error function: CLIP-G.
    Gelu,
}

impl Activation {
    /// transformers' name for it.
    pub fn name(self) -> &'static str {
        match self {
            Activation::QuickGelu => "quick_gelu",
            Activation::Gelu => "gelu",
        }
    }
}

/// What the pooled output goes through at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// `text_projection`, where the checkpoint has one: diffusers, for both encoders; Stability-AI/sd3.5 for
    /// CLIP-G.
    Projected,
    /// Nothing: Stability-AI/sd3.5 for CLIP-L (`return_projected_pooled=False`).
    Unprojected,
}

/// The sizes of a CLIP text encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// Width of a token.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// Inner width of the MLPs.
    pub mlp: usize,
    /// Activation of the MLPs.
    pub activation: Activation,
    /// Rows of the token table.
    pub vocabulary: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// Of the layer norms.
    pub eps: f64,
    /// Width that `text_projection` makes, if the checkpoint has one.
    pub projection: Option<usize>,
}

impl ClipKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            ClipKind::L => "CLIP-L",
            ClipKind::G => "CLIP-G",
        }
    }
}

impl ClipConfig {
    /// CLIP-L as it was released: 123,060,480 parameters.
    pub fn clip_l() -> Self {
        ClipConfig {
            width: 768,
            layers: 12,
            heads: 12,
            mlp: 3072,
            activation: Activation::QuickGelu,
            vocabulary: ClipSize::RELEASED.vocabulary,
            positions: CLIP_LENGTH,
            eps: EPSILON,
            projection: None,
        }
    }

    /// CLIP-G as it was released: 694,659,840 parameters.
    pub fn clip_g() -> Self {
        ClipConfig {
            width: 1280,
            layers: 32,
            heads: 20,
            mlp: 5120,
            activation: Activation::Gelu,
            projection: Some(1280),
            ..ClipConfig::clip_l()
        }
    }

    /// Finds the sizes from the tensors' shapes; what shapes cannot tell comes from `config.json`, or is that
    /// of the released encoders: heads of 64, quick GELU for L, GELU for G.
    ///
    /// # Errors
    /// The tensors are not those of a CLIP text encoder, or the settings contradict them.
    pub fn find(source: &dyn ParamSource, kind: ClipKind, settings: Option<&Value>) -> Result<Self, ConfigError> {
        let evidence = Evidence { encoder: kind.name(), source, settings };
        let config = sizes(&evidence, kind)?;
        let stated_sizes = [
            ("hidden_size", config.width),
            ("num_hidden_layers", config.layers),
            ("intermediate_size", config.mlp),
            ("vocab_size", config.vocabulary),
            ("max_position_embeddings", config.positions),
        ];
        for (key, found) in stated_sizes {
            evidence.agrees(key, found)?;
        }
        // A config without the tensor may still give the width: it is that of the whole CLIP.
        config.projection.map_or(Ok(()), |width| evidence.agrees("projection_dim", width))?;
        Ok(config)
    }

    /// The `config.json` that transformers has beside such an encoder.
    pub fn settings(&self) -> Value {
        json!({
            "architectures": ["CLIPTextModelWithProjection"],
            "model_type": "clip_text_model",
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.mlp,
            "hidden_act": self.activation.name(),
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "layer_norm_eps": self.eps,
            "projection_dim": self.projection.unwrap_or(self.width),
            "bos_token_id": self.size().start_of_text(),
            "eos_token_id": self.size().end_of_text(),
        })
    }

    /// Tokens and places as its tokenizer has them: more than the released ones' are not used.
    pub fn size(&self) -> ClipSize {
        let ClipSize { vocabulary, length } = ClipSize::RELEASED;
        ClipSize { vocabulary: self.vocabulary.min(vocabulary), length: self.positions.min(length) }
    }

    /// Width of the pooled output.
    pub fn pooled_width(&self, pooling: Pooling) -> usize {
        match pooling {
            Pooling::Projected => self.projection.unwrap_or(self.width),
            Pooling::Unprojected => self.width,
        }
    }
}

fn sizes(evidence: &Evidence<'_>, kind: ClipKind) -> Result<ClipConfig, ConfigError> {
    let tokens = "text_model.embeddings.token_embedding.weight";
    let [vocabulary, width] = evidence.shape(tokens)?;
    let size = ClipSize::RELEASED;
    // A table that is smaller on purpose comes with a config that says so.
    if vocabulary < size.vocabulary && evidence.size("vocab_size")? != Some(vocabulary) {
        return Err(evidence.bad_shape(tokens, &[vocabulary, width], "has no row for the end mark, 49407"));
    }
    let places = "text_model.embeddings.position_embedding.weight";
    let [positions, places_width] = evidence.shape(places)?;
    if positions < size.length && evidence.size("max_position_embeddings")? != Some(positions) {
        return Err(evidence.bad_shape(places, &[positions, places_width], "has no row for each of 77 tokens"));
    }
    let [mlp, _] = evidence.shape("text_model.encoder.layers.0.mlp.fc1.weight")?;
    let layers = evidence.layers(|i| format!("text_model.encoder.layers.{i}.layer_norm1.weight"))?;
    let config = ClipConfig {
        width,
        layers,
        heads: heads(evidence, width)?,
        mlp,
        activation: activation(evidence, kind)?,
        vocabulary,
        positions,
        eps: evidence.epsilon("layer_norm_eps", EPSILON)?,
        projection: projection(evidence, kind)?,
    };
    if !config.size().is_possible() {
        return Err(evidence.bad_shape(tokens, &[vocabulary, width], "is too small for CLIP's bytes and marks"));
    }
    Ok(config)
}

fn heads(evidence: &Evidence<'_>, width: usize) -> Result<usize, ConfigError> {
    match evidence.size("num_attention_heads")? {
        Some(heads) if width.is_multiple_of(heads) => Ok(heads),
        Some(_) => Err(evidence.bad_setting("num_attention_heads", format!("it does not divide the width, {width}"))),
        None if width.is_multiple_of(HEAD_WIDTH) => Ok(width / HEAD_WIDTH),
        None => Err(ConfigError::Unknown { encoder: evidence.encoder, what: "number of attention heads" }),
    }
}

fn activation(evidence: &Evidence<'_>, kind: ClipKind) -> Result<Activation, ConfigError> {
    match (evidence.text("hidden_act")?, kind) {
        (Some("quick_gelu"), _) | (None, ClipKind::L) => Ok(Activation::QuickGelu),
        (Some("gelu"), _) | (None, ClipKind::G) => Ok(Activation::Gelu),
        (Some(_), _) => Err(evidence.bad_setting("hidden_act", "only `quick_gelu` and `gelu` are supported")),
    }
}

fn projection(evidence: &Evidence<'_>, kind: ClipKind) -> Result<Option<usize>, ConfigError> {
    let name = "text_projection.weight";
    if kind == ClipKind::L && evidence.source.shape(name).is_none() {
        return Ok(None);
    }
    let [width, _] = evidence.shape(name)?;
    Ok(Some(width))
}
