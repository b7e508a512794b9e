//! `make install` into an empty directory: a C program finds header and library by pkg-config and runs against them,
//! `vianet run` finds its library, the man pages are readable, and `make uninstall` takes everything away.

mod support;

use std::time::Duration;
use support::programs::{built, command, install_below, installed, make, run_well, scratch};

const LIMIT: Duration = Duration::from_secs(120);

const PROGRAM: &str = r#"
#include <stdio.h>
#include <string.h>
#include <vianet.h>
int main(void) {
    char expected[32];
    snprintf(expected, sizeof expected, "%d.%d.%d", VIANET_VERSION_MAJOR, VIANET_VERSION_MINOR, VIANET_VERSION_PATCH);
    puts(vianet_version());
    return strcmp(vianet_version(), expected) != 0 || vianet_connect("no\\such", NULL) != -1;
}
"#;

#[test]
fn install_compile_run_uninstall() {
    let _ = built("libvianet.so");
    std::fs::create_dir_all(scratch()).expect("target can be written");
    let dir = tempfile::tempdir_in(scratch()).expect("target can be written");
    let prefix = dir.path().join("prefix");
    run_well(LIMIT, &mut make("install", &prefix));

    let source = dir.path().join("program.c");
    std::fs::write(&source, PROGRAM).expect("a fresh directory");
    let pkg_config = |what: &str| {
        let mut pkg_config = command("pkg-config");
        pkg_config.args([what, "vianet"]);
        pkg_config.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
        run_well(LIMIT, &mut pkg_config)
    };
    let program = dir.path().join("program");
    let mut cc = command("cc");
    cc.arg(&source).arg("-o").arg(&program);
    cc.args(pkg_config("--cflags").split_whitespace());
    cc.args(pkg_config("--libs").split_whitespace());
    run_well(LIMIT, &mut cc);
    let mut run = command(&program);
    let version = run_well(LIMIT, run.env("LD_LIBRARY_PATH", prefix.join("lib")));
    assert_eq!(version, pkg_config("--modversion"));

    // By the SONAME, whose link leads to the versioned file.
    let needed = run_well(LIMIT, command("readelf").arg("-d").arg(&program));
    assert!(needed.contains("[libvianet.so.0]"), "{needed}");
    let lib = prefix.join("lib");
    let file = lib
        .join("libvianet.so.0")
        .canonicalize()
        .expect("the link leads somewhere");
    assert_eq!(
        file.file_name().expect("a file"),
        &*format!("libvianet.so.{}", version.trim())
    );

    let vianet = prefix.join("bin/vianet");
    run_well(LIMIT, command(&vianet).args(["run", "--", "true"]));
    run_well(LIMIT, command(prefix.join("bin/vianetd")).arg("--version"));
    for page in [
        "man1/vianet.1",
        "man3/vianet.3",
        "man5/vianet-client.toml.5",
        "man5/vianet-node.toml.5",
        "man8/vianetd.8",
    ] {
        let page = prefix.join("share/man").join(page);
        assert!(page.exists(), "{}", page.display());
        if installed("groff") {
            let mut groff = command("groff");
            let output = support::programs::run_within(
                LIMIT,
                groff.args(["-man", "-Tutf8", "-ww", "-z"]).arg(&page),
            );
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() && said.is_empty(),
                "{}: {said}",
                page.display()
            );
        }
    }

    run_well(LIMIT, &mut make("uninstall", &prefix));
    let left = run_well(
        LIMIT,
        command("find").arg(&prefix).args(["!", "-type", "d"]),
    );
    assert_eq!(left, "", "uninstall left something behind");
}

/// `DESTDIR` is where packagers look; `PREFIX` is what is written into the files.
#[test]
fn install_for_packagers() {
    std::fs::create_dir_all(scratch()).expect("target can be written");
    let dir = tempfile::tempdir_in(scratch()).expect("target can be written");
    let usr = install_below(dir.path());
    let config = std::fs::read_to_string(usr.join("lib/pkgconfig/vianet.pc"));
    assert!(config.expect("installed").contains("prefix=/usr\n"));
}
