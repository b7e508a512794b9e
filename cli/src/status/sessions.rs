//! `vianet status --sessions`: the sessions that a node relays, one by one, each asked whether it could move now.

use super::ago;
use crate::control;
use crate::failure::{Doing, Failure, Outcome};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use vianet_node::control::{FailoverTimes, Request, ServerStatus, SessionStatus, Status};

/// Longest wait for the daemon. Sessions that do not answer are waited for one second.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two questions whether all have answered.
const LOOK: Duration = Duration::from_millis(20);

/// Shows the sessions of the daemon with this control socket: of one server name, or of all.
pub fn show(socket: &Path, server: Option<&str>, json: bool) -> Outcome {
    let end = Instant::now() + LIMIT;
    let mut status = control::status(socket, LIMIT)?;
    for name in of(&status, server).map(|it| it.name.clone()) {
        control::ask(socket, &Request::Look { server: name }, LIMIT)?;
    }
    loop {
        status = control::status(socket, LIMIT)?;
        if !of(&status, server).any(|it| it.looking) {
            break;
        }
        if Instant::now() >= end {
            let text = format!("the node daemon at {} does not find out", socket.display());
            return Err(Failure::failed(text));
        }
        std::thread::sleep(LOOK);
    }
    for it in of(&status, server) {
        match json {
            true => {
                let line = json!({"node": status.node, "server": it.name, "sessions": it.sessions});
                println!("{}", serde_json::to_string(&line).doing(|| "the sessions")?);
            }
            false => print(&status.node, it),
        }
    }
    Ok(())
}

fn of<'a>(status: &'a Status, server: Option<&'a str>) -> impl Iterator<Item = &'a ServerStatus> {
    let wanted =
        move |it: &&ServerStatus| server.is_none_or(|name| it.name.eq_ignore_ascii_case(name));
    status.servers.iter().filter(wanted)
}

fn print(node: &str, server: &ServerStatus) {
    println!(
        "{}: {} sessions at {node}",
        server.name,
        server.sessions.len()
    );
    for session in &server.sessions {
        println!("  {}", head(session));
        println!("    {}", movable(session));
        if let Some(times) = &session.last_failover {
            println!("    {}", failover(session.moves, times));
        }
    }
}

/// What programs and roles are called is their own choice: harmless to a terminal.
fn harmless(text: &str) -> impl std::fmt::Display + '_ {
    text.escape_debug()
}

fn head(session: &SessionStatus) -> String {
    let mut text = format!(
        "{} over {}, for {}, from {}",
        session.channel,
        session.transport,
        ago(session.since_ms),
        harmless(&session.peer)
    );
    if let Some(program) = &session.program {
        text += &format!(" ({})", harmless(program));
    }
    if let (Some(user), Some(database)) = (&session.user, &session.database) {
        text += &format!(": {} in {}", harmless(user), harmless(database));
    }
    text
}

fn movable(session: &SessionStatus) -> String {
    match &*session.movable {
        "yes" => "movable".into(),
        // It came after the question.
        "" => "movable: not asked".into(),
        "unknown" => "movable: unknown (the client says nothing)".into(),
        word => format!(
            "not movable: {} ({})",
            harmless(word),
            harmless(&session.reason)
        ),
    }
}

fn failover(moves: u32, times: &FailoverTimes) -> String {
    let parts = [
        ("detection", times.detection_ms),
        ("takeover", times.takeover_ms),
        ("resolution", times.resolution_ms),
        ("turn", times.turn_ms),
        ("connect", times.connect_ms),
        ("login", times.login_ms),
        ("restore", times.restore_ms),
    ];
    let parts = parts.map(|(name, ms)| format!("{name} {ms:.2} ms"));
    format!(
        "moved {moves} times; the last failover: {}",
        parts.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_told_in_full_and_harmlessly() {
        let mut session = SessionStatus {
            channel: 9,
            transport: "shm".into(),
            peer: "uid 0 pid 7".into(),
            since_ms: u64::MAX,
            program: Some("ps\x1b[2Jql".into()),
            user: Some("app".into()),
            database: Some("sales".into()),
            ..SessionStatus::default()
        };
        let text = "9 over shm, for 0 s, from uid 0 pid 7 (ps\\u{1b}[2Jql): app in sales";
        assert_eq!(head(&session), text);
        for (word, reason, text) in [
            ("", "", "movable: not asked"),
            (
                "unknown",
                "says nothing",
                "movable: unknown (the client says nothing)",
            ),
            ("yes", "", "movable"),
            (
                "temporary",
                "it has some",
                "not movable: temporary (it has some)",
            ),
        ] {
            (session.movable, session.reason) = (word.into(), reason.into());
            assert_eq!(movable(&session), text);
        }
        let times = FailoverTimes {
            detection_ms: 0.0,
            takeover_ms: 516.6,
            resolution_ms: 0.02,
            turn_ms: 0.0,
            connect_ms: 1.034,
            login_ms: 3.92,
            restore_ms: 4.28,
        };
        assert_eq!(
            failover(2, &times),
            "moved 2 times; the last failover: detection 0.00 ms, takeover 516.60 ms, resolution 0.02 ms, turn 0.00 ms, \
             connect 1.03 ms, login 3.92 ms, restore 4.28 ms"
        );
    }
}
