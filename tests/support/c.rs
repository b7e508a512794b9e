//! Builds the programs of `c-tests/` and says how to run them.

use super::programs::{built, command, installed, root, run_well, scratch};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How a program is built and run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// As any program.
    Plain,
    /// Under valgrind's memcheck.
    Valgrind,
    /// With AddressSanitizer and UndefinedBehaviorSanitizer.
    Sanitized,
    /// Plain sockets instead of vianet's calls, under the preload library.
    Preloaded,
    /// The library opened by dlopen.
    ByHand,
}

impl How {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Plain | Self::Valgrind => &[],
            Self::Sanitized => &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
            Self::Preloaded => &["-DPLAIN_SOCKETS"],
            Self::ByHand => &["-DOPEN_BY_HAND"],
        }
    }

    /// Bytes that a stream test may move in reasonable time.
    pub fn stream_bytes(self) -> u64 {
        if super::rdma::device().is_some() {
            return 128 << 20; // an emulated processor
        }
        match self {
            Self::Plain => 1 << 30,
            Self::Valgrind => 8 << 20,
            _ => 128 << 20,
        }
    }
}

/// A built program; removed when dropped.
pub struct Program {
    path: PathBuf,
    how: How,
}

impl Drop for Program {
    fn drop(&mut self) {
        if prebuilt_dir().is_some() {
            return;
        }
        if let Some(dir) = self.path.parent() {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

impl Program {
    /// Compiles `c-tests/NAME.c`.
    #[track_caller]
    pub fn build(name: &str, how: How) -> Self {
        if let Some(dir) = prebuilt_dir() {
            let path = dir.join(format!("{how:?}")).join(name);
            return Self { path, how };
        }
        assert!(installed("gcc"), "gcc is missing: run `make tools`");
        // A directory of its own: tests run at the same time, and a program that runs cannot be written.
        static BUILDS: AtomicU32 = AtomicU32::new(0);
        let number = BUILDS.fetch_add(1, Ordering::Relaxed);
        let unique = format!("c-{}-{number}", std::process::id());
        let dir = scratch().join(unique);
        std::fs::create_dir_all(&dir).expect("target can be written");
        let path = dir.join(name);
        compile(name, how, &path);
        Self { path, how }
    }

    /// Compiles all programs for a machine on which that takes too long: there `C_PROGRAMS` names `dir`.
    pub fn build_all_into(dir: &Path) {
        for how in [How::Plain, How::Preloaded, How::ByHand] {
            let dir = dir.join(format!("{how:?}"));
            std::fs::create_dir_all(&dir).expect("target can be written");
            let sources = std::fs::read_dir(root().join("c-tests")).expect("ours");
            for source in sources.map(|entry| entry.expect("ours").path()) {
                let name = source.file_stem().expect("a file").to_string_lossy();
                let is_program = source.extension().is_some_and(|e| e == "c");
                // What needs the library's own calls, and what does without them.
                let fits = match &*name {
                    "errors" => how == How::Plain,
                    "sqlline" => true,
                    _ => how != How::ByHand,
                };
                if is_program && fits {
                    compile(&name, how, &dir.join(&*name));
                }
            }
        }
    }
}

fn prebuilt_dir() -> Option<PathBuf> {
    std::env::var_os("C_PROGRAMS").map(PathBuf::from)
}

#[track_caller]
fn compile(name: &str, how: How, path: &Path) {
    let mut gcc = command("gcc");
    gcc.args([
        "-std=gnu11",
        "-g",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pthread",
    ])
    .args(how.flags())
    .arg("-I")
    .arg(root().join("include"))
    .arg(root().join("c-tests").join(format!("{name}.c")))
    .arg("-o")
    .arg(path);
    if !matches!(how, How::Preloaded | How::ByHand) {
        gcc.arg(library_with_soname())
            .arg("-Wl,-rpath")
            .arg(soname_dir());
    }
    run_well(Duration::from_secs(120), &mut gcc);
}

impl Program {
    /// The command that runs it with this client configuration.
    pub fn command(&self, config: &Path) -> Command {
        let mut run = match self.how {
            How::Valgrind => {
                // A forked child has the memory of threads that it does not have: nobody in it can know it.
                let leaks = match self.path.ends_with("fork") {
                    true => "--leak-check=no",
                    false => "--leak-check=full",
                };
                let mut valgrind = command("valgrind");
                valgrind
                    .args([
                        "--quiet",
                        "--fair-sched=yes",
                        "--error-exitcode=99",
                        "--trace-children=no",
                        "--show-possibly-lost=no",
                    ])
                    .args(["--errors-for-leak-kinds=definite"])
                    .arg(leaks)
                    .arg(&self.path)
                    .env("UNDER_VALGRIND", "1");
                valgrind
            }
            _ => command(&self.path),
        };
        if self.how == How::Preloaded {
            run.env("LD_PRELOAD", built("libvianet_preload.so"));
        }
        run.env("VIANET_CONFIG", config);
        run
    }
}

/// Where `libvianet.so.0` is: the name that programs which were linked with the library ask for.
fn soname_dir() -> PathBuf {
    scratch().join("lib")
}

/// The library under the names that `make install` gives it.
fn library_with_soname() -> PathBuf {
    let dir = soname_dir();
    std::fs::create_dir_all(&dir).expect("target can be written");
    for name in ["libvianet.so", "libvianet.so.0"] {
        let link = dir.join(name);
        let fresh = dir.join(format!("{name}.{}", std::process::id()));
        let _ = std::fs::remove_file(&fresh);
        // By way of rename: another test may be making the same link.
        if std::os::unix::fs::symlink(built("libvianet.so"), &fresh).is_ok() {
            let _ = std::fs::rename(&fresh, &link);
        }
    }
    dir.join("libvianet.so")
}
