//! What is said to the user: data to stdout, everything else to stderr.

use std::io::Write;
use std::process::ExitCode;

/// Shown for an interrupted run, as shells expect: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// For every error: 1 is kept for `verify`, which then has found a difference and no error.
const ERROR: u8 = 2;

/// A line of data. A reader that went away (`| head`) is not an error.
pub(crate) fn data(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A line for the person, not for the next program.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// The error with its causes, then what to do next where the error says so.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let (mut said, mut hints): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for cause in error.chain() {
        let text = cause.to_string();
        let (what, hint) = text.split_once("\nhint: ").map_or((&text[..], None), |(what, hint)| (what, Some(hint)));
        // A transparent error repeats its source.
        if !said.iter().any(|earlier| earlier.contains(what)) {
            said.push(what.to_owned());
            hints.extend(hint.map(ToOwned::to_owned));
        }
    }
    note(&format!("error: {}", said.join("\n  because: ")));
    for hint in hints {
        note(&format!("hint: {hint}"));
    }
    ExitCode::from(ERROR)
}
