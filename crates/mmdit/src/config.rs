use rectiflow_nn::{Init, ParamSource};
use serde_json::{Value, json};

use crate::stream::StreamSizes;

/// The width of an attention head in every SD3 model.
pub(crate) const HEAD_WIDTH: usize = 64;

/// The side of the positional grid, in patches, when a checkpoint stores none: 3072 pixels.
const GRID_WITHOUT_TABLE: usize = 192;

/// The side of the pictures that a computed grid is laid out for, in patches: 1024 pixels.
const GRID_TRAINED: usize = 64;

/// The side of the grid of the 256-pixel pre-training, in patches.
const GRID_PRETRAINED: f64 = 16.0;

/// No axis of a released network is a tenth of this.
const SIZE_MAX: usize = 1 << 20;

/// The sizes of a network, as its tensors tell them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmditConfig {
    /// Joint blocks.
    pub depth: usize,
    /// Width of both streams; 64 for each head.
    pub width: usize,
    /// Side of a patch in latent pixels.
    pub patch: usize,
    /// Latent channels that go in: 16, or more for models that also see a picture.
    pub channels_in: usize,
    /// Latent channels that come out.
    pub channels_out: usize,
    /// Width of a text token: 4096.
    pub context_width: usize,
    /// Width of the pooled text: 2048.
    pub pooled_width: usize,
    /// RMS norm on queries and keys (SD3.5).
    pub qk_norm: bool,
    /// Blocks whose image stream attends to itself a second time (MMDiT-X).
    pub dual_layers: Vec<usize>,
    /// Side of the positional grid in patches: the largest picture is 16 times as many pixels.
    pub grid: usize,
    /// The grid is stored in the checkpoint; otherwise it is computed.
    pub grid_stored: bool,
    /// Side, in patches, of the pictures that a new or a computed grid is laid out for: 64 for 1024 pixels.
    pub grid_trained: usize,
}

/// The sizes of what stands around the blocks, whatever the backbone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Width of the tokens; 64 for each head.
    pub width: usize,
    /// Side of a patch in latent pixels.
    pub patch: usize,
    /// Latent channels that go in.
    pub channels_in: usize,
    /// Latent channels that come out.
    pub channels_out: usize,
    /// Width of a text token.
    pub context_width: usize,
    /// Width of the pooled text.
    pub pooled_width: usize,
    /// Side of the positional grid in patches.
    pub grid: usize,
    /// The grid is stored in the checkpoint; otherwise it is computed.
    pub grid_stored: bool,
    /// Side, in patches, of the pictures that a new or a computed grid is laid out for.
    pub grid_trained: usize,
}

impl Frame {
    /// The place of a row or column in the grid of the pre-training, which the middle `grid_trained` patches span:
    /// `(p - (h_max - s) / 2) 256 / S`, S the side in pixels and s in patches (arXiv:2403.03206 section 5.3.2).
    pub(crate) fn place(&self, number: usize) -> f64 {
        (number as f64 - self.border()) * self.step()
    }

    /// A new grid.
    pub(crate) fn positions(&self) -> Init {
        Init::Sinusoids2d { first: -self.border() * self.step(), step: self.step() }
    }

    fn border(&self) -> f64 {
        (self.grid as f64 - self.grid_trained as f64) / 2.0
    }

    fn step(&self) -> f64 {
        GRID_PRETRAINED / self.grid_trained as f64
    }
}

/// The tensors, or the settings beside them, are not those of an MMDiT.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A tensor that every MMDiT has is not there.
    #[error("not an SD3 transformer: tensor `{0}` is missing")]
    Missing(String),
    /// A tensor has a shape that no MMDiT has.
    #[error("not an SD3 transformer: `{name}` has shape {shape:?}, which {why}")]
    Shape {
        /// Official name.
        name: String,
        /// As found.
        shape: Vec<usize>,
        /// What is wrong with it.
        why: String,
    },
    /// A setting contradicts the tensors.
    #[error("config.json of the transformer says `{key}` is {stated}, but {why}; take both files from the same model")]
    Setting {
        /// Name of the setting.
        key: &'static str,
        /// Its value.
        stated: String,
        /// What is wrong with it.
        why: String,
    },
}

impl MmditConfig {
    /// The width of an attention head in every SD3 model.
    pub const HEAD_WIDTH: usize = HEAD_WIDTH;

    /// The paper's network of `depth` blocks, 64 wide for each (arXiv:2403.03206 section 4); 24 are SD3-Medium. Its
    /// positions are stored.
    pub fn of_depth(depth: usize) -> Self {
        MmditConfig {
            depth,
            width: HEAD_WIDTH * depth,
            patch: 2,
            channels_in: 16,
            channels_out: 16,
            context_width: 4096,
            pooled_width: 2048,
            qk_norm: false,
            dual_layers: Vec::new(),
            grid: GRID_WITHOUT_TABLE,
            grid_stored: true,
            grid_trained: GRID_TRAINED,
        }
    }

    /// Finds the sizes from the shapes of a checkpoint's tensors, as the released code does
    /// (`BaseModel` in Stability-AI/sd3.5 `sd3_impls.py`).
    ///
    /// # Errors
    /// The tensors are not those of an MMDiT.
    pub fn find(source: &dyn ParamSource) -> Result<Self, ConfigError> {
        let [width, channels_in, patch, _] = shape(source, "x_embedder.proj.weight")?;
        let [_, context_width] = shape(source, "context_embedder.weight")?;
        let [_, pooled_width] = shape(source, "y_embedder.mlp.0.weight")?;
        let [patch_out, _] = shape(source, "final_layer.linear.weight")?;
        if !width.is_multiple_of(HEAD_WIDTH) {
            return Err(bad_shape(
                "x_embedder.proj.weight",
                &[width, channels_in, patch, patch],
                "is not in heads of 64",
            ));
        }
        if !patch_out.is_multiple_of(patch * patch) {
            return Err(bad_shape("final_layer.linear.weight", &[patch_out, width], "does not fill whole patches"));
        }
        let block_has = |i: usize, name: &str| source.shape(&format!("joint_blocks.{i}.{name}")).is_some();
        let depth = (0..).take_while(|&i| block_has(i, "x_block.attn.qkv.weight")).count();
        if depth == 0 {
            return Err(ConfigError::Missing("joint_blocks.0.x_block.attn.qkv.weight".into()));
        }
        let stored = source.shape("pos_embed");
        let grid = match stored.as_deref() {
            None => GRID_WITHOUT_TABLE,
            Some(&[1, cells, _]) if cells > 0 && cells.isqrt().pow(2) == cells => cells.isqrt(),
            Some(shape) => return Err(bad_shape("pos_embed", shape, "is not a square grid")),
        };
        Ok(MmditConfig {
            depth,
            width,
            patch,
            channels_in,
            channels_out: patch_out / (patch * patch),
            context_width,
            pooled_width,
            qk_norm: block_has(0, "context_block.attn.ln_k.weight"),
            dual_layers: (0..depth).filter(|&i| block_has(i, "x_block.attn2.qkv.weight")).collect(),
            grid,
            grid_stored: stored.is_some(),
            grid_trained: GRID_TRAINED,
        })
    }

    /// Checks that the transformer's `config.json`, if it states a size, states the one that the tensors tell.
    ///
    /// # Errors
    /// It states another: the two are not of the same model.
    pub fn check_settings(&self, settings: &Value) -> Result<(), ConfigError> {
        let sizes = [
            ("num_layers", self.depth),
            ("patch_size", self.patch),
            ("in_channels", self.channels_in),
            ("out_channels", self.channels_out),
            ("num_attention_heads", self.heads()),
            ("attention_head_dim", HEAD_WIDTH),
            ("joint_attention_dim", self.context_width),
            ("pooled_projection_dim", self.pooled_width),
        ];
        for (key, found) in sizes {
            agrees(settings, key, found)?;
        }
        if self.grid_stored {
            agrees(settings, "pos_embed_max_size", self.grid)?;
        }
        agrees(settings, "dual_attention_layers", &self.dual_layers[..])?;
        // `null` is a statement here: no norm. SD3's own config, which is older, lacks the key.
        let norm = if self.qk_norm { Value::from("rms_norm") } else { Value::Null };
        match settings.get("qk_norm") {
            Some(stated) if *stated != norm => Err(bad_setting("qk_norm", stated, &norm)),
            _ => Ok(()),
        }
    }

    /// The `config.json` that diffusers has beside such a transformer.
    pub fn settings(&self) -> Value {
        json!({
            "_class_name": "SD3Transformer2DModel",
            "sample_size": self.grid_trained.min(self.grid) * self.patch,
            "patch_size": self.patch,
            "in_channels": self.channels_in,
            "out_channels": self.channels_out,
            "num_layers": self.depth,
            "attention_head_dim": HEAD_WIDTH,
            "num_attention_heads": self.heads(),
            "joint_attention_dim": self.context_width,
            "caption_projection_dim": self.width,
            "pooled_projection_dim": self.pooled_width,
            "pos_embed_max_size": self.grid,
            "qk_norm": if self.qk_norm { Value::from("rms_norm") } else { Value::Null },
            "dual_attention_layers": self.dual_layers,
        })
    }

    /// What stands around its blocks.
    pub fn frame(&self) -> Frame {
        Frame {
            width: self.width,
            patch: self.patch,
            channels_in: self.channels_in,
            channels_out: self.channels_out,
            context_width: self.context_width,
            pooled_width: self.pooled_width,
            grid: self.grid,
            grid_stored: self.grid_stored,
            grid_trained: self.grid_trained,
        }
    }

    pub(crate) fn streams(&self) -> StreamSizes {
        StreamSizes { width: self.width, qk_norm: self.qk_norm }
    }

    /// Attention heads.
    pub fn heads(&self) -> usize {
        self.width / HEAD_WIDTH
    }

    /// The released model with these sizes, or a description.
    pub fn variant(&self) -> String {
        match (self.depth, self.width, self.qk_norm, self.dual_layers.len()) {
            (24, 1536, false, 0) => "SD3-Medium".into(),
            (24, 1536, true, 13) => "SD3.5-Medium".into(),
            (38, 2432, true, 0) => "SD3.5-Large or Large-Turbo".into(),
            (depth, width, qk_norm, dual) => {
                let qk_norm = if qk_norm { ", QK-norm" } else { "" };
                let dual = if dual > 0 { format!(", {dual} dual-attention layers") } else { String::new() };
                format!("MMDiT, depth {depth}, width {width}{qk_norm}{dual}")
            }
        }
    }
}

fn shape<const D: usize>(source: &dyn ParamSource, name: &str) -> Result<[usize; D], ConfigError> {
    let shape = source.shape(name).ok_or_else(|| ConfigError::Missing(name.into()))?;
    if shape.iter().any(|&size| size == 0 || size > SIZE_MAX) {
        return Err(bad_shape(name, &shape, format!("has an axis that is not from 1 to {SIZE_MAX}")));
    }
    shape.try_into().map_err(|shape: Vec<usize>| bad_shape(name, &shape, "has the wrong number of axes"))
}

fn bad_shape(name: &str, shape: &[usize], why: impl Into<String>) -> ConfigError {
    ConfigError::Shape { name: name.into(), shape: shape.into(), why: why.into() }
}

/// Checks that `key`, if it is stated, is what the tensors say. `null` counts as nothing.
fn agrees(settings: &Value, key: &'static str, found: impl Into<Value>) -> Result<(), ConfigError> {
    let found = found.into();
    match settings.get(key) {
        Some(stated) if !stated.is_null() && *stated != found => Err(bad_setting(key, stated, &found)),
        _ => Ok(()),
    }
}

/// The stated value comes from a file: it is shown short, and without commands to the terminal.
fn bad_setting(key: &'static str, stated: &Value, found: &Value) -> ConfigError {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let stated = stated.to_string().chars().take(200).map(visible).collect();
    ConfigError::Setting { key, stated, why: format!("the tensors say {found}") }
}
