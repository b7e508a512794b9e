//! Many threads that resolve one name, against a node made of one socket and one thread.

use super::super::journal;
use super::*;
use crate::conn::asker::Asker;
use crate::conn::asker::tests::{Node, answer};
use crate::resolve::Role;
use crate::resolve::cache::What;
use crate::resolve::query::Query;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

const WAITERS: usize = 16;
const NEVER: Duration = Duration::from_secs(30);

fn joined(name: &ServerName) -> usize {
    let joined = |e: &&crate::resolve::cache::Entry| {
        e.name == *name && matches!(e.what, What::QueryJoined(_))
    };
    journal().iter().filter(joined).count()
}

fn client(cluster: &str, node: &Node) -> Client {
    let text = format!("[clusters.{cluster}]\nnodes = [\"{}\"]\n", node.addr);
    toml::from_str(&text).expect("a client configuration")
}

fn all_resolve(name: &ServerName, config: &Client, deadline: Duration) -> Vec<Result<Resolved>> {
    std::thread::scope(|scope| {
        let one = || scope.spawn(|| resolve_blocking(name, config, deadline));
        let threads: Vec<_> = (0..WAITERS).map(|_| one()).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

#[test]
fn many_who_resolve_share_one_query() {
    let nonces = Arc::new(Mutex::new(BTreeSet::new()));
    let heard = nonces.clone();
    let name = ServerName::new("shared-query", "sales").unwrap();
    let waited_for = name.clone();
    let node = Node::new(move |bytes| {
        let Ok(query) = Query::parse(bytes) else {
            return Vec::new();
        };
        heard.lock().unwrap().insert(query.nonce);
        let began = Instant::now();
        while joined(&waited_for) < WAITERS - 1 && began.elapsed() < NEVER {
            std::thread::sleep(Duration::from_millis(1));
        }
        let answer = answer("node-a", Role::Active, 3);
        query.answer(&answer, None).into_iter().collect()
    });
    let config = client("shared-query", &node);
    let resolved = all_resolve(&name, &config, NEVER);
    assert!(
        resolved
            .iter()
            .all(|r| r.as_ref().is_ok_and(|r| r.answer.generation == 3)),
        "{resolved:?}"
    );
    // One; on a machine that stands still meanwhile the leader's query is over before all have come, and it asks again.
    let nonces = nonces.lock().unwrap();
    assert!(nonces.len() < WAITERS, "{} queries", nonces.len());
}

#[test]
fn who_shares_a_query_shares_its_failure() {
    let node = Node::new(|bytes| {
        let query = Query::parse(bytes).ok();
        let answer = answer("node-a", Role::Passive, 3);
        query
            .and_then(|q| q.answer(&answer, None).ok())
            .into_iter()
            .collect()
    });
    let name = ServerName::new("shared-failure", "sales").unwrap();
    let config = client("shared-failure", &node);
    let resolved = all_resolve(&name, &config, Duration::from_millis(300));
    assert!(
        resolved.iter().all(|r| r.is_err()),
        "a passive node serves nobody: {resolved:?}"
    );
    // The query has left nothing behind that the next one would wait for.
    assert!(SHARED.lock().flights.iter().all(|f| f.name != name));
}

#[test]
fn a_takeover_is_waited_for_and_the_deadline_kept() {
    let began = Instant::now();
    let node = Node::new(move |bytes| {
        let over = began.elapsed() > Duration::from_millis(1300);
        let role = if over { Role::Active } else { Role::Passive };
        let query = Query::parse(bytes).ok();
        let answer = query.and_then(|q| q.answer(&answer("node-b", role, 6), None).ok());
        answer.into_iter().collect()
    });
    let name = ServerName::new("takeover", "sales").unwrap();
    let config = client("takeover", &node);
    let resolved = resolve_blocking(&name, &config, NEVER).unwrap();
    assert_eq!(resolved.answer.node, "node-b");
    let silent = Node::new(|_| Vec::new());
    let name = ServerName::new("silence", "sales").unwrap();
    let config = client("silence", &silent);
    let error = resolve_blocking(&name, &config, Duration::from_millis(50)).err();
    assert_eq!(error.map(|e| e.kind()), Some(Kind::NobodyAnswered));
}

/// The ticket of a query for `name` that the test leads.
fn led(name: &ServerName) -> Ticket {
    match begin(name) {
        Flight::Lead(ticket) => ticket,
        Flight::Follow(_) => panic!("nobody else asks for {name}"),
    }
}

#[test]
fn who_cannot_wait_for_the_end_of_the_query_is_told_what_it_has_heard() {
    let node = Node::with("node-a", Role::Active, 3);
    let name = ServerName::new("shared-report", "sales").unwrap();
    let mut config = client("shared-report", &node);
    let key = crate::resolve::identity::SecretKey::generate().unwrap();
    let cluster = config.clusters.get_mut("shared-report").unwrap();
    cluster.public_key = Some(key.public().to_hex());
    let ticket = led(&name);
    let mut asker = Asker::start(&name, &config.clusters["shared-report"], 0, now()).unwrap();
    let began = Instant::now();
    while asker.so_far() != NotResolved::NotAuthentic && began.elapsed() < NEVER {
        std::thread::sleep(Duration::from_millis(1));
        asker.on_readable(Duration::ZERO);
    }
    note(ticket, &asker);
    let error = resolve_blocking(&name, &config, Duration::from_millis(50)).err();
    assert_eq!(error.map(|e| e.kind()), Some(Kind::NotAuthentic));
}

#[test]
fn a_query_that_ends_too_early_for_those_who_share_it_is_asked_again() {
    let node = Node::with("node-b", Role::Active, 4);
    let name = ServerName::new("shared-short", "sales").unwrap();
    let config = client("shared-short", &node);
    let ticket = led(&name);
    let resolved = std::thread::scope(|scope| {
        let thread = scope.spawn(|| resolve_blocking(&name, &config, NEVER));
        let began = Instant::now();
        while joined(&name) == 0 && began.elapsed() < NEVER {
            std::thread::sleep(Duration::from_millis(1));
        }
        let nobody = Outcome::NotFound(NotResolved::NobodyActive, "none yet".into());
        end(&name, ticket, &nobody);
        thread.join().unwrap()
    });
    assert_eq!(resolved.unwrap().answer.node, "node-b");
}
