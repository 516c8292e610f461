//! Pictures in a terminal, by the graphics protocol of kitty or the inline images of iTerm2.
//! Sources: <https://sw.kovidgoyal.net/kitty/graphics-protocol/>, <https://iterm2.com/documentation-images.html>.
//!
//! This module writes nothing; it makes the text that a terminal understands.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Lines of the terminal that a picture takes.
const LINES: usize = 16;
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
        let protocol = match (is_kitty, is_iterm) {
            (true, _) => Protocol::Kitty,
            (_, true) => Protocol::Iterm,
            _ => return None,
        };
        Some(Terminal { protocol, has_room: false })
    }

    /// What shows a PNG in the lines above the cursor, which are made the first time, and leaves the cursor where it is.
    pub(super) fn commands(&mut self, png: &[u8]) -> String {
        let room = if self.has_room { String::new() } else { "\n".repeat(LINES) };
        self.has_room = true;
        let picture = match self.protocol {
            Protocol::Kitty => kitty(&BASE64.encode(png)),
            Protocol::Iterm => format!(
                "\x1b7\x1b]1337;File=inline=1;size={};height={LINES};preserveAspectRatio=1:{}\x07\x1b8",
                png.len(),
                BASE64.encode(png)
            ),
        };
        format!("{room}\r\x1b[{LINES}A{picture}\x1b[{LINES}B\r")
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
        assert_eq!(detected(true, &[("TERM", "xterm-256color")]), None);
        assert_eq!(detected(true, &[("TERM", "xterm-kitty"), ("TMUX", "/tmp/x")]), None);
        assert_eq!(detected(false, &[("TERM", "xterm-kitty")]), None);
    }

    #[test]
    fn a_picture_comes_in_pieces_that_join_to_it() {
        let png: Vec<u8> = (0..10_000).map(|i| (i * 7 % 256) as u8).collect();
        let mut terminal = Terminal { protocol: Protocol::Kitty, has_room: false };
        let first = terminal.commands(&png);
        assert!(first.starts_with(&"\n".repeat(LINES)) && !terminal.commands(&png).starts_with('\n'));
        let pieces: Vec<&str> =
            first.split("\x1b_G").skip(1).map(|piece| piece.split("\x1b\\").next().unwrap()).collect();
        let (keys, data): (Vec<_>, Vec<_>) = pieces.iter().map(|piece| piece.split_once(';').unwrap()).unzip();
        assert!(keys[0].starts_with("a=T,f=100,") && keys[0].ends_with("m=1"));
        assert_eq!((keys.len(), keys[1], keys[keys.len() - 1]), (4, "m=1", "m=0"));
        assert!(data.iter().all(|piece| piece.len() <= PIECE));
        assert_eq!(BASE64.decode(data.concat()).unwrap(), png);

        let mut terminal = Terminal { protocol: Protocol::Iterm, has_room: true };
        let text = terminal.commands(&png);
        let data = text.split("preserveAspectRatio=1:").nth(1).unwrap().split('\x07').next().unwrap();
        assert_eq!(BASE64.decode(data).unwrap(), png);
        assert!(text.contains("size=10000;"));
    }
}
