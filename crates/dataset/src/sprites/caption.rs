//! A scene in plain English: many ways to say it, each exactly true.

use rectiflow_nn::Rng;

use super::art::Style;
use super::compose::{Content, Group, pick};
use super::scene::{Background, Lettering, Place, Typeface};

/// What is in the scene, how it is drawn, on what.
pub(super) fn write(content: &Content, background: Background, lettering: Option<&Lettering>, rng: &mut Rng) -> String {
    let things: Vec<String> = content.groups.iter().map(|group| phrase(group, rng)).collect();
    let subject = match (&things[..], content.relation, lettering) {
        ([a, b, c, d], None, None) => in_quarters([a, b, c, d], rng),
        ([one, other, ..], Some(place), _) => related(one, other, place, rng),
        ([one, ..], _, Some(lettering)) => labelled(one, lettering, rng),
        ([one, ..], _, None) => one.clone(),
        ([], _, Some(lettering)) => written(lettering, rng),
        ([], _, None) => String::new(), // a scene has something in it
    };
    let ground = grounded(background, rng);
    match content.style {
        Some(style) => styled(style, &subject, &ground, rng),
        None => subject + &ground,
    }
}

/// `a cat`, `two blue cats`.
fn phrase(group: &Group, rng: &mut Rng) -> String {
    // Its first name is the usual one.
    let words = &group.concept.words;
    let word = if rng.below(2) == 0 { &words[0] } else { pick(rng, words) };
    let says_colour = group.recoloured || rng.uniform() < 0.35;
    let colour = group.colour.filter(|_| says_colour).map_or(String::new(), |colour| format!("{} ", colour.name()));
    let bare = word.one.split_once(' ').map_or(&word.one[..], |(_, bare)| bare);
    if group.count == 1 {
        return match rng.below(6) {
            0 => format!("one {colour}{bare}"),
            1 => format!("a single {colour}{bare}"),
            _ if colour.is_empty() => word.one.clone(),
            _ => with_article(&format!("{colour}{bare}")),
        };
    }
    let many = format!("{colour}{}", word.many);
    let (name, digit) = [("two", "2"), ("three", "3"), ("four", "4")][group.count - 2];
    // "A pair of pairs of socks" is none that people say.
    let has_of = word.many.contains(" of ");
    match rng.below(6) {
        0 => format!("{digit} {many}"),
        1 if !has_of && group.count == 2 => format!("a pair of {many}"),
        1 if !has_of => format!("a group of {name} {many}"),
        2 => format!("exactly {name} {many}"),
        _ => format!("{name} {many}"),
    }
}

fn related(one: &str, other: &str, place: Place, rng: &mut Rng) -> String {
    // The same from either side.
    let (one, other, place) = if rng.below(2) == 0 { (one, other, place) } else { (other, one, place.turned_round()) };
    if rng.uniform() < 0.2 {
        return format!("{one} and {other}");
    }
    match (place, rng.below(3)) {
        (Place::LeftOf, 0) => format!("{one} left of {other}"),
        (Place::LeftOf, 1) => format!("{one} on the left and {other} on the right"),
        (Place::LeftOf, _) => format!("{one} to the left of {other}"),
        (Place::RightOf, 0) => format!("{one} right of {other}"),
        (Place::RightOf, 1) => format!("{one} on the right and {other} on the left"),
        (Place::RightOf, _) => format!("{one} to the right of {other}"),
        (Place::Above, 1) => format!("{one} at the top and {other} at the bottom"),
        (Place::Above, _) => format!("{one} above {other}"),
        (Place::Below, 0) => format!("{one} underneath {other}"),
        (Place::Below, 1) => format!("{one} at the bottom and {other} at the top"),
        (Place::Below, _) => format!("{one} below {other}"),
    }
}

/// One in each quarter, row by row.
fn in_quarters([a, b, c, d]: [&str; 4], rng: &mut Rng) -> String {
    match rng.below(4) {
        0 => format!("{a}, {b}, {c} and {d}"),
        1 => format!("{a} and {b} above {c} and {d}"),
        _ => format!("{a} top left, {b} top right, {c} bottom left, {d} bottom right"),
    }
}

fn labelled(thing: &str, lettering: &Lettering, rng: &mut Rng) -> String {
    let word = written(lettering, rng);
    let (here, there) = match lettering.place {
        Some(Place::Above) => ("above", "below"),
        _ => ("below", "above"),
    };
    match rng.below(4) {
        0 => format!("{word} {here} {thing}"),
        1 => format!("{thing} {there} {word}"),
        2 => format!("{thing} and, {here} it, {word}"),
        _ => format!("{thing} with {word} {here} it"),
    }
}

/// `the word "HELLO" in red letters`
fn written(lettering: &Lettering, rng: &mut Rng) -> String {
    let word = &lettering.word;
    let quoted = match rng.below(4) {
        0 => format!("the text \"{word}\""),
        1 => format!("the written word \"{word}\""),
        _ => format!("the word \"{word}\""),
    };
    let face = match lettering.font {
        Typeface::SansSerif => "sans-serif",
        Typeface::Slab => "slab-serif",
        Typeface::Comic => "comic-style",
    };
    let colour = lettering.colour.name();
    match rng.below(4) {
        0 => quoted,
        1 => format!("{quoted} in bold {colour} letters"),
        2 => format!("{quoted} in {colour} {face} letters"),
        _ => format!("{quoted} in {colour} letters"),
    }
}

/// With a blank before it, or empty: not every caption says it.
fn grounded(background: Background, rng: &mut Rng) -> String {
    let way = rng.below(4);
    match background {
        _ if way == 0 => String::new(),
        Background::Plain { colour } => {
            let colour = colour.name();
            match way {
                1 => format!(" on {}", with_article(&format!("{colour} background"))),
                2 => format!(" against a plain {colour} background"),
                _ => format!(" with {}", with_article(&format!("{colour} backdrop"))),
            }
        }
        Background::Gradient { top, bottom } => {
            let (top, bottom) = (top.name(), bottom.name());
            match way {
                1 => format!(" on a background that fades from {top} at the top to {bottom} at the bottom"),
                2 => format!(" on a gradient background, {top} above and {bottom} below"),
                _ => format!(" on a gradient from {top} to {bottom}"),
            }
        }
    }
}

fn styled(style: Style, subject: &str, ground: &str, rng: &mut Rng) -> String {
    let (of, is) = match style {
        Style::ThreeD => (
            ["a 3D render of", "a glossy 3D illustration of", "a 3D icon of"],
            ["3D render", "3D style", "glossy 3D art"],
        ),
        Style::Flat => (
            ["a flat illustration of", "a flat drawing of", "a simple flat icon of"],
            ["flat design", "flat style", "flat vector art"],
        ),
        Style::Noto => (
            ["a cartoon of", "a cartoon drawing of", "a softly shaded cartoon of"],
            ["cartoon style", "cartoon art", "softly shaded cartoon"],
        ),
    };
    match rng.below(5) {
        0 => format!("{subject}{ground}"),
        1 => format!("{subject}{ground}, {}", pick(rng, &is)),
        2 => format!("{}: {subject}{ground}", pick(rng, &is)),
        _ => format!("{} {subject}{ground}", pick(rng, &of)),
    }
}

fn with_article(words: &str) -> String {
    // Only colours come here.
    let article = if words.starts_with("orange") { "an" } else { "a" };
    format!("{article} {words}")
}
