//! The metrics, in OpenMetrics text. They are made from one status, so they fit together.

use crate::control::{ServerStatus, Status};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

/// Of the text below.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every role that a node can have.
const ROLES: [&str; 6] = [
    "starting",
    "passive",
    "taking-over",
    "active",
    "handing-over",
    "stopping",
];

type Labels = Vec<(&'static str, String)>;
type Ints = Family<Labels, Gauge>;
type Seconds = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

/// One scrape.
pub fn text(status: &Status) -> String {
    let mut registry = Registry::with_prefix("vianet");
    node(&mut registry, status);
    servers(&mut registry, &status.servers);
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = encode(&mut out, &registry);
    out
}

fn node(registry: &mut Registry, status: &Status) {
    let labels: Labels = vec![
        ("node", status.node.clone()),
        ("cluster", status.cluster.clone()),
        ("version", status.version.clone()),
    ];
    registry.register("node", "This node and its daemon", Info::new(labels));
    let start: Gauge<f64, AtomicU64> = Gauge::default();
    start.set(seconds(status.started_ms));
    registry.register_with_unit(
        "start_time",
        "When the daemon started",
        Unit::Seconds,
        start,
    );
    let (up, heard) = (Ints::default(), Seconds::default());
    for peer in &status.peers {
        let labels: Labels = vec![("peer", peer.node.clone())];
        up.get_or_create(&labels).set((peer.state == "up").into());
        if let Some(ms) = peer.heard_ms_ago {
            heard.get_or_create(&labels).set(seconds(ms));
        }
    }
    registry.register("peer_up", "Whether the other node answers keep-alives", up);
    let help = "Since the last authentic message of the other node";
    registry.register_with_unit("peer_heard_ago", help, Unit::Seconds, heard);
}

fn servers(registry: &mut Registry, servers: &[ServerStatus]) {
    let (role, generation) = (Ints::default(), Ints::default());
    let (since, healthy, sessions) = (Seconds::default(), Ints::default(), Ints::default());
    let (accepted, bytes) = (Counters::default(), Counters::default());
    let (takeovers, last, took) = (Counters::default(), Seconds::default(), Seconds::default());
    for server in servers {
        let labels: Labels = vec![("server", server.name.clone())];
        let with = |key, value: &str| -> Labels {
            vec![("server", server.name.clone()), (key, value.into())]
        };
        for name in ROLES {
            let is = (server.role == name).into();
            role.get_or_create(&with("role", name)).set(is);
        }
        let number = i64::try_from(server.generation).unwrap_or(i64::MAX);
        generation.get_or_create(&labels).set(number);
        since.get_or_create(&labels).set(seconds(server.since_ms));
        if server.health != "unknown" {
            let is = (server.health == "healthy").into();
            healthy.get_or_create(&labels).set(is);
        }
        for transport in ["shm", "tcp"] {
            sessions.get_or_create(&with("transport", transport)).set(0);
        }
        for session in &server.sessions {
            let labels = with("transport", &session.transport);
            sessions.get_or_create(&labels).inc();
        }
        accepted.get_or_create(&labels).inc_by(server.accepted);
        let directions = [
            ("to_server", server.bytes_in),
            ("to_client", server.bytes_out),
        ];
        for (direction, n) in directions {
            bytes.get_or_create(&with("direction", direction)).inc_by(n);
        }
        takeovers.get_or_create(&labels).inc_by(server.takeovers);
        if let Some(change) = server.last_takeover() {
            last.get_or_create(&labels).set(seconds(change.at_ms));
            if let Some(ms) = change.took_ms {
                took.get_or_create(&labels).set(seconds(ms));
            }
        }
    }
    let s = Unit::Seconds;
    let r = registry;
    r.register("role", "1 for the role that this node has for a name", role);
    r.register(
        "generation",
        "Newest generation known of a name",
        generation,
    );
    r.register_with_unit("role_start_time", "When the role began", s.clone(), since);
    let help = "Whether the SQL server passes its check; only where it is checked";
    r.register("server_healthy", help, healthy);
    r.register("sessions", "Channels that are open", sessions);
    r.register("channels_accepted", "Channels accepted", accepted);
    r.register_with_unit("relayed", "Bytes relayed", Unit::Bytes, bytes);
    r.register("takeovers", "How often this node became active", takeovers);
    let help = "When this node became active last";
    r.register_with_unit("last_takeover_time", help, s.clone(), last);
    let help = "From the decision to take over to the first answer, the last time";
    r.register_with_unit("last_takeover_duration", help, s, took);
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
