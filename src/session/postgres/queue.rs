//! What was asked for and is not done: requests in the order in which the server works on them.
//!
//! One entry per *sync point* (what the server answers with a ReadyForQuery) and one for all messages of the extended
//! protocol between two of them. An error in one of those makes the server skip everything up to the next Sync.

use std::collections::VecDeque;

/// Most entries. Eight bytes each.
const MOST: usize = 16_384;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// The login, which ends with a ReadyForQuery.
    Startup,
    /// Messages of the extended protocol: so many replies are to come; one of them may run something.
    Extended {
        replies: u32,
        runs: bool,
    },
    /// These are sync points, and end at a position in the client's stream.
    Sync {
        end: u32,
    },
    Query {
        end: u32,
    },
    Function {
        end: u32,
    },
    /// CopyData that was sent before the server had asked for it.
    CopyData,
    /// CopyDone or CopyFail, likewise.
    CopyEnd,
}

/// Data that goes to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum CopyIn {
    #[default]
    No,
    /// The server has asked for it.
    Begun,
    /// Some was sent.
    Data,
    /// CopyDone or CopyFail was sent.
    Ended,
}

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    /// The server ignores everything until a Sync.
    skipping: bool,
    copy_in: CopyIn,
    copy_out: bool,
    /// What is a sync point in itself has been answered: a ReadyForQuery before that is another one's.
    answered: bool,
    /// A Sync was taken for one that the copy in progress passes over.
    passed: bool,
    /// That copy failed, perhaps before it had read the Sync, and no other Sync was sent: this one may end the skipping.
    unsure: bool,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The server may run something, or may have run it without having said so in full.
    pub(super) fn runs(&self) -> bool {
        self.entries.iter().any(|entry| entry.runs())
    }

    pub(super) fn copying(&self) -> bool {
        self.copy_in != CopyIn::No || self.copy_out
    }

    /// A copy is in progress, or was sent data before it had asked for them.
    pub(super) fn has_copy(&self) -> bool {
        let data = |entry: &Entry| matches!(entry, Entry::CopyData | Entry::CopyEnd);
        self.copying() || self.passed || self.unsure || self.entries.iter().any(data)
    }

    /// Whether the server skips what is sent now, or runs it, is not known.
    pub(super) fn is_unsure(&self) -> bool {
        self.unsure
    }

    pub(super) fn copy_in(&self) -> CopyIn {
        self.copy_in
    }

    /// False: there are too many.
    #[must_use]
    pub(super) fn push(&mut self, entry: Entry) -> bool {
        let room = self.entries.len() < MOST;
        if room {
            self.entries.push_back(entry);
        }
        room
    }

    // The client's messages.

    /// One that is a request and a sync point in one.
    #[must_use]
    pub(super) fn runs_alone(&mut self, entry: Entry) -> bool {
        match self.skipping {
            false => self.push(entry),
            // It is not run. But it is one that was sent, and stays one until the next ReadyForQuery.
            true => self.extend_by(0, true),
        }
    }

    /// One of the extended protocol.
    #[must_use]
    pub(super) fn extend(&mut self, runs: bool) -> bool {
        self.extend_by(u32::from(!self.skipping), runs)
    }

    fn extend_by(&mut self, more: u32, also_runs: bool) -> bool {
        let Some(Entry::Extended { replies, runs }) = self.entries.back_mut() else {
            return self.push(Entry::Extended {
                replies: more,
                runs: also_runs,
            });
        };
        *runs |= also_runs;
        *replies = replies.saturating_add(more);
        *replies < u32::MAX
    }

    #[must_use]
    pub(super) fn sync(&mut self, end: u32) -> bool {
        // A copy passes over it; but one that has failed by now does not.
        self.passed |= self.copy_in == CopyIn::Begun;
        self.copy_in == CopyIn::Begun || {
            self.skipping = false;
            self.push(Entry::Sync { end })
        }
    }

    #[must_use]
    pub(super) fn copy_data(&mut self) -> bool {
        match self.copy_in {
            CopyIn::No => self.mark(Entry::CopyData),
            CopyIn::Begun | CopyIn::Data => {
                self.copy_in = CopyIn::Data;
                true
            }
            CopyIn::Ended => true,
        }
    }

    #[must_use]
    pub(super) fn copy_end(&mut self) -> bool {
        match self.copy_in {
            CopyIn::No => self.mark(Entry::CopyEnd),
            _ => {
                self.copy_in = CopyIn::Ended;
                true
            }
        }
    }

    /// Outside a copy the server ignores such messages, and so it does while it skips; one that is about to ask for data
    /// will read them.
    fn mark(&mut self, entry: Entry) -> bool {
        let ignored =
            self.skipping || self.entries.is_empty() || self.entries.back() == Some(&entry);
        ignored || self.push(entry)
    }

    // The server's messages.

    /// What the server works on.
    fn active(&mut self) -> Option<(usize, &mut Entry)> {
        let mut entries = self.entries.iter_mut().enumerate();
        entries.find(|(_, entry)| !entry.is_done())
    }

    /// ReadyForQuery: what was sent is settled up to which position. `None`: nothing of the kind was to come.
    #[must_use]
    pub(super) fn ready(&mut self) -> Option<u32> {
        let answered = self.answered;
        let (_, active) = self.active()?;
        let due = match active {
            Entry::Query { .. } | Entry::Function { .. } => answered,
            Entry::Extended { .. } => false,
            _ => true,
        };
        let end = match active {
            Entry::Sync { end } | Entry::Query { end } | Entry::Function { end } => *end,
            _ => 0,
        };
        if self.skipping || self.copying() || !due {
            return None;
        }
        self.answered = false;
        self.unsure = false;
        while self.entries.pop_front()?.is_done() {}
        // What was sent for a copy that did not come about.
        while let Some(Entry::CopyData | Entry::CopyEnd) = self.entries.front() {
            self.entries.pop_front();
        }
        Some(end)
    }

    /// ErrorResponse. `None`: nothing could fail.
    #[must_use]
    pub(super) fn error(&mut self) -> Option<()> {
        self.copy_in = CopyIn::No;
        self.copy_out = false;
        let (at, Entry::Extended { .. }) = self.active()? else {
            self.answered = true;
            return Some(()); // that of a sync point: its ReadyForQuery follows
        };
        let rest = self.entries.split_off(at);
        let sync = rest
            .iter()
            .position(|entry| matches!(entry, Entry::Sync { .. }));
        let (skipped, kept) = (sync.unwrap_or(rest.len()), sync.is_some());
        let runs = rest.iter().take(skipped).any(|entry| entry.runs());
        if std::mem::take(&mut self.passed) {
            // Its Sync was read by the copy, or is still to be: that makes no difference to this shape alone.
            let alone = matches!(rest.front(), Some(Entry::Extended { replies: 1, .. }));
            let other = |entry: &Entry| !matches!(entry, Entry::Sync { .. });
            if !alone || rest.iter().skip(1).any(other) || rest.len() > 2 {
                return None;
            }
            self.unsure = !kept;
        }
        self.entries.push_back(Entry::Extended { replies: 0, runs });
        self.entries.extend(rest.into_iter().skip(skipped));
        self.skipping = !kept;
        Some(())
    }

    /// Any other message that answers something. `None`: it does not.
    #[must_use]
    pub(super) fn reply(&mut self, kind: u8) -> Option<()> {
        let copy_in = self.copy_in;
        let copy_out = self.copy_out;
        let (at, active) = self.active()?;
        let fits = match active {
            Entry::Query { .. } => {
                matches!(kind, b'T' | b'D' | b'C' | b'I' | b'G' | b'H' | b'd' | b'c')
            }
            Entry::Function { .. } => kind == b'V',
            Entry::Extended { replies, .. } => {
                match kind {
                    b'1' | b'2' | b'3' | b'n' | b'T' | b'C' | b'I' | b's' => *replies -= 1,
                    b't' | b'D' | b'G' | b'H' | b'd' | b'c' => {}
                    _ => return None,
                }
                true
            }
            _ => false,
        };
        let fits = fits && (copy_out || !matches!(kind, b'd' | b'c'));
        if !fits {
            return None;
        }
        match kind {
            b'I' | b'V' => self.answered = true,
            b'G' if copy_in == CopyIn::No && !copy_out => return self.begin_copy_in(at),
            b'H' if copy_in == CopyIn::No && !copy_out => self.copy_out = true,
            b'G' | b'H' => return None,
            b'C' => {
                self.passed = false;
                self.answered = true;
                self.copy_in = CopyIn::No;
                self.copy_out = false;
            }
            _ => {}
        }
        Some(())
    }

    /// CopyInResponse: what was sent behind the request is read by the copy, which passes over Sync.
    fn begin_copy_in(&mut self, at: usize) -> Option<()> {
        self.copy_in = CopyIn::Begun;
        let behind = at + 1;
        match self.entries.get(at) {
            Some(Entry::Extended { replies: 2.., .. }) => {
                // What comes next is no data: an error follows, and then the server skips.
                self.copy_in = CopyIn::Ended;
                return Some(());
            }
            Some(_) => {}
            None => return None,
        }
        while let Some(next) = self.entries.get(behind) {
            match (next, self.copy_in) {
                (Entry::Sync { .. }, CopyIn::Begun) => self.passed = true,
                (Entry::CopyData, _) => self.copy_in = CopyIn::Data,
                (Entry::CopyEnd, _) => {
                    self.entries.remove(behind);
                    self.copy_in = CopyIn::Ended;
                    break;
                }
                // Whether the server reads it within the copy depends on where that fails.
                _ => return None,
            }
            self.entries.remove(behind);
        }
        Some(())
    }
}

impl Entry {
    /// Nothing more comes for it. (Data that no copy has asked for are ignored.)
    fn is_done(self) -> bool {
        match self {
            Self::Extended { replies, .. } => replies == 0,
            Self::CopyData | Self::CopyEnd => true,
            Self::Startup | Self::Sync { .. } | Self::Query { .. } | Self::Function { .. } => false,
        }
    }

    fn runs(self) -> bool {
        match self {
            Self::Query { .. } | Self::Function { .. } => true,
            Self::Extended { runs, .. } => runs,
            Self::Startup | Self::Sync { .. } | Self::CopyData | Self::CopyEnd => false,
        }
    }
}
