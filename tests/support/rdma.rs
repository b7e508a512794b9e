//! RDMA devices, where `make test-rdma` runs a test on one of them; and how a test knows that it was the device that carried
//! the bytes.

use super::programs::run_within;
use super::{PATIENCE, wait_for};
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

/// An address of the device under test.
pub fn device() -> Option<IpAddr> {
    addresses().map(|[first, _]| first)
}

/// Two addresses of the device under test, for two nodes.
pub fn addresses() -> Option<[IpAddr; 2]> {
    let first = address_of("VIANET_TEST_RDMA")?;
    Some([first, address_of("VIANET_TEST_RDMA_B").unwrap_or(first)])
}

/// The address in a variable of the environment.
pub fn address_of(name: &str) -> Option<IpAddr> {
    Some(std::env::var(name).ok()?.parse().expect("an address"))
}

/// A queue pair as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePair {
    /// Its device, `rxe0` say.
    pub device: String,
    /// Its number.
    pub number: u32,
    /// The thread that made it.
    pub thread: u32,
}

/// The connected, working queue pairs of all processes.
#[track_caller]
pub fn queue_pairs() -> Vec<QueuePair> {
    // The kernel breaks the list off where a device goes at that moment.
    let text = wait_for("a list of the queue pairs", || {
        let mut list = Command::new("rdma");
        let listed = run_within(PATIENCE, list.args(["resource", "show", "qp"]));
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        listed.status.success().then_some(text)
    });
    text.lines()
        .filter_map(|line| {
            // link rxe0/1 lqpn 17 rqpn 18 type RC state RTS ... pid 351 comm vianetd
            let words: Vec<_> = line.split_whitespace().collect();
            let after = |key| {
                let at = words.iter().position(|word| *word == key)?;
                words.get(at + 1).copied()
            };
            let device = after("link")?.split('/').next()?.to_owned();
            // siw never says which state a queue pair is in.
            let works = after("state")? == "RTS" || device.starts_with("siw");
            (works && after("type")? == "RC").then_some(())?;
            Some(QueuePair {
                device,
                number: after("lqpn")?.parse().ok()?,
                thread: after("pid")?.parse().ok()?,
            })
        })
        .collect()
}

/// Those of one process.
#[track_caller]
pub fn queue_pairs_of(pid: u32) -> Vec<QueuePair> {
    let own = |pair: &QueuePair| Path::new(&format!("/proc/{pid}/task/{}", pair.thread)).exists();
    let mut pairs = queue_pairs();
    pairs.retain(own);
    pairs
}

/// The devices that there are.
pub fn devices() -> impl Iterator<Item = String> {
    let listed = std::fs::read_dir("/sys/class/infiniband");
    let names = listed.into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Packets that a device has sent. `None`: it does not count them (siw).
pub fn packets_sent(device: &str) -> Option<u64> {
    let path = format!("/sys/class/infiniband/{device}/ports/1/hw_counters/sent_pkts");
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
