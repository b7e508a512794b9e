//! The two kinds of connection that are compared, both used by blocking calls with default settings.

use super::work::Work;
use crate::failure::{Doing, Failure, Outcome};
use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::RawFd;
use vianet::conn;

/// A byte stream.
pub trait Pipe {
    /// Writes all of `bytes`.
    fn put(&mut self, bytes: &[u8]) -> Outcome;
    /// Fills `buffer`.
    fn get(&mut self, buffer: &mut [u8]) -> Outcome;
}

/// Kernel TCP.
pub struct Tcp(TcpStream);

impl Tcp {
    /// Connects to the peer's plain listener and says what it shall do.
    pub fn connect(addr: SocketAddr, work: Work) -> Outcome<Self> {
        let mut stream = TcpStream::connect(addr).doing(|| format!("connecting to {addr}"))?;
        stream.set_nodelay(true).doing(|| "TCP_NODELAY")?;
        stream
            .write_all(&[work as u8])
            .doing(|| "greeting the peer")?;
        Ok(Self(stream))
    }

    /// Connects to a server that needs no greeting.
    pub fn connect_bare(addr: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(addr).doing(|| format!("connecting to {addr}"))?;
        stream.set_nodelay(true).doing(|| "TCP_NODELAY")?;
        Ok(Self(stream))
    }
}

impl Pipe for Tcp {
    fn put(&mut self, bytes: &[u8]) -> Outcome {
        self.0.write_all(bytes).doing(|| "writing to TCP")
    }

    fn get(&mut self, buffer: &mut [u8]) -> Outcome {
        self.0.read_exact(buffer).doing(|| "reading from TCP")
    }
}

/// A connection by name, used as a C program uses it: every call finds it by its descriptor.
pub struct Via(RawFd);

impl Via {
    /// Connects by name with the configuration at `config`.
    pub fn connect(name: &str, config: &std::path::Path) -> Outcome<Self> {
        let options = conn::Options {
            config: Some(config.into()),
            ..conn::Options::default()
        };
        Ok(Self(conn::connect(name, &options)?))
    }

    /// Which transport it got.
    pub fn transport(&self) -> Outcome<String> {
        let info = conn::find(self.0)?.info();
        Ok(info.transport.map_or("none".into(), |t| t.to_string()))
    }
}

impl Pipe for Via {
    fn put(&mut self, mut bytes: &[u8]) -> Outcome {
        while !bytes.is_empty() {
            let n = conn::known(self.0)?.send(&[IoSlice::new(bytes)], 0)?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    fn get(&mut self, mut buffer: &mut [u8]) -> Outcome {
        while !buffer.is_empty() {
            let n = conn::known(self.0)?.recv(buffer, 0)?;
            if n == 0 {
                return Err(Failure::failed("the bench's peer closed the connection"));
            }
            buffer = &mut buffer[n..];
        }
        Ok(())
    }
}

impl Drop for Via {
    fn drop(&mut self) {
        let _ = conn::close(self.0);
    }
}
