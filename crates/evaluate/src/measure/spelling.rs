//! Whether the word that was asked for can be read.
//!
//! Beside the drawn pictures stand the real scenes of the same prompts, which say how well Tesseract reads such pictures,
//! and what the autoencoder makes of them, which says what the transformer could reach at most.

use std::collections::BTreeMap;

use rectiflow_generate::Image;
use rectiflow_vae::Vae;

use super::{AT_ONCE, Ground};
use crate::EvaluateError;
use crate::metrics::{edits, letters};
use crate::ocr::Tesseract;
use crate::prompts::{Prompt, Task};
use crate::results::{Figure, Of, Part, Tally, Unit};
use crate::watch::{Watch, go_on};

/// What was read in each picture of a prompt, by the prompt's name.
pub(crate) type Read = BTreeMap<String, Vec<String>>;

pub(crate) fn measure(
    ground: &Ground<'_>,
    tesseract: &Tesseract,
    vae: &Vae,
    watch: &mut dyn Watch,
) -> Result<(Vec<Figure>, Read), EvaluateError> {
    let (mut figures, mut read) = (Vec::new(), Read::new());
    let total = ground.prompts.all.iter().filter(|prompt| prompt.task.is_spelling()).count();
    let mut done = 0;
    for (task, kind) in [(Task::SpellingKnown, "known words"), (Task::SpellingHeldOut, "held-out words")] {
        let prompts: Vec<&Prompt> = ground.prompts.of(task).collect();
        let [mut drawn, mut real, mut reconstructed] = [(); 3].map(|()| Tallies::default());
        for some in prompts.chunks(AT_ONCE) {
            go_on(watch)?;
            let scenes = some.iter().map(|prompt| ground.real(&prompt.scene)).collect::<Result<Vec<_>, _>>()?;
            let after = ground.reconstructed(vae, &scenes)?;
            let mut pictures: Vec<Image> = Vec::new();
            for prompt in some {
                pictures.extend(ground.drawn(prompt)?);
            }
            pictures.extend(scenes.into_iter().chain(after));
            let words: Vec<String> = tesseract.read(&pictures)?.into_iter().map(|reading| reading.word).collect();
            let (of_drawn, of_rest) = words.split_at(some.len() * ground.seeds);
            let (of_real, of_reconstructed) = of_rest.split_at(some.len());
            for (at, prompt) in some.iter().enumerate() {
                let asked = letters(prompt.word.as_deref().unwrap_or_default());
                let own = &of_drawn[at * ground.seeds..(at + 1) * ground.seeds];
                drawn.add(&asked, own);
                real.add(&asked, &of_real[at..=at]);
                reconstructed.add(&asked, &of_reconstructed[at..=at]);
                read.insert(prompt.name(), own.to_vec());
            }
            done += some.len();
            watch.step(done, total);
        }
        if prompts.is_empty() {
            continue;
        }
        for (of, tallies) in [(Of::Drawn, drawn), (Of::Reconstructed, reconstructed), (Of::Real, real)] {
            figures.extend(tallies.figures(kind, of));
        }
    }
    Ok((figures, read))
}

#[derive(Default)]
struct Tallies {
    exact: Tally,
    /// Edits and asked letters.
    errors: Vec<[f64; 2]>,
    pictures: usize,
}

impl Tallies {
    fn add(&mut self, asked: &str, read: &[String]) {
        self.exact.add(read.iter().map(|read| f64::from(read == asked)));
        let wrong: usize = read.iter().map(|read| edits(asked, read)).sum();
        self.errors.push([wrong as f64, (asked.len() * read.len()) as f64]);
        self.pictures += read.len();
    }

    fn figures(self, kind: &str, of: Of) -> [Figure; 2] {
        let exact = self.exact.figure(Part::Spelling, &format!("{kind}, right in every letter"), of, Unit::Share);
        let errors =
            Tally(self.errors).figure(Part::Spelling, &format!("{kind}, character error rate"), of, Unit::Share);
        [exact, Figure { pictures: self.pictures, ..errors }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_count_whole_and_letters_by_their_number() {
        let mut tallies = Tallies::default();
        tallies.add("cat", &["cat".to_owned(), "cap".to_owned()]);
        tallies.add("banana", &[String::new(), "banana".to_owned()]);
        let [exact, errors] = tallies.figures("words", Of::Drawn);
        assert_eq!((exact.value, exact.n, exact.pictures), (0.5, 2, 4));
        assert_eq!((errors.value, errors.n, errors.pictures), (7.0 / 18.0, 2, 4));
    }
}
