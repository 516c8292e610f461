//! What of a prompt is not its words: weights, which are read, and what other programs read and we draw as plain text.

use rectiflow_text::{WeightError, WeightedText};

/// Whether `(cat:1.3)`, `[cat]`, backslashes before brackets, and BREAK are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PromptSyntax {
    /// As AUTOMATIC1111's web UI and ComfyUI do.
    #[default]
    Weights,
    /// They are part of the text, as in diffusers.
    Plain,
}

/// What becomes of texts that are too long for CLIP. T5 reads as much as it has tokens for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LongPrompts {
    /// CLIP does not see the end, as in diffusers and in Stability's code.
    #[default]
    Cut,
    /// CLIP reads one part after the other, as in ComfyUI.
    Chunks,
}

/// More is no prompt that CLIP could make sense of: 32 of 77 tokens are about 1,800 words.
const CHUNKS_MAX: usize = 32;

impl PromptSyntax {
    /// The words of a text and what they weigh.
    ///
    /// # Errors
    /// A weight that no token can have.
    pub fn read(self, text: &str) -> Result<WeightedText, WeightError> {
        match self {
            PromptSyntax::Weights => WeightedText::parse(text),
            PromptSyntax::Plain => Ok(WeightedText::plain(text)),
        }
    }
}

impl LongPrompts {
    /// The most runs of tokens that a CLIP encoder reads of a text.
    pub(crate) fn chunks_max(self) -> usize {
        match self {
            LongPrompts::Cut => 1,
            LongPrompts::Chunks => CHUNKS_MAX,
        }
    }
}

impl std::fmt::Display for PromptSyntax {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PromptSyntax::Weights => "weights",
            PromptSyntax::Plain => "plain",
        })
    }
}

impl std::str::FromStr for PromptSyntax {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "weights" => Ok(PromptSyntax::Weights),
            "plain" => Ok(PromptSyntax::Plain),
            other => Err(format!("`{other}` is no way to read a prompt; give weights or plain")),
        }
    }
}

impl std::fmt::Display for LongPrompts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LongPrompts::Cut => "cut",
            LongPrompts::Chunks => "chunks",
        })
    }
}

impl std::str::FromStr for LongPrompts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cut" => Ok(LongPrompts::Cut),
            "chunks" => Ok(LongPrompts::Chunks),
            other => Err(format!("`{other}` is nothing that can become of a long prompt; give cut or chunks")),
        }
    }
}

/// Starts of tags that other programs take out of a prompt.
const TAGS: [&str; 3] = ["<lora:", "<lyco:", "<hypernet:"];

/// Longer ones are none: brackets of a long text are not looked through again and again.
const TAG_BYTES_MAX: usize = 400;

/// What other programs read in a prompt and we do not: tags `<lora:name:1>`, and schedules and alternations in square
/// brackets, `[cat:dog:0.5]` and `[cat|dog]`; as they were typed.
pub fn plain_markup(prompt: &str) -> Vec<&str> {
    tags(prompt).chain(schedules(prompt)).collect()
}

fn tags(prompt: &str) -> impl Iterator<Item = &str> {
    prompt.match_indices('<').filter_map(|(open, _)| {
        let tag = &prompt[open..prompt.floor_char_boundary(open + TAG_BYTES_MAX)];
        let end = tag.find('>')?;
        let is_known = TAGS.iter().any(|start| tag.get(..start.len()).is_some_and(|s| s.eq_ignore_ascii_case(start)));
        is_known.then_some(&tag[..=end])
    })
}

/// The innermost square brackets with a number behind their last colon, or with a bar.
fn schedules(prompt: &str) -> impl Iterator<Item = &str> {
    prompt.match_indices(']').filter_map(|(close, _)| {
        let from = prompt.floor_char_boundary(close.saturating_sub(TAG_BYTES_MAX));
        let open = from + prompt[from..close].rfind('[')?;
        let inside = &prompt[open + 1..close];
        let is_timed = inside.rsplit_once(':').is_some_and(|(_, when)| when.trim().parse::<f32>().is_ok());
        let is_one = !inside.contains(']') && !prompt[..open].ends_with('\\');
        (is_one && (is_timed || inside.contains('|'))).then_some(&prompt[open..=close])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_schedules_are_found_and_ordinary_text_is_not() {
        assert_eq!(plain_markup("a (cat:1.3), <lora:foo:1> dogs"), ["<lora:foo:1>"]);
        assert_eq!(plain_markup("[cat:dog:0.5] [red|blue] [x: .3]"), ["[cat:dog:0.5]", "[red|blue]", "[x: .3]"]);
        for plain in ["", "a cat [small]", r"\[a|b\]", "[a: b]", "<b>", "]:1.2[", "猫]<é"] {
            assert_eq!(plain_markup(plain), [""; 0], "{plain}");
        }
    }

    #[test]
    fn names_of_choices_are_read_back() {
        for syntax in [PromptSyntax::Weights, PromptSyntax::Plain] {
            assert_eq!(syntax.to_string().parse(), Ok(syntax));
        }
        for long in [LongPrompts::Cut, LongPrompts::Chunks] {
            assert_eq!(long.to_string().parse(), Ok(long));
        }
        assert!("a1111".parse::<PromptSyntax>().unwrap_err().contains("weights or plain"));
    }
}
