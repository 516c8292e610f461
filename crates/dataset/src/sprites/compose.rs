//! From a number to a scene: what is in it, on what, and where.

use rectiflow_nn::Rng;

use super::Scenes;
use super::art::{Art, Concept, Style};
use super::caption;
use super::colour::{Colour, contrast};
use super::grid::{self, WordRow};
use super::held_out;
use super::scene::{Area, Background, Layout, Lettering, Object, Place, Scene, Split, Typeface};

/// The picture without its rim, which stays empty.
const INSIDE: Area = Area { left: 0.03, top: 0.03, width: 0.94, height: 0.94 };
/// More of a thing than this may not be lost in the background.
const HIDDEN_MAX: f32 = 0.35;
/// WCAG 2 asks for 3 for large letters.
const CONTRAST_MIN: f32 = 3.0;
/// Tries at a background and letters that everything can be seen on; things that fit on few are dropped.
const GROUNDS: usize = 12;
const COUNT_MAX: u64 = 4;
/// Share of words that are in no list: whoever is to write words that it never saw must learn letters, not a list.
const INVENTED: f64 = 0.5;
/// Share of captions that begin with a capital letter.
const CAPITALS: f64 = 0.1;
const CONSONANTS: &[u8] = b"bcdfghjklmnpqrstvwxz";

/// Things of one concept, all alike.
#[derive(Clone)]
pub(super) struct Group<'a> {
    pub(super) concept: &'a Concept,
    pub(super) count: usize,
    pub(super) colour: Option<Colour>,
    pub(super) recoloured: bool,
    art: &'a Art,
    /// Degrees.
    turn: f32,
}

/// What is in a scene.
pub(super) struct Content<'a> {
    pub(super) style: Option<Style>,
    /// At most two, or one thing for each quarter, row by row.
    pub(super) groups: Vec<Group<'a>>,
    pub(super) relation: Option<Place>,
    pub(super) word: Option<String>,
}

impl Content<'_> {
    /// Whether it shows something that is held out.
    fn is_held_out(&self) -> bool {
        let pair = self.groups.iter().enumerate().any(|(place, one)| {
            self.groups[..place].iter().any(|other| held_out::pair(&one.concept.name, &other.concept.name))
        });
        let count = self.groups.iter().any(|group| held_out::count(&group.concept.name, group.count));
        pair || count || self.word.as_deref().is_some_and(held_out::word)
    }
}

impl Scenes {
    /// The scene of a number: the same for the same art and settings, whatever was asked for before.
    pub fn scene(&self, number: u64) -> Scene {
        let mut rng = Rng::keyed(self.settings.seed, "sprite scene", number);
        // Ends: `open` has checked that there is enough for both splits.
        loop {
            let content = self.content(&mut rng);
            let split = if content.is_held_out() { Split::HeldOut } else { Split::Train };
            if self.settings.split != Split::All && self.settings.split != split {
                continue;
            }
            if let Some(scene) = self.arranged(number, split, &content, &mut rng) {
                return scene;
            }
        }
    }

    fn content(&self, rng: &mut Rng) -> Content<'_> {
        let style = *pick(rng, &Style::ALL);
        let count = |rng: &mut Rng| 2 + rng.below(COUNT_MAX - 1) as usize;
        let is_in_quarters = self.settings.layout == Layout::Quarters && rng.below(5) < 3;
        let (counts, with_word) = match rng.below(100) {
            _ if is_in_quarters => (vec![1; grid::QUARTERS.len()], false),
            0..18 => (vec![1], false),
            18..43 => (vec![1, 1], false),
            43..60 => (vec![count(rng)], false),
            60..70 => (if rng.below(2) == 0 { vec![count(rng), 1] } else { vec![1, count(rng)] }, false),
            70..85 => (vec![1], true),
            _ => (vec![], true),
        };
        let mut groups: Vec<Group> = Vec::new();
        while groups.len() < counts.len() {
            let group = self.group(style, counts[groups.len()], rng);
            if groups.iter().all(|other| other.concept.name != group.concept.name) {
                groups.push(group);
            }
        }
        let relation = (groups.len() == 2).then(|| *pick(rng, &Place::ALL));
        let style = (!groups.is_empty()).then_some(style);
        let word = with_word.then(|| self.word(rng));
        Content { style, groups, relation, word }
    }

    fn group(&self, style: Style, count: usize, rng: &mut Rng) -> Group<'_> {
        let &(concept, ref art) =
            &self.drawn[style as usize][rng.below(self.drawn[style as usize].len() as u64) as usize];
        let concept = &self.concepts[concept];
        let art = art.as_ref();
        let can_vary = !concept.names_a_colour();
        let natural =
            Group { concept, count, colour: art.colour().filter(|_| can_vary), recoloured: false, art, turn: 0.0 };
        let (varies, targets) = (rng.uniform() < 0.4, Colour::targets().collect::<Vec<_>>());
        let (colour, _) = *pick(rng, &targets);
        match art.turn_to(colour) {
            Some(turn) if varies && can_vary && natural.colour != Some(colour) => {
                Group { colour: Some(colour), recoloured: true, turn, ..natural }
            }
            _ => natural,
        }
    }

    fn word(&self, rng: &mut Rng) -> String {
        let word = if rng.uniform() < INVENTED {
            invented(self.settings.letters_max, rng)
        } else {
            pick(rng, &self.words).clone()
        };
        match rng.below(4) {
            0 => word,
            1 => word[..1].to_uppercase() + &word[1..],
            _ => word.to_uppercase(),
        }
    }

    /// None if it cannot be seen well on any of a few backgrounds.
    fn arranged(&self, number: u64, split: Split, content: &Content, rng: &mut Rng) -> Option<Scene> {
        let (background, ink) = (0..GROUNDS).find_map(|_| ground(content, rng))?;
        let places = places(content, rng);
        let mut objects = Vec::new();
        for (group, region) in content.groups.iter().zip(&places.groups) {
            let (width, height) = group.art.image.dimensions();
            let shape = width as f32 / height as f32;
            for area in spread(group.count, *region, shape, rng) {
                objects.push(Object {
                    concept: group.concept.name.clone(),
                    art: group.concept.art.clone(),
                    colour: group.colour,
                    recoloured: group.recoloured,
                    area,
                });
            }
        }
        let mut lettering = match (&content.word, places.word) {
            (Some(word), Some((region, place))) => {
                let font = *pick(rng, &[Typeface::SansSerif, Typeface::Slab, Typeface::Comic]);
                let area = region.fitted(self.fonts.shape(font, word)?, even(rng), even(rng));
                Some(Lettering { word: word.clone(), font, colour: ink, area, place, cells: None })
            }
            _ => None,
        };
        if !self.settings.layout.is_free() {
            let row = lettering.as_ref().map(|lettering| match lettering.place {
                Some(Place::Above) => WordRow::Above,
                Some(_) => WordRow::Below,
                None => WordRow::Alone(number),
            });
            let counts: Vec<usize> = content.groups.iter().map(|group| group.count).collect();
            if !grid::place(&mut objects, &counts, grid::rows_beside(row)) {
                return None;
            }
            if let (Some(lettering), Some(row)) = (&mut lettering, row) {
                let cells = grid::cells(lettering.word.len(), row);
                lettering.area = self.fonts.area_in(lettering.font, &lettering.word, cells)?;
                lettering.cells = Some(cells);
            }
        }
        let mut caption = caption::write(content, background, lettering.as_ref(), rng);
        if Rng::keyed(self.settings.seed, "capital", number).uniform() < CAPITALS {
            // The first letters of captions are ASCII.
            caption[..1].make_ascii_uppercase();
        }
        let (style, relation) = (content.style, content.relation);
        Some(Scene { number, split, caption, style, background, objects, relation, lettering })
    }
}

/// A background, and a colour for letters, that everything stands out from.
fn ground(content: &Content, rng: &mut Rng) -> Option<(Background, Colour)> {
    let colours: Vec<Colour> = Colour::all().collect();
    let (first, second, ink) = (*pick(rng, &colours), *pick(rng, &colours), *pick(rng, &colours));
    let is_plain = rng.uniform() < 0.6 || first == second;
    let background = if is_plain {
        Background::Plain { colour: first }
    } else {
        Background::Gradient { top: first, bottom: second }
    };
    let is_seen = |group: &Group| {
        background.colours().iter().all(|colour| group.art.hidden_on(colour.rgb(), group.turn) < HIDDEN_MAX)
    };
    let is_read =
        |_: &String| background.colours().iter().all(|colour| contrast(colour.rgb(), ink.rgb()) >= CONTRAST_MIN);
    (content.groups.iter().all(is_seen) && content.word.iter().all(is_read)).then_some((background, ink))
}

/// Where each group and the word may be.
struct Places {
    groups: Vec<Area>,
    word: Option<(Area, Option<Place>)>,
}

fn places(content: &Content, rng: &mut Rng) -> Places {
    match (&content.groups[..], content.relation, &content.word) {
        ([], _, _) => {
            Places { groups: vec![], word: Some((INSIDE.part(0.0, 0.1, 1.0, 0.8).fitted(2.6, 0.5, even(rng)), None)) }
        }
        ([one], _, Some(_)) => {
            let is_below = rng.below(2) == 0;
            let (thing, word) = if is_below { (0.0, 0.72) } else { (0.32, 0.0) };
            let place = if is_below { Place::Below } else { Place::Above };
            let thing = one_of(one.count, INSIDE.part(0.0, thing, 1.0, 0.68), [0.75, 1.0], rng);
            Places { groups: vec![thing], word: Some((INSIDE.part(0.0, word, 1.0, 0.28), Some(place))) }
        }
        ([one], _, None) => Places { groups: vec![one_of(one.count, INSIDE, [0.45, 0.9], rng)], word: None },
        (all, None, None) if all.len() == grid::QUARTERS.len() => {
            let quarter = |[x, y]: &[usize; 2]| INSIDE.part(*x as f32 / 2.0, *y as f32 / 2.0, 0.5, 0.5);
            Places { groups: grid::QUARTERS.iter().map(quarter).collect(), word: None }
        }
        ([one, other, ..], relation, _) => {
            // A single thing lies near the middle of its half, so that no other word would do as well.
            let half = |group: &Group, from: f32, is_across: bool| match (group.count, is_across) {
                (1, true) => INSIDE.part(from, 0.14, 0.47, 0.72),
                (1, false) => INSIDE.part(0.14, from, 0.72, 0.47),
                (_, true) => INSIDE.part(from, 0.0, 0.47, 1.0),
                (_, false) => INSIDE.part(0.0, from, 1.0, 0.47),
            };
            let (first, second, is_across) = match relation {
                Some(Place::LeftOf) | None => (0.0, 0.53, true),
                Some(Place::RightOf) => (0.53, 0.0, true),
                Some(Place::Above) => (0.0, 0.53, false),
                Some(Place::Below) => (0.53, 0.0, false),
            };
            Places { groups: vec![half(one, first, is_across), half(other, second, is_across)], word: None }
        }
    }
}

/// Any place and size in a region for one thing; all of it for several.
fn one_of(count: usize, region: Area, [least, most]: [f32; 2], rng: &mut Rng) -> Area {
    if count > 1 {
        return region;
    }
    let size = least + (most - least) * even(rng);
    region.part(even(rng) * (1.0 - size), even(rng) * (1.0 - size), size, size)
}

/// Places for equal things that do not touch.
fn spread(count: usize, region: Area, shape: f32, rng: &mut Rng) -> Vec<Area> {
    let row = |i: usize| region.part(i as f32 / count as f32, 0.0, 1.0 / count as f32, 1.0);
    let column = |i: usize| region.part(0.0, i as f32 / count as f32, 1.0, 1.0 / count as f32);
    let quarter = |at: [f32; 2]| region.part(at[0], at[1], 0.5, 0.5);
    let quarters = |places: &[[f32; 2]]| places.iter().map(|at| quarter(*at)).collect::<Vec<_>>();
    let (rows, columns) = ((0..count).map(row).collect::<Vec<_>>(), (0..count).map(column).collect::<Vec<_>>());
    let stretch = region.width / region.height;
    let cells = match (count, rng.below(3)) {
        (1, _) => rows,
        (4, _) => quarters(&[[0.0, 0.0], [0.5, 0.0], [0.0, 0.5], [0.5, 0.5]]),
        _ if stretch > 1.5 => rows,
        _ if stretch < 0.67 => columns,
        (2, 0) => quarters(if rng.below(2) == 0 { &[[0.0, 0.0], [0.5, 0.5]] } else { &[[0.5, 0.0], [0.0, 0.5]] }),
        (_, 0) => quarters(&[[0.25, 0.0], [0.0, 0.5], [0.5, 0.5]]),
        (_, 1) => columns,
        _ => rows,
    };
    let size = if count == 1 { 1.0 } else { 0.74 + 0.12 * even(rng) };
    let place = |cell: Area, rng: &mut Rng| {
        let (x, y) = (0.4 + 0.2 * even(rng), 0.4 + 0.2 * even(rng));
        cell.part(x * (1.0 - size), y * (1.0 - size), size, size).fitted(shape, x, y)
    };
    cells.into_iter().map(|cell| place(cell, rng)).collect()
}

/// A word that nobody knows and everybody can say: consonants and vowels in turns.
fn invented(letters_max: usize, rng: &mut Rng) -> String {
    let length = 2 + rng.below(letters_max as u64 - 1) as usize;
    let first = rng.below(2) as usize;
    let letter = |at: usize| *pick(rng, if (first + at).is_multiple_of(2) { CONSONANTS } else { b"aeiouy" }) as char;
    (0..length).map(letter).collect()
}

/// In 0..1.
fn even(rng: &mut Rng) -> f32 {
    rng.uniform() as f32
}

/// One of a list that is not empty.
pub(super) fn pick<'a, T>(rng: &mut Rng, list: &'a [T]) -> &'a T {
    &list[rng.below(list.len() as u64) as usize]
}
