//! The loop with a small network: that an interrupted run is the same to the bit, and what it does about faults.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rectiflow_generate::Image;
use rectiflow_nn::layers::Linear;
use rectiflow_nn::{Device, Init, Named, Params, Precision, RandomInit, Rng, Tensor, from_f32, to_f32};
use rectiflow_train::ema::Ema;
use rectiflow_train::journal::{self, Event};
use rectiflow_train::objective::{Objective, Problem, StepError, Values};
use rectiflow_train::plan::{Every, Overrides, Pace, Plan};
use rectiflow_train::recipe::{NotFiniteRule, Recipe};
use rectiflow_train::run::{Outcome, Run, RunFolder, TrainError, Watch};
use rectiflow_train::trainee::{StateError, Trainee};

const SEED: u64 = 9;

/// Learns a sum of its inputs. At `bad_step` its loss is not finite, in turns before `good_turn`; each turn at the step
/// after, where it `moves`.
struct Sums {
    trainee: Trainee<Linear>,
    turn: u64,
    bad_step: Option<u64>,
    moves: bool,
    good_turn: u64,
    data: &'static str,
}

impl Sums {
    fn new() -> Sums {
        let device = Device::flex().autodiff();
        let mut source = RandomInit { seed: SEED };
        let mut source = Named::new(&mut source);
        let module = Linear::new(Params::new(&mut source, &device, Precision::F32), 5, 1, Init::XavierUniform);
        let averages =
            vec![Ema::Decay { decay: 0.9, every: NonZeroU64::new(3).unwrap() }, Ema::Power { sigma_rel: 0.1 }];
        let trainee = Trainee::new("sums", module, source.names(), plan(12).adamw(), averages);
        Sums { trainee, turn: 0, bad_step: None, moves: false, good_turn: u64::MAX, data: "sums" }
    }

    fn loss(&self, number: u64, module: &Linear) -> Tensor<1> {
        let mut rng = Rng::keyed(SEED, "inputs", number + (self.turn << 32));
        let x = rng.normals(4 * 5);
        let wanted: Vec<f32> = x.chunks(5).map(|x| x.iter().sum()).collect();
        let device = Device::flex().autodiff();
        let found = module.forward(from_f32(x, [4, 5], &device));
        (found - from_f32(wanted, [4, 1], &device)).square().mean()
    }

    fn state(&self, folder: &Path) -> State {
        self.trainee.save(folder).unwrap();
        files(folder)
    }
}

/// Files by name.
type State = BTreeMap<String, Vec<u8>>;

fn files(folder: &Path) -> State {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

impl Objective for Sums {
    fn step(&mut self, step: u64, learning_rate: f64) -> Result<Values, StepError> {
        let mut sum = 0.0;
        for part in 0..2 {
            let loss = self.loss(step * 2 + part, self.trainee.module());
            sum += f64::from(to_f32(&loss)[0]);
            self.trainee.add(loss.backward());
        }
        let bad_step = self.bad_step.map(|bad| if self.moves { bad + self.turn } else { bad });
        if bad_step == Some(step) && self.turn < self.good_turn {
            return Err(StepError::NotFinite {
                what: "the loss".into(),
                samples: vec!["7.png".into(), "9.png".into()],
            });
        }
        let norm = self.trainee.step(learning_rate, Some(1.0))?;
        Ok([("loss".to_owned(), sum / 2.0), ("gradient_norm".to_owned(), norm)].into())
    }

    fn data_digest(&self) -> String {
        self.data.to_owned()
    }

    fn validate(&mut self) -> Result<Values, Problem> {
        let loss = to_f32(&self.loss(1 << 20, &self.trainee.averaged()))[0];
        Ok([("loss".to_owned(), loss.into())].into())
    }

    fn samples(&mut self) -> Result<Option<Image>, Problem> {
        Ok(Some(Image { width: 1, height: 1, rgb: vec![9; 3] }))
    }

    fn save(&self, folder: &Path) -> Result<(), StateError> {
        self.trainee.save(folder)
    }

    fn load(&mut self, folder: &Path, step: u64) -> Result<(), StateError> {
        self.trainee.load(folder, step)
    }

    fn turn(&mut self, turn: u64) {
        self.turn = turn;
    }

    fn export(&self, _folder: &Path) -> Result<(), Problem> {
        Ok(())
    }
}

fn plan(steps: u64) -> Plan {
    let text = r#"
        steps = 12
        batch = 8
        record_every = 2
        objective = { kind = "flow" }
        model = { kind = "mmdit" }
        data = { source = { path = "pictures", side_px = 64 }, encoders = "model" }
        schedule = { learning_rate = 0.05, warmup_steps = 4, shape = "cosine" }
        validation = { every = 6 }
        samples = { every = 5, prompts = ["a sum"] }
        checkpoint = { every = 4 }
    "#;
    let recipe = Recipe::parse(text, Path::new("recipe.toml")).unwrap();
    Plan::resolve(recipe, Overrides { steps: Some(steps), checkpoint_every: None }).unwrap()
}

fn pace() -> Pace {
    plan(12).pace
}

/// Wishes to stop after some questions; waits for the disk some times.
struct Watcher {
    events: Vec<Event>,
    stop_after: Option<u64>,
    wait: u64,
}

impl Watcher {
    fn new(stop_after: Option<u64>) -> Watcher {
        Watcher { events: Vec::new(), stop_after, wait: 0 }
    }
}

impl Watch for Watcher {
    fn event(&mut self, event: &Event) {
        self.events.push(event.clone());
    }

    fn wish(&mut self) -> ControlFlow<()> {
        match &mut self.stop_after {
            Some(0 | 1) => ControlFlow::Break(()),
            Some(left) => {
                *left -= 1;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Continue(()),
        }
    }

    fn disk_full(&mut self, _problem: &TrainError) -> ControlFlow<()> {
        if self.wait == 0 {
            return ControlFlow::Break(());
        }
        self.wait -= 1;
        ControlFlow::Continue(())
    }
}

struct Place {
    folder: RunFolder,
    _keep: tempfile::TempDir,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    Place { folder: RunFolder::new(folder.path().to_owned()), _keep: folder }
}

impl Place {
    fn run(&self, sums: &mut Sums, pace: &Pace, watcher: &mut Watcher) -> Result<Outcome, TrainError> {
        Run::take_up(sums, pace, &self.folder, watcher)?.finish()
    }

    fn checkpoint(&self, step: u64, file: &str) -> PathBuf {
        self.folder.root().join(format!("checkpoints/step-{step:06}")).join(file)
    }

    /// Each step's line of the journal without what it took.
    fn steps(&self) -> Vec<(u64, Values)> {
        let step = |event| match event {
            Event::Step { step, values, .. } => Some((step, values)),
            _ => None,
        };
        journal::read(&self.folder.journal()).unwrap().into_iter().filter_map(step).collect()
    }
}

/// A whole run, its state at the end and its journal.
fn whole() -> (State, Vec<(u64, Values)>) {
    let (place, mut sums) = (place(), Sums::new());
    assert_eq!(place.run(&mut sums, &pace(), &mut Watcher::new(None)).unwrap(), Outcome::Finished);
    let state = tempfile::tempdir().unwrap();
    (sums.state(state.path()), place.steps())
}

#[test]
fn a_run_that_was_asked_to_stop_anywhere_goes_on_as_if_it_had_not() {
    let (state, steps) = whole();
    assert_eq!(state.len(), 4, "weights, optimizer and two averages");
    for stop in [1, 2, 7, 11] {
        let place = place();
        let stopped = place.run(&mut Sums::new(), &pace(), &mut Watcher::new(Some(stop))).unwrap();
        assert_eq!(stopped, Outcome::Stopped { step: stop });
        // Another process: nothing but the folder is left.
        let mut sums = Sums::new();
        assert_eq!(place.run(&mut sums, &pace(), &mut Watcher::new(None)).unwrap(), Outcome::Finished);
        let again = tempfile::tempdir().unwrap();
        assert!(sums.state(again.path()) == state, "stopped after {stop}: another state");
        // A stop between two lines of the journal makes one of its own.
        if stop % 2 == 0 {
            assert_eq!(place.steps(), steps, "stopped after {stop}");
        }
    }
}

#[test]
fn a_run_that_was_killed_loses_only_the_steps_since_its_checkpoint() {
    let (state, steps) = whole();
    let place = place();
    let mut sums = Sums::new();
    sums.bad_step = Some(7);
    place.run(&mut sums, &pace(), &mut Watcher::new(None)).unwrap_err();
    // As a killed process leaves it: a checkpoint half written, half a line of the journal.
    std::fs::create_dir(place.checkpoint(8, "").with_extension("partial")).unwrap();
    let journal = std::fs::read_to_string(place.folder.journal()).unwrap();
    std::fs::write(place.folder.journal(), journal + "{\"event\":\"step\",\"st").unwrap();

    let (mut sums, mut watcher) = (Sums::new(), Watcher::new(None));
    assert_eq!(place.run(&mut sums, &pace(), &mut watcher).unwrap(), Outcome::Finished);
    assert!(matches!(watcher.events[0], Event::Started { step: 6, .. }), "{:?}", watcher.events[0]);
    let again = tempfile::tempdir().unwrap();
    assert!(sums.state(again.path()) == state, "another state");
    assert_eq!(place.steps(), steps, "each step once");
    assert!(!place.checkpoint(8, "").with_extension("partial").exists());
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_that_is_said() {
    let (state, _) = whole();
    let place = place();
    place.run(&mut Sums::new(), &pace(), &mut Watcher::new(Some(9))).unwrap();
    let damaged = place.checkpoint(9, "sums.optimizer.safetensors");
    let mut bytes = std::fs::read(&damaged).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();

    let (mut sums, mut watcher) = (Sums::new(), Watcher::new(None));
    place.run(&mut sums, &pace(), &mut watcher).unwrap();
    let said = watcher.events.iter().find_map(|event| match event {
        Event::Note { text, .. } => Some(text.clone()),
        _ => None,
    });
    let said = said.unwrap();
    assert!(
        said.contains("step-000009 is damaged (sums.optimizer.safetensors") && said.contains("step-000008"),
        "{said}"
    );
    let again = tempfile::tempdir().unwrap();
    assert!(sums.state(again.path()) == state, "another state");
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_and_names_the_samples() {
    let place = place();
    let mut sums = Sums::new();
    sums.bad_step = Some(9);
    let error = place.run(&mut sums, &pace(), &mut Watcher::new(None)).unwrap_err().to_string();
    assert!(error.starts_with("step 9: the loss is not finite; samples of the step: 7.png, 9.png\nhint: "), "{error}");
    assert!(error.contains("checkpoints/step-000008; look at those samples"), "{error}");
}

#[test]
fn a_run_goes_back_and_on_with_other_samples_where_the_recipe_says_so() {
    let pace = Pace { not_finite: NotFiniteRule::RollBack, ..pace() };
    let (there, mut sums, mut watcher) = (place(), Sums::new(), Watcher::new(None));
    (sums.bad_step, sums.good_turn) = (Some(9), 2);
    assert_eq!(there.run(&mut sums, &pace, &mut watcher).unwrap(), Outcome::Finished);
    let notes = watcher.events.iter().filter(|event| matches!(event, Event::Note { step: 8, .. })).count();
    assert_eq!((notes, sums.turn), (2, 2));

    // The steps after the bad one are those of the last turn also where another process takes them.
    let state = tempfile::tempdir().unwrap();
    let whole = sums.state(state.path());
    let there = place();
    for stop in [Some(13), None] {
        let mut sums = Sums::new();
        (sums.bad_step, sums.good_turn) = (Some(9), 2);
        there.run(&mut sums, &pace, &mut Watcher::new(stop)).unwrap();
        if stop.is_none() {
            let again = tempfile::tempdir().unwrap();
            assert!(sums.state(again.path()) == whole && sums.turn == 2, "another state");
        } else {
            assert!(there.checkpoint(11, "checkpoint.json").exists());
        }
    }

    let (there, mut sums) = (place(), Sums::new());
    sums.bad_step = Some(9);
    let error = there.run(&mut sums, &pace, &mut Watcher::new(None)).unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { step: 9, .. }), "{error}");
    assert_eq!(sums.turn, 2, "it ends at the third time");
    assert!(error.to_string().ends_with("did not help: lower the learning rate"), "{error}");

    let (there, mut sums) = (place(), Sums::new());
    (sums.bad_step, sums.moves) = (Some(8), true);
    there.run(&mut sums, &pace, &mut Watcher::new(None)).unwrap_err();
    assert_eq!(sums.turn, 2, "whichever steps it is for");
}

#[test]
fn a_run_of_which_no_checkpoint_is_whole_is_not_begun_anew() {
    let place = place();
    place.run(&mut Sums::new(), &pace(), &mut Watcher::new(Some(7))).unwrap();
    let journal = std::fs::read(place.folder.journal()).unwrap();
    for step in [4, 6, 7] {
        let _ = std::fs::remove_file(place.checkpoint(step, "sums.weights.safetensors"));
    }
    let error = place.run(&mut Sums::new(), &pace(), &mut Watcher::new(None)).unwrap_err().to_string();
    assert!(
        error.contains("step-000007 (sums.weights.safetensors: ") && error.contains("\nhint: put a copy"),
        "{error}"
    );
    assert!(std::fs::read(place.folder.journal()).unwrap() == journal);
}

#[test]
fn a_run_does_not_go_on_with_other_data() {
    let place = place();
    place.run(&mut Sums::new(), &pace(), &mut Watcher::new(Some(7))).unwrap();
    let mut other = Sums::new();
    other.data = "other sums";
    let error = place.run(&mut other, &pace(), &mut Watcher::new(None)).unwrap_err().to_string();
    assert!(error.contains("step-000007 was trained on") && error.contains("\nhint: put them back"), "{error}");
    place.run(&mut Sums::new(), &pace(), &mut Watcher::new(None)).unwrap();
}

#[test]
fn kept_averages_are_those_of_the_steps_that_were_taken() {
    let (place, pace) = (place(), Pace { keeps_averages: true, ..pace() });
    let kept = |step: u64| place.folder.averages().join(format!("step-{step:06}/sums.ema-1.safetensors"));
    place.run(&mut Sums::new(), &pace, &mut Watcher::new(Some(9))).unwrap();
    let [eighth, ninth] = [8, 9].map(|step| std::fs::read(kept(step)).unwrap());
    // As a process leaves it that ends between a checkpoint and its averages, and one that came further and lost that.
    std::fs::remove_file(kept(9)).unwrap();
    std::fs::write(kept(9), &ninth[..10]).unwrap();
    let later = kept(11);
    std::fs::create_dir_all(later.parent().unwrap()).unwrap();
    std::fs::write(&later, "of another line").unwrap();
    Run::take_up(&mut Sums::new(), &pace, &place.folder, &mut Watcher::new(None)).unwrap();
    assert!([8, 9].map(|step| std::fs::read(kept(step)).unwrap()) == [eighth, ninth]);
    assert!(!later.exists());
}

#[test]
fn a_run_that_went_back_and_was_stopped_goes_on_with_its_other_samples() {
    let pace = Pace { not_finite: NotFiniteRule::RollBack, ..pace() };
    let end = |stop: Option<u64>| {
        let there = place();
        let bad = || {
            let mut sums = Sums::new();
            (sums.bad_step, sums.good_turn) = (Some(5), 1);
            sums
        };
        let mut sums = bad();
        if stop.is_some() {
            there.run(&mut sums, &pace, &mut Watcher::new(stop)).unwrap();
            sums = bad();
        }
        assert_eq!(there.run(&mut sums, &pace, &mut Watcher::new(None)).unwrap(), Outcome::Finished);
        let state = tempfile::tempdir().unwrap();
        (sums.state(state.path()), there.steps())
    };
    let whole = end(None);
    // Eleven questions: five steps, one step back, six more.
    assert!(end(Some(11)) == whole);
}

#[test]
fn a_step_has_one_checkpoint_after_all_else_that_is_done_at_it() {
    let (place, mut watcher) = (place(), Watcher::new(None));
    let pace = Pace { samples: Every(6), ..pace() };
    place.run(&mut Sums::new(), &pace, &mut watcher).unwrap();
    let kind = |event: &Event| match event {
        Event::Step { .. } => "step",
        Event::Validation { .. } => "validation",
        Event::Samples { .. } => "samples",
        Event::Checkpoint { .. } => "checkpoint",
        _ => "other",
    };
    // Step 6 is the best so far, step 12 too, and the last.
    for step in [6, 12] {
        let kinds: Vec<_> = watcher.events.iter().filter(|event| event.step() == step).map(kind).collect();
        assert_eq!(kinds[..4], ["step", "validation", "samples", "checkpoint"]);
        assert_eq!(kinds.iter().filter(|kind| **kind == "checkpoint").count(), 1);
    }
}

#[test]
fn the_last_checkpoints_and_the_best_stay() {
    let place = place();
    let mut watcher = Watcher::new(None);
    place.run(&mut Sums::new(), &pace(), &mut watcher).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(place.folder.root().join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["step-000008", "step-000012"]);
    assert!(place.folder.root().join("samples/step-000005.png").exists());
    let losses: Vec<f64> = watcher
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Validation { values, .. } => Some(values["loss"]),
            _ => None,
        })
        .collect();
    assert_eq!(losses.len(), 2);
    assert!(losses[1] < losses[0], "{losses:?}");
}

#[test]
fn a_checkpoint_of_another_network_is_refused() {
    let place = place();
    place.run(&mut Sums::new(), &pace(), &mut Watcher::new(Some(4))).unwrap();
    let device = Device::flex().autodiff();
    let mut source = RandomInit { seed: SEED };
    let mut source = Named::new(&mut source);
    let module = Linear::new(Params::new(&mut source, &device, Precision::F32), 6, 1, Init::XavierUniform);
    let mut other = Sums::new();
    other.trainee = Trainee::new("sums", module, source.names(), plan(12).adamw(), vec![]);
    let error = place.run(&mut other, &pace(), &mut Watcher::new(None)).unwrap_err().to_string();
    assert!(error.contains("sums.weights.safetensors does not fit the network: weight has shape [1, 5]"), "{error}");
}
