//! What a resumption takes over from the broken channel: both streams at their offsets, whatever carried them.
//!
//! The rings of the old channel are the retention. The new channel's rings begin where the old ones stand: bytes that
//! the local reader has not consumed go into the new receive ring, bytes that the peer has not consumed into the new send
//! ring, of which the wire sends those that the peer has not received. So the old channel can be dropped at once, and
//! an offset means the same byte on both.
//!
//! While this runs nobody may use the old channel: its reader and writer are held back by their owner, and its wire is
//! not driven any more.

use super::Channel;
use super::handshake::Offsets;
use super::ring::Ring;
use std::io;

/// What of the peer's stream is at this side; goes to the peer before [`carry`], with the same numbers.
///
/// # Errors
/// `InvalidData` where the old ring's indexes are impossible.
pub fn offsets(old: &Channel) -> io::Result<Offsets> {
    Ok(Offsets {
        consumed: old.rx.head(),
        received: old.rx.tail().map_err(io::Error::other)?,
    })
}

/// Fills the rings of the new channel. `told` is what [`offsets`] said to the peer, `peer` what the peer said of our
/// stream; the wire sends from `peer.received` on.
///
/// # Errors
/// `InvalidData` where the peer's offsets cannot be those of our stream, the old channel went on meanwhile, or the
/// rings are too small for what it holds.
pub fn carry(old: &Channel, rx: &Ring, tx: &Ring, told: Offsets, peer: Offsets) -> io::Result<()> {
    carry_received(old, rx, told)?;
    carry_accepted(old, tx, peer)
}

fn carry_received(old: &Channel, rx: &Ring, told: Offsets) -> io::Result<()> {
    let consumed = old.rx.head();
    let unread = told.received.wrapping_sub(consumed);
    if unread > old.rx.size() as u64 {
        return invalid(format!(
            "{consumed} bytes were consumed, {} were told to the peer as received",
            told.received
        ));
    }
    rx.start_at(consumed);
    let into = rx.producer();
    room_for(unread, into.size())?;
    copy(consumed, unread, &into, |from, piece| {
        old.rx.peek(from.wrapping_sub(consumed) as usize, piece)
    })?;
    // A stream that ended before `told.received` grew any more; else the peer says so again.
    if old.rx.finished() && old.rx.tail().ok() == Some(told.received) {
        into.finish();
    }
    Ok(())
}

fn carry_accepted(old: &Channel, tx: &Ring, peer: Offsets) -> io::Result<()> {
    let finished = old.tx.finished();
    let (acked, accepted) = (old.tx.head().map_err(io::Error::other)?, old.tx.tail());
    let held = accepted.wrapping_sub(acked);
    let (consumed, received) = (
        peer.consumed.wrapping_sub(acked),
        peer.received.wrapping_sub(acked),
    );
    if consumed > received || received > held {
        return invalid(format!(
            "the peer consumed {} and received {} bytes of our stream, of which {acked} were acknowledged and \
             {accepted} accepted",
            peer.consumed, peer.received
        ));
    }
    tx.start_at(peer.consumed);
    let into = tx.producer();
    room_for(held - consumed, into.size())?;
    copy(peer.consumed, held - consumed, &into, |from, piece| {
        old.tx.copy_retained(from, piece)
    })?;
    if finished {
        into.finish();
    }
    Ok(())
}

/// Whether rings of this size have room for what either direction of the channel holds.
pub fn fits(old: &Channel, ring_bytes: u32) -> bool {
    let accepted = old.accepted().wrapping_sub(old.acked());
    old.come() <= ring_bytes as usize && accepted <= u64::from(ring_bytes)
}

fn room_for(held: u64, size: usize) -> io::Result<()> {
    match held <= size as u64 {
        true => Ok(()),
        false => invalid(format!(
            "{held} bytes are held, a ring of {size} has no room for them"
        )),
    }
}

/// Copies `n` bytes from stream offset `from` on.
fn copy(
    mut from: u64,
    mut n: u64,
    into: &super::ring::RingProducer,
    read: impl Fn(u64, &mut [u8]) -> Result<usize, super::ring::Corrupt>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    while n > 0 {
        let piece = buffer.len().min(n as usize);
        let piece = &mut buffer[..piece];
        let got = read(from, piece).map_err(io::Error::other)?;
        if got != piece.len() || into.push(piece).map_err(io::Error::other)? != got {
            return invalid(format!("the old channel changed at byte {from}"));
        }
        from = from.wrapping_add(got as u64);
        n -= got as u64;
    }
    Ok(())
}

fn invalid<T>(text: String) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}
