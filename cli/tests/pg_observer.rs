//! What it costs to follow a session: `pgbench -S` through vianet, followed and not, in turns (`make bench-postgres`).
//!
//! A measurement, so it is not run by `make test`: a busy machine would fail it.

#[path = "pg_ext/mod.rs"]
mod pg_ext;
#[path = "pg_lab/mod.rs"]
mod pg_lab;

use pg_lab::{Lab, text};
use std::path::PathBuf;
use std::process::Command;

/// Pairs of runs, and the seconds of each run.
const PAIRS: usize = 15;
const SECONDS: &str = "4";
/// So much slower it may be.
const MOST: f64 = 0.03;

fn pgbench(config: &PathBuf, transport: &str, more: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_vianet"))
        .args(["run", "--strict", "--transports", transport, "--"])
        .args(["pgbench", "-h", "sales.lab", "-U", "app"])
        .args(more)
        .arg("app")
        .env("VIANET_CONFIG", config)
        .env("PGPASSWORD", "app")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text(&out));
    text(&out)
}

/// Transactions a second.
fn rate(config: &PathBuf, transport: &str) -> f64 {
    let said = pgbench(config, transport, &["-n", "-S", "-T", SECONDS]);
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "));
    let number = line.and_then(|rest| rest.split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no rate: {said}"))
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

#[test]
#[ignore = "a measurement: make bench-postgres"]
fn following_costs_little() {
    let Some(installation) = pg_ext::Installation::make() else {
        return;
    };
    let bin = installation.bin.to_str().unwrap().to_owned();
    let Some(lab) = Lab::up_with("postgres-shared", 172, &["--pg-bin", &bin]) else {
        return;
    };
    lab.wait_until_active("node-a");
    let plain = lab.dir().join("client.toml");
    let followed = lab.dir().join("followed.toml");
    let text = std::fs::read_to_string(&plain).unwrap();
    let session = "\n[clusters.lab.servers.sales]\nsession = \"postgres\"\n";
    std::fs::write(&followed, text + session).unwrap();
    pgbench(&plain, "shm", &["-i", "-q", "-s", "5"]);

    println!("pgbench -S, one client, {PAIRS} pairs of runs of {SECONDS} s, in turns");
    println!("transport  followed tps  not followed tps  slower by  (quartiles of the pairs)");
    let mut too_slow = Vec::new();
    for transport in ["shm", "tcp"] {
        let (mut ours, mut reference, mut slower) = (vec![], vec![], vec![]);
        for pair in 0..PAIRS {
            let (a, b) = match pair % 2 {
                0 => {
                    let a = rate(&followed, transport);
                    (a, rate(&plain, transport))
                }
                _ => {
                    let b = rate(&plain, transport);
                    (rate(&followed, transport), b)
                }
            };
            ours.push(a);
            reference.push(b);
            slower.push(1.0 - a / b);
        }
        slower.sort_by(f64::total_cmp);
        let [low, middle, high] = [PAIRS / 4, PAIRS / 2, PAIRS * 3 / 4].map(|i| slower[i] * 100.0);
        println!(
            "{transport:<10} {:>12.0}  {:>16.0}  {middle:>7.2} %  ({low:.2} to {high:.2})",
            median(ours),
            median(reference)
        );
        if middle > MOST * 100.0 {
            too_slow.push(transport);
        }
    }
    assert!(too_slow.is_empty(), "slower by more than 3 %: {too_slow:?}");
}
