//! Picture files: PNG, JPEG and WebP, with texts inside.
//!
//! This module does not know what the texts say, and reads no file: [`StoredPicture`](crate::StoredPicture) does.

use std::io::{self, Cursor};
use std::path::Path;
use std::str::FromStr;

use ::image::codecs::jpeg::JpegEncoder;
use ::image::codecs::webp::WebPEncoder;
use ::image::{ExtendedColorType, ImageEncoder};
use rectiflow_weights::{IfThere, write_whole};

use crate::exif;
use crate::image::{Image, ImageError};

/// How a picture is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Every pixel as it is; texts in chunks of their own.
    #[default]
    Png,
    /// Smaller, and not quite the same pixels; texts in EXIF, 64 KB at most.
    Jpeg {
        /// 1 to 100.
        quality: u8,
    },
    /// Every pixel as it is, by WebP's lossless half; texts in EXIF.
    WebP,
}

/// A format that pictures are not stored in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no format that pictures are stored in; give png, jpeg or webp")]
pub struct UnknownFormat(String);

/// A picture that a format has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// The prompts are too long.
    #[error(
        "the settings take {bytes} bytes, and a JPEG has room for {EXIF_BYTES_MAX}\n\
         hint: store a PNG or WebP, or draw with shorter prompts"
    )]
    Texts {
        /// As EXIF.
        bytes: usize,
    },
    /// A side is too long.
    #[error("a {format} of {width}x{height} cannot be: its longest side is {max}\nhint: store a PNG")]
    Side {
        /// Which format.
        format: Format,
        /// Pixels.
        width: usize,
        /// Pixels.
        height: usize,
        /// Pixels.
        max: usize,
    },
}

/// A JPEG segment's length has 16 bits and counts its own two bytes; `Exif\0\0` stands before the fields.
const EXIF_BYTES_MAX: usize = 65_535 - 2 - 6;

impl Format {
    /// The quality of a JPEG where nobody says.
    pub const QUALITY: u8 = 95;

    /// The format that files with this ending have.
    pub fn of_ending(ending: &str) -> Option<Format> {
        match ending.to_ascii_lowercase().as_str() {
            "png" => Some(Format::Png),
            "jpg" | "jpeg" => Some(Format::Jpeg { quality: Format::QUALITY }),
            "webp" => Some(Format::WebP),
            _ => None,
        }
    }

    /// What the names of files end in.
    pub fn ending(self) -> &'static str {
        match self {
            Format::Png => "png",
            Format::Jpeg { .. } => "jpg",
            Format::WebP => "webp",
        }
    }

    /// The quality that is stored with a picture, where pixels do not stay as they are.
    pub fn quality(self) -> Option<u8> {
        match self {
            Format::Jpeg { quality } => Some(quality),
            Format::Png | Format::WebP => None,
        }
    }

    fn side_px_max(self) -> usize {
        match self {
            Format::Png => 1 << 24,
            Format::Jpeg { .. } => 65_535,
            Format::WebP => 16_383,
        }
    }

    /// Whether a picture of this size with these texts can be stored so, which is asked before it is drawn.
    ///
    /// # Errors
    /// It cannot.
    pub fn check(self, [width, height]: [usize; 2], texts: &[(&str, String)]) -> Result<(), NoRoom> {
        let max = self.side_px_max();
        if width.max(height) > max {
            return Err(NoRoom::Side { format: self, width, height, max });
        }
        match self {
            Format::Jpeg { .. } => match exif::packed(texts).len() {
                bytes if bytes > EXIF_BYTES_MAX => Err(NoRoom::Texts { bytes }),
                _ => Ok(()),
            },
            Format::Png | Format::WebP => Ok(()),
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Format::Png => "PNG",
            Format::Jpeg { .. } => "JPEG",
            Format::WebP => "WebP",
        })
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        Format::of_ending(text).ok_or_else(|| UnknownFormat(text.to_owned()))
    }
}

impl Image {
    /// Writes a picture file: `path` is the whole file or not there.
    ///
    /// `texts`: keyword and content. A PNG has each as a chunk; JPEG and WebP have EXIF fields for `parameters` and
    /// `rectiflow`, and for no others.
    ///
    /// # Errors
    /// The folder is missing or not writable, the disk is full, the name is taken and `if_there` keeps it, or
    /// [`Format::check`] refuses the picture.
    pub fn save(
        &self,
        path: &Path,
        if_there: IfThere,
        format: Format,
        texts: &[(&str, String)],
    ) -> Result<(), ImageError> {
        self.encode(format, texts)
            .and_then(|file| write_whole(path, if_there, |out| out.write_all(&file)))
            .map_err(|source| ImageError::new(path, source))
    }

    /// The bytes of a picture file.
    ///
    /// # Errors
    /// [`Format::check`] refuses the picture.
    pub fn encode(&self, format: Format, texts: &[(&str, String)]) -> io::Result<Vec<u8>> {
        format.check([self.width, self.height], texts).map_err(io::Error::other)?;
        let mut file = Cursor::new(Vec::new());
        match format {
            Format::Png => return self.to_png(texts),
            Format::Jpeg { quality } => self.write_with(JpegEncoder::new_with_quality(&mut file, quality), texts)?,
            Format::WebP => self.write_with(WebPEncoder::new_lossless(&mut file), texts)?,
        }
        Ok(file.into_inner())
    }

    fn write_with(&self, mut encoder: impl ImageEncoder, texts: &[(&str, String)]) -> io::Result<()> {
        if !texts.is_empty() {
            encoder.set_exif_metadata(exif::packed(texts)).map_err(io::Error::other)?;
        }
        let [width, height] = [self.width, self.height].map(|side| side as u32);
        encoder.write_image(&self.rgb, width, height, ExtendedColorType::Rgb8).map_err(io::Error::other)
    }

    fn to_png(&self, texts: &[(&str, String)]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        for (keyword, text) in texts {
            encoder.add_itxt_chunk((*keyword).to_string(), text.clone())?;
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.rgb)?;
        writer.finish()?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoredPicture;

    const TEXTS: [(&str, &str); 2] =
        [("parameters", "ein Apfel, 苹果 🍎\nSteps: 2"), ("rectiflow", "{\"prompt\":\"ein Apfel, 苹果 🍎\"}")];

    fn texts() -> Vec<(&'static str, String)> {
        TEXTS.map(|(keyword, text)| (keyword, text.to_owned())).into()
    }

    fn noise(width: usize, height: usize) -> Image {
        Image { width, height, rgb: (0..width * height * 3).map(|i| (i * i % 251) as u8).collect() }
    }

    #[test]
    fn every_format_gives_back_its_texts_and_two_of_them_every_pixel() {
        let folder = tempfile::tempdir().unwrap();
        let image = noise(24, 16);
        for format in [Format::Png, Format::Jpeg { quality: 90 }, Format::WebP] {
            let path = folder.path().join(format.ending());
            image.save(&path, IfThere::Keep, format, &texts()).unwrap();
            let stored = StoredPicture::open(&path).unwrap();
            assert_eq!((stored.width, stored.height), (24, 16));
            assert_eq!([stored.text("parameters"), stored.text("rectiflow")], TEXTS.map(|(_, text)| Some(text)));
            assert_eq!(stored.pixels().unwrap() == image, format.quality().is_none(), "{format}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "no temporary file is left");
    }

    #[test]
    fn a_higher_quality_is_nearer() {
        let image = noise(32, 32);
        let far = |quality| {
            let file = image.encode(Format::Jpeg { quality }, &[]).unwrap();
            let decoded = StoredPicture::of_bytes(file).unwrap().pixels().unwrap();
            decoded.rgb.iter().zip(&image.rgb).map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>()
        };
        assert!(far(100) < far(90) && far(90) < far(50));
    }

    #[test]
    fn what_a_format_has_no_room_for_is_refused() {
        let long = [("parameters", "é".repeat(40_000)), ("rectiflow", String::new())];
        let jpeg = Format::Jpeg { quality: 95 };
        let error = jpeg.check([8, 8], &long).unwrap_err().to_string();
        assert!(error.contains("room for 65527") && error.contains("hint: store a PNG or WebP"), "{error}");
        assert!(noise(8, 8).encode(jpeg, &long).is_err());
        for format in [Format::Png, Format::WebP] {
            let stored = StoredPicture::of_bytes(noise(8, 8).encode(format, &long).unwrap()).unwrap();
            assert_eq!(stored.text("parameters").unwrap().chars().count(), 40_000);
        }
        assert!(Format::WebP.check([16_384, 8], &[]).unwrap_err().to_string().contains("longest side is 16383"));
    }

    #[test]
    fn endings_are_those_of_the_formats() {
        let formats = ["png", "PNG", "jpg", "jpeg", "webp"].map(|ending| Format::of_ending(ending).unwrap().ending());
        assert_eq!(formats, ["png", "png", "jpg", "jpg", "webp"]);
        assert_eq!(Format::of_ending("gif"), None);
        assert!("gif".parse::<Format>().unwrap_err().to_string().contains("png, jpeg or webp"));
    }
}
