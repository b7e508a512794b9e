//! What goes to the peer, under the lock of the send direction.
//!
//! Whatever a call has accepted is sent before it returns, small segments too. (MSG_MORE in mid-stream saves a tenth on loopback,
//! but what the kernel keeps dies with the process: a socket closed with unread acknowledgements resets.)

use super::*;

impl<L: Link> TcpWire<L> {
    /// Under the lock: sends until there is nothing more to send, or the socket is full. True if anything moved.
    fn send_all(&self) -> bool {
        let mut moved = false;
        loop {
            if self.tx_words.flags() & words::DEAD != 0 {
                return moved;
            }
            match self.send_begun() {
                Ok(any) => moved |= any,
                Err(e) => {
                    match e.kind() {
                        io::ErrorKind::Interrupted => continue,
                        io::ErrorKind::WouldBlock => self.tx_words.set(words::BLOCKED),
                        _ => self.die(),
                    }
                    break;
                }
            }
            self.tx_words.clear(words::BLOCKED);
            if !self.begin_next() {
                break;
            }
        }
        if self.tx_words.flags() & words::END != 0 {
            // A packet that is cut off here, or bytes without a disconnect packet behind them, are a break of the
            // transport for the peer: what was not delivered is never taken for an end in good order.
            self.tx_words.set(words::DEAD);
            // Only this direction: with the other shut too, a byte that still comes would make the kernel reset the
            // connection and drop what it has not delivered.
            // SAFETY: under the lock.
            unsafe { self.link.finish() };
            let _ = rustix::net::shutdown(self.link.socket(), Shutdown::Write);
        }
        moved
    }

    /// Sends what is left of the packet that was begun.
    fn send_begun(&self) -> io::Result<bool> {
        let mut moved = false;
        loop {
            let pending = self.tx_words.pending();
            let sent = self.tx_words.sent();
            let payload = self.tx_words.offered().wrapping_sub(sent) as usize;
            if pending.is_none() && payload == 0 {
                // SAFETY: under the lock.
                unsafe { self.link.flush()? };
                return Ok(moved);
            }
            let (bytes, total) = match &pending {
                Some(p) => p.bytes(&self.tx_words, self.generation),
                None => ([0; words::CONTROL_BYTES], 0),
            };
            let left = pending.map_or(0, |p| p.left.min(total));
            let head = &bytes[total - left..total];
            // SAFETY: under the lock.
            let send = |slices: &[IoSlice<'_>]| unsafe { Ok(self.link.send(slices)?) };
            let n = if payload == 0 {
                send(&[IoSlice::new(head)])?
            } else {
                self.tx
                    .with_spans_at(sent, payload, |spans| match (head, spans) {
                        ([], spans) => send(spans),
                        (_, [a]) => send(&[IoSlice::new(head), *a]),
                        (_, [a, b, ..]) => send(&[IoSlice::new(head), *a, *b]),
                        (_, []) => Ok(0),
                    })?
            };
            moved = true;
            if let Some(p) = pending {
                let left = left - n.min(left);
                self.tx_words.set_pending(Pending { left, ..p });
            }
            self.tx_words
                .set_sent(sent.wrapping_add(n.saturating_sub(left) as u64));
        }
    }

    /// Begins the next packet, if there is one to be sent.
    fn begin_next(&self) -> bool {
        let flags = self.tx_words.flags();
        // In this order: what is below `tail` when the stream is finished is all of it.
        let finished = self.tx.finished();
        let sent = self.tx_words.sent();
        let Ok(tail) = self.tx.tail() else {
            self.die();
            return false;
        };
        let consumed = self.rx.head().unwrap_or(self.tx_words.told());
        let owed = consumed.wrapping_sub(self.tx_words.told());
        let fin = finished && flags & words::FIN_SENT == 0;
        let begin = |kind, packet_flags, reason, offered| {
            let pending = Pending::new(kind, packet_flags, reason);
            self.tx_words.begin(pending, offered, consumed);
            true
        };
        if tail != sent || fin {
            if fin {
                self.tx_words.set(words::FIN_SENT);
            }
            self.tx_words.clear(words::SETTLE);
            return begin(Type::Data, if fin { FLAG_FIN } else { 0 }, 0, tail);
        }
        if flags & words::END != 0 {
            // Only now: everything before it is in the kernel.
            if flags & words::DISCONNECTED != 0 {
                return false;
            }
            self.tx_words.set(words::DISCONNECTED);
            return begin(Type::Disconnect, 0, self.tx_words.end_reason(), sent);
        }
        for (flag, packet_flags) in [(words::ANSWER, FLAG_ANSWER), (words::ASK, 0)] {
            if flags & flag != 0 {
                self.tx_words.clear(flag);
                return begin(Type::KeepAlive, packet_flags, 0, sent);
            }
        }
        if flags & words::SAY != 0 {
            // In this order: one that comes between is said again.
            self.tx_words.clear(words::SAY);
            return begin(Type::Word, 0, self.tx_words.said(), sent);
        }
        let settle = flags & words::SETTLE != 0;
        self.tx_words.clear(words::SETTLE);
        if owed >= self.rx.size() as u64 / 2 || (settle && owed > 0) {
            return begin(Type::Ack, 0, 0, sent);
        }
        false
    }

    /// Sends what can be sent. True if anything moved.
    pub(in super::super) fn send_locked(&self) -> bool {
        let mut moved = false;
        self.tx_words.alone(|before| match before {
            Before::Finished => moved |= self.send_all(),
            Before::Died => self.orphaned(),
        });
        moved
    }
}
