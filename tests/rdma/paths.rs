//! The paths to one node: a queue pair that breaks while the node lives is resumed over another path of the answer with exactly
//! the missing bytes, and the better path is taken again.

use super::*;

/// The second address first; tcp where no device is left; and back to the best at a quiet moment.
#[test]
#[ignore = "needs RDMA devices: make test-rdma"]
fn a_connection_follows_the_paths_and_returns_to_the_best() {
    let (first, second) = (Path::Siw, Path::Rxe(20));
    let bed = bed(90, &[first, second], "\"rdma\", \"tcp\"");
    let fd = bed.connect();
    echo(fd, b"over the first");
    assert_eq!(carrier(), Some(first.device()));
    first.take_down();
    echo(fd, b"over the second");
    assert_eq!(transport(fd), Some(Transport::Rdma), "{}", why(fd));
    assert_eq!(carrier(), Some(second.device()));
    second.take_down();
    echo(fd, b"over tcp");
    assert_eq!(transport(fd), Some(Transport::Tcp));
    assert!(why(fd).starts_with("rdma: "), "{}", why(fd));
    first.bring_up();
    wait_for("the return to the best path", || {
        (carrier() == Some(first.device())).then_some(())
    });
    echo(fd, b"over the first again");
    assert_eq!(
        (transport(fd), why(fd).as_str()),
        (Some(Transport::Rdma), "")
    );
    assert_eq!(
        bed.server.used(),
        1,
        "the SQL server's connection outlives it all"
    );
    conn::close(fd).expect("ours");
}

/// A path that stays dead is looked at, and the connection is none the worse for it.
#[test]
#[ignore = "needs RDMA devices: make test-rdma"]
fn a_path_that_stays_dead_disturbs_nobody() {
    let bed = bed(91, &[Path::Rxe(21)], "\"rdma\", \"tcp\"");
    let fd = bed.connect();
    echo(fd, b"over RDMA");
    Path::Rxe(21).take_down();
    echo(fd, b"over tcp");
    let before = resumptions(fd);
    for _ in 0..100 {
        echo(fd, b"meanwhile");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        (transport(fd), resumptions(fd)),
        (Some(Transport::Tcp), before)
    );
    conn::close(fd).expect("ours");
    drop(bed);
}

/// Who waits for an answer learns of a path that died under the answer, although nothing is sent.
#[test]
#[ignore = "needs RDMA devices: make test-rdma"]
fn who_only_waits_is_carried_on_too() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut plan = Plan::new(92, server.local_addr().expect("bound"));
    plan.rdma = vec![Path::Rxe(22).addr()];
    let cluster = Cluster::start(plan);
    let inside = "transports = [\"rdma\", \"tcp\"]";
    let options = Options {
        config: Some(cluster.client_toml("paths.toml", "", inside)),
        ..Options::default()
    };
    let fd = conn::connect("echo.test", &options).expect("the node is there");
    assert_eq!(transport(fd), Some(Transport::Rdma));
    let sent = conn::find(fd)
        .expect("ours")
        .send(&[IoSlice::new(b"select")], 0);
    assert_eq!(sent.expect("it stands"), 6);
    // Health checks send nothing.
    let mut upstream = loop {
        use std::io::Read;
        let (mut upstream, _) = server.accept().expect("a connection");
        let mut request = [0; 6];
        if upstream.read_exact(&mut request).is_ok() {
            break upstream;
        }
    };
    wait_for("the acknowledgement", || {
        let why = conn::find(fd).expect("ours").info().why_not_movable;
        (why == Some("raw_failover_reset")).then_some(())
    });
    Path::Rxe(22).take_down();
    std::io::Write::write_all(&mut upstream, b"answer").expect("the node takes it");
    let mut back = [0; 6];
    let got = conn::find(fd).expect("ours").recv(&mut back, 0);
    assert_eq!((got.expect("it was carried on"), &back), (6, b"answer"));
    assert_eq!(transport(fd), Some(Transport::Tcp));
    conn::close(fd).expect("ours");
}

/// A stream with a checksum, cut again and again under a C program: nothing missing, nothing twice, and RDMA alone carries it.
///
/// An emulated processor moves 4 to 20 MB/s there and back: 256 MiB last through the cuts, each of which costs up to a second.
fn cut_stream(subnet: u8, paths: &[Path], how: How) {
    const BYTES: u64 = 256 << 20;
    let bed = bed(subnet, paths, "\"rdma\"");
    let program = Program::build("stream", how);
    let mut command = program.command(&bed.config);
    command
        .args(["echo.test", &BYTES.to_string()])
        .env("TEST_SECONDS", "280");
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let paths = paths.to_vec();
    let cutter = std::thread::spawn(move || {
        // The one path again and again, or each of several; the last one must do.
        let one = [paths[0]; 5];
        let cuts = match paths.len() {
            1 => &one[..],
            n => &paths[..n - 1],
        };
        let mut removed = Vec::new();
        for path in cuts {
            if told.recv_timeout(Duration::from_secs(1)).is_ok() {
                break;
            }
            match path {
                Path::Rxe(n) if n % 2 == 0 => removed.push(path.remove()),
                _ => path.take_down(),
            }
            if paths.len() == 1 {
                std::thread::sleep(Duration::from_millis(300));
                path.bring_up();
            }
        }
        removed
    });
    let output = run_within(LIMIT, &mut command);
    let _ = tell.send(());
    let removed = cutter.join().expect("the cutter ends");
    let text = both(&output);
    let log = bed.cluster.log(0);
    assert!(output.status.success(), "{text}\n{log}");
    let resumed = log
        .lines()
        .filter(|l| l.contains("channel-resumed"))
        .count();
    eprintln!("{how:?}: carried on {resumed} times\n{text}");
    assert!(resumed >= 3, "only {resumed}: the test cut nothing\n{text}");
    assert!(!log.contains("transport=tcp"), "{log}");
    assert_eq!(
        bed.server.used(),
        1,
        "the SQL server's connection outlives the cuts"
    );
    // The daemons are the last who have them.
    drop(bed);
    for mut del in removed {
        assert!(del.wait().is_ok_and(|status| status.success()));
    }
}

#[test]
#[ignore = "needs RDMA devices: make test-rdma"]
fn a_stream_over_rxe_survives_cuts() {
    let paths: Vec<_> = (23..28).map(Path::Rxe).collect();
    cut_stream(93, &paths, How::Plain);
}

#[test]
#[ignore = "needs RDMA devices: make test-rdma"]
fn a_stream_over_siw_survives_cuts() {
    cut_stream(94, &[Path::Siw], How::Preloaded);
}
