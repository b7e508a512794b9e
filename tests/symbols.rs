//! What `libvianet.so` shows to the dynamic linker: the exported functions, the SONAME, never unloaded.

use std::path::{Path, PathBuf};
use std::process::Command;

const REMEDY: &str = "cargo build -p vianet && UPDATE=1 cargo test -p vianet --test symbols";

/// Beside the test's own executable: `target/PROFILE/deps/symbols-...`.
fn library() -> PathBuf {
    let exe = std::env::current_exe().expect("a running program has a path");
    let profile = exe
        .ancestors()
        .nth(2)
        .expect("cargo runs tests from target/PROFILE/deps");
    // Built with this test: `deps` has the one of this very build.
    let built = profile.join("deps/libvianet.so");
    if built.exists() {
        built
    } else {
        profile.join("libvianet.so")
    }
}

fn output(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .arg(library())
        .output()
        .unwrap_or_else(|e| panic!("{program} (binutils) is needed: {e}"));
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).expect("ASCII")
}

#[test]
fn exported_symbols_are_the_committed_ones() {
    let list = output("nm", &["-D", "--defined-only", "--format=just-symbols"]);
    let mut names: Vec<&str> = list
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    names.sort_unstable();
    let fresh = names.join("\n") + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/libvianet.symbols");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &fresh).expect("the list can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == fresh,
        "packaging/libvianet.symbols differs; run: {REMEDY}\ncommitted:\n{committed}\nnow:\n{fresh}"
    );
    assert!(
        fresh.lines().all(|name| name.starts_with("vianet_")),
        "{fresh}"
    );
}

#[test]
fn soname_and_nodelete() {
    let dynamic = output("readelf", &["-d"]);
    assert!(
        dynamic.contains("Library soname: [libvianet.so.0]"),
        "{dynamic}"
    );
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
}
