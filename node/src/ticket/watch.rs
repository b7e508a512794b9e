//! Takes a login's exchange down while the relay passes it on: both directions as bytes, in whatever pieces they come.

use super::scram::{Exchange, MAX_MESSAGE};
use vianet::resolve::ticket::Why;
use zeroize::{Zeroize, Zeroizing};

/// Authentication codes of PostgreSQL's `R` message.
const OK: u32 = 0;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;
const METHOD: &str = "SCRAM-SHA-256";

/// See the module's text. What was taken down is wiped when it is dropped.
#[derive(Default)]
pub struct Watch {
    client: Messages,
    server: Messages,
    first: Option<Zeroizing<String>>,
    challenge: Option<Zeroizing<String>>,
    last: Option<Zeroizing<String>>,
    sasl: bool,
    ok: bool,
    failed: Option<Why>,
}

impl Watch {
    /// It is known that nothing comes of it: the bytes need not be shown any more.
    pub fn failed(&self) -> Option<Why> {
        self.failed
    }

    /// Bytes of the client, behind the startup packet.
    pub fn client(&mut self, bytes: &[u8]) {
        // What a client sends ahead, behind its proof, is not of the login.
        if self.failed.is_some() || self.ok || self.last.is_some() {
            return;
        }
        let mut messages = std::mem::take(&mut self.client);
        let fits = messages.take(bytes, |kind, body| match kind {
            _ if self.last.is_some() => {}
            b'p' => self.answered(body),
            _ => self.failed = Some(Why::Method),
        });
        self.client = messages;
        self.settle(fits || self.last.is_some());
    }

    /// Bytes of the server.
    pub fn server(&mut self, bytes: &[u8]) {
        if self.failed.is_some() || self.ok {
            return;
        }
        let mut messages = std::mem::take(&mut self.server);
        let fits = messages.take(bytes, |kind, body| {
            if kind == b'R' {
                self.asked(body);
            }
        });
        self.server = messages;
        self.settle(fits);
    }

    fn settle(&mut self, fits: bool) {
        if !fits && !self.ok {
            self.failed = Some(Why::Method);
        }
        if self.failed.is_some() || self.ok {
            // Perhaps a password.
            self.client = Messages::default();
            self.server = Messages::default();
        }
    }

    fn asked(&mut self, body: &[u8]) {
        let Some((code, rest)) = body.split_first_chunk::<4>() else {
            self.failed = Some(Why::Method);
            return;
        };
        if self.ok {
            return;
        }
        match u32::from_be_bytes(*code) {
            OK => self.ok = true,
            SASL if !self.sasl => self.sasl = true,
            SASL_CONTINUE if self.challenge.is_none() => self.challenge = text(rest),
            SASL_FINAL => {}
            _ => self.failed = Some(Why::Method),
        }
    }

    fn answered(&mut self, body: &[u8]) {
        if !self.sasl {
            self.failed = Some(Why::Method);
        } else if self.first.is_none() {
            let head = [METHOD.as_bytes(), b"\0"].concat();
            let message = body.strip_prefix(&head[..]).and_then(|b| b.get(4..));
            self.first = message.and_then(text);
            if self.first.is_none() {
                self.failed = Some(Why::Method);
            }
        } else {
            self.last = text(body);
            if self.last.is_none() {
                self.failed = Some(Why::Method);
            }
        }
    }

    /// The exchange of a login that has succeeded.
    ///
    /// # Errors
    /// Why there is none.
    pub fn finish(self) -> Result<Exchange, Why> {
        let whole = match (&self.first, &self.challenge, &self.last) {
            (Some(first), Some(challenge), Some(last)) if self.ok && self.failed.is_none() => {
                Exchange::new(first, challenge, last)
            }
            _ => None,
        };
        whole.ok_or(self.failed.unwrap_or(Why::Method))
    }
}

fn text(bytes: &[u8]) -> Option<Zeroizing<String>> {
    let text = std::str::from_utf8(bytes).ok()?;
    Some(Zeroizing::new(text.to_owned()))
}

/// One direction, cut into messages.
#[derive(Default)]
pub struct Messages {
    pending: Vec<u8>,
}

impl Messages {
    /// Hands each whole message on: its type and its body. False: one is too long, or its length is impossible.
    pub fn take(&mut self, bytes: &[u8], mut each: impl FnMut(u8, &[u8])) -> bool {
        self.pending.extend_from_slice(bytes);
        let mut at = 0;
        let mut fits = true;
        while let Some((head, rest)) = self.pending[at..].split_first_chunk::<5>() {
            let [kind, l0, l1, l2, l3] = *head;
            let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
            if !(4..=MAX_MESSAGE).contains(&length) {
                fits = false;
                break;
            }
            let Some(body) = rest.get(..length - 4) else {
                break;
            };
            each(kind, body);
            at += length + 1;
        }
        self.pending[..at].zeroize();
        self.pending.drain(..at);
        fits
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.pending.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::scram::{ClientLogin, ServerLogin, Verifier};
    use proptest::prelude::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend((body.len() as u32 + 4).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn request(code: u32, rest: &[u8]) -> Vec<u8> {
        message(b'R', &[&code.to_be_bytes(), rest].concat())
    }

    /// A login: who sends what, in turn.
    fn login() -> (Vec<(bool, Vec<u8>)>, Verifier) {
        let verifier = Verifier::new("secret");
        let mut client = ClientLogin::new("secret");
        let first = client.first();
        let (server, challenge) = ServerLogin::challenge(&verifier, &first).unwrap();
        let last = client.prove(&challenge).unwrap();
        let end = server.finish(&last).unwrap();
        let length = (first.len() as u32).to_be_bytes();
        let initial = [b"SCRAM-SHA-256\0", &length[..], first.as_bytes()].concat();
        let turns = vec![
            (false, request(SASL, b"SCRAM-SHA-256\0\0")),
            (true, message(b'p', &initial)),
            (false, request(SASL_CONTINUE, challenge.as_bytes())),
            (true, message(b'p', last.as_bytes())),
            (false, request(SASL_FINAL, end.as_bytes())),
            (
                false,
                [request(OK, b""), message(b'S', b"a\0b\0"), vec![b'Z'; 9000]].concat(),
            ),
        ];
        (turns, verifier)
    }

    fn watch(turns: &[(bool, Vec<u8>)], piece: usize) -> Watch {
        let mut watch = Watch::default();
        for (client, bytes) in turns {
            for part in bytes.chunks(piece) {
                match client {
                    true => watch.client(part),
                    false => watch.server(part),
                }
            }
        }
        watch
    }

    #[test]
    fn a_login_is_taken_down_in_whatever_pieces_it_comes() {
        let (turns, verifier) = login();
        let verifier = super::super::scram::Verifier::parse(&verifier.to_string()).unwrap();
        for piece in [1, 2, 3, 7, 64, 10_000] {
            let exchange = watch(&turns, piece).finish().unwrap();
            assert!(exchange.keys(&verifier).is_some(), "{piece}");
        }
    }

    #[test]
    fn what_a_client_sends_ahead_is_not_of_the_login() {
        let (mut turns, verifier) = login();
        let verifier = super::super::scram::Verifier::parse(&verifier.to_string()).unwrap();
        turns[3].1.extend(message(b'Q', &[b'x'; 9000]));
        for piece in [1, 7, 10_000] {
            let exchange = watch(&turns, piece).finish().unwrap();
            assert!(exchange.keys(&verifier).is_some(), "{piece}");
        }
    }

    #[test]
    fn other_methods_give_nothing_and_are_not_kept() {
        let password = message(b'p', b"my password\0");
        for code in [2, 3, 5, 7, 9] {
            let turns = [(false, request(code, b"salt")), (true, password.clone())];
            let watch = watch(&turns, 3);
            assert_eq!(watch.failed(), Some(Why::Method), "{code}");
            assert!(watch.client.pending.is_empty());
        }
        // Not asked for.
        let early = watch(&[(true, password)], 100);
        assert!(early.finish().err() == Some(Why::Method));
        let trusted = watch(&[(false, request(OK, b""))], 100);
        assert!(trusted.finish().err() == Some(Why::Method));
    }

    #[test]
    fn a_login_that_did_not_succeed_gives_nothing() {
        let (turns, _) = login();
        for n in 0..turns.len() {
            assert!(watch(&turns[..n], 100).finish().is_err(), "{n}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_upset_it(parts in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..40)) {
            let watch = watch(&parts, 16);
            prop_assert!(watch.client.pending.len() <= MAX_MESSAGE + 16);
            prop_assert!(watch.finish().is_err());
        }
    }
}
