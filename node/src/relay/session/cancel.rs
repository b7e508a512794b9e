//! The part of a session that has to do with requests to cancel ([`crate::cancels`]).

use super::Session;
use crate::cancels::Meant;
use crate::pg::wire::Outbox;
use std::time::Duration;

/// Length and code of a request to cancel; the key is behind it.
const HEAD: usize = 8;
const CODE: u32 = 80_877_102;

impl Session {
    /// The server has told the session's key.
    pub(super) fn key_came(&self, now: &[u8]) {
        let channel = self.channel.accept.channel_id;
        let before = self.arrival.as_ref().map(|arrival| &arrival.key[..]);
        let before = before.filter(|key| !key.is_empty());
        self.served.cancels.logged_in(channel, now, before);
    }

    /// The key will not be seen: driver and server encrypt, or it is a protocol of their own.
    pub(super) fn key_is_hidden(&mut self) {
        self.welcome = None;
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
