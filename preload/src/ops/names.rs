//! Names: which host names mean a server of ours, and the addresses that stand for them.
//!
//! The configuration and the table of names are one immutable snapshot behind an atomic pointer: `connect` may run in a
//! signal handler (psql cancels from one) and in a child forked while another thread was here, so nobody may wait
//! for a lock. A new name publishes a new snapshot; the old one is leaked, since a reader may hold it: one small table
//! for each *distinct* server name that the process ever asks for.

use crate::init;
use crate::outcome::{Outcome, Why};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};
use vianet::config::Client;
use vianet::log;
use vianet::log::Level;
use vianet::resolve::name::{FakeAddresses, ServerName, is_fake};
use vianet::via::Transport;

/// What the process knows: read once.
enum Known {
    /// There is no configuration, or it cannot be used.
    Nothing,
    /// The configuration, and the addresses of its names and of those seen since.
    Names {
        config: &'static Client,
        addresses: FakeAddresses,
    },
}

static KNOWN: AtomicPtr<Known> = AtomicPtr::new(null_mut());

/// The addresses that stand for the host name `host`, if it is a server name of ours. They are remembered.
pub fn addresses(host: &str) -> Outcome<(Ipv4Addr, Ipv6Addr)> {
    if !init::enabled() {
        return Outcome::PassThrough(Why::Disabled);
    }
    if host.is_empty() || host.parse::<IpAddr>().is_ok() {
        return Outcome::PassThrough(Why::NumericHost);
    }
    loop {
        let (at, known) = known();
        let Known::Names { config, addresses } = known else {
            return Outcome::PassThrough(Why::NoConfiguration);
        };
        let Some(name) = ServerName::from_host(host, config) else {
            return Outcome::PassThrough(Why::OtherName);
        };
        let mut addresses = addresses.clone();
        let found = addresses.addresses(&name);
        if known.name(found.0.into()) == Some(&name) {
            return Outcome::Handled(found);
        }
        log!(
            Level::Debug,
            "preload",
            "{host} is {name}: {} and {}",
            found.0,
            found.1
        );
        let fresh = Box::into_raw(Box::new(Known::Names { config, addresses }));
        if KNOWN
            .compare_exchange(at, fresh, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            return Outcome::Handled(found);
        }
        // SAFETY: the exchange failed, so nobody else has seen it.
        drop(unsafe { Box::from_raw(fresh) });
    }
}

/// The server name (`cluster\server`) that `addr` stands for.
pub fn name_of(addr: IpAddr) -> Outcome<String> {
    if !is_fake(addr) {
        return Outcome::PassThrough(Why::OtherAddress);
    }
    if !init::enabled() {
        return Outcome::PassThrough(Why::Disabled);
    }
    match known().1.name(addr) {
        Some(name) => Outcome::Handled(name.to_string()),
        None => Outcome::PassThrough(Why::NoSuchName),
    }
}

impl Known {
    fn name(&self, addr: IpAddr) -> Option<&ServerName> {
        match self {
            Self::Nothing => None,
            Self::Names { addresses, .. } => addresses.name(addr),
        }
    }
}

/// The snapshot, read from the configuration file at the first call. Two first calls at once both read; one wins.
fn known() -> (*mut Known, &'static Known) {
    let mut at = KNOWN.load(Ordering::Acquire);
    if at.is_null() {
        let fresh = Box::into_raw(Box::new(read()));
        at = match KNOWN.compare_exchange(null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => fresh,
            Err(winner) => {
                // SAFETY: the exchange failed, so nobody else has seen it.
                drop(unsafe { Box::from_raw(fresh) });
                winner
            }
        };
    }
    // SAFETY: a published snapshot is never changed and never freed.
    (at, unsafe { &*at })
}

/// What `vianet run --strict` and `--transports` leave of the transports; empty: as configured. Words that name none are
/// ignored: the command line checked them.
pub fn transports() -> Vec<Transport> {
    let list = std::env::var("VIANET_TRANSPORTS").unwrap_or_default();
    let all = [
        Transport::Shm,
        Transport::Rdma,
        Transport::Tcp,
        Transport::Plain,
    ];
    all.into_iter()
        .filter(|t| list.split(',').any(|word| word == t.name()))
        .collect()
}

fn read() -> Known {
    let Some(path) = Client::find() else {
        return Known::Nothing;
    };
    match Client::load(&path) {
        Ok(config) => Known::Names {
            addresses: FakeAddresses::new(&config),
            config: Box::leak(Box::new(config)),
        },
        Err(err) => {
            log!(Level::Error, "preload", "no name is ours: {err}");
            Known::Nothing
        }
    }
}
