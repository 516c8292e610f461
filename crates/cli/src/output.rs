//! What is said to the user: data to stdout, everything else to stderr.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

/// Shown for an interrupted run, as shells expect: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// For every error: 1 is kept for `verify`, which then has found a difference and no error.
const ERROR: u8 = 2;

/// Why data was lost, the first time.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// A line of data. A reader that went away (`| head`) is not an error; any other failure is one, which
/// [`end`] reports when the work is done.
pub(crate) fn data(line: &str) {
    match writeln!(io::stdout().lock(), "{}", harmless(line)) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let _ = LOST.set(error);
        }
        _ => {}
    }
}

/// A line for the person, not for the next program.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", harmless(line));
}

/// A run that was interrupted, with what became of it, and its status.
pub(crate) fn interrupted(what: &str) -> ExitCode {
    note(&format!("interrupted: {what}"));
    ExitCode::from(INTERRUPTED)
}

/// Whatever names are in it, the text sends the terminal no commands.
fn harmless(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}")
}

/// The status to end with: `status`, unless data was lost.
pub(crate) fn end(status: ExitCode) -> ExitCode {
    let Some(error) = LOST.get() else { return status };
    note(&format!(
        "error: the result cannot be written to standard output: {error}\n\
         hint: give it somewhere with space, or a pipe; pictures and latents are stored all the same"
    ));
    ExitCode::from(ERROR)
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
