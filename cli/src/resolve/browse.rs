//! The questions of SSRP that a connect by name does not ask: `03`, `02` and `0F`, answered by a node or a SQL Browser.

use crate::failure::{Doing, Failure, Outcome};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};
use vianet::config::{DEFAULT_QUERY_PORT, NodeAddr};
use vianet::resolve::ssrp::{Instance, Request, parse_dac};

/// Until an unanswered question is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// Which question; at most one.
#[derive(clap::Args)]
#[group(multiple = false)]
pub struct How {
    /// All instances of one machine; NAME is its HOST or HOST:PORT.
    #[arg(long, conflicts_with = "config")]
    list: bool,
    /// The port of an instance's dedicated administrator connection; NAME is HOST\INSTANCE.
    #[arg(long, conflicts_with = "config")]
    dac: bool,
    /// All instances in reach of a broadcast; NAME is the broadcast address. Listens until the deadline.
    #[arg(long, conflicts_with = "config")]
    broadcast: bool,
}

impl How {
    /// Whether one was chosen.
    pub fn is_wanted(&self) -> bool {
        self.list || self.dac || self.broadcast
    }
}

/// Asks, and prints what comes back.
pub fn run(how: &How, name: &str, deadline: Duration, json: bool) -> Outcome {
    let (host, request) = match name.split_once('\\') {
        Some((host, instance)) if how.dac => (host, Request::Dac(instance.into())),
        None if how.dac => {
            let text = format!("--dac {name}: write HOST\\INSTANCE");
            return Err(Failure::failed(text));
        }
        _ if how.list => (name, Request::List),
        _ => (name, Request::Broadcast),
    };
    let bytes = request.encode().ok_or_else(|| {
        Failure::failed(format!("{name}: an instance has a name of 1 to 32 bytes"))
    })?;
    let to = address(host)?;
    let mut heard = false;
    // Answers that come again, to a question that was sent again, are printed once.
    let mut seen = BTreeSet::new();
    ask(to, &bytes, how.broadcast, deadline, |from, answer| {
        let lines = match &request {
            Request::Dac(instance) => {
                parse_dac(answer).map(|port| vec![dac_line(host, instance, port, json)])
            }
            _ => request.parse_answer(answer).map(|all| {
                let line = |one: &Instance| instance_line(from.ip(), one, json);
                all.iter().map(line).collect()
            }),
        };
        match lines {
            Ok(lines) => {
                heard = true;
                let fresh = lines.into_iter().filter(|line| seen.insert(line.clone()));
                fresh.for_each(|line| println!("{line}"));
                !how.broadcast
            }
            Err(why) => {
                eprintln!("vianet: the answer of {from} is not believed: {why}");
                false
            }
        }
    })?;
    match heard {
        true => Ok(()),
        false => Err(Failure::failed(format!(
            "no answer from {to} within {} ms; who does not have what was asked for is silent",
            deadline.as_millis()
        ))),
    }
}

fn address(host: &str) -> Outcome<SocketAddr> {
    let bad = || Failure::failed(format!("{host:?}: write HOST or HOST:PORT"));
    match NodeAddr::parse(host, DEFAULT_QUERY_PORT).ok_or_else(bad)? {
        NodeAddr::Literal(addr) => Ok(addr),
        NodeAddr::Named(name, port) => {
            let mut all = (&*name, port)
                .to_socket_addrs()
                .doing(|| format!("looking {name} up"))?;
            all.next().ok_or_else(bad)
        }
    }
}

/// Asks again and again until `take` has what it wants (true) or the time is over.
fn ask(
    to: SocketAddr,
    request: &[u8],
    broadcast: bool,
    deadline: Duration,
    mut take: impl FnMut(SocketAddr, &[u8]) -> bool,
) -> Outcome {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).doing(|| "a UDP socket")?;
    match broadcast {
        true => socket.set_broadcast(true).doing(|| "broadcasting")?,
        // Only who was asked is heard, and a port where nobody listens says so.
        false => socket.connect(to).doing(|| format!("the way to {to}"))?,
    }
    let end = Instant::now() + deadline;
    let mut answer = vec![0; usize::from(u16::MAX)];
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        let sent = match broadcast {
            true => socket.send_to(request, to),
            false => socket.send(request),
        };
        sent.doing(|| format!("asking {to}"))?;
        let again = Instant::now() + left.min(AGAIN);
        while let Some(wait) = again.checked_duration_since(Instant::now()) {
            // A time limit of zero would mean none.
            let wait = wait.max(Duration::from_millis(1));
            socket
                .set_read_timeout(Some(wait))
                .doing(|| "a time limit")?;
            match socket.recv_from(&mut answer) {
                Ok((len, from)) if take(from, &answer[..len]) => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).doing(|| format!("asking {to}")),
            }
        }
    }
    Ok(())
}

fn dac_line(host: &str, instance: &str, port: u16, as_json: bool) -> String {
    match as_json {
        true => json!({"host": host, "instance": instance, "dac": port}).to_string(),
        false => format!("{host}\\{instance}: administrator's connection on port {port}"),
    }
}

fn instance_line(from: IpAddr, one: &Instance, as_json: bool) -> String {
    let via = |pair: &(u32, u32)| format!("{}:{}", pair.0, pair.1);
    let vias: Vec<String> = one
        .via
        .iter()
        .flat_map(|v| v.ports.iter().map(via))
        .collect();
    if as_json {
        return json!({
            "host": from, "server": one.server_name, "instance": one.instance_name, "clustered": one.clustered,
            "version": one.version, "tcp": one.tcp, "np": one.np, "via": vias,
        })
        .to_string();
    }
    let mut line = format!(
        "{from} {}\\{} version {}",
        one.server_name, one.instance_name, one.version
    );
    let tcp = one.tcp.map(|port| format!(" tcp {port}"));
    let np = one.np.as_ref().map(|pipe| format!(" np {pipe}"));
    let via = (!vias.is_empty()).then(|| format!(" via {}", vias.join(",")));
    line.extend([tcp, np, via].into_iter().flatten());
    if one.clustered {
        line.push_str(" clustered");
    }
    // A terminal would obey what somebody put into a name.
    line.replace(char::is_control, "?")
}
