//! What tells one data set from another, without reading pictures again.

use rayon::prelude::*;

use crate::captions::Captions;
use crate::dataset::Dataset;
use crate::texts::Texts;

/// What goes into a digest, so that no two rows of things are one row of bytes.
#[derive(Default)]
struct Digest(blake3::Hasher);

impl Digest {
    fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len() as u64).0.update(text.as_bytes());
        self
    }

    fn hex(self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

impl Dataset {
    /// A blake3 digest, in hex, of which samples are trained on: each one's number, its id, the size of its picture and
    /// of its bucket; and of the columns that captions are drawn from.
    ///
    /// It is another when a sample comes, goes, is renamed or changes its size. No file is opened: other pixels of the
    /// same size under the same name, or other captions, are not noticed.
    pub fn digest(&self) -> String {
        let mut digest = Digest::default();
        for column in self.mix().columns() {
            digest.text(column);
        }
        for one in self.kept() {
            digest.number(one.sample).text(&self.id(one.sample));
            for size in [one.size, self.buckets().sizes()[one.bucket]] {
                digest.number(size.width_px.into()).number(size.height_px.into());
            }
        }
        digest.hex()
    }
}

impl Texts {
    /// A blake3 digest, in hex, of all that is trained on: each sample's number, id and texts. Reads the texts.
    pub fn digest(&self) -> String {
        let one = |sample: &u64| {
            let mut digest = Digest::default();
            digest.number(*sample).text(&self.id(*sample));
            // One that can no longer be read is another than it was.
            let captions = self.captions(*sample).unwrap_or_else(|_| Captions::default());
            for column in self.mix().columns() {
                digest.text(column).number(captions.texts(column).len() as u64);
                for text in captions.texts(column) {
                    digest.text(text);
                }
            }
            digest.0.finalize()
        };
        let all: Vec<blake3::Hash> = self.kept().par_iter().map(one).collect();
        let mut digest = Digest::default();
        for one in &all {
            digest.0.update(one.as_bytes());
        }
        digest.hex()
    }
}
