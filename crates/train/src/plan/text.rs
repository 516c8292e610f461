//! What must fit in recipes of text encoders.

use rectiflow_dataset::Crop;
use rectiflow_text::T5_LENGTHS;

use super::impossible;
use crate::recipe::{ClipModel, Model, Recipe, RecipeError};

/// Checks the sizes of a new text encoder; other recipes are not looked at.
pub(super) fn check(recipe: &Recipe) -> Result<(), RecipeError> {
    match &recipe.model {
        Model::Clip(model) => check_clip(model, recipe),
        Model::T5(model) if !T5_LENGTHS.contains(&model.tokens.get()) => {
            let (start, end) = (T5_LENGTHS.start(), T5_LENGTHS.end());
            let why = format!("is {}, and pictures are drawn with {start} to {end}", model.tokens);
            Err(impossible(
                "model.tokens",
                why,
                "give the number that pictures will be drawn with; usual are 77 and 256",
            ))
        }
        _ => Ok(()),
    }
}

fn check_clip(model: &ClipModel, recipe: &Recipe) -> Result<(), RecipeError> {
    let image = &model.image;
    for (setting, width, heads) in
        [("model.heads", model.width, model.heads), ("model.image.heads", image.width, image.heads)]
    {
        if !width.get().is_multiple_of(heads.get()) {
            let why = format!("is {heads}, which does not divide the width of {width}");
            return Err(impossible(setting, why, "give a divisor of the width"));
        }
    }
    if model.projection != model.width {
        let why = format!("is {}, and the width is {}", model.projection, model.width);
        let hint = "give the width: transformers take a pooled text that is as wide as CLIP's tokens";
        return Err(impossible("model.projection", why, hint));
    }
    let source = &recipe.data.source;
    if source.crop != Crop::Centre {
        let hint = "leave it out, or give \"centre\"";
        return Err(impossible("data.source.crop", "is of several sizes, and an image tower sees one", hint));
    }
    if !(source.side_px as usize).is_multiple_of(image.patch.get()) {
        let why = format!("is {}, which does not divide the pictures' side of {} px", image.patch, source.side_px);
        return Err(impossible("model.image.patch", why, "give a divisor of data.source.side_px"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::plan::{Overrides, Plan};
    use crate::recipe::Recipe;

    const CLIP: &str = r#"
        steps = 100
        batch = 8
        objective = { kind = "clip" }
        model = { kind = "clip", width = 32, layers = 2, heads = 2, projection = 32, image = { width = 32, layers = 2, heads = 2, patch = 8 } }
        data = { source = { path = "pictures", side_px = 64 } }
        schedule = { learning_rate = 1e-3 }
    "#;
    const T5: &str = r#"
        steps = 100
        batch = 8
        objective = { kind = "span-corruption" }
        model = { kind = "t5", width = 32, layers = 2, decoder_layers = 2, heads = 2, head_width = 16, mlp = 64, tokens = 77 }
        data = { source = { path = "texts.txt", kind = "texts" } }
        schedule = { learning_rate = 1e-3 }
    "#;

    fn plan(text: &str) -> Result<Plan, String> {
        let recipe = Recipe::parse(text, Path::new("recipe.toml")).map_err(|error| error.to_string())?;
        Plan::resolve(recipe, Overrides::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused_before_anything_is_read() {
        plan(CLIP).unwrap();
        plan(T5).unwrap();
        for (text, from, to, expected) in [
            (CLIP, "heads = 2, projection", "heads = 3, projection", "`model.heads` is 3, which does not divide"),
            (CLIP, "heads = 2, patch", "heads = 5, patch", "`model.image.heads` is 5, which does not divide"),
            (CLIP, "patch = 8", "patch = 12", "`model.image.patch` is 12, which does not divide"),
            (CLIP, "side_px = 64", "side_px = 64, crop = \"buckets\"", "`data.source.crop` is of several sizes"),
            (CLIP, ", side_px = 64", "", "`data.source.side_px` is missing"),
            (CLIP, "side_px = 64", "side_px = 64, kind = \"texts\"", "`data.source.kind` is \"texts\""),
            (T5, "tokens = 77", "tokens = 7", "`model.tokens` is 7,"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text, "{from}");
            let error = plan(&changed).unwrap_err();
            assert!(error.contains(expected) && error.contains("\nhint: "), "{error}");
        }
    }
}
