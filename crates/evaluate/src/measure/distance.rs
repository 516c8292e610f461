//! How far drawn pictures are, as a set, from the real scenes of the same prompts.
//!
//! Features: the 320 channels of EfficientNet-Lite0's deepest map, the mean over all places. They are not those of the
//! FID and KID of papers, whose numbers cannot be compared with these.

use rectiflow_generate::Image;
use rectiflow_nn::Precision;
use rectiflow_vision::{EfficientNetLite0, SIDE_PX_MIN};

use super::{AT_ONCE, Ground};
use crate::EvaluateError;
use crate::metrics::{Gaussian, Kid, frechet, frechet_interval, kid};
use crate::prompts::Prompt;
use crate::results::{Figure, Of, Part, Unit};
use crate::towers::finite_rows;
use crate::watch::{Watch, go_on};

pub(crate) fn measure(ground: &Ground<'_>, watch: &mut dyn Watch) -> Result<Vec<Figure>, EvaluateError> {
    if ground.side_px < SIDE_PX_MIN {
        return Err(EvaluateError::Impossible {
            part: Part::Distance.name(),
            why: format!("pictures of {} px are too small for EfficientNet-Lite0", ground.side_px),
            hint: format!("give `--size` {SIDE_PX_MIN} or more, or leave the part out with `--parts`"),
        });
    }
    let network = EfficientNetLite0::pretrained(ground.device, Precision::F32);
    let prompts: Vec<&Prompt> = ground.prompts.all.iter().filter(|prompt| !prompt.task.is_spelling()).collect();
    let (mut drawn, mut real, mut places) = (Vec::new(), Vec::new(), Vec::new());
    // Features of a few prompts at a time: pictures are not kept.
    let at_once = AT_ONCE.div_ceil(ground.seeds + 1);
    for some in prompts.chunks(at_once) {
        go_on(watch)?;
        let mut pictures: Vec<Image> = Vec::new();
        for prompt in some {
            let from = drawn.len() + pictures.len();
            pictures.extend(ground.drawn(prompt)?);
            places.push([(from..drawn.len() + pictures.len()).collect(), vec![places.len()]]);
        }
        let scenes = some.iter().map(|prompt| ground.real(&prompt.scene)).collect::<Result<Vec<_>, _>>()?;
        let count = pictures.len();
        pictures.extend(scenes);
        let mut all = features(&network, ground, &pictures)?;
        real.extend(all.split_off(count));
        drawn.extend(all);
        watch.step(places.len(), prompts.len());
    }
    let (n, pictures) = (prompts.len(), drawn.len());
    let figure = |name: &str, value: f64, interval: [f64; 2], deviation: Option<f64>| Figure {
        part: Part::Distance,
        name: name.to_owned(),
        of: Of::Drawn,
        unit: Unit::Number,
        value,
        interval,
        n,
        pictures,
        deviation,
    };
    let mut figures = Vec::new();
    let Kid { mean, deviation, interval } = kid(&drawn, &real, &places);
    if mean.is_finite() {
        figures.push(figure("kernel distance", mean, interval, Some(deviation)));
    }
    let of = |rows: &[Vec<f32>]| Gaussian::of(rows.iter().map(|row| (&row[..], 1)));
    if let (Some(a), Some(b)) = (of(&drawn), of(&real)) {
        let value = frechet(&a, &b);
        figures.push(figure("Frechet distance", value, frechet_interval(value, &drawn, &real, &places), None));
    }
    Ok(figures)
}

fn features(
    network: &EfficientNetLite0,
    ground: &Ground<'_>,
    pictures: &[Image],
) -> Result<Vec<Vec<f32>>, EvaluateError> {
    let deepest = network.features(ground.tensor(pictures)).pop().expect("a network has maps");
    finite_rows(&deepest.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2), "a feature of a picture")
}
