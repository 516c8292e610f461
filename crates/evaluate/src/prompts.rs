//! What is asked for: prompts with all that is known of the scene that they are the captions of.
//!
//! They lie in files of one JSON object a line, `assets/evaluation/TASK.jsonl`, so that two evaluations ask the same.
//! What this module does not do: make them ([`crate::make_prompts`]), or draw.

use std::path::{Path, PathBuf};

use rectiflow_dataset::sprites::{Colour, Place, Scene};
use serde::{Deserialize, Serialize};

use crate::EvaluateError;

/// What a prompt tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// One thing, and nothing else.
    SingleObject,
    /// Two things that are never together in training.
    TwoObject,
    /// Two to four things of a kind, as many as are never together in training.
    Counting,
    /// One thing in a colour that its art does not have.
    Colours,
    /// Two things that are never together in training, where they are asked.
    Position,
    /// The same in two colours that their art does not have.
    ColourAttribution,
    /// A word that is in training.
    SpellingKnown,
    /// A word that is not.
    SpellingHeldOut,
}

impl Task {
    /// All of them.
    pub const ALL: [Task; 8] = [
        Task::SingleObject,
        Task::TwoObject,
        Task::Counting,
        Task::Colours,
        Task::Position,
        Task::ColourAttribution,
        Task::SpellingKnown,
        Task::SpellingHeldOut,
    ];

    /// In files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Task::SingleObject => "single_object",
            Task::TwoObject => "two_object",
            Task::Counting => "counting",
            Task::Colours => "colours",
            Task::Position => "position",
            Task::ColourAttribution => "colour_attribution",
            Task::SpellingKnown => "spelling_known",
            Task::SpellingHeldOut => "spelling_held_out",
        }
    }

    /// Whether a word is asked for; else a detector is asked.
    pub fn is_spelling(self) -> bool {
        matches!(self, Task::SpellingKnown | Task::SpellingHeldOut)
    }
}

/// Things of a kind that are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thing {
    /// Its name in `concepts.json`.
    pub concept: String,
    /// How many.
    pub count: usize,
    /// In which colour, where that is asked.
    pub colour: Option<Colour>,
}

/// A prompt, and how its pictures are judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// What it tries.
    pub task: Task,
    /// Its number in the task, from 0 on.
    pub number: usize,
    /// Of its first picture; the next ones have the next. No two prompts share one.
    pub seed: u64,
    /// The scene's caption.
    pub prompt: String,
    /// What must be seen.
    pub asked: Vec<Thing>,
    /// Where the first thing must be, seen from the second.
    pub relation: Option<Place>,
    /// What must be read.
    pub word: Option<String>,
    /// A picture that is right.
    pub scene: Scene,
}

/// Seeds between the first ones of two prompts: the most pictures of one.
pub const SEEDS_MAX: u64 = 1000;

impl Prompt {
    /// A name that no other prompt has: `counting/007`.
    pub fn name(&self) -> String {
        format!("{}/{:03}", self.task.name(), self.number)
    }

    /// Whether both ask the same of a picture.
    pub fn asks_as(&self, other: &Prompt) -> bool {
        self.asked == other.asked && self.relation == other.relation && self.word == other.word
    }
}

/// The prompts of an evaluation.
#[derive(Clone, Debug)]
pub struct Prompts {
    /// Task by task, in the order of [`Task::ALL`].
    pub all: Vec<Prompt>,
    /// A blake3 digest of the files in hex.
    pub digest: String,
}

impl Prompts {
    /// Reads the files of a folder; of each task the first `most`.
    ///
    /// # Errors
    /// One is missing or not what [`crate::write_prompts`] writes.
    pub fn open(folder: &Path, most: usize) -> Result<Prompts, EvaluateError> {
        let (mut all, mut hasher) = (Vec::new(), blake3::Hasher::new());
        for task in Task::ALL {
            let path = file(folder, task);
            let text = std::fs::read_to_string(&path)
                .map_err(|problem| EvaluateError::Unreadable { path: path.clone(), problem })?;
            hasher.update(text.as_bytes());
            for (number, line) in text.lines().enumerate() {
                let bad = |problem: String| EvaluateError::BadPrompts { path: path.clone(), line: number + 1, problem };
                let prompt: Prompt = serde_json::from_str(line).map_err(|error| bad(error.to_string()))?;
                if (prompt.task, prompt.number) != (task, number) {
                    return Err(bad(format!("it is {} and not {}/{number:03}", prompt.name(), task.name())));
                }
                if prompt.word.is_some() != task.is_spelling() {
                    return Err(bad("words are asked for in spelling, and nowhere else".to_owned()));
                }
                if number < most {
                    all.push(prompt);
                }
            }
        }
        Ok(Prompts { all, digest: hasher.finalize().to_hex().to_string() })
    }

    /// Those of a task.
    pub fn of(&self, task: Task) -> impl Iterator<Item = &Prompt> + Clone {
        self.all.iter().filter(move |prompt| prompt.task == task)
    }
}

/// Where a task's prompts lie.
pub(crate) fn file(folder: &Path, task: Task) -> PathBuf {
    folder.join(format!("{}.jsonl", task.name()))
}
