//! The prompts of an evaluation, from scenes that no training has.
//!
//! Pairs, counts and words are held out of training by name, whatever the seed. Concepts and colours of a single thing are
//! not: those scenes, of a seed of their own, are new, and what is in them is known from training.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rectiflow_dataset::sprites::{Background, Layout, Object, Scene, Scenes, Settings, Split};
use rectiflow_weights::{IfThere, write_whole};

use crate::EvaluateError;
use crate::prompts::{Prompt, SEEDS_MAX, Task, Thing, file};

/// Of the scenes of an evaluation: no recipe has it. The paper is arXiv:2403.03206.
pub const SCENE_SEED: u64 = 2403;
/// The longest word of such scenes, in letters.
pub const LETTERS_MAX: usize = 8;

/// Prompts of a task, and of one that asks for a word.
const PROMPTS: usize = 100;
const WORDS: usize = 50;
/// Words that are asked for: shorter ones are spelt right by chance, longer ones hard to read at 128 px.
const LETTERS: std::ops::RangeInclusive<usize> = 3..=6;
/// Scenes that are looked through; about a tenth is needed.
const SCENES_MAX: u64 = 400_000;

/// The scenes of an evaluation that are drawn for their own sake: held out, of the same seed as the prompts' scenes.
///
/// # Errors
/// The art is not there or not whole.
pub fn held_out_scenes(art: &Path) -> Result<Scenes, EvaluateError> {
    Ok(Scenes::open(art, settings(Split::HeldOut))?)
}

fn settings(split: Split) -> Settings {
    Settings { seed: SCENE_SEED, split, letters_max: LETTERS_MAX, layout: Layout::Free }
}

/// All prompts: the same for the same art.
///
/// # Errors
/// The art is not there or not whole, or has too little of something.
pub fn make_prompts(art: &Path) -> Result<Vec<Prompt>, EvaluateError> {
    let mut chosen = Chosen::default();
    for split in [Split::Train, Split::HeldOut] {
        let scenes = Scenes::open(art, settings(split))?;
        let words: BTreeSet<&str> = scenes.words().collect();
        let wanted: Vec<Task> = Task::ALL.into_iter().filter(|task| split_of(*task) == split).collect();
        let mut numbers = 0..SCENES_MAX;
        while let Some(task) = wanted.iter().find(|task| !chosen.is_full(**task)) {
            let Some(number) = numbers.next() else {
                let there = chosen.tasks.get(task).map_or(0, Vec::len);
                return Err(EvaluateError::FewScenes {
                    task: task.name(),
                    scenes: SCENES_MAX,
                    there,
                    wanted: wanted_of(*task),
                });
            };
            let scene = scenes.scene(number);
            if let Some(candidate) = Candidate::of(scene, &words) {
                chosen.offer(candidate);
            }
        }
    }
    let all = Task::ALL.into_iter().flat_map(|task| chosen.tasks.remove(&task).unwrap_or_default());
    let numbered = all.zip(0..).map(|(prompt, place): (Prompt, u64)| Prompt { seed: place * SEEDS_MAX, ..prompt });
    Ok(numbered.collect())
}

/// Writes the prompts, a file for each task.
///
/// # Errors
/// As [`make_prompts`], or the folder cannot be written.
pub fn write_prompts(art: &Path, folder: &Path) -> Result<usize, EvaluateError> {
    let prompts = make_prompts(art)?;
    let unwritable = |path: &Path| {
        let path = path.to_owned();
        move |problem| EvaluateError::Unwritable { path, problem }
    };
    std::fs::create_dir_all(folder).map_err(unwritable(folder))?;
    for task in Task::ALL {
        let path = file(folder, task);
        let lines = prompts.iter().filter(|prompt| prompt.task == task);
        let text: String = lines.map(|prompt| serde_json::json!(prompt).to_string() + "\n").collect();
        write_whole(&path, IfThere::Replace, |out| out.write_all(text.as_bytes())).map_err(unwritable(&path))?;
    }
    Ok(prompts.len())
}

fn split_of(task: Task) -> Split {
    match task {
        Task::SingleObject | Task::Colours | Task::SpellingKnown => Split::Train,
        _ => Split::HeldOut,
    }
}

/// What a scene could be asked as.
struct Candidate {
    task: Task,
    /// No two prompts of a task have the same.
    key: String,
    /// Prompts of a task are spread over these evenly.
    kind: String,
    asked: Vec<Thing>,
    word: Option<String>,
    scene: Scene,
}

impl Candidate {
    fn of(scene: Scene, words: &BTreeSet<&str>) -> Option<Candidate> {
        let (task, key, kind, word) = match (&scene.objects[..], &scene.lettering) {
            (_, Some(lettering)) => {
                let word = lettering.word.to_lowercase();
                let is_fit = LETTERS.contains(&word.len()) && words.contains(&word[..]);
                let task = if scene.split == Split::Train { Task::SpellingKnown } else { Task::SpellingHeldOut };
                (task, is_fit.then(|| word.clone())?, String::new(), Some(word))
            }
            ([one], None) if scene.split == Split::Train && one.recoloured => {
                let colour = one.colour?.name();
                (Task::Colours, format!("{} {colour}", one.concept), colour.to_owned(), None)
            }
            ([one], None) if scene.split == Split::Train => {
                (Task::SingleObject, one.concept.clone(), String::new(), None)
            }
            ([one, other], None) if scene.split == Split::HeldOut && one.concept != other.concept => {
                let pair = pair(one, other);
                if one.recoloured && other.recoloured && one.colour != other.colour {
                    (Task::ColourAttribution, pair, String::new(), None)
                } else if !matches!(scene.background, Background::Plain { .. }) {
                    // Captions of other backgrounds have words for places too.
                    return None;
                } else if says_place(&scene.caption) {
                    (Task::Position, pair, format!("{:?}", scene.relation), None)
                } else {
                    (Task::TwoObject, pair, String::new(), None)
                }
            }
            ([one, ..], None)
                if scene.split == Split::HeldOut && scene.objects.iter().all(|o| o.concept == one.concept) =>
            {
                let count = scene.objects.len();
                // There are some ninety such counts: some come in two styles.
                let key = format!("{count} {} {:?}", one.concept, scene.style);
                (Task::Counting, key, count.to_string(), None)
            }
            _ => return None,
        };
        let says_colours = matches!(task, Task::Colours | Task::ColourAttribution);
        let mut asked: Vec<Thing> = Vec::new();
        for object in scene.objects.iter().filter(|_| !task.is_spelling()) {
            match asked.iter_mut().find(|thing| thing.concept == object.concept) {
                Some(thing) => thing.count += 1,
                None => asked.push(Thing {
                    concept: object.concept.clone(),
                    count: 1,
                    colour: object.colour.filter(|_| says_colours),
                }),
            }
        }
        Some(Candidate { task, key, kind, asked, word, scene })
    }
}

fn pair(one: &Object, other: &Object) -> String {
    let mut names = [&one.concept[..], &other.concept[..]];
    names.sort_unstable();
    names.join(", ")
}

/// Whether a caption of two things on a plain background says where they are.
fn says_place(caption: &str) -> bool {
    [" left ", " right ", " above ", " below ", " underneath ", " at the top ", " at the bottom "]
        .iter()
        .any(|words| caption.contains(words))
}

#[derive(Default)]
struct Chosen {
    tasks: BTreeMap<Task, Vec<Prompt>>,
    keys: BTreeSet<(Task, String)>,
    kinds: BTreeMap<(Task, String), usize>,
}

impl Chosen {
    fn offer(&mut self, candidate: Candidate) {
        let Candidate { task, key, kind, asked, word, scene } = candidate;
        let kinds = self.kinds.entry((task, kind)).or_default();
        let is_full = self.tasks.get(&task).is_some_and(|there| there.len() >= wanted_of(task));
        if is_full || *kinds >= wanted_of(task).div_ceil(kinds_of(task)) || !self.keys.insert((task, key)) {
            return;
        }
        *kinds += 1;
        let there = self.tasks.entry(task).or_default();
        // Only a prompt for positions is judged by them.
        let relation = scene.relation.filter(|_| task == Task::Position);
        let (number, prompt) = (there.len(), scene.caption.clone());
        there.push(Prompt { task, number, seed: 0, prompt, asked, relation, word, scene });
    }

    fn is_full(&self, task: Task) -> bool {
        self.tasks.get(&task).is_some_and(|there| there.len() >= wanted_of(task))
    }
}

fn wanted_of(task: Task) -> usize {
    if task.is_spelling() { WORDS } else { PROMPTS }
}

/// Places, counts and colours that art is turned to.
fn kinds_of(task: Task) -> usize {
    match task {
        Task::Position => 4,
        Task::Counting => 3,
        Task::Colours => 7,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_places_are_found_and_things_named_like_them_are_not() {
        for (caption, expected) in [
            ("a cat left of a dog on a red background", true),
            ("a cat on the left and a dog on the right", true),
            ("a flat icon of a sun at the top and a tree at the bottom with a red backdrop", true),
            ("two cats underneath a dog", true),
            ("a top hat and a laptop against a plain red background", false),
            ("a cat and a dog, flat style", false),
        ] {
            assert_eq!(says_place(caption), expected, "{caption}");
        }
    }
}
