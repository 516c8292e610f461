/// Characters of a name from a file that a message shows.
const NAME_CHARS_MAX: usize = 200;
/// Characters of a whole explanation; names in it are cut already.
const REASON_CHARS_MAX: usize = 800;

/// A name or value from a file for a message: it stays on its line, short, and sends the terminal no commands.
pub(crate) fn name(text: &str) -> String {
    printable(text, NAME_CHARS_MAX)
}

/// An explanation that may repeat what a file holds.
pub(crate) fn reason(text: &str) -> String {
    printable(text, REASON_CHARS_MAX)
}

fn printable(text: &str, chars_max: usize) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut shown: String = text.chars().take(chars_max).map(visible).collect();
    if text.chars().nth(chars_max).is_some() {
        shown.push_str("...");
    }
    shown
}
