//! A chart as SVG: lines over steps, with axes and a legend. Colours are classes, which the page's style fills in.

use std::fmt::Write as _;

use rectiflow_page::{escaped, number};

use super::axis::Axis;

/// Of the picture, in its own units; it is as wide as its place. Narrow, so that letters are readable on a phone.
const SIZE: [f64; 2] = [520.0, 308.0];
/// Where the axes are: left, top, right, bottom.
const PLOT: [f64; 4] = [62.0, 12.0, 508.0, 262.0];
/// Distinct colours that the style has: of all noise levels together, and of each.
pub(super) const COLOURS: usize = 9;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A thin, pale line: every value.
    Faint,
    /// A line.
    Line,
    /// A line with a dot at each value: they are few.
    Dots,
}

/// Values over steps.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// What it is.
    pub(super) name: String,
    /// Which of the colours.
    pub(super) colour: usize,
    /// How it is drawn.
    pub(super) look: Look,
    /// Steps, and values or gaps.
    pub(super) points: Vec<(u64, Option<f64>)>,
}

/// A chart with its title; nothing if there is no value at all.
pub(super) fn figure(title: &str, unit: &str, series: &[Series]) -> String {
    let series: Vec<&Series> = series.iter().filter(|one| values(one).next().is_some()).collect();
    if series.is_empty() {
        return String::new();
    }
    let steps = || series.iter().flat_map(|one| one.points.iter().map(|(step, _)| *step));
    let x = Axis::exact(steps().min().unwrap_or(0) as f64, steps().max().unwrap_or(0) as f64);
    let y = Axis::of(series.iter().flat_map(|one| values(one)));
    let scale = if y.is_logarithmic() { "logarithmic scale" } else { "" };
    let about: Vec<&str> = [unit, scale].into_iter().filter(|text| !text.is_empty()).collect();
    let about =
        if about.is_empty() { String::new() } else { format!(" <small>{}</small>", escaped(&about.join(", "))) };
    let mut out = format!("<figure><figcaption><b>{}</b>{about}</figcaption>\n", escaped(title));
    let [width, height] = SIZE;
    let _ = writeln!(out, "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">", escaped(title));
    draw_axes(&mut out, &x, &y);
    for one in &series {
        draw_series(&mut out, one, &x, &y);
    }
    out.push_str("</svg>\n");
    if series.len() > 1 {
        out.push_str("<ul class=\"legend\">");
        for one in &series {
            let look = if one.look == Look::Faint { " faint" } else { "" };
            let _ = write!(out, "<li><i class=\"b{}{look}\"></i>{}</li>", one.colour % COLOURS, escaped(&one.name));
        }
        out.push_str("</ul>\n");
    }
    out.push_str("</figure>\n");
    out
}

fn values(series: &Series) -> impl Iterator<Item = f64> {
    series.points.iter().filter_map(|(_, value)| *value)
}

fn draw_axes(out: &mut String, x: &Axis, y: &Axis) {
    let [left, top, right, bottom] = PLOT;
    for tick in y.ticks(5) {
        let Some(place) = y.share(tick).map(|share| bottom - share * (bottom - top)) else { continue };
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{left} {place:.1}H{right}\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 7.0,
            place + 5.0,
            number(tick, 4)
        );
    }
    for tick in x.ticks(5).into_iter().filter(|tick| tick.fract() == 0.0) {
        let Some(place) = x.share(tick).map(|share| left + share * (right - left)) else { continue };
        // Text at the edge must not leave the picture.
        let anchor = if place > right - 20.0 { "end" } else { "middle" };
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{place:.1} {bottom}v5\"/>\
             <text x=\"{place:.1}\" y=\"{:.0}\" text-anchor=\"{anchor}\">{}</text>",
            bottom + 20.0,
            number(tick, 9)
        );
    }
    let _ = writeln!(
        out,
        "<path class=\"axis\" d=\"M{left} {top}V{bottom}H{right}\"/>\
         <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">step</text>",
        (left + right) / 2.0,
        SIZE[1] - 3.0
    );
}

fn draw_series(out: &mut String, series: &Series, x: &Axis, y: &Axis) {
    let [left, top, right, bottom] = PLOT;
    let place = |(step, value): (u64, Option<f64>)| {
        let [x, y] = [x.share(step as f64)?, y.share(value?)?];
        Some([left + x * (right - left), bottom - y * (bottom - top)])
    };
    let mut path = String::new();
    let mut is_drawing = false;
    let points = thinned(&series.points);
    for (index, point) in points.iter().enumerate() {
        let Some([x, y]) = place(*point) else {
            is_drawing = false;
            continue;
        };
        let _ = write!(path, "{}{x:.1} {y:.1}", if is_drawing { "L" } else { "M" });
        let is_alone = !is_drawing && points.get(index + 1).copied().and_then(place).is_none();
        if is_alone {
            // A line with round ends and no length is a dot.
            path.push_str("h0");
        }
        is_drawing = true;
    }
    let colour = series.colour % COLOURS;
    let look = if series.look == Look::Faint { " faint" } else { "" };
    let _ = writeln!(out, "<path class=\"line s{colour}{look}\" d=\"{path}\"/>");
    if series.look == Look::Dots {
        for (step, value) in &points {
            if let (Some([x, y]), Some(value)) = (place((*step, *value)), value) {
                let _ = writeln!(
                    out,
                    "<circle class=\"d{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>step {step}: {}</title></circle>",
                    number(*value, 5)
                );
            }
        }
    }
}

/// At most about a thousand points: of each stretch of steps its least and its largest value, so that no peak is lost.
/// A stretch with a gap has the gap too.
fn thinned(points: &[(u64, Option<f64>)]) -> Vec<(u64, Option<f64>)> {
    const STRETCHES: usize = 500;
    if points.len() <= 2 * STRETCHES {
        return points.to_vec();
    }
    let mut all = Vec::new();
    for stretch in points.chunks(points.len().div_ceil(STRETCHES)) {
        let by_value = |a: &&(u64, Option<f64>), b: &&(u64, Option<f64>)| {
            a.1.unwrap_or_default().total_cmp(&b.1.unwrap_or_default())
        };
        let known = || stretch.iter().filter(|(_, value)| value.is_some());
        let gap = stretch.iter().find(|(_, value)| value.is_none());
        let mut kept: Vec<_> =
            known().min_by(by_value).into_iter().chain(known().max_by(by_value)).chain(gap).collect();
        kept.sort_by_key(|(step, _)| *step);
        kept.dedup();
        all.extend(kept);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(look: Look, values: &[f64]) -> Series {
        let points = (1..).zip(values).map(|(step, value)| (step, value.is_finite().then_some(*value))).collect();
        Series { name: "a <b>".to_owned(), colour: 0, look, points }
    }

    fn path(svg: &str) -> &str {
        svg.split("class=\"line s0\" d=\"").nth(1).unwrap().split('"').next().unwrap()
    }

    #[test]
    fn missing_values_leave_gaps_and_one_between_gaps_is_a_dot() {
        let svg = figure("t", "", &[series(Look::Line, &[1.0, 2.0, f64::NAN, 3.0, f64::NAN, 1.0, 2.0])]);
        let path = path(&svg);
        assert_eq!(path.matches('M').count(), 3, "{path}");
        assert_eq!((path.matches('L').count(), path.matches("h0").count()), (2, 1), "{path}");
    }

    #[test]
    fn a_chart_without_a_value_is_no_chart() {
        assert_eq!(figure("t", "", &[series(Look::Line, &[f64::NAN])]), "");
        assert_eq!(figure("t", "", &[]), "");
    }

    #[test]
    fn peaks_survive_when_there_are_many_points() {
        let mut points: Vec<(u64, Option<f64>)> = (0..100_000).map(|step| (step, Some(1.0))).collect();
        points[77_777].1 = Some(50.0);
        points[55_555].1 = None;
        let thin = thinned(&points);
        assert!(thin.len() < 1600, "{}", thin.len());
        assert!(thin.contains(&(77_777, Some(50.0))) && thin.contains(&(55_555, None)));
        assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn several_series_have_a_legend_with_their_names_made_harmless() {
        let svg = figure("t", "s", &[series(Look::Faint, &[1.0]), series(Look::Dots, &[500.0])]);
        assert!(svg.contains("<li><i class=\"b0 faint\"></i>a &lt;b&gt;</li>"), "{svg}");
        assert!(svg.contains("<small>s, logarithmic scale</small>"), "{svg}");
        assert!(svg.contains("<title>step 1: 500</title>"), "{svg}");
    }
}
