//! `vianet lab` with its PostgreSQL engines: no acknowledged row is lost, whichever node is lost in whichever order.
//!
//! Skipped, with a line that says so, where PostgreSQL or psql is not installed.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Long enough for a machine that does many other things.
const LIMIT: Duration = Duration::from_secs(90);

struct Lab {
    dir: tempfile::TempDir,
    subnet: u8,
}

impl Lab {
    /// A lab, or `None` where PostgreSQL is not installed.
    fn up(engine: &str, subnet: u8) -> Option<Self> {
        use std::os::unix::fs::PermissionsExt;
        if Command::new("psql").arg("--version").output().is_err() {
            eprintln!("skipped: psql is not installed (Debian: postgresql-client)");
            return None;
        }
        // Root's PostgreSQL runs as another user, who must come in.
        let dir = tempfile::Builder::new()
            .prefix("vianet-lab-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .unwrap();
        let lab = Self { dir, subnet };
        let address = format!("127.0.{subnet}");
        let out = lab.run(&["up", "--engine", engine, "--subnet", &address]);
        let said = text(&out);
        if out.status.code() == Some(3) && said.contains("PostgreSQL is not installed") {
            eprintln!("skipped: {said}");
            return None;
        }
        assert!(out.status.success(), "{said}");
        Some(lab)
    }

    fn dir(&self) -> PathBuf {
        self.dir.path().join("lab")
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vianet"));
        command.arg("lab").args(args).arg("--dir").arg(self.dir());
        command.output().unwrap()
    }

    fn good(&self, args: &[&str]) {
        let out = self.run(args);
        assert_eq!(
            out.status.code(),
            Some(0),
            "{args:?}: {}{}",
            text(&out),
            self.logs()
        );
    }

    fn refused(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(3), "{args:?}: {}", text(&out));
        text(&out)
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&self.run(&["status", "--json"]).stdout).unwrap()
    }

    fn logs(&self) -> String {
        let read = |file: &str| std::fs::read_to_string(self.dir().join(file)).unwrap_or_default();
        ["node-a/daemon.log", "node-b/daemon.log"]
            .map(read)
            .join("\n---\n")
    }

    fn until(&self, what: &str, reached: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.status();
            if reached(&status) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: {status}\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_until_active(&self, node: &str) {
        self.until(node, |status| status["active"]["sales"] == node);
    }

    /// psql by server name, unchanged, below `vianet run`.
    fn psql(&self, sql: &str) -> Output {
        self.timed(
            Command::new("timeout")
                .args(["60", env!("CARGO_BIN_EXE_vianet"), "run", "--", "psql"])
                .args(["-h", "sales.lab", "-U", "app"])
                .env("VIANET_CONFIG", self.dir().join("client.toml")),
            sql,
        )
    }

    /// psql straight to a node's server.
    fn direct(&self, last: u8, user: &str, sql: &str) -> Output {
        let host = format!("127.0.{}.{last}", self.subnet);
        self.timed(
            Command::new("timeout").args(["60", "psql", "-h", &host, "-p", "7432", "-U", user]),
            sql,
        )
    }

    fn timed(&self, command: &mut Command, sql: &str) -> Output {
        command
            .args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", "app", "-c", sql])
            .env("PGPASSWORD", "app")
            .output()
            .unwrap()
    }

    fn sql(&self, sql: &str) -> String {
        let out = self.psql(sql);
        assert!(out.status.success(), "{sql}: {}{}", text(&out), self.logs());
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Fails where it is down already, as it should be.
        let _ = self.run(&["down"]);
    }
}

/// A program of libpq's below `vianet run`: one process that runs statements as long as the test likes.
struct Libpq {
    child: Child,
    answers: Receiver<String>,
}

impl Libpq {
    /// Compiles `c/libpq.c` into `dir`. libpq comes with psql; only its header would need one more package.
    fn build(dir: &Path) -> PathBuf {
        let program = dir.join("libpq");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/libpq.c");
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([&program, &source])
            .arg("-l:libpq.so.5");
        let out = cc.output().expect("a C compiler: run `make tools`");
        assert!(out.status.success(), "{}", text(&out));
        program
    }

    fn start(lab: &Lab, program: &Path, transport: &str) -> Self {
        let mut run = Command::new(env!("CARGO_BIN_EXE_vianet"));
        run.args(["run", "--strict", "--transports", transport, "--config"])
            .arg(lab.dir().join("client.toml"))
            .arg("--")
            .arg(program)
            .arg("host=sales.lab user=app password=app dbname=app");
        let mut child = (run.stdin(Stdio::piped()).stdout(Stdio::piped()))
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (said, answers) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|l| said.send(l)));
        Self { child, answers }
    }

    fn answer(&mut self, lab: &Lab, statement: &str) -> String {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{statement}").unwrap();
        (self.answers.recv_timeout(LIMIT))
            .unwrap_or_else(|e| panic!("{statement}: {e}\n{}", lab.logs()))
    }

    fn value(&mut self, lab: &Lab, statement: &str) -> String {
        let answer = self.answer(lab, statement);
        match answer.strip_prefix("ok ") {
            Some(value) => value.to_owned(),
            None => panic!("{statement}: {answer}\n{}", lab.logs()),
        }
    }
}

impl Drop for Libpq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(out: &Output) -> String {
    format!(
        "exit {:?}\n{}{}",
        out.status.code(),
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

fn processes_in(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|e| std::fs::read(e.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(dir))
        .collect()
}

#[test]
fn no_acknowledged_row_is_lost_whichever_node_is() {
    let Some(lab) = Lab::up("postgres", 130) else {
        return;
    };
    lab.wait_until_active("node-a");
    lab.sql("create table t (id int primary key)");
    lab.sql("insert into t values (1)");
    // The superuser is reachable only on the node itself.
    assert!(!lab.direct(11, "postgres", "select 1").status.success());

    // The active node is lost: the standby has the row and is promoted.
    lab.good(&["kill", "node-a"]);
    assert_eq!(
        lab.sql("insert into t values (2) returning id"),
        "2\nINSERT 0 1"
    );
    assert_eq!(lab.status()["active"]["sales"], "node-b");
    assert_eq!(
        lab.status()["nodes"][0]["stale"],
        true,
        "node-a lacks row 2"
    );
    lab.good(&["start", "node-a"]);
    assert_eq!(lab.status()["nodes"][0]["stale"], false, "rebuilt");
    assert!(
        lab.direct(11, "app", "insert into t values (9)")
            .status
            .code()
            != Some(0),
        "a standby"
    );

    // The standby is lost: commits wait for nobody before long, and the standby is behind from then on.
    lab.good(&["kill", "node-a", "--only", "server"]);
    assert_eq!(
        lab.sql("insert into t values (3) returning id"),
        "3\nINSERT 0 1"
    );
    lab.until("node-a is behind", |status| {
        status["nodes"][0]["stale"] == true
    });
    // Now the other is lost too. What is left lacks row 3: it is not promoted and does not start alone.
    lab.good(&["kill", "node-b"]);
    assert!(
        lab.refused(&["start", "node-a"])
            .contains("start node-b first")
    );
    lab.good(&["start", "node-b"]);
    lab.wait_until_active("node-b");
    lab.good(&["start", "node-a"]);
    // A rebuild that was interrupted leaves a standby that runs and still counts as behind: it is rebuilt.
    let stale = lab.dir().join("node-a/stale");
    std::fs::write(&stale, "it is being rebuilt\n").unwrap();
    lab.good(&["start", "node-a"]);
    assert!(!stale.exists());
    assert_eq!(
        lab.sql("select string_agg(id::text, ',' order by id) from t"),
        "1,2,3"
    );

    lab.good(&["down"]);
    assert!(!lab.dir().exists());
    assert_eq!(processes_in(&lab.dir()), [""; 0]);
}

#[test]
fn a_frozen_primary_is_fenced_before_the_standby_is_promoted() {
    let Some(lab) = Lab::up("postgres", 131) else {
        return;
    };
    lab.wait_until_active("node-a");
    lab.sql("create table t (id int primary key)");
    lab.sql("insert into t values (1)");
    lab.good(&["freeze", "node-a"]);
    assert_eq!(
        lab.sql("insert into t values (2) returning id"),
        "2\nINSERT 0 1"
    );
    assert!(lab.refused(&["thaw", "node-a"]).contains("was fenced"));
    assert_eq!(lab.status()["nodes"][0]["server"]["state"], "dead");
    lab.good(&["start", "node-a"]);
    // A daemon that is lost alone: its server is fenced, the other one has everything.
    lab.until("node-b sees node-a", |status| {
        status["nodes"][0]["servers"]["sales"]["role"] == "passive"
    });
    lab.good(&["kill", "node-b", "--only", "daemon"]);
    assert_eq!(
        lab.sql("select string_agg(id::text, ',' order by id) from t"),
        "1,2"
    );
    assert_eq!(lab.status()["active"]["sales"], "node-a");
    assert_eq!(lab.status()["nodes"][1]["server"]["state"], "dead");
}

#[test]
fn a_libpq_program_connects_again_by_the_same_name() {
    let Some(lab) = Lab::up("postgres", 133) else {
        return;
    };
    lab.wait_until_active("node-a");
    lab.sql("create table t (id serial primary key, by text)");
    let program = Libpq::build(lab.dir.path());
    let mut clients = ["shm", "tcp"].map(|t| (t, Libpq::start(&lab, &program, t)));
    let mut acknowledged = 0;
    let losses = [
        (["kill", "node-a"].as_slice(), "node-a", "node-b"),
        (&["freeze", "node-b"], "node-b", "node-a"),
        (&["kill", "node-a", "--only", "daemon"], "node-a", "node-b"),
    ];
    for (loss, lost, other) in losses {
        for (transport, client) in &mut clients {
            client.value(&lab, &format!("insert into t (by) values ('{transport}')"));
            acknowledged += 1;
        }
        lab.good(loss);
        for (transport, client) in &mut clients {
            let why = client.answer(&lab, "select 'still there'");
            assert!(why.starts_with("lost"), "{loss:?} over {transport}: {why}");
            let count = client.value(&lab, "select count(*) from t");
            assert_eq!(count, acknowledged.to_string(), "{loss:?} over {transport}");
        }
        assert_eq!(lab.status()["active"]["sales"], other);
        if loss[0] == "freeze" {
            lab.refused(&["thaw", lost]);
        }
        // It comes back with everything, for the next loss.
        lab.good(&["start", lost]);
        lab.until("both nodes serve", |status| {
            status["nodes"].as_array().is_some_and(|nodes| {
                nodes
                    .iter()
                    .all(|n| !n["servers"]["sales"]["role"].is_null())
            })
        });
    }
}

#[test]
fn a_shared_server_survives_its_nodes() {
    let Some(lab) = Lab::up("postgres-shared", 132) else {
        return;
    };
    lab.wait_until_active("node-a");
    lab.sql("create table t (id int primary key)");
    let server = lab.status()["nodes"][0]["server"]["pid"].clone();
    for (i, [lost, other]) in [["node-a", "node-b"], ["node-b", "node-a"]]
        .iter()
        .enumerate()
    {
        lab.good(&["kill", lost]);
        assert_eq!(
            lab.sql(&format!("insert into t values ({i})")),
            "INSERT 0 1"
        );
        lab.wait_until_active(other);
        lab.good(&["start", lost]);
    }
    assert_eq!(lab.status()["nodes"][0]["server"]["pid"], server);
    // Who was fenced while it was frozen says so, once: its sessions are gone, and nothing is left to be started.
    lab.good(&["freeze", "node-a"]);
    lab.wait_until_active("node-b");
    assert_eq!(lab.status()["nodes"][0]["fenced"]["by"], "node-b");
    assert!(lab.refused(&["thaw", "node-a"]).contains("was fenced"));
    lab.until("node-a goes on", |status| {
        let node = &status["nodes"][0];
        node["servers"]["sales"]["role"] == "passive" && node["fenced"].is_null()
    });
    // A freeze of one that was not fenced meanwhile is only that.
    lab.good(&["freeze", "node-a"]);
    lab.good(&["thaw", "node-a"]);
    assert!(
        lab.refused(&["kill", "node-a", "--only", "server"])
            .contains("belongs to neither")
    );
    assert_eq!(lab.sql("select count(*) from t"), "2");
}
