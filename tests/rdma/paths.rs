//! The paths to one node: a queue pair that breaks while the node lives is resumed over another path of the answer with exactly
//! the missing bytes, and the better path is taken again.

use super::*;
use support::programs::Background;

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
    // A look at the path has a queue pair too: it is the connection that must have come over.
    wait_for("the return to the best path", || {
        (transport(fd) == Some(Transport::Rdma)).then_some(())
    });
    assert_eq!(carrier(), Some(first.device()));
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
    patiently(fd);
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

/// So does who has sent as many messages as the node has room for, and can send none to find out.
#[test]
#[ignore = "needs RDMA devices: make test-rdma"]
fn who_has_no_credit_is_carried_on_too() {
    let mut bed = bed(106, &[Path::Rxe(28)], "\"rdma\", \"tcp\"");
    let fd = bed.connect();
    echo(fd, b"before");
    // Nothing is taken any more, and what was sent arrives all the same.
    bed.cluster.node(0).freeze();
    let conn = conn::find(fd).expect("ours");
    for n in 0..200 {
        let sent = conn.send(&[IoSlice::new(&[n])], 0);
        assert_eq!(sent.expect("there is room in the ring"), 1);
    }
    Path::Rxe(28).take_down();
    bed.cluster.node(0).thaw();
    let mut back = [0; 200];
    let mut got = 0;
    while got < back.len() {
        got += conn.recv(&mut back[got..], 0).expect("it was carried on");
    }
    assert!((0..200).eq(back), "other bytes came back");
    assert_eq!(transport(fd), Some(Transport::Tcp));
    conn::close(fd).expect("ours");
}

/// What the program's library decided.
struct ShownIfItFails(PathBuf);

impl Drop for ShownIfItFails {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = std::fs::read_to_string(&self.0);
            eprintln!("--- {}\n{}", self.0.display(), text.unwrap_or_default());
        }
    }
}

/// A stream with a checksum, cut again and again under a C program: nothing missing, nothing twice, and RDMA alone carries it.
///
/// The stream goes on until each cut has been survived, however long that takes.
fn cut_stream(subnet: u8, paths: &[Path], how: How) {
    const BYTES: u64 = 32 << 20;
    let bed = bed(subnet, paths, "\"rdma\"");
    let program = Program::build("stream", how);
    let out = bed.cluster.dir().join("stream.out");
    let log = ShownIfItFails(bed.cluster.dir().join("stream.log"));
    let mut command = program.command(&bed.config);
    let file = std::fs::File::create(&out).expect("the scratch directory can be written");
    command
        .args(["echo.test", &BYTES.to_string(), "on"])
        .env("TEST_SECONDS", "280")
        .env("VIANET_DEBUG", &log.0)
        .stdin(std::process::Stdio::piped())
        .stdout(file.try_clone().expect("a copy"))
        .stderr(file);
    let mut running = Background::start(&mut command);
    let said = || std::fs::read_to_string(&out).unwrap_or_default();
    let happened = |what: &str| bed.cluster.log(0).matches(what).count();
    wait_for("the channel", || {
        (happened("channel-open") == 1).then_some(())
    });
    // The one path again and again, or each of several; the last one must do.
    let one = [paths[0]; 5];
    let cuts = match paths.len() {
        1 => &one[..],
        n => &paths[..n - 1],
    };
    let mut removed = Vec::new();
    for (n, path) in cuts.iter().enumerate() {
        wait_for("the stream to be carried on", || {
            assert!(
                running.child().try_wait().is_ok_and(|end| end.is_none()),
                "{}",
                said()
            );
            (happened("channel-resumed") == n).then_some(())
        });
        // In mid-stream, and not always at the same place.
        std::thread::sleep(Duration::from_millis(200 + 70 * n as u64));
        match path {
            Path::Rxe(n) if n % 2 == 0 => removed.push(path.remove()),
            _ => path.take_down(),
        }
        if paths.len() == 1 {
            std::thread::sleep(Duration::from_millis(300));
            path.bring_up();
        }
    }
    wait_for("the last resumption", || {
        (happened("channel-resumed") == cuts.len()).then_some(())
    });
    drop(running.child().stdin.take());
    running.succeed_within(LIMIT);
    let (text, log) = (said(), bed.cluster.log(0));
    assert!(
        text.contains(&format!("resumed {} times", cuts.len())) || how == How::Preloaded,
        "{text}"
    );
    assert!(text.contains("there and back"), "{text}");
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
