//! The recipes that come with the program can be read, and mean something that can be done.

use std::path::{Path, PathBuf};

use rectiflow_train::plan::{Overrides, Plan};
use rectiflow_train::recipe::Recipe;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_recipe_is_read_and_resolved_and_says_how_it_is_used() {
    let entries = std::fs::read_dir(root().join("recipes")).unwrap().map(|entry| entry.unwrap().path());
    let recipes: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "toml")).collect();
    assert!(!recipes.is_empty());
    for path in recipes {
        let plan = Plan::resolve(Recipe::read(&path).unwrap(), Overrides::default()).unwrap();
        // What a run writes down is the same plan.
        let again = Recipe::parse(&plan.to_toml(), Path::new("plan.toml")).unwrap();
        assert_eq!(again, plan.recipe, "{}", path.display());

        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let top: String =
            text.lines().take_while(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        for part in [&format!("train recipes/{name}")[..], "Hardware:", "Time:", "Loss:"] {
            assert!(top.contains(part), "{name}: no {part:?} in\n{top}");
        }
    }
}

/// Names of columns of captions are somebody's own, and the reference names those that the recipes have as examples.
#[test]
fn every_setting_of_every_recipe_is_in_the_reference() {
    let reference = std::fs::read_to_string(root().join("docs/recipes.md")).unwrap();
    let entries = std::fs::read_dir(root().join("recipes")).unwrap().map(|entry| entry.unwrap().path());
    let recipes: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "toml")).collect();
    assert!(!recipes.is_empty());
    for path in recipes {
        for setting in Recipe::read(&path).unwrap().settings().keys() {
            let name = setting.rsplit('.').next().unwrap();
            assert!(reference.contains(&format!("`{name}`")), "{}: `{setting}`", path.display());
        }
    }
}
