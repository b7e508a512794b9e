//! Whether a ticket is honoured. Each redemption is one attempt to log in; what became of it decides whether the ticket
//! may be redeemed again in the same generation.

use super::epochs::LONGEST;
use super::seal::{Contents, Scope};
use super::{Tickets, scram::Keys};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use vianet::resolve::Generation;
use vianet::resolve::ticket::{Place, Redemption, Why, startup_digest};

/// What was redeemed here.
#[derive(Default)]
pub struct Redeemed(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// Ticket, in which generation, and until when that must be known.
    entries: HashMap<[u8; 16], (Generation, u64)>,
    /// At so many entries, those that need not be known any more are looked for: not each time, since sessions wait for it.
    full: usize,
}

impl Table {
    fn make_room(&mut self, now_ms: u64) {
        if self.entries.len() >= self.full {
            self.entries.retain(|_, (_, until)| now_ms < *until);
            self.full = (2 * self.entries.len()).max(LEAST_FULL);
        }
    }
}

const LEAST_FULL: usize = 1024;
/// How long it is known that a ticket was redeemed. Not only until it expires: others of the same login may have been given
/// later, up to now, and by a clock that is ahead of ours.
const KEEP_MS: u64 = 2 * LONGEST.as_millis() as u64;

/// What is asked of this node.
pub struct Request<'a> {
    /// The packet, whole.
    pub packet: &'a [u8],
    /// The startup packet behind it, whole.
    pub startup: &'a [u8],
    /// The channel on which they came.
    pub place: &'a Place,
    /// The server name, lower case.
    pub server: &'a str,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

/// A ticket that is honoured: nobody else can redeem it in this generation while this lives, nor after [`Claim::keep`].
pub struct Claim {
    tickets: Arc<Tickets>,
    id: [u8; 16],
    generation: Generation,
    /// What stood there before.
    before: Option<(Generation, u64)>,
    kept: bool,
    /// What to log in with.
    pub keys: Keys,
    /// The channel of the login that earned it, for the log.
    pub channel: u64,
}

impl Claim {
    /// The ticket is used up in this generation: the login has succeeded.
    pub fn keep(mut self) -> Keys {
        self.kept = true;
        self.keys.clone()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.kept {
            let redeemed = &mut self.tickets.redeemed.0.lock().entries;
            if redeemed
                .get(&self.id)
                .is_none_or(|(g, _)| *g != self.generation)
            {
                // A later one took its place.
                return;
            }
            match self.before {
                Some(before) => redeemed.insert(self.id, before),
                None => redeemed.remove(&self.id),
            };
        }
    }
}

/// Judges a request. `is_open`: whether a channel with this id is open here.
///
/// # Errors
/// Why it is not honoured. Who has not the ticket's key hears only [`Why::Malformed`], [`Why::Sealed`] or
/// [`Why::Signature`].
pub fn claim(
    tickets: &Arc<Tickets>,
    request: &Request<'_>,
    is_open: impl FnOnce(u64) -> bool,
) -> Result<Claim, Why> {
    let redemption = Redemption::parse(request.packet)?;
    let scope = Scope {
        cluster: tickets.cluster,
        server: request.server,
    };
    let contents = {
        let epochs = tickets.epochs.lock();
        Contents::open(|id| epochs.find(id), scope, &redemption.ticket)?
    };
    if !redemption.is_signed(&contents.public, request.place, request.startup) {
        return Err(Why::Signature);
    }
    if contents.startup != startup_digest(request.startup) {
        return Err(Why::Startup);
    }
    if request.now_ms >= contents.expires_ms {
        return Err(Why::Expired);
    }
    let generation = request.place.generation();
    // In its own generation it is honoured where its channel has gone (the node has hung up on the server for it), or never was: at a
    // passive node, which lets sessions in to wait.
    if contents.generation > generation || is_open(contents.channel) {
        return Err(Why::Generation);
    }
    let mut redeemed = tickets.redeemed.0.lock();
    if redeemed
        .entries
        .get(&contents.id)
        .is_some_and(|(g, _)| *g >= generation)
    {
        return Err(Why::Redeemed);
    }
    redeemed.make_room(request.now_ms);
    let used = (generation, request.now_ms + KEEP_MS);
    let before = redeemed.entries.insert(contents.id, used);
    Ok(Claim {
        tickets: Arc::clone(tickets),
        id: contents.id,
        generation,
        before,
        kept: false,
        keys: contents.keys.clone(),
        channel: contents.channel,
    })
}

#[cfg(test)]
mod tests;
