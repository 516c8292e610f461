use rectiflow_nn::ParamSource;
use serde_json::Value;

use crate::printable;

/// No axis of a released text encoder is a tenth of this (T5's vocabulary: 32,128; CLIP's: 49,408).
const SIZE_MAX: usize = 1 << 20;

/// The tensors, or the settings beside them, are not those of a text encoder. Nothing was loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A tensor that every encoder of this kind has is not there.
    #[error("not a {encoder} encoder: tensor `{name}` is missing; is it another model's file?")]
    Missing {
        /// The kind of encoder.
        encoder: &'static str,
        /// Official name.
        name: String,
    },
    /// A tensor has a shape that no encoder of this kind has.
    #[error("not a {encoder} encoder: `{name}` has shape {shape:?}, which {why}")]
    Shape {
        /// The kind of encoder.
        encoder: &'static str,
        /// Official name.
        name: String,
        /// As found.
        shape: Vec<usize>,
        /// What is wrong with it.
        why: String,
    },
    /// A setting is impossible, not supported, or contradicts the tensors.
    #[error(
        "config.json of the {encoder} encoder says `{key}` is {stated}, but {why}; take both files from the same model"
    )]
    Setting {
        /// The kind of encoder.
        encoder: &'static str,
        /// Name of the setting.
        key: &'static str,
        /// Its value.
        stated: String,
        /// What is wrong with it.
        why: String,
    },
    /// The tensors do not tell the sizes, and there are no settings.
    #[error("cannot tell the {what} of the {encoder} encoder from its tensors; put its config.json beside the file")]
    Unknown {
        /// The kind of encoder.
        encoder: &'static str,
        /// What is not known.
        what: &'static str,
    },
}

/// What is known of an encoder before it is built: its tensors' shapes and perhaps its `config.json`.
pub(crate) struct Evidence<'a> {
    pub(crate) encoder: &'static str,
    pub(crate) source: &'a dyn ParamSource,
    pub(crate) settings: Option<&'a Value>,
}

impl Evidence<'_> {
    /// The shape of a tensor that must be there.
    pub(crate) fn shape<const D: usize>(&self, name: &str) -> Result<[usize; D], ConfigError> {
        let missing = || ConfigError::Missing { encoder: self.encoder, name: name.into() };
        let shape = self.source.shape(name).ok_or_else(missing)?;
        if shape.iter().any(|&size| size == 0 || size > SIZE_MAX) {
            return Err(self.bad_shape(name, &shape, format!("has an axis that is not from 1 to {SIZE_MAX}")));
        }
        let axes = shape.len();
        shape
            .try_into()
            .map_err(|shape: Vec<usize>| self.bad_shape(name, &shape, format!("has {axes} axes instead of {D}")))
    }

    pub(crate) fn bad_shape(&self, name: &str, shape: &[usize], why: impl Into<String>) -> ConfigError {
        ConfigError::Shape { encoder: self.encoder, name: name.into(), shape: shape.into(), why: why.into() }
    }

    /// How many layers there are: `name` gives a tensor of layer i.
    pub(crate) fn layers(&self, name: impl Fn(usize) -> String) -> Result<usize, ConfigError> {
        let layers = (0..SIZE_MAX).take_while(|&i| self.source.shape(&name(i)).is_some()).count();
        if layers == 0 {
            return Err(ConfigError::Missing { encoder: self.encoder, name: name(0) });
        }
        Ok(layers)
    }

    /// The stated value of `key`, if any. `null` counts as nothing.
    fn stated(&self, key: &str) -> Option<&Value> {
        self.settings?.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn bad_setting(&self, key: &'static str, why: impl Into<String>) -> ConfigError {
        let stated = self.stated(key).map_or_else(|| "not given".into(), |value| printable::name(&value.to_string()));
        ConfigError::Setting { encoder: self.encoder, key, stated, why: why.into() }
    }

    /// A whole number from 1 on.
    pub(crate) fn size(&self, key: &'static str) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.stated(key) else { return Ok(None) };
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        match size.filter(|&size| (1..=SIZE_MAX).contains(&size)) {
            Some(size) => Ok(Some(size)),
            None => Err(self.bad_setting(key, format!("it must be a whole number from 1 to {SIZE_MAX}"))),
        }
    }

    /// Checks that `key`, if it is stated, is what the tensors say.
    pub(crate) fn agrees(&self, key: &'static str, found: usize) -> Result<(), ConfigError> {
        match self.size(key)? {
            Some(stated) if stated != found => Err(self.bad_setting(key, format!("the tensors say {found}"))),
            _ => Ok(()),
        }
    }

    /// What keeps a norm from dividing by 0.
    pub(crate) fn epsilon(&self, key: &'static str, otherwise: f64) -> Result<f64, ConfigError> {
        let Some(value) = self.stated(key) else { return Ok(otherwise) };
        match value.as_f64().filter(|&eps| eps > 0.0 && eps < 1.0) {
            Some(eps) => Ok(eps),
            None => Err(self.bad_setting(key, "it must be a number between 0 and 1")),
        }
    }

    /// A name.
    pub(crate) fn text(&self, key: &'static str) -> Result<Option<&str>, ConfigError> {
        let Some(value) = self.stated(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.bad_setting(key, "it must be a text"))
    }
}
