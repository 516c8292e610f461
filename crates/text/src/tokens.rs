use std::ops::{Range, RangeInclusive};

use crate::weighted::WeightedText;

/// The lengths that T5's token list may have. diffusers refuses more than 512; fewer than SD3's 77 are for encoders that
/// were trained with them.
pub const T5_LENGTHS: RangeInclusive<usize> = 8..=512;

/// What Stability-AI/sd3.5 never goes below.
pub const STABILITY_LENGTH_MIN: usize = 77;

/// A text as an encoder takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    /// Token ids, padded to the encoder's length.
    pub ids: Vec<u32>,
    /// What each of them counts: 1, where the text does not say otherwise.
    pub weights: Vec<f32>,
    /// How many of them are not padding; the begin and end marks count.
    pub real: usize,
    /// What did not fit.
    pub cut: Option<Cut>,
}

impl Tokens {
    /// Puts an empty text's tokens behind, until there are `length`, a multiple of as many.
    pub fn fill_to(&mut self, length: usize, empty: &Tokens) {
        while self.ids.len() < length {
            self.ids.extend_from_slice(&empty.ids);
            self.weights.extend_from_slice(&empty.weights);
            self.real += empty.real;
        }
    }

    /// Whether all of them count once.
    pub fn are_plain(&self) -> bool {
        self.weights.iter().all(|weight| *weight == 1.0)
    }
}

/// The end of a text that its encoder will not see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// How many tokens were lost.
    pub tokens: usize,
    /// Their text as it was typed, from the first lost token to the end.
    pub words: String,
}

/// How many tokens T5 gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum T5Length {
    /// Always this many: padded, or cut (`max_sequence_length` in diffusers).
    Padded(usize),
    /// As many as the text has, padded to `min`, cut at `max` (Stability-AI/sd3.5, whose `max` is unbounded).
    AtLeast {
        /// Shorter texts are padded to this.
        min: usize,
        /// Longer texts are cut to this.
        max: usize,
    },
}

/// How a text becomes T5's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct T5Rule {
    /// How many tokens T5 gets.
    pub length: T5Length,
    /// T5 sees only this many characters (Unicode scalar values) of the text.
    pub t5_chars_max: Option<usize>,
}

impl T5Rule {
    /// diffusers: `length` tokens, of the whole text. Its own default is 256.
    pub fn diffusers(length: usize) -> Self {
        T5Rule { length: T5Length::Padded(length), t5_chars_max: None }
    }

    /// Stability-AI/sd3.5: 77 tokens or more, of the first 226 characters (`text[:226]` in `sd3_infer.py`).
    pub fn stability() -> Self {
        let length = T5Length::AtLeast { min: STABILITY_LENGTH_MIN, max: *T5_LENGTHS.end() };
        T5Rule { length, t5_chars_max: Some(226) }
    }

    /// The part of `text` that T5 sees.
    pub(crate) fn visible<'a>(&self, text: &'a str) -> &'a str {
        let end = self.t5_chars_max.and_then(|count| text.char_indices().nth(count));
        end.map_or(text, |(end, _)| &text[..end])
    }
}

impl T5Length {
    /// The least and the most tokens.
    pub(crate) fn bounds(self) -> (usize, usize) {
        match self {
            T5Length::Padded(length) => (length, length),
            T5Length::AtLeast { min, max } => (min, max),
        }
    }

    /// Whether tokens can be made by this rule: both bounds in [`T5_LENGTHS`] and in order.
    pub(crate) fn is_possible(self) -> bool {
        let (min, max) = self.bounds();
        min <= max && T5_LENGTHS.contains(&min) && T5_LENGTHS.contains(&max)
    }
}

/// Words of more tokens are divided between runs; ComfyUI's limit.
const WHOLE_WORD_MAX: usize = 8;

/// A text's tokens without marks or padding, each with the bytes of the text it stands for.
pub(crate) struct Pieces {
    pub(crate) ids: Vec<u32>,
    /// Start and end of each token in the text. Tokens that share a character share its span.
    pub(crate) spans: Vec<(usize, usize)>,
}

impl Pieces {
    /// What each token counts.
    pub(crate) fn weights(&self, text: &WeightedText) -> Vec<f32> {
        self.spans.iter().map(|span| text.weight_at(span.0)).collect()
    }

    /// Tokens `from..end` that go into a run of at most `room`: up to the first of the text's `breaks`, and in a run that
    /// others follow not up to the middle of a word, unless that is long.
    pub(crate) fn chunk(&self, from: usize, room: usize, breaks: &[usize], is_last: bool) -> Range<usize> {
        let end = self.ids.len().min(from + room);
        if is_last || end == from {
            return from..end;
        }
        let is_broken = |at: &usize| breaks.iter().any(|b| (self.spans[at - 1].0 + 1..=self.spans[*at].0).contains(b));
        if let Some(end) = (from + 1..end.min(self.ids.len() - 1) + 1).find(is_broken) {
            return from..end;
        }
        let begins_word = |at: &usize| self.spans[*at].0 > self.spans[at - 1].1;
        let whole = (from + 1..=end).rev().take(WHOLE_WORD_MAX).find(|at| *at == self.ids.len() || begins_word(at));
        from..whole.unwrap_or(end)
    }

    /// Keeps the first `room` tokens. Returns how many are lost and the byte where they start.
    pub(crate) fn cut_to(&mut self, room: usize) -> Option<(usize, usize)> {
        let lost = self.ids.len().checked_sub(room).filter(|&lost| lost > 0)?;
        let start = self.spans[room].0;
        self.ids.truncate(room);
        self.spans.truncate(room);
        Some((lost, start))
    }

    /// How many tokens reach past byte `end`.
    pub(crate) fn past(&self, end: usize) -> usize {
        self.spans.iter().filter(|span| span.1 > end).count()
    }
}

impl Cut {
    /// The report on `tokens` tokens lost from byte `start` of `text` on. Nothing is lost with spaces alone.
    pub(crate) fn report(text: &str, tokens: usize, start: usize) -> Option<Self> {
        let words = text[text.floor_char_boundary(start)..].trim();
        (tokens > 0 && !words.is_empty()).then(|| Cut { tokens, words: words.to_owned() })
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tokens = if self.tokens == 1 { "1 token".into() } else { format!("{} tokens", self.tokens) };
        write!(f, "{tokens} cut off: \"{}\"", self.words)
    }
}
