//! The asker against nodes made of one socket and one thread each.

use super::*;
use crate::config::RawFailover;
use crate::resolve::Endpoint;
use crate::resolve::identity::SecretKey;
use crate::via::Transport;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A socket that hands each datagram to a function and sends back what that returns, until dropped.
pub(crate) struct Node {
    pub(crate) addr: SocketAddr,
    pub(crate) heard: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Node {
    pub(crate) fn new(mut answer: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let addr = socket.local_addr().unwrap();
        let (stop, heard) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (stopped, count) = (stop.clone(), heard.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((n, from)) = socket.recv_from(&mut buffer) {
                    count.fetch_add(1, Ordering::Relaxed);
                    for datagram in answer(&buffer[..n]) {
                        let _ = socket.send_to(&datagram, from);
                    }
                }
            }
        });
        Self {
            addr,
            heard,
            stop,
            thread: Some(thread),
        }
    }

    /// A node with a fixed role and generation.
    pub(crate) fn with(node: &'static str, role: Role, generation: Generation) -> Self {
        Self::new(move |bytes| reply(bytes, &answer(node, role, generation), None))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

pub(crate) fn answer(node: &str, role: Role, generation: Generation) -> Answer {
    Answer {
        cluster_id: Some([7; 16]),
        node: node.into(),
        role,
        generation,
        ttl: Duration::from_secs(5),
        endpoints: vec![Endpoint {
            transport: Transport::Tcp,
            addr: "127.0.0.1:7434".parse().unwrap(),
        }],
        authentic: false,
        from: None,
    }
}

fn reply(bytes: &[u8], answer: &Answer, key: Option<&SecretKey>) -> Vec<Vec<u8>> {
    let query = Query::parse(bytes).ok();
    query
        .map(|query| query.answer(answer, key).unwrap())
        .into_iter()
        .collect()
}

/// An address where nobody listens: no test is given so small a port.
pub(crate) fn closed() -> SocketAddr {
    "127.0.0.1:1".parse().unwrap()
}

fn cluster(nodes: &[SocketAddr]) -> Cluster {
    Cluster {
        move_listening: false,
        warm_sessions: false,
        stateless_libraries: Vec::new(),
        custom_settings: Vec::new(),
        trusted_functions: Vec::new(),
        nodes: nodes.iter().map(ToString::to_string).collect(),
        public_key: None,
        tls: Default::default(),
        transports: Some(vec![Transport::Tcp, Transport::Plain]),
        strict: false,
        raw_failover: RawFailover::Reset,
        session: Default::default(),
        on_unknown: Default::default(),
        commit_ends_lost_block: false,
        servers: Default::default(),
    }
}

fn name() -> ServerName {
    ServerName::new("lab", "sales").unwrap()
}

/// One query, to its end. Its clock stands while something may still come, and then jumps to what is due: however busy the
/// machine is, the nodes' threads have time to answer, and how often they were asked is always the same.
fn ask(cluster: &Cluster, min_generation: Generation) -> Outcome {
    let mut now = Duration::ZERO;
    let mut asker = Asker::start(&name(), cluster, min_generation, now).unwrap();
    while let Some(due) = asker.poll_timeout() {
        // Many short sleeps: a process that is stopped as a whole loses one of them. What would end the query is waited
        // for longest.
        let sleeps = if asker.settled.is_some() { 200 } else { 30 };
        let quiet = (0..sleeps).all(|_| {
            let heard = asker.report();
            wait_readable(&asker.fds(), Duration::from_millis(5)).unwrap();
            asker.on_readable(now);
            asker.outcome().is_none() && asker.report() == heard
        });
        if quiet {
            now = due;
            asker.on_timeout(now);
        }
    }
    asker.outcome().unwrap().clone()
}

fn found(outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Found(answer) => answer,
        Outcome::NotFound(why, text) => panic!("{why:?}: {text}"),
    }
}

fn not_found(outcome: Outcome) -> (NotResolved, String) {
    match outcome {
        Outcome::Found(answer) => panic!("{answer:?}"),
        Outcome::NotFound(why, text) => (why, text),
    }
}

#[test]
fn the_active_node_of_the_highest_generation_is_the_best() {
    let old = Node::with("node-a", Role::Active, 5);
    let new = Node::with("node-b", Role::Active, 6);
    let passive = Node::with("node-c", Role::Passive, 9);
    let best = found(ask(&cluster(&[old.addr, new.addr, passive.addr]), 0));
    assert_eq!((best.node.as_str(), best.generation), ("node-b", 6));
    assert_eq!(
        best.from,
        Some(new.addr),
        "probes go where the answer came from"
    );
}

#[test]
fn a_dead_node_delays_nothing_and_a_silent_one_not_for_long() {
    let active = Node::with("node-b", Role::Active, 6);
    let silent = Node::new(|_| Vec::new());
    assert_eq!(
        found(ask(&cluster(&[closed(), active.addr]), 0)).node,
        "node-b"
    );
    assert_eq!(
        found(ask(&cluster(&[silent.addr, active.addr]), 0)).node,
        "node-b"
    );
}

#[test]
fn a_generation_that_is_too_small_is_no_answer() {
    let stale = Node::with("node-a", Role::Active, 5);
    let (why, text) = not_found(ask(&cluster(&[stale.addr]), 6));
    assert_eq!(why, NotResolved::NobodyActive);
    assert!(
        text.contains("node-a is active with generation 5"),
        "{text}"
    );
}

#[test]
fn lost_datagrams_are_sent_again() {
    let mut lost = 0;
    let node = Node::new(move |bytes| {
        lost += 1;
        if lost <= 2 {
            Vec::new()
        } else {
            reply(bytes, &answer("node-a", Role::Active, 5), None)
        }
    });
    assert_eq!(found(ask(&cluster(&[node.addr]), 1)).node, "node-a");
}

#[test]
fn a_node_that_takes_over_during_the_query_is_found() {
    let mut asked = 0;
    let node = Node::new(move |bytes| {
        asked += 1;
        let (role, generation) = if asked < 4 {
            (Role::Passive, 5)
        } else {
            (Role::Active, 6)
        };
        reply(bytes, &answer("node-b", role, generation), None)
    });
    assert_eq!(
        found(ask(&cluster(&[closed(), node.addr]), 5)).generation,
        6
    );
}

#[test]
fn nobody_nobody_active_and_unknown_name() {
    let (why, text) = not_found(ask(&cluster(&[closed()]), 0));
    assert_eq!(why, NotResolved::Nobody);
    assert!(text.contains("refused"), "{text}");
    let silent = Node::new(|_| Vec::new());
    assert_eq!(
        not_found(ask(&cluster(&[silent.addr]), 0)).0,
        NotResolved::Nobody
    );
    let passive = Node::with("node-b", Role::Passive, 5);
    assert_eq!(
        not_found(ask(&cluster(&[passive.addr, closed()]), 0)).0,
        NotResolved::NobodyActive
    );
    let stranger = Node::with("node-c", Role::Unknown, 0);
    assert_eq!(
        not_found(ask(&cluster(&[stranger.addr]), 0)).0,
        NotResolved::UnknownName
    );
    let both = cluster(&[stranger.addr, passive.addr]);
    assert_eq!(not_found(ask(&both, 0)).0, NotResolved::NobodyActive);
}

#[test]
fn a_pinned_key_refuses_everything_unsigned() {
    let (key, other) = (
        SecretKey::generate().unwrap(),
        SecretKey::generate().unwrap(),
    );
    let pinned = |nodes: &[SocketAddr]| Cluster {
        public_key: Some(key.public().to_hex()),
        ..cluster(nodes)
    };
    let unsigned = Node::with("node-a", Role::Active, 9);
    let forged =
        Node::new(move |bytes| reply(bytes, &answer("node-x", Role::Active, 9), Some(&other)));
    let browser = Node::new(sql_browser);
    let signer = key.clone();
    let signed =
        Node::new(move |bytes| reply(bytes, &answer("node-b", Role::Active, 5), Some(&signer)));
    let best = found(ask(
        &pinned(&[unsigned.addr, forged.addr, browser.addr, signed.addr]),
        0,
    ));
    assert_eq!(best.node, "node-b");
    assert!(best.authentic);
    let (why, text) = not_found(ask(&pinned(&[unsigned.addr, forged.addr, browser.addr]), 0));
    assert_eq!(why, NotResolved::NotAuthentic);
    assert!(
        text.contains("not signed") && text.contains("wrong signature"),
        "{text}"
    );
    let heard = browser.heard.load(Ordering::Relaxed);
    assert!(heard > 0, "it was asked the cluster query");
}

fn sql_browser(bytes: &[u8]) -> Vec<Vec<u8>> {
    let instance = ssrp::Instance {
        server_name: "BROWSER".into(),
        instance_name: "SALES".into(),
        version: "15.0.2000.5".into(),
        tcp: Some(57137),
        ..Default::default()
    };
    let request = ssrp::Request::parse(bytes);
    request
        .and_then(|request| request.answer(&[instance]))
        .into_iter()
        .collect()
}

#[test]
fn a_foreign_sql_browser_gives_the_plain_port() {
    let browser = Node::new(sql_browser);
    let plain = found(ask(&cluster(&[browser.addr]), 0));
    assert_eq!((plain.cluster_id, plain.generation), (None, 0));
    let endpoint = plain.endpoints[0];
    assert_eq!(endpoint.transport, Transport::Plain);
    assert_eq!(endpoint.addr, "127.0.0.1:57137".parse().unwrap());
    // Once a generation of the name was seen, a browser's word is not enough.
    assert_eq!(
        not_found(ask(&cluster(&[browser.addr]), 3)).0,
        NotResolved::Nobody
    );
    // And a node of ours is better than a browser.
    let node = Node::with("node-a", Role::Active, 1);
    assert_eq!(
        found(ask(&cluster(&[browser.addr, node.addr]), 0)).node,
        "node-a"
    );
}

#[test]
fn nonsense_and_answers_to_other_questions_are_not_believed() {
    let node = Node::new(|bytes| {
        let good = reply(bytes, &answer("node-a", Role::Active, 5), None);
        let Some(good) = good.first() else {
            return Vec::new();
        };
        let mut other_nonce = good.clone();
        other_nonce[8] ^= 1;
        let long = [&good[..], &[0; 600]].concat();
        vec![
            b"VIA1".to_vec(),
            good[..good.len() - 1].to_vec(),
            long,
            other_nonce,
            vec![5, 1, 0, 0],
        ]
    });
    assert_eq!(
        not_found(ask(&cluster(&[node.addr]), 0)).0,
        NotResolved::Nobody
    );
}

#[test]
fn host_names_are_looked_up_and_bad_ones_reported() {
    let node = Node::with("node-a", Role::Active, 5);
    let mut named = cluster(&[]);
    named.nodes = vec![format!("localhost:{}", node.addr.port())];
    assert_eq!(found(ask(&named, 0)).node, "node-a");
    // Nobody has looked for the result yet.
    let name = name();
    let asker = Asker::start(&name, &named, 0, Duration::ZERO).unwrap();
    let text = asker.report();
    assert!(text.contains("localhost: its address is still"), "{text}");
    named.nodes = vec!["no-such-host.invalid".into(), "a:b:c".into()];
    let (why, text) = not_found(ask(&named, 0));
    assert_eq!(why, NotResolved::Nobody);
    assert!(text.contains("neither host"), "{text}");
}

#[test]
fn nodes_as_the_configuration_names_them() {
    let literal = |text: &str| Some(NodeAddr::Literal(text.parse().unwrap()));
    let named = |host: &str, port| Some(NodeAddr::Named(host.into(), port));
    for (text, expected) in [
        ("127.0.0.11", literal("127.0.0.11:1434")),
        ("127.0.0.11:99", literal("127.0.0.11:99")),
        ("::1", literal("[::1]:1434")),
        ("[::1]", literal("[::1]:1434")),
        ("[::1]:99", literal("[::1]:99")),
        ("node-a", named("node-a", 1434)),
        (" node-a.example.org:99 ", named("node-a.example.org", 99)),
        ("", None),
        (":99", None),
        ("node-a:", None),
        ("node-a:0", None),
        ("node-a:65536", None),
        ("a:b:c", None),
        ("[node-a]:99", None),
    ] {
        assert_eq!(NodeAddr::parse(text, 1434), expected, "{text:?}");
    }
}
