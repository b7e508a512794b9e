//! The page for people: one table a server name, fresh every two seconds, without scripts.

use crate::control::{ServerStatus, Status};
use std::fmt::{self, Write};

/// Sessions of one name that are listed; the others are counted.
const MAX_SESSIONS: usize = 200;

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2em;max-width:64em}\
    table{border-collapse:collapse;margin:.5em 0 1.5em}\
    th,td{text-align:left;padding:.15em 1.2em .15em 0;border-bottom:1px solid #ddd;vertical-align:top}\
    h2{margin:1.5em 0 0}.active,.healthy,.up{color:#07713a;font-weight:600}\
    .failing,.down{color:#b3261e;font-weight:600}.taking-over,.starting{color:#8a5a00;font-weight:600}";

/// The page at `now_ms` (milliseconds since 1970).
pub fn html(status: &Status, now_ms: u64) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut out, status, now_ms);
    out
}

fn write_page(out: &mut String, status: &Status, now_ms: u64) -> fmt::Result {
    let (node, cluster) = (Text(&status.node), Text(&status.cluster));
    write!(
        out,
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=2>\
         <title>{node} of {cluster}</title><style>{STYLE}</style>\
         <h1>{node} of cluster {cluster}</h1>\
         <p>vianetd {}, pid {}, up {} · <a href=/metrics>metrics</a> · <a href=/status>status</a></p>",
        Text(&status.version),
        status.pid,
        ago(status.started_ms, now_ms)
    )?;
    if !status.peers.is_empty() {
        out.write_str("<table><tr><th>peer<th>address<th>state<th>last heard")?;
    }
    for peer in &status.peers {
        write!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>",
            Text(&peer.node),
            Text(&peer.addr),
            Word(&peer.state)
        )?;
        match peer.heard_ms_ago {
            Some(ms) => write!(out, "{ms} ms ago")?,
            None => out.write_str("never")?,
        }
    }
    if !status.peers.is_empty() {
        out.write_str("</table>")?;
    }
    for server in &status.servers {
        write_server(out, server, now_ms)?;
    }
    Ok(())
}

fn write_server(out: &mut String, server: &ServerStatus, now_ms: u64) -> fmt::Result {
    write!(
        out,
        "<h2>{}</h2><table>\
         <tr><th>this node<td>{} for {}\
         <tr><th>the other node<td>{}\
         <tr><th>generation<td>{}\
         <tr><th>SQL server<td>{} {}\
         <tr><th>channels<td>{} open, {} accepted\
         <tr><th>bytes<td>{} to the SQL server, {} to clients</table>",
        Text(&server.name),
        Word(&server.role),
        ago(server.since_ms, now_ms),
        Word(server.peer_role.as_deref().unwrap_or("none")),
        server.generation,
        Text(&server.upstream),
        Word(&server.health),
        server.sessions.len(),
        server.accepted,
        server.bytes_in,
        server.bytes_out
    )?;
    if !server.changes.is_empty() {
        out.write_str(
            "<table><tr><th>changes of role<th>from<th>to<th>generation<th>reason<th>took",
        )?;
        for change in &server.changes {
            write!(
                out,
                "<tr><td>{} ago<td>{}<td>{}<td>{}<td>{}<td>",
                ago(change.at_ms, now_ms),
                Word(&change.from),
                Word(&change.to),
                change.generation,
                Text(&change.reason)
            )?;
            if let Some(ms) = change.took_ms {
                write!(out, "{ms} ms")?;
            }
        }
        out.write_str("</table>")?;
    }
    if !server.sessions.is_empty() {
        out.write_str("<table><tr><th>channel<th>transport<th>client<th>open for")?;
        for session in server.sessions.iter().take(MAX_SESSIONS) {
            write!(
                out,
                "<tr><td>{}<td>{}<td>{}<td>{}",
                session.channel,
                Text(&session.transport),
                Text(&session.peer),
                ago(session.since_ms, now_ms)
            )?;
        }
        out.write_str("</table>")?;
        let more = server.sessions.len().saturating_sub(MAX_SESSIONS);
        if more > 0 {
            write!(out, "<p>and {more} more</p>")?;
        }
    }
    Ok(())
}

/// Text of somebody else's, made harmless.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c => f.write_char(c),
        })
    }
}

/// A word of ours that has a colour.
struct Word<'a>(&'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<span class=\"{0}\">{0}</span>", Text(self.0))
    }
}

fn ago(at_ms: u64, now_ms: u64) -> String {
    let s = now_ms.saturating_sub(at_ms) / 1000;
    match s {
        0..=119 => format!("{s} s"),
        120..=7199 => format!("{} min", s / 60),
        _ => format!("{} h", s / 3600),
    }
}
