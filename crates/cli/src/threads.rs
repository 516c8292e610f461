//! How many threads compute.

use std::ffi::OsString;
use std::str::FromStr;

use anyhow::{Context, anyhow};

/// The environment variable for those who start `rectiflow` from elsewhere. The option goes before it.
pub(crate) const VARIABLE: &str = "RECTIFLOW_THREADS";

/// More than the largest machines have; a system refuses to start many more in odd ways.
const MOST: usize = 4096;

/// A number of threads, 1 to [`MOST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Threads(usize);

impl FromStr for Threads {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(number) if (1..=MOST).contains(&number) => Ok(Threads(number)),
            _ => Err(format!("`{text}` is not a number of threads; give 1 to {MOST}, or nothing for one a core")),
        }
    }
}

/// Starts the threads that kernels and Burn's CPU operations run on: as many as asked for, or one a core.
///
/// # Errors
/// The environment asks for something that is no number of threads, or the system has no more threads.
pub(crate) fn start(option: Option<Threads>) -> anyhow::Result<()> {
    // Without either, rayon's own default holds, which follows its variable and the cores this process may use.
    let Some(Threads(number)) = chosen(option, std::env::var_os(VARIABLE))? else { return Ok(()) };
    rayon::ThreadPoolBuilder::new().num_threads(number).build_global().with_context(|| {
        format!("the system does not start {number} threads\nhint: give fewer with `--threads`, or leave it out")
    })
}

fn chosen(option: Option<Threads>, variable: Option<OsString>) -> anyhow::Result<Option<Threads>> {
    match (option, variable) {
        (Some(threads), _) => Ok(Some(threads)),
        (None, None) => Ok(None),
        (None, Some(text)) => {
            let threads = text.to_string_lossy().parse().map_err(|error| {
                anyhow!("{VARIABLE}: {error}\nhint: set it to a number, or unset it for one thread a core")
            })?;
            Ok(Some(threads))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_goes_before_the_variable_and_neither_means_the_default() {
        assert_eq!(chosen(Some(Threads(3)), Some("x".into())).unwrap(), Some(Threads(3)));
        assert_eq!(chosen(None, Some("2".into())).unwrap(), Some(Threads(2)));
        assert_eq!(chosen(None, None).unwrap(), None);
        let error = chosen(None, Some("0".into())).unwrap_err().to_string();
        assert!(error.starts_with("RECTIFLOW_THREADS: `0` is not a number of threads") && error.contains("\nhint: "));
    }

    #[test]
    fn what_is_no_number_of_threads_is_refused() {
        for text in ["0", "-1", "", "two", "1.5", "4097", "99999999999999999999"] {
            assert!(text.parse::<Threads>().is_err(), "{text}");
        }
        assert_eq!("4096".parse(), Ok(Threads(4096)));
    }
}
