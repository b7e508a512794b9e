//! The calls themselves: flags, timeouts, errors.

use super::*;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;
use vianet::conn::How;
use vianet::error::{Error, Kind};

#[test]
fn connects_by_name_and_echoes() {
    let bed = bed(1, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        send_all(fd, b"hello");
        assert_eq!(recv_exactly(fd, 5), b"hello");
        let info = conn::find(fd).unwrap().info();
        assert_eq!(
            (info.transport, info.node.as_str()),
            (Some(transport), "node-a")
        );
        assert_eq!((info.bytes_sent, info.bytes_received), (5, 5));
        let name = conn::find(fd).unwrap().info().name;
        conn::close(fd).unwrap();
        // Another test may have got the number.
        assert!(conn::find(fd).map_or(true, |c| c.info().name != name));
    }
}

#[test]
fn the_best_transport_is_taken_and_the_reason_is_visible() {
    let bed = bed(2, Behaviour::Echo);
    let mut options = bed.options(Transport::Shm);
    options.transports.clear();
    let fd = conn::connect(&bed.name("echo"), &options).unwrap();
    let info = conn::find(fd).unwrap().info();
    assert_eq!(
        (info.transport, info.why_not_better.as_str()),
        (Some(Transport::Shm), "")
    );
    conn::close(fd).unwrap();
    let fd = bed.connect(Transport::Tcp);
    let info = conn::find(fd).unwrap().info();
    assert!(
        info.why_not_better
            .contains("shm: not allowed by the options"),
        "{}",
        info.why_not_better
    );
    conn::close(fd).unwrap();
}

/// Why nothing that is allowed could be used is visible too: a reason for each transport, and where to allow more.
#[test]
fn a_node_that_no_allowed_transport_reaches_says_why() {
    let bed = bed(170, Behaviour::Echo);
    // Beside a pinned key `plain` must be named.
    let config = std::fs::read_to_string(&bed.config).unwrap();
    let config = format!("{config}transports = [\"shm\", \"rdma\", \"tcp\", \"plain\"]\n");
    std::fs::write(&bed.config, &config).unwrap();
    let mut options = bed.options(Transport::Plain);
    options.deadline = Some(Duration::from_millis(1500));
    let connect = |options: &conn::Options| {
        let error = heard_in_time(|| conn::connect(&bed.name("echo"), options).err().unwrap());
        assert_eq!(error.kind(), Kind::Unreachable);
        error.to_string()
    };
    let text = connect(&options);
    for part in ["echo", "plain: not offered by the node", "`transports`"] {
        assert!(text.contains(part), "{text}");
    }
    let (_, shm_dir) = config.split_once("shm_dir = \"").unwrap();
    let shm_dir = shm_dir.split('"').next().unwrap();
    let elsewhere = config.replace(shm_dir, "/nonexistent/run");
    std::fs::write(&bed.config, elsewhere).unwrap();
    options.transports = vec![Transport::Shm];
    let text = connect(&options);
    assert!(text.contains("shm: /nonexistent/run/"), "{text}");
    assert!(text.contains("tcp: not allowed by the options"), "{text}");
}

/// Sets SO_RCVTIMEO; 0 is none.
fn receive_timeout(fd: RawFd, tv_usec: libc::suseconds_t) {
    let timeout = libc::timeval { tv_sec: 0, tv_usec };
    // SAFETY: one valid timeval.
    let set = unsafe {
        let size = size_of_val(&timeout) as u32;
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const timeout).cast(),
            size,
        )
    };
    assert_eq!(set, 0);
}

#[test]
fn flags_and_timeouts_of_one_call() {
    let bed = bed(3, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        let c = conn::find(fd).unwrap();
        let errno = c
            .recv(&mut [0; 4], libc::MSG_DONTWAIT)
            .err()
            .map(|e| e.errno());
        assert_eq!(errno, Some(libc::EAGAIN));
        receive_timeout(fd, 30_000);
        let errno = c.recv(&mut [0; 4], 0).err().map(|e| e.errno());
        assert_eq!(errno, Some(libc::EAGAIN), "SO_RCVTIMEO");
        receive_timeout(fd, 0);
        send_all(fd, b"abcdef");
        wait_for("six bytes", || c.readable() == 6);
        let mut buffer = [0; 8];
        assert_eq!(c.recv(&mut buffer[..3], libc::MSG_PEEK).unwrap(), 3);
        assert_eq!(
            c.recv(&mut buffer, 0).unwrap(),
            6,
            "{transport}: peeking took nothing"
        );
        assert_eq!(&buffer[..6], b"abcdef");
        nonblocking(fd, true);
        nonblocking(fd, false);
        send_all(fd, b"abcd");
        assert_eq!(c.recv(&mut buffer[..4], libc::MSG_WAITALL).unwrap(), 4);
        assert_eq!(c.recv(&mut [], 0).unwrap(), 0);
        assert_eq!(c.send(&[IoSlice::new(b"")], 0).unwrap(), 0);
        assert_eq!(
            c.recv(&mut buffer, libc::MSG_OOB).err().unwrap().errno(),
            libc::EINVAL
        );
        drop(c);
        conn::close(fd).unwrap();
    }
}

/// A receiver that always has to wait asks its descriptor before it looks. The answer is that of the moment.
#[test]
fn a_call_that_used_to_wait_asks_again_how_long_it_may() {
    let bed = bed(235, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        let c = conn::find(fd).unwrap();
        for _ in 0..100 {
            send_all(fd, b"abc");
            assert_eq!(recv_exactly(fd, 3), b"abc");
        }
        let would_block = || {
            let error = c.recv(&mut [0; 4], 0).err().map(|e| e.errno());
            assert_eq!(error, Some(libc::EAGAIN), "{transport}");
        };
        for _ in 0..40 {
            nonblocking(fd, true);
            would_block();
            nonblocking(fd, false);
            receive_timeout(fd, 1000);
            would_block();
            receive_timeout(fd, 0);
        }
        send_all(fd, b"abc");
        assert_eq!(recv_exactly(fd, 3), b"abc");
        drop(c);
        conn::close(fd).unwrap();
    }
}

#[test]
fn half_close_both_ways() {
    let bed = bed(4, Behaviour::Echo);
    for transport in transports() {
        let fd = bed.connect(transport);
        send_all(fd, b"last words");
        let c = conn::find(fd).unwrap();
        c.shutdown(How::Write).unwrap();
        assert_eq!(
            c.send(&[IoSlice::new(b"x")], 0).err().unwrap().errno(),
            libc::EPIPE
        );
        assert_eq!(recv_exactly(fd, 10), b"last words");
        assert_eq!(c.recv(&mut [0; 8], 0).unwrap(), 0);
        drop(c);
        conn::close(fd).unwrap();
    }
}

static CAUGHT: AtomicU32 = AtomicU32::new(0);

extern "C" fn caught(_: libc::c_int) {
    CAUGHT.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn a_signal_handler_interrupts_a_blocking_recv() {
    let bed = bed(5, Behaviour::Echo);
    // SAFETY: the handler only touches an atomic; no SA_RESTART.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = caught as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
    }
    for transport in transports() {
        let fd = bed.connect(transport);
        let before = CAUGHT.load(Ordering::SeqCst);
        // SAFETY: names this thread.
        let me = unsafe { libc::pthread_self() };
        let done = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while done.load(Ordering::SeqCst) == 0 {
                    std::thread::sleep(Duration::from_millis(20));
                    // SAFETY: the thread waits for this one.
                    unsafe { libc::pthread_kill(me, libc::SIGUSR1) };
                }
            });
            let error = conn::find(fd).unwrap().recv(&mut [0; 4], 0).err().unwrap();
            done.store(1, Ordering::SeqCst);
            assert_eq!(error.errno(), libc::EINTR);
        });
        assert!(CAUGHT.load(Ordering::SeqCst) > before);
        conn::close(fd).unwrap();
    }
}

#[test]
fn errors_of_the_table() {
    let bed = bed(6, Behaviour::Echo);
    let options = bed.options(Transport::Tcp);
    let kind = |name: &str| {
        conn::connect(&name.replace("test", &bed.cluster), &options)
            .err()
            .map(|e| e.kind())
    };
    assert_eq!(kind("elsewhere\\echo"), Some(Kind::UnknownCluster));
    assert_eq!(kind("test\\nobody"), Some(Kind::UnknownServer));
    assert_eq!(
        kind(&format!("test\\{}", "x".repeat(300))),
        Some(Kind::NameTooLong)
    );
    assert_eq!(kind("test\\"), Some(Kind::BadArgument));
    let mut nowhere = options.clone();
    nowhere.config = Some("/nonexistent/client.toml".into());
    assert_eq!(
        conn::connect(&bed.name("echo"), &nowhere)
            .err()
            .map(|e| e.kind()),
        Some(Kind::BadConfig)
    );
    assert_eq!(
        conn::find(-1).err().map(|e| e.kind()),
        Some(Kind::BadDescriptor)
    );
    assert_eq!(
        conn::find(1_000_000).err().map(|e| e.kind()),
        Some(Kind::BadDescriptor)
    );
    assert_eq!(conn::find(0).err().map(|e| e.kind()), Some(Kind::NotOurs));
    bed.a.set_role(Role::Passive, 1000);
    let mut hasty = options.clone();
    hasty.deadline = Some(Duration::from_millis(1500));
    let error = heard_in_time(|| conn::connect(&bed.name("echo"), &hasty).err().unwrap());
    assert_eq!(error.kind(), Kind::NobodyActive);
}

#[test]
fn silence_is_told_from_passivity() {
    let bed = bed(8, Behaviour::Echo);
    bed.a.mute(true);
    bed.b.mute(true);
    let mut options = bed.options(Transport::Tcp);
    options.deadline = Some(Duration::from_millis(1500));
    let error = conn::connect(&bed.name("echo"), &options).err().unwrap();
    assert_eq!(error.kind(), Kind::NobodyAnswered);
}

/// The error of a call whose deadline is short: again while the machine stood still for so long that nothing came at all.
fn heard_in_time(call: impl Fn() -> Error) -> Error {
    let end = Instant::now() + PATIENCE;
    loop {
        let error = call();
        if error.kind() != Kind::NobodyAnswered || Instant::now() > end {
            return error;
        }
    }
}

#[test]
fn what_is_not_signed_is_told_from_silence() {
    if node::key().is_some() {
        return; // everything is
    }
    let bed = bed(156, Behaviour::Echo);
    let text = std::fs::read_to_string(&bed.config).unwrap();
    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let text = text.replace(
        "raw_failover",
        &format!("public_key = \"{key}\"\nraw_failover"),
    );
    std::fs::write(&bed.config, text).unwrap();
    // In the first query, between two, and in the second.
    for deadline in [300, 1005, 1400] {
        let mut options = bed.options(Transport::Tcp);
        options.deadline = Some(Duration::from_millis(deadline));
        let connect =
            || heard_in_time(|| conn::connect(&bed.name("echo"), &options).err().unwrap());
        let resolve =
            || heard_in_time(|| conn::resolve(&bed.name("echo"), &options).err().unwrap());
        for error in [connect(), resolve()] {
            assert_eq!(error.kind(), Kind::NotAuthentic, "{deadline} ms: {error}");
            let text = error.to_string();
            let node = bed.a.query.to_string();
            for part in ["echo", &node, "not signed", "public_key"] {
                assert!(text.contains(part), "{deadline} ms: {text}");
            }
        }
    }
}

#[test]
fn resolve_uses_the_cache() {
    let bed = bed(7, Behaviour::Echo);
    let options = bed.options(Transport::Tcp);
    let first = conn::resolve(&bed.name("echo"), &options).unwrap();
    assert!(!first.cached && first.answer.node == "node-a");
    assert!(first.answer.endpoints.len() >= 2, "claim 30");
    assert!(conn::resolve("echo.t7", &options).unwrap().cached);
}

#[test]
fn a_number_closed_behind_our_back_is_forgotten_before_a_stranger_suffers() {
    for transport in transports() {
        let bed = bed(233, Behaviour::Echo);
        let fd = bed.connect(transport);
        let name = conn::find(fd).unwrap().info().name;
        // SAFETY: this test's own number; without the preload library nobody hears of it.
        unsafe { libc::close(fd) };
        wait_for("the number to be forgotten", || {
            conn::lookup(fd).is_none_or(|c| c.info().name != name)
        });
    }
}
