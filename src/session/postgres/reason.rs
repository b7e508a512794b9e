//! Why a session is not movable: one word for programs, one sentence for people.

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
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
    /// What the session has become since it was last idle is not known yet.
    StatePending,
    /// The question what it has become was not answered in a way that is understood.
    UnknownState,
    /// The server lacks our extension.
    NoExtension,
    /// More state than is kept.
    TooLarge,
    /// Temporary objects.
    Temporary,
    /// Session advisory locks.
    AdvisoryLock,
    /// Cursors WITH HOLD.
    HoldableCursor,
    /// LISTEN.
    Listens,
    /// PREPARE beside other statements.
    PreparedInBatch,
    /// Prepared statements that were read under other settings.
    PreparedOtherwise,
    /// A library that may keep something.
    Library,
    /// A setting that cannot be read.
    Unreadable,
    /// DO.
    DoBlock,
    /// LOAD.
    Load,
    /// A statement that was made of texts, or a setting whose name was.
    DynamicSql,
    /// A function that may have set something.
    Function,
    /// FunctionCall.
    FunctionCall,
    /// Functions, views or the like were changed meanwhile.
    ObjectsChanged,
    /// Prepared statements whose names may mean another object.
    Ambiguous,
    /// Deferrable defaults.
    Deferrable,
    /// The other server wants a secret.
    LoginNeedsPassword,
    /// The other server refuses.
    LoginRefused,
    /// Not one that may follow.
    OtherServer,
    /// It lacks a commit.
    DataLoss,
    /// A statement failed there.
    RestoreFailed,
    /// It came out otherwise.
    StateDiffers,
    /// Nobody was found who serves the name.
    NoServer,
    /// A rollback would not undo all of it.
    Lasting,
}

impl Reason {
    /// All of them, in the order of the documentation's table.
    pub const ALL: [Self; 44] = [
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
        Self::StatePending,
        Self::UnknownState,
        Self::NoExtension,
        Self::TooLarge,
        Self::Temporary,
        Self::AdvisoryLock,
        Self::HoldableCursor,
        Self::Listens,
        Self::PreparedInBatch,
        Self::PreparedOtherwise,
        Self::Library,
        Self::Unreadable,
        Self::DoBlock,
        Self::Load,
        Self::DynamicSql,
        Self::Function,
        Self::FunctionCall,
        Self::ObjectsChanged,
        Self::Ambiguous,
        Self::Deferrable,
        Self::LoginNeedsPassword,
        Self::LoginRefused,
        Self::OtherServer,
        Self::DataLoss,
        Self::RestoreFailed,
        Self::StateDiffers,
        Self::NoServer,
        Self::Lasting,
    ];

    /// The word that `vianet_info` and the log show, and that users look up.
    pub fn name(self) -> &'static str {
        match self {
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
            Self::StatePending => "state_pending",
            Self::UnknownState => "unknown_state",
            Self::NoExtension => "no_extension",
            Self::TooLarge => "too_large",
            Self::Temporary => "temporary",
            Self::AdvisoryLock => "advisory_lock",
            Self::HoldableCursor => "holdable_cursor",
            Self::Listens => "listens",
            Self::PreparedInBatch => "prepared_in_batch",
            Self::PreparedOtherwise => "prepared_otherwise",
            Self::Library => "library",
            Self::Unreadable => "unreadable",
            Self::DoBlock => "do_block",
            Self::Load => "load",
            Self::DynamicSql => "dynamic_sql",
            Self::Function => "function",
            Self::FunctionCall => "function_call",
            Self::ObjectsChanged => "objects_changed",
            Self::Ambiguous => "ambiguous",
            Self::Deferrable => "deferrable",
            Self::LoginNeedsPassword => "login_needs_password",
            Self::LoginRefused => "login_refused",
            Self::OtherServer => "other_server",
            Self::DataLoss => "data_loss",
            Self::RestoreFailed => "restore_failed",
            Self::StateDiffers => "state_differs",
            Self::NoServer => "no_server",
            Self::Lasting => "lasting",
        }
    }

    /// For the log; `why` is what else is known, or empty.
    pub fn not_movable(self, why: &str) -> String {
        let colon = if why.is_empty() { "" } else { ": " };
        let (word, text) = (self.name(), self.text());
        format!("the session is not movable: {word} ({text}{colon}{why})")
    }

    /// What it means.
    pub fn text(self) -> &'static str {
        match self {
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
            Self::StatePending => "what the session has become is not known yet",
            Self::UnknownState => "the server did not say what the session has become",
            Self::NoExtension => {
                "the server has not the extension vianet, and its version is none whose catalogs are read instead"
            }
            Self::TooLarge => "the session has more state than is kept",
            Self::Temporary => "the session has temporary tables or other temporary objects",
            Self::AdvisoryLock => "the session holds advisory locks",
            Self::HoldableCursor => "the session has cursors WITH HOLD",
            Self::Listens => "the session listens, and would miss what is notified meanwhile",
            Self::PreparedInBatch => "a statement was prepared in a query with other statements",
            Self::PreparedOtherwise => {
                "a statement was prepared under another DateStyle, TimeZone or the like, by which its text is read"
            }
            Self::Library => "a library is loaded that may keep something in the session",
            Self::Unreadable => {
                "the session has a setting, role or statement that cannot be read back"
            }
            Self::DoBlock => "a DO block has run, which may have set anything",
            Self::Load => "LOAD has run, and what it loaded may keep something in the session",
            Self::DynamicSql => {
                "a setting whose name cannot be read in the statement was set, or a text was run as a statement"
            }
            Self::Function => {
                "a function may have been called that may set something unseen: the log names it, and trusted_functions may"
            }
            Self::FunctionCall => "a function was called by its number",
            Self::ObjectsChanged => {
                "functions, views, policies or operators were changed while the session was at work"
            }
            Self::Ambiguous => {
                "a name in a prepared statement may mean more than one table, function or type"
            }
            Self::Deferrable => {
                "serializable read only deferrable is the default of its transactions, and makes every question wait"
            }
            Self::LoginNeedsPassword => {
                "the other server asks for a secret that the library has not"
            }
            Self::LoginRefused => "the other server refuses the login",
            Self::OtherServer => "the other server is none that may carry the session on",
            Self::DataLoss => "the other server lacks what the session has committed",
            Self::RestoreFailed => "the session could not be made again on the other server",
            Self::StateDiffers => "the session that was made again differs from what it was",
            Self::NoServer => "no other server was found in time",
            Self::Lasting => {
                "the lost transaction may have done something that a rollback does not undo"
            }
        }
    }
}
