//! Configuration, kill switch, preload library, and the nodes of every cluster.

use super::Finding;
use crate::status::ask;
use std::path::PathBuf;
use vianet::config::{Client, Cluster};
use vianet::resolve::Role;
use vianet::resolve::name::ServerName;
use vianet::via::Tls;

/// Asked for where no name of a cluster is known: every node answers, if only that it does not know it.
const ANY_SERVER: &str = "vianet-doctor";

/// What a client process on this machine would find; and its configuration, if there is one.
pub fn look(named: Option<PathBuf>) -> (Vec<Finding>, Option<Client>) {
    let (found, config) = configuration(named);
    let mut findings = vec![found, switch(), preload()];
    for (name, cluster) in config.iter().flat_map(|config| &config.clusters) {
        let section = format!("cluster {name}");
        findings.push(key(&section, cluster));
        let server = config.as_ref().and_then(|c| a_server(name, cluster, c));
        let server = server.as_deref().unwrap_or(ANY_SERVER);
        findings.extend(nodes(&section, name, cluster, server));
    }
    (findings, config)
}

fn configuration(named: Option<PathBuf>) -> (Finding, Option<Client>) {
    let (section, subject) = ("client", "configuration");
    let how = match &named {
        Some(_) => "--config",
        None if vianet::config::named_by_environment().is_some() => "VIANET_CONFIG",
        None => "found",
    };
    let Some(path) = named.or_else(Client::find) else {
        let absent = Finding::absent(section, subject, "there is no client.toml");
        return (
            absent.remedy(
                "write one (man vianet-client.toml) to ~/.config/vianet/ or /etc/vianet/, or name it by VIANET_CONFIG",
            ),
            None,
        );
    };
    match Client::load(&path) {
        Ok(config) => {
            let says = format!(
                "{} ({how}): clusters {}, aliases {}",
                path.display(),
                config.clusters.len(),
                config.aliases.len()
            );
            (Finding::good(section, subject, says), Some(config))
        }
        Err(e) => {
            let wrong = Finding::wrong(section, subject, format!("({how}) {e}"));
            (wrong.remedy("mend that file: man vianet-client.toml"), None)
        }
    }
}

fn switch() -> Finding {
    let (section, subject) = ("client", "kill switch");
    match std::env::var_os("VIANET_DISABLE") {
        Some(value) if !value.is_empty() && value != "0" => Finding::absent(
            section,
            subject,
            "VIANET_DISABLE is set: the preload library does nothing",
        )
        .remedy("unset VIANET_DISABLE"),
        _ => Finding::good(section, subject, "off (VIANET_DISABLE)"),
    }
}

fn preload() -> Finding {
    let (section, subject) = ("client", "preload library");
    match crate::run::library() {
        Ok(path) => Finding::good(section, subject, path.display().to_string()),
        Err(failure) => Finding::wrong(section, subject, failure.to_string()),
    }
}

fn key(section: &str, cluster: &Cluster) -> Finding {
    let subject = "public key";
    match cluster.public_key {
        // A bad one is found where the file is read.
        Some(_) => {
            let tcp = match cluster.tls {
                Tls::Off => "tcp is not encrypted (tls = \"off\")",
                Tls::Auto => "tcp is encrypted",
                Tls::Require => "nothing leaves this host but over encrypted tcp",
            };
            let says = format!("pinned: unsigned answers are refused, {tcp}");
            match cluster.tls {
                Tls::Off => Finding::absent(section, subject, says)
                    .remedy("remove tls = \"off\" from client.toml once all nodes encrypt"),
                Tls::Auto | Tls::Require => Finding::good(section, subject, says),
            }
        }
        None => Finding::absent(
            section,
            subject,
            "not pinned: answers are not authenticated, and tcp is not encrypted",
        )
        .remedy("put public_key into client.toml (`vianet keygen` made it with the nodes' key)"),
    }
}

/// A server name of the cluster's, from an alias or the cluster's own table.
fn a_server(name: &str, cluster: &Cluster, config: &Client) -> Option<String> {
    let mut aliases = config.aliases.keys();
    let aliased = aliases.find_map(|alias| {
        let parsed = ServerName::parse(alias, config).ok()?;
        parsed
            .cluster
            .eq_ignore_ascii_case(name)
            .then_some(parsed.server)
    });
    aliased.or_else(|| cluster.servers.keys().next().cloned())
}

/// Asks each node by itself, all at the same time.
fn nodes(section: &str, name: &str, cluster: &Cluster, server: &str) -> Vec<Finding> {
    std::thread::scope(|scope| {
        let asking: Vec<_> = cluster
            .nodes
            .iter()
            .map(|node| scope.spawn(move || one_node(section, name, cluster, server, node)))
            .collect();
        let told = asking.into_iter().flat_map(|thread| thread.join());
        told.collect()
    })
}

fn one_node(section: &str, name: &str, cluster: &Cluster, server: &str, node: &str) -> Finding {
    let server = ServerName {
        cluster: name.into(),
        server: server.into(),
    };
    let alone = Cluster {
        nodes: vec![node.into()],
        ..cluster.clone()
    };
    let (answers, report) = match ask(&server, &alone) {
        Ok(asked) => asked,
        Err(failure) => return Finding::wrong(section, node, failure.to_string()),
    };
    let Some(answer) = answers.first() else {
        return Finding::wrong(section, node, report).remedy(format!(
            "is vianetd up there, and its query address reachable by UDP? `vianet status {server}`"
        ));
    };
    let role = match answer.role {
        Role::Active => format!("active for {server}"),
        Role::Passive => format!("passive for {server}"),
        Role::TakingOver => format!("taking over {server}"),
        Role::Unknown => "".into(),
    };
    let signed = match answer.authentic {
        true => "signed",
        false => "not authenticated",
    };
    let parts = [format!("{} answers", answer.node), role, signed.into()];
    let parts: Vec<_> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    Finding::good(section, node, parts.join(", "))
}
