//! What the databases have that may set something in a session unseen, as one session of the process was told: the others need not ask.

use super::lock::{Lock, RawLock};
use crate::session::postgres::{Fingerprint, Suspect};
use std::sync::Arc;

/// So many databases, or states of one.
const MOST: usize = 16;

struct Known {
    /// Of the server; its copies have the same.
    system: u64,
    fingerprint: Fingerprint,
    suspects: Arc<[Suspect]>,
}

static KNOWN: Lock<Vec<Known>> = Lock::new(Vec::new());

/// The lock, for `fork`.
pub fn lock() -> &'static RawLock {
    KNOWN.raw()
}

/// What is known of a database; waits for nobody.
pub fn known(system: u64, fingerprint: &Fingerprint) -> Option<Arc<[Suspect]>> {
    let known = KNOWN.lock_if_free()?;
    let same = |it: &&Known| it.system == system && it.fingerprint == *fingerprint;
    known.iter().find(same).map(|it| Arc::clone(&it.suspects))
}

/// A server has told it.
pub fn learned(system: u64, fingerprint: Fingerprint, suspects: &Arc<[Suspect]>) {
    let Some(mut known) = KNOWN.lock_if_free() else {
        return;
    };
    if known.len() == MOST {
        known.remove(0);
    }
    known.push(Known {
        system,
        fingerprint,
        suspects: Arc::clone(suspects),
    });
}
