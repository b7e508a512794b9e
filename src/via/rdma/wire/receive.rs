//! What the peer sent: taken, checked, told.

use super::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Longest sleep without a look at the connection's events.
const NAP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};

impl Core {
    /// Everything that came. Under the driver token.
    pub(super) fn receive_all(&self) -> Result<bool, Broken> {
        self.receive_by(Self::receive)
    }

    /// The same for a thread that spins: with nothing there, nothing is armed, and the connection's end not looked for.
    pub(super) fn look(&self) -> Result<bool, Broken> {
        self.receive_by(|core, moved| {
            for round in 0..ROUNDS {
                if core.link.look(|message| core.take(message, moved))? == 0 {
                    return Ok(round > 0);
                }
            }
            Ok(true)
        })
    }

    /// The same, and waits in the kernel for a moment if nothing is there.
    pub(super) fn nap(&self) -> Result<Awaited, Broken> {
        if self.receive_all()? {
            return Ok(Awaited::Moved);
        }
        let mut fds = [PollFd::from_borrowed_fd(
            self.link.pair().fd(),
            PollFlags::IN,
        )];
        match poll(&mut fds, Some(&NAP)) {
            Err(Errno::INTR) => return Ok(Awaited::Interrupted),
            Ok(0) | Err(_) => return Ok(Awaited::Nothing),
            Ok(_) => {}
        }
        Ok(match self.look()? {
            true => Awaited::Moved,
            false => Awaited::Nothing,
        })
    }

    fn receive_by(
        &self,
        receive: impl FnOnce(&Self, &mut bool) -> Result<bool, Broken>,
    ) -> Result<bool, Broken> {
        if let Some(broken) = self.broken.get() {
            return Err(broken.clone());
        }
        if !self.link.is_ours() {
            let text = "the connection stayed with the process that was forked from";
            return Err(self
                .broken
                .get_or_init(|| Broken::Transport(text.into()))
                .clone());
        }
        let mut moved = false;
        match receive(self, &mut moved) {
            Ok(worked) => {
                if worked {
                    self.send();
                }
                Ok(moved)
            }
            Err(why) => {
                match why {
                    Broken::Corrupt(_) => {
                        self.request_end(EndReason::ProtocolError as u8);
                        self.send();
                    }
                    // A device that gave up has told only us: the peer may wait for what never comes.
                    Broken::Transport(_) => self.link.disconnect(),
                    Broken::Ended(_) => {}
                }
                self.set(DEAD);
                let why = match (why, self.refused.get()) {
                    (Broken::Transport(text), Some(refused)) => {
                        Broken::Transport(format!("{refused}; {text}"))
                    }
                    (why, _) => why,
                };
                Err(self.broken.get_or_init(|| why).clone())
            }
        }
    }

    fn receive(&self, moved: &mut bool) -> Result<bool, Broken> {
        let mut worked = false;
        for _ in 0..ROUNDS {
            if self.poll(moved)? {
                worked = true;
                continue;
            }
            if !worked && let Err(over) = self.link.look_around() {
                // What came before the end is received before it; a peer that goes on all the same is not waited for.
                for _ in 0..ROUNDS {
                    if !self.poll(moved)? {
                        break;
                    }
                }
                return Err(over.into());
            }
            break;
        }
        Ok(worked)
    }

    /// Takes what is finished. False: nothing.
    fn poll(&self, moved: &mut bool) -> Result<bool, Broken> {
        let n = self.link.poll(|message| self.take(message, moved));
        n.map(|n| n > 0)
    }

    fn take(&self, message: Message<'_>, moved: &mut bool) -> Result<(), Broken> {
        self.heard.fetch_add(1, Ordering::Relaxed);
        match message {
            Message::Written(length, immediate) => {
                let said = Immediate::decode(immediate).map_err(|e| Broken::Corrupt(e.0))?;
                if !self.link.credit.heard_low(said.received) {
                    return Err(self.bad_count(said.received.into()));
                }
                self.acknowledged(message::position(self.tx.head(), said.acked), moved)?;
                self.arrived(length as usize, said.fin, None, moved)
            }
            Message::Packet(bytes) => self.take_packet(bytes, moved),
        }
    }

    fn take_packet(&self, bytes: &[u8], moved: &mut bool) -> Result<(), Broken> {
        let corrupt = |e: packet::PacketError| Broken::Corrupt(e.0);
        let (prefix, packet) = Prefix::decode(bytes).map_err(corrupt)?;
        if !self.link.credit.heard(prefix.received) {
            return Err(self.bad_count(prefix.received));
        }
        let Some((header, payload)) = packet.split_first_chunk::<HEADER_BYTES>() else {
            return Err(Broken::Corrupt(format!(
                "message of {} bytes, at least {BARE_BYTES}",
                bytes.len()
            )));
        };
        let header = Header::decode(header).map_err(corrupt)?;
        self.introduced(&prefix)?;
        if header.generation != self.generation {
            return Err(Broken::Corrupt(format!(
                "generation {} on a channel of generation {}",
                header.generation, self.generation
            )));
        }
        let expected = self.rx.tail();
        if header.offset != expected {
            return Err(Broken::Corrupt(format!(
                "{:?} at stream offset {}, expected is {expected}",
                header.kind, header.offset
            )));
        }
        self.acknowledged(header.acked, moved)?;
        let length = header.length as usize;
        let written = header.kind == Type::Data && payload.is_empty();
        if !written && payload.len() != length {
            return Err(Broken::Corrupt(format!(
                "{} bytes of payload where {length} are announced",
                payload.len()
            )));
        }
        match header.kind {
            Type::Data => {
                let payload = (!payload.is_empty()).then_some(payload);
                self.arrived(length, header.flags & FLAG_FIN != 0, payload, moved)
            }
            Type::Ack => Ok(()),
            Type::KeepAlive if header.flags & FLAG_ANSWER != 0 => Ok(()),
            Type::KeepAlive => {
                self.set(ANSWER);
                Ok(())
            }
            Type::Word => {
                let word = payload.first().copied().unwrap_or_default();
                self.word.store(word, Ordering::Release);
                Ok(())
            }
            Type::Disconnect => Err(match packet::decode_disconnect(payload) {
                Ok(reason) => Broken::Ended(reason),
                Err(e) => corrupt(e),
            }),
            kind => Err(Broken::Corrupt(format!(
                "{kind:?} on a channel that stands, allowed are data, ack, disconnect, keep-alive and word"
            ))),
        }
    }

    /// The peer's window: in its first packet, and never again.
    fn introduced(&self, prefix: &Prefix) -> Result<(), Broken> {
        let known = self.peer.get().is_some();
        if known == (prefix.window == Window::default()) {
            if !known {
                let _ = self.peer.set(prefix.window);
            }
            return Ok(());
        }
        Err(Broken::Corrupt(match known {
            true => "a second receive ring".into(),
            false => "the first packet names no receive ring".into(),
        }))
    }

    fn acknowledged(&self, position: u64, moved: &mut bool) -> Result<(), Broken> {
        let (acked, offered) = (self.tx.head(), self.offered.load(Ordering::Acquire));
        let forward = position.wrapping_sub(acked);
        if forward > offered.wrapping_sub(acked) {
            return Err(Broken::Corrupt(format!(
                "acknowledges byte {position}, allowed are {acked} to {offered}"
            )));
        }
        if forward > 0 {
            self.tx.consume_to(position);
            *moved = true;
        }
        Ok(())
    }

    /// So many bytes stand in the ring, or are in `payload`.
    fn arrived(
        &self,
        length: usize,
        fin: bool,
        payload: Option<&[u8]>,
        moved: &mut bool,
    ) -> Result<(), Broken> {
        let room = self.rx.room()?;
        if length > room {
            return Err(Broken::Corrupt(format!(
                "{length} bytes of data, credit was given for {room}"
            )));
        }
        if self.rx.finished() && length > 0 {
            return Err(Broken::Corrupt(format!(
                "{length} bytes of data after the end of the stream"
            )));
        }
        match payload {
            _ if length == 0 => {}
            Some(bytes) => {
                self.rx.push(bytes)?;
            }
            None => {
                // The peer's device put them there.
                self.rx
                    .with_room(length, |_| Ok(length))
                    .map_err(|e| Broken::Corrupt(e.to_string()))?;
            }
        }
        *moved |= length > 0 || fin;
        if fin {
            self.rx.finish();
        }
        Ok(())
    }

    fn bad_count(&self, count: u32) -> Broken {
        Broken::Corrupt(format!(
            "the peer received {count} messages, which were not sent"
        ))
    }
}
