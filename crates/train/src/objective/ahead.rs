//! What comes next, made while what came before is used.
//!
//! Pays off where a device computes by itself and the processor would wait for it. What is made must be a function of
//! its key alone, so that a run which makes nothing ahead comes to the same.

use std::thread::JoinHandle;

/// Makes things one by one, the next ones ahead of time.
pub(super) struct Ahead<K, T> {
    is_ahead: bool,
    next: Option<(K, JoinHandle<T>)>,
}

impl<K: PartialEq, T: Send + 'static> Ahead<K, T> {
    /// Makes each thing when it is asked for.
    pub(super) fn never() -> Self {
        Ahead { is_ahead: false, next: None }
    }

    /// Makes the next thing too, on a thread of its own.
    pub(super) fn by_one() -> Self {
        Ahead { is_ahead: true, next: None }
    }

    /// The thing of `key`: what was begun if it is that, else made now.
    pub(super) fn take(&mut self, key: K, make: impl FnOnce() -> T) -> T {
        match self.next.take() {
            Some((made, thread)) if made == key => match thread.join() {
                Ok(thing) => thing,
                Err(panic) => std::panic::resume_unwind(panic),
            },
            _ => make(),
        }
    }

    /// Begins with the thing of `key`.
    pub(super) fn begin(&mut self, key: K, make: impl FnOnce() -> T + Send + 'static) {
        if self.is_ahead {
            self.next = Some((key, std::thread::spawn(make)));
        }
    }
}
