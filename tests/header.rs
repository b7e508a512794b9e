//! `include/vianet.h` is what cbindgen makes of `src/capi` now, and compiles as C99, C11 and C++17 without a warning.

use std::path::{Path, PathBuf};
use std::process::Command;

const REMEDY: &str = "UPDATE=1 cargo test -p vianet --test header";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn generate() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).expect("cbindgen.toml");
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(root().join("src/capi/types.rs"))
        .with_src(root().join("src/capi/mod.rs"))
        .generate()
        .expect("cbindgen understands src/capi");
    let mut text = Vec::new();
    bindings.write(&mut text);
    String::from_utf8(text).expect("a header is UTF-8")
}

#[test]
fn header_is_current() {
    let (path, fresh) = (root().join("include/vianet.h"), generate());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &fresh).expect("the header can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == fresh,
        "include/vianet.h is stale; run: {REMEDY}"
    );
}

#[test]
fn header_compiles_alone_in_every_language() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (compiler, standard, suffix) in [
        ("cc", "c99", "c"),
        ("cc", "c11", "c"),
        ("c++", "c++17", "cpp"),
    ] {
        let source = dir.path().join(format!("only.{suffix}"));
        std::fs::write(
            &source,
            "#include <vianet.h>\nint main(void) { return 0; }\n",
        )
        .expect("the source can be written");
        let out = Command::new(compiler)
            .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"])
            .arg(format!("-std={standard}"))
            .arg("-I")
            .arg(root().join("include"))
            .arg(&source)
            .output()
            .expect("a C compiler is installed");
        assert!(
            out.status.success(),
            "{standard}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
}

#[test]
fn version_macros_are_the_package_version() {
    let header = std::fs::read_to_string(root().join("include/vianet.h")).expect("the header");
    for (part, value) in [
        ("MAJOR", env!("CARGO_PKG_VERSION_MAJOR")),
        ("MINOR", env!("CARGO_PKG_VERSION_MINOR")),
        ("PATCH", env!("CARGO_PKG_VERSION_PATCH")),
    ] {
        let line = format!("#define VIANET_VERSION_{part} {value}");
        assert!(header.lines().any(|l| l == line), "{line} is not there");
    }
}
