//! Which server it is, and whether another one may carry its sessions on.

use super::message::columns;
use super::{Reason, Record};

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Made with the database cluster; its copies have the same.
    pub system: u64,
    /// The present timeline; `None`: it cannot be written to.
    pub timeline: Option<u32>,
    /// It has our extension, which tells the state of a session. Without it the state is derived from the catalogs.
    pub tells_state: bool,
}

/// How it is found out what a session has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Our extension tells.
    Exact,
    /// The catalogs do, as far as they know; the statements' texts say what they may not know.
    Derived,
}

impl Way {
    /// For programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Derived => "derived",
        }
    }
}

/// What must be the same on both servers: data are stored or sent as these say.
const SAME: [&str; 2] = ["server_encoding", "integer_datetimes"];

impl Identity {
    pub(super) fn read(rows: &[&[u8]]) -> Option<Self> {
        let [row] = rows else { return None };
        let columns = columns(row)?;
        let [Some(system), timeline, Some(tells)] = columns[..] else {
            return None;
        };
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let timeline = match timeline {
            Some(digits) => Some(u32::from_str_radix(text(digits)?, 16).ok()?),
            None => None,
        };
        Some(Self {
            system: text(system)?.parse::<i64>().ok()? as u64,
            timeline,
            tells_state: tells == b"t",
        })
    }

    /// How it is found out what a session of it has become.
    pub fn way(&self) -> Way {
        match self.tells_state {
            true => Way::Exact,
            false => Way::Derived,
        }
    }

    /// Whether `other` may carry on a session of this server; `before` and `after` are what the two have reported.
    pub(super) fn may_follow(
        &self,
        other: &Self,
        before: &Record,
        after: &Record,
    ) -> Result<(), (Reason, String)> {
        let no = |text: String| Err((Reason::OtherServer, text));
        if other.system != self.system {
            let (one, two) = (self.system, other.system);
            return no(format!("its system identifier is {two} and not {one}"));
        }
        let (Some(lowest), Some(timeline)) = (self.timeline, other.timeline) else {
            return no("it cannot be written to".into());
        };
        if timeline < lowest {
            return no(format!(
                "its timeline is {timeline}, and {lowest} has been seen"
            ));
        }
        for name in SAME {
            if before.parameter(name) != after.parameter(name) {
                return no(format!("{name} is another"));
            }
        }
        if major(before).is_none() || major(before) != major(after) {
            return no("its major version is another".into());
        }
        match (self.way(), other.way()) {
            (Way::Exact, Way::Derived) => {
                Err((Reason::NoExtension, "it lacks the extension vianet".into()))
            }
            _ => Ok(()),
        }
    }
}

/// Whether the catalogs of the server are those that we can read.
pub(super) fn is_derivable(record: &Record) -> bool {
    let major = major(record).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    major.is_some_and(|major: u32| (14..=17).contains(&major))
}

fn major(record: &Record) -> Option<&[u8]> {
    let version = record.parameter("server_version")?;
    let digits = version.iter().take_while(|byte| byte.is_ascii_digit());
    let digits = &version[..digits.count()];
    (!digits.is_empty()).then_some(digits)
}
