//! Clients of the daemon's own pages and commands: one short-lived thread each, and never more than a few, since a page
//! must not be able to take anything from the relay.

use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Clients of one listener at a time; more are hung up on.
const MOST: usize = 16;

/// Starts a thread `name` that serves whoever comes, each on a thread of its own.
///
/// # Errors
/// No thread can be had.
pub fn serve<S: Send + 'static>(
    name: &'static str,
    mut accept: impl FnMut() -> io::Result<S> + Send + 'static,
    serve: impl Fn(S) + Clone + Send + 'static,
) -> io::Result<()> {
    let clients = Arc::new(());
    let run = move || loop {
        let Ok(stream) = accept() else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        if Arc::strong_count(&clients) > MOST {
            continue;
        }
        let (serve, token) = (serve.clone(), Arc::clone(&clients));
        let client = std::thread::Builder::new().name(format!("{name}-client"));
        let _ = client.spawn(move || {
            let _token = token;
            serve(stream);
        });
    };
    let thread = std::thread::Builder::new().name(name.into());
    thread.spawn(run).map(drop)
}
