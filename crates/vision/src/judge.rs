//! Whether a picture shows what was asked for, by what a detector found in it.
//!
//! Source: the six tasks of GenEval, Ghosh et al. 2023, arXiv:2310.11513, section 3 and its `evaluate_images.py`. As
//! there, more of a thing than one is right where one was asked for, and of two things in a relation the surest
//! detections are compared. Unlike there, a single thing must be alone: with other things beside it, it is wrong.
//!
//! What this module does not do: look at pictures ([`crate::Detector`]), or read prompts.

use crate::Detection;

/// What a picture should show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Kinds of things, each a concept of its own.
    pub things: Vec<AskedThing>,
    /// Where the first of them lies, seen from the second.
    pub relation: Option<Place>,
}

/// Things of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedThing {
    /// By its number in the detector.
    pub concept: usize,
    /// How many: 1 is one or more, anything else just so many.
    pub count: usize,
    /// By its number in the detector; any without it.
    pub colour: Option<usize>,
}

/// Where one thing is, seen from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Place {
    LeftOf,
    RightOf,
    Above,
    Below,
}

/// Centres that are less apart, in parts of the picture's side, lie in no relation: GenEval's `POSITION_THRESHOLD`.
const APART: f32 = 0.1;

/// What is asked for, by kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// A thing.
    SingleObject,
    /// Two things of different kinds.
    TwoObjects,
    /// So many things of a kind.
    Counting,
    /// A thing in a colour.
    Colours,
    /// Two things, one left of the other.
    Position,
    /// Two things, each in a colour of its own.
    ColourAttribution,
}

impl Task {
    /// In GenEval's order.
    pub const ALL: [Task; 6] =
        [Task::SingleObject, Task::TwoObjects, Task::Counting, Task::Colours, Task::Position, Task::ColourAttribution];

    /// For tables and journals.
    pub fn name(self) -> &'static str {
        match self {
            Task::SingleObject => "single_object",
            Task::TwoObjects => "two_objects",
            Task::Counting => "counting",
            Task::Colours => "colours",
            Task::Position => "position",
            Task::ColourAttribution => "colour_attribution",
        }
    }
}

impl Asked {
    /// The kind of task it is.
    pub fn task(&self) -> Task {
        let has_colour = self.things.iter().any(|thing| thing.colour.is_some());
        let is_counted = self.things.iter().any(|thing| thing.count != 1);
        match (self.things.len(), self.relation) {
            (2.., Some(_)) => Task::Position,
            (2.., None) if has_colour => Task::ColourAttribution,
            (0..2, _) if is_counted => Task::Counting,
            (0..2, _) if has_colour => Task::Colours,
            (0..2, _) => Task::SingleObject,
            (2.., None) => Task::TwoObjects,
        }
    }

    /// Whether a picture in which this was found shows it.
    pub fn is_right(&self, found: &[Detection]) -> bool {
        let are_there = self.things.iter().all(|thing| thing.is_there(found));
        let is_alone = || found.iter().all(|one| self.things.iter().any(|thing| thing.concept == one.concept));
        are_there
            && (self.task() != Task::SingleObject || is_alone())
            && self.relation.is_none_or(|relation| self.lie(relation, found))
    }

    /// Whether the surest of the first kind lies so to the surest of the second.
    fn lie(&self, relation: Place, found: &[Detection]) -> bool {
        let surest = |thing: &AskedThing| {
            found.iter().filter(|one| thing.is(one)).max_by(|a, b| a.score.total_cmp(&b.score)).map(Detection::centre)
        };
        match &self.things[..] {
            [first, second, ..] => match (surest(first), surest(second)) {
                (Some(one), Some(other)) => relation.is_of(one, other),
                _ => false,
            },
            _ => false,
        }
    }
}

impl AskedThing {
    /// Whether it is of the kind, and of no other colour more than of the one asked for, as in GenEval.
    fn is(&self, one: &Detection) -> bool {
        one.concept == self.concept && self.colour.is_none_or(|colour| one.nearest_colour == colour)
    }

    fn is_there(&self, found: &[Detection]) -> bool {
        let count = found.iter().filter(|one| self.is(one)).count();
        let of_kind = found.iter().filter(|one| one.concept == self.concept).count();
        if self.count == 1 { count >= 1 } else { count == self.count && of_kind == self.count }
    }
}

impl Place {
    /// Every place.
    pub const ALL: [Place; 4] = [Place::LeftOf, Place::RightOf, Place::Above, Place::Below];

    /// Whether something with its centre at `one` lies so to something at `other`; right and down, in parts of the
    /// picture's sides.
    pub fn is_of(self, one: [f32; 2], other: [f32; 2]) -> bool {
        let [right, down] = [one[0] - other[0], one[1] - other[1]];
        match self {
            Place::LeftOf => right < -APART,
            Place::RightOf => right > APART,
            Place::Above => down < -APART,
            Place::Below => down > APART,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAT: usize = 3;
    const DOG: usize = 5;
    const RED: Option<usize> = Some(0);
    const BLUE: Option<usize> = Some(1);

    fn one(concept: usize, colour: Option<usize>, [x, y]: [f32; 2], score: f32) -> Detection {
        let nearest_colour = colour.unwrap_or(0);
        Detection { concept, colour, nearest_colour, area: [x - 0.1, y - 0.2, 0.2, 0.4], score }
    }

    fn some(concepts: &[usize]) -> Vec<Detection> {
        concepts.iter().map(|concept| one(*concept, None, [0.5, 0.5], 0.9)).collect()
    }

    fn asked(things: &[(usize, usize, Option<usize>)], relation: Option<Place>) -> Asked {
        let thing = |&(concept, count, colour): &(usize, usize, Option<usize>)| AskedThing { concept, count, colour };
        Asked { things: things.iter().map(thing).collect(), relation }
    }

    #[track_caller]
    fn check(asked: &Asked, task: Task, cases: &[(Vec<Detection>, bool)]) {
        assert_eq!(asked.task(), task);
        for (found, expected) in cases {
            assert_eq!(asked.is_right(found), *expected, "{asked:?} of {found:?}");
        }
    }

    #[test]
    fn a_single_thing_is_there_and_nothing_else() {
        let cases = [(some(&[CAT]), true), (some(&[CAT, CAT]), true), (some(&[CAT, DOG]), false)];
        check(&asked(&[(CAT, 1, None)], None), Task::SingleObject, &cases);
        check(&asked(&[(CAT, 1, None)], None), Task::SingleObject, &[(some(&[DOG]), false), (vec![], false)]);
    }

    #[test]
    fn two_things_are_both_there_whatever_else_is() {
        let cases = [(some(&[CAT, DOG]), true), (some(&[DOG, 9, CAT]), true), (some(&[CAT, CAT]), false)];
        check(&asked(&[(CAT, 1, None), (DOG, 1, None)], None), Task::TwoObjects, &cases);
    }

    #[test]
    fn so_many_are_just_so_many() {
        let cases = [2, 3, 4].map(|count| (some(&vec![CAT; count]), count == 3));
        check(&asked(&[(CAT, 3, None)], None), Task::Counting, &cases);
        check(&asked(&[(CAT, 3, None)], None), Task::Counting, &[(some(&[CAT, CAT, CAT, DOG]), true)]);
    }

    #[test]
    fn a_thing_has_its_colour() {
        let middle = [0.5, 0.5];
        let cases =
            [(RED, true), (BLUE, false)].map(|(colour, expected)| (vec![one(CAT, colour, middle, 0.9)], expected));
        check(&asked(&[(CAT, 1, RED)], None), Task::Colours, &cases);
        // One of several colours is in the likeliest of them.
        let none = |nearest_colour| vec![Detection { nearest_colour, ..one(CAT, None, middle, 0.9) }];
        let cases = [RED, BLUE].map(|colour| (none(colour.unwrap()), colour == RED));
        check(&asked(&[(CAT, 1, RED)], None), Task::Colours, &cases);
        check(&asked(&[(CAT, 1, RED)], None), Task::Colours, &[(vec![one(DOG, RED, middle, 0.9)], false)]);
    }

    #[test]
    fn each_of_two_things_has_its_own_colour() {
        let both = |cat, dog| vec![one(CAT, cat, [0.2, 0.5], 0.9), one(DOG, dog, [0.8, 0.5], 0.9)];
        let cases = [(both(RED, BLUE), true), (both(BLUE, RED), false), (both(RED, RED), false)];
        check(&asked(&[(CAT, 1, RED), (DOG, 1, BLUE)], None), Task::ColourAttribution, &cases);
    }

    #[test]
    fn things_lie_as_they_should_by_a_tenth_of_the_side() {
        let at = |cat, dog| vec![one(CAT, None, cat, 0.9), one(DOG, None, dog, 0.9)];
        let middle = [0.5, 0.5];
        for (place, moved) in Place::ALL.into_iter().zip([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]]) {
            let by = |far: f32| [0.5 + far * moved[0], 0.5 + far * moved[1]];
            let cases = [0.3, 0.12, 0.08, 0.0, -0.3].map(|far| (at(by(far), middle), far > 0.1));
            check(&asked(&[(CAT, 1, None), (DOG, 1, None)], Some(place)), Task::Position, &cases);
        }
        // The surest of several counts, and both must be there.
        let mut several = at([0.2, 0.5], middle);
        several.push(one(CAT, None, [0.9, 0.5], 0.5));
        let left = asked(&[(CAT, 1, None), (DOG, 1, None)], Some(Place::LeftOf));
        check(&left, Task::Position, &[(several.clone(), true), (some(&[CAT]), false)]);
        several[2].score = 0.95;
        check(&left, Task::Position, &[(several, false)]);
    }
}
