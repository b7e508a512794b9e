//! How a subcommand ends when it did not do what it was asked: a text for the human, an exit code for the script.

use std::fmt;
use std::process::ExitCode;

/// What a subcommand returns.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Why a subcommand did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// Exit code 1: it was tried and failed. `text` says what, and what to do.
    pub fn failed(text: impl Into<String>) -> Self {
        Self {
            code: 1,
            text: text.into(),
        }
    }

    /// Exit code 3: the thing is not in a state in which this can be done; nothing was changed.
    pub fn refused(text: impl Into<String>) -> Self {
        Self {
            code: 3,
            text: text.into(),
        }
    }

    /// Ends with `code` (`vianet run` passes on the code of what it could not start).
    pub fn with_code(code: u8, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// The same, with more text.
    pub fn and(mut self, more: &str) -> Self {
        self.text += more;
        self
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<vianet::Error> for Failure {
    fn from(err: vianet::Error) -> Self {
        Self::failed(err.to_string())
    }
}

/// Adds what was being done to an I/O error: `fs::read(p).doing(|| format!("reading {p}"))?`.
pub trait Doing<T> {
    /// The error becomes "`what`: error".
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Outcome<T>;
}

impl<T, E: fmt::Display> Doing<T> for Result<T, E> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Outcome<T> {
        self.map_err(|e| Failure::failed(format!("{}: {e}", what().into())))
    }
}
