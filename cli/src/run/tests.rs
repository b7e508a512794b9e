use super::*;
use std::os::unix::fs::PermissionsExt;

fn script(directory: &Path, name: &str, text: &[u8], mode: u32) -> PathBuf {
    let file = directory.join(name);
    std::fs::write(&file, text).expect("temporary file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("mode");
    file
}

fn code(failure: Failure) -> String {
    format!("{:?}", failure.exit_code())
}

#[test]
fn an_existing_preload_list_is_kept_behind_ours() {
    let list = preload_list(Path::new("/a/ours.so"), Some("/b/theirs.so /c.so".into()));
    assert_eq!(list, "/a/ours.so:/b/theirs.so /c.so");
    assert_eq!(
        preload_list(Path::new("/a/ours.so"), Some("".into())),
        "/a/ours.so"
    );
    assert_eq!(preload_list(Path::new("/a/ours.so"), None), "/a/ours.so");
}

#[test]
fn strict_takes_plain_away() {
    assert_eq!(allowed(vec![], false).unwrap(), []);
    assert!(!allowed(vec![], true).unwrap().contains(&Transport::Plain));
    let two = vec![Transport::Plain, Transport::Tcp];
    assert_eq!(allowed(two, true).unwrap(), [Transport::Tcp]);
    assert!(allowed(vec![Transport::Plain], true).is_err());
}

#[test]
fn a_program_that_is_not_there_is_127_and_one_that_is_no_program_126() {
    let missing = program::find("no-such-program-anywhere".as_ref()).unwrap_err();
    assert_eq!(
        code(missing),
        format!("{:?}", std::process::ExitCode::from(127))
    );
    let missing = program::find("/no/such/program".as_ref()).unwrap_err();
    assert_eq!(
        code(missing),
        format!("{:?}", std::process::ExitCode::from(127))
    );
    let directory = tempfile::tempdir().expect("temporary directory");
    let plain = script(directory.path(), "plain", b"text", 0o644);
    let plain = program::find(plain.as_os_str()).unwrap_err();
    assert_eq!(
        code(plain),
        format!("{:?}", std::process::ExitCode::from(126))
    );
    assert_eq!(
        code(program::find(directory.path().as_os_str()).unwrap_err()),
        format!("{:?}", std::process::ExitCode::from(126)),
    );
}

#[test]
fn an_ordinary_program_has_no_obstacle() {
    let shell = program::find("sh".as_ref()).expect("a shell");
    assert!(program::obstacles(&shell).is_empty());
    let directory = tempfile::tempdir().expect("temporary directory");
    let script = script(directory.path(), "script", b"#!/bin/sh\nexit 0\n", 0o755);
    assert!(program::obstacles(&script).is_empty());
}

#[test]
fn setuid_programs_and_other_files_are_told_apart() {
    let directory = tempfile::tempdir().expect("temporary directory");
    // A setuid file of our own raises nothing; the test may run as root, so another owner cannot be assumed.
    let own = script(directory.path(), "own", b"#!/bin/sh\n", 0o4755);
    assert!(program::obstacles(&own).is_empty());
    let garbage = script(directory.path(), "garbage", b"\x7fELF\x02\x01", 0o755);
    assert!(
        program::obstacles(&garbage).is_empty(),
        "too short to be judged"
    );
}

#[test]
fn static_programs_are_found_out() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let source = script(
        directory.path(),
        "s.c",
        b"int main(void) { return 0; }\n",
        0o644,
    );
    let program = directory.path().join("s");
    let built = Command::new("cc")
        .arg("-static")
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .status();
    if !built.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no C compiler, or no static C library");
        return;
    }
    let found = program::obstacles(&program);
    assert!(found.iter().any(|o| o.contains("static")), "{found:?}");
}
