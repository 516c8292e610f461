//! Scenes in a detector's numbers: what is in them, and what they could have been asked for.

use std::collections::HashMap;

use rectiflow_dataset::sprites::{self, Object, Scene};
use rectiflow_vision::DetectorConfig;
use rectiflow_vision::judge::{Asked, AskedThing, Place};

/// The numbers of a detector's concepts and colours.
#[derive(Clone, Debug)]
pub struct Names {
    concepts: HashMap<String, usize>,
    colours: HashMap<String, usize>,
}

/// A thing in a scene, in a detector's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thing {
    /// What it is.
    pub concept: usize,
    /// Its colour, if everybody would call it that.
    pub colour: Option<usize>,
    /// It has that colour here only.
    pub recoloured: bool,
    /// Left, top, width and height, in parts of the picture's side.
    pub area: [f32; 4],
}

/// A scene shows something that a detector was not trained on.
#[derive(Debug, thiserror::Error)]
#[error("the detector does not know `{name}`\nhint: train one with the art that the scenes are made of")]
pub struct UnknownThing {
    /// A concept or a colour.
    pub name: String,
}

impl Names {
    /// Those of a detector.
    pub fn of(config: &DetectorConfig) -> Names {
        let numbers = |names: &[String]| names.iter().cloned().zip(0..).collect();
        Names { concepts: numbers(&config.concepts), colours: numbers(&config.colours) }
    }

    /// The things in a scene.
    ///
    /// # Errors
    /// One is not known.
    pub fn things(&self, scene: &Scene) -> Result<Vec<Thing>, UnknownThing> {
        let thing = |object: &Object| {
            let sprites::Area { left, top, width, height } = object.area;
            let (concept, colour) = self.kind(object)?;
            Ok(Thing { concept, colour, recoloured: object.recoloured, area: [left, top, width, height] })
        };
        scene.objects.iter().map(thing).collect()
    }

    /// Everything that a scene would be right for, a task each: one thing alone; so many of a kind; a thing in its
    /// colour; two kinds, how they lie, and their colours.
    ///
    /// # Errors
    /// Something in it is not known.
    pub fn asked(&self, scene: &Scene) -> Result<Vec<Asked>, UnknownThing> {
        let mut kinds: Vec<AskedThing> = Vec::new();
        for object in &scene.objects {
            let (concept, colour) = self.kind(object)?;
            match kinds.last_mut().filter(|last| last.concept == concept) {
                Some(last) => last.count += 1,
                None => kinds.push(AskedThing { concept, count: 1, colour }),
            }
        }
        let asked = |things: &[AskedThing], relation| Asked { things: things.to_vec(), relation };
        let plain = |kind: &AskedThing| AskedThing { colour: None, count: 1, ..*kind };
        Ok(match &kinds[..] {
            [one] if one.count > 1 => vec![asked(&[AskedThing { colour: None, ..*one }], None)],
            [one] => {
                let coloured = one.colour.is_some().then(|| asked(&[*one], None));
                [asked(&[plain(one)], None)].into_iter().chain(coloured).collect()
            }
            [one, other] => {
                let both = [plain(one), plain(other)];
                let is_pair = one.count == 1 && other.count == 1;
                let placed = scene.relation.filter(|_| is_pair).map(|place| asked(&both, Some(seen(place))));
                let coloured =
                    (is_pair && one.colour.is_some() && other.colour.is_some()).then(|| asked(&[*one, *other], None));
                [asked(&both, None)].into_iter().chain(placed).chain(coloured).collect()
            }
            _ => Vec::new(),
        })
    }

    /// Concept and colour of a thing.
    fn kind(&self, object: &Object) -> Result<(usize, Option<usize>), UnknownThing> {
        let find = |names: &HashMap<String, usize>, name: &str| {
            names.get(name).copied().ok_or_else(|| UnknownThing { name: name.to_owned() })
        };
        let colour = object.colour.map(|colour| find(&self.colours, colour.name())).transpose()?;
        Ok((find(&self.concepts, &object.concept)?, colour))
    }
}

fn seen(place: sprites::Place) -> Place {
    match place {
        sprites::Place::LeftOf => Place::LeftOf,
        sprites::Place::RightOf => Place::RightOf,
        sprites::Place::Above => Place::Above,
        sprites::Place::Below => Place::Below,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use rectiflow_dataset::sprites::{Colour, Layout, Scenes, Settings, Split};
    use rectiflow_vision::Detection;
    use rectiflow_vision::judge::Task;

    use super::*;

    #[test]
    fn every_scene_shows_what_it_could_have_been_asked_for_and_what_another_shows_is_wrong() {
        let art = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/sprites");
        let settings = Settings { seed: 3, split: Split::All, letters_max: 8, layout: Layout::Free };
        let scenes = Scenes::open(art, settings).unwrap();
        let config = DetectorConfig {
            side_px: 128,
            widths: DetectorConfig::WIDTHS,
            concepts: scenes.concepts().map(str::to_owned).collect(),
            colours: Colour::of_things().map(|colour| colour.name().to_owned()).collect(),
        };
        let names = Names::of(&config);
        let found = |scene: &Scene| -> Vec<Detection> {
            let detection = |thing: Thing| Detection {
                concept: thing.concept,
                colour: thing.colour,
                nearest_colour: thing.colour.unwrap_or(0),
                area: thing.area,
                score: 0.9,
            };
            names.things(scene).unwrap().into_iter().map(detection).collect()
        };
        let mut seen: BTreeMap<Task, usize> = BTreeMap::new();
        let mut alike = 0;
        for number in 0..300 {
            let scene = scenes.scene(number);
            let other = found(&scenes.scene(number + 1));
            for asked in names.asked(&scene).unwrap() {
                assert!(asked.is_right(&found(&scene)), "{asked:?} of {scene:?}");
                alike += usize::from(asked.is_right(&other));
                *seen.entry(asked.task()).or_default() += 1;
            }
        }
        // Two scenes of one concept are rare.
        assert!(alike <= 4, "{alike}");
        // Of two things that both have a colour there are few.
        assert!(Task::ALL.iter().all(|task| seen.contains_key(task)), "{seen:?}");

        let less = DetectorConfig { concepts: vec!["cat".to_owned()], ..config };
        let unknown = (0..20).find_map(|number| Names::of(&less).asked(&scenes.scene(number)).err()).unwrap();
        assert!(unknown.to_string().contains("\nhint: train one"), "{unknown}");
    }
}
