//! `vianet demo` as `make demo` runs it: a verdict, an exit code, and nothing left behind.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn demo(subnet: &str, tmp: &Path, engine: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vianet"));
    command
        .args(["demo", "--engine", engine, "--subnet", subnet])
        .env("TMPDIR", tmp)
        .env_remove("VIANET_CONFIG");
    command
}

/// A directory of its own for the demo's, so that one sees what is left in it.
fn directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new()
        .prefix("vianet-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir_in("/tmp")
        .unwrap()
}

fn left_in(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect()
}

fn processes_in(dir: &Path) -> usize {
    let dir = dir.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|e| std::fs::read(e.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(dir))
        .count()
}

fn good_verdict(engine: &str, subnet: &str) -> Option<String> {
    let tmp = directory();
    let out = demo(subnet, tmp.path(), engine).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let complained = String::from_utf8_lossy(&out.stderr).into_owned();
    if complained.contains("PostgreSQL is not installed") {
        eprintln!("skipped: {complained}");
        return None;
    }
    assert_eq!(out.status.code(), Some(0), "{said}{complained}");
    for line in [
        "KILLED     node-a",
        "detected ",
        "asked ",
        "answered   node-b",
        "connected  node-b",
        "Verdict: good",
        "rows lost              0",
        "rows twice             0",
    ] {
        assert!(said.contains(line), "{line:?} is missing:\n{said}");
    }
    assert!(left_in(tmp.path()).is_empty());
    assert_eq!(processes_in(tmp.path()), 0);
    Some(said)
}

#[test]
fn the_embedded_demo_ends_with_a_good_verdict() {
    let said = good_verdict("embedded", "127.0.140").expect("needs nothing installed");
    assert!(said.contains("went on, on the same descriptor"), "{said}");
}

#[test]
fn the_postgres_demo_ends_with_a_good_verdict() {
    good_verdict("postgres", "127.0.141");
}

#[test]
fn ctrl_c_in_the_middle_leaves_nothing() {
    // Where this thread stands still for seconds the demo may end before it is interrupted.
    let interrupted = (0..5).any(|_| interrupt_the_demo());
    assert!(interrupted, "the demo was never caught in the middle");
}

/// False: it came to its end before.
fn interrupt_the_demo() -> bool {
    let tmp = directory();
    let mut child = demo("127.0.142", tmp.path(), "embedded")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("KILLED") {
        line.clear();
        assert_ne!(
            lines.read_line(&mut line).unwrap(),
            0,
            "the demo ended before the kill"
        );
    }
    // While nobody serves the name: the client is waiting inside the library.
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    let code = child.wait().unwrap().code();
    assert!(left_in(tmp.path()).is_empty());
    assert_eq!(processes_in(tmp.path()), 0);
    if code == Some(0) && rest.contains("Verdict") {
        return false;
    }
    assert_eq!(code, Some(130), "{rest}");
    assert!(!rest.contains("Verdict"), "{rest}");
    true
}
