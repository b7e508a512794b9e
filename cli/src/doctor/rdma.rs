//! RDMA: libraries, devices of the kernel, device files, what the provider sees, locked memory, round trips.

use super::{Finding, State, addresses, round_trip};
use serde::Serialize;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use vianet::via::rdma::{self, CHANNEL_BYTES, Device};

const SECTION: &str = "rdma";
/// Channels that a process should be able to have.
const FEW: u64 = 16;

/// What the findings say in words, for programs.
#[derive(Serialize)]
pub struct Details {
    devices: Vec<Listed>,
    /// Bytes; `null`: unlimited.
    memlock: Option<u64>,
    /// Locked memory of one channel, bytes.
    channel_bytes: u64,
    round_trips: Vec<RoundTrip>,
}

#[derive(Serialize)]
struct Listed {
    name: String,
    iwarp: bool,
    firmware: String,
    queue_pairs: u32,
    completion_queues: u32,
    regions: u32,
    domains: u32,
    queue_depth: u32,
    ports: Vec<Port>,
}

#[derive(Serialize)]
struct Port {
    number: u8,
    state: &'static str,
    active: bool,
    link: &'static str,
    mtu: u32,
}

#[derive(Serialize)]
struct RoundTrip {
    device: String,
    address: IpAddr,
    /// Median of 64 bytes.
    us: Option<f64>,
    error: Option<String>,
}

/// One line for the list of transports: whether RDMA can be used, or the first thing that stands in the way.
pub fn in_short(section: &str) -> Finding {
    let (findings, _) = basics();
    match findings.into_iter().find(|f| f.state != State::Good) {
        None => Finding::good(
            section,
            "rdma",
            "can be used (`vianet doctor --rdma` tries it)",
        ),
        Some(stop) => Finding {
            section: section.into(),
            says: stop.says,
            subject: "rdma".into(),
            ..stop
        },
    }
}

/// Everything, with a round trip over every address of a device.
pub fn look() -> (Vec<Finding>, Details) {
    let (mut findings, devices) = basics();
    for device in &devices {
        findings.extend(describe(device));
    }
    let mut details = Details {
        devices: devices.iter().map(listed).collect(),
        memlock: memlock(),
        channel_bytes: CHANNEL_BYTES,
        round_trips: Vec::new(),
    };
    if devices.is_empty() {
        return (findings, details);
    }
    match addresses::with_devices() {
        Ok(found) => {
            for device in &devices {
                if !found.iter().any(|(_, of)| *of == device.name) {
                    let says = format!("{}: no address of this machine belongs to it", device.name);
                    findings.push(
                        Finding::absent(SECTION, "round trip", says)
                            .remedy("give its network interface an address, and set it up"),
                    );
                }
            }
            for (address, device) in found {
                let (finding, trip) = try_it(device, address);
                findings.push(finding);
                details.round_trips.push(trip);
            }
        }
        Err(why) => findings.push(Finding::wrong(SECTION, "round trip", why)),
    }
    (findings, details)
}

/// Everything that must be there before a device can be used, one after the other, and the devices that can be.
fn basics() -> (Vec<Finding>, Vec<Device>) {
    let libraries = match rdma::libraries() {
        Ok(()) => Finding::good(SECTION, "libraries", "libibverbs.so.1 and librdmacm.so.1"),
        Err(why) => Finding::absent(SECTION, "libraries", why).remedy(
            "install those of rdma-core (Debian: libibverbs1 ibverbs-providers librdmacm1)",
        ),
    };
    let there = libraries.state == State::Good;
    let kernel = names_in(Path::new("/sys/class/infiniband"));
    let mut findings = vec![libraries, devices_of_kernel(&kernel)];
    if kernel.is_empty() {
        return (findings, Vec::new());
    }
    findings.extend(device_files(Path::new("/dev/infiniband")));
    findings.push(locked_memory());
    let mut usable = Vec::new();
    if there {
        let (found, devices) = provider_devices(&kernel);
        findings.extend(found);
        usable = devices;
    }
    (findings, usable)
}

fn devices_of_kernel(names: &[String]) -> Finding {
    match names {
        [] => Finding::absent(SECTION, "kernel devices", "the kernel has no RDMA device").remedy(
            "load the card's driver; without a card, to try: rdma link add rxe0 type rxe netdev eth0",
        ),
        _ => Finding::good(SECTION, "kernel devices", names.join(", ")),
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The files by which a process reaches the kernel's RDMA: one finding if all can be opened, else one for each that cannot.
fn device_files(dir: &Path) -> Vec<Finding> {
    let mut files: Vec<PathBuf> = names_in(dir)
        .iter()
        .filter(|name| name.starts_with("uverbs"))
        .map(|name| dir.join(name))
        .collect();
    if files.is_empty() {
        files.push(dir.join("uverbs0"));
    }
    files.push(dir.join("rdma_cm"));
    let troubles: Vec<_> = files.iter().filter_map(|file| device_file(file)).collect();
    match troubles.is_empty() {
        true => vec![Finding::good(
            SECTION,
            "device files",
            format!("{} can be opened", dir.display()),
        )],
        false => troubles,
    }
}

fn device_file(path: &Path) -> Option<Finding> {
    let error = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .err()?;
    let finding = Finding::wrong(
        SECTION,
        "device files",
        format!("{}: {error}", path.display()),
    );
    Some(match error.kind() {
        ErrorKind::NotFound => finding.remedy("modprobe ib_uverbs rdma_ucm"),
        ErrorKind::PermissionDenied => finding.remedy(
            "give the user read and write permission for it (a udev rule: mode 0666, or a group)",
        ),
        _ => finding,
    })
}

/// Bytes that may be locked; `None`: any number.
fn memlock() -> Option<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current?;
    (!privileged()).then_some(limit)
}

/// CAP_IPC_LOCK, which the limit does not hold for.
fn privileged() -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let set = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    set.is_some_and(|set| set & CAP_IPC_LOCK != 0)
}

fn locked_memory() -> Finding {
    memory_finding(memlock())
}

fn memory_finding(limit: Option<u64>) -> Finding {
    let subject = "locked memory";
    let kib = CHANNEL_BYTES / 1024;
    let Some(limit) = limit else {
        return Finding::good(
            SECTION,
            subject,
            format!("unlimited; a channel takes {kib} KiB"),
        );
    };
    let channels = limit / CHANNEL_BYTES;
    let says = format!(
        "limited to {} KiB, enough for {channels} channels of {kib} KiB at a time",
        limit / 1024
    );
    let remedy = "raise the limit: ulimit -l, LimitMEMLOCK= of systemd, memlock in /etc/security/limits.conf";
    match channels {
        0 => Finding::wrong(SECTION, subject, says).remedy(remedy),
        n if n < FEW => Finding::good(SECTION, subject, says).remedy(remedy),
        _ => Finding::good(SECTION, subject, says),
    }
}

/// The devices that libibverbs opens, and why not the others.
fn provider_devices(kernel: &[String]) -> (Vec<Finding>, Vec<Device>) {
    let found = match rdma::devices() {
        Ok(found) => found,
        Err(why) => return (vec![Finding::wrong(SECTION, "devices", why)], Vec::new()),
    };
    let mut findings = Vec::new();
    for name in kernel {
        if !found.iter().any(|(found, _)| found == name) {
            let says = format!("{name}: libibverbs does not know it");
            findings.push(
                Finding::wrong(SECTION, "devices", says)
                    .remedy("install the driver of its kind (Debian: ibverbs-providers)"),
            );
        }
    }
    let mut devices = Vec::new();
    for (name, device) in found {
        match device {
            Ok(device) => devices.push(device),
            Err(why) => {
                let says = format!("{name} cannot be opened: {why}");
                findings.push(Finding::wrong(SECTION, "devices", says));
            }
        }
    }
    if !devices
        .iter()
        .flat_map(|d| &d.ports)
        .any(|port| port.active)
        && findings.is_empty()
    {
        findings.push(
            Finding::absent(SECTION, "devices", "no port is active")
                .remedy("set the network interface up, connect the cable: `rdma link`"),
        );
    }
    (findings, devices)
}

fn describe(device: &Device) -> Vec<Finding> {
    let Device { name, limits, .. } = device;
    let kind = match device.iwarp {
        true => "iWARP, writes are told by sends",
        false => "writes with immediate",
    };
    let says = format!(
        "{name}: {kind}; at most {} queue pairs, {} regions, {} completion queues, {} domains; queues of {}",
        limits.queue_pairs,
        limits.regions,
        limits.completion_queues,
        limits.domains,
        limits.queue_depth
    );
    let mut findings = vec![Finding::good(SECTION, "device", says)];
    for port in &device.ports {
        let says = format!(
            "{name}/{}: {}, {}, packets of {} bytes",
            port.number,
            port.state(),
            link(port.ethernet),
            port.mtu
        );
        findings.push(match port.active {
            true => Finding::good(SECTION, "port", says),
            false => Finding::absent(SECTION, "port", says),
        });
    }
    findings
}

fn link(ethernet: Option<bool>) -> &'static str {
    match ethernet {
        Some(true) => "Ethernet",
        Some(false) => "InfiniBand",
        None => "unspecified link",
    }
}

fn listed(device: &Device) -> Listed {
    let limits = device.limits;
    let ports = device.ports.iter().map(|port| Port {
        number: port.number,
        state: port.state(),
        active: port.active,
        link: link(port.ethernet),
        mtu: port.mtu,
    });
    Listed {
        name: device.name.clone(),
        iwarp: device.iwarp,
        firmware: device.firmware.clone(),
        queue_pairs: limits.queue_pairs,
        completion_queues: limits.completion_queues,
        regions: limits.regions,
        domains: limits.domains,
        queue_depth: limits.queue_depth,
        ports: ports.collect(),
    }
}

fn try_it(device: String, address: IpAddr) -> (Finding, RoundTrip) {
    let tried = round_trip::run(address);
    let us = tried.as_ref().ok().map(|took| took.as_nanos() as f64 / 1e3);
    let finding = match &tried {
        Ok(took) => {
            let says = format!("{device}, {address}: 64 bytes in {took:.1?} (median)");
            Finding::good(SECTION, "round trip", says)
        }
        Err(why) => Finding::wrong(SECTION, "round trip", format!("{device}, {address}: {why}")),
    };
    let trip = RoundTrip {
        device,
        address,
        us,
        error: tried.err(),
    };
    (finding, trip)
}

#[cfg(test)]
mod tests;
