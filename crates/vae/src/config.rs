use rectiflow_nn::ParamSource;
use serde_json::{Value, json};

/// Groups of the group norms in every released autoencoder.
const GROUPS: usize = 32;
/// `(z - offset) * scale` makes latents of mean 0 and deviation 1: `SD3LatentFormat` in `sd3_impls.py`.
const LATENT_OFFSET: f64 = 0.0609;
const LATENT_SCALE: f64 = 1.5305;
/// No axis of a released autoencoder is a thousandth of this.
const SIZE_MAX: usize = 1 << 20;

/// The sizes of an autoencoder.
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Channels at each level, the full-size one first: 128, 256, 512, 512.
    pub widths: Vec<usize>,
    /// Residual blocks in a level of the encoder; the decoder has one more.
    pub blocks: usize,
    /// Latent channels: 16.
    pub latent_channels: usize,
    /// Groups of the group norms.
    pub groups: usize,
    /// What the released models subtract from a latent.
    pub latent_offset: f64,
    /// What the released models multiply a latent with.
    pub latent_scale: f64,
}

/// The tensors, or the settings beside them, are not those of an autoencoder.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A tensor that every autoencoder of this family has is not there.
    #[error("not an SD3 autoencoder: tensor `{0}` is missing or has another rank")]
    Missing(String),
    /// A tensor has a shape that no autoencoder has.
    #[error("not an SD3 autoencoder: `{name}` has shape {shape:?}, which {why}")]
    Shape {
        /// Official name.
        name: String,
        /// As found.
        shape: Vec<usize>,
        /// What is wrong with it.
        why: String,
    },
    /// A setting is impossible or contradicts the tensors.
    #[error("config.json of the autoencoder says `{key}` is {stated}, but {why}; take both files from the same model")]
    Setting {
        /// Name of the setting.
        key: &'static str,
        /// Its value.
        stated: String,
        /// What is wrong with it.
        why: String,
    },
    /// The tensors do not tell the groups, and there are no settings.
    #[error("cannot tell the groups of the autoencoder's norms from its tensors; put its config.json beside the file")]
    Groups,
}

impl VaeConfig {
    /// The autoencoder of every release: 83,819,683 parameters.
    pub fn released() -> Self {
        VaeConfig {
            widths: vec![128, 256, 512, 512],
            blocks: 2,
            latent_channels: 16,
            groups: GROUPS,
            latent_offset: LATENT_OFFSET,
            latent_scale: LATENT_SCALE,
        }
    }

    /// Finds the sizes from the tensors' shapes; what shapes cannot tell comes from `config.json`, or is that
    /// of the released models.
    ///
    /// # Errors
    /// The tensors are not those of an autoencoder, or the settings contradict them.
    pub fn find(source: &dyn ParamSource, settings: Option<&Value>) -> Result<Self, ConfigError> {
        let first = |name: &str| shape(source, name).map(|[first, ..]| first);
        let there = |name: &String| source.shape(name).is_some();
        let levels = (0..).map(|i| format!("encoder.down.{i}.block.0.conv1.weight"));
        let mut widths = vec![first("encoder.down.0.block.0.conv1.weight")?];
        for level in levels.skip(1).take_while(there) {
            widths.push(first(&level)?);
        }
        let blocks = (0..).map(|j| format!("encoder.down.0.block.{j}.conv1.weight")).take_while(there).count();
        let config = VaeConfig {
            groups: groups(settings, &widths)?,
            widths,
            blocks,
            latent_channels: latent_channels(source)?,
            latent_offset: number(settings, "shift_factor")?.unwrap_or(LATENT_OFFSET),
            latent_scale: number(settings, "scaling_factor")?.unwrap_or(LATENT_SCALE),
        };
        if config.latent_scale as f32 <= 0.0 {
            return Err(bad_setting(settings, "scaling_factor", "it must be more than 0"));
        }
        agrees(settings, "latent_channels", config.latent_channels)?;
        agrees(settings, "block_out_channels", &config.widths[..])?;
        agrees(settings, "layers_per_block", config.blocks)?;
        Ok(config)
    }

    /// The `config.json` that diffusers has beside such an autoencoder.
    pub fn settings(&self) -> Value {
        let levels = self.widths.len();
        json!({
            "_class_name": "AutoencoderKL",
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": vec!["DownEncoderBlock2D"; levels],
            "up_block_types": vec!["UpDecoderBlock2D"; levels],
            "block_out_channels": self.widths,
            "layers_per_block": self.blocks,
            "latent_channels": self.latent_channels,
            "norm_num_groups": self.groups,
            "act_fn": "silu",
            "scaling_factor": self.latent_scale,
            "shift_factor": self.latent_offset,
            "use_quant_conv": false,
            "use_post_quant_conv": false,
            "force_upcast": true,
            "mid_block_add_attention": true,
        })
    }

    /// Picture pixels for each latent pixel, on a side: 8.
    pub fn downsampling(&self) -> usize {
        1 << (self.widths.len() - 1)
    }
}

/// The shape of a convolution that must be there.
fn shape(source: &dyn ParamSource, name: &str) -> Result<[usize; 4], ConfigError> {
    let missing = || ConfigError::Missing(name.into());
    let shape: [usize; 4] = source.shape(name).and_then(|shape| shape.try_into().ok()).ok_or_else(missing)?;
    if shape.iter().any(|&size| size == 0 || size > SIZE_MAX) {
        return Err(bad_shape(name, shape, format!("has an axis that is not from 1 to {SIZE_MAX}")));
    }
    Ok(shape)
}

fn bad_shape(name: &str, shape: [usize; 4], why: impl Into<String>) -> ConfigError {
    ConfigError::Shape { name: name.into(), shape: shape.into(), why: why.into() }
}

/// The encoder makes a mean and the logarithm of a variance for each.
fn latent_channels(source: &dyn ParamSource) -> Result<usize, ConfigError> {
    let name = "encoder.conv_out.weight";
    match shape(source, name)? {
        [made, ..] if made.is_multiple_of(2) => Ok(made / 2),
        shape => Err(bad_shape(name, shape, "is not a mean and a variance of each channel")),
    }
}

fn groups(settings: Option<&Value>, widths: &[usize]) -> Result<usize, ConfigError> {
    let key = "norm_num_groups";
    let divide = |groups: usize| widths.iter().all(|width| width.is_multiple_of(groups));
    match stated(settings, key).map(|value| value.as_u64().and_then(|groups| usize::try_from(groups).ok())) {
        None if divide(GROUPS) => Ok(GROUPS),
        None => Err(ConfigError::Groups),
        Some(None | Some(0)) => Err(bad_setting(settings, key, "it must be a whole number from 1")),
        Some(Some(groups)) if divide(groups) => Ok(groups),
        Some(Some(_)) => Err(bad_setting(settings, key, format!("so many groups do not divide channels {widths:?}"))),
    }
}

/// A setting that is there. `null` counts as nothing.
fn stated<'a>(settings: Option<&'a Value>, key: &str) -> Option<&'a Value> {
    settings?.get(key).filter(|value| !value.is_null())
}

fn bad_setting(settings: Option<&Value>, key: &'static str, why: impl Into<String>) -> ConfigError {
    let stated = stated(settings, key).map_or_else(|| "not given".into(), printable);
    ConfigError::Setting { key, stated, why: why.into() }
}

/// A value from a file for a message: short, and without commands to the terminal.
fn printable(value: &Value) -> String {
    value.to_string().chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A number that is finite in the precision that it is used in.
fn number(settings: Option<&Value>, key: &'static str) -> Result<Option<f64>, ConfigError> {
    let Some(value) = stated(settings, key) else { return Ok(None) };
    match value.as_f64().filter(|&number| (number as f32).is_finite()) {
        Some(number) => Ok(Some(number)),
        None => Err(bad_setting(settings, key, "it must be a number, and finite")),
    }
}

/// Checks that `key`, if it is stated, is what the tensors say.
fn agrees(settings: Option<&Value>, key: &'static str, found: impl Into<Value>) -> Result<(), ConfigError> {
    let found = found.into();
    match stated(settings, key) {
        Some(stated) if *stated != found => Err(bad_setting(settings, key, format!("the tensors say {found}"))),
        _ => Ok(()),
    }
}
