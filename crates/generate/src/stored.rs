//! Picture files as they are found: their size, their texts, their pixels.
//!
//! A file may come from anywhere. Its header decides how much is read, within bounds, and its pixels are decoded only
//! when they are asked for. What the texts mean is not known here.

use std::io::{Cursor, Read};
use std::path::Path;

use ::image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::exif;
use crate::image::Image;

/// No file that pictures of [`PIXELS_MAX`] need is larger.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// More than any model here draws.
const PIXELS_MAX: u64 = 1 << 26;
/// A text with all settings has some hundred bytes, and its prompts.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Chunks of a PNG before its pixels.
const CHUNK_BYTES_MAX: usize = 32 << 20;

/// A file of a picture.
pub struct StoredPicture {
    format: ImageFormat,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    texts: Vec<(String, String)>,
    file: Vec<u8>,
}

/// A file that is no picture, or none that is read here.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// It cannot be opened or read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// It is far larger than a picture.
    #[error("it is larger than {} MB\nhint: give the file of one picture", FILE_BYTES_MAX >> 20)]
    TooLong,
    /// It begins as no PNG, JPEG or WebP does.
    #[error("it is no PNG, JPEG or WebP\nhint: give a picture that `rectiflow generate` stored")]
    NoPicture,
    /// The header or the pixels are damaged.
    #[error(
        "the picture is damaged: {0}\nhint: give the file as it was stored; some services change what they send on"
    )]
    Damaged(String),
    /// It says that it is very large.
    #[error("it is a picture of {width}x{height}\nhint: no model here draws one of more than {PIXELS_MAX} pixels")]
    TooLarge {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// A text is far longer than settings are, or becomes that when it is unpacked.
    #[error(
        "its text `{keyword}` is longer than {} KB, which no settings are\n\
         hint: it is not from `rectiflow generate`, or was made to fill memory",
        TEXT_BYTES_MAX >> 10
    )]
    TextTooLong {
        /// Its name.
        keyword: String,
    },
}

impl StoredPicture {
    /// Opens a file and reads its header and texts.
    ///
    /// # Errors
    /// It cannot be read, is no picture, is damaged, or says that it holds far more than a picture does.
    pub fn open(path: &Path) -> Result<StoredPicture, StoredError> {
        let mut file = Vec::new();
        std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut file)?;
        StoredPicture::of_bytes(file)
    }

    /// The same of a file's bytes.
    ///
    /// # Errors
    /// As [`StoredPicture::open`].
    pub fn of_bytes(file: Vec<u8>) -> Result<StoredPicture, StoredError> {
        if file.len() as u64 > FILE_BYTES_MAX {
            return Err(StoredError::TooLong);
        }
        let format = ::image::guess_format(&file).map_err(|_| StoredError::NoPicture)?;
        let texts = match format {
            ImageFormat::Png => png_texts(&file)?,
            ImageFormat::Jpeg | ImageFormat::WebP => exif::texts(&file),
            _ => return Err(StoredError::NoPicture),
        };
        if let Some((keyword, _)) = texts.iter().find(|(_, text)| text.len() > TEXT_BYTES_MAX) {
            return Err(StoredError::TextTooLong { keyword: keyword.clone() });
        }
        let (width, height) = decoder(&file, format)?.dimensions();
        if u64::from(width) * u64::from(height) > PIXELS_MAX {
            return Err(StoredError::TooLarge { width, height });
        }
        Ok(StoredPicture { format, width: width as usize, height: height as usize, texts, file })
    }

    /// Whether storing it changed its pixels.
    pub fn is_jpeg(&self) -> bool {
        self.format == ImageFormat::Jpeg
    }

    /// The text of this name.
    pub fn text(&self, keyword: &str) -> Option<&str> {
        self.texts.iter().find(|(name, _)| name == keyword).map(|(_, text)| text.as_str())
    }

    /// The pixels; alpha is left out, 16 bits become 8.
    ///
    /// # Errors
    /// They are damaged.
    pub fn pixels(&self) -> Result<Image, StoredError> {
        let picture = DynamicImage::from_decoder(decoder(&self.file, self.format)?).map_err(damaged)?.into_rgb8();
        Ok(Image { width: picture.width() as usize, height: picture.height() as usize, rgb: picture.into_raw() })
    }
}

fn decoder(file: &[u8], format: ImageFormat) -> Result<impl ImageDecoder + '_, StoredError> {
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut limits = Limits::no_limits();
    // The widest pixel has four channels of 16 bits, and some decoders hold it twice.
    limits.max_alloc = Some(PIXELS_MAX * 16);
    reader.limits(limits);
    reader.into_decoder().map_err(damaged)
}

fn damaged(error: impl std::fmt::Display) -> StoredError {
    StoredError::Damaged(error.to_string())
}

/// The texts before a PNG's pixels. Of those that are packed only what settings are called is unpacked.
fn png_texts(file: &[u8]) -> Result<Vec<(String, String)>, StoredError> {
    let limits = png::Limits { bytes: CHUNK_BYTES_MAX };
    let reader = png::Decoder::new_with_limits(Cursor::new(file), limits).read_info().map_err(damaged)?;
    let info = reader.info();
    let is_ours = |keyword: &str| matches!(keyword, "parameters" | "rectiflow");
    let mut texts: Vec<(String, String)> = Vec::new();
    for chunk in info.uncompressed_latin1_text.iter().filter(|chunk| is_ours(&chunk.keyword)) {
        texts.push((chunk.keyword.clone(), chunk.text.clone()));
    }
    let too_long = |keyword: &str| StoredError::TextTooLong { keyword: keyword.to_owned() };
    for chunk in info.compressed_latin1_text.iter().filter(|chunk| is_ours(&chunk.keyword)) {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(TEXT_BYTES_MAX).map_err(|_| too_long(&chunk.keyword))?;
        texts.push((chunk.keyword.clone(), chunk.get_text().map_err(damaged)?));
    }
    for chunk in info.utf8_text.iter().filter(|chunk| is_ours(&chunk.keyword)) {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(TEXT_BYTES_MAX).map_err(|_| too_long(&chunk.keyword))?;
        texts.push((chunk.keyword.clone(), chunk.get_text().map_err(damaged)?));
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;

    /// A PNG of 1x1 with chunks of this type and content before its pixels.
    fn png(chunks: &[(png::chunk::ChunkType, Vec<u8>)], side: u32) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, side, side);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().unwrap();
        for (kind, content) in chunks {
            writer.write_chunk(*kind, content).unwrap();
        }
        writer.write_chunk(png::chunk::IDAT, &[0x78, 0x9c]).unwrap();
        drop(writer);
        file
    }

    fn refusal(file: Vec<u8>) -> String {
        StoredPicture::of_bytes(file).err().expect("it is refused").to_string()
    }

    #[test]
    fn a_text_that_grows_beyond_bounds_when_unpacked_is_refused() {
        let bomb = |keyword: &str| {
            let mut file = Vec::new();
            let mut encoder = png::Encoder::new(&mut file, 1, 1);
            encoder.add_ztxt_chunk(keyword.to_owned(), "a".repeat(8 << 20)).unwrap();
            encoder.write_header().unwrap().write_image_data(&[0]).unwrap();
            file
        };
        let file = bomb("rectiflow");
        assert!(file.len() < 1 << 20, "{}", file.len());
        assert!(refusal(file).contains("`rectiflow` is longer than 1024 KB"));
        // Of texts that are not asked for nothing is unpacked.
        assert!(StoredPicture::of_bytes(bomb("other")).is_ok());
    }

    #[test]
    fn a_header_that_promises_too_much_is_refused_before_anything_is_decoded() {
        assert!(refusal(png(&[], 1 << 20)).contains("1048576x1048576"));
        assert!(refusal(b"GIF89a".to_vec()).contains("no PNG, JPEG or WebP"));
        assert!(refusal(b"\x89PNG\r\n\x1a\nxx".to_vec()).contains("damaged"));
        assert!(refusal(Vec::new()).contains("no PNG, JPEG or WebP"));
    }

    #[test]
    fn texts_of_all_three_kinds_are_read() {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 1, 1);
        encoder.add_text_chunk("rectiflow".into(), "{}".into()).unwrap();
        encoder.add_ztxt_chunk("parameters".into(), "cat".into()).unwrap();
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header().unwrap().write_image_data(&[0; 3]).unwrap();
        let stored = StoredPicture::of_bytes(file).unwrap();
        assert_eq!((stored.text("rectiflow"), stored.text("parameters")), (Some("{}"), Some("cat")));
        assert_eq!(stored.text("other"), None);
        assert_eq!(stored.pixels().unwrap().rgb, [0; 3]);
    }

    #[test]
    fn files_that_are_damaged_anywhere_are_refused_or_read_and_never_more() {
        let image = Image { width: 5, height: 3, rgb: (0..45).collect() };
        let texts = [("parameters", "cat".to_owned()), ("rectiflow", "{}".to_owned())];
        for format in [Format::Png, Format::Jpeg { quality: 50 }, Format::WebP] {
            let file = image.encode(format, &texts).unwrap();
            let look = |file: Vec<u8>| {
                if let Ok(stored) = StoredPicture::of_bytes(file)
                    && stored.width * stored.height < 1 << 20
                {
                    let _ = stored.pixels();
                }
            };
            for place in 0..file.len() {
                look(file[..place].to_vec());
                let mut other = file.clone();
                other[place] ^= 0xff;
                look(other);
            }
        }
    }
}
