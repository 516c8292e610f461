//! How large networks may be: a number with a nought too many is told from one that is meant.

use std::num::NonZeroUsize;

use super::impossible;
use crate::recipe::{AutoencoderModel, ClipModel, Model, Objective, Recipe, RecipeError, T5Model, Transformer};

/// Blocks of a transformer: SD3.5-Large has 38.
const BLOCKS_MAX: usize = 256;
/// Width of tokens or of a layer's inside: T5-XXL has 10240.
const WIDTH_MAX: usize = 1 << 16;
/// Channels of a convolution: the released autoencoder has 512.
const CHANNELS_MAX: usize = 1 << 12;
/// Patches on a side of a positional grid: SD3.5-Medium has 384.
const GRID_MAX: usize = 1 << 12;

/// A setting, what it is and what it may be.
type Size = (&'static str, usize, usize);

/// Checks the sizes that a recipe states.
pub(super) fn check(recipe: &Recipe) -> Result<(), RecipeError> {
    let mut sizes = match &recipe.model {
        Model::Mmdit(model) | Model::Dit(model) | Model::CrossDit(model) | Model::Uvit(model) => transformer(model),
        Model::Autoencoder(model) => autoencoder(model),
        Model::Clip(model) => clip(model),
        Model::T5(model) => t5(model),
        Model::Detector(model) => {
            vec![("model.widths", model.widths.iter().max().copied().unwrap_or_default(), CHANNELS_MAX)]
        }
    };
    if let Objective::Autoencoder(objective) = &recipe.objective
        && let Some(critic) = &objective.adversarial
    {
        sizes.push(("objective.adversarial.width", critic.width.get(), CHANNELS_MAX));
    }
    match sizes.into_iter().find(|(_, size, most)| size > most) {
        Some((setting, size, most)) => {
            Err(impossible(setting, format!("is {size}, and at most {most} is possible"), "give less"))
        }
        None => Ok(()),
    }
}

fn or_0(size: Option<NonZeroUsize>) -> usize {
    size.map_or(0, NonZeroUsize::get)
}

fn transformer(model: &Transformer) -> Vec<Size> {
    vec![
        ("model.depth", or_0(model.depth), BLOCKS_MAX),
        ("model.width", or_0(model.width), WIDTH_MAX),
        ("model.grid", or_0(model.grid), GRID_MAX),
    ]
}

fn autoencoder(model: &AutoencoderModel) -> Vec<Size> {
    let widest = model.widths.iter().flatten().max().copied().unwrap_or_default();
    vec![
        ("model.widths", widest, CHANNELS_MAX),
        ("model.latent_channels", or_0(model.latent_channels), CHANNELS_MAX),
        ("model.blocks", or_0(model.blocks), BLOCKS_MAX),
    ]
}

fn clip(model: &ClipModel) -> Vec<Size> {
    vec![
        ("model.width", model.width.get(), WIDTH_MAX),
        ("model.layers", model.layers.get(), BLOCKS_MAX),
        ("model.image.width", model.image.width.get(), WIDTH_MAX),
        ("model.image.layers", model.image.layers.get(), BLOCKS_MAX),
    ]
}

fn t5(model: &T5Model) -> Vec<Size> {
    vec![
        ("model.width", model.width.get(), WIDTH_MAX),
        ("model.layers", model.layers.get(), BLOCKS_MAX),
        ("model.decoder_layers", model.decoder_layers.get(), BLOCKS_MAX),
        ("model.heads", model.heads.get(), WIDTH_MAX),
        ("model.head_width", model.head_width.get(), WIDTH_MAX),
        ("model.mlp", model.mlp.get(), WIDTH_MAX),
    ]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::plan::{Overrides, Plan};
    use crate::recipe::Recipe;

    fn error(objective: &str, model: &str) -> String {
        let text = format!(
            "steps = 1\nbatch = 2\nschedule = {{ learning_rate = 1e-3 }}\n\
             objective = {{ {objective} }}\nmodel = {{ {model} }}\n\
             data = {{ encoders = \"model\", source = {{ path = \"pictures\", side_px = 64 }} }}"
        );
        let recipe = Recipe::parse(&text, Path::new("recipe.toml")).unwrap();
        Plan::resolve(recipe, Overrides::default()).unwrap_err().to_string()
    }

    #[test]
    fn a_network_that_no_machine_holds_is_refused_before_it_is_built() {
        let (flow, pictures) = ("kind = \"flow\"", "kind = \"autoencoder\"");
        let clip = "kind = \"clip\", width = 64, layers = 9000, heads = 2, projection = 64, \
                    image = { width = 64, layers = 1, heads = 2, patch = 8 }";
        for (objective, model, expected) in [
            (flow, "kind = \"mmdit\", depth = 1000000", "`model.depth` is 1000000, and at most 256 is possible"),
            (flow, "kind = \"mmdit\", depth = 2, width = 6400000", "`model.width` is 6400000"),
            (flow, "kind = \"dit\", depth = 2, grid = 100000", "`model.grid` is 100000, and at most 4096"),
            (pictures, "kind = \"autoencoder\", widths = [32, 80000]", "`model.widths` is 80000"),
            (pictures, "kind = \"autoencoder\", latent_channels = 99999", "`model.latent_channels` is 99999"),
            (pictures, "kind = \"autoencoder\", blocks = 999", "`model.blocks` is 999"),
            ("kind = \"clip\"", clip, "`model.layers` is 9000"),
        ] {
            let error = error(objective, model);
            assert!(error.contains(expected) && error.ends_with("\nhint: give less"), "{error}");
        }
    }
}
