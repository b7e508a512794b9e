//! Which transports can be used here.

use super::{Finding, rdma};
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;
use vianet::config::Client;

const SECTION: &str = "transports";

/// In the order in which they are preferred.
pub fn look(config: Option<&Client>) -> Vec<Finding> {
    let fallback = Client::default();
    let dir = &config.unwrap_or(&fallback).shm_dir;
    let mut findings = shm(dir);
    findings.push(rdma::in_short(SECTION));
    findings.push(Finding::good(SECTION, "tcp", "can always be used"));
    let strict = config.map(|c| c.clusters.iter().filter(|(_, c)| c.strict));
    let strict: Vec<_> = strict
        .into_iter()
        .flatten()
        .map(|(name, _)| &**name)
        .collect();
    findings.push(match strict[..] {
        [] => Finding::good(SECTION, "plain", "can always be used"),
        _ => {
            let says = format!("refused by `strict` for {}", strict.join(", "));
            Finding::absent(SECTION, "plain", says)
        }
    });
    findings
}

/// One finding for each node daemon of this host, or one that there is none.
fn shm(dir: &Path) -> Vec<Finding> {
    let sockets: Vec<_> = match std::fs::read_dir(dir) {
        Ok(entries) => entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "sock"))
            .collect(),
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        Err(e) => {
            let says = format!("{}: {e}", dir.display());
            return vec![Finding::wrong(SECTION, "shm", says)];
        }
    };
    if sockets.is_empty() {
        let says = format!(
            "no node daemon on this host ({} has no socket)",
            dir.display()
        );
        return vec![
            Finding::absent(SECTION, "shm", says)
                .remedy("shm_dir of client.toml must be that of the daemon, where there is one"),
        ];
    }
    sockets.iter().map(|path| socket(path)).collect()
}

fn socket(path: &Path) -> Finding {
    let name = path.display();
    match UnixStream::connect(path) {
        Ok(_) => Finding::good(SECTION, "shm", format!("{name}: the daemon accepts")),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
            let says = format!("{name} is left over: no daemon behind it");
            Finding::absent(SECTION, "shm", says)
        }
        Err(e) => Finding::wrong(SECTION, "shm", format!("{name}: {e}"))
            .remedy("clients need search permission for its directory and write permission for it"),
    }
}
