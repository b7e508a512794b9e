//! psql over encrypted tcp: a driver that asks for encryption hears that it has none to do, and the session moves.
//!
//! Skipped, with a line that says so, where PostgreSQL, its server headers or psql are not installed.

#[path = "pg_ext/mod.rs"]
mod pg_ext;
#[path = "pg_lab/mod.rs"]
mod pg_lab;

use pg_ext::Installation;
use pg_lab::{LIMIT, Lab, text};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// psql, held open.
struct Psql {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    debug: PathBuf,
}

fn command(lab: &Lab, ssl_mode: &str, debug: &PathBuf) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vianet"));
    command
        .args(["run", "--strict", "--transports", "tcp", "--", "psql"])
        .args(["-h", "sales.lab", "-U", "app", "-d", "app", "-X", "-At"])
        .env("VIANET_CONFIG", lab.dir().join("client.toml"))
        .env("VIANET_DEBUG", debug)
        .env("PGSSLMODE", ssl_mode)
        .env("PGPASSWORD", "app");
    command
}

impl Psql {
    fn start(lab: &Lab, ssl_mode: &str) -> Self {
        let debug = lab.dir.path().join(format!("debug-{ssl_mode}"));
        let mut child = command(lab, ssl_mode, &debug)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let (said, lines) = channel();
        std::thread::spawn(move || out.map_while(Result::ok).try_for_each(|l| said.send(l)));
        Self {
            stdin: child.stdin.take().unwrap(),
            child,
            lines,
            debug,
        }
    }

    #[track_caller]
    fn ask(&mut self, statement: &str) -> String {
        writeln!(self.stdin, "{statement}").unwrap();
        match self.lines.recv_timeout(LIMIT) {
            Ok(line) => line,
            Err(why) => panic!("{statement}: {why}\n{}", self.said()),
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.debug).unwrap_or_default()
    }

    #[track_caller]
    fn until(&self, what: &str, reached: impl Fn(&str) -> bool) {
        let end = Instant::now() + LIMIT;
        while !reached(&self.said()) {
            assert!(Instant::now() < end, "not {what}: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn psql_goes_on_over_encrypted_tcp() {
    let Some(installation) = Installation::make() else {
        return;
    };
    let bin = installation.bin.to_str().unwrap().to_owned();
    let Some(lab) = Lab::up_with("postgres-shared", 170, &["--pg-bin", &bin]) else {
        return;
    };
    lab.wait_until_active("node-a");
    let config = lab.dir().join("client.toml");
    let pinned = std::fs::read_to_string(&config).unwrap()
        + "\n[clusters.lab.servers.sales]\nsession = \"postgres\"\n";
    std::fs::write(&config, &pinned).unwrap();

    // It asks for encryption, as it does by default, and goes on without.
    let mut psql = Psql::start(&lab, "prefer");
    assert_eq!(psql.ask("set app.tenant = '42' \\; select 'set';"), "SET");
    assert_eq!(psql.lines.recv_timeout(LIMIT).unwrap(), "set");
    let said = psql.said();
    assert!(said.contains("over tcp, encrypted"), "{said}");
    assert!(!said.contains("in clear"), "{said}");
    psql.until("movable", |said| said.contains(": movable: yes"));
    psql.until("a ticket", |said| said.contains(": login: a ticket for "));
    lab.good(&["kill", "node-a"]);
    lab.wait_until_active("node-b");
    let tenant = "select current_setting('app.tenant');";
    assert_eq!(psql.ask(tenant), "42");
    // The I/O thread writes it, a moment after the session went on.
    psql.until("encrypted again", |said| {
        said.matches("over tcp, encrypted").count() >= 2
    });

    // One that demands it end to end is not tricked.
    let demands = command(&lab, "require", &psql.debug)
        .args(["-c", "select 1"])
        .output()
        .unwrap();
    assert!(!demands.status.success());
    assert!(text(&demands).contains("SSL"), "{}", text(&demands));

    // Without the key nothing is encrypted, and a server that has no TLS says so itself.
    let lines = pinned
        .lines()
        .filter(|line| !line.starts_with("public_key"));
    std::fs::write(&config, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let mut clear = Psql::start(&lab, "prefer");
    assert_eq!(clear.ask("select 1;"), "1");
    assert!(
        clear.said().contains("over tcp, in clear"),
        "{}",
        clear.said()
    );
}

/// Where the node may not say "no", the server's own TLS passes through, if nobody comes in unasked that way; the session says
/// that it cannot move.
#[test]
fn the_drivers_own_tls_passes_through() {
    let Some(lab) = Lab::up("postgres-shared", 171) else {
        return;
    };
    lab.wait_until_active("node-a");
    let config = lab.dir().join("client.toml");
    let text_of = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    let in_clear = text_of(&config)
        .lines()
        .filter(|line| !line.starts_with("public_key"))
        .chain(["[clusters.lab.servers.sales]", "session = \"postgres\""])
        .collect::<Vec<_>>()
        .join("\n");
    std::fs::write(&config, in_clear).unwrap();

    // A certificate; and a rule that trusts the relays.
    let data = PathBuf::from(lab.superuser("shared", "show data_directory"));
    let rules = data.join("pg_hba.conf");
    let good = text_of(&rules);
    let (key, certificate) = (lab.dir.path().join("key"), data.join("server.crt"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-new",
            "-x509",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=sales",
        ])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args([
            "-keyout",
            key.to_str().unwrap(),
            "-out",
            certificate.to_str().unwrap(),
        ])
        .output();
    let Some(made) = made.ok().filter(|made| made.status.success()) else {
        eprintln!("skipped: openssl makes no certificate here");
        return;
    };
    drop(made);
    // A file that only the server's user can read: one of its own, overwritten.
    let own = data.join("postgresql.auto.conf");
    let key_file = data.join("server.key");
    lab.superuser("shared", "alter system set log_connections = on");
    std::fs::copy(&own, &key_file).unwrap();
    give_as(&own, &key_file);
    std::fs::write(&key_file, text_of(&key)).unwrap();
    std::fs::write(&rules, format!("hostssl all all 127.0.0.0/8 trust\n{good}")).unwrap();
    lab.superuser("shared", "alter system set ssl = on");
    lab.superuser("shared", "select pg_reload_conf()");
    let ready = |lab: &Lab| lab.superuser("shared", "show ssl") == "on";
    let end = Instant::now() + LIMIT;
    while !ready(&lab) {
        assert!(Instant::now() < end, "{}", lab.logs());
        std::thread::sleep(Duration::from_millis(50));
    }

    let debug = lab.dir.path().join("debug");
    let ask = || {
        command(&lab, "require", &debug)
            .args([
                "-c",
                "select ssl from pg_stat_ssl where pid = pg_backend_pid()",
            ])
            .output()
            .unwrap()
    };
    // (libpq does not show what it is told in the place of an answer.)
    assert!(!ask().status.success());
    let why = "lets vianet_nobody in over TLS without a proof";
    assert!(lab.logs().contains(why), "{}", lab.logs());

    // What initdb writes, with the lines for databases mended and that for replication left.
    let replication = format!("host replication all 127.0.0.0/8 trust\n{good}");
    std::fs::write(&rules, replication).unwrap();
    lab.superuser("shared", "select pg_reload_conf()");
    let why = "lets vianet_nobody for replication in over TLS without a proof";
    let end = Instant::now() + LIMIT;
    while !lab.logs().contains(why) {
        assert!(
            !ask().status.success() && Instant::now() < end,
            "{}",
            lab.logs()
        );
        std::thread::sleep(Duration::from_millis(200));
    }

    std::fs::write(&rules, &good).unwrap();
    lab.superuser("shared", "select pg_reload_conf()");
    let end = Instant::now() + LIMIT;
    let passed = loop {
        let out = ask();
        if out.status.success() || Instant::now() > end {
            break out;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(text(&passed).ends_with("\nt\n"), "{}", lab.logs());
    let mut psql = Psql::start(&lab, "require");
    assert_eq!(psql.ask("select 1;"), "1");
    lab.good(&["kill", "node-a"]);
    writeln!(psql.stdin, "select 2;").unwrap();
    psql.until("refused", |said| said.contains("is not movable: tls"));
    assert!(psql.lines.recv_timeout(LIMIT).is_err(), "it ended");
}

/// Owner and mode of `file` are those of `like`.
fn give_as(like: &PathBuf, file: &PathBuf) {
    use std::os::unix::fs::{MetadataExt, chown};
    let meta = std::fs::metadata(like).unwrap();
    chown(file, Some(meta.uid()), Some(meta.gid())).unwrap();
    std::fs::set_permissions(file, meta.permissions()).unwrap();
}
