use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use rectiflow_weights::quoted;
use serde::Serialize;

use crate::error::{Reason, listed};

/// Something that is done to a sample, and that whoever trains on it may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// The picture lets light through: it is laid over the background.
    Flattened,
    /// A picture of greys.
    GreyToRgb,
    /// 16 bits a channel.
    SixteenToEightBits,
    /// A JPEG in printing inks.
    CmykToRgb,
    /// Turned or mirrored as its EXIF data say.
    Turned,
    /// Of an animation.
    FirstFrame,
    /// What is inside is not what the name says.
    MisnamedFormat,
    /// Smaller than what it is trained at.
    Enlarged,
    /// The sample stays, with an empty caption.
    EmptyCaption,
    /// Some of the captions that are mixed are missing: the others are drawn more often.
    FewerCaptions,
    /// More than [`crate::captions::LONG_BYTES`]: encoders read only the beginning.
    LongCaption,
}

impl Change {
    fn description(self) -> &'static str {
        match self {
            Change::Flattened => "with transparency, laid over the background",
            Change::GreyToRgb => "in greys, made RGB",
            Change::SixteenToEightBits => "with 16 bits a channel, made 8",
            Change::CmykToRgb => "in CMYK, made RGB",
            Change::Turned => "turned or mirrored as their EXIF data say",
            Change::FirstFrame => "animated, of which the first frame is used",
            Change::MisnamedFormat => "of another format than their name says, read all the same",
            Change::Enlarged => "enlarged",
            Change::EmptyCaption => "without a usable caption, kept with an empty one",
            Change::FewerCaptions => "without some of the captions that are mixed; the others are drawn more often",
            Change::LongCaption => "with a very long caption, of which encoders read only the beginning",
        }
    }
}

/// A sample that is not used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LeftOut {
    /// The sample's number in the source; none for what could not become a sample.
    pub sample: Option<u64>,
    /// The sample's id, or the name of what could not become one.
    pub id: String,
    /// Why.
    pub reason: Reason,
}

impl LeftOut {
    /// What could not become a sample.
    pub(crate) fn no_sample(id: impl Into<String>, reason: Reason) -> Self {
        LeftOut { sample: None, id: id.into(), reason }
    }
}

/// Which of the pictures of one sample is used, each by the end of its name: `jpg`, `depth.png`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Choice {
    /// The one that is.
    pub used: String,
    /// The others, in the order of the data set.
    pub passed_over: Vec<String>,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is used, not {}", quoted(&self.used), listed(&self.passed_over))
    }
}

/// What was seen while a data set was read: which samples are left out and why, and how many were changed in which
/// way. Its `Display` is what a command prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Samples that can be used.
    pub kept: u64,
    /// The others, in the order of the data set.
    pub left_out: Vec<LeftOut>,
    /// How many of the kept ones were changed, by kind.
    pub changes: BTreeMap<Change, u64>,
    /// How many of the kept ones have several pictures, by what [`Choice`] says.
    pub several_pictures: BTreeMap<String, u64>,
}

/// [`Findings::list_left_out`] lists no more than this: 100 MB or so, for a data set of which little is right.
const LISTED_MAX: usize = 1_000_000;

impl Findings {
    /// A sample that can be used, with what is done to it.
    pub fn keep(&mut self, changes: &[Change]) {
        self.kept += 1;
        changes.iter().for_each(|change| *self.changes.entry(*change).or_default() += 1);
    }

    /// One of the pictures of a sample that can be used was chosen.
    pub fn choose(&mut self, choice: &Choice) {
        *self.several_pictures.entry(choice.to_string()).or_default() += 1;
    }

    /// A sample that cannot.
    pub fn leave_out(&mut self, sample: u64, id: String, reason: Reason) {
        self.left_out.push(LeftOut { sample: Some(sample), id, reason });
    }

    /// Lists what is left out, an object of JSON a line: `{"sample":5,"id":"a.png","reason":"it has no caption"}`.
    /// `sample` is null for what could not become one. Of more than a million the first million are listed, and the
    /// last line says how many others there are: `{"more":12}`. Returns how many are listed.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn list_left_out(&self, out: &mut dyn Write) -> io::Result<usize> {
        self.list_first(LISTED_MAX, out)
    }

    fn list_first(&self, max: usize, out: &mut dyn Write) -> io::Result<usize> {
        let first = &self.left_out[..self.left_out.len().min(max)];
        for one in first {
            writeln!(out, "{}", serde_json::to_string(one)?)?;
        }
        let more = self.left_out.len() - first.len();
        if more > 0 {
            writeln!(out, "{}", serde_json::json!({ "more": more }))?;
        }
        Ok(first.len())
    }
}

/// Each reason is shown with this many ids; [`Findings::list_left_out`] lists the others.
const IDS_SHOWN: usize = 3;
/// So many reasons are shown, the most frequent ones: many name the size of a picture, or a place in a file.
const REASONS_SHOWN: usize = 20;

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} samples", self.kept)?;
        for (change, count) in &self.changes {
            write!(f, "\n  {count} {}", change.description())?;
        }
        let (choices, others) = most_frequent(self.several_pictures.iter().map(|(choice, count)| (*count, choice)));
        for (count, choice) in choices {
            write!(f, "\n  {count} with several pictures, of which {choice}")?;
        }
        if others > 0 {
            write!(f, "\n  {others} with several pictures of other names")?;
        }
        if self.left_out.is_empty() {
            return Ok(());
        }
        write!(f, "\n{} left out", self.left_out.len())?;
        let mut seen: BTreeMap<String, (u64, Vec<&str>)> = BTreeMap::new();
        for left_out in &self.left_out {
            let (count, ids) = seen.entry(left_out.reason.to_string()).or_default();
            *count += 1;
            if ids.len() < IDS_SHOWN {
                ids.push(&left_out.id);
            }
        }
        let (seen, others) = most_frequent(seen.iter().map(|(reason, (count, ids))| (*count, (reason, ids))));
        for (count, (reason, ids)) in seen {
            let shown: Vec<String> = ids.iter().map(|id| quoted(id)).collect();
            let more = if count > IDS_SHOWN as u64 { ", ..." } else { "" };
            write!(f, "\n  {count} because {reason}: {}{more}", shown.join(", "))?;
        }
        if others > 0 {
            write!(f, "\n  {others} for other reasons")?;
        }
        Ok(())
    }
}

/// Those that were seen most often, beginning with the most frequent, and how often the others were.
fn most_frequent<T>(seen: impl Iterator<Item = (u64, T)>) -> (Vec<(u64, T)>, u64) {
    let mut seen: Vec<(u64, T)> = seen.collect();
    seen.sort_by_key(|(count, _)| Reverse(*count));
    let others = seen.iter().skip(REASONS_SHOWN).map(|(count, _)| count).sum();
    seen.truncate(REASONS_SHOWN);
    (seen, others)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buckets::Size;

    #[test]
    fn what_is_printed_names_each_reason_with_its_first_ids() {
        let mut findings = Findings::default();
        findings.keep(&[Change::GreyToRgb]);
        findings.keep(&[Change::GreyToRgb, Change::Turned]);
        (0..4).for_each(|number| findings.leave_out(number, format!("{number}.png"), Reason::EmptyPicture));
        findings.leave_out(4, "a\nb.png".into(), Reason::NoCaption);
        assert_eq!(
            findings.to_string(),
            "2 samples\n  2 in greys, made RGB\n  1 turned or mirrored as their EXIF data say\n5 left out\
             \n  4 because its picture is an empty file: `0.png`, `1.png`, `2.png`, ...\
             \n  1 because it has no caption: `a\u{fffd}b.png`"
        );
    }

    #[test]
    fn of_very_many_reasons_the_most_frequent_are_printed() {
        let mut findings = Findings::default();
        let too_small = |side| Reason::TooSmall { size: Size::new(side, side), min: 32 };
        (1..=30).for_each(|side| findings.leave_out(side.into(), format!("{side}.png"), too_small(side)));
        findings.leave_out(31, "31.png".into(), too_small(9));
        let said = findings.to_string();
        assert_eq!(said.lines().count(), 2 + REASONS_SHOWN + 1, "{said}");
        assert!(said.lines().nth(2).unwrap().ends_with("`9.png`, `31.png`"), "{said}");
        assert!(said.ends_with("\n  10 for other reasons"), "{said}");
    }

    #[test]
    fn what_is_left_out_is_listed_a_line_each_up_to_a_bound() {
        let mut findings =
            Findings { left_out: vec![LeftOut::no_sample("a.tar", Reason::NoPicture)], ..Default::default() };
        findings.leave_out(7, "a\n\"b\".png".into(), Reason::NoCaption);
        findings.leave_out(8, "c.png".into(), Reason::EmptyPicture);
        let listed = |max| {
            let mut out = Vec::new();
            let count = findings.list_first(max, &mut out).unwrap();
            (count, String::from_utf8(out).unwrap())
        };
        let all = "{\"sample\":null,\"id\":\"a.tar\",\"reason\":\"it has no picture\"}\n\
            {\"sample\":7,\"id\":\"a\\n\\\"b\\\".png\",\"reason\":\"it has no caption\"}\n\
            {\"sample\":8,\"id\":\"c.png\",\"reason\":\"its picture is an empty file\"}\n";
        assert_eq!(listed(3), (3, all.to_owned()));
        let first = all.lines().next().unwrap();
        assert_eq!(listed(1), (1, format!("{first}\n{{\"more\":2}}\n")));
    }

    #[test]
    fn the_serialised_form_holds_every_id() {
        let mut findings = Findings::default();
        findings.keep(&[Change::CmykToRgb]);
        (0..5).for_each(|number| findings.leave_out(number, format!("{number}"), Reason::NoCaption));
        let json = serde_json::to_value(&findings).unwrap();
        assert_eq!(json["changes"]["cmyk-to-rgb"], 1);
        assert_eq!(json["left_out"].as_array().unwrap().len(), 5);
        assert_eq!(json["left_out"][4]["reason"], "it has no caption");
    }
}
