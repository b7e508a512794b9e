//! PostgreSQL's frontend/backend protocol, version 3, as far as the lab needs it: both sides of SCRAM-SHA-256, and
//! simple queries. For the lab's own SQL server and for the demo's client; applications use libpq.

pub mod client;
pub mod scram;
pub mod wire;
