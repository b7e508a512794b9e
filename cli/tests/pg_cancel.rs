//! psql's Ctrl-C: libpq connects, sends, receives and closes inside a signal handler, which interrupts whatever call of the same
//! program is under way.
//!
//! Skipped, with a line that says so, where PostgreSQL or psql is not installed.

#[path = "pg_lab/mod.rs"]
mod pg_lab;

use pg_lab::{Lab, Libpq, text};
use std::process::Command;

#[test]
fn a_thousand_cancels_out_of_a_signal_handler() {
    let Some(lab) = Lab::up("postgres-shared", 139) else {
        return;
    };
    lab.wait_until_active("node-a");
    let program = Libpq::compile(lab.dir.path(), "cancel");
    let config = std::fs::read_to_string(lab.dir().join("client.toml")).unwrap();
    for session in ["raw", "postgres"] {
        let file = lab.dir.path().join("client.toml");
        let more = format!("\n[clusters.lab.servers.sales]\nsession = \"{session}\"\n");
        std::fs::write(&file, config.clone() + &more).unwrap();
        for transport in ["shm", "tcp"] {
            let out = Command::new("timeout")
                .args(["120", env!("CARGO_BIN_EXE_vianet"), "run", "--strict"])
                .args(["--transports", transport, "--config"])
                .args([&file])
                .arg("--")
                .arg(&program)
                .args(["host=sales.lab user=app password=app dbname=app", "250"])
                .output()
                .unwrap();
            let said = text(&out);
            let what = format!("{session} over {transport}: {said}{}", lab.logs());
            assert!(out.status.success(), "{what}");
            let words: Vec<u32> = (said.lines())
                .find_map(|l| l.strip_prefix("done "))
                .unwrap_or_default()
                .split_whitespace()
                .map_while(|word| word.parse().ok())
                .collect();
            let [sent, answers, canceled, refused] = words[..] else {
                panic!("{what}")
            };
            assert_eq!((sent >= 250, refused), (true, 0), "{what}");
            assert!(answers > 0 && canceled > 0, "{what}");
        }
    }
}
