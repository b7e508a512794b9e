//! PostgreSQL sessions whose server is lost, with psql and a libpq program on the real thing: what they are told, and that
//! nothing ran twice.
//!
//! Skipped, with a line that says so, where PostgreSQL or psql is not installed.

#[path = "pg_lab/mod.rs"]
mod pg_lab;

use pg_lab::{Lab, Libpq, text};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

/// Has the sessions followed.
fn follow(lab: &Lab, more: &str) {
    let config = lab.dir().join("client.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let settings = format!("\n[clusters.lab.servers.sales]\nsession = \"postgres\"\n{more}");
    std::fs::write(&config, text + &settings).unwrap();
}

/// The node that is active, and the other one.
fn roles(lab: &Lab) -> [&'static str; 2] {
    match lab.status()["active"]["sales"].as_str() {
        Some("node-a") => ["node-a", "node-b"],
        _ => ["node-b", "node-a"],
    }
}

/// Loses the active node, and waits until the other one serves.
fn lose(lab: &Lab) -> &'static str {
    let [lost, other] = roles(lab);
    lab.good(&["kill", lost]);
    lab.wait_until_active(other);
    lost
}

fn bring_back(lab: &Lab, lost: &str) {
    lab.good(&["start", lost]);
    lab.until("both nodes serve", |status| {
        let nodes = status["nodes"].as_array();
        nodes.is_some_and(|nodes| {
            let role = |node: &serde_json::Value| node["servers"]["sales"]["role"].clone();
            nodes.iter().all(|node| !role(node).is_null())
        })
    });
}

/// Until a session of the application's is in this state, as the server shows it.
fn wait_for_session(lab: &Lab, state: &str, query: &str) {
    let ask = format!(
        "select count(*) from pg_stat_activity where pid <> pg_backend_pid() and state = '{state}' \
         and query like '{query}%'"
    );
    let end = std::time::Instant::now() + pg_lab::LIMIT;
    while lab.sql(&ask) != "1" {
        assert!(std::time::Instant::now() < end, "no session is {state}");
    }
}

fn count(lab: &Lab, id: u32) -> u32 {
    let rows = lab.sql(&format!("select count(*) from t where id = {id}"));
    rows.parse().unwrap()
}

#[test]
fn a_libpq_program_is_told_what_became_of_its_session() {
    let Some(lab) = Lab::up("postgres-shared", 134) else {
        return;
    };
    lab.wait_until_active("node-a");
    follow(&lab, "");
    lab.sql("create table t (id int)");
    let program = Libpq::build(lab.dir.path());
    let mut next = 0;
    for transport in ["shm", "tcp"] {
        let mut client = Libpq::start(&lab, &program, transport);
        let mut id = || {
            next += 1;
            next
        };

        // Idle.
        let (done, after) = (id(), id());
        client.value(&lab, &format!("insert into t values ({done})"));
        let lost = lose(&lab);
        let insert = format!("insert into t values ({after})");
        let told = client.answer(&lab, &insert);
        assert!(
            told.starts_with("lost 57P01 FATAL:  terminating connection")
                && told.contains("nothing was running")
                && (told.contains("login_needs_password") || told.contains("state_pending")),
            "{told}"
        );
        assert_eq!((count(&lab, done), count(&lab, after)), (1, 0));
        client.value(&lab, &insert);
        assert_eq!(count(&lab, after), 1);
        bring_back(&lab, lost);

        // In flight.
        let flying = id();
        let insert = format!("insert into t select {flying} from pg_sleep(4)");
        client.tell(&insert);
        wait_for_session(&lab, "active", "insert into t select");
        let lost = lose(&lab);
        let told = client.hear(&lab, &insert);
        assert!(
            told.starts_with("lost - server closed the connection unexpectedly"),
            "{told}"
        );
        assert!(!told.contains("FATAL"), "{told}");
        bring_back(&lab, lost);
        std::thread::sleep(std::time::Duration::from_secs(5));
        assert!(count(&lab, flying) <= 1, "it ran twice");

        // A transaction.
        let (first, second) = (id(), id());
        client.value(&lab, "begin");
        client.value(&lab, &format!("insert into t values ({first})"));
        let lost = lose(&lab);
        let told = client.answer(&lab, &format!("insert into t values ({second})"));
        assert!(
            told.starts_with("lost 08006 FATAL:  terminating connection")
                && told.contains("nothing of the transaction was committed"),
            "{told}"
        );
        client.value(&lab, "select 'a new session'");
        assert_eq!((count(&lab, first), count(&lab, second)), (0, 0));
        bring_back(&lab, lost);

        // In the middle of a copy: the request that began it is in flight.
        let (row, later) = (id(), id());
        assert_eq!(client.answer(&lab, "copy t from stdin"), "copying ");
        client.value(&lab, &row.to_string());
        let lost = lose(&lab);
        client.value(&lab, &later.to_string());
        let told = client.answer(&lab, "\\.");
        assert!(told.starts_with("lost - "), "{told}");
        assert!(!told.contains("terminating connection"), "{told}");
        assert_eq!((count(&lab, row), count(&lab, later)), (0, 0));
        bring_back(&lab, lost);
    }
}

#[test]
fn a_program_that_wants_to_know_is_told_that_the_outcome_is_unknown() {
    let Some(lab) = Lab::up("postgres-shared", 135) else {
        return;
    };
    lab.wait_until_active("node-a");
    lab.sql("create table t (id int)");
    follow(&lab, "on_unknown = \"error\"\n");
    let program = Libpq::build(lab.dir.path());
    let mut client = Libpq::start(&lab, &program, "shm");
    let insert = "insert into t select 1 from pg_sleep(4)";
    client.tell(insert);
    wait_for_session(&lab, "active", "insert into t select");
    lose(&lab);
    let told = client.hear(&lab, insert);
    assert!(
        told.starts_with("lost 08007 FATAL:") && told.contains("outcome is unknown"),
        "{told}"
    );
}

/// Without ON_ERROR_STOP psql goes on with the next statement, whatever became of the one before.
#[test]
fn the_rest_of_a_psql_script_does_not_run_outside_its_transaction() {
    let Some(lab) = Lab::up("postgres", 136) else {
        return;
    };
    lab.wait_until_active("node-a");
    follow(&lab, "");
    lab.sql("create table t (id int)");
    let mut psql = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_vianet"), "run", "--", "psql"])
        .args(["-h", "sales.lab", "-U", "app", "-d", "app", "-X", "-At"])
        .env("VIANET_CONFIG", lab.dir().join("client.toml"))
        .env("PGPASSWORD", "app")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut script = psql.stdin.take().unwrap();
    let mut answers = BufReader::new(psql.stdout.take().unwrap());
    let statements = "begin;\ninsert into t values (1);\nselect 'in the transaction';\n";
    script.write_all(statements.as_bytes()).unwrap();
    let mut line = String::new();
    while line != "in the transaction\n" {
        line.clear();
        assert_ne!(answers.read_line(&mut line).unwrap(), 0, "psql has ended");
    }
    lose(&lab);
    let rest = "insert into t values (2);\ncommit;\nselect 'the end';\n";
    let _ = script.write_all(rest.as_bytes());
    drop(script);
    let out = psql.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(2), "{}", text(&out));
    let said = String::from_utf8_lossy(&out.stderr);
    for part in [
        "FATAL:  terminating connection: the server was lost and the open transaction with it",
        "nothing of the transaction was committed",
        "node-a",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(lab.sql("select count(*) from t"), "0");
}

/// Who was told that the outcome is unknown, looks, and finds nothing, must be able to rely on it.
fn nothing_runs_on_behind_a_daemon_that_is_started_again(engine: &str, subnet: u8) {
    let Some(lab) = Lab::up(engine, subnet) else {
        return;
    };
    lab.wait_until_active("node-a");
    follow(&lab, "");
    lab.sql("create table t (id int)");
    let program = Libpq::build(lab.dir.path());
    let mut client = Libpq::start(&lab, &program, "shm");
    let insert = "insert into t select 1 from pg_sleep(5)";
    client.tell(insert);
    wait_for_session(&lab, "active", "insert into t select");
    // It has the name again before anybody could take over.
    lab.good(&["kill", "node-a", "--only", "daemon"]);
    lab.good(&["start", "node-a", "--only", "daemon"]);
    let told = client.hear(&lab, insert);
    assert!(told.starts_with("lost - "), "{told}");
    let found = client.value(&lab, "select count(*) from t");
    std::thread::sleep(std::time::Duration::from_secs(6));
    assert_eq!(client.value(&lab, "select count(*) from t"), found);
}

#[test]
fn nothing_runs_on_behind_a_daemon_of_a_shared_server_that_is_started_again() {
    nothing_runs_on_behind_a_daemon_that_is_started_again("postgres-shared", 161);
}

#[test]
fn nothing_runs_on_behind_a_daemon_with_its_own_server_that_is_started_again() {
    nothing_runs_on_behind_a_daemon_that_is_started_again("postgres", 162);
}
