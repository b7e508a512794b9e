//! What the daemon knows, over HTTP, read-only: a page for people, metrics for Prometheus, JSON for scripts.
//!
//! One request a connection. Nothing can be commanded here; that is the control socket's part.

mod metrics;
mod page;
#[cfg(test)]
mod tests;

use crate::clients;
use crate::clock;
use crate::control::{Reply, Request, Status};
use crate::control_server::ask;
use crate::daemon::Mail;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Longest request head.
const MAX_HEAD: usize = 8192;
/// A client gets so long to ask, and so long again to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Listens at `addr`; gives the address with its real port.
///
/// # Errors
/// The text names the key of the configuration and the remedy.
pub fn start(addr: SocketAddr, mail: Mail) -> Result<SocketAddr, String> {
    let bad = |e: std::io::Error| {
        format!(
            "http = {addr}: {e}; find who has it with `ss -tlnp`, and whether the address is this machine's"
        )
    };
    let listener = TcpListener::bind(addr).map_err(bad)?;
    let real = listener.local_addr().map_err(bad)?;
    let accept = move || listener.accept().map(|(stream, _)| stream);
    // A client that goes away is its own affair.
    let answer = move |stream| _ = serve(stream, &mail);
    clients::serve("http", accept, answer).map_err(bad)?;
    Ok(real)
}

fn serve(mut stream: TcpStream, mail: &Mail) -> std::io::Result<()> {
    let answer = match read_head(&mut stream)? {
        None => Answer::text(400, "this is not HTTP\n"),
        Some(head) => answer(&head, || match ask(Request::Status, mail) {
            Reply::Status(status) => Ok(status),
            Reply::Error { text } => Err(text),
            Reply::Done | Reply::Switchover(_) => Err("the daemon gave no status".into()),
        }),
    };
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&answer.bytes())?;
    stream.shutdown(Shutdown::Write)?;
    // Closing with unread bytes would be a reset, which can overtake the answer.
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut rest = [0; 4096];
    for _ in 0..16 {
        if stream.read(&mut rest)? == 0 {
            break;
        }
    }
    Ok(())
}

/// Method and path of a request.
struct Head {
    method: String,
    path: String,
}

/// Reads a request's head; `None`: it is none.
fn read_head(stream: &mut TcpStream) -> std::io::Result<Option<Head>> {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let mut more = [0; 2048];
        match stream.read(&mut more) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => buffer.extend_from_slice(&more[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&buffer) {
            Ok(httparse::Status::Complete(_)) => {
                let path = request.path.unwrap_or_default();
                return Ok(Some(Head {
                    method: request.method.unwrap_or_default().into(),
                    path: path.split('?').next().unwrap_or_default().into(),
                }));
            }
            Ok(httparse::Status::Partial) if buffer.len() < MAX_HEAD => {}
            _ => return Ok(None),
        }
    }
}

/// What goes back.
struct Answer {
    code: u16,
    kind: &'static str,
    body: String,
    /// To a HEAD request: everything but the body.
    head_only: bool,
}

fn answer(head: &Head, status: impl Fn() -> Result<Status, String>) -> Answer {
    type Writer = fn(&Status) -> String;
    let (kind, write): (_, Writer) = match head.path.as_str() {
        "/" => ("text/html; charset=utf-8", |s| {
            page::html(s, clock::wall_ms())
        }),
        "/metrics" => (metrics::CONTENT_TYPE, metrics::text),
        "/status" => ("application/json", |s| {
            serde_json::to_string(s).unwrap_or_default()
        }),
        _ => return Answer::text(404, "there are /, /metrics and /status\n"),
    };
    if !matches!(head.method.as_str(), "GET" | "HEAD") {
        return Answer::text(405, "read-only: GET and HEAD\n");
    }
    match status() {
        Ok(status) => Answer {
            code: 200,
            kind,
            body: write(&nameless(status)),
            head_only: head.method == "HEAD",
        },
        Err(text) => Answer::text(503, &format!("{text}\n")),
    }
}

/// There is no login here: who the clients are is for the control socket.
fn nameless(mut status: Status) -> Status {
    let sessions = (status.servers.iter_mut()).flat_map(|server| &mut server.sessions);
    for session in sessions {
        (session.program, session.user, session.database) = (None, None, None);
    }
    status
}

impl Answer {
    fn text(code: u16, body: &str) -> Self {
        Self {
            code,
            kind: "text/plain; charset=utf-8",
            body: body.into(),
            head_only: false,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let reason = match self.code {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            _ => "Service Unavailable",
        };
        let allow = if self.code == 405 {
            "Allow: GET, HEAD\r\n"
        } else {
            ""
        };
        let mut out = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Cache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n\
             Connection: close\r\n\r\n",
            self.code,
            self.kind,
            self.body.len()
        );
        if !self.head_only {
            out.push_str(&self.body);
        }
        out.into_bytes()
    }
}
