//! What the integration tests share: the built programs, clusters to test against, and taps that see, hold up or cut
//! what travels. Every test binary uses another part of it.
#![allow(dead_code)]

pub mod c;
pub mod cluster;
pub mod echo;
pub mod lab;
pub mod programs;
pub mod rdma;
pub mod sql_browser;
pub mod sqlline;
pub mod story;
pub mod tap;
pub mod tds;
pub mod wire;

use std::time::{Duration, Instant};

/// Longest wait for anything that must happen. It says "never", not "how fast": this machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `is_so` gives something; panics with `what` when [`PATIENCE`] is over.
#[track_caller]
pub fn wait_for<T>(what: &str, mut is_so: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = is_so() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The lab's client configuration, its cluster changed by `change`.
pub fn with_lab_cluster(text: &str, change: impl FnOnce(&mut toml::Table)) -> String {
    let mut table: toml::Table = text.parse().expect("the lab writes TOML");
    let cluster = table["clusters"]["lab"]
        .as_table_mut()
        .expect("the lab's cluster is called lab");
    change(cluster);
    table.to_string()
}

/// The same with another `raw_failover` for all its servers.
pub fn with_raw_failover(text: &str, policy: &str) -> String {
    with_lab_cluster(text, |cluster| {
        cluster.insert("raw_failover".into(), policy.into());
        cluster.remove("servers");
    })
}
