//! Pictures as bytes, between networks and files.
//!
//! This module does not know how a picture was made, nor the formats of files.

use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rectiflow_nn::{Device, Tensor, from_f32, to_f32};
use rectiflow_weights::{IfThere, shown};

use crate::compat::Quantise;
use crate::format::Format;

/// An RGB picture, 8 bits a channel, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `3 * width * height` bytes.
    pub rgb: Vec<u8>,
}

/// A result could not be stored. Nothing was left behind under its name.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {source}\nhint: {hint}", path = shown(.path), hint = next_step(.source))]
pub struct ImageError {
    path: PathBuf,
    source: io::Error,
}

impl ImageError {
    /// `path` could not be written because of `source`.
    pub fn new(path: &Path, source: io::Error) -> Self {
        ImageError { path: path.into(), source }
    }

    /// Whether the name belongs to another file, which was kept.
    pub fn is_taken(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }

    /// Whether space on the disk would help.
    pub fn is_disk_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl Image {
    /// From decoded values about -1..1, `[1, 3, H, W]`; values beyond are clipped, as the references do.
    pub fn from_decoded(decoded: &Tensor<4>, quantise: Quantise) -> Image {
        let [batch, channels, height, width] = decoded.dims();
        assert_eq!((batch, channels), (1, 3), "one decoded picture has 3 channels");
        let values = to_f32(decoded);
        let plane = height * width;
        let byte = |value: f32| {
            let scaled = ((value + 1.0) / 2.0).clamp(0.0, 1.0) * 255.0;
            match quantise {
                Quantise::Round => scaled.round_ties_even() as u8,
                Quantise::Truncate => scaled as u8,
            }
        };
        let rgb = (0..plane).flat_map(|i| [0, 1, 2].map(|channel| byte(values[channel * plane + i]))).collect();
        Image { width, height, rgb }
    }

    /// Writes a PNG: `path` is the whole file or not there.
    ///
    /// `texts` become text chunks: keyword and content.
    ///
    /// # Errors
    /// The folder is missing or not writable, the disk is full, or the name is taken and `if_there` keeps it.
    pub fn save_png(&self, path: &Path, if_there: IfThere, texts: &[(&str, String)]) -> Result<(), ImageError> {
        self.save(path, if_there, Format::Png, texts)
    }
}

/// Pictures of one size, given as their RGB bytes, as networks see them: `[B, 3, height, width]` in -1..1.
///
/// # Panics
/// There are none, or one has another size: bugs of the caller.
pub fn to_network(pictures: &[&[u8]], [height, width]: [usize; 2], device: &Device) -> Tensor<4> {
    assert!(!pictures.is_empty(), "a batch of at least one picture");
    let size = 3 * width * height;
    let mut values = vec![0.0; pictures.len() * size];
    values.par_chunks_mut(size.max(1)).zip(pictures).for_each(|(values, rgb)| {
        assert_eq!(rgb.len(), size, "pictures of one size");
        let bytes = (0..3).flat_map(|channel| rgb.iter().skip(channel).step_by(3));
        values.iter_mut().zip(bytes).for_each(|(value, byte)| *value = f32::from(*byte) / 127.5 - 1.0);
    });
    from_f32(values, [pictures.len(), 3, height, width], device)
}

fn next_step(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space, or give a path on another disk",
        io::ErrorKind::NotFound => "make the folder first, or give another path",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "give a path in a folder you may write to"
        }
        io::ErrorKind::IsADirectory => "give a file name inside the folder",
        _ => "give another path",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_bytes_as_each_reference_does() {
        let values = vec![-2.0, -1.0, 0.0, 0.003, 1.0, 5.0];
        let decoded = from_f32(values, [1, 3, 1, 2], &Device::flex());
        let [round, truncate] = [Quantise::Round, Quantise::Truncate].map(|q| Image::from_decoded(&decoded, q).rgb);
        // Planes become pixels: R = values 0 and 1, G = 2 and 3, B = 4 and 5. 0 is 127.5: to the even byte.
        assert_eq!(round, [0, 128, 255, 0, 128, 255]);
        assert_eq!(truncate, [0, 127, 255, 0, 127, 255]);
    }

    #[test]
    fn bytes_that_a_network_sees_become_the_same_bytes() {
        let rgb: Vec<u8> = (0..=254).collect();
        let seen = to_network(&[&rgb, &rgb], [5, 17], &Device::flex());
        assert_eq!(seen.dims(), [2, 3, 5, 17]);
        let back = Image::from_decoded(&seen.narrow(0, 1, 1), Quantise::Round);
        assert_eq!((back.width, back.height, back.rgb), (17, 5, rgb));
    }

    #[test]
    #[should_panic = "one decoded picture"]
    fn a_batch_is_not_one_picture() {
        let _ = Image::from_decoded(&from_f32(vec![0.0; 6], [2, 3, 1, 1], &Device::flex()), Quantise::Round);
    }

    #[test]
    fn a_png_holds_pixels_and_settings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        let image = Image { width: 2, height: 1, rgb: vec![1, 2, 3, 4, 5, 6] };
        image.save_png(&path, IfThere::Keep, &[("parameters", "ein Apfel, 苹果".into())]).unwrap();
        let mut reader =
            png::Decoder::new(io::BufReader::new(std::fs::File::open(&path).unwrap())).read_info().unwrap();
        let mut pixels = vec![0; 6];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, image.rgb);
        assert_eq!(reader.info().utf8_text[0].get_text().unwrap(), "ein Apfel, 苹果");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_missing_folder_is_said_with_what_to_do() {
        let image = Image { width: 1, height: 1, rgb: vec![0; 3] };
        let error =
            image.save_png(Path::new("no/such/fol\u{1b}der/x.png"), IfThere::Keep, &[]).unwrap_err().to_string();
        assert!(error.contains("`no/such/fol\u{fffd}der/x.png`") && error.contains("make the folder"), "{error}");
    }
}
