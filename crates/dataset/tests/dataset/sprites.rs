use std::path::Path;

use rectiflow_dataset::sprites::{Layout, Scenes, Settings, Split};
use rectiflow_dataset::{DatasetError, Size};

use crate::support::{ART, dataset};

#[test]
fn scenes_are_drawn_when_they_are_asked_for_and_are_those_that_are_written_to_disk() {
    let (dataset, findings) = dataset(Path::new(ART), "kind = \"sprites\"\ncount = 7").unwrap();
    assert_eq!((findings.kept, findings.left_out.len(), findings.changes.len()), (7, 0, 0));
    let scenes =
        Scenes::open(ART, Settings { seed: 0, split: Split::Train, letters_max: 5, layout: Layout::Free }).unwrap();
    for one in dataset.kept() {
        assert_eq!(one.size, Size::new(32, 32));
        let scene = scenes.scene(one.sample);
        let expected = scenes.draw(&scene, 32).unwrap();
        assert!(dataset.picture(*one).unwrap().picture == expected);
        assert_eq!(dataset.caption(0, 0, one.sample).unwrap(), scene.caption);
    }
    assert_eq!(dataset.id(3), "scene 3");

    // A program that reads files gets the same picture as one.
    let source =
        rectiflow_dataset::Sprites::open(Path::new(ART), scenes.settings(), 32, 7.try_into().unwrap()).unwrap();
    let bytes = rectiflow_dataset::Source::picture(&source, 3).unwrap();
    assert!(image::load_from_memory(&bytes).unwrap().into_rgb8() == scenes.draw(&scenes.scene(3), 32).unwrap());
}

#[test]
fn a_seed_and_a_split_choose_other_scenes_and_their_names_say_so() {
    let (others, _) = dataset(Path::new(ART), "kind = \"sprites\"\ncount = 7\nseed = 5\nsplit = \"held-out\"").unwrap();
    let scenes =
        Scenes::open(ART, Settings { seed: 5, split: Split::HeldOut, letters_max: 5, layout: Layout::Free }).unwrap();
    assert_eq!(others.caption(0, 0, 3).unwrap(), scenes.scene(3).caption);
    assert_eq!(others.id(3), "scene 3 of seed 5, held out");
    let (first, _) = dataset(Path::new(ART), "kind = \"sprites\"\ncount = 7").unwrap();
    assert_ne!(first.digest(), others.digest());
}

#[test]
fn scenes_that_cannot_be_drawn_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path, more: &str| dataset(path, more).map(drop).unwrap_err();
    let art = Path::new(ART);
    assert!(matches!(error(folder.path(), "kind = \"sprites\"\ncount = 7"), DatasetError::Sprites(_)));
    let without = ["count = 7", "seed = 0", "split = \"all\""];
    for more in ["kind = \"sprites\"", "kind = \"sprites\"\ncount = 7\nflip = true"].into_iter().chain(without) {
        assert!(matches!(error(art, more), DatasetError::Settings { .. }), "{more}");
    }
    let settings = Settings { seed: 0, split: Split::Train, letters_max: 5, layout: Layout::Free };
    assert!(rectiflow_dataset::Sprites::open(art, settings, 8_192, 7.try_into().unwrap()).is_err());
    let error = rectiflow_dataset::open(art, Some(rectiflow_dataset::Kind::Sprites), None).map(drop).unwrap_err();
    assert!(error.to_string().contains("scenes are drawn, and lie in no file"), "{error}");
}
