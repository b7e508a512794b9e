//! What the tests share: where the library is, running programs with and without it, compiling C.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// No test program may run longer.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The preload library of this build.
pub fn library() -> PathBuf {
    let me = std::env::current_exe().expect("the test program's own path");
    let deps = me.parent().expect("a directory");
    let file = deps.join("libvianet_preload.so");
    assert!(
        file.is_file(),
        "{} is not there: cargo build -p vianet-preload",
        file.display()
    );
    file
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a parent")
        .to_owned()
}

/// Whether a program of this name is in PATH; says that the test is skipped if not.
pub fn available(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Makes `command` run with the library, configured with a cluster that the test does not name.
pub fn preload(command: &mut Command) -> &mut Command {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/elsewhere.toml");
    command
        .env("LD_PRELOAD", library())
        .env("VIANET_CONFIG", config)
}

/// Runs `command` to its end, at most [`LIMIT`].
pub fn finish(command: &mut Command) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = child.spawn().expect("the program starts");
    let pid = child.id();
    let (done, ended) = std::sync::mpsc::channel();
    // A watchdog in place of a wait with a limit, which std does not have.
    let watchdog = std::thread::spawn(move || {
        if ended.recv_timeout(LIMIT).is_err() {
            let pid = rustix::process::Pid::from_raw(pid as i32).expect("a child's pid");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    let started = Instant::now();
    let output = child.wait_with_output().expect("the program ends");
    assert!(
        started.elapsed() < LIMIT,
        "killed after {LIMIT:?}: {command:?}\n{}",
        text(&output)
    );
    let _ = done.send(());
    watchdog.join().expect("the watchdog ends");
    output
}

/// What a program printed, for a failure message.
pub fn text(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs what `make` gives without the library and with it, and compares output, errors and exit code byte for byte. A
/// difference counts only if the machine did not change meanwhile: without the library it comes out the same again.
pub fn same(make: impl Fn() -> Command) {
    let quick = |command: &mut Command| {
        // Names that do not exist: one answer of the resolver, or none, in a second.
        finish(command.env("RES_OPTIONS", "timeout:1 attempts:1"))
    };
    for _ in 0..3 {
        let without = quick(&mut make());
        let with = quick(preload(&mut make()));
        if without == with {
            return;
        }
        let (a, b) = (text(&without), text(&with));
        assert!(
            without != quick(&mut make()),
            "{:?} differs\n=== without\n{a}\n=== with\n{b}",
            make()
        );
    }
    panic!("{:?} comes out differently each time", make());
}

/// Compiles `tests/c/NAME.c` with more `flags`; `None` (and a line that says so) where there is no C compiler.
pub fn compile(directory: &Path, name: &str, flags: &[&str]) -> Option<PathBuf> {
    if !available("cc") {
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/c/{name}.c"));
    let program = directory.join(name);
    let mut command = Command::new("cc");
    command
        .args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"])
        .args(flags);
    let output = finish(command.arg("-o").arg(&program).arg(source));
    assert!(output.status.success(), "{}", text(&output));
    Some(program)
}

/// `program` in a mount namespace of its own where /proc is empty; its arguments follow.
pub fn without_proc(program: &Path) -> Command {
    let script = "mount -t tmpfs none /proc && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(program);
    command
}

/// Whether [`without_proc`] is allowed here; says that the test is skipped if not.
pub fn can_hide_proc() -> bool {
    let can = available("unshare")
        && finish(&mut without_proc(Path::new("true")))
            .status
            .success();
    if !can {
        eprintln!("skipped: no mount namespace (root can make one)");
    }
    can
}
