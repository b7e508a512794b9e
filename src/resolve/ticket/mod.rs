//! Login tickets: how a session that is moved to another server logs in there without the password.
//!
//! While a client logs in through the active node, the node learns enough to log in as that user again (for SCRAM the
//! ClientKey), seals it under a key that only the cluster's nodes have, and gives the sealed *ticket* to the client that
//! owns the channel. When the server is lost, the client hands the ticket to the second node, with a signature by the key
//! that it committed to when it made the channel; the node logs in to its server in the client's place.
//!
//! Here is what client and node share: the client's [`Key`], the datagrams by which a ticket is asked for ([`Ask`]), the
//! packet by which it is redeemed ([`Redemption`]), and the words for why not ([`Why`]). `docs/protocol.md`, "Login
//! tickets", has the bytes; `docs/security.md` what each of them is worth to a thief. Codecs only: no I/O, no clock.

mod ask;
mod key;
mod nodes;
mod redeem;
mod why;

pub use ask::{Ask, Given, TYPE_ASK, TYPE_GIVEN};
pub use key::Key;
pub use nodes::{
    KeyAsk, KeysGiven, MAX_TICKET_SERVERS, ServerDigest, TYPE_KEY_ASK, TYPE_KEYS_GIVEN,
};
pub use redeem::{CODE, Held, Place, Redemption, startup_digest};
pub use why::Why;

/// Longest ticket, sealed.
pub const MAX_TICKET_BYTES: usize = 255;

#[cfg(test)]
mod tests;
