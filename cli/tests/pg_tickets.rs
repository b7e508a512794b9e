//! Login tickets with a real PostgreSQL: a client logs in through one node by its password, and through the other one without
//! it; and each refusal.
//!
//! Skipped, with a line that says so, where PostgreSQL or its server headers are not installed.

#[path = "pg_tickets/client.rs"]
mod client;
#[path = "pg_ext/mod.rs"]
mod pg_ext;
#[path = "pg_lab/mod.rs"]
mod pg_lab;

use client::{A, B, Session};
use pg_lab::Lab;
use std::io::{Read, Write};
use std::sync::Arc;
use vianet::resolve::ticket::{Given, Held, Key, Why};
use vianet::via::Transport;
use vianet_node::pg::client::{Client, Error};

/// A lab whose servers have the extension, and what they run from.
fn lab(engine: &str, subnet: u8) -> Option<(Lab, pg_ext::Installation)> {
    let installation = pg_ext::Installation::make()?;
    let bin = installation.bin.to_str().unwrap();
    let lab = Lab::up_with(engine, subnet, &["--pg-bin", bin])?;
    lab.wait_until_active("node-a");
    Some((lab, installation))
}

/// Why a redemption came to nothing.
fn refused(result: Result<Session, Error>) -> (String, String) {
    match result {
        Ok(_) => panic!("it was let in"),
        Err(Error::Sql(state, text)) => (state, text),
        Err(Error::Io(e)) => panic!("{e}"),
    }
}

#[track_caller]
fn refused_for(why: Why, result: Result<Session, Error>) {
    let (state, said) = refused(result);
    assert_eq!(state, "28000", "{said}");
    assert!(said.contains(why.text()), "{said}");
}

#[test]
fn a_session_logs_in_at_the_second_node_without_the_password() {
    let Some((lab, _installation)) = lab("postgres", 150) else {
        return;
    };
    let mut sessions = Vec::new();
    for transport in [Transport::Tcp, Transport::Shm] {
        let mut session = Session::log_in(&lab, A, transport, "app");
        let held = session.ticket(&lab);
        assert_eq!(session.value("select current_user"), "app");
        sessions.push((transport, session, held));
    }
    lab.good(&["kill", "node-a"]);
    lab.wait_until_active("node-b");
    let mut moved = Vec::new();
    for (transport, _, held) in &sessions {
        let result = Session::redeem(&lab, B, *transport, held);
        let mut session = result.unwrap_or_else(|e| panic!("{e}: {}", lab.logs()));
        assert_eq!(session.value("select current_user"), "app");
        assert_eq!(session.value("select pg_is_in_recovery()"), "f");
        session.pg.query("create temp table t (id int)").unwrap();
        // Once in a generation.
        refused_for(Why::Redeemed, Session::redeem(&lab, B, *transport, held));
        // There is no other node that could redeem the next one.
        assert_eq!(session.given(&lab), Given::Not(Why::NoPeer));
        moved.push((*transport, session));
    }
    // And back, by tickets that the logins by ticket have earned.
    lab.good(&["start", "node-a"]);
    let tickets: Vec<_> = moved.iter().map(|(t, s)| (*t, s.ticket(&lab))).collect();
    lab.good(&["kill", "node-b"]);
    lab.wait_until_active("node-a");
    for (transport, held) in &tickets {
        let result = Session::redeem(&lab, A, *transport, held);
        let mut session = result.unwrap_or_else(|e| panic!("{e}: {}", lab.logs()));
        assert_eq!(session.value("select session_user"), "app");
    }
}

#[test]
fn tickets_are_refused_for_everything_but_what_they_are_for() {
    let Some((lab, _installation)) = lab("postgres-shared", 151) else {
        return;
    };
    let session = Session::log_in(&lab, A, Transport::Tcp, "app");
    let held = session.ticket(&lab);

    // Not at the node that gave it while its channel is open, nor by somebody who has only the ticket.
    let at_home = Session::redeem(&lab, A, Transport::Tcp, &held);
    refused_for(Why::Generation, at_home);
    let thief = Key::generate().unwrap();
    let asked = client::given(&lab, A, session.accept.channel_id, &thief, |_| true);
    assert_eq!(asked, Given::Not(Why::NotOwner));

    lab.good(&["kill", "node-a"]);
    lab.wait_until_active("node-b");
    let stolen = Held::new(Arc::new(thief), held.ticket().to_vec());
    refused_for(
        Why::Signature,
        Session::redeem(&lab, B, Transport::Tcp, &stolen),
    );
    let changed = |at: usize| {
        let mut ticket = held.ticket().to_vec();
        ticket[at] ^= 1;
        Held::new(Arc::clone(&session.key), ticket)
    };
    for at in [0, 8, 40, held.ticket().len() - 1] {
        let result = Session::redeem(&lab, B, Transport::Tcp, &changed(at));
        refused_for(Why::Sealed, result);
    }
    let short = Held::new(Arc::clone(&session.key), vec![1, 2, 3]);
    refused_for(
        Why::Malformed,
        Session::redeem(&lab, B, Transport::Tcp, &short),
    );
    for (user, database) in [("postgres", "app"), ("app", "postgres"), ("app", "")] {
        let result = Session::redeem_as(&lab, B, Transport::Tcp, &held, user, database);
        refused_for(Why::Startup, result);
    }

    // What the server refuses, by its own words; none of it uses the ticket up.
    let shared = |sql: &str| lab.superuser("shared", sql);
    shared("alter role app nologin");
    let (state, said) = refused(Session::redeem(&lab, B, Transport::Tcp, &held));
    assert_eq!(
        (&state[..], said.contains("not permitted")),
        ("28000", true),
        "{said}"
    );
    shared("alter role app login connection limit 0");
    let (state, _) = refused(Session::redeem(&lab, B, Transport::Tcp, &held));
    assert_eq!(state, "53300");
    shared("alter role app connection limit -1; revoke connect on database app from public, app");
    let (state, _) = refused(Session::redeem(&lab, B, Transport::Tcp, &held));
    assert_eq!(state, "42501");
    shared("grant connect on database app to app");

    // A server that asks for another proof, or for none, is not the one that the ticket is for.
    let hba = lab.dir().join("shared/pg/pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    for method in ["trust", "password"] {
        let other = rules.replace("32  scram-sha-256", &format!("32  {method}"));
        std::fs::write(&hba, other).unwrap();
        shared("select pg_reload_conf()");
        client::until_asked(&lab, B, method);
        refused_for(
            Why::Upstream,
            Session::redeem(&lab, B, Transport::Tcp, &held),
        );
    }
    std::fs::write(&hba, &rules).unwrap();
    shared("select pg_reload_conf()");
    client::until_asked(&lab, B, "scram-sha-256");

    let mut good = Session::redeem(&lab, B, Transport::Tcp, &held).unwrap();
    assert_eq!(good.value("select current_user"), "app");
    let used = Session::redeem(&lab, B, Transport::Tcp, &held);
    refused_for(Why::Redeemed, used);

    // The same password, set again, is another one.
    lab.good(&["start", "node-a"]);
    let held = good.ticket(&lab);
    shared("alter role app password 'app'");
    lab.good(&["kill", "node-b"]);
    lab.wait_until_active("node-a");
    let (state, _) = refused(Session::redeem(&lab, A, Transport::Tcp, &held));
    assert_eq!(state, "28P01");
}

/// The startup packet of the sessions here.
const STARTUP: &[u8] = b"\0\0\0\x34\0\x03\0\0user\0app\0database\0app\0client_encoding\0UTF8\0\0";

#[test]
fn a_ticket_is_one_login_however_its_bytes_come() {
    let Some((lab, _installation)) = lab("postgres-shared", 155) else {
        return;
    };
    let session = Session::log_in_slowly(&lab, A, Transport::Tcp);
    let held = session.ticket(&lab);
    let others: Vec<_> = [Transport::Tcp, Transport::Shm]
        .into_iter()
        .map(|transport| Session::log_in_slowly(&lab, A, transport).ticket(&lab))
        .collect();

    // At the same node, once the channel has ended: and so on, each time by the ticket of the time before.
    let mut last = Session::log_in(&lab, A, Transport::Shm, "app");
    for _ in 0..2 {
        let held = last.ticket(&lab);
        drop(last);
        let end = std::time::Instant::now() + pg_lab::LIMIT;
        last = loop {
            match Session::redeem(&lab, A, Transport::Shm, &held) {
                Ok(session) => break session,
                Err(Error::Sql(_, said)) => {
                    assert!(said.contains(Why::Generation.text()), "{said}")
                }
                Err(e) => panic!("{e}"),
            }
            assert!(std::time::Instant::now() < end);
            std::thread::sleep(std::time::Duration::from_millis(20));
        };
    }

    lab.good(&["kill", "node-a"]);
    lab.wait_until_active("node-b");

    // The one role may not be hidden behind the other.
    let twice =
        b"\0\0\0\x3e\0\x03\0\0user\0app\0database\0app\0client_encoding\0UTF8\0user\0vian\0\0";
    let said = client::redeem_ahead(&lab, B, &held, twice, usize::MAX);
    assert!(text_has(&said, Why::Startup.text()), "{said:?}");

    // All at once: one is let in.
    let tries: Vec<_> = std::thread::scope(|scope| {
        let one = || client::redeem_ahead(&lab, B, &held, STARTUP, usize::MAX);
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let let_in = tries.iter().filter(|said| text_has(said, "app1")).count();
    assert_eq!(let_in, 1, "{tries:?}");
    let late = tries
        .iter()
        .filter(|said| text_has(said, Why::Redeemed.text()))
        .count();
    assert_eq!(late, 7, "{tries:?}");

    for (held, piece) in others.iter().zip([1, 7]) {
        let said = client::redeem_ahead(&lab, B, held, STARTUP, piece);
        assert!(said.starts_with(b"RS"), "{said:?}");
        assert!(text_has(&said, "app1"), "{said:?}");
    }
}

fn text_has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

/// Whoever can reach the relay could otherwise keep the SQL server busy.
#[test]
fn a_connect_that_proves_nothing_costs_no_lookup() {
    let Some((lab, _installation)) = lab("postgres-shared", 156) else {
        return;
    };
    lab.superuser("shared", "alter role vianet set track_functions = 'all'");
    let begun: Vec<_> = (0..3).map(|_| client::begin(&lab, A)).collect();
    let session = Session::log_in(&lab, A, Transport::Tcp, "app");
    session.ticket(&lab);
    // The server counts at the latest when the session that called is over.
    let shared = |sql: &str| lab.superuser("shared", sql);
    let daemons = "from pg_stat_activity where usename = 'vianet'";
    shared(&format!("select pg_terminate_backend(pid) {daemons}"));
    let end = std::time::Instant::now() + pg_lab::LIMIT;
    while shared(&format!("select count(*) {daemons}")) != "0" {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let calls =
        shared("select calls from pg_stat_user_functions where funcname = 'scram_verifier'");
    assert_eq!(calls, "1");
    drop(begun);
}

#[test]
fn the_owner_of_a_channel_hears_why_there_is_no_ticket() {
    let Some((lab, _installation)) = lab("postgres-shared", 152) else {
        return;
    };
    let shared = |sql: &str| lab.superuser("shared", sql);
    let why = |why| {
        let session = Session::log_in(&lab, A, Transport::Tcp, "app");
        assert_eq!(session.given(&lab), Given::Not(why), "{}", lab.logs());
        session
    };
    // A password in clear is neither kept nor looked at.
    let hba = lab.dir().join("shared/pg/pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, rules.replace("32  scram-sha-256", "32  password")).unwrap();
    shared("select pg_reload_conf()");
    let given = client::given_to_a_login_in_clear(&lab, A);
    assert_eq!(given, Given::Not(Why::Method), "{}", lab.logs());
    std::fs::write(&hba, &rules).unwrap();
    shared("select pg_reload_conf()");
    client::until_asked(&lab, A, "scram-sha-256");

    // Who could change everything gets no ticket.
    shared("alter role app superuser");
    why(Why::NoVerifier);
    shared("alter role app nosuperuser");

    shared("revoke execute on function vianet.scram_verifier(text) from vianet");
    let without = why(Why::Lookup);
    assert!(
        lab.logs()
            .contains("permission denied for function scram_verifier")
    );
    shared("grant execute on function vianet.scram_verifier(text) to vianet");
    // It is tried again, also for who has heard that already.
    without.ticket(&lab);
    Session::log_in(&lab, A, Transport::Tcp, "app").ticket(&lab);
}

/// A connection of the library's, as an application has it.
struct Application(i32);

impl Application {
    fn connect(lab: &Lab) -> Self {
        let options = vianet::conn::Options {
            config: Some(lab.dir().join("client.toml")),
            ..Default::default()
        };
        let fd = vianet::conn::connect("sales.lab", &options);
        Self(fd.unwrap_or_else(|e| panic!("{e}: {}", lab.logs())))
    }

    fn login(fd: i32) -> Option<Why> {
        vianet::conn::find(fd).unwrap().info().why_no_ticket
    }
}

impl Read for Application {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let conn = vianet::conn::find(self.0).map_err(std::io::Error::other)?;
        conn.recv(buffer, 0).map_err(std::io::Error::other)
    }
}

impl Write for Application {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let conn = vianet::conn::find(self.0).map_err(std::io::Error::other)?;
        let bytes = [std::io::IoSlice::new(bytes)];
        conn.send(&bytes, 0).map_err(std::io::Error::other)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_library_says_whether_a_session_could_log_in_elsewhere() {
    let Some((lab, _installation)) = lab("postgres-shared", 154) else {
        return;
    };
    let wait_for = |fd: i32, why: Option<Why>| {
        let end = std::time::Instant::now() + pg_lab::LIMIT;
        while Application::login(fd) != why {
            assert!(
                std::time::Instant::now() < end,
                "{:?}",
                Application::login(fd)
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    // Not followed: nothing is said of it.
    let plain = Application::connect(&lab);
    let fd = plain.0;
    let session = Client::log_in(plain, "app", "app", "app").unwrap();
    assert_eq!(Application::login(fd), None);
    drop(session);

    let config = lab.dir().join("client.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let follow = "\n[clusters.lab.servers.sales]\nsession = \"postgres\"\n";
    std::fs::write(&config, format!("{text}{follow}")).unwrap();
    let application = Application::connect(&lab);
    let fd = application.0;
    assert_eq!(
        Application::login(fd),
        Some(Why::Pending),
        "before the login"
    );
    let mut session = Client::log_in(application, "app", "app", "app").unwrap();
    wait_for(fd, None);
    // It is not taken back when the other node goes; it is not given then either.
    lab.good(&["kill", "node-b"]);
    session.query("select 1").unwrap();
    assert_eq!(Application::login(fd), None);
    // For a while the node gives tickets: it does not know yet that the other one is gone.
    let end = std::time::Instant::now() + pg_lab::LIMIT;
    let (later_fd, _later) = loop {
        let later = Application::connect(&lab);
        let fd = later.0;
        let session = Client::log_in(later, "app", "app", "app").unwrap();
        while Application::login(fd) == Some(Why::Pending) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        if Application::login(fd) == Some(Why::NoPeer) {
            break (fd, session);
        }
        assert!(std::time::Instant::now() < end);
    };
    lab.good(&["start", "node-b"]);
    wait_for(later_fd, None);

    // Who pins no key could be asked for his ticket by anybody.
    let unpinned = text.lines().filter(|l| !l.starts_with("public_key"));
    let unpinned: Vec<_> = unpinned.collect();
    std::fs::write(&config, format!("{}\n{follow}", unpinned.join("\n"))).unwrap();
    let application = Application::connect(&lab);
    let fd = application.0;
    let _session = Client::log_in(application, "app", "app", "app").unwrap();
    wait_for(fd, Some(Why::Unpinned));
}

/// A node that was restarted has forgotten its keys; the other one has them still.
#[test]
fn a_daemon_that_was_restarted_redeems_the_tickets_that_it_gave_before() {
    let Some((lab, _installation)) = lab("postgres-shared", 158) else {
        return;
    };
    let session = Session::log_in(&lab, A, Transport::Tcp, "app");
    let held = session.ticket(&lab);
    lab.good(&["kill", "node-a", "--only", "daemon"]);
    lab.wait_until_active("node-b");
    lab.good(&["start", "node-a", "--only", "daemon"]);
    // There is one once the other node has what this one gives.
    Session::log_in(&lab, B, Transport::Tcp, "app").ticket(&lab);
    lab.good(&["kill", "node-b"]);
    lab.wait_until_active("node-a");
    let result = Session::redeem(&lab, A, Transport::Tcp, &held);
    let mut again = result.unwrap_or_else(|e| panic!("{e}: {}", lab.logs()));
    assert_eq!(again.value("select current_user"), "app");
}

/// The other node has tickets for another server only: one that it would not redeem is not given.
#[test]
fn there_is_no_ticket_that_the_other_node_would_not_redeem() {
    let Some((lab, _installation)) = lab("postgres-shared", 157) else {
        return;
    };
    lab.good(&["kill", "node-b"]);
    let file = lab.dir().join("node-b/node.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    let mut node: toml::Table = good.parse().unwrap();
    let servers = node["servers"].as_array_mut().unwrap();
    let mut other = servers[0].clone();
    other["name"] = "other".into();
    servers[0].as_table_mut().unwrap().remove("tickets");
    servers.push(other);
    std::fs::write(&file, toml::to_string(&node).unwrap()).unwrap();
    lab.good(&["start", "node-b"]);
    let session = Session::log_in(&lab, A, Transport::Tcp, "app");
    let given = client::given(&lab, A, session.accept.channel_id, &session.key, |why| {
        !why.may_pass() || why == Why::PeerOff
    });
    assert_eq!(given, Given::Not(Why::PeerOff), "{}", lab.logs());
    // Once it would, it is.
    lab.good(&["kill", "node-b"]);
    std::fs::write(&file, good).unwrap();
    lab.good(&["start", "node-b"]);
    session.ticket(&lab);
}

#[test]
fn without_configuration_there_are_none() {
    let dir = Lab::up("embedded", 153);
    let Some(lab) = dir else { return };
    lab.wait_until_active("node-a");
    let session = Session::log_in(&lab, A, Transport::Tcp, "app");
    assert_eq!(session.given(&lab), Given::Not(Why::Off));
    let held = Held::new(Arc::clone(&session.key), vec![1; 216]);
    refused_for(Why::Off, Session::redeem(&lab, A, Transport::Tcp, &held));
}
