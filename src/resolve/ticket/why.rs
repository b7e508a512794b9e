//! Why there is no ticket, or why one is not honoured: one word for programs, one sentence for people.

/// See the module's text. The numbers go over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Why {
    /// The node is not set up for it.
    Off = 1,
    /// The node has seen no login on this channel.
    Unseen = 2,
    /// The login is not complete, or what it takes is not looked up yet: ask again soon.
    Pending = 3,
    /// Another way of proving oneself than SCRAM-SHA-256.
    Method = 4,
    /// The daemon cannot look verifiers up: it tries again.
    Lookup = 5,
    /// The role has no verifier that would be told.
    NoVerifier = 6,
    /// The verifier that was looked up is not that of the proof.
    Mismatch = 7,
    /// The other node does not have the key that would seal it.
    NoPeer = 8,
    /// The asker is not the owner of the channel.
    NotOwner = 9,
    /// It was not asked for in time.
    Late = 10,
    /// A replication connection.
    Replication = 11,
    /// The bytes are no ticket, or no redemption.
    Malformed = 12,
    /// This node cannot open it: sealed by a key that it does not have, for another cluster or server, or changed.
    Sealed = 13,
    /// Its time is over.
    Expired = 14,
    /// The signature is not by the ticket's own key over this channel.
    Signature = 15,
    /// It is for another role, database or startup parameter.
    Startup = 16,
    /// It was redeemed in this generation already.
    Redeemed = 17,
    /// It is from a later generation than the node's, or its own channel is still open here.
    Generation = 18,
    /// The SQL server did not ask for, or did not give, the proof that belongs to the ticket.
    Upstream = 19,
    /// The client pins no key, so it cannot know whom it would give a ticket to.
    Unpinned = 20,
    /// The node gives no answer.
    NoAnswer = 21,
    /// The other node redeems no tickets for this server.
    PeerOff = 22,
}

impl Why {
    /// All of them, in the order of the documentation's table.
    pub const ALL: [Self; 22] = [
        Self::Off,
        Self::Unseen,
        Self::Pending,
        Self::Method,
        Self::Lookup,
        Self::NoVerifier,
        Self::Mismatch,
        Self::NoPeer,
        Self::NotOwner,
        Self::Late,
        Self::Replication,
        Self::Malformed,
        Self::Sealed,
        Self::Expired,
        Self::Signature,
        Self::Startup,
        Self::Redeemed,
        Self::Generation,
        Self::Upstream,
        Self::Unpinned,
        Self::NoAnswer,
        Self::PeerOff,
    ];

    /// The reason with this number on the wire.
    pub fn from_wire(n: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|why| *why as u8 == n)
    }

    /// Whether asking again soon may give another answer.
    pub fn may_pass(self) -> bool {
        matches!(
            self,
            Self::Pending | Self::Lookup | Self::NoPeer | Self::NoAnswer | Self::PeerOff
        )
    }

    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Unseen => "unseen",
            Self::Pending => "pending",
            Self::Method => "method",
            Self::Lookup => "lookup",
            Self::NoVerifier => "no_verifier",
            Self::Mismatch => "mismatch",
            Self::NoPeer => "no_peer",
            Self::NotOwner => "not_owner",
            Self::Late => "late",
            Self::Replication => "replication",
            Self::Malformed => "malformed",
            Self::Sealed => "sealed",
            Self::Expired => "expired",
            Self::Signature => "signature",
            Self::Startup => "startup",
            Self::Redeemed => "redeemed",
            Self::Generation => "generation",
            Self::Upstream => "upstream",
            Self::Unpinned => "unpinned",
            Self::NoAnswer => "no_answer",
            Self::PeerOff => "peer_off",
        }
    }

    /// What it means.
    pub fn text(self) -> &'static str {
        match self {
            Self::Off => "the node gives no login tickets for this server",
            Self::Unseen => "the node has seen no login on this channel",
            Self::Pending => "the login is not complete",
            Self::Method => "the login is not by SCRAM-SHA-256",
            Self::Lookup => "the node's daemon cannot look up the role's verifier (yet)",
            Self::NoVerifier => "the role has no SCRAM verifier that may be told",
            Self::Mismatch => "the role's verifier is not the one that was proven",
            Self::NoPeer => "the other node does not have the key for tickets (yet)",
            Self::NotOwner => "the channel is not the asker's",
            Self::Late => "the ticket was not asked for in time after the login",
            Self::Replication => "it is a replication connection",
            Self::Malformed => "the bytes are no login ticket",
            Self::Sealed => "the node cannot open the ticket",
            Self::Expired => "the ticket has expired",
            Self::Signature => "the ticket is not the signer's, or not for this channel",
            Self::Startup => "the ticket is for another role, database or startup parameter",
            Self::Redeemed => "the ticket was redeemed already",
            Self::Generation => "the ticket's own server has not been lost",
            Self::Upstream => "the SQL server did not prove itself as the ticket wants",
            Self::Unpinned => "no cluster key is pinned",
            Self::NoAnswer => "the node does not answer",
            Self::PeerOff => "the other node redeems no login tickets for this server",
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name(), self.text())
    }
}
