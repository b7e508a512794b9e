//! What comes from the peer, under the channel's driver token.

use super::*;

/// What one read found.
enum Read {
    /// There may be more.
    More,
    /// The socket is empty.
    Drained,
    /// A signal handler ran.
    Interrupted,
}

impl<L: Link> TcpWire<L> {
    /// Under the driver token: takes what is there, with `nap` after a short sleep until something is.
    pub(super) fn receive_all(
        &self,
        nap: bool,
        direct: &mut Direct<'_>,
    ) -> Result<Awaited, Broken> {
        if let Some(broken) = self.broken.get() {
            return Err(broken.clone());
        }
        let received = self.tx_words.read_alone(|before| {
            if before == Before::Died {
                self.orphaned();
            }
            self.receive_alone(nap, direct)
        });
        received.unwrap_or(Ok(Awaited::Nothing))
    }

    fn receive_alone(&self, nap: bool, direct: &mut Direct<'_>) -> Result<Awaited, Broken> {
        // Who had it before may have found it.
        if let Some(broken) = self.broken.get() {
            return Err(broken.clone());
        }
        let mut payload = Payload::new(&self.rx, direct);
        let mut moved = false;
        let mut flags = match nap {
            true => RecvFlags::empty(),
            false => RecvFlags::DONTWAIT,
        };
        let mut rounds = 0..ROUNDS;
        loop {
            match self.read(flags, &mut payload, &mut moved) {
                // What the receiver has no room for stays where it is cheapest.
                Ok(Read::More)
                    if (payload.is_enough() || rounds.next().is_none()) && !self.holds() =>
                {
                    break;
                }
                Ok(Read::More) => flags = RecvFlags::DONTWAIT,
                Ok(Read::Interrupted) if flags.is_empty() => return Ok(Awaited::Interrupted),
                Ok(_) => break,
                Err(broken) => {
                    if matches!(broken, Broken::Corrupt(_)) {
                        self.tx_words.request_end(EndReason::ProtocolError as u8);
                        self.send_locked();
                    }
                    self.tx_words.set(words::DEAD);
                    return Err(self.broken.get_or_init(|| broken).clone());
                }
            }
        }
        if self.tx_words.flags() & words::ANSWER != 0 {
            self.send_locked();
        }
        Ok(if moved {
            Awaited::Moved
        } else {
            Awaited::Nothing
        })
    }

    /// The link has something, for which nobody would come again. (It is bounded: nothing is read from the socket meanwhile.)
    fn holds(&self) -> bool {
        // SAFETY: under the driver token, and `read_alone`.
        unsafe { self.link.holds() }
    }

    /// Reads once.
    fn read(
        &self,
        flags: RecvFlags,
        sink: &mut Payload<'_, '_>,
        moved: &mut bool,
    ) -> Result<Read, Broken> {
        let mut scratch = [0; SCRATCH];
        let stashed = self.rx_words.unstash(&mut scratch);
        let (remaining, fin) = self.rx_words.remaining();
        let (mut asked, mut straight) = (SCRATCH - stashed, 0);
        let result = if remaining > 0 {
            let mut read = Ok(0);
            let filled = sink.fill(remaining, |spans, behind| {
                let room = spans.iter().map(|span| span.len()).sum::<usize>();
                asked = room + behind.min(SCRATCH);
                let scratch = &mut scratch[..behind.min(SCRATCH)];
                read = self.read_spans(spans, scratch, flags);
                straight = read.as_ref().map_or(0, |n| (*n).min(room));
                straight
            });
            match filled {
                Ok(_) => read,
                Err(e) => return Err(Broken::Corrupt(e.to_string())),
            }
        } else {
            let room = &mut [IoSliceMut::new(&mut scratch[stashed..])];
            // SAFETY: under the driver token, and `read_alone`.
            unsafe { self.link.recv(room, flags) }
        };
        let n = match result {
            Ok(0) => {
                self.rx_words.stash(&scratch[..stashed]);
                return Err(self.end_of_file(remaining, stashed));
            }
            Ok(n) => n,
            Err(e) => {
                self.rx_words.stash(&scratch[..stashed]);
                return match e {
                    Fault::System(Errno::AGAIN) => Ok(Read::Drained),
                    Fault::System(Errno::INTR) => Ok(Read::Interrupted),
                    e => {
                        // The socket may know of nothing: so that the peer hears of it.
                        let _ = rustix::net::shutdown(self.link.socket(), Shutdown::Both);
                        Err(Broken::Transport(format!("read: {e}")))
                    }
                };
            }
        };
        if straight > 0 {
            *moved = true;
            self.rx_words.set_remaining(remaining - straight, fin);
            self.end_if_complete(remaining - straight, fin);
        }
        self.take(&scratch[..stashed + n - straight], sink, moved)?;
        // SAFETY: under the driver token, and `read_alone`.
        Ok(match unsafe { self.link.is_drained(n, asked) } {
            true => Read::Drained,
            false => Read::More,
        })
    }

    /// Reads into the ring's spans and then into `scratch`.
    fn read_spans(
        &self,
        spans: &mut [IoSliceMut<'_>],
        scratch: &mut [u8],
        flags: RecvFlags,
    ) -> Result<usize, Fault> {
        let scratch = IoSliceMut::new(scratch);
        // SAFETY: under the driver token, and `read_alone`.
        let receive = |slices: &mut [IoSliceMut<'_>]| unsafe { self.link.recv(slices, flags) };
        match spans {
            [a] => receive(&mut [IoSliceMut::new(a), scratch]),
            [a, b] => receive(&mut [IoSliceMut::new(a), IoSliceMut::new(b), scratch]),
            _ => receive(&mut [scratch]),
        }
    }

    /// Takes packets, and the beginning of one.
    fn take(
        &self,
        mut bytes: &[u8],
        sink: &mut Payload<'_, '_>,
        moved: &mut bool,
    ) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let (remaining, fin) = self.rx_words.remaining();
            if remaining > 0 {
                let n = sink.push(&bytes[..bytes.len().min(remaining)])?;
                if n == 0 {
                    return Err(Broken::Corrupt("no room for announced data".into()));
                }
                *moved = true;
                bytes = &bytes[n..];
                self.rx_words.set_remaining(remaining - n, fin);
                self.end_if_complete(remaining - n, fin);
                continue;
            }
            let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
                self.rx_words.stash(bytes);
                return Ok(());
            };
            let header = Header::decode(header).map_err(|e| Broken::Corrupt(e.0))?;
            let control = match header.kind {
                Type::Data => 0,
                _ => header.length as usize,
            };
            if rest.len() < control && matches!(header.kind, Type::Disconnect | Type::Word) {
                self.rx_words.stash(bytes);
                return Ok(());
            }
            self.rx_words.count_packet();
            self.check(&header, moved)?;
            match header.kind {
                Type::Data => self.accept_data(&header, moved)?,
                Type::Ack => {}
                Type::KeepAlive if header.flags & FLAG_ANSWER != 0 => {}
                Type::KeepAlive => self.tx_words.set(words::ANSWER),
                Type::Word => self.tx_words.set_told(rest[0]),
                Type::Disconnect => return Err(self.disconnected(&rest[..control])),
                kind => {
                    return Err(Broken::Corrupt(format!(
                        "{kind:?} on a channel that stands, allowed are data, ack, disconnect, keep-alive and word"
                    )));
                }
            }
            bytes = &rest[control..];
        }
        Ok(())
    }

    /// What must be true of every packet; takes its acknowledgement.
    fn check(&self, header: &Header, moved: &mut bool) -> Result<(), Broken> {
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
        let (acked, offered) = (self.tx.head(), self.tx_words.offered());
        let forward = header.acked.wrapping_sub(acked);
        if forward > offered.wrapping_sub(acked) {
            return Err(Broken::Corrupt(format!(
                "acknowledges byte {}, allowed are {acked} to {offered}",
                header.acked
            )));
        }
        if forward > 0 {
            self.tx.consume_to(header.acked);
            *moved = true;
        }
        Ok(())
    }

    /// A data header: its payload may come.
    fn accept_data(&self, header: &Header, moved: &mut bool) -> Result<(), Broken> {
        let (length, room) = (header.length as usize, self.rx.room()?);
        if length > room {
            return Err(Broken::Corrupt(format!(
                "{length} bytes of data, credit was given for {room}"
            )));
        }
        let fin = header.flags & FLAG_FIN != 0;
        if self.rx.finished() && (length > 0 || !fin) {
            return Err(Broken::Corrupt(format!(
                "{length} bytes of data after the end of the stream at {}",
                header.offset
            )));
        }
        if length == 0 && fin {
            *moved = true;
        }
        if length > 0 {
            self.tx_words.set_answered(header.acked);
        }
        self.rx_words.set_remaining(length, fin);
        self.end_if_complete(length, fin);
        Ok(())
    }

    fn end_if_complete(&self, remaining: usize, fin: bool) {
        if remaining == 0 && fin {
            self.rx.finish();
            self.rx_words.set_remaining(0, false);
        }
    }

    fn disconnected(&self, payload: &[u8]) -> Broken {
        match packet::decode_disconnect(payload) {
            Ok(reason) => Broken::Ended(reason),
            Err(e) => Broken::Corrupt(e.0),
        }
    }

    fn end_of_file(&self, remaining: usize, stashed: usize) -> Broken {
        Broken::Transport(match (remaining, stashed) {
            (0, 0) => "the connection ended without a disconnect packet".into(),
            (0, n) => format!("the connection ended {n} bytes into a packet's header"),
            (n, _) => format!("the connection ended {n} bytes before the end of a packet"),
        })
    }
}
