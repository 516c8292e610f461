//! Where texts go so that none lies over another, over a dot or, if it can be, over a line.

use super::canvas::{Area, Canvas, Colour, Place, text_size};
use super::{INK, PAPER};

/// Of a letter's point, in pixels.
const SIZE: f32 = 1.7;
/// Free space around a text.
const MARGIN: f32 = 4.0;

/// Texts with their places.
pub(super) struct Labels {
    bounds: Area,
    taken: Vec<Area>,
    clear: Vec<[Place; 2]>,
    texts: Vec<Text>,
}

struct Text {
    text: String,
    at: Place,
    size: f32,
    colour: Colour,
    /// From the dot it belongs to, if that is not beside it.
    leader: Option<[Place; 2]>,
}

/// Where a text may go.
struct Candidate {
    at: Place,
    area: Area,
    leader: Option<[Place; 2]>,
    /// The less the better.
    cost: f32,
}

impl Labels {
    pub(super) fn new(bounds: Area) -> Labels {
        Labels { bounds, taken: Vec::new(), clear: Vec::new(), texts: Vec::new() }
    }

    /// No text goes here.
    pub(super) fn keep_free(&mut self, area: Area) {
        self.taken.push(area);
    }

    /// No text goes over this line if there is another place for it.
    pub(super) fn keep_clear(&mut self, a: Place, b: Place) {
        self.clear.push([a, b]);
    }

    /// A text at this very place, by its top left.
    pub(super) fn fix(&mut self, text: &str, at: Place, colour: Colour) {
        self.taken.push(area_of(text, at, 1.8));
        self.texts.push(Text { text: text.into(), at, size: 1.8, colour, leader: None });
    }

    /// A text for a dot, in the best place that is left.
    pub(super) fn put(&mut self, text: &str, dot: Place, colour: Colour) {
        let best = self.candidates(text, dot).min_by(|a, b| a.cost.total_cmp(&b.cost));
        let Some(Candidate { at, area, leader, .. }) = best else { return };
        self.taken.push(area);
        self.clear.extend(leader);
        self.texts.push(Text { text: text.into(), at, size: SIZE, colour, leader });
    }

    /// Beside the dot, and then in rings around it.
    fn candidates(&self, text: &str, dot: Place) -> impl Iterator<Item = Candidate> {
        const DIRECTIONS: usize = 32;
        let [width, height] = text_size(text, SIZE);
        (0..16).flat_map(move |ring| (0..DIRECTIONS).map(move |direction| (ring, direction))).map(
            move |(ring, direction)| {
                let angle = direction as f32 / DIRECTIONS as f32 * std::f32::consts::TAU;
                let (sine, cosine) = angle.sin_cos();
                let away = 14.0 + ring as f32 * 16.0;
                let near = [dot[0] + away * cosine, dot[1] + away * sine];
                // The side of the text that faces the dot is `away` from it.
                let at = [near[0] + width * (cosine - 1.0) / 2.0, near[1] + height * (sine - 1.0) / 2.0];
                let leader = (ring > 0).then_some([dot, near]);
                let area = area_of(text, at, SIZE);
                Candidate { at, area, leader, cost: self.cost(&area, leader) + away + 6.0 * (1.0 - cosine) }
            },
        )
    }

    fn cost(&self, area: &Area, leader: Option<[Place; 2]>) -> f32 {
        let bounds = &self.bounds;
        let outside = (0..2).any(|axis| area.min[axis] < bounds.min[axis] || area.max[axis] > bounds.max[axis]);
        let taken = self.taken.iter().filter(|other| area.touches(other)).count();
        let over_lines = self.clear.iter().filter(|[a, b]| area.is_crossed(*a, *b)).count();
        let leader_over = leader.map_or(0, |[dot, near]| {
            let own = Area::around(dot, 2.0);
            self.taken.iter().filter(|other| !other.touches(&own) && other.is_crossed(dot, near)).count()
        });
        1e4 * (taken + usize::from(outside)) as f32 + 1500.0 * over_lines as f32 + 400.0 * leader_over as f32
    }

    pub(super) fn draw(&self, canvas: &mut Canvas) {
        for [dot, near] in self.texts.iter().filter_map(|text| text.leader) {
            canvas.line(dot, near, 1.0, [150, 150, 150]);
        }
        for Text { text, at, size, colour, .. } in &self.texts {
            canvas.fill(area_of(text, *at, *size), PAPER, 0.75);
            let dark = [0, 1, 2].map(|channel| ((u16::from(colour[channel]) + u16::from(INK[channel])) / 2) as u8);
            canvas.text(text, *at, *size, dark);
        }
    }

    /// Areas of the texts that were put.
    #[cfg(test)]
    pub(super) fn areas(&self) -> Vec<Area> {
        self.texts.iter().map(|text| area_of(&text.text, text.at, text.size)).collect()
    }
}

fn area_of(text: &str, at: Place, size: f32) -> Area {
    let [width, height] = text_size(text, size);
    Area { min: [at[0] - MARGIN, at[1] - MARGIN], max: [at[0] + width + MARGIN, at[1] + height + 2.0 * size + MARGIN] }
}
