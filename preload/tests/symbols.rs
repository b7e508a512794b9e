//! The exported symbols are committed: a name that appears or goes by accident changes programs.

mod common;

use std::process::Command;

#[test]
fn exported_symbols_are_those_committed() {
    if !common::available("nm") {
        return;
    }
    let output = common::finish(
        Command::new("nm")
            .args(["-D", "--defined-only", "--format=just-symbols"])
            .arg(common::library()),
    );
    assert!(output.status.success(), "{}", common::text(&output));
    let mut found: Vec<_> = std::str::from_utf8(&output.stdout)
        .expect("names")
        .lines()
        .collect();
    found.sort_unstable();
    let found = found.join("\n") + "\n";
    let file = common::root().join("packaging/libvianet_preload.symbols");
    if std::env::var_os("UPDATE_SYMBOLS").is_some() {
        std::fs::write(&file, &found).expect("the list is written");
        return;
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == found,
        "{} is stale; UPDATE_SYMBOLS=1 cargo test -p vianet-preload --test symbols updates it\n{found}",
        file.display()
    );
}
