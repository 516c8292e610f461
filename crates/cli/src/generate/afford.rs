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
    /// Whatever memory there is.
    pub(crate) ignore_memory: bool,
}

impl From<&GenerateArgs> for Carried {
    fn from(args: &GenerateArgs) -> Carried {
        let (device, precision) = (args.compute.device, args.compute.precision);
        Carried { device, precision, tiny_decoder: args.taesd.is_some(), ignore_memory: args.ignore_memory }
    }
}

impl Carried {
    pub(crate) fn means(self, available: Option<u64>) -> Means {
        Means { precision: self.precision, tiny_decoder: self.tiny_decoder, available }
    }
}

/// Which options a hint may name.
#[derive(Clone, Copy)]
pub(crate) struct Free {
    pub(crate) batch_size: bool,
    pub(crate) vae_tiling: bool,
    pub(crate) precision: bool,
    pub(crate) size: bool,
}

impl Free {
    /// The command has none of them.
    pub(crate) const NONE: Free = Free { batch_size: false, vae_tiling: false, precision: false, size: false };

    /// All that do not go against what the line gives.
    pub(crate) fn of(args: &GenerateArgs) -> Free {
        Free { batch_size: true, vae_tiling: true, precision: true, size: args.latents_in.is_none() }
    }
}

/// Refuses what would not fit in the memory that is free, unless that is to be ignored, and says what would. What other devices have is not known here.
///
/// # Errors
/// It would not fit.
pub(crate) fn check(files: &ModelFiles, plan: &Plan, carried: Carried, free: Free) -> anyhow::Result<()> {
    match memory::available() {
        Some(available) if carried.device == DeviceChoice::Cpu && !carried.ignore_memory => {
            check_in(files, plan, carried, free, available)
        }
        _ => Ok(()),
    }
}

fn check_in(files: &ModelFiles, plan: &Plan, carried: Carried, free: Free, available: u64) -> anyhow::Result<()> {
    let most = |plan: &Plan, precision: Precision| {
        files.needs(plan, Carried { precision, ..carried }.means(Some(available))).most()
    };
    let (needed, doing) = most(plan, carried.precision);
    if needed <= available {
        return Ok(());
    }
    let unit_px = files.facts().unit_px;
    let fitting = others(plan, carried, free, unit_px).into_iter().find_map(|Other { options, plan, precision }| {
        let (needed, _) = most(&plan, precision);
        (needed <= available).then_some((options, needed))
    });
    let hint = match fitting {
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

/// What could be asked instead.
struct Other {
    /// The options that ask for it.
    options: String,
    plan: Plan,
    precision: Precision,
}

/// What changes the picture least first, and nothing more than is needed for it.
fn others(plan: &Plan, carried: Carried, free: Free, unit_px: usize) -> Vec<Other> {
    let batches = if free.batch_size && plan.batch_size > 1 { vec![None, Some(1)] } else { vec![None] };
    let can_tile = free.vae_tiling && !carried.tiny_decoder && plan.tiling != Tiling::On;
    let tilings = if can_tile { vec![None, Some(Tiling::On)] } else { vec![None] };
    // In f32 weights are read from their file in each step: slow, and nothing is kept.
    let precisions = match carried.precision {
        Precision::Bf16 if free.precision => vec![None, Some(Precision::Int8), Some(Precision::F32)],
        Precision::Int8 if free.precision => vec![None, Some(Precision::F32)],
        _ => vec![None],
    };
    let mut sizes = vec![None];
    let (mut width, mut height) = (plan.width, plan.height);
    while free.size && width.min(height) / 2 >= SIDE_PX_MIN {
        (width, height) = ((width / 2).next_multiple_of(unit_px), (height / 2).next_multiple_of(unit_px));
        sizes.push(Some([width, height]));
    }
    let mut all = Vec::new();
    for size in sizes {
        for precision in &precisions {
            for batch in &batches {
                all.extend(tilings.iter().map(|tiling| Other::of(plan, carried, (*batch, *tiling, *precision, size))));
            }
        }
    }
    all
}

impl Other {
    /// The plan with these instead of its own: batch size, tiling, precision, and width and height.
    fn of(
        plan: &Plan,
        carried: Carried,
        (batch, tiling, precision, size): (Option<usize>, Option<Tiling>, Option<Precision>, Option<[usize; 2]>),
    ) -> Other {
        let mut plan = plan.clone();
        let mut options = Vec::new();
        if let Some(batch) = batch {
            plan.batch_size = batch;
            options.push(format!("--batch-size {batch}"));
        }
        if let Some(tiling) = tiling {
            plan.tiling = tiling;
            options.push(format!("--vae-tiling {tiling}"));
        }
        if let Some(precision) = precision {
            options.push(format!("--precision {precision}"));
        }
        if let Some([width, height]) = size {
            let [rows, channels, _, columns] = plan.latent_shape;
            let latent_px = plan.width / columns;
            (plan.width, plan.height) = (width, height);
            plan.latent_shape = [rows, channels, height / latent_px, width / latent_px];
            options.push(format!("--width {width} --height {height}"));
        }
        Other { options: options.join(" "), plan, precision: precision.unwrap_or(carried.precision) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rectiflow_generate::Request;
    use rectiflow_weights::ModelPaths;

    use super::*;

    const CARRIED: Carried =
        Carried { device: DeviceChoice::Cpu, precision: Precision::Bf16, tiny_decoder: false, ignore_memory: false };
    const ALL: Free = Free { batch_size: true, vae_tiling: true, precision: true, size: true };

    fn files() -> ModelFiles {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/sd3/model");
        ModelFiles::open(&ModelPaths { model: Some(model), ..ModelPaths::default() }).unwrap()
    }

    fn plan(pictures: usize) -> Plan {
        let prompts = vec!["a cat".into(); pictures];
        let request = Request { prompts, count: 1, batch_size: Some(pictures), ..Request::default() };
        request.resolve(&files().facts()).unwrap()
    }

    fn refused(pictures: usize, available: u64, free: Free) -> String {
        let checked = check_in(&files(), &plan(pictures), CARRIED, free, available);
        checked.map_or_else(|error| error.to_string(), |()| "it fits".to_owned())
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        assert_eq!(refused(64, 8_000_000_000, ALL), "it fits");
        let text = refused(64, 400_000_000, ALL);
        assert!(text.contains("while it denoises, and 400.0 MB are free"), "{text}");
        assert!(text.contains("hint: `--batch-size 1` takes ") && text.contains("--ignore-memory"), "{text}");
        for (pictures, available, free) in [(64, 400_000_000, Free::NONE), (1, 1_000_000, ALL)] {
            let text = refused(pictures, available, free);
            assert!(text.contains("close other programs") && !text.contains("--batch-size"), "{text}");
        }
    }

    #[test]
    fn what_is_proposed_is_what_may_be_asked_with_the_least_first() {
        let asked = |free: Free| -> Vec<String> {
            let large = Plan { width: 1024, height: 512, latent_shape: [1, 16, 64, 128], ..plan(2) };
            others(&large, CARRIED, free, 16).into_iter().map(|other| other.options).collect()
        };
        let all = asked(ALL);
        assert_eq!(all[..4], ["", "--vae-tiling on", "--batch-size 1", "--batch-size 1 --vae-tiling on"]);
        assert_eq!(all[4], "--precision int8");
        assert_eq!((all.len(), &all[12][..]), (24, "--width 512 --height 256"));
        assert_eq!(asked(Free::NONE), [""]);
        assert!(asked(Free { size: false, ..ALL }).iter().all(|options| !options.contains("--width")));
    }
}
