use rectiflow_nn::ParamSource;
use serde_json::Value;

/// Groups of the group norms in every released autoencoder.
const GROUPS: usize = 32;
/// `(z - offset) * scale` makes latents of mean 0 and deviation 1: `SD3LatentFormat` in `sd3_impls.py`.
const LATENT_OFFSET: f64 = 0.0609;
const LATENT_SCALE: f64 = 1.5305;

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
    /// A setting is of the wrong sort or does not fit the tensors.
    #[error("the autoencoder's config.json does not fit: {0}")]
    Settings(String),
}

impl VaeConfig {
    /// Finds the sizes from the tensors' shapes; what shapes cannot tell comes from `config.json`, or is that
    /// of the released models.
    ///
    /// # Errors
    /// The tensors are not those of an autoencoder, or the settings contradict them.
    pub fn find(source: &dyn ParamSource, settings: Option<&Value>) -> Result<Self, ConfigError> {
        let first = |name: String| match source.shape(&name).as_deref() {
            Some(&[width, _, _, _]) => Ok(width),
            _ => Err(ConfigError::Missing(name)),
        };
        let level = |i: usize| first(format!("encoder.down.{i}.block.0.conv1.weight")).ok();
        let widths: Vec<usize> = (0..).map_while(level).collect();
        if widths.is_empty() {
            return Err(ConfigError::Missing("encoder.down.0.block.0.conv1.weight".into()));
        }
        let block = |j: usize| first(format!("encoder.down.0.block.{j}.conv1.weight")).ok();
        let groups = whole(settings, "norm_num_groups")?.unwrap_or(GROUPS);
        if groups == 0 || widths.iter().any(|width| width % groups != 0) {
            return Err(ConfigError::Settings(format!("{groups} groups do not divide channels {widths:?}")));
        }
        let latent_offset = number(settings, "shift_factor")?.unwrap_or(LATENT_OFFSET);
        let latent_scale = number(settings, "scaling_factor")?.unwrap_or(LATENT_SCALE);
        if latent_scale == 0.0 {
            return Err(ConfigError::Settings("scaling_factor is 0".into()));
        }
        Ok(VaeConfig {
            blocks: (0..).map_while(block).count(),
            latent_channels: first("encoder.conv_out.weight".into())? / 2,
            widths,
            groups,
            latent_offset,
            latent_scale,
        })
    }

    /// Picture pixels for each latent pixel, on a side: 8.
    pub fn downsampling(&self) -> usize {
        1 << (self.widths.len() - 1)
    }
}

/// A setting that is there. `null` counts as nothing.
fn stated<'a>(settings: Option<&'a Value>, key: &str) -> Option<&'a Value> {
    settings?.get(key).filter(|value| !value.is_null())
}

fn number(settings: Option<&Value>, key: &str) -> Result<Option<f64>, ConfigError> {
    let Some(value) = stated(settings, key) else { return Ok(None) };
    let bad = || ConfigError::Settings(format!("{key} is {value}, which is not a number"));
    value.as_f64().map(Some).ok_or_else(bad)
}

fn whole(settings: Option<&Value>, key: &str) -> Result<Option<usize>, ConfigError> {
    let Some(value) = stated(settings, key) else { return Ok(None) };
    let bad = || ConfigError::Settings(format!("{key} is {value}, which is not a whole number"));
    value.as_u64().and_then(|number| usize::try_from(number).ok()).map(Some).ok_or_else(bad)
}
