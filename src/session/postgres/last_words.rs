//! What the application is told, in the protocol's own words, when its server is lost and the session ends with it.
//!
//! Never an ERROR: there is nothing to go on with, and libpq swallows an ERROR while it is idle. A FATAL and the end make pools evict and psql connect again. A code of class 40 would be read as "rolled back, run it
//! again", which is not known.

use super::{Observer, Onward, Reason, Standing, Transaction};

/// How a session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As the server would have ended it: in good order, after this (which may be nothing).
    Words(Vec<u8>),
    /// The connection is reset, without a word.
    Reset,
}

/// Who was lost.
#[derive(Clone, Copy, Debug)]
pub struct Lost<'a> {
    /// What the application asked for.
    pub name: &'a str,
    /// The node that served it.
    pub node: &'a str,
    /// Why it does not go on elsewhere, where its protocol does not say so.
    pub why: Reason,
}

impl Observer {
    /// How the session ends now. `tell_unknown`: the application wants to be told when the outcome of its request is
    /// unknown.
    pub fn end(&self, lost: Lost<'_>, tell_unknown: bool) -> End {
        if !self.at_boundary() {
            return End::Reset;
        }
        // Nobody knows what became of a request that the application did not wait for; unless the server has said it.
        let known = self.told || !self.queue.runs();
        if self.standing() == Standing::Over && self.obstacle() == Some(Reason::Ended) && known {
            return End::Words(Vec::new());
        }
        let why = lost.why;
        let suspect = self.record.suspect(why);
        let colon = if suspect.is_empty() { "" } else { ": " };
        let suspect = suspect.replace(|letter: char| !(' '..='~').contains(&letter), "?");
        let moved = format!("{} ({}{colon}{suspect})", why.name(), why.text());
        let open = self.transaction().is_some_and(|it| it != Transaction::Idle);
        let (code, what, detail, hint) = match self.standing() {
            Standing::Login => (
                "57P01",
                "during the login",
                "No statement was sent.".to_owned(),
                "Connect again by the same name.",
            ),
            Standing::Idle => {
                let detail = format!(
                    "The session was idle: no transaction was open, and nothing was running. It was not moved to \
                     another server: {moved}."
                );
                ("57P01", "", detail, "Connect again by the same name.")
            }
            // A request in flight that ends no transaction is lost with it.
            standing @ (Standing::Transaction | Standing::InFlight)
                if open && (standing == Standing::Transaction || !self.may_commit(None)) =>
            {
                let detail =
                    format!("{NOTHING} The session was not moved to another server: {moved}.");
                let hint = "Connect again by the same name, and run the whole transaction again.";
                ("08006", IN_BLOCK, detail, hint)
            }
            Standing::InFlight if tell_unknown => (
                "08007",
                IN_FLIGHT,
                UNKNOWN.to_owned(),
                "Find out what it did before you run it again.",
            ),
            _ => return End::Reset,
        };
        let space = if what.is_empty() { "" } else { " " };
        let message = format!("terminating connection: the server was lost{space}{what}");
        End::Words(response(
            "FATAL",
            code,
            &message,
            &lost.detail(&detail),
            hint,
        ))
    }
}

const IN_BLOCK: &str = "and the open transaction with it";
const NOTHING: &str = "No COMMIT was in flight, so nothing of the transaction was committed.";
const IN_FLIGHT: &str = "while a request was in flight";
const UNKNOWN: &str =
    "The outcome is unknown: the request may have been run or not. It is never sent again.";

impl Lost<'_> {
    fn detail(&self, more: &str) -> String {
        let Self { name, node, .. } = self;
        format!("vianet: {node} does not serve {name} any more. {more}")
    }

    /// The error in a session that goes on so on `node`.
    pub fn told(&self, onward: &Onward, node: &str) -> Vec<u8> {
        let (code, what, more, hint) = match onward {
            Onward::Same(_) => return Vec::new(),
            Onward::Aborted => (
                "08006",
                IN_BLOCK,
                NOTHING,
                "Roll back, and run the whole transaction again.",
            ),
            Onward::Unknown => (
                "08007",
                IN_FLIGHT,
                UNKNOWN,
                "Find out what it did before you run it again.",
            ),
        };
        let detail = self.detail(&format!("{more} The session goes on on {node}."));
        response(
            "ERROR",
            code,
            &format!("the server was lost {what}"),
            &detail,
            hint,
        )
    }
}

/// An ErrorResponse. ASCII, which every client encoding has.
fn response(severity: &str, code: &str, message: &str, detail: &str, hint: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for (field, text) in [
        (b'S', severity),
        (b'V', severity),
        (b'C', code),
        (b'M', message),
        (b'D', detail),
        (b'H', hint),
    ] {
        body.push(field);
        let plain = |c: char| {
            if matches!(c, ' '..='~') {
                c as u8
            } else {
                b'?'
            }
        };
        body.extend(text.chars().map(plain));
        body.push(0);
    }
    body.push(0);
    let mut out = vec![b'E'];
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(&body);
    out
}
