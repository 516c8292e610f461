//! Prompts with parts that count more or less, as AUTOMATIC1111's web UI writes them: `(cat:1.3)`, `(cat)` for
//! 1.1, `[cat]` for 1/1.1, one in the other for their product; `\(` and `\:` for the sign itself; the word BREAK where a new run
//! of CLIP tokens begins. What a weight does to a token is ComfyUI's rule ([`weigh`]).
//!
//! What this module does not do: read schedules and alternations (`[cat:dog:0.5]`, `[cat|dog]`), or tags (`<lora:...>`).
//!
//! Shape letters: B batch, L tokens, D width.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use std::collections::HashMap;

use burn::tensor::Tensor;
use rectiflow_nn::from_f32;

/// What round brackets without a number multiply by, and square ones divide by.
const STEP: f32 = 1.1;
/// Beyond it, either way, no encoder's output means anything.
const WEIGHT_MAX: f32 = 10.0;
const BREAK: &str = "BREAK";
/// No weight takes more to write.
const NUMBER_BYTES_MAX: usize = 32;

/// A text and what its parts count.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedText {
    text: String,
    /// From which byte on, and how much; before the first, 1.
    runs: Vec<(usize, f32)>,
    /// Bytes at which a new run of CLIP tokens begins.
    breaks: Vec<usize>,
    /// Brackets that have no partner and stand in the text.
    unpaired: String,
}

/// A weight that no token can have.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "{words:?} would count {weight} times\nhint: give weights from -{WEIGHT_MAX} to {WEIGHT_MAX}; 0.5 to 1.5 is usual. \
     Write \\( and \\) for brackets that are part of the text"
)]
pub struct WeightError {
    words: String,
    weight: f32,
}

impl WeightedText {
    /// Every part counts once, and brackets are brackets.
    pub fn plain(text: &str) -> WeightedText {
        WeightedText { text: text.to_owned(), runs: Vec::new(), breaks: Vec::new(), unpaired: String::new() }
    }

    /// Reads the marks of a text. Brackets without a partner are part of the text.
    ///
    /// # Errors
    /// A weight, or the product of those around a word, is no number, or beyond -10 to 10.
    pub fn parse(marked: &str) -> Result<WeightedText, WeightError> {
        let groups = groups(marked);
        let opens: HashMap<usize, f32> = groups.iter().map(|group| (group.open, group.weight)).collect();
        let ends: HashMap<usize, usize> = groups.iter().map(|group| (group.end, group.close)).collect();
        let mut read = WeightedText::plain("");
        let mut weights = vec![1.0_f32];
        let mut chars = marked.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if let Some(weight) = opens.get(&at) {
                weights.push(weights[weights.len() - 1] * weight);
                read.runs.push((read.text.len(), weights[weights.len() - 1]));
            } else if let Some(close) = ends.get(&at) {
                // The number is no text.
                while chars.next_if(|(at, _)| at <= close).is_some() {}
                weights.pop();
                read.runs.push((read.text.len(), weights[weights.len() - 1]));
            } else if let Some((_, escaped)) = chars.next_if(|(_, next)| c == '\\' && is_mark(*next)) {
                read.text.push(escaped);
            } else {
                if is_bracket(c) {
                    read.unpaired.push(c);
                }
                read.text.push(c);
            }
        }
        read.runs.dedup_by(|later, earlier| {
            // Of two at one place the later one counts.
            later.0 == earlier.0 && {
                earlier.1 = later.1;
                true
            }
        });
        read.take_breaks();
        match read.weights().into_iter().find(|(_, weight)| !(-WEIGHT_MAX..=WEIGHT_MAX).contains(weight)) {
            Some((words, weight)) => Err(WeightError { words: words.to_owned(), weight }),
            None => Ok(read),
        }
    }

    /// The text without its marks.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The parts that count other than once, and how much.
    pub fn weights(&self) -> Vec<(&str, f32)> {
        let ends = self.runs.iter().skip(1).map(|(start, _)| *start).chain([self.text.len()]);
        let parts = self.runs.iter().zip(ends).map(|((start, weight), end)| (self.text[*start..end].trim(), *weight));
        parts.filter(|(words, weight)| *weight != 1.0 && !words.is_empty()).collect()
    }

    /// Bytes at which a new run of CLIP tokens begins.
    pub fn breaks(&self) -> &[usize] {
        &self.breaks
    }

    /// Brackets that have no partner and so are part of the text, in their order.
    pub fn unpaired(&self) -> &str {
        &self.unpaired
    }

    /// What the token counts whose bytes begin at `start`. Spaces before its first letter may be outside of its brackets.
    pub(crate) fn weight_at(&self, start: usize) -> f32 {
        let spaces = self.text.get(start..).map_or(0, |rest| rest.len() - rest.trim_start().len());
        let before = self.runs.partition_point(|(from, _)| *from <= start + spaces);
        before.checked_sub(1).map_or(1.0, |run| self.runs[run].1)
    }

    /// Takes the word BREAK out wherever it stands alone.
    fn take_breaks(&mut self) {
        let is_word = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let mut from = 0;
        while let Some(found) = self.text[from..].find(BREAK) {
            let (start, end) = (from + found, from + found + BREAK.len());
            from = end;
            if is_word(self.text[..start].chars().next_back()) && is_word(self.text[end..].chars().next()) {
                self.text.replace_range(start..end, "");
                self.breaks.push(start);
                for (place, _) in &mut self.runs {
                    *place -= place.saturating_sub(start).min(BREAK.len());
                }
                from = start;
            }
        }
    }
}

/// Brackets that belong together: bytes of the marked text.
struct Group {
    open: usize,
    /// Where its words end: at the colon before a number, or at the closing bracket.
    end: usize,
    close: usize,
    weight: f32,
}

/// Every pair of brackets that are not escaped.
fn groups(marked: &str) -> Vec<Group> {
    let mut opened: Vec<(usize, char)> = Vec::new();
    let mut open_of_kind = [0_usize; 2];
    let mut found = Vec::new();
    let mut is_escaped = false;
    for (at, c) in marked.char_indices() {
        let escaped = is_escaped;
        is_escaped = c == '\\' && !escaped;
        let partner = match c {
            '(' | '[' if !escaped => {
                opened.push((at, c));
                open_of_kind[usize::from(c == '[')] += 1;
                continue;
            }
            ')' if !escaped => '(',
            ']' if !escaped => '[',
            _ => continue,
        };
        // What was opened since its partner has none.
        let waiting = usize::from(partner == '[');
        if open_of_kind[waiting] == 0 {
            continue;
        }
        let open = loop {
            let Some((open, kind)) = opened.pop() else { break 0 };
            open_of_kind[usize::from(kind == '[')] -= 1;
            if kind == partner {
                break open;
            }
        };
        let inside = &marked[open + 1..at];
        // A long text in deep brackets is not looked through for each of them.
        let tail = inside.floor_char_boundary(inside.len().saturating_sub(NUMBER_BYTES_MAX));
        let number = inside[tail..].rfind(':').map(|colon| inside.split_at(tail + colon));
        let number = number.map(|(words, number)| (words, &number[1..]));
        let number = number.filter(|(words, _)| c == ')' && !words.ends_with('\\'));
        let number = number.and_then(|(words, number)| Some((open + 1 + words.len(), number.trim().parse().ok()?)));
        let (end, weight) = number.unwrap_or((at, if c == ')' { STEP } else { 1.0 / STEP }));
        found.push(Group { open, end, close: at, weight });
    }
    found
}

fn is_bracket(c: char) -> bool {
    matches!(c, '(' | ')' | '[' | ']')
}

/// What a backslash takes its meaning from.
fn is_mark(c: char) -> bool {
    is_bracket(c) || matches!(c, '\\' | ':')
}

/// Tokens moved away from those of an empty text, or towards them: `empty + weight (token - empty)`, ComfyUI's rule
/// (`ClipTokenWeightEncoder`). Tokens of weight 1 stay the same to the bit.
///
/// tokens `[1, L, D]`, empty `[1, E, D]`, of whose tokens those at the same places count, again and again if E is less than
/// L; weights L.
///
/// # Panics
/// There are not as many weights as tokens, or L is no multiple of E: a bug of the caller.
pub fn weigh(tokens_1LD: Tensor<3>, empty_1ED: Tensor<3>, weights: &[f32]) -> Tensor<3> {
    let [length, empty_length] = [tokens_1LD.dims()[1], empty_1ED.dims()[1]];
    assert!(
        length == weights.len() && length.is_multiple_of(empty_length),
        "{length} {empty_length} {}",
        weights.len()
    );
    let weights_1L1 = from_f32(weights.to_vec(), [1, length, 1], &tokens_1LD.device());
    let empty_1LD = empty_1ED.repeat_dim(1, length / empty_length);
    tokens_1LD * weights_1L1.clone() + empty_1LD * (-weights_1L1 + 1.0)
}

#[cfg(test)]
mod tests {
    use rectiflow_nn::{Device, to_f32};

    use super::*;

    #[track_caller]
    fn check(marked: &str, text: &str, weights: &[(&str, f32)]) {
        let read = WeightedText::parse(marked).unwrap();
        assert_eq!(read.text(), text, "{marked}");
        let found = read.weights();
        assert_eq!(found.len(), weights.len(), "{marked}: {found:?}");
        for ((words, weight), (wanted_words, wanted)) in found.into_iter().zip(weights) {
            assert_eq!(words, *wanted_words, "{marked}");
            assert!((weight - wanted).abs() < 1e-6, "{marked}: {words} {weight} {wanted}");
        }
    }

    #[test]
    fn brackets_are_taken_out_and_weigh_what_is_in_them() {
        check("a cat", "a cat", &[]);
        check("a (cat:1.3) there", "a cat there", &[("cat", 1.3)]);
        check("a (cat)", "a cat", &[("cat", 1.1)]);
        check("a [cat]", "a cat", &[("cat", 1.0 / 1.1)]);
        check("((red) fox:0.5)", "red fox", &[("red", 0.55), ("fox", 0.5)]);
        check("(a [b])(c:-1)", "a bc", &[("a", 1.1), ("c", -1.0)]);
        check("(cat: .9 )", "cat", &[("cat", 0.9)]);
        check("(cat:0)", "cat", &[("cat", 0.0)]);
    }

    #[test]
    fn what_is_escaped_or_has_no_partner_is_text() {
        check(r"a cat \(small\)", "a cat (small)", &[]);
        check(r"\[a\] \\ \n", r"[a] \ \n", &[]);
        check(r"(cat\:1.3)", "cat:1.3", &[("cat:1.3", 1.1)]);
        for (marked, text, unpaired) in [(":)", ":)", ")"), ("(a", "(a", "("), ("([a)]", "[a]", "[]")] {
            let read = WeightedText::parse(marked).unwrap();
            assert_eq!((read.text(), read.unpaired()), (text, unpaired), "{marked}");
        }
    }

    #[test]
    fn weights_that_no_token_can_have_are_refused_with_their_words() {
        for marked in ["a (cat:1e9)", "(cat:NaN)", "(cat:inf)", "((cat:4):4)", "(cat:-11)"] {
            let problem = WeightedText::parse(marked).unwrap_err().to_string();
            assert!(problem.contains("\"cat\"") && problem.contains("hint"), "{marked}: {problem}");
        }
    }

    #[test]
    fn breaks_are_places_and_no_words() {
        assert_eq!(WeightedText::parse("a BREAK, b").unwrap().text(), "a , b");
        let read = WeightedText::parse("a cat BREAK (dogs BREAK and:1.2) BREAKS").unwrap();
        assert_eq!(read.text(), "a cat  dogs  and BREAKS");
        assert_eq!(read.breaks(), [6, 12]);
        assert_eq!(read.weights(), [("dogs  and", 1.2)]);
        assert_eq!(WeightedText::plain("a BREAK b").breaks(), [0; 0]);
    }

    #[test]
    fn long_and_deep_texts_take_no_time() {
        let many = 100_000;
        for marked in ["(a)".repeat(many), "(".repeat(many) + &")".repeat(many), "(".repeat(many) + &"]".repeat(many)] {
            // Deep brackets multiply beyond what can be, and that is found.
            let _ = WeightedText::parse(&marked).map(|read| (0..many).map(|at| read.weight_at(at)).sum::<f32>());
        }
    }

    #[test]
    fn a_token_weighs_what_its_first_letter_does() {
        let read = WeightedText::parse("a (cat:1.5) sat").unwrap();
        // With the space before it, as T5's tokens have it.
        assert_eq!([0, 1, 2, 4, 5, 6].map(|at| read.weight_at(at)), [1.0, 1.5, 1.5, 1.5, 1.0, 1.0]);
    }

    #[test]
    fn tokens_move_along_the_line_from_the_empty_text() {
        let device = Device::flex();
        let tokens = from_f32(vec![1.0, 2.0, 3.0, 0.1], [1, 4, 1], &device);
        let empty = from_f32(vec![0.5, 1.0], [1, 2, 1], &device);
        let weighed = to_f32(&weigh(tokens, empty, &[1.0, 0.0, 2.0, 1.0]));
        assert_eq!(weighed, [1.0, 1.0, 5.5, 0.1]);
    }
}
