//! Ctrl-C, and the request to end that systems send.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::output::{self, INTERRUPTED};

/// How long a second Ctrl-C waits for a file that is being written. A disk that hangs for longer does not hold
/// the program.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often is looked whether a signal came.
const EVERY: Duration = Duration::from_millis(10);

/// What the user wishes, and when it may be granted.
#[derive(Clone, Default)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
    writing: Arc<Mutex<()>>,
}

impl Interrupt {
    /// From now on the first Ctrl-C ends the run after its step or phase, with what is finished stored; the second
    /// ends it at once, but not in the middle of a file. `lost_at_once` says what that would lose.
    ///
    /// SIGHUP is left as it was inherited: it ends the program with its terminal, unless `nohup` started it.
    pub(crate) fn catch(lost_at_once: &'static str) -> anyhow::Result<Self> {
        let interrupt = Interrupt::default();
        let handler = interrupt.clone();
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            flag::register(signal, Arc::clone(&came)).context("Ctrl-C cannot be caught")?;
        }
        std::thread::spawn(move || {
            loop {
                if came.swap(false, Ordering::Relaxed) {
                    handler.ask(lost_at_once);
                }
                std::thread::sleep(EVERY);
            }
        });
        Ok(interrupt)
    }

    /// One press of Ctrl-C.
    fn ask(&self, lost_at_once: &str) {
        if self.asked.swap(true, Ordering::Relaxed) {
            output::note(&format!("\nstopped at once{lost_at_once}"));
            let _turn = self.last_turn();
            std::process::exit(i32::from(INTERRUPTED));
        }
        output::note("\nstopping after this step or phase; press Ctrl-C again to stop at once");
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether a run goes on.
    pub(crate) fn wish(&self) -> ControlFlow<()> {
        if self.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Held while a file is written.
    pub(crate) fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of the file that is being written, after which none is begun; none if that takes too long.
    fn last_turn(&self) -> Option<MutexGuard<'_, ()>> {
        let started = Instant::now();
        loop {
            match self.writing.try_lock() {
                Ok(turn) => return Some(turn),
                Err(_) if started.elapsed() > PATIENCE => return None,
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_program_does_not_end_in_the_middle_of_a_file() {
        let interrupt = Interrupt::default();
        let (is_written, writer) = (Arc::new(AtomicBool::new(false)), interrupt.clone());
        let (begun, has_begun) = mpsc::channel();
        let written = Arc::clone(&is_written);
        let thread = std::thread::spawn(move || {
            let _turn = writer.writing();
            begun.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            written.store(true, Ordering::Relaxed);
        });
        has_begun.recv().unwrap();
        assert!(interrupt.last_turn().is_some() && is_written.load(Ordering::Relaxed));
        thread.join().unwrap();
    }
}
