//! The node daemon `vianetd` as a library: its configuration, its control protocol, and the daemon itself.
//!
//! One daemon runs beside each SQL server of a cluster. It answers who serves a name (SSRP and the cluster query),
//! watches its peer by keep-alives and takes over from it, and relays VIA channels to the SQL server. See
//! `docs/architecture.md` and `docs/operations.md`.

pub mod authority;
pub mod bucket;
mod cancels;
mod clients;
pub mod clock;
pub mod config;
pub mod control;
mod control_server;
pub mod daemon;
pub mod health;
pub mod hooks;
mod http;
pub mod pg;
pub mod relay;
pub mod responder;
pub mod role;
pub mod served;
pub mod state;
pub mod switchover;
pub mod ticket;
