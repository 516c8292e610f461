//! Reading words in pictures by Tesseract, the program, which is looked for when it is needed.
//!
//! A picture of sprites is small and has letters of any colour on any other, with or without a thing beside them, so it is
//! read in several ways: enlarged, as it is and as its negative, as one line and as scattered words. Of all that is read
//! the word counts that Tesseract is surest of; what was asked is not known here.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::imageops::{FilterType, overlay, resize};
use image::{GrayImage, ImageFormat, Luma};
use rayon::prelude::*;
use rectiflow_generate::Image;

use crate::EvaluateError;
use crate::metrics::letters;

/// Letters should be some 30 px high and more.
const HEIGHT_PX: u32 = 768;
/// Tesseract finds no letters that touch the rim.
const RIM_PX: u32 = 32;
/// `--psm`: one line, scattered words.
const MODES: [&str; 2] = ["7", "11"];
/// Pictures of a call: starting the program takes as long as reading one.
const AT_ONCE: usize = 16;
/// Of a thing's outline Tesseract makes a letter or two.
const LETTERS_MIN: usize = 2;

/// The program.
#[derive(Clone, Debug)]
pub struct Tesseract {
    program: PathBuf,
    /// As it says it.
    pub version: String,
}

/// Why there is none, and where to get it.
pub(crate) const ABSENT: &str = "the program `tesseract` is not found; Debian and Ubuntu: `apt-get install tesseract-ocr`, macOS: \
                          `brew install tesseract`, Fedora: `dnf install tesseract`";

/// A word that was read in a picture, in small letters; empty if there was none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Its letters.
    pub word: String,
    /// How sure Tesseract is, 0 to 100, summed over the ways that the picture was read in.
    pub confidence: f64,
}

impl Tesseract {
    /// The one that the system finds, if it has one with English.
    pub fn find() -> Option<Tesseract> {
        Tesseract::at(Path::new("tesseract"))
    }

    /// The one at a path, if it is one.
    pub fn at(program: &Path) -> Option<Tesseract> {
        let output = Command::new(program).arg("--version").output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let languages = Command::new(program).arg("--list-langs").output().ok()?;
        let said =
            String::from_utf8_lossy(&languages.stdout).into_owned() + &String::from_utf8_lossy(&languages.stderr);
        let has_english = said.lines().any(|line| line.trim() == "eng");
        let version = text.lines().next()?.trim().to_owned();
        has_english.then(|| Tesseract { program: program.to_owned(), version })
    }

    /// The word in each picture.
    ///
    /// # Errors
    /// The program fails, or there is no room for its files.
    pub fn read(&self, pictures: &[Image]) -> Result<Vec<Reading>, EvaluateError> {
        let read: Result<Vec<Vec<Reading>>, EvaluateError> =
            pictures.par_chunks(AT_ONCE).map(|some| self.read_some(some)).collect();
        Ok(read?.concat())
    }

    fn read_some(&self, pictures: &[Image]) -> Result<Vec<Reading>, EvaluateError> {
        let failed = |problem: String| EvaluateError::Tesseract { program: self.program.clone(), problem };
        let folder =
            tempfile::Builder::new().prefix("rectiflow-").tempdir().map_err(|error| failed(error.to_string()))?;
        let list = folder.path().join("list.txt");
        let mut names = std::fs::File::create(&list).map_err(|error| failed(error.to_string()))?;
        for (number, picture) in pictures.iter().enumerate() {
            for (way, view) in views(picture).iter().enumerate() {
                let path = folder.path().join(format!("{number}-{way}.png"));
                view.save_with_format(&path, ImageFormat::Png).map_err(|error| failed(error.to_string()))?;
                writeln!(names, "{}", path.display()).map_err(|error| failed(error.to_string()))?;
            }
        }
        drop(names);
        let mut votes: Vec<BTreeMap<String, f64>> = vec![BTreeMap::new(); pictures.len()];
        for mode in MODES {
            let output = Command::new(&self.program)
                .arg(&list)
                .args([
                    "stdout",
                    "--psm",
                    mode,
                    "-l",
                    "eng",
                    "-c",
                    "load_system_dawg=0",
                    "-c",
                    "load_freq_dawg=0",
                    "-c",
                ])
                .arg(format!("tessedit_char_whitelist={}", ('A'..='Z').chain('a'..='z').collect::<String>()))
                .arg("tsv")
                // Calls run beside each other; its own threads would only be in their way.
                .env("OMP_THREAD_LIMIT", "1")
                .output()
                .map_err(|error| failed(error.to_string()))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(failed(said.lines().last().unwrap_or("it failed without a word").to_owned()));
            }
            count(&String::from_utf8_lossy(&output.stdout), &mut votes);
        }
        Ok(votes.into_iter().map(surest).collect())
    }
}

/// Adds what Tesseract's table says to the votes of each picture.
fn count(table: &str, votes: &mut [BTreeMap<String, f64>]) {
    for (page, word, confidence) in words(table) {
        if let Some(votes) = votes.get_mut(page / VIEWS) {
            *votes.entry(word).or_default() += confidence;
        }
    }
}

fn surest(votes: BTreeMap<String, f64>) -> Reading {
    let best = votes.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map_or_else(Reading::default, |(word, confidence)| Reading { word, confidence })
}

/// How many pictures Tesseract is given of each.
const VIEWS: usize = 2;

/// Grey, enlarged, with a rim of the colour at the corner; and its negative.
fn views(picture: &Image) -> [GrayImage; VIEWS] {
    let grey =
        |rgb: &[u8]| (0.299 * f32::from(rgb[0]) + 0.587 * f32::from(rgb[1]) + 0.114 * f32::from(rgb[2])).round() as u8;
    let pixels = picture.rgb.chunks_exact(3).map(grey).collect();
    let (width, height) = (picture.width as u32, picture.height as u32);
    let small = GrayImage::from_raw(width, height, pixels).unwrap_or_default();
    let large = resize(&small, width * HEIGHT_PX / height.max(1), HEIGHT_PX, FilterType::CatmullRom);
    let mut view =
        GrayImage::from_pixel(large.width() + 2 * RIM_PX, large.height() + 2 * RIM_PX, *large.get_pixel(0, 0));
    overlay(&mut view, &large, RIM_PX.into(), RIM_PX.into());
    let mut negative = view.clone();
    negative.pixels_mut().for_each(|Luma([grey])| *grey = 255 - *grey);
    [view, negative]
}

/// The words of Tesseract's table: page from 0 on, small letters, confidence.
fn words(table: &str) -> impl Iterator<Item = (usize, String, f64)> {
    table.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('\t').collect();
        let [level, page, .., confidence, text] = cells[..] else { return None };
        let word = letters(text);
        let confidence: f64 = confidence.parse().ok()?;
        let is_word = level == "5" && word.len() >= LETTERS_MIN && confidence > 0.0;
        is_word.then_some((page.parse::<usize>().ok()?.checked_sub(1)?, word, confidence))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_tesseract_is_read_and_what_is_no_word_is_not() {
        let table = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext\n\
                     1\t1\t0\t0\t0\t0\t0\t0\t512\t512\t-1\t\n\
                     5\t1\t1\t1\t1\t1\t3\t4\t5\t6\t91.5\tHeLLo\n\
                     5\t2\t1\t1\t1\t1\t3\t4\t5\t6\t30\tx\n\
                     5\t3\t1\t1\t1\t1\t3\t4\t5\t6\t-1\tword\n";
        assert_eq!(words(table).collect::<Vec<_>>(), [(0, "hello".to_owned(), 91.5)]);
    }

    #[test]
    fn the_word_that_most_ways_agree_on_is_the_surest() {
        let line = |page: usize, word: &str, sure: f64| format!("5\t{page}\t1\t1\t1\t1\t3\t4\t5\t6\t{sure}\t{word}\n");
        // Pages 1 and 2 are the views of the first picture, 3 and 4 of the second.
        let mut votes = vec![BTreeMap::new(); 2];
        count(&(line(1, "Hello", 60.0) + &line(1, "nello", 95.0) + &line(4, "sun", 20.0)), &mut votes);
        count(&(line(2, "HELLO", 70.0) + &line(9, "lost", 99.0)), &mut votes);
        let readings: Vec<Reading> = votes.into_iter().map(surest).collect();
        let reading = |word: &str, confidence| Reading { word: word.to_owned(), confidence };
        assert_eq!(readings, [reading("hello", 130.0), reading("sun", 20.0)]);
        assert_eq!(surest(BTreeMap::new()), Reading::default());
    }

    #[test]
    fn a_program_that_is_not_there_is_none() {
        assert!(Tesseract::at(Path::new("no-such-program")).is_none());
        assert!(Tesseract::at(Path::new("true")).is_none());
    }
}
