//! What an application may hear about its connections: one callback for all of them.

use crate::failover::Notice;
use crate::resolve::Generation;
use std::os::fd::RawFd;
use std::time::Duration;

/// What happened to which connection.
#[derive(Clone, Debug)]
pub struct Event {
    /// What.
    pub notice: Notice,
    /// The application's descriptor.
    pub fd: RawFd,
    /// Name of the node in use (the lost one while a failover begins).
    pub node: String,
    /// Its generation.
    pub generation: Generation,
    /// Since the failure was noticed.
    pub elapsed: Duration,
}

/// Receives events on the I/O thread; must not call the library.
pub type Callback = Box<dyn Fn(&Event) + Send + Sync>;

static CALLBACK: crate::callback::Callback<Callback> = crate::callback::Callback::new();

/// Sends events to `callback` from now on; `None` ends it. An earlier one may still be running, and is kept.
pub fn set_callback(callback: Option<Callback>) {
    CALLBACK.set(callback);
}

/// Tells the callback.
pub(super) fn tell(event: &Event) {
    if let Some(callback) = CALLBACK.get() {
        callback(event);
    }
}
