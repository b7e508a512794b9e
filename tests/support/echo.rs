//! Servers without a session: they send back what they get.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A running echo server; each connection ends its sending direction when the client ended its own.
pub struct EchoServer {
    addr: SocketAddr,
    used: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl EchoServer {
    /// Listens on TCP `addr` (port 0: any). With a greeting, every connection begins with it.
    pub fn start(addr: &str, greeting: &'static str) -> Self {
        let listener = TcpListener::bind(addr).unwrap_or_else(|e| panic!("{addr}: {e}"));
        let addr = listener.local_addr().expect("bound");
        let (used, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (count, stopped) = (used.clone(), stop.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let count = count.clone();
                std::thread::spawn(move || serve(client, greeting, &count));
            }
        });
        Self { addr, used, stop }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections so far on which something was sent: a health check sends nothing.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.addr);
    }
}

/// A server that resets each connection when something comes. Its thread waits for the next one to the end.
pub fn resetting_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                if client.read(&mut [0; 64]).is_ok_and(|len| len > 0) {
                    let _ = rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO));
                }
            });
        }
    });
    addr
}

fn serve(mut client: TcpStream, greeting: &str, used: &AtomicU64) -> Option<()> {
    client.set_nodelay(true).ok()?;
    client.write_all(greeting.as_bytes()).ok()?;
    let mut buf = vec![0; 262_144];
    let mut first = true;
    loop {
        match client.read(&mut buf).ok()? {
            0 => return client.shutdown(Shutdown::Write).ok(),
            len => {
                if std::mem::take(&mut first) {
                    used.fetch_add(1, Ordering::Relaxed);
                }
                client.write_all(&buf[..len]).ok()?;
            }
        }
    }
}
