//! What other programs read in a prompt and we draw as plain text.

/// Starts of tags that other programs take out of a prompt.
const TAGS: [&str; 3] = ["<lora:", "<lyco:", "<hypernet:"];

/// The weights `(cat:1.3)`, tags `<lora:name:1>` and words `BREAK` in a prompt, as they were typed. None of them
/// has an effect beyond its letters.
pub fn plain_markup(prompt: &str) -> Vec<&str> {
    let words = prompt.split_whitespace().filter(|word| *word == "BREAK").take(1);
    weights(prompt).chain(tags(prompt)).chain(words).collect()
}

/// `(some words:1.2)`: the innermost brackets that end in a colon and a number.
fn weights(prompt: &str) -> impl Iterator<Item = &str> {
    prompt.match_indices(')').filter_map(|(close, _)| {
        let open = prompt[..close].rfind('(')?;
        let (words, weight) = prompt[open + 1..close].rsplit_once(':')?;
        let is_weight = weight.trim().parse::<f32>().is_ok_and(f32::is_finite) && !words.contains(')');
        is_weight.then_some(&prompt[open..=close])
    })
}

fn tags(prompt: &str) -> impl Iterator<Item = &str> {
    prompt.match_indices('<').filter_map(|(open, _)| {
        let tag = &prompt[open..];
        let end = tag.find('>')?;
        let is_known = TAGS.iter().any(|start| tag.get(..start.len()).is_some_and(|s| s.eq_ignore_ascii_case(start)));
        is_known.then_some(&tag[..=end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_tags_and_breaks_are_found_and_ordinary_text_is_not() {
        assert_eq!(plain_markup("a (cat:1.3), <lora:foo:1> BREAK dogs"), ["(cat:1.3)", "<lora:foo:1>", "BREAK"]);
        assert_eq!(plain_markup("((red fox:1.2) in snow: .9 )"), ["(red fox:1.2)"]);
        for plain in ["", "a cat (small)", "at 12:30", "(note: blue)", "<b>", "breaking BREAKS", "):1.2(", "猫)<é"] {
            assert_eq!(plain_markup(plain), [""; 0], "{plain}");
        }
    }
}
