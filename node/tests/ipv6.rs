//! A cluster that knows only IPv6: nodes ask each other, a client asks, connects and follows the name, all by `[::1]`.

mod common;

use common::Lab;
use std::io::IoSlice;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use vianet::conn::{self, Options};
use vianet::resolve::Role;
use vianet::via::Transport;

fn v6(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}

fn exchange(fd: RawFd, text: &[u8]) {
    let connection = conn::find(fd).unwrap();
    assert_eq!(
        connection.send(&[IoSlice::new(text)], 0).unwrap(),
        text.len()
    );
    let mut got = Vec::new();
    while got.len() < text.len() {
        let mut buffer = [0; 64];
        let n = connection.recv(&mut buffer, 0).unwrap();
        assert!(n > 0, "ended after {got:?}");
        got.extend_from_slice(&buffer[..n]);
    }
    assert_eq!(got, text);
}

#[test]
fn a_client_follows_the_name_over_ipv6_alone() {
    // Both nodes have the machine's one address, so their ports tell them apart.
    let query = |i: usize| v6(20_811 + i as u16);
    let mut lab = Lab::new(248, |i, c| {
        c.listen.query = vec![query(i)];
        c.listen.via_tcp = vec![v6(20_821 + i as u16)];
        c.listen.shm = false;
        c.peers[0].query = query(1 - i);
        c.servers[0].advertise_tcp.clear();
    })
    .up();
    lab.wait_role(1, Role::Passive);
    let config = lab.dir.path().join("client.toml");
    let text = format!(
        "[clusters.six]\nnodes = [\"{}\", \"{}\"]\npublic_key = \"{}\"\nraw_failover = \"continue\"\n",
        query(0),
        query(1),
        lab.key.public().to_hex()
    );
    std::fs::write(&config, text).unwrap();
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let fd = conn::connect("sales.six", &options).unwrap();
    let info = || conn::find(fd).unwrap().info();
    assert_eq!(
        (info().transport, info().node.as_str()),
        (Some(Transport::Tcp), "node-a")
    );
    exchange(fd, b"on the first");
    lab.nodes[0].kill();
    common::until("the second node", || {
        (info().node == "node-b").then_some(())
    });
    exchange(fd, b"on the second");
    assert_eq!(info().failovers, 1);
    // And back, by the passive node that returned.
    lab.nodes[0].start();
    lab.wait_role(0, Role::Passive);
    lab.nodes[1].kill();
    common::until("the first node again", || {
        (info().node == "node-a").then_some(())
    });
    exchange(fd, b"on the first again");
    conn::close(fd).unwrap();
}
