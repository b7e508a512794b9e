//! `vianet lab` with its PostgreSQL engines: no acknowledged row is lost, whichever node is lost in whichever order.
//!
//! Skipped, with a line that says so, where PostgreSQL or psql is not installed.

#[path = "pg_lab/mod.rs"]
mod pg_lab;

use pg_lab::{Lab, Libpq};
use std::path::Path;

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
            // Idle, or in flight where the loss has not been noticed yet: `pg_sessions` has both.
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
