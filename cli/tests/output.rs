//! What `vianet` does where its output cannot be written: no panic, and an exit status that says it.

use std::fs::OpenOptions;
use std::process::{Command, Output, Stdio};

fn doctor(out: Stdio, err: Stdio) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vianet"))
        .arg("doctor")
        .env_remove("VIANET_CONFIG")
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .stdout(out)
        .stderr(err)
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap()
}

/// As `vianet doctor | head -1` leaves it.
fn unread() -> Stdio {
    let (_, unread) = std::io::pipe().unwrap();
    unread.into()
}

fn full() -> Stdio {
    let full = OpenOptions::new().write(true).open("/dev/full");
    full.unwrap().into()
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure() {
    let output = doctor(unread(), Stdio::piped());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_full_disk_is_one() {
    let output = doctor(full(), Stdio::piped());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("vianet: standard output: "), "{text}");
    for err in [full(), unread()] {
        let output = doctor(full(), err);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
}
