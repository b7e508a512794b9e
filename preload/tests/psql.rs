//! psql and pgbench through `vianet run`, by every form of the name, over shared memory and over TCP.

mod common;
#[path = "../../tests/support/mod.rs"]
mod support;

use common::{available, finish, text};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::lab::Lab;
use support::programs::{built, command};

const FORMS: [&str; 3] = ["lab\\sales", "sales.lab", "sales"];
/// On an RDMA device, in `make test-rdma`, that.
fn transports() -> &'static [&'static str] {
    match support::rdma::device() {
        Some(_) => &["rdma"],
        None => &["shm", "tcp"],
    }
}

fn through_run(lab: &Lab, transport: &str, program: &str) -> Command {
    let mut run = command(built("vianet"));
    run.arg("run").arg("--config").arg(lab.client_toml());
    run.args(["--strict", "--transports", transport, "--", program]);
    run.env("PGPASSWORD", "app")
        .env("VIANET_PRELOAD", common::library());
    run
}

fn psql(lab: &Lab, transport: &str, host: &str, statements: &str) -> String {
    let mut psql = through_run(lab, transport, "psql");
    psql.args([
        "-X", "-A", "-t", "-U", "app", "-d", "app", "-h", host, "-c", statements,
    ]);
    let output = finish(&mut psql);
    assert!(
        output.status.success(),
        "psql -h {host} over {transport}: {}",
        text(&output)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn psql_by_every_form_of_the_name_to_the_embedded_server() {
    if !available("psql") {
        return;
    }
    let lab = Lab::up("embedded", 170);
    let opened = |transport: &str| {
        let log = lab.daemon_log("node-a");
        let of = |line: &&str| line.contains("channel-open") && line.contains(transport);
        log.lines().filter(of).count()
    };
    for transport in transports() {
        for host in FORMS {
            let before = support::rdma::packets_sent("rxe0");
            assert_eq!(psql(&lab, transport, host, "select 40 + 2").trim(), "42");
            let after = support::rdma::packets_sent("rxe0");
            // siw does not count.
            let device = support::rdma::device();
            let is_rxe =
                device.is_some() && device == support::rdma::address_of("RDMA_VM_RXE_ADDR");
            assert!(
                !is_rxe || after > before,
                "the device sent {before:?}, {after:?}"
            );
        }
        // Each has its connection, and none went another way.
        let all = opened("");
        assert_eq!(opened(&format!("transport={transport}")), FORMS.len());
        assert!(transport != &"rdma" || all == FORMS.len(), "{all}");
    }
}

/// psql registers nothing before it connects, so it does without /proc.
#[test]
fn psql_without_proc() {
    if !available("psql") || !common::can_hide_proc() {
        return;
    }
    let lab = Lab::up("embedded", 172);
    let mut psql = common::without_proc("psql".as_ref());
    psql.args(["-X", "-A", "-t", "-U", "app", "-d", "app"]);
    psql.args(["-h", "sales.lab", "-c", "select 40 + 2"]);
    psql.env("LD_PRELOAD", common::library())
        .env("VIANET_CONFIG", lab.client_toml())
        .env("PGPASSWORD", "app");
    let output = finish(&mut psql);
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stdout).trim() == "42",
        "{}",
        text(&output)
    );
}

#[test]
fn psql_and_pgbench_to_postgresql() {
    if !available("psql") || !available("pgbench") || !postgresql() {
        return;
    }
    let lab = Lab::up("postgres", 171);
    for transport in transports() {
        for host in FORMS {
            let rows = psql(
                &lab,
                transport,
                host,
                "select sum(i) from generate_series(1, 100000) i",
            );
            assert_eq!(rows.trim(), "5000050000", "{host} over {transport}");
        }
        cancel(&lab, transport, "select pg_sleep(50)");
        // psql is inside malloc most of the time, and its handler interrupts it there.
        for _ in 0..3 {
            cancel(
                &lab,
                transport,
                "select repeat('x', 20) from generate_series(1, 20000000)",
            );
        }
        let mut fill = through_run(&lab, transport, "pgbench");
        let output = finish(fill.args(["-h", "sales.lab", "-U", "app", "-i", "-q", "app"]));
        assert!(
            output.status.success(),
            "pgbench -i over {transport}: {}",
            text(&output)
        );
        for host in FORMS {
            let mut bench = through_run(&lab, transport, "pgbench");
            bench.args(["-h", host, "-U", "app", "-c", "4", "-j", "2", "-t", "25"]);
            let output = finish(bench.arg("app"));
            let said = text(&output);
            assert!(
                output.status.success() && said.contains("100/100"),
                "pgbench -h {host} over {transport}: {said}"
            );
        }
    }
}

/// Debian keeps the server's programs out of PATH.
fn postgresql() -> bool {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    versions
        .map(|v| v.path().join("bin/initdb"))
        .any(|p| p.is_file())
        || available("initdb")
}

/// psql cancels from its signal handler, by a second connection to the address that it is connected to.
fn cancel(lab: &Lab, transport: &str, statement: &str) {
    let mut psql = through_run(lab, transport, "psql");
    psql.args(["-X", "-U", "app", "-d", "app", "-h", "sales.lab"]);
    psql.args(["-c", "select 'begun'", "-c", statement]);
    let mut child = psql
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql starts");
    // The first answer says that it is connected; the second statement follows at once.
    let mut stdout = child.stdout.take().expect("piped");
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("begun") {
        let mut chunk = [0; 256];
        let n = std::io::Read::read(&mut stdout, &mut chunk).expect("a pipe");
        assert!(n > 0, "psql ended: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&chunk[..n]);
    }
    let (pid, over) = (child.id(), Arc::new(AtomicBool::new(false)));
    let ended = Arc::clone(&over);
    let watchdog = std::thread::spawn(move || {
        let started = Instant::now();
        // Again and again: a signal that comes before the second statement runs cancels nothing.
        let mut interrupt = Duration::from_millis(500);
        while !ended.load(Ordering::Relaxed) && started.elapsed() < common::LIMIT {
            std::thread::sleep(Duration::from_millis(20));
            if started.elapsed() >= interrupt && !ended.load(Ordering::Relaxed) {
                interrupt += Duration::from_millis(500);
                support::programs::kill(pid, libc::SIGINT);
            }
        }
        if !ended.load(Ordering::Relaxed) {
            support::programs::kill(pid, libc::SIGKILL);
        }
    });
    let output = child.wait_with_output().expect("psql ends");
    over.store(true, Ordering::Relaxed);
    watchdog.join().expect("the watchdog ends");
    let said = text(&output);
    assert!(
        said.contains("canceling statement"),
        "over {transport}: {said}"
    );
}
