//! Why a session is not movable: one word for programs, one sentence for people.

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Moving sessions of this protocol is not built yet.
    Unsupported,
    /// The login is not complete.
    Login,
    /// A request is in flight.
    InFlight,
    /// A transaction is open.
    Transaction,
    /// COPY in progress.
    Copy,
    /// Requests that run nothing await their answer.
    Unanswered,
    /// Part of a message is on its way.
    Incomplete,
    /// The session has ended.
    Ended,
    /// A connection that only cancels.
    Cancel,
    /// TLS inside the stream.
    Tls,
    /// GSSAPI encryption inside the stream.
    Gss,
    /// A replication connection.
    Replication,
    /// A `_pq_.` option was asked for.
    ProtocolOption,
    /// Too many requests without an answer to keep count of.
    Pipeline,
    /// Bytes moved that the library did not see.
    Shared,
    /// Neither side's messages, or their order, are what is known.
    NotUnderstood,
    /// Another protocol.
    NotPostgres,
}

impl Reason {
    /// All of them, in the order of the documentation's table.
    pub const ALL: [Self; 17] = [
        Self::Unsupported,
        Self::Login,
        Self::InFlight,
        Self::Transaction,
        Self::Copy,
        Self::Unanswered,
        Self::Incomplete,
        Self::Ended,
        Self::Cancel,
        Self::Tls,
        Self::Gss,
        Self::Replication,
        Self::ProtocolOption,
        Self::Pipeline,
        Self::Shared,
        Self::NotUnderstood,
        Self::NotPostgres,
    ];

    /// The word that `vianet_info` and the log show, and that users look up.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unsupported => "unsupported",
            Self::Login => "login",
            Self::InFlight => "in_flight",
            Self::Transaction => "transaction",
            Self::Copy => "copy",
            Self::Unanswered => "unanswered",
            Self::Incomplete => "incomplete",
            Self::Ended => "ended",
            Self::Cancel => "cancel",
            Self::Tls => "tls",
            Self::Gss => "gss",
            Self::Replication => "replication",
            Self::ProtocolOption => "protocol_option",
            Self::Pipeline => "pipeline",
            Self::Shared => "shared",
            Self::NotUnderstood => "not_understood",
            Self::NotPostgres => "not_postgres",
        }
    }

    /// What it means.
    pub fn text(self) -> &'static str {
        match self {
            Self::Unsupported => "PostgreSQL sessions are not moved to another server yet",
            Self::Login => "the login is not complete",
            Self::InFlight => "a request is in flight",
            Self::Transaction => "a transaction is open",
            Self::Copy => "COPY is in progress",
            Self::Unanswered => "requests that run nothing await their answer",
            Self::Incomplete => "part of a message is on its way",
            Self::Ended => "the session has ended",
            Self::Cancel => "the connection only carries a request to cancel",
            Self::Tls => "TLS inside the driver hides the session",
            Self::Gss => "GSSAPI encryption inside the driver hides the session",
            Self::Replication => "it is a replication connection",
            Self::ProtocolOption => "the client asked for a protocol extension (_pq_.)",
            Self::Pipeline => "more requests await their answer than are kept count of",
            Self::Shared => {
                "another process, or a system call past the library, used the descriptor"
            }
            Self::NotUnderstood => "the messages seen are not those of the known protocol",
            Self::NotPostgres => "the stream is not PostgreSQL's",
        }
    }
}
