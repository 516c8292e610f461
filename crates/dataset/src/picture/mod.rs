//! One picture: what its header says, its pixels as RGB, and the part of it that is trained on.
//!
//! This module opens no file, and knows no data set.

mod crop;
mod gif;
mod jpeg;

use std::io::{Cursor, ErrorKind};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use serde::{Deserialize, Serialize};

use crate::buckets::Size;
use crate::error::{DatasetError, Reason};
use crate::findings::Change;

pub use crop::{Cropped, Window, crop_to};

/// No picture that people train on is larger; a larger file would only fill the memory.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 30;

/// The colour behind what lets light through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Background(pub [u8; 3]);

impl Background {
    /// Paper.
    pub const WHITE: Background = Background([255; 3]);
}

impl TryFrom<String> for Background {
    type Error = DatasetError;

    fn try_from(text: String) -> Result<Self, DatasetError> {
        let named = match text.as_str() {
            "white" => Some([255; 3]),
            "black" => Some([0; 3]),
            "grey" | "gray" => Some([128; 3]),
            _ => None,
        };
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6);
        let typed = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).map(|number| {
            let [_, red, green, blue] = number.to_be_bytes();
            [red, green, blue]
        });
        named.or(typed).map(Background).ok_or_else(|| DatasetError::Settings {
            problem: format!("`background` = {} is no colour", rectiflow_weights::quoted(&text)),
            hint: "use \"white\", \"black\", \"grey\" or \"#rrggbb\"",
        })
    }
}

impl From<Background> for String {
    fn from(Background([red, green, blue]): Background) -> Self {
        format!("#{red:02x}{green:02x}{blue:02x}")
    }
}

/// What is known of a picture before it is decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// As it is seen: after its EXIF orientation.
    pub size: Size,
    /// What decoding will do to it.
    pub changes: Vec<Change>,
}

/// Reads the header alone. `bytes` may be only the beginning of a file; `name` is what it was called, if anything.
/// The content decides what it is, not the name.
///
/// # Errors
/// It is not a picture that is read here, its header is damaged or cut short, or says more than `pixels_max`.
pub fn inspect(bytes: &[u8], name: Option<&str>, pixels_max: u64) -> Result<Header, Reason> {
    let format = format_of(bytes)?;
    let mut decoder = decoder_of(bytes, format, pixels_max)?;
    let orientation = decoder.orientation().map_err(problem)?;
    let (width_px, height_px) = decoder.dimensions();
    let mut size = Size::new(width_px, height_px);
    if size.pixels() > pixels_max {
        return Err(Reason::TooManyPixels { size, max: pixels_max });
    }
    if size.pixels() == 0 {
        return Err(Reason::DamagedPicture("it has no pixels".into()));
    }
    if swaps_sides(orientation) {
        size = Size::new(height_px, width_px);
    }
    let color = decoder.color_type();
    let gif = if format == ImageFormat::Gif { gif::walk(bytes) } else { gif::Gif::default() };
    // The decoder calls every GIF transparent.
    let flattened = if format == ImageFormat::Gif { gif.transparent } else { color.has_alpha() };
    let grey = !color.has_color();
    let sixteen = color.bytes_per_pixel() / color.channel_count() == 2;
    let cmyk = format == ImageFormat::Jpeg && jpeg::walk(bytes).components == Some(4);
    let named = name.and_then(|name| ImageFormat::from_path(name).ok());
    let seen = [
        (flattened, Change::Flattened),
        (grey, Change::GreyToRgb),
        (sixteen, Change::SixteenToEightBits),
        (cmyk, Change::CmykToRgb),
        (orientation != Orientation::NoTransforms, Change::Turned),
        (gif.second_frame || is_animated(bytes, format), Change::FirstFrame),
        (named.is_some_and(|named| named != format), Change::MisnamedFormat),
    ];
    Ok(Header { size, changes: seen.into_iter().filter_map(|(is_so, change)| is_so.then_some(change)).collect() })
}

/// The pixels, as they are seen: turned, 8 bits of red, green and blue each, laid over the background, the first
/// frame of an animation. Colour profiles are not applied.
///
/// # Errors
/// As [`inspect`]; the pixels are damaged or cut short.
pub fn decode(bytes: &[u8], background: Background, pixels_max: u64) -> Result<RgbImage, Reason> {
    inspect(bytes, None, pixels_max)?;
    let format = format_of(bytes)?;
    if is_cut_short(bytes, format) {
        return Err(Reason::PictureCutShort);
    }
    let mut decoder = decoder_of(bytes, format, pixels_max)?;
    let orientation = decoder.orientation().map_err(problem)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(problem)?;
    picture.apply_orientation(orientation);
    match picture.color().has_alpha() {
        true => Ok(over(&picture, background)),
        false => Ok(picture.into_rgb8()),
    }
}

/// Lays a picture over a colour, with the values as they are stored, as every viewer does.
fn over(picture: &DynamicImage, background: Background) -> RgbImage {
    let rgba = picture.to_rgba8();
    let mut out = RgbImage::new(rgba.width(), rgba.height());
    for (from, to) in rgba.pixels().zip(out.pixels_mut()) {
        let [colors @ .., alpha] = from.0;
        let alpha = u32::from(alpha);
        for ((to, color), behind) in to.0.iter_mut().zip(colors).zip(background.0) {
            *to = ((u32::from(color) * alpha + u32::from(behind) * (255 - alpha) + 127) / 255) as u8;
        }
    }
    out
}

fn format_of(bytes: &[u8]) -> Result<ImageFormat, Reason> {
    if bytes.is_empty() {
        return Err(Reason::EmptyPicture);
    }
    match image::guess_format(bytes).ok() {
        Some(format) if format.reading_enabled() => Ok(format),
        Some(format) => Err(Reason::UnreadFormat(format.extensions_str().first().unwrap_or(&"").to_string())),
        None => Err(Reason::NotAPicture),
    }
}

fn decoder_of(bytes: &[u8], format: ImageFormat, pixels_max: u64) -> Result<impl ImageDecoder, Reason> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::no_limits();
    // The widest pixel has four channels of 16 bits, and an animation's decoder holds its canvas twice.
    limits.max_alloc = Some(pixels_max.saturating_mul(16).saturating_add(64 << 20));
    reader.limits(limits);
    reader.into_decoder().map_err(problem)
}

fn problem(error: ImageError) -> Reason {
    let text = error.to_string();
    // Decoders name the end of their input in words of their own.
    let ended = ["unexpected end", "unexpected eof", "failed to fill whole buffer", "exhausted"];
    match &error {
        ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => Reason::PictureCutShort,
        _ if ended.iter().any(|words| text.to_lowercase().contains(words)) => Reason::PictureCutShort,
        _ => Reason::DamagedPicture(text),
    }
}

fn swaps_sides(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// Whether the end is missing, where the decoder does not say so: it paints a JPEG's missing part grey, and calls a
/// WebP corrupt. The others' decoders do.
fn is_cut_short(bytes: &[u8], format: ImageFormat) -> bool {
    match (format, bytes) {
        (ImageFormat::Jpeg, _) => !jpeg::walk(bytes).ends,
        // What follows the length; an even number of bytes, of which the last may not have been counted.
        (ImageFormat::WebP, &[_, _, _, _, a, b, c, d, ..]) => {
            u64::from(u32::from_le_bytes([a, b, c, d])) + 8 > bytes.len() as u64 + 1
        }
        _ => false,
    }
}

/// Whether a PNG or a WebP says that it moves.
fn is_animated(bytes: &[u8], format: ImageFormat) -> bool {
    match format {
        ImageFormat::Png => image::codecs::png::PngDecoder::new(Cursor::new(bytes))
            .is_ok_and(|decoder| decoder.is_apng().unwrap_or(false)),
        // The flags of the extended header: https://developers.google.com/speed/webp/docs/riff_container.
        ImageFormat::WebP => bytes.get(12..16) == Some(b"VP8X") && bytes.get(20).is_some_and(|flags| flags & 2 != 0),
        _ => false,
    }
}
