//! Where the payload of data packets goes: into the room of the thread that receives while the ring is empty, which saves a
//! copy, else into the ring.

use crate::via::channel::Direct;
use crate::via::packet::HEADER_BYTES;
use crate::via::ring::{Corrupt, RingProducer};
use std::io::{self, IoSliceMut};

/// For one drive, under the driver token: nobody else produces. The thread that has room holds the receive direction's
/// lock: nobody else consumes.
pub struct Payload<'a, 'b> {
    ring: &'a RingProducer,
    room: &'a mut Direct<'b>,
}

impl<'a, 'b> Payload<'a, 'b> {
    pub fn new(ring: &'a RingProducer, room: &'a mut Direct<'b>) -> Self {
        Self { ring, room }
    }

    /// The receiver has all it has room for, without the ring.
    pub fn is_enough(&self) -> bool {
        self.room.filled() > 0 && !self.room.is_open()
    }

    /// Puts bytes behind what has come, and says how many found room.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<usize, Corrupt> {
        let mut n = 0;
        if self.passes()? {
            let room = self.room.rest();
            n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
            self.passed(n);
            bytes = &bytes[n..];
        }
        Ok(n + self.ring.push(bytes)?)
    }

    /// Lets `read` put up to `max` bytes into the spans that it is given, and then so many elsewhere that may follow
    /// them; it says how many are in the spans. `accept_data` saw that the ring has room for them.
    ///
    /// # Errors
    /// `InvalidData` where an index of the other side is impossible.
    pub fn fill(
        &mut self,
        max: usize,
        read: impl FnOnce(&mut [IoSliceMut<'_>], usize) -> usize,
    ) -> io::Result<()> {
        if !self.passes().map_err(io::Error::other)? {
            let all = |spans: &mut [IoSliceMut<'_>]| Ok(read(spans, usize::MAX));
            return self.ring.with_room(max, all).map(drop);
        }
        let room = self.room.rest();
        let n = room.len().min(max);
        // The next packet's header, so that its payload goes the same way; nothing where this one is not at its end.
        let behind = if n == max { HEADER_BYTES } else { 0 };
        let filled = read(&mut [IoSliceMut::new(&mut room[..n])], behind);
        self.passed(filled);
        Ok(())
    }

    fn passes(&self) -> Result<bool, Corrupt> {
        Ok(self.room.is_open() && self.ring.is_empty()?)
    }

    fn passed(&mut self, n: usize) {
        self.room.fill(n);
        self.ring.pass(n);
    }
}
