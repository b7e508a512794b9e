//! Taps: forwarders that see what passes, can stop passing it, and can cut it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Forwards datagrams to `target` and the answers back; may be told to swallow both.
pub struct UdpTap {
    addr: SocketAddr,
    shared: Arc<UdpShared>,
}

#[derive(Default)]
struct UdpShared {
    muted: AtomicBool,
    stop: AtomicBool,
    requests: Mutex<Vec<Vec<u8>>>,
    answers: Mutex<Vec<Vec<u8>>>,
}

impl UdpTap {
    /// Listens on `listen` for `target`.
    pub fn start(listen: &str, target: SocketAddr) -> Self {
        let front = UdpSocket::bind(listen).unwrap_or_else(|e| panic!("{listen}: {e}"));
        let addr = front.local_addr().expect("bound");
        front
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("not zero");
        let shared = Arc::new(UdpShared::default());
        let state = shared.clone();
        std::thread::spawn(move || {
            let mut buf = vec![0; 65_536];
            while !state.stop.load(Ordering::Relaxed) {
                let Ok((len, client)) = front.recv_from(&mut buf) else {
                    continue;
                };
                state.requests.lock().unwrap().push(buf[..len].to_vec());
                if state.muted.load(Ordering::Relaxed) {
                    continue;
                }
                // One back socket per request keeps answers with their clients.
                let back = UdpSocket::bind("127.0.0.1:0").expect("a free port");
                let _ = back.set_read_timeout(Some(Duration::from_secs(2)));
                if back.send_to(&buf[..len], target).is_err() {
                    continue;
                }
                let (front, state) = (front.try_clone().expect("a copy"), state.clone());
                std::thread::spawn(move || {
                    let mut buf = vec![0; 65_536];
                    if let Ok(len) = back.recv(&mut buf) {
                        state.answers.lock().unwrap().push(buf[..len].to_vec());
                        if !state.muted.load(Ordering::Relaxed) {
                            let _ = front.send_to(&buf[..len], client);
                        }
                    }
                });
            }
        });
        Self { addr, shared }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on nothing passes, as behind a filter.
    pub fn mute(&self, muted: bool) {
        self.shared.muted.store(muted, Ordering::Relaxed);
    }

    /// Datagrams that clients sent here.
    pub fn requests(&self) -> Vec<Vec<u8>> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Datagrams that came back from the target.
    pub fn answers(&self) -> Vec<Vec<u8>> {
        self.shared.answers.lock().unwrap().clone()
    }
}

impl Drop for UdpTap {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// In an answer of the target, these bytes make a [`TcpTap`] spoil the header before them.
pub const SPOIL: &[u8] = b"spoil this packet";

/// Forwards TCP connections to `target`, and cuts each in the middle after a random number of bytes if told so.
pub struct TcpTap {
    addr: SocketAddr,
    shared: Arc<TcpShared>,
}

struct TcpShared {
    target: SocketAddr,
    stop: AtomicBool,
    /// Mean number of bytes between cuts; 0 never cuts.
    mean: AtomicU64,
    cuts: AtomicU64,
    accepted: AtomicU64,
    /// Connections made before so many swallow everything.
    swallowed: AtomicU64,
    seed: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl TcpTap {
    /// Listens on `listen` for `target`; cuts after `mean_bytes` on average (0: never).
    pub fn start(listen: &str, target: SocketAddr, mean_bytes: u64) -> Self {
        let listener = TcpListener::bind(listen).unwrap_or_else(|e| panic!("{listen}: {e}"));
        let addr = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("a listener can");
        let shared = Arc::new(TcpShared {
            target,
            stop: AtomicBool::new(false),
            mean: AtomicU64::new(mean_bytes),
            cuts: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            swallowed: AtomicU64::new(0),
            seed: AtomicU64::new(0x9E37_79B9_7F4A_7C15),
            open: Mutex::new(Vec::new()),
        });
        let state = shared.clone();
        std::thread::spawn(move || {
            while !state.stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => {
                        state.accepted.fetch_add(1, Ordering::Relaxed);
                        state.clone().carry(client);
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Self { addr, shared }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }

    /// How many connections were made.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Changes the mean number of bytes between cuts; for connections made from now on.
    pub fn cut_every(&self, mean_bytes: u64) {
        self.shared.mean.store(mean_bytes, Ordering::Relaxed);
    }

    /// Nothing passes any more over what is open now, and nobody is told: a filter has forgotten it.
    pub fn swallow(&self) {
        self.shared
            .swallowed
            .store(self.accepted(), Ordering::Relaxed);
    }

    /// Cuts what is open now.
    pub fn cut_now(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
            self.shared.cuts.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for TcpTap {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.cut_now();
    }
}

impl TcpShared {
    /// Uniform between 1 and twice the mean, so that cuts fall anywhere, inside headers too.
    fn budget(&self) -> u64 {
        let mean = self.mean.load(Ordering::Relaxed);
        if mean == 0 {
            return u64::MAX;
        }
        // xorshift; the sequence is the same in every run.
        let mut x = self.seed.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.seed.store(x, Ordering::Relaxed);
        1 + x % (2 * mean)
    }

    fn carry(self: Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(self.target) else {
            return;
        };
        let _ = client.set_nonblocking(false);
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let budget = Arc::new(AtomicU64::new(self.budget()));
        let number = self.accepted.load(Ordering::Relaxed);
        for (mut from, mut to, answers) in [(&client, &server, false), (&server, &client, true)]
            .map(|(a, b, answers)| {
                (
                    a.try_clone().expect("a copy"),
                    b.try_clone().expect("a copy"),
                    answers,
                )
            })
        {
            let (state, budget) = (self.clone(), budget.clone());
            std::thread::spawn(move || {
                let mut buf = vec![0; 65_536];
                loop {
                    let len = match from.read(&mut buf) {
                        Ok(0) => {
                            let _ = to.shutdown(Shutdown::Write);
                            return;
                        }
                        Ok(len) => len,
                        Err(_) => break,
                    };
                    if number <= state.swallowed.load(Ordering::Relaxed) {
                        continue;
                    }
                    if answers && buf[..len].windows(SPOIL.len()).any(|bytes| bytes == SPOIL) {
                        buf[..8].fill(0xff);
                    }
                    let left = budget.load(Ordering::Relaxed);
                    let pass = len.min(left.try_into().unwrap_or(usize::MAX));
                    budget.store(left - pass as u64, Ordering::Relaxed);
                    if to.write_all(&buf[..pass]).is_err() {
                        break;
                    }
                    if pass < len {
                        state.cuts.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                }
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        self.open.lock().unwrap().extend([client, server]);
    }
}
