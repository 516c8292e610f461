//! Tesseract on real scenes: what it cannot read there, no model is blamed for.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test binary")]

use std::path::Path;

use rectiflow_evaluate::{Prompt, Prompts, Task, Tesseract, held_out_scenes, metrics::letters};
use rectiflow_generate::Image;

const SIDE_PX: u32 = 128;

fn at(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

/// How many of each task's first `count` scenes are read right in every letter. `EACH=1` prints them.
fn right(count: usize) -> Option<[usize; 2]> {
    let tesseract = Tesseract::find()?;
    let prompts = Prompts::open(&at("assets/evaluation"), count).unwrap();
    let scenes = held_out_scenes(&at("assets/sprites")).unwrap();
    let of = |task: Task| {
        let prompts: Vec<&Prompt> = prompts.of(task).collect();
        let picture = |prompt: &&Prompt| {
            let drawn = scenes.draw(&prompt.scene, SIDE_PX).unwrap();
            Image { width: SIDE_PX as usize, height: SIDE_PX as usize, rgb: drawn.into_raw() }
        };
        let read = tesseract.read(&prompts.iter().map(picture).collect::<Vec<_>>()).unwrap();
        let is_right = |(prompt, read): (&&Prompt, &rectiflow_evaluate::Reading)| {
            let asked = letters(prompt.word.as_deref().unwrap());
            if std::env::var_os("EACH").is_some() {
                println!("{asked} {} {:.0} {}", read.word, read.confidence, prompt.prompt);
            }
            asked == read.word
        };
        prompts.iter().zip(&read).filter(|pair| is_right((pair.0, pair.1))).count()
    };
    Some([of(Task::SpellingKnown), of(Task::SpellingHeldOut)])
}

#[test]
fn most_words_of_real_scenes_are_read_right_in_every_letter() {
    let Some(right) = right(12) else {
        println!("skipped: tesseract is not installed");
        return;
    };
    assert!(right[0] + right[1] >= 18, "{right:?} of 12 each");
}

#[test]
#[ignore = "takes minutes; says how many of all words are read"]
fn how_many_words_of_real_scenes_are_read() {
    println!("{:?} of 50 each", right(50));
}
