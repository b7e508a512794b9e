//! What goes to the peer: bytes, their end, acknowledgements, packets.

use super::*;

impl Core {
    /// Sends what can be sent. True if anything moved. Nobody waits: a thread that is at it looks once more.
    pub(super) fn send(&self) -> bool {
        if !self.link.is_ours() {
            return false;
        }
        let mut moved = false;
        self.sending.run(|| moved |= self.send_all());
        moved
    }

    fn send_all(&self) -> bool {
        let mut moved = false;
        self.clear(BLOCKED);
        while self.flags() & DEAD == 0 {
            if !self.link.has_room() {
                self.set(BLOCKED);
                break;
            }
            match self.send_next() {
                Ok(true) => moved = true,
                Ok(false) => break,
                Err(e) => {
                    match e.raw_os_error() {
                        Some(libc::ENOMEM | libc::EAGAIN) => self.set(BLOCKED),
                        _ => self.refused_by_device(&e),
                    }
                    break;
                }
            }
        }
        moved
    }

    /// The device may go on receiving and say nothing. So the connection is ended: the receive half is woken, takes what
    /// came before, and finds the end.
    fn refused_by_device(&self, e: &io::Error) {
        let _ = self.refused.set(format!("cannot send: {e}"));
        self.set(DEAD);
        self.link.disconnect();
    }

    /// Sends one message, if there is one to be sent.
    fn send_next(&self) -> io::Result<bool> {
        let flags = self.flags();
        let Some(peer) = self.peer.get() else {
            return Ok(false);
        };
        if !self.link.credit.allows_control() {
            self.feel(*peer)?;
            return Ok(false);
        }
        let sent = self.sent.load(Ordering::Relaxed);
        if flags & INTRODUCE != 0 {
            self.clear(INTRODUCE);
            let said = self.say(Type::Ack, 0, 0, &[], None, None, self.own);
            return self.undo(INTRODUCE, said);
        }
        // In this order: what is below `tail` when the stream is finished is all of it.
        let finished = self.tx.finished();
        let tail = self.tx.tail().map_err(io::Error::other)?;
        let fin = finished && flags & FIN_SENT == 0;
        if tail != sent || fin {
            if !self.link.credit.allows_data() {
                self.feel(*peer)?;
                return self.acknowledge_alone(false);
            }
            return self.send_data(sent, tail, fin, *peer);
        }
        if flags & END != 0 {
            // Only now: everything before it is on its way.
            if flags & DISCONNECTED != 0 {
                return Ok(false);
            }
            self.set(DISCONNECTED);
            let said = self.packet(Type::Disconnect, 0, 1, &[(flags >> REASON) as u8]);
            return match said {
                Err(e) => {
                    self.clear(DISCONNECTED);
                    Err(e)
                }
                said => said,
            };
        }
        for (flag, packet_flags) in [(ANSWER, FLAG_ANSWER), (ASK, 0)] {
            if flags & flag != 0 {
                self.clear(flag);
                let said = self.packet(Type::KeepAlive, packet_flags, 0, &[]);
                return self.undo(flag, said);
            }
        }
        if flags & SAY != 0 {
            // In this order: one that comes between is said again.
            self.clear(SAY);
            let word = self.said.load(Ordering::Acquire);
            let said = self.packet(Type::Word, 0, 1, &[word]);
            return self.undo(SAY, said);
        }
        self.acknowledge_alone(flags & SETTLE != 0)
    }

    /// A sign of life was asked for, and the peer has no room for messages: perhaps it cannot reach us to say that it took
    /// them. The path is felt by what it need not take.
    fn feel(&self, peer: Window) -> io::Result<()> {
        if self.flags() & ASK != 0 {
            self.clear(ASK);
            let felt = self.link.feel(&peer);
            self.undo(ASK, felt.map(|()| true))?;
        }
        Ok(())
    }

    fn undo(&self, flag: u32, said: io::Result<bool>) -> io::Result<bool> {
        if said.is_err() {
            self.set(flag);
        }
        said
    }

    fn acknowledge_alone(&self, settle: bool) -> io::Result<bool> {
        let owed = self.owed();
        self.clear(SETTLE);
        let worth = owed >= self.rx.size() as u64 / 4 || (settle && owed > 0);
        if !worth && !self.link.credit.owes() {
            return Ok(false);
        }
        let said = match (self.link.pair().immediates(), self.peer.get()) {
            (true, Some(peer)) => self.tell(None, false, *peer),
            _ => self.packet(Type::Ack, 0, 0, &[]),
        };
        self.undo(if settle { SETTLE } else { 0 }, said)
    }

    /// Bytes that were consumed and not acknowledged.
    pub(super) fn owed(&self) -> u64 {
        let told = self.told.load(Ordering::Relaxed);
        let consumed = self.rx.head().unwrap_or(told);
        consumed.wrapping_sub(told)
    }

    /// One message of the bytes from `sent` on.
    fn send_data(&self, sent: u64, tail: u64, fin: bool, peer: Window) -> io::Result<bool> {
        let size = self.tx.size() as u64;
        // Up to the end of the ring: the peer's writes are contiguous.
        let straight = size - (sent & (size - 1));
        let piece = match self.link.pair().immediates() {
            true => PIECE,
            false => PIECE_AND_PACKET,
        };
        let length = tail.wrapping_sub(sent).min(straight).min(piece as u64);
        let next = sent.wrapping_add(length);
        let fin = fin && next == tail;
        let data = match length {
            0 => None,
            n => Some(self.piece(sent, n as usize)?),
        };
        let to = Window {
            address: peer.address.wrapping_add(sent & (size - 1)),
            key: peer.key,
        };
        self.offered.store(next, Ordering::Release);
        if self.link.pair().immediates() {
            self.tell(data, fin, to)?;
        } else {
            let inside = length as usize <= IN_PACKET;
            let write = (length > 0 && !inside).then_some(to);
            let flags = if fin { FLAG_FIN } else { 0 };
            let none = Window::default();
            self.say(Type::Data, flags, length as u32, &[], data, write, none)?;
        }
        self.sent.store(next, Ordering::Release);
        if fin {
            self.set(FIN_SENT);
        }
        Ok(true)
    }

    /// Bytes of the ring, which do not wrap.
    fn piece(&self, from: u64, length: usize) -> io::Result<Piece> {
        let mut address = 0;
        let n = self.tx.with_spans_at(from, length, |spans| {
            address = spans[0].as_ptr() as u64;
            Ok(spans[0].len())
        })?;
        Ok(Piece {
            address,
            length: n.min(length) as u32,
            key: self.tx_key.local_key(),
        })
    }

    fn tell(&self, data: Option<Piece>, fin: bool, to: Window) -> io::Result<bool> {
        let consumed = self.consumed();
        let count = self.link.credit.count();
        let immediate = Immediate::new(fin, count, consumed).encode();
        self.link.write_tell(data, to, immediate, count)?;
        self.told.store(consumed, Ordering::Relaxed);
        Ok(true)
    }

    fn packet(&self, kind: Type, flags: u8, length: u32, payload: &[u8]) -> io::Result<bool> {
        self.say(kind, flags, length, payload, None, None, Window::default())
    }

    /// A packet with a payload of at most 16 bytes, in the words of [`Link::send_header`].
    #[allow(clippy::too_many_arguments)]
    fn say(
        &self,
        kind: Type,
        flags: u8,
        length: u32,
        payload: &[u8],
        data: Option<Piece>,
        write: Option<Window>,
        window: Window,
    ) -> io::Result<bool> {
        let consumed = self.consumed();
        let prefix = Prefix {
            received: self.link.credit.count(),
            window,
        };
        let header = Header {
            kind,
            flags,
            length,
            offset: self.sent.load(Ordering::Relaxed),
            acked: consumed,
            generation: self.generation,
        };
        let mut packet = [0; HEADER_SLOT - PREFIX_BYTES];
        let length = HEADER_BYTES + payload.len();
        packet[..HEADER_BYTES].copy_from_slice(&header.encode());
        packet[HEADER_BYTES..length].copy_from_slice(payload);
        let last = kind == Type::Disconnect;
        self.link
            .send_header(prefix, &packet[..length], data, write, last)?;
        self.told.store(consumed, Ordering::Relaxed);
        Ok(true)
    }

    fn consumed(&self) -> u64 {
        let told = self.told.load(Ordering::Relaxed);
        self.rx.head().unwrap_or(told)
    }

    pub(super) fn request_end(&self, reason: u8) {
        let _ = self
            .flags
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |flags| {
                (flags & END == 0).then_some(flags | END | u32::from(reason) << REASON)
            });
    }
}
