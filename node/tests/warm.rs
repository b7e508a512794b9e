//! Sessions that wait at a passive node until it is active, through real daemons to an echo.

mod common;

use common::client::{Client, connect, connect_as_soon, request};
use common::{Lab, calm, until};
use vianet::resolve::Role;
use vianet::via::switchover::ACTIVE;
use vianet::via::{Broken, ConnectError, ConnectRequest, EndReason, RejectReason, Transport};
use vianet_node::config::{Node, Protocol};

const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Shm];

/// Sessions may wait; whether the SQL server asks for proofs is not looked at, since it is an echo.
fn waits(config: &mut Node) {
    config.limits.warm_sessions = 2;
    let server = &mut config.servers[0];
    server.protocol = Protocol::Postgres;
    server.allow_unauthenticated_upstream = true;
    server.hooks.health = vec!["/bin/true".into()];
}

fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

fn warm(lab: &Lab, node: usize, transport: Transport) -> ConnectRequest {
    let mut request = request(lab, node, transport, "sales");
    request.warm = true;
    request
}

fn rejected(request: ConnectRequest) -> RejectReason {
    match connect(request) {
        Err(ConnectError::Rejected(reason)) => reason,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted"),
    }
}

fn waiting(lab: &Lab, node: usize) -> usize {
    let sessions = &lab.nodes[node].status().servers[0].sessions;
    sessions.iter().filter(|session| session.warm).count()
}

fn let_in(lab: &Lab, transport: Transport) -> Client {
    let client = connect_as_soon(|| warm(lab, 1, transport));
    // No login; but so many bytes that this is known.
    client.send(b"before it");
    client.expect(b"before it");
    client
}

#[test]
fn who_may_wait_is_let_in_and_nobody_else() {
    let lab = Lab::new(190, |_, c| {
        calm(c);
        waits(c);
    })
    .up();
    let active = lab.answer(0, "sales");
    let passive = lab.wait_role(1, Role::Passive);
    // Where sessions may wait, and not where the SQL server is.
    let told: Vec<_> = passive.endpoints.iter().map(|e| e.transport).collect();
    assert_eq!(told, [Transport::Shm, Transport::Tcp]);
    for transport in BOTH {
        let client = let_in(&lab, transport);
        assert_eq!(client.channel.accept.generation, active.generation);
        assert_eq!(client.channel.wire.told(), 0);
        let another = let_in(&lab, transport);
        assert_eq!(waiting(&lab, 1), 2);
        assert_eq!(rejected(warm(&lab, 1, transport)), RejectReason::Busy);
        drop((client, another));
        until("their places are free", || {
            (waiting(&lab, 1) == 0).then_some(())
        });
        // At the active node nobody waits, and at the passive one nothing else is done.
        assert_eq!(rejected(warm(&lab, 0, transport)), RejectReason::NotActive);
        let other = request(&lab, 1, transport, "sales");
        assert_eq!(rejected(other), RejectReason::NotActive);
        let mut newer = warm(&lab, 1, transport);
        newer.min_generation = u64::MAX;
        assert_eq!(rejected(newer), RejectReason::GenerationTooOld);
    }
}

#[test]
fn nobody_waits_where_that_is_not_configured() {
    let lab = Lab::new(191, |i, c| {
        calm(c);
        waits(c);
        match i {
            0 => c.limits.warm_sessions = 0,
            _ => c.servers[0].protocol = Protocol::Raw,
        }
    })
    .up();
    let passive = lab.wait_role(1, Role::Passive);
    assert_eq!(passive.endpoints, []);
    for node in [0, 1] {
        let reason = rejected(warm(&lab, node, Transport::Tcp));
        assert_eq!(reason, RejectReason::NotAuthorised);
    }
}

/// From the moment at which the takeover begins until the node is active, nothing of theirs reaches the SQL server.
#[test]
fn what_waits_stands_still_during_a_takeover_and_goes_on_behind_it() {
    let done = tempfile::tempdir().unwrap().keep().join("promoted");
    let promote = format!(
        "while [ ! -e {} ]; do sleep 0.05; done",
        done.to_str().unwrap()
    );
    let mut lab = Lab::new(192, |i, c| {
        waits(c);
        if i == 1 {
            c.servers[0].hooks.promote = shell(&promote);
        }
    })
    .up();
    let clients = BOTH.map(|transport| let_in(&lab, transport));
    let before = clients[0].channel.accept.generation;
    lab.nodes[0].kill();
    lab.wait_role(1, Role::TakingOver);
    for client in &clients {
        client.send(b"meanwhile");
    }
    for _ in 0..3 {
        assert_eq!(lab.answer(1, "sales").role, Role::TakingOver);
        for client in &clients {
            let _ = client.channel.drive();
            assert_eq!(client.channel.acked(), 9, "{}", lab.logs());
            assert_eq!(client.channel.wire.told(), 0);
            assert_eq!(client.channel.readable(), 0);
        }
    }
    std::fs::write(&done, "").unwrap();
    let active = lab.wait_active(1);
    assert!(active.generation > before);
    for client in &clients {
        client.expect(b"meanwhile");
        until("it is told", || {
            let _ = client.channel.drive();
            (client.channel.wire.told() == ACTIVE).then_some(())
        });
        client.send(b"after");
        client.expect(b"after");
    }
    // Who looks at the sessions meanwhile does not take the word back: a client may need it later.
    let look = vianet_node::control::Request::Look {
        server: "sales".into(),
    };
    lab.nodes[1].control(&look).unwrap();
    until("they were looked at", || {
        let looking = lab.nodes[1].status().servers[0].looking;
        (!looking).then_some(())
    });
    for client in &clients {
        client.send(b"looked at");
        client.expect(b"looked at");
        until("it is told still", || {
            let _ = client.channel.drive();
            (client.channel.wire.told() == ACTIVE).then_some(())
        });
    }
    assert_eq!(waiting(&lab, 1), 0);
    assert_eq!(lab.nodes[1].status().servers[0].sessions.len(), 2);
    // They are sessions as any other: they end with the node's role.
    lab.nodes[0].start();
    lab.wait_role(0, Role::Passive);
    let resign = vianet_node::control::Request::Resign {
        server: "sales".into(),
    };
    lab.nodes[1].control(&resign).unwrap();
    for client in &clients {
        assert_eq!(client.broken(), Broken::Ended(EndReason::NotActive));
    }
    let _ = std::fs::remove_dir_all(done.parent().unwrap());
}

/// The SQL server may have been promoted.
#[test]
fn what_waits_ends_with_a_takeover_that_fails() {
    let mut lab = Lab::new(193, |i, c| {
        waits(c);
        if i == 1 {
            c.servers[0].hooks.promote = shell("exit 1");
        }
    })
    .up();
    let clients = BOTH.map(|transport| let_in(&lab, transport));
    lab.nodes[0].kill();
    for client in &clients {
        assert_eq!(client.broken(), Broken::Ended(EndReason::NotActive));
    }
    until("their places are free", || {
        (waiting(&lab, 1) == 0).then_some(())
    });
    // A daemon that is stopped does not wait for them.
    lab.nodes[0].start();
    lab.wait_role(1, Role::Passive);
    let client = let_in(&lab, Transport::Tcp);
    lab.nodes[1].signal(15);
    assert_eq!(client.broken(), Broken::Ended(EndReason::Stopping));
}
