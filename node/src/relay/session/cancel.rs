//! The part of a session that has to do with requests to cancel: it finds out by which key its server knows it, and what a
//! connection that only cancels means ([`crate::cancels`]).

use super::super::backend_key::{BackendKey, Found};
use super::{Session, UpstreamEnd};
use crate::cancels::Meant;
use crate::pg::wire::Outbox;
use rustix::io::Errno;
use std::time::Duration;

/// Length and code of a request to cancel; the key is behind it.
const HEAD: usize = 8;
const CODE: u32 = 80_877_102;

impl Session {
    /// The startup packet goes to the server: its answer has the key.
    pub(super) fn expect_key(&mut self) {
        self.key = Some(BackendKey::default());
    }

    /// One read of the server's bytes, into those that were not passed on yet. Whether the key is among them is known before the
    /// client has it.
    pub(super) fn read_held(&mut self, now: Duration) {
        let mut buffer = [0; 4096];
        let n = match rustix::io::read(&self.upstream, &mut buffer) {
            Ok(0) => return self.hold(now, false),
            Ok(n) => n,
            Err(Errno::AGAIN) => return self.up_in = false,
            Err(Errno::INTR) => return,
            Err(_) => return self.hold(now, true),
        };
        self.login_held.extend_from_slice(&buffer[..n]);
        let Some(found) = self.key.as_mut().map(|key| key.look(&buffer[..n])) else {
            return;
        };
        if let Found::Key(now) = &found {
            let channel = self.channel.accept.channel_id;
            let cancels = &self.served.cancels;
            cancels.logged_in(channel, now, self.known.as_deref());
        }
        if found != Found::NotYet {
            (self.key, self.known) = (None, None);
        }
    }

    /// What the server says between the proof and its key.
    pub(super) fn move_out_until_key(&mut self, now: Duration) -> usize {
        let mut moved = 0;
        while self.key.is_some()
            && self.up_in
            && self.end == UpstreamEnd::Open
            && self.login_held.is_empty()
            && self.may_serve()
        {
            self.read_held(now);
            moved += self.flush_login();
        }
        moved
    }

    /// The key will not be seen: driver and server encrypt, or it is a protocol of their own.
    pub(super) fn key_is_hidden(&mut self) {
        self.key = None;
        let channel = self.channel.accept.channel_id;
        self.served.cancels.hidden(channel);
    }

    /// A whole request to cancel is in `login_in`. How much was moved, if it means nobody.
    pub(super) fn cancel_came(&mut self, now: Duration) -> Option<usize> {
        let key = self.login_in.get(HEAD..).unwrap_or_default();
        match self.served.cancels.meant(key) {
            Meant::Backend(key) => {
                let mut out = Outbox::default();
                out.sized(|body| {
                    body.extend(CODE.to_be_bytes());
                    body.extend(&*key);
                });
                self.login_in = out.into_bytes();
            }
            Meant::Hidden => {}
            // As a server does with a key that it does not know.
            Meant::Nobody => return Some(self.end_login(now, &[], "cancel-dropped")),
        }
        self.login_unwatched = true;
        None
    }
}
