//! GenEval's tasks: whether a detector finds in a picture what the prompt asked for.
//!
//! Beside the drawn pictures stand the real scenes of the same prompts, which say how far the detector can be trusted, and
//! drawn pictures judged by another prompt of the task, of which nothing but chance should be right.

use std::collections::BTreeMap;

use rectiflow_dataset::sprites::Place;
use rectiflow_vision::Detector;
use rectiflow_vision::judge::{self, Asked, AskedThing};

use super::Ground;
use crate::EvaluateError;
use crate::metrics::percentiles;
use crate::prompts::{Prompt, Task};
use crate::results::{Figure, Of, Part, Tally, Unit, key};
use crate::watch::{Watch, go_on};

/// Whether each picture of a prompt is right, by the prompt's name.
pub(crate) type Verdicts = BTreeMap<String, Vec<bool>>;

/// The name of the mean over tasks.
const OVERALL: &str = "mean of the tasks";

pub(crate) fn measure(
    ground: &Ground<'_>,
    detector: &Detector,
    watch: &mut dyn Watch,
) -> Result<(Vec<Figure>, Verdicts), EvaluateError> {
    let (mut figures, mut verdicts) = (Vec::new(), Verdicts::new());
    let mut tallies: BTreeMap<Of, Vec<(Task, Tally)>> = BTreeMap::new();
    let total = ground.prompts.all.iter().filter(|prompt| !prompt.task.is_spelling()).count();
    let mut done = 0;
    for task in Task::ALL.into_iter().filter(|task| !task.is_spelling()) {
        let prompts: Vec<&Prompt> = ground.prompts.of(task).collect();
        let asked = prompts.iter().map(|prompt| asked(prompt, detector)).collect::<Result<Vec<_>, _>>()?;
        let others = Ground::others(&prompts);
        let [mut drawn, mut real, mut control] = [(); 3].map(|()| Tally::default());
        for ((prompt, own), other) in prompts.iter().zip(&asked).zip(&others) {
            go_on(watch)?;
            let mut pictures = ground.drawn(prompt)?;
            pictures.push(ground.real(&prompt.scene)?);
            let mut found = detector.detect(ground.tensor(&pictures));
            let of_real = found.pop().unwrap_or_default();
            let right: Vec<bool> = found.iter().map(|found| own.is_right(found)).collect();
            drawn.add(right.iter().map(|right| f64::from(*right)));
            real.add([f64::from(own.is_right(&of_real))]);
            if let Some(other) = other {
                let other = self::asked(other, detector)?;
                control.add(found.iter().map(|found| f64::from(other.is_right(found))));
            }
            verdicts.insert(prompt.name(), right);
            done += 1;
            watch.step(done, total);
        }
        for (of, tally) in [(Of::Drawn, drawn), (Of::Real, real), (Of::Control, control)] {
            if !tally.0.is_empty() {
                figures.push(tally.figure(Part::Tasks, task.name(), of, Unit::Share));
                tallies.entry(of).or_default().push((task, tally));
            }
        }
    }
    figures.extend(tallies.into_iter().map(|(of, tasks)| overall(of, &tasks)));
    Ok((figures, verdicts))
}

/// Each task counts alike; its prompts are drawn again among themselves.
fn overall(of: Of, tasks: &[(Task, Tally)]) -> Figure {
    let again: Vec<Vec<f64>> =
        tasks.iter().map(|(task, tally)| tally.again(&key(Part::Tasks, task.name(), of))).collect();
    let mean = |resample: usize| again.iter().map(|task| task[resample]).sum::<f64>() / tasks.len() as f64;
    let resamples = again.first().map_or(0, Vec::len);
    let sum = |which: usize| tasks.iter().flat_map(|(_, tally)| &tally.0).map(|one| one[which]).sum::<f64>();
    Figure {
        part: Part::Tasks,
        name: OVERALL.to_owned(),
        of,
        unit: Unit::Share,
        value: tasks.iter().map(|(_, tally)| tally.mean()).sum::<f64>() / tasks.len() as f64,
        interval: percentiles((0..resamples).map(mean).collect()),
        n: tasks.iter().map(|(_, tally)| tally.0.len()).sum(),
        pictures: sum(1) as usize,
        deviation: None,
    }
}

/// A prompt in the detector's numbers.
fn asked(prompt: &Prompt, detector: &Detector) -> Result<Asked, EvaluateError> {
    let config = detector.config();
    let place = |names: &[String], name: &str| {
        names.iter().position(|known| known == name).ok_or_else(|| EvaluateError::Impossible {
            part: Part::Tasks.name(),
            why: format!("the detector does not know `{name}`, which {} asks for", prompt.name()),
            hint: "give a detector that was trained with the same art".to_owned(),
        })
    };
    let things = prompt.asked.iter().map(|thing| {
        let colour = thing.colour.map(|colour| place(&config.colours, colour.name())).transpose()?;
        Ok(AskedThing { concept: place(&config.concepts, &thing.concept)?, count: thing.count, colour })
    });
    let relation = prompt.relation.map(|place| match place {
        Place::LeftOf => judge::Place::LeftOf,
        Place::RightOf => judge::Place::RightOf,
        Place::Above => judge::Place::Above,
        Place::Below => judge::Place::Below,
    });
    Ok(Asked { things: things.collect::<Result<_, EvaluateError>>()?, relation })
}
