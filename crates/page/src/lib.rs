//! Pages that need nothing but themselves: what reports are written with.
//!
//! ```
//! use rectiflow_page::{page, row, section, table};
//!
//! let mut rows = String::new();
//! row(&mut rows, "loss", "0.25");
//! let mut content = String::new();
//! section(&mut content, "Values at the end", &table(&rows));
//! let html = page("run", "Finished after 20 steps.", &content);
//! assert!(html.contains("<tr><th>loss<td>0.25"));
//! ```
//!
//! A page has one style, follows the reader's choice of light or dark, has no script and loads nothing, so that it can be
//! kept and sent. This crate draws no chart and touches no file.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A whole page. `name` and `lead` are texts; `content` is markup.
pub fn page(name: &str, lead: &str, content: &str) -> String {
    let name = escaped(name);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{name}</title>\n<style>\n{}</style>\n<h1>{name}</h1>\n<p>{}</p>\n{content}</html>\n",
        include_str!("style.css"),
        escaped(lead),
    )
}

/// Adds markup with its heading; nothing if it is empty.
pub fn section(out: &mut String, title: &str, content: &str) {
    if !content.is_empty() {
        let _ = write!(out, "<h2>{}</h2>\n{content}", escaped(title));
    }
}

/// Adds a row of two texts to a table.
pub fn row(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "<tr><th>{}<td>{}", escaped(name), escaped(value));
}

/// A table of rows; nothing of none.
pub fn table(rows: &str) -> String {
    if rows.is_empty() { String::new() } else { format!("<table>{rows}</table>\n") }
}

/// A picture inside of the page. `alt` says what is to be seen where it is not.
pub fn picture(alt: &str, png: &[u8]) -> String {
    format!("<img alt=\"{}\" src=\"data:image/png;base64,{}\">", escaped(alt), STANDARD.encode(png))
}

/// A text that is no markup.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number as people read it, with at most `digits` that count: `0.25`, `20 000`, `3e-5`.
pub fn number(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if !value.is_finite() {
        return value.to_string();
    }
    let magnitude = value.abs().log10().floor() as i32;
    if !(-3..9).contains(&magnitude) {
        let text = format!("{value:.*e}", digits.saturating_sub(1));
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", without_zeros(mantissa));
    }
    let decimals = (digits as i32 - 1 - magnitude).max(0) as usize;
    let text = format!("{value:.decimals$}");
    grouped(without_zeros(&text))
}

fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// With a narrow space before each three digits of a number above 9999.
fn grouped(text: &str) -> String {
    let (whole, fraction) = text.find('.').map_or((text, ""), |point| text.split_at(point));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    if digits.len() < 5 {
        return text.to_owned();
    }
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    format!("{sign}{}{fraction}", groups.join("\u{202f}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_no_markup_wherever_they_stand() {
        let mut content = String::new();
        row(&mut content, "<b>", "a & \"b\"");
        let html = page("<i>", "<u>", &(table(&content) + &picture("<s>", &[1])));
        assert!(!["<b>", "<i>", "<u>", "<s>"].iter().any(|tag| html.contains(tag)), "{html}");
        assert!(html.contains("<tr><th>&lt;b&gt;<td>a &amp; &quot;b&quot;"), "{html}");
        assert_eq!(table(""), "");
    }

    #[test]
    fn numbers_read_as_people_write_them() {
        for (value, expected) in [
            (0.25, "0.25"),
            (20_000.0, "20\u{202f}000"),
            (-1_234_567.0, "-1\u{202f}234\u{202f}567"),
            (1e-5, "1e-5"),
            (0.001, "0.001"),
            (0.000_12, "1.2e-4"),
            (31.24, "31.2"),
            (1234.6, "1235"),
            (0.0, "0"),
            (2.5e12, "2.5e12"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(number(value, 3), expected);
        }
    }
}
