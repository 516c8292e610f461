//! On the repository's art: what a caption says is so in the record, and what the record says is so in the picture.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use image::{Rgb, RgbImage};

use super::colour::Look;
use super::*;

fn art() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/sprites")
}

fn open(seed: u64, split: Split) -> Scenes {
    Scenes::open(art(), Settings { seed, split, letters_max: 8, layout: Layout::Free }).unwrap()
}

static TRAIN: LazyLock<Scenes> = LazyLock::new(|| open(1, Split::Train));
static GRID: LazyLock<Scenes> = LazyLock::new(|| {
    let settings = Settings { seed: 1, split: Split::Train, letters_max: 8, layout: Layout::Grid };
    Scenes::open(art(), settings).unwrap()
});
static HELD_OUT: LazyLock<Scenes> = LazyLock::new(|| open(2, Split::HeldOut));

/// Enough for each concept to come.
static MANY: LazyLock<Vec<Scene>> = LazyLock::new(|| (0..12_000).map(|number| TRAIN.scene(number)).collect());

/// The kinds of things in a scene, in order, each with its things.
fn groups(scene: &Scene) -> Vec<Vec<&Object>> {
    let mut groups: Vec<Vec<&Object>> = Vec::new();
    for object in &scene.objects {
        match groups.last_mut().filter(|group| group[0].concept == object.concept) {
            Some(group) => group.push(object),
            None => groups.push(vec![object]),
        }
    }
    groups
}

fn bounds(group: &[&Object]) -> [f32; 4] {
    let least = |of: &dyn Fn(&Area) -> f32| group.iter().map(|object| of(&object.area)).fold(f32::MAX, f32::min);
    let most = |of: &dyn Fn(&Area) -> f32| group.iter().map(|object| of(&object.area)).fold(f32::MIN, f32::max);
    [least(&|a| a.left), least(&|a| a.top), most(&|a| a.right()), most(&|a| a.bottom())]
}

/// Where the first rectangle is, seen from the second: only what is clear.
fn is_at(place: Place, one: [f32; 4], other: [f32; 4]) -> bool {
    const MARGIN: f32 = 0.05;
    let [left, top, right, bottom] = one;
    let centre = |b: [f32; 4]| [(b[0] + b[2]) / 2.0, (b[1] + b[3]) / 2.0];
    let [dx, dy] = [0, 1].map(|i| centre(other)[i] - centre(one)[i]);
    match place {
        Place::LeftOf => right + MARGIN <= other[0] && dx > 1.5 * dy.abs(),
        Place::RightOf => left >= other[2] + MARGIN && -dx > 1.5 * dy.abs(),
        Place::Above => bottom + MARGIN <= other[1] && dy > 1.5 * dx.abs(),
        Place::Below => top >= other[3] + MARGIN && -dy > 1.5 * dx.abs(),
    }
}

/// Where in the caption a group is named and with which words before the name: `["two", "blue"]`.
fn named<'a>(scenes: &Scenes, caption: &'a str, group: &[&Object]) -> (usize, Vec<&'a str>) {
    let concept = scenes.concepts.iter().find(|concept| concept.name == group[0].concept).unwrap();
    let names = concept.words.iter().map(|word| match group.len() {
        1 => word.one.split_once(' ').unwrap().1,
        _ => &word.many[..],
    });
    // The longest: "black cat", not "cat".
    let is_whole = |at: usize, name: &str| {
        let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
        edge(caption[..at].chars().next_back()) && edge(caption[at + name.len()..].chars().next())
    };
    let found = names
        .flat_map(|name| caption.match_indices(name).filter(|(at, name)| is_whole(*at, name)))
        .max_by_key(|(at, name)| (name.len(), std::cmp::Reverse(*at)));
    let (at, _) = found.unwrap_or_else(|| panic!("{caption:?} does not name {:?}", group[0].concept));
    let mut before: Vec<&str> = caption[..at].split_whitespace().rev().take(4).collect();
    before.reverse();
    (at, before)
}

#[track_caller]
fn check_caption(scenes: &Scenes, scene: &Scene) {
    // Some begin with a capital letter.
    let (first, rest) = scene.caption.split_at(1);
    let caption = &(first.to_lowercase() + rest);
    let groups = groups(scene);
    let mut at = Vec::new();
    for group in &groups {
        let (place, before) = named(scenes, caption, group);
        at.push(place);
        let colour = group[0].colour;
        let said = colour.filter(|colour| before.last() == Some(&colour.name()));
        assert!(said.is_some() || !group[0].recoloured, "the new colour is not said: {caption:?}");
        let count = before[..before.len() - usize::from(said.is_some())].last().copied().unwrap();
        let counts: &[&str] = match group.len() {
            1 => &["a", "an", "one", "single"],
            2 => &["two", "2", "of"],
            3 => &["three", "3"],
            _ => &["four", "4"],
        };
        assert!(counts.contains(&count), "{} things: {caption:?}", group.len());
        if count == "of" {
            assert!(before.join(" ").contains("pair of"), "{caption:?}");
        }
    }
    if let ([one, other], Some(relation)) = (&groups[..], scene.relation) {
        assert!(is_at(relation, bounds(one), bounds(other)), "{caption:?} {:?}", scene.objects);
        check_relation(caption, [bounds(one), bounds(other)], [at[0], at[1]]);
    }
    match &scene.lettering {
        None => assert!(!caption.contains('"'), "{caption:?}"),
        Some(lettering) => {
            let quote = caption.find(&format!("\"{}\"", lettering.word)).expect(caption);
            assert_eq!(caption.matches('"').count(), 2);
            let colour = caption[quote..].split_once(" letters").map(|(said, _)| said);
            assert!(colour.is_none_or(|said| said.contains(lettering.colour.name())), "{caption:?}");
            let area = lettering.area;
            if let Some(group) = groups.first() {
                let word = [area.left, area.top, area.right(), area.bottom()];
                let (above, below) = (word[3] <= bounds(group)[1], word[1] >= bounds(group)[3]);
                assert!(above != below, "{caption:?}");
                assert_eq!(lettering.place, Some(if above { Place::Above } else { Place::Below }));
                // Read from the word's side: "the word above a cat", "a cat below the word", "a cat and, above it, ...".
                // A gradient has an above and a below of its own.
                let subject = caption.split(" on a ").next().unwrap();
                let says = |said: &&str| {
                    [format!(" {said} "), format!(" {said} it")].iter().any(|said| subject.contains(said))
                };
                let said = ["above", "below"].into_iter().find(says).expect(caption);
                let from_word = quote < at[0] || subject.contains(" it");
                assert_eq!((said == "above") == from_word, above, "{caption:?}");
            }
        }
    }
    let [top, bottom] = scene.background.colours().map(Colour::name);
    if let Some((said, _)) = caption.split_once(" background").filter(|(said, _)| !said.ends_with("gradient")) {
        assert!(said.ends_with(top) || said.ends_with(" a"), "{caption:?}");
    }
    if caption.contains("gradient") {
        let tail = &caption[caption.find("gradient").unwrap()..];
        assert!(tail.find(top) < tail.rfind(bottom) && tail.contains(top), "{caption:?}");
    }
}

/// The caption's own words against the rectangles.
#[track_caller]
fn check_relation(caption: &str, bounds: [[f32; 4]; 2], at: [usize; 2]) {
    // As they come in the caption.
    let (one, other) = if at[0] < at[1] { (bounds[0], bounds[1]) } else { (bounds[1], bounds[0]) };
    let between = &caption[at[0].min(at[1])..at[0].max(at[1])];
    let words = [
        (" on the left and", Place::LeftOf),
        (" on the right and", Place::RightOf),
        (" left of", Place::LeftOf),
        (" to the left of", Place::LeftOf),
        (" right of", Place::RightOf),
        (" to the right of", Place::RightOf),
        (" at the top and", Place::Above),
        (" at the bottom and", Place::Below),
        (" above", Place::Above),
        (" below", Place::Below),
        (" underneath", Place::Below),
    ];
    let said: BTreeSet<String> =
        words.iter().filter(|(words, _)| between.contains(words)).map(|(_, place)| format!("{place:?}")).collect();
    // Not every caption says how they lie.
    if said.is_empty() && between.contains(" and ") {
        return;
    }
    assert_eq!(said.len(), 1, "{caption:?}");
    let place = words.iter().find(|(words, _)| between.contains(words)).unwrap().1;
    assert!(is_at(place, one, other), "{caption:?}");
}

#[test]
fn captions_say_what_is_in_the_record() {
    let mut kinds = BTreeMap::<String, u32>::new();
    for scenes in [&*TRAIN, &*HELD_OUT, &*GRID] {
        let capitals = (0..1000).filter(|number| scenes.scene(*number).caption.starts_with(char::is_uppercase)).count();
        assert!((70..130).contains(&capitals), "{capitals} of 1000 begin with a capital letter");
        for number in 0..3000 {
            let scene = scenes.scene(number);
            check_caption(scenes, &scene);
            let sizes: Vec<usize> = groups(&scene).iter().map(|group| group.len()).collect();
            *kinds.entry(format!("{sizes:?} {}", scene.lettering.is_some())).or_default() += 1;
        }
    }
    // 1; 2, 3, 4; 1 + 1; 1 + n and n + 1; word; 1 + word.
    assert_eq!(kinds.len(), 1 + 3 + 1 + 6 + 1 + 1, "{kinds:?}");
}

fn differs(a: &RgbImage, b: &RgbImage, x: u32, y: u32) -> bool {
    (0..3).any(|i| a.get_pixel(x, y)[i].abs_diff(b.get_pixel(x, y)[i]) > 12)
}

#[test]
fn pictures_show_each_thing_in_its_place_and_nothing_elsewhere() {
    let scenes = (0..240).flat_map(|number| [TRAIN.scene(number), GRID.scene(number)]);
    for (scene, side) in scenes.zip([64, 64, 128, 128, 40, 40, 200, 200].into_iter().cycle()) {
        let picture = TRAIN.draw(&scene, side).unwrap();
        let empty = Scene { objects: vec![], lettering: None, ..scene.clone() };
        let ground = TRAIN.draw(&empty, side).unwrap();
        let areas = scene.objects.iter().map(|object| object.area).chain(scene.lettering.iter().map(|word| word.area));
        let boxes: Vec<[u32; 4]> = areas.map(|area| draw::pixels(area, side)).collect();
        let inside =
            |[left, top, right, bottom]: [u32; 4], x, y| (left..right).contains(&x) && (top..bottom).contains(&y);
        for (x, y, pixel) in picture.enumerate_pixels() {
            let is_covered = boxes.iter().any(|one| inside(*one, x, y));
            assert!(is_covered || pixel == ground.get_pixel(x, y), "{x},{y} of {scene:?}");
        }
        for (at, one) in boxes.iter().enumerate() {
            let [left, top, right, bottom] = *one;
            assert!(right <= side && bottom <= side);
            let is_apart =
                |other: &[u32; 4]| right <= other[0] || other[2] <= left || bottom <= other[1] || other[3] <= top;
            assert!(boxes[at + 1..].iter().all(is_apart), "things touch: {scene:?}");
            let seen = (left..right).flat_map(|x| (top..bottom).map(move |y| (x, y)));
            let seen: Vec<(u32, u32)> = seen.filter(|(x, y)| differs(&picture, &ground, *x, *y)).collect();
            // A line, a key or a bow covers little of its rectangle.
            let share = seen.len() as f32 / ((right - left) * (bottom - top)) as f32;
            assert!(share > 0.08, "{share} of thing {at} is seen: {scene:?}");
        }
    }
}

#[test]
fn on_a_grid_things_are_one_pattern_and_letters_have_squares_of_their_own() {
    let side = grid::SQUARES as f32;
    let (mut same, mut small) = (0, 0);
    for number in 0..1000 {
        let scene = GRID.scene(number);
        let is_mixed = groups(&scene).len() > 1;
        for group in groups(&scene) {
            let size = if is_mixed && group.len() > 2 { grid::SMALL } else { grid::LARGE };
            small += usize::from(size == grid::SMALL);
            for Area { left, top, width, height } in group.iter().map(|object| object.area) {
                let found = width.max(height) * side / grid::FILLED;
                assert!((found - size as f32).abs() < 1e-3, "{found}: {scene:?}");
                // The place around its middle begins with a patch.
                for middle in [left + width / 2.0, top + height / 2.0] {
                    let corner = (middle * side - size as f32 / 2.0) / grid::STEP as f32;
                    assert!((corner - corner.round()).abs() < 1e-3, "{corner}: {scene:?}");
                }
            }
        }
        if let Some(Lettering { word, area, cells: Some(cells), .. }) = &scene.lettering {
            for edge in [cells.left, cells.line, cells.side] {
                assert_eq!(edge * side, (edge * side).round(), "{scene:?}");
            }
            let end = cells.left + word.len() as f32 * cells.side;
            assert!(end <= 1.0 && area.left >= cells.left && area.right() <= end, "{scene:?}");
            assert!(area.top >= 0.0 && area.bottom() <= 1.0 && area.height > 0.7 * cells.capital, "{scene:?}");
        } else {
            assert!(scene.lettering.is_none());
        }
        // Only places and sizes differ from the free scene, if that had a place on the grid.
        let free = TRAIN.scene(number);
        same += usize::from(free.caption == scene.caption && free.background == scene.background);
    }
    assert!(same > 950, "{same}");
    assert!((1..200).contains(&small), "{small}");
}

#[test]
fn free_scenes_and_their_settings_are_written_as_before_there_was_a_grid() {
    let written = |scenes: &Scenes| serde_json::to_string(&scenes.settings()).unwrap();
    assert_eq!(written(&TRAIN), r#"{"seed":1,"split":"train","letters_max":8}"#);
    assert_eq!(written(&GRID), r#"{"seed":1,"split":"train","letters_max":8,"layout":"grid"}"#);
    let scene = (0..).map(|number| TRAIN.scene(number)).find(|scene| scene.lettering.is_some()).unwrap();
    assert!(!serde_json::to_string(&scene).unwrap().contains("cells"));
    assert_ne!(TRAIN.id(3), GRID.id(3));
}

#[test]
fn things_in_another_colour_have_its_hue() {
    let mut seen = BTreeSet::new();
    for number in 0..1500 {
        let scene = TRAIN.scene(number);
        let Some(object) = scene.objects.first().filter(|object| object.recoloured) else { continue };
        let colour = object.colour.unwrap();
        // Alone and large on white, so that what is not white is the thing.
        let area = Area { left: 0.0, top: 0.0, width: 1.0, height: 1.0 };
        let background = Background::Plain { colour: Colour::White };
        let objects = vec![Object { area, ..object.clone() }];
        let picture = TRAIN.draw(&Scene { objects, background, lettering: None, ..scene.clone() }, 128).unwrap();
        let is_thing = |pixel: &&Rgb<u8>| pixel.0.iter().any(|byte| *byte < 225);
        let thing: Vec<[f32; 3]> =
            picture.pixels().filter(is_thing).map(|pixel| pixel.0.map(|byte| f32::from(byte) / 255.0)).collect();
        let hues: Vec<[f32; 3]> = thing.iter().map(|rgb| colour::to_hsv(*rgb)).filter(|hsv| hsv[1] > 0.3).collect();
        let mean = |of: fn(f32) -> f32| hues.iter().map(|hsv| of(hsv[0].to_radians())).sum::<f32>();
        let hue = mean(f32::sin).atan2(mean(f32::cos)).to_degrees();
        let (_, target) = Colour::targets().find(|target| target.0 == colour).unwrap();
        assert!(colour::turned(hue, target).abs() < 9.0, "{hue} for {colour:?}: {object:?}");
        assert!(hues.len() * 2 > thing.len(), "{object:?}");
        seen.insert(colour);
    }
    assert_eq!(seen.len(), Colour::targets().count(), "{seen:?}");
}

#[test]
fn a_look_needs_one_hue_on_most_of_a_thing() {
    let (red, blue, white) = ([0.9, 0.1, 0.1], [0.1, 0.1, 0.9], [1.0, 1.0, 1.0]);
    let look = |parts: &[([f32; 3], usize)]| {
        let pixels: Vec<[f32; 3]> = parts.iter().flat_map(|(rgb, count)| vec![*rgb; *count]).collect();
        art::look(&pixels)
    };
    let Some(Look { hue, .. }) = look(&[(red, 80), (white, 20)]) else { panic!("red has no look") };
    assert!(colour::turned(hue, 0.0).abs() < 1e-3);
    assert_eq!(look(&[(red, 70), (blue, 30)]), None);
    assert_eq!(look(&[(red, 50), (white, 50)]), None);
    assert_eq!(look(&[]), None);
}

#[test]
fn all_scenes_are_of_either_split_and_each_says_of_which() {
    let scenes = Scenes {
        settings: Settings { seed: 1, split: Split::All, letters_max: 8, layout: Layout::Free },
        ..open(1, Split::Train)
    };
    let all: Vec<Scene> = (0..400).map(|number| scenes.scene(number)).collect();
    let held_out = all.iter().filter(|scene| scene.split == Split::HeldOut).count();
    assert!((10..120).contains(&held_out), "{held_out} of 400");
    for scene in all.iter().filter(|scene| scene.split == Split::Train).take(20) {
        assert!(!held_out_of(scene), "{scene:?}");
    }
    assert!(all.iter().filter(|scene| scene.split == Split::HeldOut).all(held_out_of));
    assert!(all.iter().all(|scene| scene.split != Split::All));
}

/// Whether something in it is held out.
fn held_out_of(scene: &Scene) -> bool {
    let groups = groups(scene);
    let pair = groups.len() == 2 && held_out::pair(&groups[0][0].concept, &groups[1][0].concept);
    let counted = groups.iter().any(|group| held_out::count(&group[0].concept, group.len()));
    pair || counted || scene.lettering.as_ref().is_some_and(|lettering| held_out::word(&lettering.word))
}

#[test]
fn a_scene_is_a_function_of_seed_and_number() {
    let again = open(1, Split::Train);
    for number in [977, 3, 4] {
        let (scene, other) = (TRAIN.scene(number), again.scene(number));
        assert_eq!(scene, other);
        assert_eq!(TRAIN.draw(&scene, 64).unwrap(), again.draw(&other, 64).unwrap());
        let record: Scene = serde_json::from_str(&serde_json::to_string(&scene).unwrap()).unwrap();
        assert_eq!(TRAIN.draw(&record, 64).unwrap(), TRAIN.draw(&scene, 64).unwrap());
    }
    let other_seed = Scenes { settings: Settings { seed: 9, ..again.settings }, ..again };
    assert!((0..20).all(|number| other_seed.scene(number) != TRAIN.scene(number)));
}

/// Everything in a scene that could be held out.
fn combinations(scene: &Scene) -> Vec<String> {
    let groups = groups(scene);
    let mut names: Vec<&str> = groups.iter().map(|group| &group[0].concept[..]).collect();
    names.sort_unstable();
    let pair = (names.len() == 2).then(|| names.join(" & "));
    let counts =
        groups.iter().filter(|group| group.len() > 1).map(|group| format!("{} {}", group.len(), group[0].concept));
    let word = scene.lettering.as_ref().map(|lettering| lettering.word.to_lowercase());
    counts.chain(pair).chain(word).collect()
}

#[test]
fn every_held_out_scene_shows_what_no_scene_for_training_does() {
    let train: BTreeSet<String> = MANY.iter().flat_map(combinations).collect();
    let mut kinds = [0; 3];
    for number in 0..600 {
        let scene = HELD_OUT.scene(number);
        let new: Vec<String> = combinations(&scene).into_iter().filter(|one| !train.contains(one)).collect();
        assert!(!new.is_empty(), "{:?}", scene.caption);
        kinds[0] += usize::from(new.iter().any(|one| one.contains(" & ")));
        kinds[1] += usize::from(new.iter().any(|one| one.starts_with(|c: char| c.is_ascii_digit())));
        kinds[2] += usize::from(scene.lettering.is_some());
    }
    assert!(kinds.iter().all(|count| *count > 50), "{kinds:?}");
}

#[test]
fn every_concept_and_every_style_comes_in_training() {
    assert!(TRAIN.concepts().count() >= 300);
    let mut seen = BTreeSet::new();
    let mut styles = BTreeSet::new();
    for scene in MANY.iter() {
        styles.extend(scene.style);
        seen.extend(scene.objects.iter().map(|object| &object.concept[..]));
    }
    let missing: Vec<&str> = TRAIN.concepts().filter(|name| !seen.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(styles.len(), 3);
}

#[test]
fn words_are_no_longer_than_asked() {
    let short =
        Scenes::open(art(), Settings { seed: 1, split: Split::Train, letters_max: 5, layout: Layout::Free }).unwrap();
    let longest = |scenes: &Scenes| (0..2000).filter_map(|n| scenes.scene(n).lettering).map(|l| l.word.len()).max();
    assert_eq!((longest(&short), longest(&TRAIN)), (Some(5), Some(8)));
}

fn small(folder: &Path, scenes: u64, format: Format) -> Result<SceneFolder, SpriteError> {
    SceneFolder::open(folder, TRAIN.settings(), scenes, 16, format)
}

/// Every file below a folder by its path.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(
                files(&path).into_iter().map(|(at, bytes)| (Path::new(path.file_name().unwrap()).join(at), bytes)),
            );
        } else {
            found.insert(path.file_name().unwrap().into(), std::fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn a_run_that_was_ended_leaves_whole_shards_and_is_gone_on_with() {
    for format in [Format::Folder, Format::WebDataset] {
        let (whole, ended) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = small(whole.path(), 1003, format).unwrap();
        assert_eq!(folder.missing(), [0, 1]);
        folder.missing().into_iter().for_each(|shard| folder.write(&TRAIN, shard).unwrap());

        small(ended.path(), 1003, format).unwrap().write(&TRAIN, 1).unwrap();
        std::fs::create_dir(ended.path().join(".000000.tmp")).unwrap();
        std::fs::write(ended.path().join(".000000.tmp/x"), "half").unwrap();
        let folder = small(ended.path(), 1003, format).unwrap();
        assert_eq!(folder.missing(), [0]);
        folder.write(&TRAIN, 0).unwrap();
        let _ = std::fs::remove_dir_all(ended.path().join(".000000.tmp"));
        assert!(files(whole.path()) == files(ended.path()));
    }
}

#[test]
fn a_shard_has_each_scenes_picture_caption_and_record() {
    let [folder, tar] = [Format::Folder, Format::WebDataset].map(|format| {
        let folder = tempfile::tempdir().unwrap();
        small(folder.path(), 3, format).unwrap().write(&TRAIN, 0).unwrap();
        folder
    });
    let mut archive = tar::Archive::new(std::fs::File::open(tar.path().join("shard-000000.tar")).unwrap());
    let mut members = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().into_owned();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        members.insert(name, bytes);
    }
    assert!(members == files(&folder.path().join("000000")));
    assert_eq!(members.len(), 9);
    let scene = TRAIN.scene(2);
    assert_eq!(members[Path::new("0000002.txt")], scene.caption.as_bytes());
    assert_eq!(serde_json::from_slice::<Scene>(&members[Path::new("0000002.json")]).unwrap(), scene);
    let png = image::load_from_memory(&members[Path::new("0000002.png")]).unwrap().into_rgb8();
    assert_eq!(png, TRAIN.draw(&scene, 16).unwrap());
}

#[track_caller]
fn says<T>(result: Result<T, SpriteError>, words: &[&str]) {
    let Err(error) = result else { panic!("no error") };
    let text = error.to_string();
    words.iter().for_each(|word| assert!(text.contains(word), "{text:?} has no {word:?}"));
    assert!(text.contains("\nhint: "), "{text:?} has no hint");
}

#[test]
fn a_folder_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    small(folder.path(), 10, Format::Folder).unwrap();
    says(small(folder.path(), 11, Format::Folder), &["\"scenes\":10", "\"scenes\":11"]);
    says(small(folder.path(), 10, Format::WebDataset), &["webdataset"]);
    std::fs::write(folder.path().join("sprites.json"), "{}").unwrap();
    says(small(folder.path(), 10, Format::Folder), &["sprites.json"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.txt"), "").unwrap();
    says(small(folder.path(), 10, Format::Folder), &["not empty"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn art_that_is_missing_or_spoilt_is_named() {
    let settings = TRAIN.settings();
    says(Scenes::open("nowhere", settings).map(drop), &["concepts.json", "cannot be read"]);
    says(Scenes::open(art(), Settings { letters_max: 9, ..settings }).map(drop), &["letters_max", "9"]);
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let concept = |art: &str| {
        format!(
            "[{{\"name\":\"x\",\"art\":\"{art}\",\"styles\":[\"3d\"],\"words\":[{{\"one\":\"an x\",\"many\":\"xs\"}}]}}]"
        )
    };
    put("words.txt", &std::fs::read_to_string(art().join("words.txt")).unwrap());
    put("concepts.json", "[{}]");
    says(Scenes::open(&folder, settings).map(drop), &["concepts.json", "name"]);
    put("concepts.json", &concept("../../secret"));
    says(Scenes::open(&folder, settings).map(drop), &["none of a picture"]);
    put("concepts.json", &concept("1F34E"));
    says(Scenes::open(&folder, settings).map(drop), &["1F34E.webp", "cannot be read"]);
    std::fs::create_dir(folder.path().join("3d")).unwrap();
    put("3d/1F34E.webp", "no picture");
    says(Scenes::open(&folder, settings).map(drop), &["1F34E.webp", "is not what"]);
    put("words.txt", "Word\n");
    says(Scenes::open(&folder, settings).map(drop), &["`Word`"]);
}

#[test]
fn scenes_are_drawn_at_any_size_in_bounds() {
    let scene = TRAIN.scene(5);
    for side in [16, 17, 333] {
        assert_eq!(TRAIN.draw(&scene, side).unwrap().dimensions(), (side, side));
    }
    says(TRAIN.draw(&scene, 15), &["15 px"]);
    says(TRAIN.draw(&scene, 5000), &["5000 px"]);
    let other = Object { art: "0000".to_owned(), ..TRAIN.scene(0).objects[0].clone() };
    says(TRAIN.draw(&Scene { objects: vec![other], ..TRAIN.scene(0) }, 64), &["0000"]);
}

#[test]
fn quarters_hold_four_different_things_as_the_caption_says() {
    let settings = Settings { seed: 1, split: Split::Train, letters_max: 8, layout: Layout::Quarters };
    let scenes = Scenes::open(art(), settings).unwrap();
    let all: Vec<Scene> = (0..400).map(|number| scenes.scene(number)).collect();
    let in_quarters: Vec<&Scene> = all.iter().filter(|scene| groups(scene).len() == 4).collect();
    // Scenes with a pair that is held out are left out, and four things have six pairs.
    assert!((120..270).contains(&in_quarters.len()), "{}", in_quarters.len());
    let mut told = 0;
    for scene in in_quarters {
        assert_eq!((scene.objects.len(), scene.relation, &scene.lettering), (4, None, &None), "{}", scene.caption);
        for (object, [x, y]) in scene.objects.iter().zip([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5], [0.5, 0.5]]) {
            let Area { left, top, .. } = object.area;
            assert!(left > x && top > y && object.area.right() < x + 0.5 && object.area.bottom() < y + 0.5);
        }
        let places = ["top left", "top right", "bottom left", "bottom right"];
        if scene.caption.contains(places[3]) {
            told += 1;
            let at: Vec<usize> = places.iter().map(|place| scene.caption.find(place).unwrap()).collect();
            assert!(at.is_sorted(), "{}", scene.caption);
            let first = scenes.concepts.iter().find(|concept| concept.name == scene.objects[0].concept).unwrap();
            let is_said = first.words.iter().any(|word| {
                let bare = word.one.split_once(' ').map_or(&word.one[..], |(_, bare)| bare);
                scene.caption[..at[0]].contains(bare)
            });
            assert!(is_said, "{}: {}", scene.objects[0].concept, scene.caption);
        }
    }
    assert!(told > 50, "{told}");
}
