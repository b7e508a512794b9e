//! Channels whose connection is cut in mid-stream and carried on: exactly the missing bytes, both ways.

use super::streams::{recv_exactly, send_all};
use super::*;
use crate::via::channel::Received;
use crate::via::{Broken, EndReason};
use std::io::{IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Forwards connections to the node, and cuts each after a number of bytes, or changes the last of them.
struct Cutter {
    addr: SocketAddr,
    /// Bytes until the next cut, both directions together; `u64::MAX`: none.
    fuse: Arc<AtomicU64>,
}

impl Cutter {
    fn before(node: SocketAddr, how: How) -> Self {
        let listener = TcpListener::bind(v4()).expect("listens");
        let addr = listener.local_addr().expect("an address");
        let fuse = Arc::new(AtomicU64::new(u64::MAX));
        let cutter = Self {
            addr,
            fuse: Arc::clone(&fuse),
        };
        // Ends with the test process; it holds nothing but sockets.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(node)) else {
                    return;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone(), to.try_clone());
                    let (Ok(from), Ok(to)) = (from, to) else {
                        return;
                    };
                    let fuse = Arc::clone(&fuse);
                    std::thread::spawn(move || forward(from, to, &fuse, how));
                }
            }
        });
        cutter
    }

    fn cut_after(&self, bytes: u64) {
        self.fuse.store(bytes, Ordering::SeqCst);
    }
}

/// What becomes of the connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Packets as they are, cut.
    Clear,
    /// By TLS, cut.
    Tls,
    /// By TLS, one byte changed.
    Spoiled,
}

impl How {
    fn node(self) -> Node {
        match self {
            Self::Clear => Node::on(v4()),
            Self::Tls | Self::Spoiled => Node::listen(keyed(v4())),
        }
    }

    fn asks(self, request: ConnectRequest) -> ConnectRequest {
        let pinned = (self != Self::Clear).then(|| key().public());
        ConnectRequest { pinned, ..request }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, fuse: &AtomicU64, how: How) {
    let mut buffer = [0; 4000];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let burn = |left: u64| match left {
            u64::MAX => Some(left),
            left => Some(left.saturating_sub(n as u64)),
        };
        let left = fuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, burn);
        let left = left.unwrap_or(0);
        if how == How::Spoiled && left <= n as u64 {
            if let Some(last) = (left as usize).checked_sub(1) {
                buffer[last] ^= 0x40;
            }
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
            continue;
        }
        let n = n.min(left.try_into().unwrap_or(usize::MAX));
        if to.write_all(&buffer[..n]).is_err() || n as u64 == left {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// A small generator, so that a failure can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn byte(n: u64) -> u8 {
    (n ^ (n >> 8) ^ (n >> 16)) as u8
}

/// One side's end of the two streams: moves bytes over whatever channel stands now.
struct Side {
    channel: Mutex<Arc<Channel>>,
    sent: AtomicU64,
    received: AtomicU64,
    ended: AtomicBool,
}

impl Side {
    fn new(channel: Channel) -> Self {
        channel.activate();
        Self {
            channel: Mutex::new(Arc::new(channel)),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    fn now(&self) -> Arc<Channel> {
        Arc::clone(&self.channel.lock().expect("no panic"))
    }

    fn carry_on(&self, channel: Channel) {
        channel.activate();
        *self.channel.lock().expect("no panic") = Arc::new(channel);
    }

    /// Sends and receives until `total` bytes went each way and the peer acknowledged ours, or the channel breaks.
    fn run(&self, total: u64, random: &mut Random) -> Option<Broken> {
        let channel = self.now();
        let mut buffer = vec![0; 6000];
        let end = Instant::now() + LIMIT;
        let moment = Wait::Until {
            spin: Duration::ZERO,
            timeout: Some(Duration::from_millis(5)),
        };
        loop {
            assert!(Instant::now() < end, "the streams move");
            let sent = self.sent.load(Ordering::SeqCst);
            let n = random.below(6000).min(total - sent);
            let piece: Vec<u8> = (sent..sent + n).map(byte).collect();
            match channel.send(&[IoSlice::new(&piece)], Wait::No) {
                Ok(n) => {
                    self.sent.fetch_add(n as u64, Ordering::SeqCst);
                }
                Err(broken) => return Some(broken),
            }
            match channel.recv(&mut buffer, moment) {
                Ok(Received::Bytes(n)) => {
                    for got in &buffer[..n] {
                        let at = self.received.fetch_add(1, Ordering::SeqCst);
                        assert_eq!(*got, byte(at), "byte {at}");
                    }
                }
                Ok(Received::End) => panic!("an end that nobody sent"),
                Ok(_) => channel.settle(),
                Err(broken) => return Some(broken),
            }
            let all = self.received.load(Ordering::SeqCst) == total && sent == total;
            if all && channel.acked() == total {
                channel.settle();
                self.ended.store(true, Ordering::SeqCst);
                return None;
            }
        }
    }
}

/// Accepts what comes and carries channels on, until it is over for the client: its last acknowledgements may be cut off
/// when this side has everything.
fn serve(node: &mut Node, side: &Side, total: u64, over: &AtomicBool) {
    std::thread::scope(|s| {
        let mut runner = s.spawn(|| side.run(total, &mut Random(99)));
        loop {
            if let Some(incoming) = node.next_within(Duration::from_millis(5)) {
                assert_eq!(incoming.resumes(), Some(77));
                assert!(incoming.proves(&SECRET));
                let old = side.now();
                // The relay lets go of the old channel before it accepts.
                old.fail(Broken::Transport("resumed".into()));
                runner.join().expect("the runner");
                if let Ok(channel) = incoming.accept(accept(), Some(&old)) {
                    side.carry_on(channel);
                }
                runner = s.spawn(|| side.run(total, &mut Random(98)));
            }
            if over.load(Ordering::SeqCst) && runner.is_finished() {
                break;
            }
        }
    });
}

/// Says that it is over, also when a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Streams `total` bytes each way over connections that are cut after `cut` (from a random source) bytes.
fn cut_and_resume(
    how: How,
    seed: u64,
    total: u64,
    ring: u32,
    cut: impl Fn(&mut Random) -> u64,
) -> u32 {
    let mut node = how.node();
    let cutter = Cutter::before(node.addr(), how);
    let ask = || ConnectRequest {
        ring_bytes: ring,
        ..how.asks(request(cutter.addr))
    };
    let (client, server) = beside(ask(), || node.accept());
    let (client, server) = (Side::new(client.expect("accepted")), Side::new(server));
    let mut random = Random(seed);
    let mut cuts = 0;
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| serve(&mut node, &server, total, &over));
        let _over = Over(&over);
        cutter.cut_after(cut(&mut random));
        while let Some(broken) = client.run(total, &mut random) {
            assert!(matches!(broken, Broken::Transport(_)), "{broken:?}");
            cuts += 1;
            loop {
                // The cut may hit the handshake as well: then it is tried again.
                cutter.cut_after(cut(&mut random));
                match connect(how.asks(resume_request(cutter.addr, &client.now()))) {
                    Ok(channel) => break client.carry_on(channel),
                    Err(ConnectError::Failed(_)) => {}
                    // The hello or the key itself may be what was changed.
                    Err(ConnectError::NotAuthentic(_)) if how == How::Spoiled => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
        cutter.cut_after(u64::MAX);
        while !server.ended.load(Ordering::SeqCst) {
            // The last acknowledgement may have been cut off.
            if let Some(Broken::Transport(_)) = client.now().broken()
                && let Ok(channel) = connect(how.asks(resume_request(cutter.addr, &client.now())))
            {
                client.carry_on(channel);
            }
            let _ = client.now().drive();
            client.now().settle();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    cuts
}

#[test]
fn two_hundred_cuts_in_mid_stream() {
    let mut cuts = 0;
    let mut seed = 7;
    while cuts < 200 {
        seed += 1;
        cuts += cut_and_resume(How::Clear, seed, 1 << 19, 1 << 13, |r| {
            400 + r.below(40_000)
        });
    }
}

#[test]
fn cuts_within_the_handshake_and_the_first_packets() {
    cut_and_resume(How::Clear, 3, 1 << 14, 1 << 12, |r| 200 + r.below(1500));
    // A record counts only when it has come whole, and both sides send one of up to 4 KiB again.
    cut_and_resume(How::Tls, 3, 1 << 14, 1 << 12, |r| 600 + r.below(12_000));
}

#[test]
fn two_hundred_cuts_of_encrypted_streams() {
    let mut cuts = 0;
    let mut seed = 7;
    while cuts < 200 {
        seed += 1;
        cuts += cut_and_resume(How::Tls, seed, 1 << 19, 1 << 13, |r| 1400 + r.below(40_000));
    }
}

#[test]
fn a_byte_that_is_changed_on_the_way_is_a_cut() {
    let mut cuts = 0;
    let mut seed = 70;
    while cuts < 100 {
        seed += 1;
        cuts += cut_and_resume(How::Spoiled, seed, 1 << 19, 1 << 13, |r| {
            1400 + r.below(40_000)
        });
    }
}

#[test]
fn the_end_of_a_stream_is_carried_on() {
    let mut node = Node::on(v4());
    let (client, server) = beside(request(node.addr()), || node.accept());
    let (client, server) = (Arc::new(client.expect("accepted")), server);
    send_all(&client, b"question");
    client.shutdown_write().expect("shuts");
    assert_eq!(recv_exactly(&server, 3), b"que");
    send_all(&server, b"answer");
    assert_eq!(recv_exactly(&client, 2), b"an");
    // Only the node's side has heard all of it when the connection goes.
    server.fail(Broken::Transport("cut".into()));
    client.fail(Broken::Transport("cut".into()));
    let (client, server) = beside(resume_request(node.addr(), &client), || {
        node.next()
            .accept(accept(), Some(&server))
            .expect("accepts")
    });
    let client = client.expect("resumed");
    client.activate();
    server.activate();
    let mut buffer = [0; 64];
    assert_eq!(recv_exactly(&server, 5), b"stion");
    assert_eq!(server.recv(&mut buffer, WAIT), Ok(Received::End));
    assert_eq!(recv_exactly(&client, 4), b"swer");
    send_all(&server, b" and more");
    assert_eq!(recv_exactly(&client, 9), b" and more");
    assert_eq!((client.accepted(), client.consumed()), (8, 15));
    server.end(EndReason::Closed);
    let over = Err(Broken::Ended(EndReason::Closed));
    assert_eq!(client.recv(&mut buffer, WAIT), over);
}

#[test]
fn a_stream_that_ends_while_its_connection_is_cut_ends_on_the_next() {
    let mut node = Node::on(v4());
    let (client, server) = beside(request(node.addr()), || node.accept());
    let (client, server) = (Arc::new(client.expect("accepted")), server);
    server.fail(Broken::Transport("cut".into()));
    client.fail(Broken::Transport("cut".into()));
    for side in [&*client, &server] {
        let cut = side.shutdown_write();
        assert!(matches!(cut, Err(Broken::Transport(_))), "{cut:?}");
    }
    let (client, server) = beside(resume_request(node.addr(), &client), || {
        node.next()
            .accept(accept(), Some(&server))
            .expect("accepts")
    });
    let client = client.expect("resumed");
    client.activate();
    server.activate();
    let mut buffer = [0; 64];
    assert_eq!(server.recv(&mut buffer, WAIT), Ok(Received::End));
    assert_eq!(client.recv(&mut buffer, WAIT), Ok(Received::End));
}

#[test]
fn a_stranger_resumes_nothing() {
    let mut node = Node::on(v4());
    let (client, _server) = beside(request(node.addr()), || node.accept());
    let old = Arc::new(client.expect("accepted"));
    let mut forged = resume_request(node.addr(), &old);
    if let Some(resume) = &mut forged.resume {
        resume.secret = [0; 32];
    }
    let (client, ()) = beside(forged, || {
        let incoming = node.next();
        assert_eq!(incoming.resumes(), Some(77));
        assert!(!incoming.proves(&SECRET));
        incoming.reject(RejectReason::NotAuthorised);
    });
    let rejected = Some(ConnectError::Rejected(RejectReason::NotAuthorised));
    assert_eq!(client.err(), rejected);
}

#[test]
fn impossible_offsets_are_refused() {
    // A client that says it received more than the node ever sent.
    let mut node = Node::on(v4());
    let (client, server) = beside(request(node.addr()), || node.accept());
    let (other_client, other_server) = beside(request(node.addr()), || node.accept());
    let (client, _) = (Arc::new(client.expect("accepted")), other_client);
    send_all(&server, b"twelve bytes");
    assert_eq!(recv_exactly(&client, 12), b"twelve bytes");
    let (result, refused) = beside(resume_request(node.addr(), &client), || {
        node.next().accept(accept(), Some(&other_server)).err()
    });
    assert!(refused.expect("refused").to_string().contains("12"));
    assert!(matches!(result.err(), Some(ConnectError::Failed(_))));
}
