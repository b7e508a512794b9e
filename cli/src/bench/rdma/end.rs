//! One of the two processes of a carrier: the one that serves, or the one that calls and measures.
//!
//! A series: the caller sends 16 bytes (kind, size, count), the server answers one byte; then `count` messages of `size`
//! bytes go, there and back, or there alone with one byte at the end.

use super::pipes::{Listening, Socket, Via, ViaListening};
use super::{Carrier, Work};
use crate::bench::pipe::Pipe;
use crate::failure::{Doing, Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Messages of a series.
const TRIPS: u64 = 32;
const STREAM_BYTES: u64 = 8 << 20;

/// What the caller is told to do.
#[derive(Serialize, Deserialize)]
pub struct Order {
    /// What.
    pub work: Work,
    /// For how long, at least.
    pub ms: u64,
}

/// What it did.
#[derive(Serialize, Deserialize)]
pub struct Done {
    /// Microseconds of each round trip; or MiB/s of each series of a stream.
    pub samples: Vec<f64>,
    /// Messages.
    pub messages: u64,
}

/// Runs one: `serve` or `call`, the carrier, and the address (of the server: where it listens; of the caller: whom it calls).
pub fn run(role: &str, carrier: &str, address: &str) -> Outcome {
    let carrier: Carrier =
        <Carrier as clap::ValueEnum>::from_str(carrier, true).map_err(Failure::failed)?;
    let address: SocketAddr = address.parse().doing(|| format!("address {address}"))?;
    match role {
        "serve" => serve(carrier, address),
        "call" => call(carrier, address),
        _ => Err(Failure::failed(format!("no such role: {role}"))),
    }
}

/// Serves one connection after the other, until standard input ends.
fn serve(carrier: Carrier, address: SocketAddr) -> Outcome {
    let mut listening: Box<dyn Listening + Send> = match carrier {
        Carrier::Vianet => Box::new(ViaListening::bind(address)?),
        _ => Box::new(Socket::listen(carrier, address)?),
    };
    println!("{}", listening.place()?);
    std::thread::spawn(move || {
        loop {
            let ended = listening.next().and_then(|mut pipe| answer(&mut *pipe));
            if let Err(failure) = ended {
                eprintln!("vianet bench: {} server: {failure}", carrier.name());
            }
        }
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    Ok(())
}

/// The server's part of every series of a connection.
fn answer(pipe: &mut dyn Pipe) -> Outcome {
    loop {
        let mut header = [0; 16];
        if pipe.get(&mut header).is_err() {
            // The caller is gone, which is how it ends.
            return Ok(());
        }
        let size = u32::from_le_bytes(header[4..8].try_into().expect("4 bytes")) as usize;
        let count = u64::from_le_bytes(header[8..].try_into().expect("8 bytes"));
        pipe.put(&[1])?;
        let mut message = vec![0; size];
        for _ in 0..count {
            pipe.get(&mut message)?;
            if header[0] == b't' {
                pipe.put(&message)?;
            }
        }
        if header[0] == b's' {
            pipe.put(&[1])?;
        }
    }
}

/// Connects, says so, and carries out orders.
fn call(carrier: Carrier, address: SocketAddr) -> Outcome {
    let mut pipe: Box<dyn Pipe> = match carrier {
        Carrier::Vianet => Box::new(Via::connect(address)?),
        _ => Box::new(Socket::connect(carrier, address)?),
    };
    // The connection is what it shall be only once bytes have gone over it.
    begin(&mut *pipe, b't', 64, 1)?;
    let mut message = [0; 64];
    pipe.put(&message)?;
    pipe.get(&mut message)?;
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line.doing(|| "reading an order")?)
            .doing(|| "understanding an order")?;
        let done = carry_out(&mut *pipe, &order)?;
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &done).doing(|| "telling what was done")?;
        writeln!(out)
            .and_then(|()| out.flush())
            .doing(|| "telling what was done")?;
    }
    Ok(())
}

fn begin(pipe: &mut dyn Pipe, kind: u8, size: usize, count: u64) -> Outcome {
    let mut header = [0; 16];
    header[0] = kind;
    header[4..8].copy_from_slice(&(size as u32).to_le_bytes());
    header[8..].copy_from_slice(&count.to_le_bytes());
    pipe.put(&header)?;
    pipe.get(&mut [0])
}

fn carry_out(pipe: &mut dyn Pipe, order: &Order) -> Outcome<Done> {
    let (mut samples, mut messages) = (Vec::new(), 0);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(order.ms) {
        match order.work {
            Work::Trips(size) => {
                begin(pipe, b't', size, TRIPS)?;
                let mut message = vec![7; size];
                for _ in 0..TRIPS {
                    let start = Instant::now();
                    pipe.put(&message)?;
                    pipe.get(&mut message)?;
                    samples.push(start.elapsed().as_secs_f64() * 1e6);
                }
                messages += TRIPS;
            }
            Work::Stream(size) => {
                let count = STREAM_BYTES / size as u64;
                begin(pipe, b's', size, count)?;
                let message = vec![7; size];
                let start = Instant::now();
                for _ in 0..count {
                    pipe.put(&message)?;
                }
                pipe.get(&mut [0])?;
                let mib = STREAM_BYTES as f64 / f64::from(1 << 20);
                samples.push(mib / start.elapsed().as_secs_f64());
                messages += count;
            }
        }
    }
    Ok(Done { samples, messages })
}
