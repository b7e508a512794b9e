//! PostgreSQL's frontend/backend protocol, version 3, as far as our own programs need it: both sides of SCRAM-SHA-256, and
//! queries. The daemon looks up verifiers with it; the lab's own SQL server and the demo's client speak it. Applications
//! use libpq.

pub mod client;
pub mod scram;
pub mod wire;
