use crate::captions::{CaptionMix, Captions};
use crate::dataset::resolve_mix;
use crate::error::{DatasetError, Reason};
use crate::findings::Findings;
use crate::settings::DataSettings;
use crate::source::{self, Source};

/// The captions of a data set without its pictures, which are not looked at: what learns from texts alone. Parquet
/// files need no column of them; scenes are not drawn, and `side_px` only bounds the words in their captions.
///
/// A sample without a caption has nothing to learn from, so it is left out whatever `without_caption` says.
pub struct Texts {
    source: Box<dyn Source>,
    mix: CaptionMix,
    /// In the order of the source.
    kept: Vec<u64>,
}

impl Texts {
    /// Opens a data set and looks at the captions of each sample once.
    ///
    /// # Errors
    /// Nothing there, nothing recognised, a damaged shard, no caption of the wanted name, no text at all.
    pub fn open(settings: &DataSettings) -> Result<(Texts, Findings), DatasetError> {
        let source = source::of_texts(settings)?;
        let looked: Vec<_> = (0..source.count())
            .map(|sample| {
                let columns = |captions: crate::Captions| captions.columns().map(str::to_owned).collect::<Vec<_>>();
                source.captions(sample).map(columns)
            })
            .collect();
        let names = looked.iter().flatten().flatten().map(String::as_str).collect();
        let mix = resolve_mix(settings, &names)?;

        let mut findings = Findings { left_out: source.left_out().to_vec(), ..Findings::default() };
        let mut kept = Vec::new();
        for (columns, sample) in looked.into_iter().zip(0..) {
            let is_wanted = |column: &String| mix.columns().any(|wanted| wanted == column);
            match columns {
                Ok(columns) if columns.iter().any(is_wanted) => {
                    findings.keep(&[]);
                    kept.push(sample);
                }
                Ok(_) => findings.leave_out(sample, source.id(sample), Reason::NoCaption),
                Err(reason) => findings.leave_out(sample, source.id(sample), reason),
            }
        }
        if kept.is_empty() {
            let (path, found) = (settings.path.clone(), "none has a text".to_owned());
            return Err(DatasetError::Empty {
                path,
                found,
                hint: "check `data.source.path` and `data.source.captions`",
            });
        }
        Ok((Texts { source, mix, kept }, findings))
    }

    /// The samples that have a text, in the order of the source.
    pub fn kept(&self) -> &[u64] {
        &self.kept
    }

    pub(crate) fn mix(&self) -> &CaptionMix {
        &self.mix
    }

    pub(crate) fn captions(&self, sample: u64) -> Result<Captions, Reason> {
        self.source.captions(sample)
    }

    /// What a sample is called.
    pub fn id(&self, sample: u64) -> String {
        self.source.id(sample)
    }

    /// The text of a sample in an epoch.
    ///
    /// # Errors
    /// The source changed under way.
    pub fn text(&self, seed: u64, epoch: u64, sample: u64) -> Result<String, Reason> {
        let captions = self.source.captions(sample)?;
        self.mix.draw(&captions, seed, epoch, sample).map(str::to_owned).ok_or(Reason::NoCaption)
    }
}
