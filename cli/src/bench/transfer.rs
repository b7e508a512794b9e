//! Round trips and streams: ours beside kernel TCP, in turns, so that both see the same noise.

use super::cpu;
use super::peer::{Over, Peer};
use super::pipe::{Pipe, Tcp, Via};
use super::report::{Metric, Samples};
use super::work::{CHUNK, Work};
use crate::failure::{Failure, Outcome};
use std::time::Instant;

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Turns of each side.
    pub turns: u32,
    /// Round trips a turn.
    pub trips: u32,
    /// Bytes a turn of a stream.
    pub stream_bytes: u64,
}

/// 64-byte round trips against TCP loopback.
pub fn round_trip(
    metric: &'static str,
    over: Over,
    effort: Effort,
    peer: &Peer,
) -> Outcome<Metric> {
    let mut ours = connect(over, Work::Echo, peer)?;
    let mut tcp = Tcp::connect(peer.places.plain, Work::Echo)?;
    let (a, b) = in_turns(effort, &mut ours, &mut tcp, |pipe, into| {
        trips(pipe, effort, peer.pid(), into)
    })?;
    Ok(Metric::compare(
        metric,
        "us",
        "64-byte round trip over TCP loopback",
        a,
        Some(b),
    ))
}

/// A stream of 64 KiB writes against TCP loopback.
pub fn stream(metric: &'static str, over: Over, effort: Effort, peer: &Peer) -> Outcome<Metric> {
    let mut ours = connect(over, Work::Sink, peer)?;
    let mut tcp = Tcp::connect(peer.places.plain, Work::Sink)?;
    let (a, b) = in_turns(effort, &mut ours, &mut tcp, |pipe, into| {
        flow(pipe, effort, peer.pid(), into)
    })?;
    Ok(Metric::compare(
        metric,
        "MiB/s",
        "64 KiB writes over TCP loopback, processor time per 64 KiB",
        a,
        Some(b),
    ))
}

/// One turn of 64-byte round trips; `other` is the process on the far side.
pub fn trips(pipe: &mut dyn Pipe, effort: Effort, other: u32, into: &mut Samples) -> Outcome {
    let mut message = [7; 64];
    let before = cpu::of_both(other);
    for _ in 0..effort.trips {
        let start = Instant::now();
        pipe.put(&message)?;
        pipe.get(&mut message)?;
        into.add(start.elapsed().as_secs_f64() * 1e6);
    }
    into.add_cpu(
        cpu::of_both(other).saturating_sub(before),
        effort.trips.into(),
    );
    Ok(())
}

fn flow(pipe: &mut dyn Pipe, effort: Effort, other: u32, into: &mut Samples) -> Outcome {
    let chunk = vec![7; CHUNK];
    let chunks = effort.stream_bytes / CHUNK as u64;
    let before = cpu::of_both(other);
    let start = Instant::now();
    pipe.put(&(chunks * CHUNK as u64).to_le_bytes())?;
    for _ in 0..chunks {
        pipe.put(&chunk)?;
    }
    pipe.get(&mut [0])?;
    let mib = (chunks * CHUNK as u64) as f64 / f64::from(1 << 20);
    into.add(mib / start.elapsed().as_secs_f64());
    into.add_cpu(cpu::of_both(other).saturating_sub(before), chunks);
    Ok(())
}

/// Runs both sides in turns, after one turn each that does not count.
pub fn in_turns(
    effort: Effort,
    ours: &mut dyn Pipe,
    reference: &mut dyn Pipe,
    mut turn: impl FnMut(&mut dyn Pipe, &mut Samples) -> Outcome,
) -> Outcome<(Samples, Samples)> {
    let (mut a, mut b) = (Samples::default(), Samples::default());
    turn(ours, &mut Samples::default())?;
    turn(reference, &mut Samples::default())?;
    for _ in 0..effort.turns {
        turn(ours, &mut a)?;
        turn(reference, &mut b)?;
    }
    Ok((a, b))
}

fn connect(over: Over, work: Work, peer: &Peer) -> Outcome<Via> {
    let pipe = Via::connect(
        &format!("bench\\{}", work.server()),
        &peer.client_file(over)?,
    )?;
    let (got, transport) = (pipe.transport()?, over.transport());
    if got != transport.name() {
        return Err(Failure::failed(format!("asked for {transport}, got {got}")));
    }
    Ok(pipe)
}
