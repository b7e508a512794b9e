//! What happens to processes and to networks.

use super::*;
use support::programs::Background;

/// A client in the middle of a stream, which ends some time after its standard input.
///
/// Never one that still connects: a signal then ends its TCP connection before soft-iWARP has taken it from the listening
/// socket, and with it the kernel ends the listening one, frees it, and uses it once more when the node exits.
fn stream(bed: &Bed) -> Background {
    let program = Program::build("stream", How::Plain);
    let mut command = program.command(&bed.config);
    command
        .args(["echo.test", "1000000", "on"])
        .env("TEST_SECONDS", "280")
        .stdin(std::process::Stdio::piped());
    let running = Background::start(&mut command);
    wait_for("bytes", || (bed.server.used() == 1).then_some(()));
    assert!(!rdma::queue_pairs_of(running.pid()).is_empty());
    running
}

/// Nothing is left of a client that is killed in the middle of a stream: its queue pair, its memory, its SQL connection.
#[test]
#[ignore = "needs RDMA devices: make test-rdma"]
fn a_client_that_is_killed_leaves_nothing() {
    for (subnet, path) in [(95, Path::Rxe(30)), (96, Path::Siw)] {
        let mut bed = bed(subnet, &[path], "\"rdma\"");
        let daemon = bed.cluster.node(0).pid();
        let client = stream(&bed);
        assert_eq!(rdma::queue_pairs_of(daemon).len(), 1);
        drop(client); // SIGKILL
        wait_for("the node to let go", || {
            rdma::queue_pairs_of(daemon).is_empty().then_some(())
        });
        wait_for("the end of the SQL connection", || {
            bed.cluster.log(0).contains("channel-closed").then_some(())
        });
        let fd = bed.connect();
        echo(fd, b"the next one");
        conn::close(fd).expect("ours");
    }
}

/// A client that stands still holds nobody up, and goes on where it was.
#[test]
#[ignore = "needs RDMA devices: make test-rdma"]
fn a_client_that_is_stopped_goes_on() {
    for (subnet, path) in [(97, Path::Rxe(30)), (98, Path::Siw)] {
        let bed = bed(subnet, &[path], "\"rdma\"");
        let mut client = stream(&bed);
        support::programs::kill(client.pid(), libc::SIGSTOP);
        let fd = bed.connect();
        echo(fd, &[7; 100_000]);
        conn::close(fd).expect("ours");
        std::thread::sleep(Duration::from_secs(2));
        support::programs::kill(client.pid(), libc::SIGCONT);
        drop(client.child().stdin.take());
        client.succeed_within(LIMIT);
        assert!(!bed.cluster.log(0).contains("transport=tcp"));
    }
}

/// What was sent before a program ended reaches the server, although nobody closed anything.
#[test]
#[ignore = "needs RDMA devices: make test-rdma"]
fn what_a_program_sent_before_it_ended_is_delivered() {
    use std::io::Read;
    const BYTES: usize = 120_000; // nearly what a ring holds
    for (subnet, path) in [(104, Path::Rxe(30)), (105, Path::Siw)] {
        let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut plan = Plan::new(subnet, server.local_addr().expect("bound"));
        plan.rdma = vec![path.addr()];
        // The program never comes back: its SQL connection need not wait for it.
        plan.node_lines = "limits.resume_ms = 1000\n".into();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for client in server.incoming() {
                let tell = tell.clone();
                std::thread::spawn(move || {
                    let mut all = Vec::new();
                    let _ = client.expect("a connection").read_to_end(&mut all);
                    // A health check sends nothing.
                    if !all.is_empty() {
                        let _ = tell.send(all.len());
                    }
                });
            }
        });
        let cluster = Cluster::start(plan);
        let config = cluster.client_toml("leave.toml", "", "transports = [\"rdma\"]");
        let program = Program::build("leave", How::Plain);
        for _ in 0..5 {
            let mut command = program.command(&config);
            run_well(LIMIT, command.args(["echo.test", &BYTES.to_string()]));
            let got = told.recv_timeout(support::PATIENCE);
            assert_eq!(got, Ok(BYTES), "{path:?}\n{}", cluster.log(0));
        }
        assert!(!cluster.log(0).contains("transport=tcp"));
    }
}

/// A node whose daemon is killed, or stands still, is lost: the stream, which may not move, ends with a reset, and no other way.
#[test]
#[ignore = "needs RDMA devices: make test-rdma"]
fn a_node_that_is_killed_or_stopped_is_lost() {
    for (subnet, path, signal) in [
        (99, Path::Rxe(30), libc::SIGKILL),
        (100, Path::Siw, libc::SIGKILL),
        (101, Path::Rxe(30), libc::SIGSTOP),
        (102, Path::Siw, libc::SIGSTOP),
    ] {
        let mut bed = bed(subnet, &[path], "\"rdma\"");
        let text = std::fs::read_to_string(&bed.config).expect("the test's own");
        let soon = text.replace("probes_lost = 100", "probes_lost = 12");
        std::fs::write(&bed.config, soon).expect("the test's own");
        let fd = bed.connect();
        echo(fd, b"before");
        let daemon = bed.cluster.node(0).pid();
        support::programs::kill(daemon, signal);
        let lost = conn::find(fd).expect("ours").recv(&mut [0; 1], 0);
        let errno = lost.expect_err("nobody is there").errno();
        assert_eq!(errno, libc::ECONNRESET, "{path:?} signal {signal}");
        conn::close(fd).expect("ours");
        wait_for("the queue pair to go", || {
            rdma::queue_pairs_of(std::process::id())
                .is_empty()
                .then_some(())
        });
        if signal == libc::SIGSTOP {
            support::programs::kill(daemon, libc::SIGCONT);
        }
    }
}

/// Two nodes, each in a network namespace with a soft-iWARP device of its own, and the client in a third: nothing of it is one
/// machine talking to itself.
#[test]
#[ignore = "needs RDMA devices: make test-rdma"]
fn nodes_in_network_namespaces_of_their_own() {
    for n in [1, 2] {
        let inside = format!("ip -n via{n}");
        for line in [
            format!("ip netns add via{n}"),
            format!("ip link add viap{n} type veth peer name viav{n} netns via{n}"),
            format!("ip addr add 10.77.1{n}.1/24 dev viap{n}"),
            format!("ip link set viap{n} up"),
            format!("{inside} addr add 10.77.1{n}.11/24 dev viav{n}"),
            format!("{inside} link set viav{n} up"),
            format!("{inside} link set lo up"),
            format!("{inside} route add default via 10.77.1{n}.1"),
            format!("rdma link add siwp{n} type siw netdev viap{n}"),
            format!("ip netns exec via{n} rdma link add siwv{n} type siw netdev viav{n}"),
        ] {
            run(&line);
        }
    }
    // The nodes watch each other through here.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("root in the virtual machine");
    let server = EchoServer::start("10.77.11.1:0", "");
    let mut plan = Plan::new(103, server.addr());
    plan.lost_after = 12;
    let hosts = [[10, 77, 11, 11], [10, 77, 12, 11]].map(std::net::Ipv4Addr::from);
    plan.separate = Some(support::cluster::Separate {
        hosts,
        netns: ["via1", "via2"],
    });
    let mut cluster = Cluster::start(plan);
    let inside = "transports = [\"rdma\"]\nraw_failover = \"continue\"";
    let config = cluster.client_toml("netns.toml", "deadline_ms = 120000", inside);
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let fd = conn::connect("echo.test", &options).expect("node-a is there");
    patiently(fd);
    echo(fd, &[1; 200_000]);
    assert_eq!(carrier().as_deref(), Some("siwp1"));
    assert_eq!(transport(fd), Some(Transport::Rdma));
    // The second node takes over, and the stream with it.
    cluster.kill_node(0);
    wait_for("the second node", || {
        let info = conn::find(fd).expect("ours").info();
        (info.node == "node-b" && info.phase == conn::Phase::Established).then_some(())
    });
    echo(fd, &[2; 200_000]);
    assert_eq!(carrier().as_deref(), Some("siwp2"));
    conn::close(fd).expect("ours");
    drop(cluster);
    run("ip netns del via1");
    run("ip netns del via2");
}
