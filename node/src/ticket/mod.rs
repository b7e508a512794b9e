//! Login tickets, the node's side: how a session that is moved to the other node logs in there without the password
//! ([`vianet::resolve::ticket`] is what the client has of it).
//!
//! While a client logs in by SCRAM-SHA-256 through the relay, [`watch`] takes the exchange down; once the login is proven,
//! [`lookup`] asks the SQL server for the role's verifier. Both together give what another login takes ([`scram`]). The [`desk`] of a server name
//! has it for each channel and gives it out as a ticket ([`seal`]) to the channel's owner. Keys for that ([`epochs`]) go
//! from node to node by [`exchange`]. [`redeem`] is what the other node asks before it logs in in the client's place
//! ([`login`]).
//!
//! All of it is off unless `servers.tickets` is in the configuration. Only `lookup` does I/O.

pub mod desk;
pub mod epochs;
pub mod exchange;
pub mod login;
pub mod lookup;
pub mod redeem;
pub mod scram;
pub mod seal;
pub mod watch;

use parking_lot::Mutex;
use vianet::resolve::ClusterId;

/// What all server names of a node share.
pub struct Tickets {
    /// The node's cluster.
    pub cluster: ClusterId,
    /// The keys of both nodes.
    pub epochs: Mutex<epochs::Epochs>,
    /// What was redeemed here.
    pub redeemed: redeem::Redeemed,
}

impl Tickets {
    /// Without a key, and nothing redeemed.
    pub fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            epochs: Mutex::default(),
            redeemed: redeem::Redeemed::default(),
        }
    }
}
