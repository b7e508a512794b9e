//! What the databases have that may set something in a session unseen, as one session of the process was told: the others need not ask.

use super::lock::{Lock, RawLock};
use crate::resolve::name::ServerName;
use crate::session::postgres::{Fingerprint, Suspect};
use std::sync::Arc;

/// So many databases, or states of one.
const MOST: usize = 16;

struct Known {
    /// Of the server; its copies have the same, those that went ways of their own since, too: hence the name.
    system: u64,
    name: ServerName,
    fingerprint: Fingerprint,
    suspects: Arc<[Suspect]>,
}

static KNOWN: Lock<Vec<Known>> = Lock::new(Vec::new());

/// The lock, for `fork`.
pub fn lock() -> &'static RawLock {
    KNOWN.raw()
}

/// What is known of a database; waits for nobody.
pub fn known(system: u64, name: &ServerName, fingerprint: &Fingerprint) -> Option<Arc<[Suspect]>> {
    let known = KNOWN.lock_if_free()?;
    let same =
        |it: &&Known| it.system == system && it.name == *name && it.fingerprint == *fingerprint;
    known.iter().find(same).map(|it| Arc::clone(&it.suspects))
}

/// A server has told it.
pub fn learned(
    system: u64,
    name: &ServerName,
    fingerprint: Fingerprint,
    suspects: &Arc<[Suspect]>,
) {
    let Some(mut known) = KNOWN.lock_if_free() else {
        return;
    };
    if known.len() == MOST {
        known.remove(0);
    }
    known.push(Known {
        system,
        name: name.clone(),
        fingerprint,
        suspects: Arc::clone(suspects),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_server_has_is_not_taken_for_what_a_relative_of_it_has() {
        let name = |server| ServerName::new("lab", server).unwrap();
        let (one, other) = (name("sales"), name("stock"));
        let print = |text: &str| [text.as_bytes().into(), Box::default()];
        learned(7, &one, print("a"), &[].into());
        assert!(known(7, &one, &print("a")).is_some());
        assert!(known(7, &other, &print("a")).is_none());
        assert!(known(8, &one, &print("a")).is_none());
        assert!(known(7, &one, &print("b")).is_none());
    }
}
