//! A very small SQL Server: it speaks enough TDS 7.4 ([MS-TDS]) that real clients log in and select one integer.
//! The integer tells which server they reached.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A running server; stops accepting when dropped.
pub struct TdsServer {
    addr: SocketAddr,
    logins: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl TdsServer {
    /// Listens on TCP `addr` (port 0: any) and answers every SELECT with `number`.
    pub fn start(addr: SocketAddr, number: i32) -> Self {
        let listener = TcpListener::bind(addr).unwrap_or_else(|e| panic!("{addr}: {e}"));
        let addr = listener.local_addr().expect("bound");
        let (logins, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (count, stopped) = (logins.clone(), stop.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let count = count.clone();
                std::thread::spawn(move || serve(client, number, &count));
            }
        });
        Self { addr, logins, stop }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many clients logged in.
    pub fn logins(&self) -> u64 {
        self.logins.load(Ordering::Relaxed)
    }
}

impl Drop for TdsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.addr);
    }
}

fn serve(mut client: TcpStream, number: i32, logins: &AtomicU64) -> Option<()> {
    loop {
        let (kind, request) = read_message(&mut client)?;
        let answer = match kind {
            0x12 => prelogin(),
            0x10 => {
                logins.fetch_add(1, Ordering::Relaxed);
                login_ack()
            }
            0x01 | 0x03 if mentions_select(&request) => row(number),
            0x0E => transaction(&request),
            0x06 => done(0x20, 0),
            _ => done(0, 0),
        };
        write_message(&mut client, &answer)?;
    }
}

/// Packets of one message, put together: type and payload.
fn read_message(client: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut message = Vec::new();
    loop {
        let mut header = [0; 8];
        client.read_exact(&mut header).ok()?;
        let len = usize::from(u16::from_be_bytes([header[2], header[3]])).checked_sub(8)?;
        let at = message.len();
        message.resize(at + len, 0);
        client.read_exact(&mut message[at..]).ok()?;
        if header[1] & 1 != 0 {
            return Some((header[0], message));
        }
    }
}

fn write_message(client: &mut TcpStream, payload: &[u8]) -> Option<()> {
    let mut packet = vec![4, 1];
    packet.extend((payload.len() as u16 + 8).to_be_bytes());
    packet.extend([0, 0, 1, 0]);
    packet.extend(payload);
    client.write_all(&packet).ok()
}

fn prelogin() -> Vec<u8> {
    // (token, data); ENCRYPTION 2: not supported.
    let options: [(u8, &[u8]); 5] = [
        (0, &[16, 0, 3, 232, 0, 0]),
        (1, &[2]),
        (2, &[0]),
        (3, &[]),
        (4, &[0]),
    ];
    let mut offset = options.len() as u16 * 5 + 1;
    let (mut table, mut data) = (Vec::new(), Vec::<u8>::new());
    for (token, value) in options {
        table.push(token);
        table.extend(offset.to_be_bytes());
        table.extend((value.len() as u16).to_be_bytes());
        data.extend(value);
        offset += value.len() as u16;
    }
    table.push(0xFF);
    table.extend(data);
    table
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn token(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend((body.len() as u16).to_le_bytes());
    out.extend(body);
    out
}

fn login_ack() -> Vec<u8> {
    let mut ack = vec![1, 0x74, 0, 0, 4, 7];
    ack.extend(utf16("Standin"));
    ack.extend([16, 0, 3, 232]);
    let mut size = vec![4, 4];
    size.extend(utf16("4096"));
    size.push(4);
    size.extend(utf16("4096"));
    [token(0xAD, &ack), token(0xE3, &size), done(0, 0)].concat()
}

fn done(status: u16, rows: u64) -> Vec<u8> {
    let mut out = vec![0xFD];
    out.extend(status.to_le_bytes());
    out.extend(0xC1_u16.to_le_bytes());
    out.extend(rows.to_le_bytes());
    out
}

fn row(number: i32) -> Vec<u8> {
    let mut out = vec![0x81, 1, 0];
    out.extend([0, 0, 0, 0, 8, 0, 0x38, 6]);
    out.extend(utf16("answer"));
    out.push(0xD1);
    out.extend(number.to_le_bytes());
    out.extend(done(0x10, 1));
    out
}

/// TM_REQ: begin, commit or rollback ([MS-TDS] 2.2.7.17), answered by the ENVCHANGE that clients wait for.
fn transaction(request: &[u8]) -> Vec<u8> {
    let headers = request
        .get(..4)
        .map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let kind = request
        .get(headers..headers.saturating_add(2))
        .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
    let id = [1, 0, 0, 0, 0, 0, 0, 0];
    let mut body = Vec::new();
    match kind {
        5 => {
            body.extend([8, 8]);
            body.extend(id);
            body.push(0);
        }
        7 | 8 => {
            body.extend([if kind == 7 { 9 } else { 10 }, 0, 8]);
            body.extend(id);
        }
        _ => return done(0, 0),
    }
    [token(0xE3, &body), done(0, 0)].concat()
}

fn mentions_select(request: &[u8]) -> bool {
    let wanted = utf16("select");
    request
        .to_ascii_lowercase()
        .windows(wanted.len())
        .any(|w| w == wanted)
}
