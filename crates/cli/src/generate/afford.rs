//! Whether the memory that is free will do: asked before weights are read, since a system that runs out of it ends the
//! process without a word.

use anyhow::bail;
use rectiflow_generate::{Means, ModelFiles, Plan, Tiling};
use rectiflow_nn::{DeviceChoice, Precision};

use super::GenerateArgs;
use crate::memory::{self, human};

/// The smallest side that is still proposed.
const SIDE_PX_MIN: usize = 256;

/// How a plan is carried out, by the options of the line.
#[derive(Clone, Copy)]
pub(crate) struct Carried {
    pub(crate) device: DeviceChoice,
    pub(crate) precision: Precision,
    pub(crate) tiny_decoder: bool,
}

impl From<&GenerateArgs> for Carried {
    fn from(args: &GenerateArgs) -> Carried {
        let (device, precision) = (args.compute.device, args.compute.precision);
        Carried { device, precision, tiny_decoder: args.taesd.is_some() }
    }
}

impl Carried {
    pub(crate) fn means(self, available: Option<u64>) -> Means {
        Means { precision: self.precision, tiny_decoder: self.tiny_decoder, available }
    }
}

/// Refuses what would not fit in the memory that is free, and says what would. What other devices have is not known here.
///
/// # Errors
/// It would not fit.
pub(crate) fn check(files: &ModelFiles, plan: &Plan, carried: Carried) -> anyhow::Result<()> {
    match memory::available() {
        Some(available) if carried.device == DeviceChoice::Cpu => check_in(files, plan, carried, available),
        _ => Ok(()),
    }
}

fn check_in(files: &ModelFiles, plan: &Plan, carried: Carried, available: u64) -> anyhow::Result<()> {
    let (needed, doing) = files.needs(plan, carried.means(Some(available))).most();
    if needed <= available {
        return Ok(());
    }
    let fits = |(plan, precision): &(Plan, Precision)| {
        let means = Carried { precision: *precision, ..carried }.means(Some(available));
        Some(files.needs(plan, means).most().0).filter(|needed| *needed <= available)
    };
    let found = others(plan, carried).into_iter().find_map(|(options, other)| Some((options, fits(&other)?)));
    let hint = match found {
        Some((options, needed)) => format!("`{options}` takes {}", human(needed)),
        None => "close other programs, or give a smaller model, such as one in GGUF with few bits".to_owned(),
    };
    bail!(
        "this takes {} of memory while it {doing}, and {} are free\n\
         hint: {hint}; `--ignore-memory` starts it all the same",
        human(needed),
        human(available)
    )
}

/// What could be asked instead, what changes the picture least first, by the options that ask for it.
fn others(plan: &Plan, carried: Carried) -> Vec<(String, (Plan, Precision))> {
    let mut all = Vec::new();
    let mut options = Vec::new();
    let mut plan = plan.clone();
    if plan.batch_size > 1 {
        plan.batch_size = 1;
        options.push("--batch-size 1".to_owned());
        all.push((options.join(" "), (plan.clone(), carried.precision)));
    }
    if !carried.tiny_decoder && plan.tiling != Tiling::On {
        plan.tiling = Tiling::On;
        options.push("--vae-tiling on".to_owned());
        all.push((options.join(" "), (plan.clone(), carried.precision)));
    }
    // In f32 weights are read from their file in each step: slow, and nothing is kept.
    let precisions = match carried.precision {
        Precision::Bf16 => &[Precision::Int8, Precision::F32][..],
        Precision::Int8 => &[Precision::F32],
        Precision::F32 => &[],
    };
    let in_precision = |options: &[String], precision: &Precision| {
        options.iter().cloned().chain([format!("--precision {precision}")]).collect::<Vec<_>>().join(" ")
    };
    for precision in precisions {
        all.push((in_precision(&options, precision), (plan.clone(), *precision)));
    }
    let unit = plan.width / plan.latent_shape[3].max(1) * 2;
    while plan.width.min(plan.height) / 2 >= SIDE_PX_MIN {
        let px = plan.width / plan.latent_shape[3];
        let half = |side: usize| (side / 2).next_multiple_of(unit);
        (plan.width, plan.height) = (half(plan.width), half(plan.height));
        plan.latent_shape = [1, plan.latent_shape[1], plan.height / px, plan.width / px];
        let sized = [options.clone(), vec![format!("--width {} --height {}", plan.width, plan.height)]].concat();
        all.push((sized.join(" "), (plan.clone(), carried.precision)));
        for precision in precisions {
            all.push((in_precision(&sized, precision), (plan.clone(), *precision)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rectiflow_generate::Request;
    use rectiflow_weights::ModelPaths;

    use super::*;

    fn refused(available: u64, carried: Carried) -> String {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/sd3/model");
        let files = ModelFiles::open(&ModelPaths { model: Some(model), ..ModelPaths::default() }).unwrap();
        let request =
            Request { prompts: vec!["a cat".into(); 64], count: 1, batch_size: Some(64), ..Request::default() };
        let plan = request.resolve(&files.facts()).unwrap();
        check_in(&files, &plan, carried, available).map_or_else(|error| error.to_string(), |()| "it fits".to_owned())
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let carried = Carried { device: DeviceChoice::Cpu, precision: Precision::F32, tiny_decoder: false };
        assert_eq!(refused(8_000_000_000, carried), "it fits");
        let text = refused(300_000_000, carried);
        assert!(text.contains("while it denoises, and 300.0 MB are free"), "{text}");
        assert!(text.contains("hint: `--batch-size 1` takes ") && text.contains("--ignore-memory"), "{text}");
        let text = refused(1_000_000, carried);
        assert!(text.contains("close other programs"), "{text}");
    }
}
