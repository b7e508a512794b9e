//! Requests to cancel: an application knows its session by the key that it was given at the login, and a session that moved
//! has another one. The request comes on a connection of its own, perhaps out of a signal handler.

use super::lock::{Lock, RawLock};
use crate::resolve::name::ServerName;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};

/// Length and code of a CancelRequest with a key of eight bytes.
const HEAD: [u8; 8] = [0, 0, 0, 16, 4, 210, 22, 46];
/// All of it.
pub const REQUEST: usize = 16;

struct Session {
    /// Of which connection.
    id: u64,
    name: ServerName,
    known: Vec<u8>,
    now: Vec<u8>,
}

static SESSIONS: Lock<Vec<Session>> = Lock::new(Vec::new());
/// Whether there is one at all: most programs never have one.
static ANY: AtomicBool = AtomicBool::new(false);

/// The lock, for `fork`.
pub fn lock() -> &'static RawLock {
    SESSIONS.raw()
}

/// The session of connection `id` has a new key.
pub fn moved(id: u64, name: &ServerName, known: &[u8], now: &[u8]) {
    let mut sessions = SESSIONS.lock();
    sessions.retain(|session| session.id != id);
    sessions.push(Session {
        id,
        name: name.clone(),
        known: known.to_vec(),
        now: now.to_vec(),
    });
    ANY.store(true, Ordering::Release);
}

/// That connection is over.
pub fn forget(id: u64) {
    if ANY.load(Ordering::Acquire) {
        let mut sessions = SESSIONS.lock();
        sessions.retain(|session| session.id != id);
        ANY.store(!sessions.is_empty(), Ordering::Release);
    }
}

/// What to send in the place of a whole request to cancel, if it means a session that moved.
pub fn translated(name: &ServerName, data: &[IoSlice<'_>]) -> Option<[u8; REQUEST]> {
    if !ANY.load(Ordering::Acquire) {
        return None;
    }
    let [request] = data else { return None };
    let key = request.strip_prefix(&HEAD)?;
    let sessions = SESSIONS.try_lock()?;
    let mut meant = sessions.iter().filter(|session| session.name == *name);
    let session = meant.find(|session| session.known == key && session.now.len() == key.len())?;
    let mut translated = [0; REQUEST];
    let (head, rest) = translated.split_at_mut(HEAD.len());
    head.copy_from_slice(&HEAD);
    rest.copy_from_slice(session.now.get(..rest.len())?);
    Some(translated)
}
