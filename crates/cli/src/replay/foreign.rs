//! Pictures of other programs: what can be taken over from them.

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use rectiflow_generate::{Parameters, StoredPicture};
use rectiflow_weights::{quoted, shown};

use super::DIFFERENT;
use crate::output;

/// Says how to draw something like it. That is not the same picture, and nothing is drawn.
///
/// # Errors
/// The file says nothing of how it was made.
pub(super) fn say(path: &Path, stored: &StoredPicture) -> anyhow::Result<ExitCode> {
    let Some(text) = stored.text("parameters") else {
        bail!(
            "{} does not say how it was made: it has neither the settings of `rectiflow generate` nor the `parameters` of \
             other programs\nhint: messengers and web sites often remove them; give the file as it was stored",
            shown(path)
        )
    };
    let read: Parameters = text.parse().unwrap_or_else(|never| match never {});
    output::note(&format!(
        "{} has the `parameters` that other programs write, and not our settings. They say too little to make it again \
         (no encoders, no precision, another program's noise), so nothing is compared. This draws something like it:",
        shown(path)
    ));
    output::data(&command(&read));
    if !read.others.is_empty() {
        let others: Vec<String> =
            read.others.iter().map(|(name, value)| format!("{} {}", quoted(name), quoted(value))).collect();
        output::note(&format!("not taken over: {}", others.join(", ")));
    }
    Ok(ExitCode::from(DIFFERENT))
}

/// A command that a shell reads as these words, whatever is in them.
fn command(read: &Parameters) -> String {
    let mut words = vec!["rectiflow generate".to_owned(), "--prompt".to_owned(), quoted_for_shell(&read.prompt)];
    if !read.negative.is_empty() {
        words.push(format!("--negative {}", quoted_for_shell(&read.negative)));
    }
    words.extend(read.options.iter().map(|(name, value)| format!("--{name}={}", quoted_for_shell(value))));
    words.push("--model MODEL".to_owned());
    words.join(" ")
}

/// In single quotes; a line's end or another control character becomes a space.
fn quoted_for_shell(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !text.is_empty() && text.chars().all(plain) && !text.starts_with('-') {
        return text.to_owned();
    }
    let line = text.replace(char::is_control, " ");
    format!("'{}'", line.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prompt_breaks_out_of_its_quotes() {
        for text in ["a cat", "$(rm x)", "it's; rm x", "'", "a\nb`c`", "", "-n", "\u{1b}[31m", "é"] {
            let quoted = quoted_for_shell(text);
            let output = std::process::Command::new("sh").arg("-c").arg(format!("printf %s {quoted}")).output();
            let Ok(output) = output else { return };
            assert_eq!(String::from_utf8_lossy(&output.stdout), text.replace(char::is_control, " "), "{quoted}");
        }
    }
}
