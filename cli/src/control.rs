//! Asks a node daemon over its control socket.

use crate::failure::{Doing, Failure, Outcome};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use vianet_node::control::{Reply, Request, Status};

/// Sends `request` and gives the answer; one that says "error" is a failure.
pub fn ask(socket: &Path, request: &Request, limit: Duration) -> Outcome<Reply> {
    let what = || format!("the node daemon at {}", socket.display());
    let mut stream = reach(socket, limit).doing(what)?;
    let mut line = serde_json::to_string(request).doing(what)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).doing(what)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).doing(what)?;
    match serde_json::from_str(&answer).doing(what)? {
        Reply::Error { text } => Err(Failure::failed(format!("{}: {text}", what()))),
        reply => Ok(reply),
    }
}

/// Connects to a Unix socket; reads and writes have the same limit. A plain connect has none: it waits as long as a
/// frozen listener's queue is full.
pub fn reach(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + limit;
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match connect(&socket, &address) {
            Ok(()) => break,
            Err(Errno::AGAIN) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(e) => return Err(e.into()),
        }
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    Ok(stream)
}

/// The daemon's state.
pub fn status(socket: &Path, limit: Duration) -> Outcome<Status> {
    match ask(socket, &Request::Status, limit)? {
        Reply::Status(status) => Ok(status),
        _ => Err(Failure::failed(format!(
            "the node daemon at {} gave another answer than asked for",
            socket.display()
        ))),
    }
}
