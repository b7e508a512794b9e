//! The files that a lab's programs read: `node.toml` of each node, `client.toml`, the cluster's key.

use super::layout::{CLUSTER, Engine, HTTP_PORT, Lab, NodeName, QUERY_PORT, VIA_PORT};
use super::postgres;
use super::process::write_atomically;
use crate::failure::{Doing, Outcome};
use crate::keygen;
use std::net::SocketAddr;
use vianet::config::Client;
use vianet::resolve::identity::{PublicKey, SecretKey, random_bytes};
use vianet::via::Tls;
use vianet_node::config::{
    Authority, Hooks, Limits, Listen, Node, Peer, Protocol, Server, Tickets, Upstream,
};
use vianet_node::ticket::epochs::LONGEST;

/// Writes all of them; `tickets`: sessions get login tickets.
pub fn write(lab: &Lab, tickets: bool) -> Outcome {
    // Where nobody is asked for a password there is nothing to learn of one.
    let tickets = tickets && !lab.meta.trust;
    let key = SecretKey::generate()?;
    keygen::write_key(&lab.dir.join("cluster.key"), &key)?;
    let id = random_bytes::<16>()?;
    let id: String = id.iter().map(|b| format!("{b:02x}")).collect();
    for node in NodeName::ALL {
        let text = node_toml(lab, node, &id, tickets)?.to_toml();
        write_atomically(&lab.node_dir(node).join("node.toml"), &text)?;
    }
    write_atomically(
        &lab.dir.join("client.toml"),
        &client_toml(lab, &key.public()),
    )
}

fn node_toml(lab: &Lab, node: NodeName, cluster_id: &str, tickets: bool) -> Outcome<Node> {
    let peer = node.other();
    let query = |n| SocketAddr::new(lab.host(n), QUERY_PORT);
    Ok(Node {
        node: node.name().into(),
        cluster: CLUSTER.into(),
        cluster_id: cluster_id.into(),
        key_file: Some(lab.dir.join("cluster.key")),
        state_dir: lab.node_dir(node).join("state"),
        shm_dir: lab.run_dir(),
        http: Some(SocketAddr::new(lab.host(node), HTTP_PORT)),
        control_socket: None,
        listen: Listen {
            query: vec![query(node)],
            via_tcp: vec![SocketAddr::new(lab.host(node), VIA_PORT)],
            via_rdma: lab.meta.rdma.iter().map(|path| path.addr(node)).collect(),
            tls: Tls::Auto,
            shm: true,
            ..Listen::default()
        },
        authority: authority(lab),
        limits: Limits {
            channels_per_peer: (lab.meta.connections as usize)
                .max(Limits::default().channels_per_peer),
            warm_sessions: lab.meta.warm as usize,
            ..Limits::default()
        },
        peers: vec![Peer {
            node: peer.name().into(),
            query: query(peer),
        }],
        servers: (lab.meta.engine.servers().iter())
            .map(|name| server(lab, node, name, tickets))
            .collect::<Outcome<_>>()?,
    })
}

fn authority(lab: &Lab) -> Authority {
    let mut authority = match lab.meta.engine {
        // No database has to be promoted: a takeover may be quick. Half a second is what a busy machine of two
        // processors takes a daemon off for now and then.
        Engine::PostgresShared => Authority::Keepalive {
            interval_ms: 50,
            lost_after: 10,
            start_wait_ms: 1_000,
            retry_ms: 1_000,
        },
        _ => Authority::default(),
    };
    let n = u64::from(lab.meta.patience);
    let Authority::Keepalive {
        interval_ms,
        start_wait_ms,
        retry_ms,
        ..
    } = &mut authority;
    *interval_ms = lab.meta.keepalive_ms.unwrap_or(*interval_ms * n);
    *start_wait_ms *= n;
    *retry_ms *= n;
    authority
}

fn server(lab: &Lab, node: NodeName, name: &str, tickets: bool) -> Outcome<Server> {
    let upstream = lab.upstream(node, name);
    let patience = u64::from(lab.meta.patience);
    let health_timeout_ms = Hooks::default().health_timeout_ms * patience;
    let program = std::env::current_exe().doing(|| "the path of this program")?;
    let hook = |what: &str| {
        let dir = lab.dir.to_string_lossy();
        [
            &*program.to_string_lossy(),
            "lab-hook",
            what,
            "--dir",
            &dir,
            "--node",
            node.name(),
        ]
        .map(str::to_owned)
        .to_vec()
    };
    Ok(Server {
        name: name.into(),
        initial_active: node == NodeName::NodeA,
        upstream: Upstream::Tcp(upstream),
        upstream_source: Some(lab.relay_source(node)),
        protocol: if name == "ledger" {
            Protocol::Raw
        } else {
            Protocol::Postgres
        },
        allow_unauthenticated_upstream: lab.meta.trust,
        allow_plaintext: false,
        allow_unwatched_tls: false,
        version: "15.0".into(),
        advertise_tcp: vec![upstream],
        advertise_dac: Vec::new(),
        advertise_np: None,
        health_interval_ms: 250 * patience,
        health_failures: 3,
        promote_wait_ms: 30_000,
        hooks: match lab.meta.engine {
            Engine::Embedded => Hooks {
                fence: hook("fence"),
                promote: hook("promote"),
                demote: hook("demote"),
                ready: hook("ready"),
                health: hook("health"),
                health_timeout_ms,
                ..Hooks::default()
            },
            // Outside of a switchover a primary is killed by the other node's fence hook.
            Engine::Postgres => Hooks {
                fence: hook("fence"),
                promote: hook("promote"),
                demote: hook("demote"),
                demote_timeout_ms: 60_000,
                ready: hook("ready"),
                health: hook("health"),
                health_timeout_ms,
                ..Hooks::default()
            },
            // The one server is always writable: whether it takes connections is health enough.
            Engine::PostgresShared => Hooks {
                fence: hook("fence"),
                promote: hook("promote"),
                ..Hooks::default()
            },
        },
        tickets: tickets.then(|| Tickets {
            role: "vianet".into(),
            database: "app".into(),
            connect: Some(Upstream::Unix(postgres::socket(lab, node))),
            password_file: None,
            lifetime_s: LONGEST.as_secs(),
        }),
    })
}

fn client_toml(lab: &Lab, key: &PublicKey) -> String {
    let [a, b] = NodeName::ALL.map(|n| lab.host(n));
    let ledger = match lab.meta.engine {
        Engine::Embedded => {
            "\n# Every line of `ledger` stands for itself, so its open connections can go on at the second node.\n\
             [clusters.lab.servers.ledger]\nraw_failover = \"continue\"\n"
        }
        _ => "",
    };
    let (usual, patience) = (Client::default(), u64::from(lab.meta.patience));
    let limits = match patience {
        1 => String::new(),
        n => format!(
            "deadline_ms = {}\nprobe_interval_ms = {}\n",
            usual.deadline_ms * n,
            usual.probe_interval_ms * n
        ),
    };
    let aliases: String = (lab.meta.engine.servers().iter())
        .map(|name| format!("{name} = '{CLUSTER}\\{name}'\n"))
        .collect();
    // On one machine shared memory would always be taken.
    let transports = match lab.meta.rdma.is_empty() {
        true => "",
        false => "transports = [\"rdma\", \"shm\", \"tcp\", \"plain\"]\n",
    };
    let warm = match lab.meta.warm {
        0 => "",
        _ => "warm_sessions = true\n",
    };
    let shm_dir = toml::Value::String(lab.run_dir().to_string_lossy().into_owned());
    format!(
        "# Written by `vianet lab up`. Use it with VIANET_CONFIG.\n\
         shm_dir = {shm_dir}\n{limits}\n\
         [clusters.{CLUSTER}]\n\
         nodes = [\"{a}\", \"{b}\"]\n\
         public_key = \"{}\"\n{transports}{warm}{ledger}\n\
         [aliases]\n{aliases}",
        key.to_hex()
    )
}

/// Makes the password with which a standby copies its primary.
pub fn write_replication_password(lab: &Lab) -> Outcome {
    let key = random_bytes::<16>()?;
    let password: String = key.iter().map(|b| format!("{b:02x}")).collect();
    let path = lab.run_dir().join("replication.password");
    keygen::write_private(&path, &password)
}
