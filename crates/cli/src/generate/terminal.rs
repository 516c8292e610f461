//! Pictures in a terminal, by the graphics protocol of kitty, the inline images of iTerm2, or Sixel.
//! Sources: <https://sw.kovidgoyal.net/kitty/graphics-protocol/>, <https://iterm2.com/documentation-images.html>.
//!
//! This module writes nothing; it makes the text that a terminal understands.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rectiflow_generate::{Format, Image};

use super::sixel;

/// Lines of the terminal that a picture takes.
const LINES: usize = 16;
/// Pixel rows of these in Sixel, for characters that are at least this many high: a picture must not scroll the terminal.
const SIXEL_ROWS: usize = LINES * 12;
/// Characters of one kitty command.
const PIECE: usize = 4096;
/// So that the next picture takes the place of the one before.
const PICTURE_ID: u32 = 0x5d_3f;

/// A terminal that shows pictures.
pub(super) struct Terminal {
    protocol: Protocol,
    /// There is room for a picture above the cursor.
    has_room: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Kitty,
    Iterm,
    Sixel,
}

impl Terminal {
    /// The terminal, if what it says in the environment is known to show pictures. Never one that is no terminal, and not
    /// inside tmux or screen, which keep such commands to themselves.
    pub(super) fn detect(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Option<Terminal> {
        if !is_terminal || variable("TMUX").is_some() || variable("STY").is_some() {
            return None;
        }
        let is = |name: &str, values: &[&str]| variable(name).is_some_and(|value| values.contains(&value.as_str()));
        let is_kitty = variable("KITTY_WINDOW_ID").is_some()
            || is("TERM", &["xterm-kitty", "xterm-ghostty"])
            || is("TERM_PROGRAM", &["ghostty"]);
        let is_iterm = is("TERM_PROGRAM", &["iTerm.app", "WezTerm"]) || is("LC_TERMINAL", &["iTerm2"]);
        // Konsole since 22.04 and Windows Terminal; those before pass over such strings.
        let is_sixel = variable("TERM")
            .is_some_and(|name| ["foot", "mlterm", "contour"].iter().any(|one| name.starts_with(one)))
            || is("TERM_PROGRAM", &["mintty"])
            || variable("WT_SESSION").is_some()
            || variable("KONSOLE_VERSION").is_some();
        let protocol = match (is_kitty, is_iterm, is_sixel) {
            (true, ..) => Protocol::Kitty,
            (_, true, _) => Protocol::Iterm,
            (.., true) => Protocol::Sixel,
            _ => return None,
        };
        Some(Terminal { protocol, has_room: false })
    }

    /// What shows a picture in the lines above the cursor, which are made the first time, and leaves the cursor where it
    /// is. None for a picture that has no pixels.
    pub(super) fn commands(&mut self, picture: &Image) -> Option<String> {
        if picture.rgb.is_empty() {
            return None;
        }
        let png = || picture.encode(Format::Png, &[]).ok();
        let shown = match self.protocol {
            Protocol::Kitty => kitty(&BASE64.encode(png()?)),
            Protocol::Iterm => {
                let png = png()?;
                format!(
                    "\x1b7\x1b]1337;File=inline=1;size={};height={LINES};preserveAspectRatio=1:{}\x07\x1b8",
                    png.len(),
                    BASE64.encode(png)
                )
            }
            Protocol::Sixel => format!("\x1b7{}\x1b8", sixel::encode(picture, SIXEL_ROWS)),
        };
        let room = if self.has_room { String::new() } else { "\n".repeat(LINES) };
        self.has_room = true;
        Some(format!("{room}\r\x1b[{LINES}A{shown}\x1b[{LINES}B\r"))
    }
}

/// The picture in pieces; the terminal says nothing to them (`q=2`) and leaves its cursor (`C=1`).
fn kitty(data: &str) -> String {
    let count = data.len().div_ceil(PIECE);
    let pieces = data.as_bytes().chunks(PIECE).map(String::from_utf8_lossy).enumerate();
    let command = |(index, piece): (usize, std::borrow::Cow<'_, str>)| {
        let more = u8::from(index + 1 < count);
        match index {
            0 => format!("\x1b_Ga=T,f=100,i={PICTURE_ID},p=1,r={LINES},C=1,q=2,m={more};{piece}\x1b\\"),
            _ => format!("\x1b_Gm={more};{piece}\x1b\\"),
        }
    };
    pieces.map(command).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detected(is_terminal: bool, variables: &[(&str, &str)]) -> Option<Protocol> {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
        Terminal::detect(is_terminal, variable).map(|terminal| terminal.protocol)
    }

    #[test]
    fn only_terminals_that_are_known_to_show_pictures_get_them() {
        assert_eq!(detected(true, &[("TERM", "xterm-kitty")]), Some(Protocol::Kitty));
        assert_eq!(detected(true, &[("TERM_PROGRAM", "ghostty")]), Some(Protocol::Kitty));
        assert_eq!(detected(true, &[("TERM_PROGRAM", "WezTerm")]), Some(Protocol::Iterm));
        assert_eq!(detected(true, &[("LC_TERMINAL", "iTerm2")]), Some(Protocol::Iterm));
        assert_eq!(detected(true, &[("TERM", "foot-extra")]), Some(Protocol::Sixel));
        assert_eq!(detected(true, &[("TERM", "xterm-256color"), ("WT_SESSION", "1")]), Some(Protocol::Sixel));
        assert_eq!(detected(true, &[("TERM", "xterm-256color")]), None);
        assert_eq!(detected(true, &[("TERM", "xterm-kitty"), ("TMUX", "/tmp/x")]), None);
        assert_eq!(detected(false, &[("TERM", "xterm-kitty")]), None);
    }

    #[test]
    fn a_picture_comes_in_pieces_that_join_to_it() {
        // Noise, so that its PNG is longer than a piece.
        let rgb =
            (0..3 * 64 * 64_u64).map(|i| (i.wrapping_mul(i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        let picture = Image { width: 64, height: 64, rgb };
        let png = picture.encode(Format::Png, &[]).unwrap();
        let mut terminal = Terminal { protocol: Protocol::Kitty, has_room: false };
        let first = terminal.commands(&picture).unwrap();
        assert!(first.starts_with(&"\n".repeat(LINES)) && !terminal.commands(&picture).unwrap().starts_with('\n'));
        let pieces: Vec<&str> =
            first.split("\x1b_G").skip(1).map(|piece| piece.split("\x1b\\").next().unwrap()).collect();
        let (keys, data): (Vec<_>, Vec<_>) = pieces.iter().map(|piece| piece.split_once(';').unwrap()).unzip();
        assert!(keys[0].starts_with("a=T,f=100,") && keys[0].ends_with("m=1"));
        assert!(keys.len() > 2 && keys[1] == "m=1" && keys[keys.len() - 1] == "m=0");
        assert!(data.iter().all(|piece| piece.len() <= PIECE));
        assert_eq!(BASE64.decode(data.concat()).unwrap(), png);

        let mut terminal = Terminal { protocol: Protocol::Iterm, has_room: true };
        let text = terminal.commands(&picture).unwrap();
        let data = text.split("preserveAspectRatio=1:").nth(1).unwrap().split('\x07').next().unwrap();
        assert_eq!(BASE64.decode(data).unwrap(), png);
        assert!(text.contains(&format!("size={};", png.len())));

        let mut terminal = Terminal { protocol: Protocol::Sixel, has_room: true };
        let text = terminal.commands(&picture).unwrap();
        assert!(text.contains("\x1b7\x1bP0;1q\"1;1;192;192#") && text.contains("\x1b\\\x1b8"));
    }
}
