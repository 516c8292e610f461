//! Reads what may be longer than anybody means.

use std::io::{self, Read};

/// The text of a stream; none if it is longer than `bytes_max`.
///
/// # Errors
/// It cannot be read, or is no text.
pub(crate) fn text(stream: impl Read, bytes_max: u64) -> io::Result<Option<String>> {
    let mut text = String::new();
    stream.take(bytes_max + 1).read_to_string(&mut text)?;
    Ok((text.len() as u64 <= bytes_max).then_some(text))
}
