//! All figures of an evaluation, as JSON and as a page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rectiflow_page::{escaped, number, page, picture, row, section, table};
use serde_json::json;

use crate::Evaluation;
use crate::gallery::Decided;
use crate::measure::spelling::Read;
use crate::measure::tasks::Verdicts;
use crate::model::LeftOut;
use crate::prompts::Prompt;
use crate::results::{Figure, Of, Part, Unit};

/// What an evaluation found.
pub struct Results {
    /// Every figure, part by part.
    pub figures: Vec<Figure>,
    settings: Decided,
    judges: Decided,
    left_out: LeftOut,
    /// Whether each picture of a prompt shows what was asked, where that was measured.
    pub(crate) verdicts: Verdicts,
    /// What was read in each picture of a prompt, where that was measured.
    pub(crate) read: Read,
    /// Prompts, places and files of the pictures on the page.
    pub(crate) shown: Vec<(Prompt, usize, Vec<u8>)>,
}

impl Results {
    pub(crate) fn new(evaluation: &Evaluation) -> Results {
        let mut judges = Decided::new();
        let mut judge = |name: &str, what: String| judges.insert(name.to_owned(), what);
        judge("program", format!("rectiflow {}", env!("CARGO_PKG_VERSION")));
        judge("seeds of a prompt", evaluation.request.seeds.to_string());
        judge("prompts", evaluation.prompts.all.len().to_string());
        if let Some((digest, _)) = &evaluation.detector {
            judge("detector", digest.clone());
        }
        if let Some(tesseract) = &evaluation.tesseract {
            judge("Tesseract", tesseract.version.clone());
        }
        if let Some(towers) = &evaluation.towers {
            judge("image tower", towers.digest.clone());
        }
        Results {
            figures: Vec::new(),
            settings: evaluation.decided.clone(),
            judges,
            left_out: evaluation.left_out.clone(),
            verdicts: BTreeMap::new(),
            read: BTreeMap::new(),
            shown: Vec::new(),
        }
    }

    /// `results.json`.
    pub fn to_json(&self) -> String {
        let left_out: BTreeMap<&str, &str> = self.left_out.iter().map(|(part, why)| (part.name(), &why[..])).collect();
        let all = json!({
            "drawn_with": self.settings,
            "judged_with": self.judges,
            "left_out": left_out,
            "figures": self.figures,
            "right": self.verdicts,
            "read": self.read,
        });
        serde_json::to_string_pretty(&all).unwrap_or_default() + "\n"
    }

    /// `report.html`.
    pub fn to_html(&self) -> String {
        let mut content = String::new();
        for part in Part::ALL {
            let figures: Vec<&Figure> = self.figures.iter().filter(|figure| figure.part == part).collect();
            if !figures.is_empty() {
                section(
                    &mut content,
                    title(part),
                    &format!("<p>{}</p>\n{}", escaped(about(part)), part_table(&figures)),
                );
            }
        }
        section(&mut content, "Pictures", &self.pictures());
        let mut rows = String::new();
        self.left_out.iter().for_each(|(part, why)| row(&mut rows, part.name(), why));
        section(&mut content, "Not measured", &table(&rows));
        let mut rows = String::new();
        self.settings.iter().chain(&self.judges).for_each(|(name, value)| row(&mut rows, name, value));
        section(&mut content, "Settings and digests", &table(&rows));
        page("Evaluation", LEAD, &content)
    }

    /// A line of the most important figures of each part, for a terminal.
    pub fn lines(&self) -> Vec<String> {
        let line = |figure: &Figure| {
            let of = if figure.of == Of::Model { String::new() } else { format!(" ({})", of_name(figure.of)) };
            format!("{}: {}{of}: {}", figure.part.name(), figure.name, value(figure))
        };
        self.figures.iter().map(line).collect()
    }

    fn pictures(&self) -> String {
        let mut out = String::new();
        let mut prompts = self.shown.chunk_by(|(one, ..), (other, ..)| one.name() == other.name()).peekable();
        if prompts.peek().is_none() {
            return out;
        }
        out.push_str(
            "<p>The first prompts of each task and their first seeds; none were chosen.</p>\n<div class=\"grids\">\n",
        );
        for pictures in prompts {
            let (prompt, ..) = &pictures[0];
            let _ = write!(
                out,
                "<figure><figcaption>{} <small>{}</small></figcaption>",
                escaped(&prompt.prompt),
                prompt.task.name()
            );
            out.push_str("<div style=\"display:flex;gap:.3rem\">");
            for (prompt, place, png) in pictures {
                let _ = write!(
                    out,
                    "<div>{}<small>{}</small></div>",
                    picture(&prompt.prompt, png),
                    escaped(&self.verdict(prompt, *place))
                );
            }
            out.push_str("</div></figure>\n");
        }
        out + "</div>\n"
    }

    /// What a judge says of a picture.
    fn verdict(&self, prompt: &Prompt, place: usize) -> String {
        let right = self.verdicts.get(&prompt.name()).and_then(|right| right.get(place));
        let read = self.read.get(&prompt.name()).and_then(|read| read.get(place));
        match (right, read) {
            (Some(true), _) => "right".to_owned(),
            (Some(false), _) => "wrong".to_owned(),
            (None, Some(read)) if read.is_empty() => "nothing is read".to_owned(),
            (None, Some(read)) => format!("\u{201c}{read}\u{201d} is read"),
            (None, None) => String::new(),
        }
    }
}

const LEAD: &str = "Each number is followed by its 95 % interval, by drawing prompts again (percentile bootstrap), and n is \
                    how many prompts or scenes it is of. Numbers of pictures that the model drew stand beside those of real \
                    scenes of the same prompts, judged by the same judge: they are the most that it could find.";

fn title(part: Part) -> &'static str {
    match part {
        Part::Tasks => "Tasks",
        Part::Spelling => "Spelling",
        Part::Clip => "CLIP",
        Part::Distance => "Distance from real scenes",
        Part::Reconstruction => "Autoencoder",
        Part::Loss => "Loss",
    }
}

fn about(part: Part) -> &'static str {
    match part {
        Part::Tasks => {
            "GenEval's tasks on combinations that no training has: the share of pictures in which a detector finds what \
             was asked. Chance: the same pictures, judged by another prompt of the task."
        }
        Part::Spelling => {
            "What Tesseract reads in pictures of prompts with a word in quotes: small and large letters count alike. The \
             error rate is edits by asked letters, so it may be above 100 %."
        }
        Part::Clip => {
            "100 max(cos, 0) of picture and prompt by the model's own towers, and how often those find the caption of a \
             real held-out scene among others. Scores of other towers cannot be compared."
        }
        Part::Distance => {
            "Of drawn pictures to real scenes of the same prompts, as sets, by EfficientNet-Lite0's features: the unbiased \
             kernel distance, as a mean over subsets, and the Frechet distance, which falls with the number of pictures. \
             Neither can be compared with the KID and FID of papers, which have another network's features."
        }
        Part::Reconstruction => {
            "Held-out scenes against what the autoencoder makes of them: PSNR of the bytes of all channels, and SSIM of \
             luma in Gaussian windows of 11 pixels with deviation 1.5."
        }
        Part::Loss => "Of held-out scenes, by noise level, always with the same noise; 1 is pure noise.",
    }
}

/// Rows are figures, columns what they are of.
fn part_table(figures: &[&Figure]) -> String {
    let mut columns: Vec<Of> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for figure in figures {
        if !columns.contains(&figure.of) {
            columns.push(figure.of);
        }
        if !names.contains(&&figure.name[..]) {
            names.push(&figure.name);
        }
    }
    let mut rows = String::from("<tr><th>");
    columns.iter().for_each(|of| {
        let _ = write!(rows, "<th>{}", of_name(*of));
    });
    rows.push_str("<th>n<th>pictures\n");
    for name in names {
        let of = |of: Of| figures.iter().find(|figure| figure.name == name && figure.of == of);
        let _ = write!(rows, "<tr><th>{}", escaped(name));
        for column in &columns {
            let _ = write!(rows, "<td>{}", of(*column).map_or_else(String::new, |figure| escaped(&value(figure))));
        }
        if let Some(first) = columns.iter().find_map(|column| of(*column)) {
            let _ = writeln!(rows, "<td>{}<td>{}", first.n, first.pictures);
        }
    }
    table(&rows)
}

fn of_name(of: Of) -> &'static str {
    match of {
        Of::Drawn => "drawn",
        Of::Real => "real scenes",
        Of::Reconstructed => "through the autoencoder",
        Of::Control => "chance",
        Of::Model => "model",
    }
}

/// `62.5 % (58.1 to 66.9)`.
fn value(figure: &Figure) -> String {
    let read = |value: f64| match figure.unit {
        Unit::Share => format!("{:.1}", 100.0 * value),
        Unit::Decibel => format!("{value:.2}"),
        Unit::Number => number(value, 4),
    };
    let unit = match figure.unit {
        Unit::Share => " %",
        Unit::Decibel => " dB",
        Unit::Number => "",
    };
    let [low, high] = figure.interval.map(read);
    let deviation = figure.deviation.map_or_else(String::new, |deviation| format!(" ± {}", read(deviation)));
    format!("{}{deviation}{unit} ({low} to {high})", read(figure.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompts::Task;

    fn figure(name: &str, of: Of, value: f64) -> Figure {
        Figure {
            part: Part::Tasks,
            name: name.to_owned(),
            of,
            unit: Unit::Share,
            value,
            interval: [value - 0.05, value + 0.05],
            n: 10,
            pictures: 40,
            deviation: None,
        }
    }

    #[test]
    fn a_table_has_a_row_for_each_figure_and_a_column_for_each_of_what() {
        let all = [figure("a <b>", Of::Drawn, 0.625), figure("a <b>", Of::Real, 0.9), figure("c", Of::Real, 0.5)];
        let table = part_table(&all.iter().collect::<Vec<_>>());
        assert!(table.contains("<tr><th><th>drawn<th>real scenes<th>n<th>pictures"), "{table}");
        assert!(
            table.contains("<tr><th>a &lt;b&gt;<td>62.5 % (57.5 to 67.5)<td>90.0 % (85.0 to 95.0)<td>10<td>40"),
            "{table}"
        );
        assert!(table.contains("<tr><th>c<td><td>50.0 % (45.0 to 55.0)<td>10"), "{table}");
    }

    #[test]
    fn every_part_and_task_has_words_of_its_own() {
        assert!(Part::ALL.iter().all(|part| !title(*part).is_empty() && !about(*part).is_empty()));
        let mut names: Vec<&str> = Task::ALL.map(Task::name).to_vec();
        names.dedup();
        assert_eq!(names.len(), 8);
    }
}
