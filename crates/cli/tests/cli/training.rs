//! Small trainings, each a row: an objective, its recipe and its data.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Desk, fixture, text};

/// Steps of every training here.
pub(crate) const STEPS: u64 = 20;

/// What is the same for all: a checkpoint every 4 steps, a line of the journal for each.
const PACE: &str = "
steps = 20
batch = 3
record_every = 1
precision = \"f32\"
schedule = { learning_rate = 1e-3, warmup_steps = 4, shape = \"cosine\" }
ema = [{ kind = \"decay\", decay = 0.9, every = 2 }, { kind = \"power\", sigma_rel = 0.1 }]
checkpoint = { every = 4 }
";

/// An objective and what it is tried on. A new objective is a new row.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// The rest of its recipe; `DATA` stands for the folder of pictures, `ART` for that of the sprites' art, `MODEL` for a
    /// model with encoders.
    recipe: &'static str,
    /// Whether `rectiflow cache` goes before.
    is_cached: bool,
}

pub(crate) const FLOW: Row = Row {
    name: "flow, encoded in every step",
    recipe: "
        objective = { kind = \"flow\", shift = 3.0 }
        model = { kind = \"mmdit\", depth = 1, grid = 8 }
        data = { encoders = \"MODEL\", source = { path = \"DATA\", side_px = 32, flip = true } }
        validation = { every = 6, samples = 2 }
        samples = { every = 10, prompts = [\"a red square\"], steps = 1 }
    ",
    is_cached: false,
};

pub(crate) const ROWS: [Row; 6] = [
    FLOW,
    Row {
        name: "flow, from a cache",
        recipe: "
            objective = { kind = \"flow\", dropped = \"empty-text\" }
            model = { kind = \"mmdit\", depth = 1, grid = 8 }
            data = { encoders = \"MODEL\", cache = \"cache\", source = { path = \"DATA\", side_px = 32 } }
            validation = { every = 6, samples = 2 }
        ",
        is_cached: true,
    },
    Row {
        name: "autoencoder, with a critic that begins at step 6",
        recipe: "
            objective = { kind = \"autoencoder\", adversarial = { weight = 0.5, start_step = 6, width = 8 } }
            model = { kind = \"autoencoder\", widths = [8, 16], groups = 4, latent_channels = 4 }
            data = { source = { path = \"DATA\", side_px = 32, flip = true } }
            validation = { every = 6, samples = 2 }
            samples = { every = 10 }
        ",
        is_cached: false,
    },
    Row {
        name: "clip",
        recipe: "
            objective = { kind = \"clip\" }
            data = { source = { path = \"DATA\", side_px = 32 } }
            validation = { every = 6, samples = 6 }
            [model]
            kind = \"clip\"
            width = 16
            layers = 2
            heads = 2
            projection = 16
            image = { width = 16, layers = 1, heads = 2, patch = 8 }
        ",
        is_cached: false,
    },
    Row {
        name: "span corruption",
        recipe: "
            objective = { kind = \"span-corruption\" }
            data = { source = { path = \"DATA\" } }
            validation = { every = 6, samples = 6 }
            [model]
            kind = \"t5\"
            vocabulary = \"bytes\"
            width = 32
            layers = 1
            decoder_layers = 1
            heads = 2
            head_width = 8
            mlp = 32
            tokens = 77
        ",
        is_cached: false,
    },
    Row {
        name: "detector",
        recipe: "
            objective = { kind = \"detector\" }
            model = { kind = \"detector\", widths = [8, 8, 8, 8, 8] }
            data = { source = { path = \"ART\", kind = \"sprites\", count = 40, split = \"all\", side_px = 32 } }
            validation = { every = 6, samples = 4 }
        ",
        is_cached: false,
    },
];

impl Row {
    /// Its whole recipe.
    pub(crate) fn recipe(&self) -> String {
        let (model, art) = (fixture("empty/model"), fixture("../assets/sprites"));
        let recipe = format!("{PACE}{}", self.recipe).replace("MODEL", model.to_str().unwrap());
        recipe.replace("DATA", "pictures").replace("ART", art.to_str().unwrap())
    }

    /// A folder with its data and `recipe.toml`.
    pub(crate) fn desk(&self) -> Desk {
        let desk = Desk::new();
        pictures(&desk.path("pictures"), 24);
        std::fs::write(desk.path("recipe.toml"), self.recipe()).unwrap();
        if self.is_cached {
            desk.succeed("cache recipe.toml");
        }
        desk
    }
}

/// Squares in many colours, on grey, with captions.
pub(crate) fn pictures(folder: &Path, count: u8) {
    std::fs::create_dir_all(folder).unwrap();
    for number in 0..count {
        let colour = [number.wrapping_mul(10), 255 - number.wrapping_mul(9), number.wrapping_mul(71)];
        let pixel = |at: usize| if (at % 32).abs_diff(16) + (at / 32).abs_diff(16) < 12 { colour } else { [128; 3] };
        let pixels: Vec<u8> = (0..32 * 32).flat_map(pixel).collect();
        let file = std::fs::File::create(folder.join(format!("{number:02}.png"))).unwrap();
        let mut encoder = png::Encoder::new(file, 32, 32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        std::fs::write(folder.join(format!("{number:02}.txt")), format!("square number {number}")).unwrap();
    }
}

/// A run of the training at `desk`, in the folder `run`.
pub(crate) struct Training<'a> {
    pub(crate) desk: &'a Desk,
    pub(crate) run: &'static str,
}

impl Training<'_> {
    pub(crate) fn line(&self, rest: &str) -> String {
        format!("train recipe.toml --out {} {rest}", self.run)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.desk.path(self.run).join(name)
    }

    pub(crate) fn checkpoint(&self, step: u64) -> PathBuf {
        self.path(&format!("checkpoints/step-{step:06}"))
    }

    /// Trains to the end; returns what was said.
    #[track_caller]
    pub(crate) fn finish(&self, rest: &str) -> String {
        let output = self.desk.run(&self.line(rest));
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        said
    }

    /// Starts it; the caller ends it, or waits.
    pub(crate) fn start(&self, rest: &str) -> Started {
        Started::of(&mut self.desk.command(&self.line(rest)))
    }

    /// Whether the journal has a line of a step from `step` on.
    pub(crate) fn has_taken(&self, step: u64) -> bool {
        self.steps().last().is_some_and(|line| line["step"].as_u64() >= Some(step))
    }

    /// The events of one kind, without times.
    pub(crate) fn events(&self, kind: &str) -> Vec<serde_json::Value> {
        let journal = std::fs::read_to_string(self.path("journal.jsonl")).unwrap_or_default();
        let lines = journal.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut events: Vec<_> = lines.filter(|event| event["event"] == kind).collect();
        for event in &mut events {
            for time in ["seconds", "time"] {
                event.as_object_mut().unwrap().remove(time);
            }
        }
        events
    }

    pub(crate) fn steps(&self) -> Vec<serde_json::Value> {
        self.events("step")
    }

    /// What must not depend on what happened on the way.
    pub(crate) fn outcome(&self) -> Outcome {
        let mut files = Vec::new();
        files_below(&self.checkpoint(STEPS), &mut files);
        for folder in ["samples", "model/transformer"] {
            files_below(&self.path(folder), &mut files);
        }
        let read = |path: PathBuf| {
            let name = path.strip_prefix(self.desk.path(self.run)).unwrap().display().to_string();
            (name, std::fs::read(path).unwrap())
        };
        let files = files.into_iter().map(read).collect();
        Outcome { files, steps: self.steps(), validations: self.events("validation") }
    }
}

/// Where a training ended: its files, to the bit, and its journal.
pub(crate) struct Outcome {
    files: Vec<(String, Vec<u8>)>,
    steps: Vec<serde_json::Value>,
    validations: Vec<serde_json::Value>,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn assert_same(&self, other: &Outcome, what: &str) {
        let names = |outcome: &Outcome| outcome.files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(self), names(other), "{what}");
        for ((name, bytes), (_, others)) in self.files.iter().zip(&other.files) {
            assert!(bytes == others, "{what}: {name} differs");
        }
        assert_eq!(self.steps, other.steps, "{what}");
        assert_eq!(self.validations, other.validations, "{what}");
    }

    /// It is of a whole training.
    #[track_caller]
    pub(crate) fn assert_whole(&self) {
        let has = |part: &str| self.files.iter().any(|(name, _)| name.contains(part));
        assert!(has("weights") && has("optimizer") && has("ema-0") && has("ema-1"), "a checkpoint with all its parts");
        assert_eq!(self.steps.len() as u64, STEPS);
    }
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() { files_below(&path, files) } else { files.push(path) }
    }
}

/// A process that trains, or does something else for long. It does not outlive the test.
pub(crate) struct Started {
    child: Option<Child>,
}

impl Started {
    pub(crate) fn of(command: &mut Command) -> Started {
        Started { child: Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()) }
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().unwrap()
    }

    /// Waits until `is_so`, or the process has ended.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, is_so: impl Fn() -> bool) {
        let started = Instant::now();
        while !is_so() && self.child().try_wait().unwrap().is_none() {
            assert!(started.elapsed() < Duration::from_secs(120), "waited in vain: {what}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Kills it as nothing can be prepared for.
    pub(crate) fn kill(mut self) -> ExitStatus {
        self.child().kill().unwrap();
        self.child().wait().unwrap()
    }

    /// Sends it a signal by name.
    #[cfg(unix)]
    pub(crate) fn signal(&mut self, name: &str) {
        let id = self.child().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// What it says, from now on the caller's.
    pub(crate) fn stderr(&mut self) -> ChildStderr {
        self.child().stderr.take().unwrap()
    }

    pub(crate) fn wait(mut self) -> Output {
        self.child.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
