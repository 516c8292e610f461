//! From a picture's settings back to what was asked for, and what differs between two pictures' settings.
//!
//! Settings may come from a file that anybody made. They choose no path and run nothing: they become a [`Request`], which
//! is checked as a user's is, and numbers that would only cost time are refused here.

use std::fmt::Display;
use std::str::FromStr;

use rectiflow_flow::Shift;
use rectiflow_sample::Scales;
use rectiflow_weights::quoted;
use serde_json::{Map, Value};

use crate::guidance::GuidanceRequest;
use crate::plan::Request;
use crate::settings::{OneOrAll, Settings};
use crate::tiling::Tiling;

/// More steps than any picture needs; a file that asks for more wants to keep the machine busy.
const STEPS_MAX: usize = 10_000;
/// Each kind of hindrance can be asked for once.
const HINDERED_MAX: usize = 3;

/// Settings that no picture of ours has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSettings {
    /// No JSON, or not that of settings.
    #[error(
        "its settings are not those of a picture: {problem}\n\
         hint: they were changed, or another version of the program stored them"
    )]
    Form {
        /// What the JSON's reader says.
        problem: String,
    },
    /// They describe many pictures.
    #[error(
        "it is a sheet of pictures that `rectiflow grid` made\nhint: give one of its cells, which `--cells` stores"
    )]
    Sheet,
    /// A value that the program never stores.
    #[error(
        "its setting `{key}` is {value}: {problem}\nhint: it was changed, or another version of the program stored it"
    )]
    Value {
        /// Which setting.
        key: &'static str,
        /// As it stands there.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A setting that two pictures do not share, by its name; none where one has no such setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `steps`, `hashes.vae`.
    pub key: String,
    /// Of the one.
    pub was: Option<String>,
    /// Of the other.
    pub is: Option<String>,
}

impl Settings {
    /// Reads what [`Settings::texts`] calls `rectiflow`.
    ///
    /// # Errors
    /// It is no JSON, lacks a setting, has one that is not known or one of another type.
    pub fn from_json(text: &str) -> Result<Settings, BadSettings> {
        serde_json::from_str(text).map_err(|error| match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(map) if map.contains_key("grid") => BadSettings::Sheet,
            _ => BadSettings::Form { problem: quoted(&error.to_string()) },
        })
    }

    /// What a user would ask for to have this picture again, of the same model. It resolves to the plan that the picture
    /// was drawn by, but for its number among others.
    ///
    /// # Errors
    /// A name that nothing has, or a number that only costs time. What else may be wrong is found when it is resolved.
    pub fn request(&self) -> Result<Request, BadSettings> {
        let bad = |key, value: String, problem: &str| BadSettings::Value { key, value, problem: problem.to_owned() };
        if self.steps > STEPS_MAX {
            return Err(bad("steps", self.steps.to_string(), "more than 10000 steps only take time"));
        }
        if self.hindered.len() > HINDERED_MAX {
            return Err(bad("hindered", format!("{} times", self.hindered.len()), "there are three kinds of it"));
        }
        let scales = match &self.guidance {
            OneOrAll::One(scale) => Scales::one(*scale),
            OneOrAll::All(scales) => Scales::try_from(scales.clone())
                .map_err(|error| bad("guidance", format!("{scales:?}"), &error.to_string()))?,
        };
        let spacing = match &self.sigmas {
            Some(_) => None,
            None => Some(stored_setting("schedule", &self.schedule)?),
        };
        Ok(Request {
            prompts: vec![self.prompt.clone()],
            prompt_clip: self.prompt_clip.clone(),
            prompt_t5: self.prompt_t5.clone(),
            negative: self.negative_prompt.clone(),
            syntax: stored_setting("prompt_syntax", &self.prompt_syntax)?,
            long_prompts: stored_setting("long_prompts", &self.long_prompts)?,
            width: Some(self.width),
            height: Some(self.height),
            steps: self.sigmas.is_none().then_some(self.steps),
            guidance: GuidanceRequest {
                scales: Some(scales),
                window: self.guidance_window,
                rule: self.guidance_rule.unwrap_or_default(),
                rescale: self.guidance_rescale.unwrap_or(0.0),
                hindered: self.hindered.clone(),
            },
            shift: Some(Shift::By(self.shift)),
            spacing,
            sigmas: self.sigmas.clone(),
            seed: self.seed,
            count: 1,
            // It changes no pixel either.
            batch_size: None,
            solver: Some(stored_setting("solver", &self.solver)?),
            t5_length: Some(self.t5_length),
            reuse: self.step_cache,
            compat: stored_setting("compat", &self.compat)?,
            // It changes no pixel.
            tiling: Tiling::Auto,
        })
    }

    /// What these settings and another picture's do not share, by name. The program's version is among them.
    pub fn differences(&self, other: &Settings) -> Vec<Difference> {
        let [ours, theirs] = [self, other].map(|settings| flat(settings).unwrap_or_default());
        let keys: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        let differing = keys.into_iter().filter(|key| ours.get(*key) != theirs.get(*key));
        let text = |value: Option<&Value>| value.map(Value::to_string);
        differing
            .map(|key| Difference { key: key.clone(), was: text(ours.get(key)), is: text(theirs.get(key)) })
            .collect()
    }
}

/// A name that one of our types has, as a picture's settings have it under `key`.
///
/// # Errors
/// It is no such name.
pub fn stored_setting<T: FromStr<Err: Display>>(key: &'static str, value: &str) -> Result<T, BadSettings> {
    value.parse().map_err(|error: T::Err| BadSettings::Value { key, value: quoted(value), problem: error.to_string() })
}

/// Every setting under its name; those of `hashes` each under its own.
fn flat(settings: &Settings) -> Option<Map<String, Value>> {
    let Value::Object(all) = serde_json::to_value(settings).ok()? else { return None };
    let each = all.into_iter().flat_map(|(key, value)| match value {
        Value::Object(inner) if key == "hashes" => {
            inner.into_iter().map(|(name, value)| (format!("{key}.{name}"), value)).collect()
        }
        value => vec![(key, value)],
    });
    Some(each.collect())
}

impl Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 60;
        let shown = |value: &Option<String>| match value {
            None => "not said".to_owned(),
            Some(text) if text.chars().count() > SHOWN => {
                format!("{}...", text.chars().take(SHOWN).collect::<String>())
            }
            Some(text) => text.clone(),
        };
        write!(f, "{}: {} then, {} now", self.key, shown(&self.was), shown(&self.is))
    }
}

#[cfg(test)]
mod tests;
