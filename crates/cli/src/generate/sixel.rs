//! Pictures for terminals that show Sixel graphics: bands of six rows, a run of characters for each colour of a band.
//! Source: DEC STD 070, chapter "Sixel graphics"; <https://vt100.net/docs/vt3xx-gp/chapter14.html>.
//!
//! Previews are small and roughly right, so colours are those of a cube of 6x6x6, dithered; no palette is looked for.

use std::fmt::Write;

use rectiflow_generate::Image;

/// Values of a channel.
const LEVELS: usize = 6;
/// Rows of a band.
const BAND: usize = 6;
/// Thresholds of ordered dithering, in sixteenths.
const DITHER: [[u8; 4]; 4] = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]];

/// The picture, which has pixels, scaled to `height` rows, as a device control string.
pub(super) fn encode(image: &Image, height: usize) -> String {
    let width = (image.width * height / image.height).max(1);
    // Pixels are squares, and the picture has this size; what is not painted stays as it is.
    let mut text = format!("\x1bP0;1q\"1;1;{width};{height}");
    for colour in 0..LEVELS.pow(3) {
        let percent = |place: u32| colour / LEVELS.pow(place) % LEVELS * 100 / (LEVELS - 1);
        let _ = write!(text, "#{colour};2;{};{};{}", percent(2), percent(1), percent(0));
    }
    for top in (0..height).step_by(BAND) {
        // Not behind the last one: that would be a line more, which may scroll the terminal.
        text.push_str(if top > 0 { "-" } else { "" });
        let row = |y: usize| -> Vec<usize> {
            let from = |x: usize| [x * image.width / width, y * image.height / height];
            (0..width).map(|x| colour_at(image, from(x), [x, y])).collect()
        };
        let band: Vec<Vec<usize>> = (top..height.min(top + BAND)).map(row).collect();
        let mut colours: Vec<usize> = band.concat();
        colours.sort_unstable();
        colours.dedup();
        for (index, colour) in colours.iter().enumerate() {
            // Back to the start of the band for each colour after the first.
            text.push_str(if index > 0 { "$" } else { "" });
            let _ = write!(text, "#{colour}");
            let columns = (0..width).map(|x| {
                let bits = band.iter().enumerate().map(|(row, pixels)| u8::from(pixels[x] == *colour) << row);
                char::from(b'?' + bits.sum::<u8>())
            });
            push_runs(&mut text, columns);
        }
    }
    text.push_str("\x1b\\");
    text
}

/// The colour of the cube for a pixel; `to` is where it will stand.
fn colour_at(image: &Image, from: [usize; 2], to: [usize; 2]) -> usize {
    let start = 3 * (from[1] * image.width + from[0]);
    let threshold = usize::from(DITHER[to[1] % 4][to[0] % 4]) * 255 / 16;
    image.rgb[start..start + 3].iter().fold(0, |colour, channel| {
        let level = (usize::from(*channel) * (LEVELS - 1) + threshold) / 255;
        colour * LEVELS + level.min(LEVELS - 1)
    })
}

/// Equal characters as their number and one of them, where that is shorter.
fn push_runs(text: &mut String, characters: impl Iterator<Item = char>) {
    let characters: Vec<char> = characters.collect();
    for run in characters.chunk_by(|a, b| a == b) {
        match run {
            [one, _, _, _, ..] => {
                let _ = write!(text, "!{}{one}", run.len());
            }
            few => text.extend(few),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a terminal paints: a colour of the cube for each pixel.
    fn painted(text: &str) -> Vec<Vec<Option<usize>>> {
        let data = text.strip_prefix("\x1bP0;1q\"1;1;").unwrap().strip_suffix("\x1b\\").unwrap();
        let (size, data) = data.split_at(data.find('#').unwrap());
        let (width, height) = size.split_once(';').unwrap();
        let (width, height): (usize, usize) = (width.parse().unwrap(), height.parse().unwrap());
        let mut pixels = vec![vec![None; width]; height];
        let (mut x, mut top, mut colour, mut repeat) = (0, 0, 0, 1);
        let mut rest = data;
        while let Some(first) = rest.chars().next() {
            rest = &rest[1..];
            let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == ';' && first == '#')).unwrap_or(rest.len());
            match first {
                '#' => {
                    let (number, tail) = rest.split_at(digits);
                    colour = number.split(';').next().unwrap().parse().unwrap();
                    rest = tail;
                }
                '!' => {
                    let (number, tail) = rest.split_at(digits);
                    repeat = number.parse().unwrap();
                    rest = tail;
                }
                '$' => x = 0,
                '-' => (x, top) = (0, top + BAND),
                sixel => {
                    for _ in 0..repeat {
                        for row in (0..BAND).filter(|row| (sixel as u8 - b'?') >> row & 1 == 1) {
                            assert!(pixels[top + row][x].replace(colour).is_none(), "painted twice");
                        }
                        x += 1;
                    }
                    repeat = 1;
                }
            }
        }
        pixels
    }

    #[test]
    fn a_terminal_paints_every_pixel_in_the_nearest_colours() {
        let (width, height) = (9, 13);
        let rgb = (0..width * height).flat_map(|i| [(i * 2) as u8, (255 - i * 2) as u8, 128]).collect();
        let image = Image { width, height, rgb };
        let pixels = painted(&encode(&image, height));
        for (y, row) in pixels.iter().enumerate() {
            for (x, colour) in row.iter().enumerate() {
                let colour = colour.expect("every pixel is painted");
                let levels = [colour / 36, colour / 6 % 6, colour % 6];
                for (level, channel) in levels.iter().zip(&image.rgb[3 * (y * width + x)..]) {
                    assert!((*level as f64 * 51.0 - f64::from(*channel)).abs() <= 51.0, "{x} {y}");
                }
            }
        }
    }

    #[test]
    fn a_picture_is_scaled_and_a_plain_one_is_short() {
        let image = Image { width: 4, height: 2, rgb: [255, 0, 51].repeat(8) };
        let text = encode(&image, 12);
        assert!(text.starts_with("\x1bP0;1q\"1;1;24;12"));
        // 5 * 36 + 0 * 6 + 1, with all six rows of 24 columns set.
        assert!(text.ends_with("#181!24~-#181!24~\x1b\\"), "{text}");
        assert!(painted(&text).concat().iter().all(|colour| *colour == Some(181)));
    }
}
