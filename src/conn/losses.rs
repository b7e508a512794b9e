//! What an application is told when a connect or a connection has failed: one error per [`Loss`], which names the name,
//! the remedy, and what each node said.

use crate::error::{Error, Kind};
use crate::failover::Loss;
use crate::resolve::name::ServerName;

/// The error; `None` for an end in good order. `details` may be empty. A connection that stood was lost, whatever stood
/// in the way of its failover.
pub fn error(loss: Loss, stood: bool, name: &ServerName, details: &str) -> Option<Error> {
    let (kind, text) = match loss {
        Loss::Closed => return None,
        Loss::NobodyAnswered => (
            Kind::NobodyAnswered,
            "no node of the cluster answered within the deadline; check that the addresses in `nodes` are right, that \
             vianetd runs there, and that no firewall drops UDP",
        ),
        Loss::NobodyActive => (
            Kind::NobodyActive,
            "no node was active for the name within the deadline; `vianet status` on the nodes says why",
        ),
        Loss::UnknownName => (
            Kind::UnknownServer,
            "the cluster does not know this server name; the nodes serve those under [[servers]] in node.toml",
        ),
        Loss::Unreachable => (
            Kind::Unreachable,
            "the active node could not be connected by any transport that is allowed; `transports` in client.toml allows \
             more, `vianet doctor` says what this machine can do",
        ),
        Loss::NotAuthorised => (
            Kind::NotAuthorised,
            "the node does not authorise this client",
        ),
        Loss::NotAuthentic => (
            Kind::NotAuthentic,
            "what came was not signed by the cluster's key; `public_key` in client.toml must be the public part of the \
             nodes' `key_file`",
        ),
        Loss::NotMovable => (
            Kind::ConnectionLost,
            "the server was lost and the open stream cannot move; connect again",
        ),
        Loss::StrictRefused => (
            Kind::StrictRefused,
            "only a plain transport is offered, and strict = true",
        ),
    };
    let kind = if stood { Kind::ConnectionLost } else { kind };
    Some(Error::new(
        kind,
        match details {
            "" => format!("{name}: {text}"),
            details => format!("{name}: {text} ({details})"),
        },
    ))
}
