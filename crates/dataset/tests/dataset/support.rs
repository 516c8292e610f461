//! Files for the tests.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use rectiflow_dataset::{DataSettings, Dataset, DatasetError, Findings, Reason, Source};

/// What scenes are drawn of.
pub(crate) const ART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/sprites");

/// A picture whose pixels all differ from those of other sizes.
pub(crate) fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x % 256) as u8, (y % 256) as u8, (width + height) as u8]))
}

pub(crate) fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    encoded(picture(width, height), ImageFormat::Png)
}

/// Writes files into a folder, with the folders that their names need.
pub(crate) fn write(root: &Path, files: &[(&str, &[u8])]) {
    for (name, content) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

/// Settings for squares of 32 px, and what else is said.
pub(crate) fn settings(path: &Path, more: &str) -> DataSettings {
    toml::from_str(&format!("path = {:?}\nside_px = 32\n{more}", path.to_str().unwrap())).unwrap()
}

pub(crate) fn dataset(path: &Path, more: &str) -> Result<(Dataset, Findings), DatasetError> {
    Dataset::open(&settings(path, more))
}

pub(crate) fn opened(path: &Path) -> Box<dyn Source> {
    rectiflow_dataset::open(path, None, None).unwrap()
}

pub(crate) fn ids(source: &dyn Source) -> Vec<String> {
    (0..source.count()).map(|number| source.id(number)).collect()
}

/// Columns with their texts, as "column=text".
pub(crate) fn texts(source: &dyn Source, number: u64) -> Vec<String> {
    let captions = source.captions(number).unwrap();
    let of = |column: &str| -> Vec<String> {
        captions.texts(column).iter().map(|text| format!("{column}={text}")).collect()
    };
    captions.columns().flat_map(of).collect()
}

/// The reasons by id.
pub(crate) fn reasons(findings: &Findings) -> Vec<(&str, &Reason)> {
    findings.left_out.iter().map(|one| (one.id.as_str(), &one.reason)).collect()
}
