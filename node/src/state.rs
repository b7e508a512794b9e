//! The generation of each server name, on disk before it is announced.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What is kept for one server name.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Generations mean something only within one cluster.
    pub cluster_id: String,
    /// The largest generation known.
    pub seen: u64,
    /// The last generation at which this node was active itself.
    pub own: u64,
}

/// See [`Store::lock`].
pub struct Lock {
    _file: File,
}

/// The directory.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    cluster_id: String,
}

impl Store {
    /// Makes the directory (mode 0700) if it is not there.
    pub fn open(dir: &Path, cluster_id: &str) -> io::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        Ok(Self {
            dir: dir.into(),
            cluster_id: cluster_id.to_ascii_lowercase(),
        })
    }

    /// Makes sure that this process is the only one to use the directory, until the lock is dropped.
    pub fn lock(&self) -> io::Result<Lock> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.dir.join("lock"))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Lock { _file: file })
    }

    fn path(&self, server: &str) -> PathBuf {
        self.dir
            .join(format!("{}.toml", server.to_ascii_lowercase()))
    }

    /// What was saved for `server`; nothing if nothing was, or if it belongs to another cluster.
    ///
    /// # Errors
    /// The text names the file and the remedy.
    pub fn load(&self, server: &str) -> Result<Saved, String> {
        let path = self.path(server);
        let text = match vianet::config::read_text(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Saved::default()),
            Err(e) => return Err(format!("{}: cannot be read: {e}", path.display())),
        };
        let saved: Saved = toml::from_str(&text).map_err(|e| {
            format!(
                "{}: not understood: {e}; if the peer has a good copy, remove this file",
                path.display()
            )
        })?;
        Ok(if saved.cluster_id == self.cluster_id {
            saved
        } else {
            Saved::default()
        })
    }

    /// Writes it so that it survives a crash at any point: new file, fsync, rename, fsync of the directory.
    pub fn save(&self, server: &str, seen: u64, own: u64) -> io::Result<()> {
        let path = self.path(server);
        let fresh = path.with_extension("new");
        let saved = Saved {
            cluster_id: self.cluster_id.clone(),
            seen,
            own,
        };
        let text = toml::to_string(&saved).expect("three plain fields");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, &path)?;
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_is_loaded_again_and_only_for_its_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("a/b"), "AB").unwrap();
        assert_eq!(store.load("sales").unwrap(), Saved::default());
        store.save("Sales", 7, 5).unwrap();
        let saved = store.load("SALES").unwrap();
        assert_eq!((saved.seen, saved.own), (7, 5));
        let other = Store::open(&dir.path().join("a/b"), "cd").unwrap();
        assert_eq!(other.load("sales").unwrap(), Saved::default());
    }

    #[test]
    fn a_damaged_file_is_an_error_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "ab").unwrap();
        std::fs::write(dir.path().join("sales.toml"), "seen = \"x\"").unwrap();
        let err = store.load("sales").unwrap_err();
        assert!(
            err.contains("sales.toml") && err.contains("remove this file"),
            "{err}"
        );
    }
}
