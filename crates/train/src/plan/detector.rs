//! What must fit in recipes of detectors.

use rectiflow_dataset::{Crop, Kind};
use rectiflow_vision::detector::{GROUPS, LEVELS};

use super::impossible;
use crate::recipe::{Model, Recipe, RecipeError};

/// Checks a detector and its scenes; other recipes are not looked at.
pub(super) fn check(recipe: &Recipe) -> Result<(), RecipeError> {
    let Model::Detector(model) = &recipe.model else { return Ok(()) };
    let widths = &model.widths;
    if model.widths().is_none() {
        let why = format!("is {widths:?}, and there are {LEVELS} levels");
        return Err(impossible("model.widths", why, "give the channels of each level, the largest one first"));
    }
    if let Some(width) = widths.iter().find(|width| **width == 0 || !width.is_multiple_of(GROUPS)) {
        let why = format!("has {width}, which is no multiple of {GROUPS}");
        return Err(impossible("model.widths", why, format!("give multiples of {GROUPS}, from {GROUPS} on")));
    }
    let source = &recipe.data.source;
    if source.kind != Some(Kind::Sprites) {
        let why = "is not \"sprites\", and of other pictures it is not known what is where in them";
        return Err(impossible("data.source.kind", why, "set it to \"sprites\", with a `count` of scenes"));
    }
    if source.crop != Crop::Centre {
        let hint = "leave it out: scenes are drawn at the size that they are trained at";
        return Err(impossible("data.source.crop", "is for pictures that are cut", hint));
    }
    if recipe.data.encoders.is_some() {
        let hint = "leave it out: a detector is a model of its own";
        return Err(impossible("data.encoders", "is for parts of a model that draws", hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::plan::{Overrides, Plan};
    use crate::recipe::Recipe;

    const DETECTOR: &str = r#"
        steps = 100
        batch = 8
        objective = { kind = "detector" }
        model = { kind = "detector", widths = [8, 8, 16, 16, 16] }
        data = { source = { path = "assets/sprites", kind = "sprites", count = 100, side_px = 64 } }
        schedule = { learning_rate = 1e-3 }
    "#;

    #[test]
    fn sizes_and_data_that_no_detector_is_trained_with_are_refused_before_anything_is_read() {
        let plan = |text: &str| {
            let recipe = Recipe::parse(text, Path::new("recipe.toml")).map_err(|error| error.to_string())?;
            Plan::resolve(recipe, Overrides::default()).map_err(|error| error.to_string())
        };
        plan(DETECTOR).unwrap();
        plan(&DETECTOR.replace(", widths = [8, 8, 16, 16, 16]", "")).unwrap();
        for (from, to, expected) in [
            ("16, 16]", "16]", "`model.widths` is [8, 8, 16, 16], and there are 5 levels"),
            ("[8, 8", "[8, 12", "`model.widths` has 12, which is no multiple of 8"),
            ("[8, 8", "[8, 0", "`model.widths` has 0"),
            ("16, 16]", "16, 8000]", "`model.widths` is 8000, and at most"),
            ("kind = \"sprites\", count = 100", "kind = \"folder\"", "`data.source.kind` is not \"sprites\""),
            ("kind = \"sprites\", count = 100, ", "", "`data.source.kind` is not \"sprites\""),
            ("side_px = 64", "side_px = 64, crop = \"buckets\"", "`data.source.crop` is for pictures"),
            ("data = {", "data = { encoders = \"model\",", "`data.encoders` is for parts"),
            (", side_px = 64", "", "`data.source.side_px` is missing"),
            ("kind = \"detector\", w", "kind = \"clip\", w", "`widths` is not a setting here"),
            ("objective = { kind = \"detector\"", "objective = { kind = \"clip\"", "give clip"),
            ("batch = 8", "batch = 8\nsamples = { every = 5 }", "`samples.every` is 5"),
        ] {
            let changed = DETECTOR.replace(from, to);
            assert_ne!(changed, DETECTOR, "{from}");
            let error = plan(&changed).unwrap_err();
            assert!(error.contains(expected) && error.contains("\nhint: "), "{error}");
        }
    }
}
