//! Alternatives in prompts: `{red|green} apple`, and `__animal__` for a line of a file.
//!
//! What is chosen is a function of a seed, so that a picture's prompt is as repeatable as its noise. A backslash before a
//! brace, a bar or an underscore keeps it as it is.
//!
//! What this module does not do: read files; the caller hands it their lines.

use std::rc::Rc;

use rectiflow_nn::Rng;

/// Alternatives within alternatives, and lines that name other files: deeper than anybody means.
const DEPTH_MAX: usize = 16;
/// Characters of a prompt: far more than any encoder reads.
const LENGTH_MAX: usize = 100_000;

/// A prompt's alternatives cannot be chosen from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WildcardError {
    /// A brace without its partner.
    #[error(
        "the prompt has `{{` without `}}`, from `{rest}` on\nhint: close it, or write \\{{ for a brace that is part of the text"
    )]
    Unclosed {
        /// From the brace on.
        rest: String,
    },
    /// A name that there are no lines for.
    #[error("{0}")]
    Lines(String),
    /// Files that name each other, or braces in braces, without end.
    #[error(
        "alternatives within alternatives go deeper than {DEPTH_MAX}, or the prompt becomes longer than {LENGTH_MAX} characters\nhint: does a file of wildcards name itself?"
    )]
    Endless,
}

/// Lines to choose from, by name.
pub trait Wildcards {
    /// The lines of `name`; none is chosen from nothing.
    ///
    /// # Errors
    /// There are none: what is wrong, and what to do.
    fn lines(&mut self, name: &str) -> Result<Rc<[String]>, String>;
}

/// Whether a prompt has alternatives, or something kept by a backslash: whether [`expand`] would change it.
pub fn has_alternatives(prompt: &str) -> bool {
    prompt.contains('{') || name_at(prompt).is_some() || prompt.contains('\\')
}

/// A prompt with each of its alternatives chosen. `seed`: the picture's.
///
/// # Errors
/// A brace is not closed, a name has no lines, or there is no end.
pub fn expand(prompt: &str, seed: u64, wildcards: &mut dyn Wildcards) -> Result<String, WildcardError> {
    let mut choosing = Choosing { seed, choices: 0, wildcards };
    choosing.expanded(prompt, 0)
}

struct Choosing<'a> {
    seed: u64,
    /// So far.
    choices: u64,
    wildcards: &'a mut dyn Wildcards,
}

impl Choosing<'_> {
    fn expanded(&mut self, text: &str, depth: usize) -> Result<String, WildcardError> {
        if depth > DEPTH_MAX {
            return Err(WildcardError::Endless);
        }
        let (mut found, mut rest) = (String::new(), text);
        while let Some(first) = rest.chars().next() {
            if let Some(kept) =
                rest.strip_prefix('\\').and_then(|after| after.chars().next()).filter(|c| is_special(*c))
            {
                found.push(kept);
                rest = &rest[1 + kept.len_utf8()..];
            } else if first == '{' {
                let (alternatives, after) = alternatives(rest)?;
                let chosen = alternatives[self.choose(alternatives.len())];
                found += &self.expanded(chosen, depth + 1)?;
                rest = after;
            } else if let Some((0, name, after)) = name_at(rest) {
                let lines = self.wildcards.lines(name).map_err(WildcardError::Lines)?;
                let chosen = &lines[self.choose(lines.len())];
                found += &self.expanded(chosen, depth + 1)?;
                rest = after;
            } else {
                found.push(first);
                rest = &rest[first.len_utf8()..];
            }
            if found.len() > LENGTH_MAX {
                return Err(WildcardError::Endless);
            }
        }
        Ok(found)
    }

    fn choose(&mut self, count: usize) -> usize {
        self.choices += 1;
        Rng::keyed(self.seed, "wildcard", self.choices).below(count as u64) as usize
    }
}

fn is_special(c: char) -> bool {
    matches!(c, '{' | '}' | '|' | '_' | '\\')
}

/// The alternatives of a text that begins with a brace, and what comes after its partner.
fn alternatives(text: &str) -> Result<(Vec<&str>, &str), WildcardError> {
    let (mut depth, mut start, mut found) = (0_usize, 1, Vec::new());
    let mut is_kept = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if is_kept => {
                is_kept = false;
                continue;
            }
            '\\' => is_kept = true,
            '{' => depth += 1,
            '|' if depth == 1 => {
                found.push(&text[start..at]);
                start = at + 1;
            }
            '}' => {
                depth -= 1;
                if depth == 0 {
                    found.push(&text[start..at]);
                    return Ok((found, &text[at + 1..]));
                }
            }
            _ => {}
        }
    }
    Err(WildcardError::Unclosed { rest: text.chars().take(40).collect() })
}

/// The first `__name__` of a text: where it begins, the name, and what comes after it. Names are letters, digits, `-`, `/`
/// and single underscores.
fn name_at(text: &str) -> Option<(usize, &str, &str)> {
    let start = text.find("__")?;
    let after = &text[start + 2..];
    let end = after.find("__")?;
    let name = &after[..end];
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '/' | '_');
    (!name.is_empty() && name.chars().all(is_name)).then_some((start, name, &after[end + 2..]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    struct Animals;

    impl Wildcards for Animals {
        fn lines(&mut self, name: &str) -> Result<Rc<[String]>, String> {
            match name {
                "animal" => Ok(Rc::new(["cat".to_owned(), "{big|small} dog".to_owned()])),
                "itself" => Ok(Rc::new(["more __itself__".to_owned()])),
                other => Err(format!("no lines for {other}")),
            }
        }
    }

    fn all(prompt: &str) -> BTreeSet<String> {
        (0..200).map(|seed| expand(prompt, seed, &mut Animals).unwrap()).collect()
    }

    fn set(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn every_alternative_is_chosen_by_some_seed_and_always_the_same_by_one() {
        assert_eq!(all("a {red|green} {apple|}!"), set(&["a red apple!", "a green apple!", "a red !", "a green !"]));
        assert_eq!(all("{a|{b|c}d}"), set(&["a", "bd", "cd"]));
        assert_eq!(all("one __animal__."), set(&["one cat.", "one big dog.", "one small dog."]));
        for seed in 0..20 {
            let again = || expand("{a|b|c|d} __animal__", seed, &mut Animals).unwrap();
            assert_eq!(again(), again());
        }
    }

    #[test]
    fn what_is_kept_or_is_no_alternative_stays() {
        for (prompt, expected) in [
            ("plain text", "plain text"),
            (r"\{red\|green\} \__animal__", "{red|green} __animal__"),
            ("a | b }", "a | b }"),
            ("snake_case __init", "snake_case __init"),
            (r"C:\path", r"C:\path"),
            ("{only}", "only"),
            ("{}", ""),
            ("猫 {é|é}", "猫 é"),
        ] {
            assert_eq!(all(prompt), set(&[expected]), "{prompt}");
        }
        assert!(!has_alternatives("a cat, (red:1.2)") && has_alternatives("{a|b}") && has_alternatives("__a__"));
    }

    #[test]
    fn what_cannot_be_chosen_is_said() {
        let error = |prompt: &str| expand(prompt, 0, &mut Animals).unwrap_err().to_string();
        assert!(error("a {red|green").contains("from `{red|green` on") && error("{a{b}").contains("hint: "));
        assert_eq!(error("__planet__"), "no lines for planet");
        assert!(error("__itself__").contains("name itself?"));
        assert!(error(&"{".repeat(100)).contains("without"));
        assert!(error(&format!("{}a{}", "{".repeat(40), "}".repeat(40))).contains("deeper than 16"));
    }

    proptest! {
        #[test]
        fn any_text_is_expanded_or_refused(prompt in r"[ab{}|_\\猫 ]{0,40}", seed in any::<u64>()) {
            if let Ok(text) = expand(&prompt, seed, &mut Animals) {
                prop_assert!(text.len() <= prompt.len() + 40 * prompt.matches("__").count());
            }
        }
    }
}
