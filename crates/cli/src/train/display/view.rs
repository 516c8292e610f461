//! The picture of a training: progress, curves, noise levels, figures, and what was said last.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Chart, Dataset, GraphType, Widget};

use super::state::State;
use super::{duration, figure};
use crate::memory::human;

/// Columns of the noise levels.
const BANDS_WIDTH: u16 = 30;
/// A terminal that is narrower shows no noise levels.
const WIDTH_WITH_BANDS: u16 = 72;
/// More than this from the least to the largest loss, and the chart is logarithmic.
const RATIO_LINEAR: f64 = 10.0;

const LOSS: Color = Color::Cyan;
const VALIDATION: Color = Color::Yellow;

/// A state as a picture.
pub(super) struct View<'a>(pub(super) &'a State);

impl Widget for View<'_> {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let state = self.0;
        let one = Constraint::Length(1);
        let [progress, middle, first, second, said] =
            Layout::vertical([one, Constraint::Min(0), one, one, one]).areas(area);
        draw_progress(state, progress, buffer);
        let has_bands = !state.bands.is_empty() && area.width >= WIDTH_WITH_BANDS;
        let bands_width = if has_bands { BANDS_WIDTH } else { 0 };
        let [chart, bands] = Layout::horizontal([Constraint::Min(0), Constraint::Length(bands_width)])
            .spacing(u16::from(has_bands) * 2)
            .areas(middle);
        draw_chart(state, chart, buffer);
        draw_bands(state, bands, buffer);
        losses(state).render(first, buffer);
        figures(state).render(second, buffer);
        Line::from(state.said.as_str()).dim().render(said, buffer);
    }
}

fn draw_progress(state: &State, area: Rect, buffer: &mut Buffer) {
    let share = if state.steps > 0 { (state.step as f64 / state.steps as f64).min(1.0) } else { 0.0 };
    let before = format!("step {} of {} ", state.step, state.steps);
    let left = state.seconds_left().map_or(String::new(), |left| format!("  {} left", duration(left)));
    let after = format!(" {:.1} %{left}", 100.0 * share);
    let columns = usize::from(area.width).saturating_sub(before.len() + after.len());
    let done = (columns as f64 * share) as usize;
    let bar = [Span::from("━".repeat(done)).fg(LOSS), Span::from("─".repeat(columns - done)).dim()];
    let [done, rest] = bar;
    Line::from(vec![before.bold(), done, rest, after.into()]).render(area, buffer);
}

fn draw_chart(state: &State, area: Rect, buffer: &mut Buffer) {
    // Two points of braille a column; more losses than that are told by their means.
    let losses = means(&state.losses, 2 * usize::from(area.width));
    let all = || losses.iter().chain(&state.validation);
    let (least, largest) =
        all().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), (_, loss)| (least.min(*loss), most.max(*loss)));
    if least > largest {
        return Line::from("no loss yet").dim().render(area, buffer);
    }
    let is_logarithmic = least > 0.0 && largest / least > RATIO_LINEAR;
    let height = |loss: f64| if is_logarithmic { loss.log10() } else { loss };
    let loss_at = |height: f64| if is_logarithmic { 10_f64.powf(height) } else { height };
    let [from, to] = [height(least), height(largest)];
    // One loss stands in the middle.
    let margin = if to > from { 0.02 * (to - from) } else { (0.1 * to.abs()).max(1e-3) };
    let y = [from - margin, to + margin];
    let first = all().map(|(step, _)| *step).fold(f64::INFINITY, f64::min);
    let last = all().map(|(step, _)| *step).fold(first + 1.0, f64::max);
    let places = |points: &[(f64, f64)]| points.iter().map(|(step, loss)| (*step, height(*loss))).collect();
    let [losses, validation]: [Vec<(f64, f64)>; 2] = [places(&losses), places(&state.validation)];
    let series = vec![
        Dataset::default()
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().fg(LOSS))
            .data(&losses),
        Dataset::default()
            .marker(Marker::Dot)
            .graph_type(GraphType::Scatter)
            .style(Style::new().fg(VALIDATION))
            .data(&validation),
    ];
    let dim = Style::new().dim();
    let labels = [y[0], (y[0] + y[1]) / 2.0, y[1]].map(|height| format!("{} ", figure(loss_at(height))));
    let steps = [first, last].map(|step| format!("{step:.0}"));
    Chart::new(series)
        .x_axis(Axis::default().bounds([first, last]).labels(steps).style(dim))
        .y_axis(Axis::default().bounds(y).labels(labels).style(dim))
        .legend_position(None)
        .render(area, buffer);
}

/// Means of stretches of equal length, so that there are at most `most`.
fn means(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let stretch = points.len().div_ceil(most.max(1)).max(1);
    let mean = |points: &[(f64, f64)]| {
        let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / points.len() as f64, sum.1 / points.len() as f64)
    };
    points.chunks(stretch).map(mean).collect()
}

/// A bar for each noise level; the longest is that of the largest loss.
fn draw_bands(state: &State, area: Rect, buffer: &mut Buffer) {
    const NAME: usize = 11;
    const LOSS_WIDTH: usize = 8;
    let columns = usize::from(area.width).saturating_sub(NAME + LOSS_WIDTH);
    let largest = state.bands.iter().map(|(_, loss)| *loss).fold(f64::MIN_POSITIVE, f64::max);
    for (row, (band, loss)) in area.rows().zip(&state.bands) {
        let bar = bar(loss / largest, columns);
        let space = " ".repeat(columns - bar.chars().count());
        let name = format!("sigma {band:<width$.4} ", width = NAME - 7);
        Line::from(vec![name.into(), bar.fg(LOSS), space.into(), format!("{:>LOSS_WIDTH$}", figure(*loss)).into()])
            .render(row, buffer);
    }
}

/// To an eighth of a column.
fn bar(share: f64, columns: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * 8.0 * columns as f64) as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

fn losses(state: &State) -> Line<'static> {
    let mut spans = Vec::new();
    let mut part = |text: String, colour| {
        if !spans.is_empty() {
            spans.push(Span::from("   "));
        }
        spans.push(Span::from(text).fg(colour));
    };
    if let Some((_, loss)) = state.losses.last() {
        part(format!("loss {}", figure(*loss)), LOSS);
    }
    if let (Some((_, loss)), Some((step, least))) = (state.validation.last(), state.least_validation()) {
        part(format!("validation {} (least {} at step {step:.0})", figure(*loss), figure(least)), VALIDATION);
    }
    if let Some(rate) = state.samples_a_second() {
        part(format!("{} samples/s", figure(rate)), Color::Reset);
    }
    Line::from(spans)
}

fn figures(state: &State) -> Line<'static> {
    let parts = [
        state.learning_rate.map(|rate| format!("learning rate {}", figure(rate))),
        state.gradient_norm.map(|norm| format!("gradient norm {}", figure(norm))),
        state.memory.map(|bytes| format!("memory {}", human(bytes))),
        state.share.map(|share| format!("{:.0} % of the machine's limit", 100.0 * share)),
    ];
    Line::from(parts.into_iter().flatten().collect::<Vec<_>>().join("   "))
}
