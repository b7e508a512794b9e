//! The one table of errors: what went wrong, the `errno` a socket call would give for it, and its text.
//!
//! Every fallible function of the library returns [`Error`]; `capi` and the preload library turn it into -1 and
//! [`Error::errno`]. The text names the thing and the remedy. `docs/protocol.md` repeats the table for C users.

use std::fmt;

/// Shorthand for results of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, for a program; [`Error`] adds the text for the human.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A NULL pointer where the call needs one that is not.
    NullPointer,
    /// An argument has a value that the call does not know.
    BadArgument,
    /// A struct's size field is neither an older nor this version's size, or unknown bytes are not zero.
    BadStructSize,
    /// The name is not UTF-8.
    NotUtf8,
    /// The name is longer than 255 bytes.
    NameTooLong,
    /// The descriptor is not open.
    BadDescriptor,
    /// The descriptor is open and is not one of ours.
    NotOurs,
    /// The configuration file cannot be read or says something that is not understood.
    BadConfig,
    /// No such cluster in the configuration, or the name has no cluster in it and is no alias.
    UnknownCluster,
    /// The cluster answered, and does not know the server name.
    UnknownServer,
    /// No node of the cluster answered within the deadline.
    NobodyAnswered,
    /// Nodes answered, and none of them was active for the name within the deadline.
    NobodyActive,
    /// The active node was found and no transport to it could be connected.
    Unreachable,
    /// The deadline of the call passed.
    TimedOut,
    /// The node refused the channel as not authorised.
    NotAuthorised,
    /// An answer, accept or keep-alive that had to be signed was not, or its signature is wrong.
    NotAuthentic,
    /// The peer broke the protocol (impossible index, length, type).
    BrokenPeer,
    /// The connection is over: the server was lost and the stream could not be carried on.
    ConnectionLost,
    /// The connection is not established (yet, or any more).
    NotConnected,
    /// The sending direction was shut down.
    WriteShut,
    /// The call would block and the descriptor is non-blocking.
    WouldBlock,
    /// A non-blocking connect has begun.
    InProgress,
    /// A signal handler ran.
    Interrupted,
    /// Strict mode: only a transport that is no VIA channel was offered.
    StrictRefused,
    /// The process is out of descriptors.
    OutOfDescriptors,
    /// The process is out of memory, or a mapping was refused.
    OutOfMemory,
    /// Any other system call failed; the text says which.
    System(i32),
}

/// An error with the text for the human.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    text: String,
}

impl Error {
    /// An error of `kind`; `text` names the thing and the remedy.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }

    /// An error from a failed system call named `what`.
    pub fn system(what: &str, err: impl Into<std::io::Error>) -> Self {
        let err = err.into();
        let kind = match err.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => Kind::OutOfDescriptors,
            Some(libc::ENOMEM) => Kind::OutOfMemory,
            Some(n) => Kind::System(n),
            None => Kind::System(libc::EIO),
        };
        Self::new(kind, format!("{what}: {err}"))
    }

    /// What went wrong, for a program.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The `errno` that a socket call would give.
    pub fn errno(&self) -> i32 {
        self.kind.errno()
    }
}

impl Kind {
    /// The `errno` of the table.
    pub fn errno(self) -> i32 {
        match self {
            Kind::NullPointer => libc::EFAULT,
            Kind::BadArgument | Kind::BadStructSize | Kind::BadConfig => libc::EINVAL,
            Kind::NotUtf8 => libc::EILSEQ,
            Kind::NameTooLong => libc::ENAMETOOLONG,
            Kind::BadDescriptor => libc::EBADF,
            Kind::NotOurs => libc::ENOTSOCK,
            Kind::UnknownCluster => libc::ENOENT,
            Kind::UnknownServer => libc::EADDRNOTAVAIL,
            Kind::NobodyAnswered => libc::EHOSTUNREACH,
            Kind::NobodyActive | Kind::TimedOut => libc::ETIMEDOUT,
            Kind::Unreachable => libc::ECONNREFUSED,
            Kind::NotAuthorised => libc::EACCES,
            Kind::NotAuthentic => libc::EKEYREJECTED,
            Kind::BrokenPeer => libc::EPROTO,
            Kind::ConnectionLost => libc::ECONNRESET,
            Kind::NotConnected => libc::ENOTCONN,
            Kind::WriteShut => libc::EPIPE,
            Kind::WouldBlock => libc::EAGAIN,
            Kind::InProgress => libc::EINPROGRESS,
            Kind::Interrupted => libc::EINTR,
            Kind::StrictRefused => libc::EPROTONOSUPPORT,
            Kind::OutOfDescriptors => libc::EMFILE,
            Kind::OutOfMemory => libc::ENOMEM,
            Kind::System(n) => n,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}
