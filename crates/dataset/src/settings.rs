use std::num::NonZeroU64;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::buckets::{Buckets, Size};
use crate::captions::CaptionMix;
use crate::error::DatasetError;
use crate::picture::Background;
use crate::source::Kind;
use crate::sprites;

/// A recipe's `[data]`: what was typed.
///
/// ```
/// let settings: rectiflow_dataset::DataSettings = toml::from_str(
///     r##"
///     path = "photos"
///     captions = { caption = 0.5, synthetic = 0.5 }
///     side_px = 1024
///     crop = "buckets"
///     "##,
/// )
/// .unwrap();
/// assert_eq!(settings.sizes().unwrap().sizes()[0].to_string(), "1024x1024");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSettings {
    /// A folder or a file. What it is shows from what is inside.
    pub path: PathBuf,
    /// What it is, where that does not show or something else is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// How many scenes are drawn, for `kind = "sprites"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<NonZeroU64>,
    /// What decides the scenes, for `kind = "sprites"`. Left away: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Which scenes are drawn, for `kind = "sprites"`. Left away: those for training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<sprites::Split>,
    /// Of `kind = "sprites"`: where things and words lie; anywhere where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<sprites::Layout>,
    /// The column of pictures of Parquet files with several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture_column: Option<String>,
    /// The columns that captions are drawn from. Left away: "caption", or "text", or the only column there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captions: Option<CaptionMix>,
    /// What becomes of a sample whose caption is missing or not one.
    #[serde(default)]
    pub without_caption: WithoutCaption,
    /// The side of a square, or the root of the area of buckets, px. Only what never looks at pictures can do without.
    #[serde(default)]
    pub side_px: u32,
    /// Which part of a picture is trained on.
    #[serde(default)]
    pub crop: Crop,
    /// The sizes for `crop = "buckets"`.
    #[serde(default)]
    pub buckets: BucketSettings,
    /// Whether half of the pictures are mirrored left to right, anew in each epoch. Wrong for what can be read.
    #[serde(default)]
    pub flip: bool,
    /// What lies behind transparent pictures.
    #[serde(default = "white")]
    pub background: Background,
    /// Pictures of more pixels are left out before any memory is taken for them.
    #[serde(default = "pixels_max")]
    pub pixels_max: u64,
    /// Pictures with a shorter side are left out, px.
    #[serde(default = "side_px_min")]
    pub side_px_min: u32,
    /// Whether pictures smaller than what they are trained at are enlarged; they are left out otherwise.
    #[serde(default)]
    pub enlarge: bool,
    /// How closely pictures are looked at before training.
    #[serde(default)]
    pub check: Check,
}

/// What becomes of a sample whose caption is missing or not one. Where its file cannot be read, which may pass, the
/// sample is not trained on in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WithoutCaption {
    /// It is not trained on.
    #[default]
    LeaveOut,
    /// It is trained on with an empty caption.
    Empty,
}

/// Which part of a picture is trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Crop {
    /// The square in the middle.
    #[default]
    Centre,
    /// The middle, in the shape of the nearest bucket.
    Buckets,
}

/// How closely pictures are looked at before training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// At their headers: pixels that are damaged are found when they are needed.
    #[default]
    Headers,
    /// At all of them: each picture is decoded once.
    Pixels,
}

/// The sizes of buckets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "buckets are \"stability-1024\", a table { step_px = 64, ratio_max = 2.5 }, or a list of sizes [[1024, 1024], [1216, 832]]"
)]
pub enum BucketSettings {
    /// A list that is known by name.
    Named(NamedBuckets),
    /// [`Buckets::of_area`] for `side_px`.
    Computed(ComputedBuckets),
    /// These sizes; `side_px` only names the area then.
    Listed(Vec<Size>),
}

/// Lists of sizes that are known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamedBuckets {
    /// [`Buckets::stability_1024`].
    #[serde(rename = "stability-1024")]
    Stability1024,
}

/// How [`Buckets::of_area`] chooses sizes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputedBuckets {
    /// Sides are multiples of it, px.
    #[serde(default = "step_px")]
    pub step_px: u32,
    /// Of the longer side to the shorter.
    #[serde(default = "ratio_max")]
    pub ratio_max: f64,
}

impl Default for BucketSettings {
    fn default() -> Self {
        BucketSettings::Computed(ComputedBuckets { step_px: step_px(), ratio_max: ratio_max() })
    }
}

impl DataSettings {
    /// What decides the scenes of `kind = "sprites"`.
    pub fn scenes(&self) -> sprites::Settings {
        sprites::Settings {
            seed: self.seed.unwrap_or(0),
            split: self.split.unwrap_or(sprites::Split::Train),
            letters_max: sprites::Settings::letters_max_at(self.side_px),
            layout: self.layout.unwrap_or_default(),
        }
    }

    /// The sizes that pictures are trained at.
    ///
    /// # Errors
    /// Sizes that the transformer cannot take.
    pub fn sizes(&self) -> Result<Buckets, DatasetError> {
        match (self.crop, &self.buckets) {
            (Crop::Centre, _) => Buckets::square(self.side_px),
            (Crop::Buckets, BucketSettings::Named(NamedBuckets::Stability1024)) => Ok(Buckets::stability_1024()),
            (Crop::Buckets, BucketSettings::Computed(computed)) => {
                Buckets::of_area(self.side_px, computed.step_px, computed.ratio_max)
            }
            (Crop::Buckets, BucketSettings::Listed(sizes)) => Buckets::listed(sizes.clone()),
        }
    }
}

fn white() -> Background {
    Background::WHITE
}

/// 100 megapixels, 300 MB as RGB: 20,000 by 5,000.
fn pixels_max() -> u64 {
    100_000_000
}

fn side_px_min() -> u32 {
    32
}

fn step_px() -> u32 {
    64
}

fn ratio_max() -> f64 {
    2.5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(more: &str) -> Result<DataSettings, toml::de::Error> {
        toml::from_str(&format!("path = \"x\"\nside_px = 512\n{more}"))
    }

    #[test]
    fn everything_has_a_spelling_and_comes_back_from_the_plan() {
        let settings = parsed(
            r##"
            kind = "webdataset"
            seed = 3
            split = "held-out"
            picture_column = "image"
            captions = { caption = 0.5, synthetic = 0.5 }
            without_caption = "empty"
            crop = "buckets"
            buckets = { step_px = 32 }
            flip = true
            background = "#102030"
            pixels_max = 5
            side_px_min = 6
            enlarge = true
            check = "pixels"
            "##,
        )
        .unwrap();
        assert_eq!((settings.kind, settings.background), (Some(Kind::WebDataset), Background([16, 32, 48])));
        assert_eq!(toml::from_str::<DataSettings>(&toml::to_string(&settings).unwrap()).unwrap(), settings);
        let plain = parsed("").unwrap();
        assert_eq!((plain.crop, plain.without_caption, plain.flip), (Crop::Centre, WithoutCaption::LeaveOut, false));
        assert_eq!(toml::from_str::<DataSettings>(&toml::to_string(&plain).unwrap()).unwrap(), plain);
    }

    #[test]
    fn buckets_are_named_computed_or_listed() {
        let sizes = |buckets: &str| {
            let settings =
                parsed(&format!("crop = \"buckets\"\nbuckets = {buckets}")).map_err(|error| error.to_string())?;
            settings.sizes().map_err(|error| error.to_string())
        };
        assert_eq!(sizes("\"stability-1024\"").unwrap(), Buckets::stability_1024());
        assert_eq!(sizes("[[512, 512], [640, 384]]").unwrap().sizes()[1], Size::new(640, 384));
        assert_eq!(sizes("{}").unwrap(), Buckets::of_area(512, 64, 2.5).unwrap());
        assert!(sizes("\"stability\"").unwrap_err().contains("a list of sizes"));
        assert!(sizes("{ step_px = 48 }").unwrap_err().contains("multiple"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for wrong in [
            "captoins = { a = 1 }",
            "captions = { a = -1 }",
            "captions = {}",
            "background = \"#12\"",
            "background = \"beige\"",
            "kind = \"tar\"",
            "crop = \"left\"",
            "split = \"test\"",
            "seed = -1",
            "side_px_min = -1",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
