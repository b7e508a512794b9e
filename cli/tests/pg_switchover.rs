//! Planned switchovers with real PostgreSQL servers, there and back: no error for sessions that move or come to rest in time,
//! nothing lost and nothing twice, and what cannot move is named. `VIANET_TEST_TIMES` says how many pairs each test makes.
//!
//! Skipped, with a line that says so, where PostgreSQL, its server headers or psql are not installed.

#[path = "pg_ext/mod.rs"]
mod pg_ext;
#[path = "pg_lab/mod.rs"]
mod pg_lab;

use pg_ext::Installation;
use pg_lab::{LIMIT, Lab, Libpq, text};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A lab whose servers have the extension, with a table.
struct Cluster {
    lab: Lab,
    libpq: PathBuf,
    _installation: Installation,
}

impl Cluster {
    fn up(engine: &str, subnet: u8, more: &[&str]) -> Option<Arc<Self>> {
        let installation = Installation::make()?;
        let bin = installation.bin.to_str().unwrap().to_owned();
        let lab = Lab::up_with(engine, subnet, &[&["--pg-bin", &*bin], more].concat())?;
        lab.wait_until_active("node-a");
        let config = lab.dir().join("client.toml");
        let file = std::fs::read_to_string(&config).unwrap();
        let settings = "\n[clusters.lab.servers.sales]\nsession = \"postgres\"\n";
        std::fs::write(&config, file + settings).unwrap();
        lab.sql("create table t (client int, n int)");
        let libpq = Libpq::build(lab.dir.path());
        Some(Arc::new(Self {
            lab,
            libpq,
            _installation: installation,
        }))
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vianet"))
            .arg("switchover")
            .args(args)
            .env("VIANET_CONFIG", self.lab.dir().join("client.toml"))
            .output()
            .unwrap()
    }

    /// Switches over and gives what the command says.
    #[track_caller]
    fn switch_over(&self, to: &str, more: &[&str]) -> Value {
        let args = ["lab\\sales", "--to", to, "--json"];
        let out = self.run(&[&args, more].concat());
        assert!(out.status.success(), "{}{}", text(&out), self.lab.logs());
        serde_json::from_slice(&out.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, args: &[&str], why: &str) {
        let out = self.run(args);
        let said = text(&out);
        assert_eq!(out.status.code(), Some(3), "{said}{}", self.lab.logs());
        assert!(said.contains(why), "{said}");
    }

    fn role(&self, node: &str) -> String {
        let status = self.lab.status();
        let nodes = status["nodes"].as_array().unwrap();
        let node = nodes
            .iter()
            .find(|n| n["node"] == node || n["name"] == node);
        let role = node.map(|n| n["servers"]["sales"]["role"].clone());
        role.and_then(|r| r.as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    /// The old active node is the passive one, with all data.
    fn wait_until_passive(&self, node: &str) {
        let deadline = Instant::now() + LIMIT;
        let stale = self.lab.dir().join(node).join("stale");
        while self.role(node) != "passive" || stale.exists() {
            assert!(
                Instant::now() < deadline,
                "{node}: {}, {}\n{}\n{}",
                self.role(node),
                stale.exists(),
                self.lab.logs(),
                std::fs::read_to_string(self.lab.dir().join(node).join("rejoin.log"))
                    .unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn client(&self, transport: &str) -> Libpq {
        Libpq::start(&self.lab, &self.libpq, transport)
    }
}

/// A session that works without a pause until it is told to stop; every statement must come out well.
struct Busy {
    stop: Arc<AtomicBool>,
    rows: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    /// `statements` of one round, with `$` for its number.
    fn start(
        cluster: &Arc<Cluster>,
        transport: &str,
        id: u32,
        statements: &'static [&str],
    ) -> Self {
        let (stop, rows) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU32::new(0)),
        );
        let (stopped, done) = (Arc::clone(&stop), Arc::clone(&rows));
        let mut client = cluster.client(transport);
        let cluster = Arc::clone(cluster);
        client.value(&cluster.lab, &format!("set app.client = '{id}'"));
        let work = move || {
            while !stopped.load(Ordering::Acquire) {
                let n = done.load(Ordering::Acquire);
                for statement in statements {
                    let statement = statement.replace('$', &n.to_string());
                    client.value(&cluster.lab, &statement);
                }
                done.fetch_add(1, Ordering::AcqRel);
            }
        };
        Self {
            stop,
            rows,
            thread: Some(std::thread::spawn(work)),
        }
    }

    /// Waits until it has done some more.
    fn goes_on(&self) {
        let (before, deadline) = (self.rows.load(Ordering::Acquire), Instant::now() + LIMIT);
        while self.rows.load(Ordering::Acquire) < before + 3 {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!ended, "a session failed; its thread says how");
            assert!(Instant::now() < deadline, "it does not go on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            // One panic is enough.
            assert!(
                std::thread::panicking() || outcome.is_ok(),
                "a session failed"
            );
        }
    }

    fn end(mut self) -> u32 {
        self.stop();
        self.rows.load(Ordering::Acquire)
    }
}

/// Its thread holds the lab.
impl Drop for Busy {
    fn drop(&mut self) {
        self.stop();
    }
}

const SHORT: &[&str] = &["insert into t values (current_setting('app.client')::int, $)"];
const TRANSACTIONS: &[&str] = &[
    "begin",
    "insert into t values (current_setting('app.client')::int, $)",
    "select pg_sleep(0.02)",
    "commit",
];

fn times() -> u32 {
    std::env::var("VIANET_TEST_TIMES").map_or(1, |times| times.parse().unwrap())
}

fn there_and_back(engine: &str, subnet: u8, more: &[&str]) {
    let Some(cluster) = Cluster::up(engine, subnet, more) else {
        return;
    };
    let lab = &cluster.lab;
    let mut idle = cluster.client("shm");
    idle.value(lab, "set app.tenant = '42'");
    let busy = [
        Busy::start(&cluster, "shm", 1, SHORT),
        Busy::start(&cluster, "tcp", 2, SHORT),
        Busy::start(&cluster, "shm", 3, TRANSACTIONS),
        Busy::start(&cluster, "tcp", 4, TRANSACTIONS),
    ];
    let mut long = cluster.client("tcp");
    for round in 0..times() {
        for (from, to) in [("node-a", "node-b"), ("node-b", "node-a")] {
            cluster.wait_until_passive(to);
            busy.iter().for_each(Busy::goes_on);
            let mut temporary = cluster.client("shm");
            temporary.value(lab, "create temporary table mine (id int)");

            // Nothing happens.
            let told = cluster.switch_over(to, &["--dry-run"]);
            assert_eq!(told["dry_run"], true);
            let of = |told: &Value, word: &str| {
                let sessions = told["sessions"].as_array().unwrap();
                sessions.iter().filter(|s| s["movable"] == word).count()
            };
            assert_eq!(of(&told, "temporary"), 1, "{told}");
            assert!(told["sessions"].as_array().unwrap().len() >= 6, "{told}");
            busy.iter().for_each(Busy::goes_on);
            assert_eq!(cluster.role(from), "active");

            long.value(lab, "begin");
            long.value(lab, "insert into t values (5, 0)");
            let told = std::thread::scope(|scope| {
                let switching = scope.spawn(|| cluster.switch_over(to, &["--drain", "60"]));
                std::thread::sleep(Duration::from_millis(700));
                // A switchover waits for it; and the others go on meanwhile.
                assert_eq!(cluster.role(from), "active");
                busy.iter().for_each(Busy::goes_on);
                long.value(lab, "commit");
                switching.join().unwrap()
            });
            assert_eq!(
                (&told["error"], &told["over"]),
                (&Value::Null, &Value::from(true))
            );
            println!("{engine} {from} to {to}: {told}");
            assert_eq!(cluster.role(to), "active");
            assert_eq!(of(&told, "temporary"), 1, "{told}");
            assert_eq!(
                of(&told, "yes"),
                told["sessions"].as_array().unwrap().len() - 1,
                "{told}"
            );
            busy.iter().for_each(Busy::goes_on);
            assert_eq!(
                idle.value(lab, "select current_setting('app.tenant')"),
                "42"
            );
            assert_eq!(long.value(lab, "select 1"), "1");
            let end = temporary.answer(lab, "select 'it ran'");
            assert!(end.starts_with("lost 57P01"), "{round}: {end}");
            assert!(end.contains("temporary"), "{round}: {end}");
        }
    }
    cluster.wait_until_passive("node-b");
    for (id, busy) in (1..).zip(busy) {
        let rows = busy.end();
        let count =
            format!("select count(*) || ' ' || count(distinct n) from t where client = {id}");
        assert_eq!(lab.sql(&count), format!("{rows} {rows}"), "client {id}");
    }
    let count = lab.sql("select count(*) from t where client = 5");
    assert_eq!(count, (2 * times()).to_string());
}

#[test]
fn a_standby_and_its_primary_change_places() {
    there_and_back("postgres", 160, &[]);
}

#[test]
fn a_shared_server_changes_its_node() {
    there_and_back("postgres-shared", 161, &[]);
}

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let Some(cluster) = Cluster::up("postgres", 162, &["--trust"]) else {
        return;
    };
    let lab = &cluster.lab;
    cluster.wait_until_passive("node-b");
    cluster.refused(
        &["lab\\sales", "--to", "node-a"],
        "active for lab\\sales already",
    );
    cluster.refused(&["lab\\sales", "--to", "node-c"], "no node \"node-c\"");
    cluster.refused(&["lab\\nothing", "--to", "node-b"], "nobody serves");
    let passive = lab.dir().join("run/node-b.ctl");
    let at = ["--control", passive.to_str().unwrap()];
    let args = ["lab\\sales", "--to", "node-a"];
    cluster.refused(&[&args[..], &at].concat(), "is passive for sales");
    // Its daemon answers, its standby does not take part.
    let mut client = cluster.client("shm");
    client.value(lab, "set app.tenant = '42'");
    lab.good(&["kill", "node-b", "--only", "server"]);
    let args = ["lab\\sales", "--to", "node-b"];
    cluster.refused(&args, "cannot take over");
    cluster.refused(&[&args[..], &["--dry-run"]].concat(), "cannot take over");
    lab.good(&["kill", "node-b"]);
    cluster.refused(&args, "node-b");
    assert_eq!(
        client.value(lab, "select current_setting('app.tenant')"),
        "42"
    );
    assert_eq!(cluster.role("node-a"), "active");
    lab.good(&["start", "node-b"]);
    cluster.wait_until_passive("node-b");
    cluster.switch_over("node-b", &[]);
    assert_eq!(
        client.value(lab, "select current_setting('app.tenant')"),
        "42"
    );
}

/// The demote hook of the old active node does its part, and the new one cannot do its own.
#[test]
fn a_node_that_does_not_take_over_gives_the_role_back() {
    let Some(cluster) = Cluster::up("postgres-shared", 163, &[]) else {
        return;
    };
    let lab = &cluster.lab;
    let mut client = cluster.client("tcp");
    client.value(lab, "set app.tenant = '42'");
    let config = lab.dir().join("node-b/node.toml");
    let file = std::fs::read_to_string(&config).unwrap();
    let fails = file.replace("\nfence = [", "\nfence = [\"/bin/false\", ");
    assert_ne!(file, fails, "{file}");
    std::fs::write(&config, fails).unwrap();
    lab.good(&["kill", "node-b", "--only", "daemon"]);
    lab.good(&["start", "node-b"]);
    cluster.wait_until_passive("node-b");
    let out = cluster.run(&["lab\\sales", "--to", "node-b"]);
    let said = text(&out);
    assert_eq!(out.status.code(), Some(1), "{said}{}", lab.logs());
    assert!(said.contains("node-b did not take over"), "{said}");
    assert!(said.contains("node-a is active again"), "{said}");
    assert_eq!(cluster.role("node-a"), "active");
    assert_eq!(
        client.value(lab, "select current_setting('app.tenant')"),
        "42"
    );
}

#[test]
fn the_command_says_who_may_give_it() {
    let Some(cluster) = Cluster::up("postgres-shared", 164, &["--trust"]) else {
        return;
    };
    let config = cluster.lab.dir().join("client.toml");
    let file = std::fs::read_to_string(&config).unwrap();
    let run = cluster.lab.dir().join("run");
    let elsewhere = file.replace(
        run.to_str().unwrap(),
        Path::new("/nowhere").to_str().unwrap(),
    );
    assert_ne!(file, elsewhere);
    std::fs::write(&config, elsewhere).unwrap();
    cluster.refused(&["lab\\sales", "--to", "node-b"], "run this on its machine");
    let args = [
        "lab\\sales",
        "--to",
        "node-b",
        "--control",
        "/nowhere/node-a.ctl",
    ];
    cluster.refused(&args, "does not answer");
}

/// Without PostgreSQL; its SQL server behind both names is told to stand by, and not killed.
#[test]
fn the_embedded_engine_changes_places_too() {
    let Some(lab) = Lab::up("embedded", 165) else {
        return;
    };
    let role = |node: &str, name: &str, role: &str| {
        lab.until(&format!("{node} {role}"), |status| {
            let nodes = status["nodes"].as_array().unwrap();
            let node = nodes.iter().find(|n| n["node"] == node).unwrap();
            node["servers"][name]["role"] == role
        });
    };
    lab.wait_until_active("node-a");
    lab.sql("create table t (n integer)");
    for (n, (from, to)) in [("node-a", "node-b"), ("node-b", "node-a")]
        .into_iter()
        .enumerate()
    {
        role(to, "sales", "passive");
        lab.sql(&format!("insert into t values ({n})"));
        let out = Command::new(env!("CARGO_BIN_EXE_vianet"))
            .args(["switchover", "sales.lab", "--to", to])
            .env("VIANET_CONFIG", lab.dir().join("client.toml"))
            .output()
            .unwrap();
        assert!(out.status.success(), "{}{}", text(&out), lab.logs());
        assert!(text(&out).contains("stall"), "{}", text(&out));
        assert_eq!(lab.status()["active"]["sales"], to);
        assert_eq!(lab.sql("select count(*) from t"), (n + 1).to_string());
        role(from, "sales", "passive");
        // The other name follows: its server stands by.
        role(to, "ledger", "active");
        role(from, "ledger", "passive");
    }
}
