//! How alike pictures and their prompts are to the model's own CLIP, and how well that tells scenes apart.
//!
//! Source of the score: Hessel et al. 2021, arXiv:2104.08718, without their factor 2.5, as it is mostly reported:
//! `100 max(cos, 0)`. It is of this model's towers, so scores of models with other towers cannot be compared, and it says
//! no more than the towers know: their retrieval accuracy stands beside it.

use super::{AT_ONCE, Ground};
use crate::EvaluateError;
use crate::metrics::{cosine, found};
use crate::prompts::Prompt;
use crate::results::{Figure, Of, Part, Tally, Unit, mean_of};
use crate::towers::Towers;
use crate::watch::{Watch, go_on};

/// Real scenes that are looked for, and captions among which.
pub(crate) const SCENES: usize = 256;
const AMONG: [usize; 2] = [64, 256];

/// `draws`: there are drawn pictures.
pub(crate) fn measure(
    ground: &Ground<'_>,
    towers: &Towers,
    draws: bool,
    watch: &mut dyn Watch,
) -> Result<Vec<Figure>, EvaluateError> {
    let mut figures = retrieval(ground, towers, watch)?;
    if draws {
        figures.extend(score(ground, towers, watch)?);
    }
    Ok(figures)
}

fn score(ground: &Ground<'_>, towers: &Towers, watch: &mut dyn Watch) -> Result<Vec<Figure>, EvaluateError> {
    const NAME: &str = "CLIP score";
    let prompts: Vec<&Prompt> = ground.prompts.all.iter().filter(|prompt| !prompt.task.is_spelling()).collect();
    let texts: Vec<&str> = prompts.iter().map(|prompt| &prompt.prompt[..]).collect();
    let texts = towers.texts(&texts)?;
    let [mut drawn, mut real, mut control] = [(); 3].map(|()| Tally::default());
    let score = |picture: &Vec<f32>, text: &[f32]| 100.0 * cosine(picture, text).max(0.0);
    for (at, prompt) in prompts.iter().enumerate() {
        go_on(watch)?;
        let mut pictures = ground.drawn(prompt)?;
        pictures.push(ground.real(&prompt.scene)?);
        let mut vectors = towers.pictures(&pictures)?;
        let of_real = vectors.pop().unwrap_or_default();
        // Half way round: a prompt of another task.
        let other = &texts[(at + prompts.len() / 2) % prompts.len()];
        drawn.add(vectors.iter().map(|picture| score(picture, &texts[at])));
        real.add([score(&of_real, &texts[at])]);
        control.add(vectors.iter().map(|picture| score(picture, other)));
        watch.step(at + 1, prompts.len());
    }
    let all = [(Of::Drawn, drawn), (Of::Real, real), (Of::Control, control)];
    Ok(all.map(|(of, tally)| tally.figure(Part::Clip, NAME, of, Unit::Number)).into())
}

fn retrieval(ground: &Ground<'_>, towers: &Towers, watch: &mut dyn Watch) -> Result<Vec<Figure>, EvaluateError> {
    let scenes = ground.held_out(SCENES);
    let captions: Vec<&str> = scenes.iter().map(|scene| &scene.caption[..]).collect();
    let texts = towers.texts(&captions)?;
    let mut pictures = Vec::new();
    for some in scenes.chunks(AT_ONCE) {
        go_on(watch)?;
        let real = some.iter().map(|scene| ground.real(scene)).collect::<Result<Vec<_>, _>>()?;
        pictures.extend(towers.pictures(&real)?);
    }
    let mut among = AMONG.map(|among| among.min(scenes.len())).to_vec();
    among.dedup();
    let figure = |among: usize| {
        let found = found(&pictures, &texts, among);
        mean_of(&found, Part::Clip, &format!("right caption among {among}"), Of::Real, Unit::Share)
    };
    Ok(among.into_iter().filter(|among| *among > 1).map(figure).collect())
}
