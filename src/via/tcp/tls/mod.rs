//! TLS 1.3 between client and node (RFC 8446), under the packets: the node proves to be one of the cluster by the cluster's key as a
//! raw public key (RFC 7250), which the client has pinned. Bytes in `docs/protocol.md`.
//!
//! rustls makes the handshake, over a provider without C ([`crypto`]). The records behind it are ours ([`link`]), as they are the
//! kernel's where it does TLS: what a connection has under way must be the same in a forked process.

mod crypto;
mod link;
mod record;
mod shared;

pub use crypto::provider;
pub use link::TlsLink;

use super::link::Fault;
use crate::resolve::identity::{PublicKey, SecretKey};
use crypto::{NodeKey, Pinned};
use record::HEADER;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, Connection, ConnectionTrafficSecrets, ServerConfig,
    ServerConnection,
};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

/// What is spoken inside, for ALPN.
const PROTOCOL: &[u8] = b"vianet/1";
/// Bytes of a peer's whole handshake: with one key share, one raw key and one signature it takes some hundred.
const HANDSHAKE_MAX: usize = 4096;

/// The first byte of a connection that begins with TLS; no packet does.
pub const FIRST_BYTE: u8 = record::HANDSHAKE;

/// A node's half of all its handshakes.
#[derive(Clone)]
pub struct Acceptor(Arc<ServerConfig>);

/// A handshake under way.
pub struct Handshake {
    connection: Connection,
    /// The record that is coming.
    input: Vec<u8>,
    /// Bytes that came.
    come: usize,
    output: Vec<u8>,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Refused {
    /// The connection ended, or the peer speaks nonsense.
    Failed(String),
    /// The other side is not who it must be.
    NotAuthentic(String),
}

impl Acceptor {
    /// For a node with the cluster's key.
    ///
    /// # Errors
    /// None that is known.
    pub fn new(key: &Arc<SecretKey>) -> io::Result<Self> {
        let certified = CertifiedKey::new(
            vec![crypto::spki(&key.public()).into()],
            Arc::new(NodeKey(Arc::clone(key))),
        );
        let mut config = ServerConfig::builder_with_provider(crypto::provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::new(
                certified,
            ))));
        config.alpn_protocols = vec![PROTOCOL.into()];
        // A handshake costs less than what a stolen ticket would.
        config.send_tls13_tickets = 0;
        config.enable_secret_extraction = true;
        Ok(Self(Arc::new(config)))
    }

    /// A client's connection begins.
    ///
    /// # Errors
    /// None that is known.
    pub fn begin(&self) -> io::Result<Handshake> {
        let connection = ServerConnection::new(Arc::clone(&self.0)).map_err(io::Error::other)?;
        Ok(Handshake::of(connection.into()))
    }
}

impl Handshake {
    /// A client's, to the node with the pinned key.
    ///
    /// # Errors
    /// None that is known.
    pub fn connect(pinned: PublicKey, addr: IpAddr) -> io::Result<Self> {
        let mut config = ClientConfig::builder_with_provider(crypto::provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned(pinned)))
            .with_no_client_auth();
        config.alpn_protocols = vec![PROTOCOL.into()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        config.enable_secret_extraction = true;
        let name = ServerName::IpAddress(addr.into());
        let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        Ok(Self::of(connection.into()))
    }

    fn of(connection: Connection) -> Self {
        Self {
            connection,
            input: Vec::new(),
            come: 0,
            output: Vec::new(),
        }
    }

    /// Whether it waits for room in the socket, and not for the peer.
    pub fn wants_write(&self) -> bool {
        !self.output.is_empty() || self.connection.wants_write()
    }

    /// Goes on without blocking; true: it is complete, and [`Handshake::finish`] is next.
    ///
    /// # Errors
    /// It is over.
    pub fn advance(&mut self, socket: &OwnedFd) -> Result<bool, Refused> {
        loop {
            if !self.send(socket).map_err(failed)? {
                return Ok(false);
            }
            if !self.connection.is_handshaking() {
                return Ok(true);
            }
            match self.read_record(socket) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(refused) => return Err(refused),
            }
            let mut input = &self.input[..];
            let taken = self.connection.read_tls(&mut input).map_err(failed)?;
            let whole = taken == self.input.len();
            self.input.clear();
            let processed = self.connection.process_new_packets().map(drop);
            if let Err(error) = processed {
                // An alert says so to the peer.
                let _ = self.send(socket);
                return Err(refused(&error));
            }
            if !whole {
                return Err(failed("a TLS record that is too long"));
            }
        }
    }

    /// Sends what there is to be sent; false: the socket is full.
    fn send(&mut self, socket: &OwnedFd) -> Result<bool, Errno> {
        while self.connection.wants_write() {
            // Into memory: never short, never an error.
            let _ = self.connection.write_tls(&mut self.output);
        }
        while !self.output.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(socket, &self.output, flags) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                // The peer may have said why before it closed: it is read next.
                Err(Errno::PIPE | Errno::CONNRESET) => self.output.clear(),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Reads up to the end of one record and not beyond: what follows the handshake is not for rustls.
    fn read_record(&mut self, socket: &OwnedFd) -> Result<bool, Refused> {
        loop {
            let have = self.input.len();
            let want = match self.input.first_chunk::<HEADER>() {
                None => HEADER,
                Some([20..=23, 3, _, high, low]) => {
                    HEADER + usize::from(u16::from_be_bytes([*high, *low]))
                }
                Some(_) => {
                    let text = "the node answers in clear where the pinned key demands TLS: give it key_file and a release that has it, or \
                                say tls = \"off\" for the cluster";
                    return Err(Refused::NotAuthentic(text.into()));
                }
            };
            if have == want {
                return Ok(true);
            }
            if self.come + want - have > HANDSHAKE_MAX {
                return Err(failed("a TLS handshake that is too long"));
            }
            self.input.resize(want, 0);
            let read = rustix::net::recv(socket, &mut self.input[have..], RecvFlags::DONTWAIT);
            let n = read.as_ref().map_or(0, |(n, _)| *n);
            self.input.truncate(have + n);
            self.come += n;
            match read {
                Ok((0, _)) => return Err(failed("the connection ended in the TLS handshake")),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(e) => return Err(failed(e)),
            }
        }
    }

    /// The stream behind a handshake that is complete.
    ///
    /// # Errors
    /// Out of memory.
    pub fn finish(self, socket: Arc<OwnedFd>) -> io::Result<TlsLink> {
        let secrets = (self.connection.dangerous_extract_secrets()).map_err(io::Error::other)?;
        let key = |(seq, secrets)| match secrets {
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                let key = key.as_ref().first_chunk::<32>().copied();
                let iv = iv.as_ref().first_chunk::<12>().copied();
                match (key.map(zeroize::Zeroizing::new), iv) {
                    (Some(key), Some(iv)) => Ok((seq, record::Key::new(&key, iv))),
                    _ => Err(io::Error::other("a key of another length")),
                }
            }
            _ => Err(io::Error::other("a suite that was not offered")),
        };
        TlsLink::new(socket, key(secrets.tx)?, key(secrets.rx)?)
    }
}

/// Whether the first byte that came, without taking it, begins TLS; `None`: nothing came yet.
///
/// # Errors
/// The system call's, or the end.
pub fn begins(socket: &OwnedFd) -> Result<Option<bool>, Fault> {
    let mut first = [0];
    loop {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        return match rustix::net::recv(socket, &mut first, flags) {
            Ok((0, _)) => Err(Fault::Broken("the connection ended")),
            Ok(_) => Ok(Some(first[0] == FIRST_BYTE)),
            Err(Errno::AGAIN) => Ok(None),
            Err(Errno::INTR) => continue,
            Err(e) => Err(e.into()),
        };
    }
}

fn failed(e: impl std::fmt::Display) -> Refused {
    Refused::Failed(e.to_string())
}

fn refused(error: &rustls::Error) -> Refused {
    match error {
        rustls::Error::InvalidCertificate(_) => {
            Refused::NotAuthentic("TLS: the node's key is not the pinned public_key: compare it with what `vianet keygen` printed for the cluster".into())
        }
        error => Refused::Failed(format!("TLS: {error}")),
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
