//! A PostgreSQL installation with our extension in it, without touching the system's: `make install-ext` below a directory, and
//! links to everything else. A server finds its libraries and extensions by where its own program is, so that one is a copy.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub struct Installation {
    pub dir: tempfile::TempDir,
    /// Its programs.
    pub bin: PathBuf,
}

impl Installation {
    /// `None`, with a line that says so, where PostgreSQL or its server headers are missing.
    pub fn make() -> Option<Self> {
        use std::os::unix::fs::PermissionsExt;
        // Root's PostgreSQL runs as another user, who must come in.
        let dir = tempfile::Builder::new()
            .prefix("vianet-pg-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .unwrap();
        let made = make("install-ext", dir.path());
        let said = said(&made);
        if !made.status.success() && said.contains("make install-ext needs") {
            eprintln!("SKIPPED: {}", said.lines().next().unwrap_or_default());
            return None;
        }
        assert!(made.status.success(), "{said}");
        assert!(!said.contains("warning:"), "{said}");
        let system = PathBuf::from(pg_config("--bindir"));
        if !system.join("postgres").is_file() || !system.join("initdb").is_file() {
            eprintln!(
                "SKIPPED: PostgreSQL's server is not in {}",
                system.display()
            );
            return None;
        }
        let below = |path: &Path| dir.path().join(path.strip_prefix("/").unwrap());
        for what in ["--bindir", "--pkglibdir", "--sharedir"] {
            let system = PathBuf::from(pg_config(what));
            mirror(&system, &below(&system));
        }
        let bin = below(&system);
        std::fs::remove_file(bin.join("postgres")).unwrap();
        std::fs::copy(system.join("postgres"), bin.join("postgres")).unwrap();
        Some(Self { dir, bin })
    }
}

/// `make TARGET` of the repository below `dir`.
pub fn make(target: &str, dir: &Path) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut make = Command::new("make");
    make.current_dir(root).arg("-s").arg(target);
    make.arg(format!("DESTDIR={}", dir.display()));
    make.arg(format!("EXT_BUILD={}", dir.join("build").display()));
    // The outer make's flags and variables are not this one's.
    make.env_remove("MAKEFLAGS").env_remove("MAKEOVERRIDES");
    make.output().expect("make")
}

pub fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn pg_config(what: &str) -> String {
    // As the Makefile.
    let program = std::env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".into());
    let output = Command::new(program).arg(what).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Everything of `system` in `own`, by links, beside what is there.
fn mirror(system: &Path, own: &Path) {
    std::fs::create_dir_all(own).unwrap();
    for entry in std::fs::read_dir(system).unwrap() {
        let entry = entry.unwrap();
        let link = own.join(entry.file_name());
        match link.symlink_metadata() {
            Ok(here) if here.is_dir() => mirror(&entry.path(), &link),
            // Ours, where the system has one too.
            Ok(_) => {}
            Err(_) => std::os::unix::fs::symlink(entry.path(), &link).unwrap(),
        }
    }
}
