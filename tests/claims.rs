//! One test for each of the claims 19 to 37 (`docs/claims.md`), on the real library, two real node daemons and a real SQL
//! server each, on one descriptor that never closes.
//!
//! Three failovers are lived and recorded, and every claim is read from a record: the method (19 to 31) by a program
//! that is linked with the library; the stored program (32 to 34) by one that opens the installed shared library with
//! dlopen; the system (35 to 37) by a program in plain C sockets that knows nothing of the library.

mod support;

use std::sync::LazyLock;
use std::time::Instant;
use support::c::How;
use support::rdma;
use support::story::{Evidence, RDMA_PORT, SERVER, Story, VIA_PORT, ViaConnection};
use support::wire::Kind;
use vianet::resolve::{Answer, Role};
use vianet::via::packet::Type;
use vianet::via::{RejectReason, Transport};

static METHOD: LazyLock<Story> = LazyLock::new(|| Story::tell(How::Plain, 80));
static STORED_PROGRAM: LazyLock<Story> = LazyLock::new(|| Story::tell(How::ByHand, 81));
static SYSTEM: LazyLock<Story> = LazyLock::new(|| Story::tell(How::Preloaded, 82));

/// The second request and its response, and the two connections around them.
struct Failover {
    first: ViaConnection,
    asked: Instant,
    answered: Instant,
    response: Answer,
    second: ViaConnection,
}

/// Claim 19's elements, each found in the record.
fn failover(story: &Story) -> Failover {
    // The first connection, over VIA, made by name, before the failure.
    let mut firsts = story.via_connections(0);
    assert_eq!(firsts.len(), 1, "one connection to the first server");
    let first = firsts.remove(0);
    assert!(first.begun < story.killed);
    assert_eq!(first.server, SERVER);
    assert_eq!(first.node, "node-a");

    // Detecting its failure, in the network access module.
    let detected = story
        .noted(0, &["conn:", "ChannelBroken"])
        .or_else(|| story.noted(0, &["conn:", "NodeLost"]))
        .expect("the library noticed the failure");
    story
        .noted(detected, &["conn:", "Query"])
        .expect("the library then asked again");

    // The second request, with the server name in it, to the whole cluster.
    let second_request = |node: usize| {
        let asked: Vec<_> = story
            .queries()
            .into_iter()
            .filter(|(p, query)| {
                p.at > story.killed
                    && *p.dst.ip() == story.nodes[node]
                    && query.server == SERVER
                    && p.src.ip().octets()[..3] != story.nodes[node].octets()[..3]
            })
            .collect();
        assert!(
            !asked.is_empty(),
            "a request to node {node} after the failure"
        );
        asked
    };
    second_request(0);
    let requests = second_request(1);

    // The response of the second server, with its network address.
    let (asked, answer, response) = requests
        .iter()
        .find_map(|(asked, query)| {
            let mut answers = story.answers_to(asked, query, 1).into_iter();
            let (answer, response) = answers.find(|(_, a)| a.role == Role::Active)?;
            Some((asked, answer, response))
        })
        .expect("the second server answered");
    assert_eq!(response.node, "node-b");
    assert!(response.authentic);
    let (transport, address) = match rdma::addresses() {
        Some([_, b]) => (Transport::Rdma, (b, RDMA_PORT).into()),
        None => (Transport::Tcp, (story.nodes[1], VIA_PORT).into()),
    };
    let named = |e: &&vianet::resolve::Endpoint| e.transport == transport && e.addr == address;
    assert!(response.endpoints.iter().any(|e| named(&e)), "{response:?}");

    // The second connection, over VIA, by way of that address.
    let mut seconds = story.via_connections(1);
    assert_eq!(seconds.len(), 1, "one connection to the second server");
    let second = seconds.remove(0);
    assert!(asked.at > story.killed && answer.at >= asked.at);
    assert!(second.begun > answer.at, "connected after the answer");

    // Transparent to the application: one descriptor, no error, every statement answered.
    assert_eq!(story.connects.len(), 1, "the application connected once");
    assert_eq!(story.descriptors[0], story.descriptors[1]);
    assert!(story.rows_are_complete(), "{}", story.rows);
    Failover {
        first,
        asked: asked.at,
        answered: answer.at,
        response,
        second,
    }
}

/// Where the journal says that the second server's answer was stored.
fn stored(story: &Story) -> usize {
    story
        .noted(0, &["cache:", "Stored(\"node-b\""])
        .expect("the second server's answer was stored")
}

fn via_packets_on_both_connections(story: &Story) {
    let failover = failover(story);
    for connection in [&failover.first, &failover.second] {
        let directions = match &connection.evidence {
            Evidence::Packets(directions) => directions,
            Evidence::Device(carried) => {
                assert_eq!((carried.application, carried.daemon), (1, 1), "{carried:?}");
                // There and back, and each is acknowledged.
                assert!(carried.packets.is_none_or(|n| n >= 4), "{carried:?}");
                continue;
            }
        };
        // `via_connections` has read every byte of both streams as VIA packets.
        for direction in directions {
            let mut offset = 0;
            for (header, payload) in direction.iter().filter(|(h, _)| h.kind == Type::Data) {
                assert_eq!(
                    header.offset, offset,
                    "no byte is missing, none is there twice"
                );
                offset += payload.len() as u64;
            }
            assert!(
                offset > 0,
                "the application's bytes travelled in VIA data packets"
            );
        }
    }
}

#[test]
fn claim_19_fails_over_transparently() {
    let failover = failover(&METHOD);
    eprintln!(
        "killed, asked after {:?}, answered after {:?}, connected after {:?}",
        failover.asked - METHOD.killed,
        failover.answered - METHOD.killed,
        failover.second.begun - METHOD.killed
    );
}

#[test]
fn claim_20_caches_the_response() {
    let response = failover(&METHOD).response;
    let generation = response.generation.to_string();
    METHOD
        .noted(0, &["cache:", "Stored(\"node-b\"", &generation])
        .expect("what the second server answered is what was stored");
}

#[test]
fn claim_21_takes_the_address_from_the_cache() {
    failover(&METHOD);
    let stored = stored(&METHOD);
    let read = METHOD
        .noted(stored, &["cache:", "Hit(\"node-b\""])
        .expect("the answer was read from the cache after it was stored");
    METHOD
        .noted(read, &["conn:", "Connect"])
        .expect("and connected to after it was read");
}

#[test]
fn claim_22_verifies_that_the_second_server_maps_to_the_name() {
    let failover = failover(&METHOD);
    let second = &failover.second;
    assert_eq!(second.server, SERVER, "the name is in the connect");
    assert_eq!(second.node, failover.response.node);
    assert_eq!(second.generation, failover.response.generation);
    METHOD
        .noted(stored(&METHOD), &["conn:", "ChannelUp", "node-b"])
        .expect("the library compared the accept with the answer");
}

#[test]
fn claim_23_verifies_that_the_second_server_is_responsive_to_the_name() {
    failover(&METHOD);
    let [before, after] = &METHOD.handshakes;
    assert_eq!(
        before,
        &Err(RejectReason::NotActive),
        "a server that does not serve the name says so"
    );
    assert_eq!(
        after.as_ref().expect("it serves the name now").node,
        "node-b"
    );
}

#[test]
fn claim_24_purges_before_it_caches() {
    failover(&METHOD);
    // A connect that took too long on a busy machine purges too; it is the loss that counts.
    let lost = ["ChannelBroken", "NodeLost"].map(|word| METHOD.noted(0, &["conn:", word]));
    let lost = lost.into_iter().flatten().min();
    let lost = lost.expect("the library noticed the failure");
    let purged = METHOD
        .noted(lost, &["cache:", "Purged(Some((\"node-a\""])
        .expect("the first server's answer was purged");
    let stored = stored(&METHOD);
    assert!(purged < stored, "purged first, stored then");
    assert_eq!(
        METHOD.noted(purged, &["cache:", "Hit(\"node-a\""]),
        None,
        "what was purged is never used again"
    );
}

#[test]
fn claim_25_asks_by_udp() {
    let failover = failover(&METHOD);
    let request = METHOD
        .queries()
        .into_iter()
        .find(|(p, _)| p.at == failover.asked);
    let (packet, query) = request.expect("the second request");
    assert_eq!(packet.kind, Kind::Udp);
    assert_eq!(query.server, SERVER);
}

#[test]
fn claim_26_servers_store_and_retrieve_by_sql() {
    let failover = failover(&METHOD);
    let carries = |connection: &ViaConnection, statement: &str| match &connection.evidence {
        Evidence::Packets([there, _]) => {
            let data = there.iter().filter(|(h, _)| h.kind == Type::Data);
            let stream = data.flat_map(|(_, payload)| payload.clone()).collect();
            String::from_utf8(stream).expect("SQL").contains(statement)
        }
        // Nobody sees what a device writes into another's memory; the rows are there.
        Evidence::Device(_) => true,
    };
    assert!(carries(&failover.first, "INSERT INTO story VALUES (1,"));
    assert!(carries(&failover.second, "INSERT INTO story VALUES (2,"));
    assert!(carries(&failover.second, "SELECT what FROM story"));
    assert!(METHOD.rows_are_complete(), "{}", METHOD.rows);
}

#[test]
fn claim_27_first_active_second_passive() {
    failover(&METHOD);
    let [first, second, _] = &METHOD.answers;
    assert_eq!((first.role, &*first.node), (Role::Active, "node-a"));
    assert_eq!((second.role, &*second.node), (Role::Passive, "node-b"));
    assert_eq!(METHOD.status[0]["active"][SERVER], "node-a");
}

#[test]
fn claim_28_the_passive_server_sends_keep_alives() {
    let pings: Vec<_> = METHOD
        .pings()
        .into_iter()
        .filter(|(at, _)| *at < METHOD.killed)
        .collect();
    assert!(pings.len() >= 5, "{} keep-alives", pings.len());
    for pair in pings.windows(2) {
        assert!(pair[1].1.sequence > pair[0].1.sequence, "each is a new one");
    }
    let (_, last) = pings.last().expect("there are some");
    assert_eq!((&*last.from, &*last.to), ("node-b", "node-a"));
    let state = last
        .servers
        .iter()
        .find(|s| s.name == SERVER)
        .expect("it names the server");
    assert_eq!(state.role, Role::Passive);
}

#[test]
fn claim_29_the_passive_server_takes_over() {
    failover(&METHOD);
    let mut pings = METHOD.pings();
    pings.retain(|(_, ping)| {
        let mut servers = ping.servers.iter();
        servers.any(|s| s.name == SERVER && s.role == Role::Passive)
    });
    let unanswered = pings.iter().rev();
    let unanswered = unanswered.take_while(|(_, ping)| !METHOD.is_answered(ping));
    let unanswered = unanswered.count();
    assert!(pings.len() > unanswered, "none had an answer");
    assert!(unanswered >= 4, "only {unanswered} had no answer");
    eprintln!("{unanswered} of {} had no answer", pings.len());
    let [_, before, after] = &METHOD.answers;
    assert_eq!((after.role, &*after.node), (Role::Active, "node-b"));
    assert!(after.generation > before.generation);
    assert_eq!(METHOD.status[1]["active"][SERVER], "node-b");
    let why = METHOD.logs[1].lines().find(|line| {
        line.contains("event=\"role\"") && line.contains("to=\"active\"") && line.contains(SERVER)
    });
    assert!(
        why.expect("the takeover is logged")
            .contains("reason=\"peer-lost\""),
        "{why:?}"
    );
}

#[test]
fn claim_30_the_response_lists_a_port_for_each_protocol() {
    let response = failover(&METHOD).response;
    let with_port: Vec<_> = response
        .endpoints
        .iter()
        .filter(|e| e.addr.port() != 0)
        .collect();
    assert!(with_port.len() >= 2, "{response:?}");
    for (i, one) in with_port.iter().enumerate() {
        for other in &with_port[i + 1..] {
            assert_ne!(one.addr.port(), other.addr.port());
            assert_ne!(one.transport, other.transport);
        }
    }
}

#[test]
fn claim_31_via_packets_on_both_connections() {
    via_packets_on_both_connections(&METHOD);
}

#[test]
fn claim_32_the_shared_library_performs_the_method() {
    failover(&STORED_PROGRAM);
}

#[test]
fn claim_33_the_shared_library_caches() {
    let generation = failover(&STORED_PROGRAM).response.generation.to_string();
    let stored = STORED_PROGRAM.noted(0, &["cache:", "Stored(\"node-b\"", &generation]);
    assert!(stored.is_some());
}

#[test]
fn claim_34_the_shared_library_sends_via_packets() {
    via_packets_on_both_connections(&STORED_PROGRAM);
}

#[test]
fn claim_35_the_system_fails_over() {
    failover(&SYSTEM);
}

#[test]
fn claim_36_the_system_caches() {
    let generation = failover(&SYSTEM).response.generation.to_string();
    let stored = SYSTEM.noted(0, &["cache:", "Stored(\"node-b\"", &generation]);
    assert!(stored.is_some());
}

#[test]
fn claim_37_the_system_sends_via_packets() {
    via_packets_on_both_connections(&SYSTEM);
}
