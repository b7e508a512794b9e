//! What really travelled: a capture of the loopback interface, limited to one test subnet.
//!
//! Needs CAP_NET_RAW, which root has.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One datagram or segment, in the order in which the kernel carried them.
#[derive(Clone, Debug)]
pub struct Packet {
    /// When the capture saw it.
    pub at: Instant,
    /// From.
    pub src: SocketAddrV4,
    /// To.
    pub dst: SocketAddrV4,
    /// What.
    pub kind: Kind,
    /// Payload.
    pub data: Vec<u8>,
}

/// Which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UDP.
    Udp,
    /// TCP with sequence number and flags.
    Tcp {
        /// Of the first byte.
        seq: u32,
        /// SYN without ACK: somebody connects.
        syn: bool,
    },
}

/// A running capture.
pub struct Capture {
    packets: Arc<Mutex<Vec<Packet>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Capture {
    /// Captures everything on `lo` from or to `127.0.{subnet}.*`. `None` without the right to.
    pub fn start(subnet: u8) -> Option<Self> {
        let proto = (libc::ETH_P_IP as u16).to_be();
        // SAFETY: a plain system call; the descriptor is checked and owned at once.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
                proto.into(),
            )
        };
        if fd < 0 {
            return None;
        }
        // SAFETY: the descriptor was just made and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let set = |name, value: &[u8]| {
            // SAFETY: the option's value is read within the length that is passed.
            unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    name,
                    value.as_ptr().cast(),
                    value.len() as u32,
                )
            };
        };
        set(libc::SO_RCVBUFFORCE, &(64_i32 << 20).to_ne_bytes());
        // So that the thread sees `stop` soon.
        let mut tick = [0_u8; size_of::<libc::timeval>()];
        tick[8..16].copy_from_slice(&50_000_i64.to_ne_bytes());
        set(libc::SO_RCVTIMEO, &tick);
        let clocks = same_moment();
        // The first question makes the kernel note the times.
        let _ = seen_at(&fd, clocks);

        let packets = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (into, stopped) = (packets.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut buf = vec![0_u8; 70_000];
            // Drains what the kernel holds even when it was told to stop.
            loop {
                match receive(&fd, &mut buf) {
                    Some((len, incoming)) => {
                        // On lo every packet is seen going out and coming in.
                        if incoming && let Some(packet) = parse(&buf[..len], subnet) {
                            let at = seen_at(&fd, clocks).unwrap_or_else(Instant::now);
                            let packet = Packet { at, ..packet };
                            into.lock().unwrap().push(packet);
                        }
                    }
                    None if stopped.load(Ordering::Acquire) => return,
                    None => {}
                }
            }
        });
        Some(Self {
            packets,
            stop,
            thread: Some(thread),
        })
    }

    /// What was seen so far.
    pub fn packets(&self) -> Vec<Packet> {
        self.packets.lock().unwrap().clone()
    }

    /// Everything that was seen.
    pub fn finish(mut self) -> Vec<Packet> {
        self.end();
        std::mem::take(&mut self.packets.lock().unwrap())
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

fn receive(fd: &OwnedFd, buf: &mut [u8]) -> Option<(usize, bool)> {
    // SAFETY: zero is a valid value of this plain C struct.
    let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: buffer and address are valid for the lengths that are passed.
    let got = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            buf.as_mut_ptr().cast(),
            buf.len(),
            0,
            (&raw mut from).cast(),
            &mut len,
        )
    };
    (got >= 0).then_some((got as usize, from.sll_pkttype != libc::PACKET_OUTGOING))
}

/// One moment on both clocks.
fn same_moment() -> (Instant, SystemTime) {
    loop {
        let moment = (Instant::now(), SystemTime::now());
        if moment.0.elapsed() < Duration::from_millis(1) {
            return moment;
        }
    }
}

/// When the kernel saw the packet that was received last: on a busy machine it may have waited here for seconds. `clocks` are
/// the same moment on both.
fn seen_at(fd: &OwnedFd, clocks: (Instant, SystemTime)) -> Option<Instant> {
    /// <linux/sockios.h>
    const SIOCGSTAMPNS_OLD: libc::c_ulong = 0x8907;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the request stores one timespec where its argument points.
    let told = unsafe { libc::ioctl(fd.as_raw_fd(), SIOCGSTAMPNS_OLD, &raw mut time) };
    if told != 0 || time.tv_sec <= 0 {
        return None;
    }
    let time = UNIX_EPOCH + Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
    clocks.0.checked_add(time.duration_since(clocks.1).ok()?)
}

fn parse(ip: &[u8], subnet: u8) -> Option<Packet> {
    let header = usize::from(ip.first()? & 0x0F) * 4;
    let total = usize::from(be16(ip, 2)?).min(ip.len());
    let addr = |at: usize| -> Option<Ipv4Addr> {
        Some(Ipv4Addr::new(
            *ip.get(at)?,
            *ip.get(at + 1)?,
            *ip.get(at + 2)?,
            *ip.get(at + 3)?,
        ))
    };
    let (src, dst) = (addr(12)?, addr(16)?);
    let ours = |a: Ipv4Addr| a.octets()[..3] == [127, 0, subnet];
    if !ours(src) && !ours(dst) {
        return None;
    }
    let body = ip.get(header..total)?;
    let (src_port, dst_port) = (be16(body, 0)?, be16(body, 2)?);
    let (kind, data) = match ip[9] {
        17 => (Kind::Udp, body.get(8..)?),
        6 => {
            let offset = usize::from(body.get(12)? >> 4) * 4;
            let flags = *body.get(13)?;
            let seq = u32::from_be_bytes(body.get(4..8)?.try_into().ok()?);
            let syn = flags & 0x12 == 0x02;
            (Kind::Tcp { seq, syn }, body.get(offset..)?)
        }
        _ => return None,
    };
    Some(Packet {
        at: Instant::now(),
        src: SocketAddrV4::new(src, src_port),
        dst: SocketAddrV4::new(dst, dst_port),
        kind,
        data: data.to_vec(),
    })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The bytes that `src` sent to `dst` on one TCP connection, put in order by sequence number.
pub fn tcp_stream(packets: &[Packet], src: SocketAddrV4, dst: SocketAddrV4) -> Vec<u8> {
    let mut first = None;
    let mut parts = BTreeMap::new();
    for packet in packets.iter().filter(|p| p.src == src && p.dst == dst) {
        if let Kind::Tcp { seq, .. } = packet.kind
            && !packet.data.is_empty()
        {
            let base = *first.get_or_insert(seq);
            // Distances survive the wrap of the 32-bit number.
            parts.insert(seq.wrapping_sub(base) as i32, &packet.data);
        }
    }
    let mut stream = Vec::new();
    let Some(start) = parts.keys().next().copied() else {
        return stream;
    };
    for (at, data) in parts {
        let at = (at - start) as usize;
        // A hole would mean that the capture missed something: what follows it is not a stream.
        if at > stream.len() {
            break;
        }
        let known = stream.len() - at;
        if known < data.len() {
            stream.extend_from_slice(&data[known..]);
        }
    }
    stream
}
