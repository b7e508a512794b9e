//! What the peer process does with a connection, whatever carries it.

use std::io;

/// Largest chunk moved at once.
pub const CHUNK: usize = 64 * 1024;

/// The two kinds of work. The numbers are the greeting on plain TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Work {
    /// Sends everything back.
    Echo = b'e',
    /// Reads an 8-byte count, little endian, then so many bytes, answers one byte, and begins again.
    Sink = b's',
}

impl Work {
    /// The server name that stands for it.
    pub fn server(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Sink => "sink",
        }
    }

    /// From the server name.
    pub fn from_server(name: &str) -> Option<Self> {
        [Self::Echo, Self::Sink]
            .into_iter()
            .find(|w| w.server() == name)
    }

    /// From the greeting.
    pub fn from_greeting(byte: u8) -> Option<Self> {
        [Self::Echo, Self::Sink]
            .into_iter()
            .find(|w| *w as u8 == byte)
    }

    /// Does it until the other side ends. `receive` returns 0 at the end.
    pub fn serve(
        self,
        mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>,
        mut send: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        match self {
            Self::Echo => loop {
                match receive(&mut buffer)? {
                    0 => return Ok(()),
                    n => send(&buffer[..n])?,
                }
            },
            Self::Sink => loop {
                let (mut count, mut have) = ([0; 8], 0);
                while have < count.len() {
                    match receive(&mut count[have..])? {
                        0 => return Ok(()),
                        n => have += n,
                    }
                }
                let mut left = u64::from_le_bytes(count);
                while left > 0 {
                    let most = left.min(CHUNK as u64) as usize;
                    match receive(&mut buffer[..most])? {
                        0 => return Ok(()),
                        n => left -= n as u64,
                    }
                }
                send(b"!")?;
            },
        }
    }
}
