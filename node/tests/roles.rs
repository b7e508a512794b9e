//! Two real daemons: who answers, who takes over, who steps down.

mod common;

use common::{Lab, calm, exchange, until};
use vianet::resolve::Role;
use vianet::via::Transport;
use vianet_node::control::{Reply, Request};

const SIGSTOP: i32 = 19;
const SIGCONT: i32 = 18;
const SIGTERM: i32 = 15;
/// In the log line of a node that has become active.
const ACTIVE: &str = "to=\"active\"";

#[test]
fn one_is_active_and_lists_a_port_per_protocol() {
    let lab = Lab::new(200, |_, c| calm(c)).up();
    let a = lab.wait_active(0);
    assert_eq!(a.node, "node-a");
    assert!(a.authentic);
    for transport in [Transport::Shm, Transport::Tcp, Transport::Plain] {
        assert!(
            a.endpoints.iter().any(|e| e.transport == transport),
            "{a:?}"
        );
    }
    let b = lab.wait_role(1, Role::Passive);
    assert_eq!((b.node.as_str(), b.generation), ("node-b", a.generation));
    assert_eq!(lab.answer(0, "nosuch").role, Role::Unknown);
    assert_eq!(
        lab.answer(0, "SALES").role,
        Role::Active,
        "names have no case"
    );
}

#[test]
fn a_killed_active_is_taken_over_and_stays_passive_when_it_returns() {
    let mut lab = Lab::new(201, |_, _| {}).up();
    let first = lab.wait_active(0);
    lab.wait_role(1, Role::Passive);
    lab.nodes[0].kill();
    let second = lab.wait_active(1);
    assert!(second.generation > first.generation);
    lab.nodes[0].start();
    let back = lab.wait_role(0, Role::Passive);
    assert_eq!(back.generation, second.generation);
    assert_eq!(lab.answer(1, "sales").role, Role::Active);
    // The generation survives the loss of both.
    lab.nodes[0].kill();
    lab.nodes[1].kill();
    lab.nodes[1].start();
    let third = lab.wait_active(1);
    assert!(third.generation > second.generation);
}

#[test]
fn a_frozen_active_is_taken_over_and_steps_down_when_thawed() {
    let lab = Lab::new(202, |_, _| {}).up();
    lab.wait_role(1, Role::Passive);
    lab.nodes[0].signal(SIGSTOP);
    let second = lab.wait_active(1);
    lab.nodes[0].signal(SIGCONT);
    let back = lab.wait_role(0, Role::Passive);
    assert_eq!(back.generation, second.generation);
    for word in ["event=\"gap\"", "higher-generation"] {
        until(&format!("{word}\n{}", lab.logs()), || {
            lab.nodes[0].log().contains(word).then_some(())
        });
    }
}

#[test]
fn a_frozen_passive_that_is_thawed_takes_nothing_over() {
    let lab = Lab::new(203, |_, _| {}).up();
    let mut seen = [0; 2];
    let mut news = |node: usize| {
        let log = lab.nodes[node].log();
        let before = std::mem::replace(&mut seen[node], log.len());
        log[before..].to_owned()
    };
    for last in [false, false, true] {
        lab.wait_role(0, Role::Active);
        lab.wait_role(1, Role::Passive);
        let _ = (news(0), news(1));
        lab.nodes[1].signal(SIGSTOP);
        let mut alone = String::new();
        until("the active notices", || {
            alone += &news(0);
            alone.contains("peer-lost").then_some(())
        });
        // Alone it goes on.
        lab.wait_role(0, Role::Active);
        lab.nodes[1].signal(SIGCONT);
        until("heard again", || {
            alone += &news(0);
            alone.contains("peer-heard").then_some(())
        });
        std::thread::sleep(std::time::Duration::from_secs(4));
        alone += &news(0);
        // Whoever is stopped while alone cannot be sure of his role: another story.
        if last || !alone.contains("event=\"gap\"") {
            assert_eq!(lab.answer(1, "sales").role, Role::Passive, "{}", lab.logs());
            assert_eq!(lab.answer(0, "sales").role, Role::Active);
            assert!(!news(1).contains(ACTIVE), "{}", lab.logs());
            return;
        }
    }
}

#[test]
fn a_stopped_active_hands_over_before_it_ends() {
    let mut lab = Lab::new(204, |_, c| calm(c)).up();
    lab.wait_role(1, Role::Passive);
    lab.nodes[0].signal(SIGTERM);
    let status = lab.nodes[0].child.as_mut().unwrap().wait().unwrap();
    assert!(status.success());
    lab.wait_active(1);
    let log = lab.nodes[1].log();
    let (takeover, _) = log.split_once(ACTIVE).expect("it is");
    assert!(takeover.contains("peer-resigned"), "{log}");
    assert!(
        !takeover.contains("peer-lost"),
        "it did not have to wait: {log}"
    );
}

#[test]
fn a_node_with_several_addresses_is_known_by_the_one_that_its_peer_has() {
    let lab = Lab::new(249, |i, config| {
        calm(config);
        if i == 0 {
            let other = "127.0.249.31:1434".parse().unwrap();
            config.listen.query.insert(0, other);
        }
    })
    .up();
    for node in &lab.nodes {
        until(&format!("peers hear each other\n{}", lab.logs()), || {
            (node.status().peers[0].state == "up").then_some(())
        });
    }
}

#[test]
fn the_operator_can_move_a_name_and_force_it() {
    let lab = Lab::new(205, |_, c| calm(c)).up();
    lab.wait_role(1, Role::Passive);
    let server = || "sales".to_owned();
    let resign = Request::Resign { server: server() };
    assert_eq!(lab.nodes[0].control(&resign), Some(Reply::Done));
    let second = lab.wait_active(1);
    assert!(matches!(
        lab.nodes[0].control(&resign),
        Some(Reply::Error { .. })
    ));
    until("node-a may be forced", || {
        let force = Request::ForceActive { server: server() };
        (lab.nodes[0].control(&force) == Some(Reply::Done)).then_some(())
    });
    let third = lab.wait_active(0);
    assert!(third.generation > second.generation);
    lab.wait_role(1, Role::Passive);
    let status = lab.nodes[0].status();
    assert_eq!(status.servers[0].role, "active");
    assert_eq!(status.servers[0].changes[0].reason, "forced");
    until("the peer is up", || {
        (lab.nodes[0].status().peers[0].state == "up").then_some(())
    });
}

#[test]
fn ssrp_is_answered_by_the_active_only() {
    let lab = Lab::new(206, |_, c| calm(c)).up();
    lab.wait_role(1, Role::Passive);
    let text = "ServerName;node-a;InstanceName;sales;IsClustered;Yes;Version;15.0;tcp;5432;via;node-a,0:7434;;";
    let mut golden = vec![5, text.len() as u8, 0];
    golden.extend_from_slice(text.as_bytes());
    for request in [&b"\x04sales\0"[..], b"\x04SALES", b"\x03", b"\x02"] {
        let answer = until("an SSRP answer", || exchange(lab.addr(0), request));
        assert_eq!(answer, golden, "{request:?}");
        assert_eq!(
            exchange(lab.addr(1), request),
            None,
            "the passive is silent"
        );
    }
    for request in [
        &b""[..],
        b"\x0a",
        b"\x04",
        b"\x04nosuch\0",
        b"\x05",
        b"\x0f\x01sales\0",
    ] {
        assert_eq!(exchange(lab.addr(0), request), None, "{request:?}");
    }
}

#[test]
fn ipv6_is_asked_and_connected_as_ipv4_is() {
    let v6 = |port| std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    let lab = Lab::of(1, 207, |_, c| {
        c.listen.query.push(v6(20_714));
        c.listen.via_tcp.push(v6(20_774));
    })
    .up();
    let text =
        "ServerName;node-a;InstanceName;sales;IsClustered;Yes;Version;15.0;via;node-a,0:20774;;";
    let answer = until("SSRP over IPv6", || exchange(v6(20_714), b"\x04sales\0"));
    assert_eq!(&answer[3..], text.as_bytes());
    let endpoints = lab.wait_active(0).endpoints;
    assert!(
        endpoints.iter().any(|e| e.addr == v6(20_774)),
        "{endpoints:?}"
    );
    let client = common::client::connect_as_soon(|| {
        let mut request = common::client::request(&lab, 0, Transport::Tcp, "sales");
        request.endpoint.addr = v6(20_774);
        request
    });
    client.send(b"six");
    client.expect(b"six");
}

/// One HTTP request to node `i`; head and body of the answer.
fn http(lab: &Lab, i: usize, request: &str) -> (String, String) {
    use std::io::{Read, Write};
    let addr = lab.nodes[i].config.http.unwrap();
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(common::LONG)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
    (head.into(), body.into())
}

#[test]
fn page_and_metrics_show_roles_sessions_and_the_takeover() {
    let mut lab = Lab::new(247, |i, c| {
        let addr = format!("127.0.247.{}:9180", 11 + i);
        c.http = Some(addr.parse().unwrap());
    })
    .up();
    lab.wait_role(1, Role::Passive);
    let get = |lab: &Lab, i, path| {
        let (head, body) = http(lab, i, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        body
    };
    let client = common::client::connect_when_active(&lab, 0, Transport::Tcp);
    client.send(b"hello");
    client.expect(b"hello");
    let metrics = get(&lab, 0, "/metrics");
    for line in [
        "vianet_role{server=\"sales\",role=\"active\"} 1",
        "vianet_sessions{server=\"sales\",transport=\"tcp\"} 1",
        "vianet_relayed_bytes_total{server=\"sales\",direction=\"to_server\"} 5",
        "vianet_takeovers_total{server=\"sales\"} 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
    until("the page shows the other node", || {
        let page = get(&lab, 0, "/");
        (page.contains("node-a of cluster lab") && page.contains(">passive</span>")).then_some(())
    });
    // Nonsense, and clients that say nothing, harm nobody.
    let silent: Vec<_> = (0..40)
        .map(|_| std::net::TcpStream::connect(lab.nodes[0].config.http.unwrap()))
        .collect();
    drop(silent);
    until("room for another", || {
        std::panic::catch_unwind(|| http(&lab, 0, "\x16\x03\x01\r\n\r\n"))
            .is_ok_and(|(head, _)| head.starts_with("HTTP/1.1 400 "))
            .then_some(())
    });
    client.send(b"still here");
    client.expect(b"still here");
    drop(client);

    lab.nodes[0].kill();
    lab.wait_active(1);
    let metrics = get(&lab, 1, "/metrics");
    for line in [
        "vianet_role{server=\"sales\",role=\"active\"} 1",
        "vianet_takeovers_total{server=\"sales\"} 1",
        "vianet_peer_up{peer=\"node-a\"} 0",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
    assert!(metrics.contains("vianet_last_takeover_duration_seconds{server=\"sales\"} "));
    let page = get(&lab, 1, "/");
    assert!(
        page.contains("peer-lost") && page.contains(">down</span>"),
        "{page}"
    );
}
