//! Log records, handed to one callback. The library installs no logger and writes nothing by itself.
//!
//! Off until [`set_callback`] is called. The callback may run on any thread, the I/O thread included, and must not
//! call back into the library.

use std::fmt::Arguments;
use std::sync::atomic::{AtomicU8, Ordering};

/// How much a record matters. The numbers are part of the C interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Something the application or the operator must know: a connection was lost.
    Error = 1,
    /// Something unexpected that was dealt with.
    Warn = 2,
    /// Milestones: connected, failover begun, failover ended.
    Info = 3,
    /// One line per decision.
    Debug = 4,
}

/// Receives records: level, module (`"resolve"`, `"conn"`, ...), text.
pub type Callback = Box<dyn Fn(Level, &str, &str) + Send + Sync>;

static CALLBACK: crate::callback::Callback<Callback> = crate::callback::Callback::new();
static MAX: AtomicU8 = AtomicU8::new(0);

/// Sends records of `max` and more important ones to `callback` from now on, in place of any earlier callback. That one
/// may still be running on another thread, and is kept.
pub fn set_callback(max: Level, callback: Callback) {
    CALLBACK.set(Some(callback));
    MAX.store(max as u8, Ordering::Release);
}

/// Whether a record of `level` would reach anybody.
pub fn enabled(level: Level) -> bool {
    level as u8 <= MAX.load(Ordering::Acquire)
}

/// Hands a record over; see [`log!`](crate::log!).
pub fn write(level: Level, module: &str, text: Arguments<'_>) {
    if let Some(callback) = CALLBACK.get() {
        callback(level, module, &text.to_string());
    }
}

/// `log!(Level::Info, "conn", "text {}", value)`: formats only when somebody listens.
#[macro_export]
macro_rules! log {
    ($level:expr, $module:expr, $($arg:tt)*) => {
        if $crate::log::enabled($level) { $crate::log::write($level, $module, format_args!($($arg)*)) }
    };
}
