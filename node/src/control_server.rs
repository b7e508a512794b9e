//! The control socket's server.

use crate::clients;
use crate::control::{Reply, Request};
use crate::daemon::{Mail, Message};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// Longest request line.
const MAX_LINE: u64 = 4096;
/// A client that says nothing for so long is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

/// Listens at `path` with mode 0600.
///
/// # Errors
/// The text names the key of the configuration and the remedy.
pub fn start(path: &Path, mail: Mail) -> Result<(), String> {
    let bad =
        |what: &str, e: std::io::Error| format!("control_socket = {}: {what}: {e}", path.display());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| bad("its directory", e))?;
    }
    if UnixStream::connect(path).is_ok() {
        return Err(format!(
            "control_socket = {}: another vianetd listens there; stop it, or name another socket",
            path.display()
        ));
    }
    // The mode must be right from the first moment on: made in a directory that nobody else can enter, then moved.
    let closed = path.with_extension("ctl.new");
    let fresh = closed.join("s");
    // What a daemon that was killed just then left behind.
    let _ = std::fs::remove_file(&fresh);
    let _ = std::fs::remove_dir(&closed);
    let made = std::fs::DirBuilder::new().mode(0o700).create(&closed);
    made.map_err(|e| bad(&closed.display().to_string(), e))?;
    let listener = UnixListener::bind(&fresh).map_err(|e| bad("bind", e));
    let moved = listener.and_then(|listener| {
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&fresh, path))
            .map_err(|e| bad("mode 0600", e))?;
        Ok(listener)
    });
    let _ = std::fs::remove_dir(&closed);
    let listener = moved?;
    let accept = move || listener.accept().map(|(stream, _)| stream);
    let obey = move |stream| _ = serve(&stream, &mail);
    clients::serve("control", accept, obey).map_err(|e| bad("thread", e))
}

fn serve(stream: &UnixStream, mail: &Mail) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.by_ref().take(MAX_LINE).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let reply = match serde_json::from_str::<Request>(&line) {
            Ok(request) => ask(request, mail),
            Err(e) => Reply::Error {
                text: format!("not understood: {e}"),
            },
        };
        let mut text = serde_json::to_string(&reply)?;
        text.push('\n');
        writer.write_all(text.as_bytes())?;
    }
}

pub(crate) fn ask(request: Request, mail: &Mail) -> Reply {
    let (reply, answer) = crossbeam_channel::bounded(1);
    mail.send(Message::Control { request, reply });
    answer
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| Reply::Error {
            text: "the daemon did not answer in time".into(),
        })
}
