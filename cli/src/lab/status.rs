//! `vianet lab status`, and what `vianet lab up` prints.

use super::hooks::Fenced;
use super::layout::{CLUSTER, Engine, HTTP_PORT, Lab, NodeName, Part};
use super::process::Life;
use crate::control;
use crate::failure::{Failure, Outcome};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use vianet_node::control::Status;

/// How long a daemon may take to answer.
const LIMIT: Duration = Duration::from_secs(2);

struct NodeState {
    node: NodeName,
    parts: Vec<(Part, Option<i32>, Life)>,
    fenced: Option<Fenced>,
    stale: bool,
    daemon: Option<Status>,
}

impl NodeState {
    fn of(lab: &Lab, node: NodeName) -> Self {
        let part = |part| {
            let process = lab.process(node, part);
            let life = process.map_or(Life::Dead, |p| p.life());
            (part, process.map(|p| p.pid), life)
        };
        // A frozen daemon's socket takes connections and never answers.
        let runs = lab.life(node, Part::Daemon) == Life::Running;
        Self {
            node,
            parts: Part::ALL.map(part).to_vec(),
            fenced: Fenced::of(lab, node),
            stale: lab.stale_file(node).exists(),
            daemon: runs
                .then(|| control::status(&lab.daemon_control(node), LIMIT).ok())
                .flatten(),
        }
    }

    fn role(&self, server: &str) -> (&str, u64) {
        let servers = self.daemon.iter().flat_map(|d| &d.servers);
        servers
            .filter(|s| s.name == server)
            .map(|s| (s.role.as_str(), s.generation))
            .next()
            .unwrap_or(("unknown", 0))
    }

    fn json(&self, lab: &Lab) -> Value {
        let mut value = json!({
            "node": self.node.name(),
            "address": lab.host(self.node),
            "fenced": self.fenced,
            "stale": self.stale,
        });
        for (part, pid, life) in &self.parts {
            value[part.name()] = json!({"state": life_name(*life), "pid": pid});
        }
        let roles = lab.meta.engine.servers().iter().map(|server| {
            let (role, generation) = self.role(server);
            let role = json!({"role": role, "generation": generation});
            ((*server).to_owned(), role)
        });
        value["servers"] = Value::Object(roles.collect());
        value
    }
}

/// Prints the state; fails if some server name has no active node.
pub fn run(lab: &Lab, as_json: bool) -> Outcome {
    let nodes = NodeName::ALL.map(|node| NodeState::of(lab, node));
    let active = |server: &str| nodes.iter().find(|n| n.role(server).0 == "active");
    match as_json {
        true => {
            let names = lab.meta.engine.servers().iter().map(|server| {
                (
                    (*server).to_owned(),
                    json!(active(server).map(|n| n.node.name())),
                )
            });
            let value = json!({
                "cluster": CLUSTER,
                "engine": lab.meta.engine,
                "dir": lab.dir,
                "client_toml": lab.dir.join("client.toml"),
                "pg_extension": lab.meta.pg_extension,
                "up": lab.meta.up && !lab.meta.down,
                "active": Value::Object(names.collect()),
                "nodes": nodes.iter().map(|n| n.json(lab)).collect::<Vec<_>>(),
            });
            println!("{value}");
        }
        false => print(lab, &nodes),
    }
    let orphans: Vec<_> = lab
        .meta
        .engine
        .servers()
        .iter()
        .filter(|s| active(s).is_none())
        .collect();
    match orphans.first() {
        None => Ok(()),
        Some(server) => Err(Failure::failed(format!("no node is active for {server}"))),
    }
}

fn print(lab: &Lab, nodes: &[NodeState]) {
    let state = match (lab.meta.up, lab.meta.down) {
        (_, true) => ", down: only its files are left",
        (false, _) => ", its start did not finish",
        _ => "",
    };
    let extension = match (&lab.meta.pg_extension, lab.meta.engine) {
        (_, Engine::Embedded) => String::new(),
        (Some(version), _) => format!(" with the extension vianet {version}"),
        (None, _) => " without the extension vianet".into(),
    };
    println!(
        "cluster {CLUSTER}, engine {}{extension}, {}{state}",
        lab.meta.engine.name(),
        lab.dir.display()
    );
    print!(
        "{:8} {:12} {:18} {:18}",
        "node", "address", "daemon", "SQL server"
    );
    for server in lab.meta.engine.servers() {
        print!(" {server:10}");
    }
    println!();
    for node in nodes {
        print!(
            "{:8} {:12}",
            node.node.name(),
            lab.host(node.node).to_string()
        );
        for (_, pid, life) in &node.parts {
            let text = match (pid, life) {
                (Some(pid), Life::Running | Life::Frozen) => {
                    format!("{}, pid {pid}", life_name(*life))
                }
                _ => "dead".into(),
            };
            print!(" {text:18}");
        }
        for server in lab.meta.engine.servers() {
            print!(" {:10}", node.role(server).0);
        }
        if let Some(fenced) = &node.fenced {
            print!(" fenced by {} {} s ago", fenced.by, fenced.seconds_ago());
        }
        if node.stale {
            print!(" behind the other: `vianet lab start {}`", node.node.name());
        }
        println!();
    }
}

/// What to do with a new lab.
pub fn print_up(lab: &Lab, as_json: bool) {
    let client = lab.dir.join("client.toml");
    if as_json {
        let value =
            json!({"ok": true, "dir": lab.dir, "client_toml": client, "engine": lab.meta.engine});
        println!("{value}");
        return;
    }
    let [a, b] = NodeName::ALL.map(|n| lab.host(n));
    println!("The cluster `{CLUSTER}` runs: node-a ({a}, active) and node-b ({b}, passive).\n");
    let vianet = own_name();
    let [dir, client] = [&lab.dir, &client].map(|path| for_a_shell(path));
    println!("  export VIANET_CONFIG={client} PGPASSWORD=app");
    println!("  {vianet} resolve sales.lab");
    println!("  {vianet} run -- psql -h sales.lab -U app");
    println!("\nFrom any terminal:\n");
    for (command, what) in [
        ("kill node-a", "lose the active node; node-b takes over"),
        ("status", "who runs, who is active"),
        ("start node-a", "bring it back"),
        ("down", "stop everything and remove the files"),
    ] {
        println!("  {vianet} lab --dir {dir} {command:12} {what}");
    }
    println!("\nWhat the nodes see: http://{a}:{HTTP_PORT}/ and http://{b}:{HTTP_PORT}/");
}

/// A path as it can be pasted into a shell.
fn for_a_shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+:,@%".contains(&b);
    match text.bytes().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// How this program can be called from the present directory.
fn own_name() -> String {
    let own = std::env::current_exe().unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("vianet"))
        .find(|file| file.is_file());
    match found.and_then(|file| file.canonicalize().ok()) {
        Some(file) if file == own => "vianet".into(),
        _ => for_a_shell(&own),
    }
}

fn life_name(life: Life) -> &'static str {
    match life {
        Life::Running => "running",
        Life::Frozen => "frozen",
        Life::Dead => "dead",
    }
}
