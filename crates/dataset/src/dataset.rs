use std::collections::BTreeSet;

use image::RgbImage;
use image::imageops;
use rayon::prelude::*;

use crate::batches::{Batches, Tail};
use crate::buckets::{Buckets, Size};
use crate::captions::{CaptionMix, Captions, LONG_BYTES};
use crate::draw;
use crate::error::{DatasetError, Reason};
use crate::findings::{Change, Findings};
use crate::picture::{self, Header, Window, crop_to};
use crate::settings::{Check, DataSettings, WithoutCaption};
use crate::source::{self, Source, WithoutTexts};

/// What was typed and what was found, together: the samples that are trained on, each with its bucket.
pub struct Dataset {
    settings: DataSettings,
    source: Box<dyn Source>,
    mix: CaptionMix,
    buckets: Buckets,
    /// In the order of the source.
    kept: Vec<Kept>,
}

/// A sample that is trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its number in the source.
    pub sample: u64,
    /// The size of its picture, px.
    pub size: Size,
    /// The number of its bucket.
    pub bucket: usize,
}

/// A picture as it is trained on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Of its bucket's size.
    pub picture: RgbImage,
    /// Where it was in the whole, which may have been mirrored after.
    pub window: Window,
}

/// Enough for the headers of nearly all pictures; those with more before their size are read whole.
const HEADER_BYTES: u64 = 128 << 10;

/// One sample, looked at.
struct Looked {
    /// Its columns of captions, and whether one of the texts is very long. The texts of all samples together may be
    /// more than memory holds.
    columns: Vec<(String, bool)>,
    outcome: Result<(Kept, Vec<Change>), Reason>,
}

impl Dataset {
    /// Opens a data set and looks at each sample once: at its captions and its picture's header, or at all pixels
    /// with `check = "pixels"`. On all cores.
    ///
    /// # Errors
    /// Settings that cannot be met, nothing there, nothing recognised, a damaged shard, no caption of the wanted
    /// name, no sample left.
    pub fn open(settings: &DataSettings) -> Result<(Dataset, Findings), DatasetError> {
        let buckets = settings.sizes()?;
        Dataset::over(source::with_pictures(settings)?, buckets, settings)
    }

    /// The same for what looks at no caption: none is read, and none is missed.
    ///
    /// # Errors
    /// As [`Dataset::open`], but for captions.
    pub fn open_pictures(settings: &DataSettings) -> Result<(Dataset, Findings), DatasetError> {
        let buckets = settings.sizes()?;
        let source = Box::new(WithoutTexts(source::with_pictures(settings)?));
        let settings = DataSettings { captions: None, without_caption: WithoutCaption::Empty, ..settings.clone() };
        let (dataset, mut findings) = Dataset::over(source, buckets, &settings)?;
        findings.changes.remove(&Change::EmptyCaption);
        Ok((dataset, findings))
    }

    /// The same over a source that is open. `settings.path` only names it in errors.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn over(
        source: Box<dyn Source>,
        buckets: Buckets,
        settings: &DataSettings,
    ) -> Result<(Dataset, Findings), DatasetError> {
        let look = |sample| look(source.as_ref(), &buckets, settings, sample);
        let looked: Vec<Looked> = (0..source.count()).into_par_iter().map(look).collect();
        let names = looked.iter().flat_map(|one| &one.columns).map(|(column, _)| column.as_str());
        let mix = resolve_mix(settings, &names.collect())?;

        let mut findings = Findings { left_out: source.left_out().to_vec(), ..Findings::default() };
        let mut kept = Vec::new();
        for (Looked { columns, outcome }, sample) in looked.into_iter().zip(0..) {
            let judged = outcome.and_then(|(one, mut changes)| {
                changes.extend(of_captions(&mix, &columns, settings.without_caption)?);
                Ok((one, changes))
            });
            match judged {
                Ok((one, changes)) => {
                    findings.keep(&changes);
                    source.choice(sample).iter().for_each(|choice| findings.choose(choice));
                    kept.push(one);
                }
                Err(reason) => findings.leave_out(sample, source.id(sample), reason),
            }
        }
        if kept.is_empty() {
            let first = findings.left_out.first();
            return Err(DatasetError::Empty {
                path: settings.path.clone(),
                found: match first {
                    Some(one) => format!("{} are left out, the first because {}", findings.left_out.len(), one.reason),
                    None => "there are no samples in it".into(),
                },
                hint: match first.map(|one| &one.reason) {
                    Some(Reason::WouldBeEnlarged { .. }) => "set `enlarge = true`, or a smaller `side_px`",
                    Some(Reason::TooSmall { .. }) => "set a smaller `side_px_min`",
                    Some(Reason::NoCaption) => "put NAME.txt beside NAME.png, or set `without_caption = \"empty\"`",
                    _ => "check `data.source.path`",
                },
            });
        }
        Ok((Dataset { settings: settings.clone(), source, mix, buckets, kept }, findings))
    }

    /// The samples that are trained on, in the order of the source.
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// What is known of a sample that is trained on.
    pub fn find(&self, sample: u64) -> Option<Kept> {
        let place = self.kept.binary_search_by_key(&sample, |one| one.sample).ok()?;
        Some(self.kept[place])
    }

    /// The samples of each bucket, in the order of the source.
    pub fn members(&self) -> Vec<Vec<u64>> {
        let mut members = vec![Vec::new(); self.buckets.sizes().len()];
        self.kept.iter().for_each(|one| members[one.bucket].push(one.sample));
        members
    }

    /// The sizes; a bucket's number is its place.
    pub fn buckets(&self) -> &Buckets {
        &self.buckets
    }

    /// The mix that captions are drawn from.
    pub fn mix(&self) -> &CaptionMix {
        &self.mix
    }

    /// What a sample is called.
    pub fn id(&self, sample: u64) -> String {
        self.source.id(sample)
    }

    /// Batches of these samples.
    ///
    /// # Errors
    /// As [`Batches::new`].
    pub fn batches(&self, batch_len: u64, tail: Tail, seed: u64) -> Result<Batches, DatasetError> {
        Batches::new(self.members(), batch_len, tail, seed)
    }

    /// All texts of a sample. Where the settings allow samples without captions, those whose texts are none have none.
    ///
    /// # Errors
    /// A file cannot be read, which may pass; the source changed under way.
    pub fn captions(&self, sample: u64) -> Result<Captions, Reason> {
        or_none(self.source.captions(sample), self.settings.without_caption)
    }

    /// The caption of a sample in an epoch; empty where there is none.
    ///
    /// # Errors
    /// As [`Dataset::captions`].
    pub fn caption(&self, seed: u64, epoch: u64, sample: u64) -> Result<String, Reason> {
        let captions = self.captions(sample)?;
        Ok(self.mix.draw(&captions, seed, epoch, sample).unwrap_or_default().to_owned())
    }

    /// The picture of a sample at its bucket's size, not mirrored: what a cache is made of.
    ///
    /// # Errors
    /// The pixels are damaged, which the header did not show, or the source changed under way.
    pub fn picture(&self, one: Kept) -> Result<Prepared, Reason> {
        let whole = match self.source.canvas() {
            Some(canvas) => canvas.draw(one.sample)?,
            None => {
                let bytes = self.source.picture(one.sample)?;
                picture::decode(&bytes, self.settings.background, self.settings.pixels_max)?
            }
        };
        let cropped = crop_to(&whole, self.buckets.sizes()[one.bucket]);
        Ok(Prepared { picture: cropped.picture, window: cropped.window })
    }

    /// The picture of a sample in an epoch: mirrored in half of them, if the settings say so.
    ///
    /// # Errors
    /// As [`Dataset::picture`].
    pub fn augmented(&self, seed: u64, epoch: u64, one: Kept) -> Result<Prepared, Reason> {
        let mut prepared = self.picture(one)?;
        if self.settings.flip && draw::is_flipped(seed, epoch, one.sample) {
            imageops::flip_horizontal_in_place(&mut prepared.picture);
        }
        Ok(prepared)
    }
}

/// Looks at one sample. Its captions are judged later, when it is known which ones are wanted.
fn look(source: &dyn Source, buckets: &Buckets, settings: &DataSettings, sample: u64) -> Looked {
    let (captions, no_caption) = match or_none(source.captions(sample), settings.without_caption) {
        Ok(captions) => (captions, None),
        Err(reason) => (Captions::default(), Some(reason)),
    };
    let is_long = |column| captions.texts(column).iter().any(|text| text.len() > LONG_BYTES);
    let columns = captions.columns().map(|column| (column.to_owned(), is_long(column))).collect();
    let outcome = || {
        let Header { size, mut changes } = header(source, settings, sample)?;
        if size.width_px.min(size.height_px) < settings.side_px_min {
            return Err(Reason::TooSmall { size, min: settings.side_px_min });
        }
        let bucket = buckets.nearest(size);
        let wanted = buckets.sizes()[bucket];
        if !wanted.fits_into(size) {
            match settings.enlarge {
                true => changes.push(Change::Enlarged),
                false => return Err(Reason::WouldBeEnlarged { size, wanted }),
            }
        }
        if settings.check == Check::Pixels {
            picture::decode(&source.picture(sample)?, settings.background, settings.pixels_max)?;
        }
        match no_caption {
            Some(reason) => Err(reason),
            None => Ok((Kept { sample, size, bucket }, changes)),
        }
    };
    Looked { columns, outcome: outcome() }
}

/// What is no caption is none where the settings allow that. A file that cannot be read is not known to be none: the
/// disk may be back in a moment, and a cache would keep the empty caption.
fn or_none(captions: Result<Captions, Reason>, without: WithoutCaption) -> Result<Captions, Reason> {
    match (captions, without) {
        (Err(reason @ Reason::Unreadable(_)), _) => Err(reason),
        (Err(_), WithoutCaption::Empty) => Ok(Captions::default()),
        (captions, _) => captions,
    }
}

/// The header of a sample's picture, from the beginning of its file where that is enough.
fn header(source: &dyn Source, settings: &DataSettings, sample: u64) -> Result<Header, Reason> {
    if let Some(canvas) = source.canvas() {
        return Ok(Header { size: canvas.size(), changes: Vec::new() });
    }
    let name = source.picture_name(sample);
    let start = source.picture_start(sample, HEADER_BYTES)?;
    let header = picture::inspect(&start, name.as_deref(), settings.pixels_max);
    // Whether a GIF moves shows only further on.
    let is_gif = start.starts_with(b"GIF8");
    let is_cut = start.len() as u64 == HEADER_BYTES;
    match header {
        Ok(header) if !(is_gif && is_cut) => Ok(header),
        Err(reason) if !is_cut => Err(reason),
        _ => picture::inspect(&source.picture(sample)?, name.as_deref(), settings.pixels_max),
    }
}

/// What is done to a sample because of its captions.
fn of_captions(mix: &CaptionMix, columns: &[(String, bool)], without: WithoutCaption) -> Result<Vec<Change>, Reason> {
    let there: Vec<bool> = columns
        .iter()
        .filter(|(column, _)| mix.columns().any(|wanted| wanted == column))
        .map(|(_, long)| *long)
        .collect();
    let is_fewer = !there.is_empty() && there.len() < mix.columns().count();
    if there.is_empty() && without == WithoutCaption::LeaveOut {
        return Err(Reason::NoCaption);
    }
    let seen = [
        (there.is_empty(), Change::EmptyCaption),
        (is_fewer, Change::FewerCaptions),
        (there.contains(&true), Change::LongCaption),
    ];
    Ok(seen.into_iter().filter_map(|(is_so, change)| is_so.then_some(change)).collect())
}

/// What captions are drawn from: as the settings say, or what is there.
pub(crate) fn resolve_mix(settings: &DataSettings, columns: &BTreeSet<&str>) -> Result<CaptionMix, DatasetError> {
    let path = || settings.path.clone();
    let names = || columns.iter().map(|column| (*column).to_owned()).collect();
    if let Some(mix) = &settings.captions {
        return match mix.columns().find(|column| !columns.contains(column)) {
            Some(column) => {
                Err(DatasetError::NoCaptionColumn { path: path(), column: column.to_owned(), columns: names() })
            }
            None => Ok(mix.clone()),
        };
    }
    let usual = ["caption", "text"].into_iter().find(|column| columns.contains(column));
    match (usual, &columns.iter().collect::<Vec<_>>()[..]) {
        (Some(column), _) => Ok(CaptionMix::only(column)),
        (None, [only]) => Ok(CaptionMix::only(only)),
        (None, []) if settings.without_caption == WithoutCaption::Empty => Ok(CaptionMix::only("caption")),
        (None, []) => Err(DatasetError::NoCaptions { path: path() }),
        (None, _) => Err(DatasetError::WhichCaptions { path: path(), columns: names() }),
    }
}
