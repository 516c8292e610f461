use std::collections::BTreeMap;
use std::fmt;

use rectiflow_weights::quoted;
use serde::Serialize;

use crate::error::Reason;

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
    /// The sample's id, or the name of what could not become one.
    pub id: String,
    /// Why.
    pub reason: Reason,
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
}

impl Findings {
    /// A sample that can be used, with what is done to it.
    pub fn keep(&mut self, changes: &[Change]) {
        self.kept += 1;
        changes.iter().for_each(|change| *self.changes.entry(*change).or_default() += 1);
    }

    /// A sample that cannot.
    pub fn leave_out(&mut self, id: String, reason: Reason) {
        self.left_out.push(LeftOut { id, reason });
    }
}

/// Each reason is shown with this many ids; all of them are in the serialised form.
const IDS_SHOWN: usize = 3;

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} samples", self.kept)?;
        for (change, count) in &self.changes {
            write!(f, "\n  {count} {}", change.description())?;
        }
        if self.left_out.is_empty() {
            return Ok(());
        }
        write!(f, "\n{} left out", self.left_out.len())?;
        let mut ids_of: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for left_out in &self.left_out {
            ids_of.entry(left_out.reason.to_string()).or_default().push(&left_out.id);
        }
        for (reason, ids) in ids_of {
            let shown: Vec<String> = ids.iter().take(IDS_SHOWN).map(|id| quoted(id)).collect();
            let more = if ids.len() > IDS_SHOWN { ", ..." } else { "" };
            write!(f, "\n  {} because {reason}: {}{more}", ids.len(), shown.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_names_each_reason_with_its_first_ids() {
        let mut findings = Findings::default();
        findings.keep(&[Change::GreyToRgb]);
        findings.keep(&[Change::GreyToRgb, Change::Turned]);
        (0..4).for_each(|number| findings.leave_out(format!("{number}.png"), Reason::EmptyPicture));
        findings.leave_out("a\nb.png".into(), Reason::NoCaption);
        assert_eq!(
            findings.to_string(),
            "2 samples\n  2 in greys, made RGB\n  1 turned or mirrored as their EXIF data say\n5 left out\
             \n  1 because it has no caption: `a\u{fffd}b.png`\
             \n  4 because its picture is an empty file: `0.png`, `1.png`, `2.png`, ..."
        );
    }

    #[test]
    fn the_serialised_form_holds_every_id() {
        let mut findings = Findings::default();
        findings.keep(&[Change::CmykToRgb]);
        (0..5).for_each(|number| findings.leave_out(format!("{number}"), Reason::NoCaption));
        let json = serde_json::to_value(&findings).unwrap();
        assert_eq!(json["changes"]["cmyk-to-rgb"], 1);
        assert_eq!(json["left_out"].as_array().unwrap().len(), 5);
        assert_eq!(json["left_out"][4]["reason"], "it has no caption");
    }
}
