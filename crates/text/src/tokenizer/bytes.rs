//! ByT5's tokens: the bytes of a text. Source: Xue et al. 2022, arXiv:2105.13626; what is done with marks inside a text
//! is that of `ByT5Tokenizer` in transformers.

use crate::tokens::Pieces;

/// Three marks, 256 bytes and 125 sentinels.
pub(crate) const VOCABULARY: usize = 384;
/// Ids before those of bytes.
const MARKS: u32 = 3;
/// Tokens that stand for hidden runs.
pub(super) const SENTINELS: usize = 125;
/// The first of the sentinels, `<extra_id_0>`.
const SENTINEL: u32 = MARKS + 256;

/// Marks that take the spaces on both sides of them along.
const BARE: [(&str, u32); 3] = [("<pad>", 0), ("</s>", 1), ("<unk>", 2)];

/// The ids of a text and the bytes they stand for.
pub(super) fn pieces(text: &str) -> Pieces {
    let mut pieces = Pieces { ids: Vec::new(), spans: Vec::new() };
    let mut start = 0;
    while let Some(mark) = next_mark(text, start) {
        let before = &text[start..mark.start];
        let before = if mark.is_bare() { before.trim_end_matches(is_space) } else { before };
        push_bytes(&mut pieces, before, start);
        pieces.ids.push(mark.id);
        pieces.spans.push((mark.start, mark.end));
        let behind = &text[mark.end..];
        let spaces = if mark.is_bare() { behind.len() - behind.trim_start_matches(is_space).len() } else { 0 };
        start = mark.end + spaces;
    }
    push_bytes(&mut pieces, &text[start..], start);
    pieces
}

/// A token of several characters.
struct Mark {
    id: u32,
    /// Its bytes in the text.
    start: usize,
    end: usize,
}

impl Mark {
    fn is_bare(&self) -> bool {
        self.id < MARKS
    }
}

/// The first mark from byte `start` on.
fn next_mark(text: &str, start: usize) -> Option<Mark> {
    text[start..].match_indices('<').find_map(|(place, _)| {
        let place = start + place;
        let (id, length) = mark_at(&text[place..])?;
        Some(Mark { id, start: place, end: place + length })
    })
}

/// The mark that `text` begins with, and its length in bytes.
fn mark_at(text: &str) -> Option<(u32, usize)> {
    if let Some((mark, id)) = BARE.into_iter().find(|(mark, _)| text.starts_with(mark)) {
        return Some((id, mark.len()));
    }
    let number = text.strip_prefix("<extra_id_")?;
    // Three digits at most: a text full of unfinished marks is not read to its end for each.
    let number = &number[..number.bytes().take(4).position(|byte| byte == b'>')?];
    let index = number.parse::<u32>().ok()?;
    // Written as a number is, without a sign or more zeros.
    let is_one = index < VOCABULARY as u32 - SENTINEL && index.to_string() == number;
    is_one.then(|| (SENTINEL + index, "<extra_id_>".len() + number.len()))
}

fn push_bytes(pieces: &mut Pieces, text: &str, start: usize) {
    pieces.ids.extend(text.bytes().map(|byte| MARKS + u32::from(byte)));
    pieces.spans.extend((start..start + text.len()).map(|place| (place, place + 1)));
}

/// What Python's `strip` takes away: with the four separators of ASCII, which Unicode does not count as spaces.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}
