//! A node offers RDMA to a machine that has no library for it, or a wrong one, or none that it may use: the connection
//! takes the next transport, and says why. Each case is a process of its own, since libraries are loaded once.

use std::io::{IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use vianet::conn::{self, Options};
use vianet::resolve::query::Query;
use vianet::resolve::{Answer, Endpoint, Role};
use vianet::via::Transport;

/// Set in the process of a case: what the reason must contain, words with `|` between them.
const CASE: &str = "VIANET_TEST_REASON";

/// A node that offers RDMA and the plain connection of an echo server.
fn node(rdma: SocketAddr) -> SocketAddr {
    let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let plain = echo.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in echo.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        }
    });
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let query = socket.local_addr().unwrap();
    let endpoint = |transport, addr| Endpoint { transport, addr };
    let answer = Answer {
        cluster_id: Some([1; 16]),
        node: "node-a".into(),
        role: Role::Active,
        generation: 1,
        ttl: Duration::from_secs(5),
        endpoints: vec![
            endpoint(Transport::Rdma, rdma),
            endpoint(Transport::Plain, plain),
        ],
        authentic: false,
        from: None,
    };
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            let (n, from) = socket.recv_from(&mut buffer).unwrap();
            if let Ok(asked) = Query::parse(&buffer[..n]) {
                let bytes = asked.answer(&answer, None).unwrap();
                socket.send_to(&bytes, from).unwrap();
            }
        }
    });
    query
}

/// Connects by name, moves some bytes, and gives the reason why it is not a better transport.
fn connect(config: &Path, transports: &[Transport]) -> String {
    let options = Options {
        config: Some(config.into()),
        transports: transports.to_vec(),
        ..Options::default()
    };
    let fd = conn::connect("t\\echo", &options).unwrap();
    let connection = conn::find(fd).unwrap();
    assert_eq!(connection.send(&[IoSlice::new(b"bytes")], 0).unwrap(), 5);
    let mut got = [0; 5];
    let mut have = 0;
    while have < got.len() {
        have += connection.recv(&mut got[have..], 0).unwrap();
    }
    assert_eq!(&got, b"bytes");
    let info = connection.info();
    assert_eq!(info.transport, Some(Transport::Plain));
    drop(connection);
    conn::close(fd).unwrap();
    info.why_not_better
}

fn is_loaded() -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.contains("libibverbs")
}

/// What runs in the process of a case; by itself it does nothing.
#[test]
fn case() {
    let Ok(wanted) = std::env::var(CASE) else {
        return;
    };
    let rdma = std::env::var("RDMA_VM_RXE_ADDR").unwrap_or("192.0.2.1".into());
    let rdma = SocketAddr::new(rdma.parse().unwrap(), 9);
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("client.toml");
    let text = format!("[clusters.t]\nnodes = [\"{}\"]\n", node(rdma));
    std::fs::write(&config, text).unwrap();

    connect(&config, &[Transport::Plain]);
    assert!(!is_loaded(), "loaded although RDMA is not allowed");
    // Twice: the second answer is a remembered one.
    for _ in 0..2 {
        let why = connect(&config, &[Transport::Rdma, Transport::Plain]);
        for word in wanted.split('|') {
            assert!(why.contains(word), "{why:?} does not say {word:?}");
        }
    }
}

/// Runs [`case`] in a process of its own.
fn run(reason: &str, prepare: impl FnOnce(&mut Command)) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "case", "--nocapture"])
        .env(CASE, reason)
        .env_remove("VIANET_CONFIG");
    prepare(&mut command);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}");
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
fn libraries_that_are_empty_are_told_by_what_they_lack() {
    let dir = tempfile::tempdir().unwrap();
    for library in ["libibverbs.so.1", "librdmacm.so.1"] {
        let made = Command::new("cc")
            .args(["-shared", "-x", "c", "/dev/null", "-o"])
            .arg(dir.path().join(library))
            .status()
            .unwrap();
        assert!(made.success());
    }
    run("rdma|libibverbs.so.1|ibv_", |command| {
        command.env("LD_LIBRARY_PATH", dir.path());
    });
}

#[test]
fn a_file_that_is_no_library_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("libibverbs.so.1"), "not a library").unwrap();
    run("rdma|libibverbs.so.1", |command| {
        command.env("LD_LIBRARY_PATH", dir.path());
    });
}

/// The machine as it is: nothing, or libraries without a device that leads to the address.
#[test]
fn without_a_device_there_is_a_reason() {
    run("rdma", |_| {});
}

/// As a user that may not open the device files.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn rdma_device_files_that_may_not_be_opened_are_a_reason() {
    use std::os::unix::fs::PermissionsExt;
    let files: Vec<_> = std::fs::read_dir("/dev/infiniband")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let mode = |mode| {
        for file in &files {
            std::fs::set_permissions(file, PermissionsExt::from_mode(mode)).unwrap();
        }
    };
    mode(0o600);
    let ran = std::panic::catch_unwind(|| {
        run("rdma|ermission denied", |command| {
            command.uid(65534).gid(65534);
        });
    });
    mode(0o666);
    if let Err(panic) = ran {
        std::panic::resume_unwind(panic);
    }
}

/// With a limit on locked memory that no channel fits in, as a user for whom it holds.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn rdma_locked_memory_that_is_too_little_is_a_reason() {
    run("rdma|ulimit -l", |command| {
        command.uid(65534).gid(65534);
        // SAFETY: one system call, in the child before it becomes the program.
        unsafe {
            command.pre_exec(|| {
                let limit = libc::rlimit {
                    rlim_cur: 8192,
                    rlim_max: 8192,
                };
                libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit);
                Ok(())
            });
        }
    });
}
