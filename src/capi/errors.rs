//! The thread's last error as text.

use crate::error::Error;
use std::cell::RefCell;

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the text for `vianet_last_error` and sets errno.
pub fn set(error: &Error) {
    // A signal handler that interrupts us here, or a thread that is ending, gets no text; errno it always gets.
    let _ = LAST.try_with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = error.to_string();
        }
    });
    // SAFETY: the location is this thread's own.
    unsafe { *libc::__errno_location() = error.errno() };
}

/// Calls `f` with the text.
pub fn with_last<R>(f: impl FnOnce(&str) -> R) -> R {
    // A thread that is ending has no text any more, and a panic must not leave this library.
    let mut f = Some(f);
    let found = LAST.try_with(|last| {
        let text = last.try_borrow().ok()?;
        f.take().map(|f| f(&text))
    });
    match (found, f) {
        (Ok(Some(value)), _) => value,
        (_, Some(f)) => f(""),
        (_, None) => unreachable!("used up only where it gave a value"),
    }
}
