//! The user under which a database runs. PostgreSQL refuses to run as root, so for root another one is taken.

use crate::failure::{Failure, Outcome};
use std::os::unix::fs::chown;
use std::path::Path;

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
}

impl Account {
    /// Whom this process runs as.
    pub fn own() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        Self::find(|a| a.uid == uid).unwrap_or(Self {
            name: uid.to_string(),
            uid,
            gid: rustix::process::getegid().as_raw(),
        })
    }

    /// The user for a database: `None` is our own; root takes `postgres`, or `nobody`.
    pub fn for_database() -> Outcome<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| Self::named(name))
            .map(Some)
            .ok_or_else(|| {
                Failure::refused(
                    "a database does not run as root, and there is neither a user postgres nor nobody: \
                     run this as another user",
                )
            })
    }

    /// The user of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::find(|a| a.name == name)
    }

    fn find(is: impl Fn(&Self) -> bool) -> Option<Self> {
        let users = std::fs::read_to_string("/etc/passwd").ok()?;
        let parse = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Self { name, uid, gid })
        };
        users.lines().filter_map(parse).find(is)
    }

    /// Makes a directory the user's.
    pub fn give(account: Option<&Self>, path: &Path) -> Outcome {
        let Some(account) = account else {
            return Ok(());
        };
        chown(path, Some(account.uid), Some(account.gid))
            .map_err(|e| Failure::failed(format!("chown {}: {e}", path.display())))
    }
}
