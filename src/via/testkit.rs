//! The suite that every provider must pass: two ends in one process, each story told once.
//!
//! A provider's tests implement [`Setup`] and call [`provider_suite!`](crate::provider_suite).

use super::bell::AppBell;
use super::channel::{Received, Wait, Watcher};
use super::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use std::io::IoSlice;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod stories;
pub use stories::*;

/// Nothing here takes longer, on however busy a machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What differs between providers.
pub trait Setup {
    /// The provider.
    fn provider(&self) -> Box<dyn Provider>;
    /// Where its node listens.
    fn listen(&self) -> ListenConfig;
    /// Where a client finds this listener.
    fn endpoint(&self, listener: &dyn Listener) -> Endpoint;
}

/// One test per story, each with a setup of its own; all with the attribute that is given in front.
#[macro_export]
macro_rules! provider_suite {
    (@stories $attribute:tt $setup:expr; $($story:ident),* $(,)?) => {
        $($crate::provider_suite!(@story $attribute $setup; $story);)*
    };
    (@story [$($attribute:meta)?] $setup:expr; $story:ident) => {
        #[test]
        $(#[$attribute])?
        fn $story() {
            $crate::via::testkit::$story(&$setup);
        }
    };
    (@all $attribute:tt $setup:expr) => {
        $crate::provider_suite!(@stories $attribute $setup;
            accepts_and_echoes, words_pass_the_stream, rejects_for_each_reason, refuses_a_wrong_node, signs_its_accepts,
            streams_blocking, streams_by_poll, pushes_back, an_exact_fit_is_not_writable, half_closes,
            ends_for_each_reason, reports_a_hang_up, keeps_what_was_accepted, resumes_in_mid_stream, limits_channels_per_peer,
            kick_ends_a_wait, time_out_ends_a_wait, a_bypassing_reader_reads_true_bytes,
        );
    };
    (#[$attribute:meta] $setup:expr) => {
        $crate::provider_suite!(@all [$attribute] $setup);
    };
    ($setup:expr) => {
        $crate::provider_suite!(@all [] $setup);
    };
}

/// A listening node and what a client needs to find it.
pub struct Node {
    /// The listener.
    pub listener: Box<dyn Listener>,
    provider: Box<dyn Provider>,
    endpoint: Endpoint,
    config: ListenConfig,
}

/// The two ends of a channel, and the application's descriptor.
pub struct Pair {
    /// The client's end.
    pub client: Arc<Channel>,
    /// The node's end.
    pub node: Arc<Channel>,
    /// The application's descriptor.
    pub app: OwnedFd,
    /// Its bell.
    pub bell: Arc<AppBell>,
}

impl Node {
    /// Listens as `setup` says.
    pub fn start(setup: &dyn Setup) -> Self {
        let config = setup.listen();
        let provider = setup.provider();
        let listener = provider.listen(&config).expect("listens");
        let endpoint = setup.endpoint(&*listener);
        Self {
            listener,
            provider,
            endpoint,
            config,
        }
    }

    /// A request for the name `sales`.
    pub fn request(&self, bell: Option<Arc<AppBell>>) -> ConnectRequest {
        ConnectRequest {
            server: "sales".into(),
            node: self.config.node.clone(),
            endpoint: self.endpoint,
            min_generation: 5,
            patient: false,
            warm: false,
            pinned: self.config.signer.as_ref().map(|key| key.public()),
            tls: crate::via::Tls::Auto,
            shm_dir: self.config.shm_dir.clone(),
            ring_bytes: 65_536,
            bell,
            resume: None,
            nonce: None,
        }
    }

    /// Connects; `answer` is the node's word about the request.
    pub fn connect(
        &mut self,
        request: ConnectRequest,
        mut answer: impl FnMut(Box<dyn Incoming>) -> Option<Channel>,
    ) -> (Result<Channel, ConnectError>, Option<Channel>) {
        let start = Instant::now();
        let mut connecting = match self.provider.connect(request) {
            Ok(connecting) => connecting,
            Err(e) => return (Err(e), None),
        };
        let mut node = None;
        loop {
            if let Some(incoming) = self.listener.poll().expect("the listener works") {
                node = answer(incoming);
            }
            if let Poll::Ready(result) = connecting.advance() {
                return (result, node);
            }
            assert!(
                start.elapsed() < LIMIT,
                "the connect does not come to an end"
            );
            let interest = connecting.interest();
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, interest.read);
            flags.set(PollFlags::OUT, interest.write);
            let mut fds = [
                PollFd::from_borrowed_fd(connecting.wait_fd(), flags),
                PollFd::from_borrowed_fd(self.listener.wait_fd(), PollFlags::IN),
            ];
            poll(&mut fds, Some(&millis(20))).expect("poll");
        }
    }

    /// A channel that stands, both ends active.
    pub fn pair(&mut self) -> Pair {
        let (app, bell) = AppBell::pair().expect("a pair");
        let bell = Arc::new(bell);
        let request = self.request(Some(Arc::clone(&bell)));
        let (client, node) = self.connect(request, |incoming| {
            Some(incoming.accept(accept(), None).expect("accepts"))
        });
        let pair = Pair {
            client: Arc::new(client.expect("connects")),
            node: Arc::new(node.expect("was accepted")),
            app,
            bell,
        };
        pair.node.activate();
        pair.client.activate();
        pair
    }
}

/// What the node says in these stories.
pub fn accept() -> Accept {
    Accept {
        node: "node-a".into(),
        generation: 7,
        cluster_id: [3; 16],
        channel_id: 99,
        resume_secret: [4; 32],
        authentic: false,
    }
}

/// Blocks, for at most the tests' limit.
pub fn patient() -> Wait {
    Wait::Until {
        spin: Duration::from_micros(50),
        timeout: Some(LIMIT),
    }
}

/// Milliseconds as the kernel wants them.
pub fn millis(ms: i64) -> Timespec {
    Timespec {
        tv_sec: ms / 1000,
        tv_nsec: ms % 1000 * 1_000_000,
    }
}

/// Byte `n` of the stream that a seed stands for.
pub fn byte(seed: u64, n: u64) -> u8 {
    (n.wrapping_mul(31)
        .wrapping_add(n >> 8)
        .wrapping_add(n >> 16)
        .wrapping_add(seed)) as u8
}

/// `len` bytes of the stream from `from` on.
pub fn bytes(seed: u64, from: u64, len: usize) -> Vec<u8> {
    (from..from + len as u64).map(|n| byte(seed, n)).collect()
}

/// Small random numbers, the same ones for the same seed.
pub struct Dice(pub u64);

impl Dice {
    /// From 0 to below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// A size from 1 to `most`: mostly small, sometimes larger than the ring.
    pub fn size(&mut self, most: u64) -> u64 {
        let below = if self.below(4) == 0 { 90_000 } else { 700 };
        (1 + self.below(below)).min(most)
    }
}

/// Sends bytes `from..to` of stream `seed` in random pieces, blocking.
pub fn send_stream(channel: &Channel, seed: u64, from: u64, to: u64) {
    let mut dice = Dice(seed | 1);
    let mut at = from;
    while at < to {
        let n = dice.size(to - at);
        let piece = bytes(seed, at, n as usize);
        let (a, b) = piece.split_at(dice.below(n + 1) as usize);
        let sent = channel.send(&[IoSlice::new(a), IoSlice::new(b)], patient());
        assert_eq!(sent, Ok(piece.len()), "at {at}");
        at += n;
    }
}

/// Receives bytes `from..to` of stream `seed` in random pieces, blocking.
pub fn receive_stream(channel: &Channel, seed: u64, from: u64, to: u64) {
    let mut dice = Dice(seed | 1 << 40);
    let mut buffer = vec![0; 90_000];
    let mut at = from;
    while at < to {
        let n = dice.size(to - at) as usize;
        match channel.recv(&mut buffer[..n], patient()) {
            Ok(Received::Bytes(n)) => {
                check(&buffer[..n], seed, at);
                at += n as u64;
            }
            Ok(Received::Interrupted) => {}
            other => panic!("{other:?} at {at}"),
        }
    }
}

/// The bytes are those of the stream.
pub fn check(got: &[u8], seed: u64, at: u64) {
    for (i, b) in got.iter().enumerate() {
        assert_eq!(
            *b,
            byte(seed, at + i as u64),
            "byte {} of stream {seed}",
            at + i as u64
        );
    }
}

/// Plays the client's I/O thread (or the node's loop) for channels whose owner does not wait inside.
pub struct Reactor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Armed(Mutex<Option<Interest>>);

impl Watcher for Armed {
    fn arm(&self, interest: Interest) {
        *self.0.lock().unwrap() = Some(interest);
    }
}

impl Reactor {
    /// Watches these channels one-shot, as [`Watcher`] says.
    pub fn start(channels: Vec<Arc<Channel>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let watched = channels
                .into_iter()
                .map(|channel| {
                    let armed = Arc::new(Armed(Mutex::new(None)));
                    channel.set_watcher(Arc::clone(&armed) as Arc<dyn Watcher>);
                    (channel, armed)
                })
                .collect::<Vec<_>>();
            while !stopped.load(Ordering::Relaxed) {
                for (channel, armed) in &watched {
                    let shares = channel.wire.peer_bell().is_some();
                    let interest = match shares {
                        true => Some(channel.wire.interest()),
                        false => *armed.0.lock().unwrap(),
                    };
                    if let Some(interest) = interest
                        && ready(channel.wire.wait_fd(), interest, 0)
                    {
                        *armed.0.lock().unwrap() = None;
                        let _ = channel.drive();
                    }
                    if channel.wants_tick() {
                        channel.tick();
                    }
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ready(fd: BorrowedFd<'_>, interest: Interest, ms: i64) -> bool {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, interest.read);
    flags.set(PollFlags::OUT, interest.write);
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    poll(&mut fds, Some(&millis(ms))).is_ok_and(|n| n > 0)
}

/// What the kernel says of the application's descriptor within `ms` milliseconds.
pub fn level(app: &OwnedFd, of: PollFlags, ms: i64) -> PollFlags {
    let mut fds = [PollFd::from_borrowed_fd(app.as_fd(), of)];
    poll(&mut fds, Some(&millis(ms))).expect("poll");
    fds[0].revents()
}

/// Waits until `what` is true.
pub fn until(text: &str, mut what: impl FnMut() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < LIMIT, "never: {text}");
        std::thread::sleep(Duration::from_micros(300));
    }
}
