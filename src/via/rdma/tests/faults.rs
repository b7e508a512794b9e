//! What the machine does to connections, and what it refuses.

use super::*;
use crate::via::Broken;
use crate::via::channel::Wait;
use crate::via::testkit::{Node, Pair, accept, patient, receive_stream, send_stream, until};
use std::io::IoSlice;
use std::process::Command;
use std::sync::atomic::Ordering;

/// Runs a program that must succeed.
fn run(line: &str) {
    let mut words = line.split(' ');
    let program = words.next().expect("a program");
    let status = Command::new(program).args(words).status();
    assert!(status.is_ok_and(|s| s.success()), "{line}");
}

/// A software device of the test's own.
struct Device {
    n: u8,
}

impl Device {
    fn add(n: u8) -> Self {
        Self::add_of("rxe", n)
    }

    fn add_of(kind: &str, n: u8) -> Self {
        run(&format!("ip link add dummy{n} type dummy"));
        run(&format!("ip link set dummy{n} up"));
        run(&format!("ip addr add 10.77.{n}.1/24 dev dummy{n}"));
        run(&format!(
            "rdma link add {kind}{n} type {kind} netdev dummy{n}"
        ));
        Self { n }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Takes the RDMA device with it, if that is still there.
        let _ = Command::new("ip")
            .args(["link", "del", &format!("dummy{}", self.n)])
            .status();
    }
}

impl Setup for Device {
    fn provider(&self) -> Box<dyn Provider> {
        Box::new(Rdma)
    }

    fn listen(&self) -> ListenConfig {
        ListenConfig {
            addrs: vec![SocketAddr::from(([10, 77, self.n, 1], 0))],
            ..On("RDMA_VM_RXE_ADDR").listen()
        }
    }

    fn endpoint(&self, listener: &dyn Listener) -> Endpoint {
        On("RDMA_VM_RXE_ADDR").endpoint(listener)
    }
}

/// Streams in both directions until `fault`; both sides must find out.
fn breaks(pair: &Pair, fault: impl FnOnce()) {
    send_stream(&pair.client, 1, 0, 30_000);
    receive_stream(&pair.node, 1, 0, 30_000);
    let piece = vec![0; 20_000];
    let _ = pair.client.send(&[IoSlice::new(&piece)], Wait::No);
    fault();
    let _ = pair.node.send(&[IoSlice::new(&piece)], Wait::No);
    let _ = pair.client.send(&[IoSlice::new(&piece)], Wait::No);
    for side in [&pair.client, &pair.node] {
        let mut end = None;
        until("the break is noticed", || {
            end = side.drive().err();
            end.is_some()
        });
        assert!(matches!(end, Some(Broken::Transport(_))), "{end:?}");
    }
}

#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn a_device_that_is_taken_away_breaks_its_channels() {
    let device = Device::add(8);
    let mut node = Node::start(&device);
    let pair = node.pair();
    // The kernel waits until nobody has the device any more, and librdmacm has it open as long as the process lives.
    breaks(&pair, || {
        let del = Command::new("rdma").args(["link", "del", "rxe8"]).spawn();
        assert!(del.is_ok());
    });
    drop((pair, node));
    std::mem::forget(device);
    // Others go on.
    Node::start(&On("RDMA_VM_RXE_ADDR")).pair();
}

/// The address of a device that was taken away is listened on again when another device has it.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn a_device_that_comes_back_is_listened_on() {
    let device = Device::add(10);
    let mut node = Node::start(&device);
    let pair = node.pair();
    // It goes when this process goes; see above.
    let del = Command::new("rdma").args(["link", "del", "rxe10"]).spawn();
    assert!(del.is_ok());
    until("the channel breaks", || pair.client.drive().is_err());
    drop(pair);
    run("ip addr del 10.77.10.1/24 dev dummy10");
    run("ip link add dummy11 type dummy");
    run("ip link set dummy11 up");
    run("ip addr add 10.77.10.1/24 dev dummy11");
    run("rdma link add rxe11 type rxe netdev dummy11");
    let mut stands = false;
    until("it listens again", || {
        let (client, served) = node.connect(node.request(None), |incoming| {
            Some(incoming.accept(accept(), None).expect("accepts"))
        });
        stands = client.is_ok() && served.is_some();
        stands
    });
    drop(node);
    std::mem::forget(device);
}

#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn a_port_that_nobody_listens_on_refuses() {
    for on in ["RDMA_VM_RXE_ADDR", "RDMA_VM_SIW_ADDR"] {
        let mut node = Node::start(&On(on));
        let mut request = node.request(None);
        request.endpoint.addr.set_port(9);
        let (client, _) = node.connect(request, |_| None);
        match client.err() {
            Some(ConnectError::Failed(_) | ConnectError::Unavailable(_)) => {}
            other => panic!("{on}: {other:?}"),
        }
        // The right one is none the worse for it.
        node.pair();
    }
}

/// iWARP connects inside the call, for as long as TCP tries; others must not wait for that, nor does the connect.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn an_address_that_swallows_packets_is_given_up() {
    let device = Device::add_of("siw", 40);
    run("ip neigh add 10.77.40.9 lladdr 02:00:00:00:00:09 dev dummy40 nud permanent");
    let mut node = Node::start(&On("RDMA_VM_SIW_ADDR"));
    let mut request = node.request(None);
    request.endpoint.addr = "10.77.40.9:7434".parse().expect("an address");
    let (client, _) = node.connect(request, |_| None);
    match client.err() {
        Some(ConnectError::Failed(text)) => assert!(text.contains("no answer"), "{text}"),
        other => panic!("{other:?}"),
    }
    node.pair();
    // A device of which the kernel is in the middle of a call is taken away by the end of the machine.
    std::mem::forget(device);
}

/// A device that refuses what is to be sent, and goes on receiving, breaks the channel; what came before is received.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn a_device_that_refuses_to_send_breaks_the_channel() {
    use crate::via::rdma::link::REFUSES;
    for on in ["RDMA_VM_RXE_ADDR", "RDMA_VM_SIW_ADDR"] {
        let mut node = Node::start(&On(on));
        let pair = node.pair();
        send_stream(&pair.node, 1, 0, 3000);
        until("it is received", || {
            pair.node.drive().expect("stands");
            pair.client.drive().expect("stands");
            pair.client.readable() == 3000
        });
        REFUSES.store(true, Ordering::Relaxed);
        let _ = pair.client.send(&[IoSlice::new(b"select 1")], Wait::No);
        REFUSES.store(false, Ordering::Relaxed);
        let mut end = None;
        until("the refusal is noticed", || {
            end = pair.client.drive().err();
            end.is_some()
        });
        assert!(
            matches!(&end, Some(Broken::Transport(why)) if why.contains("cannot send")),
            "{end:?}"
        );
        receive_stream(&pair.client, 1, 0, 3000);
    }
}

/// Where no thread can be had to wait until all is delivered, nothing is kept for ever: the peer sees the end.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn without_a_thread_nothing_lingers() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if !is_nobody() {
        let name = "via::rdma::tests::faults::without_a_thread_nothing_lingers";
        return as_nobody(name, "unlimited");
    }
    let mut node = Node::start(&On("RDMA_VM_RXE_ADDR"));
    let pair = node.pair();
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Nproc, none).expect("nobody may have less");
    assert!(std::thread::Builder::new().spawn(|| ()).is_err());
    // More messages than the peer, which takes none, has receives for.
    while pair.node.accepted() < 200 {
        pair.node
            .send(&[IoSlice::new(&[1])], Wait::No)
            .expect("stands");
    }
    drop(pair.node);
    let mut end = None;
    until("the end is seen", || {
        end = pair.client.drive().err();
        end.is_some()
    });
    assert!(matches!(end, Some(Broken::Transport(_))), "{end:?}");
}

/// 1,000 channels at once, both ends here, all of them good for something.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn a_thousand_channels() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let files = Rlimit {
        current: Some(65_536),
        maximum: getrlimit(Resource::Nofile).maximum.map(|n| n.max(65_536)),
    };
    setrlimit(Resource::Nofile, files).expect("root in the virtual machine");
    let mut node = Node::start(&Limited("RDMA_VM_RXE_ADDR", 1000));
    let pairs = (0..1000).map(|_| node.pair()).collect::<Vec<_>>();
    let locked = std::fs::read_to_string("/proc/self/status").expect("a process has one");
    let pinned = locked.lines().find(|l| l.starts_with("VmPin"));
    let kib = pinned.and_then(|line| line.split_whitespace().nth(1)?.parse::<u32>().ok());
    // Each end locks its two rings and 48 KiB for messages, and nothing else.
    let most = 2 * 1000 * (2 * 64 + 48);
    assert!(
        kib.is_some_and(|kib| kib > most / 2 && kib <= most),
        "{pinned:?}, expected at most {most} kB"
    );
    for (n, pair) in pairs.iter().enumerate() {
        send_stream(&pair.client, n as u64, 0, 500);
        receive_stream(&pair.node, n as u64, 0, 500);
        send_stream(&pair.node, n as u64, 0, 500);
        receive_stream(&pair.client, n as u64, 0, 500);
    }
    let over = pairs[0].client.recv(&mut [0; 1], Wait::No);
    assert!(over.is_ok(), "{over:?} after {:?}", patient());
}

/// Runs the test `name` of this program as nobody, with this limit on locked memory (KiB).
fn as_nobody(name: &str, locked: &str) {
    let program = std::env::current_exe().expect("this program");
    let script = format!("ulimit -l {locked}; exec \"$0\" \"$@\"");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args(["--bounding-set=-all", "bash", "-c", &script])
        .arg(program)
        .args(["--exact", name, "--ignored"])
        .env("VIANET_TEST_AS_NOBODY", "1")
        .output()
        .expect("setpriv is there");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

fn why_unavailable() -> String {
    let request = ConnectRequest {
        server: "sales".into(),
        node: "node-a".into(),
        endpoint: Endpoint {
            transport: Transport::Rdma,
            addr: SocketAddr::new(On("RDMA_VM_RXE_ADDR").addr().ip(), 9),
        },
        min_generation: 5,
        patient: false,
        warm: false,
        pinned: None,
        tls: crate::via::Tls::Auto,
        shm_dir: "/nonexistent".into(),
        ring_bytes: 65_536,
        bell: None,
        resume: None,
        nonce: None,
    };
    let mut connecting = match Rdma.connect(request) {
        Ok(connecting) => connecting,
        Err(ConnectError::Unavailable(why)) => return why,
        Err(other) => panic!("{other:?}"),
    };
    let mut why = String::new();
    until("it is over", || match connecting.advance() {
        std::task::Poll::Ready(Err(ConnectError::Unavailable(text))) => {
            why = text;
            true
        }
        std::task::Poll::Ready(other) => panic!("{:?}", other.err()),
        std::task::Poll::Pending => false,
    });
    why
}

fn is_nobody() -> bool {
    std::env::var_os("VIANET_TEST_AS_NOBODY").is_some()
}

#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn too_little_lockable_memory_is_said() {
    if !is_nobody() {
        let name = "via::rdma::tests::faults::too_little_lockable_memory_is_said";
        // Not for the messages; for those, and not for the rings: nobody is asked in vain.
        return ["16", "100"].iter().for_each(|kib| as_nobody(name, kib));
    }
    let why = why_unavailable();
    assert!(why.contains("locked memory"), "{why}");
}

#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn device_files_that_may_not_be_opened_are_said() {
    if !is_nobody() {
        let name = "via::rdma::tests::faults::device_files_that_may_not_be_opened_are_said";
        run("chmod 600 /dev/infiniband/rdma_cm");
        let tried = std::panic::catch_unwind(|| as_nobody(name, "unlimited"));
        run("chmod 666 /dev/infiniband/rdma_cm");
        return assert!(tried.is_ok(), "see above");
    }
    let why = why_unavailable();
    assert!(why.contains("ermission denied"), "{why}");
}

/// A node that does not answer is given up, and at once: iWARP's kernel lets go of such a request only when its own time is over.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn a_node_that_does_not_answer_is_given_up() {
    use crate::via::rdma::cm::{EventChannel, Id};
    use crate::via::rdma::link::Link;
    let library = load::library().expect("is there");
    let requests = EventChannel::new(library).expect("opens");
    let listening = Id::new(&requests).expect("is made");
    listening
        .bind(&On("RDMA_VM_SIW_ADDR").addr())
        .expect("a free port");
    listening.listen(1).expect("listens");
    let node = Node::start(&On("RDMA_VM_SIW_ADDR"));
    let mut request = node.request(None);
    request.endpoint.addr = listening.local_addr().expect("bound");
    let mut connecting = Rdma.connect(request).map_err(drop).expect("begins");
    let mut end = None;
    until("it is given up", || match connecting.advance() {
        std::task::Poll::Ready(done) => {
            end = done.err();
            true
        }
        std::task::Poll::Pending => false,
    });
    assert!(
        matches!(&end, Some(ConnectError::Failed(text)) if text.contains("no answer")),
        "{end:?}"
    );
    drop(connecting);
    // So this comes in time, and is told that nobody waits for it any more.
    let event = requests.next().expect("tells").expect("it was asked");
    let id = Id::requested(&requests, &event).expect("a request");
    let own = EventChannel::new(library).expect("opens");
    id.migrate(&own).expect("moves");
    let epoll = Link::watch(&own).expect("watches");
    let link = Link::new(id, own, epoll).expect("is made");
    link.id().accept(&[]).expect("the request stands");
    until("the end is told", || link.check_events().is_err());
}
