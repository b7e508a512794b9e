//! A login in the client's place: the server's side of the stream in, what to do with it out. The client sees of it what it
//! would see of a server that trusts it.

use super::scram::{ByKeys, Keys, MAX_MESSAGE};
use crate::pg::wire::Outbox;

const METHOD: &[u8] = b"SCRAM-SHA-256";

/// What to do with the first message of the server that was not handled yet.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// More bytes are needed.
    Wait,
    /// So many bytes are for the client.
    Pass(usize),
    /// So many bytes are for us; this is the answer.
    Answer(usize, Vec<u8>),
    /// So many bytes are for the client, and then the session is ready: the login has succeeded.
    Ready(usize),
    /// So many bytes are for the client: the server refuses.
    Failed(usize),
    /// The server does not ask for, or does not give, the proof that belongs to the ticket.
    Refuse,
}

#[derive(PartialEq, Eq)]
enum At {
    Begun,
    First,
    Proof,
    /// The server has proven that it has the verifier.
    Verified,
    In,
}

/// See the module's text.
pub struct Login {
    scram: ByKeys,
    at: At,
}

impl Login {
    /// The startup packet is on its way; `random` must be fresh.
    pub fn new(keys: Keys, random: &[u8; 18]) -> Self {
        Self {
            scram: ByKeys::new(keys, random),
            at: At::Begun,
        }
    }

    /// Judges the first message of `bytes`, the server's stream from where the last step ended.
    pub fn server(&mut self, bytes: &[u8]) -> Step {
        let Some((head, rest)) = bytes.split_first_chunk::<5>() else {
            return Step::Wait;
        };
        let [kind, l0, l1, l2, l3] = *head;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if !(4..=MAX_MESSAGE).contains(&length) {
            return Step::Refuse;
        }
        let Some(body) = rest.get(..length - 4) else {
            return Step::Wait;
        };
        let whole = length + 1;
        match (kind, &self.at) {
            (b'E', _) => Step::Failed(whole),
            (b'N' | b'v', _) => Step::Pass(whole),
            (b'R', At::In) => Step::Refuse,
            (b'R', _) => self.asked(whole, body),
            (b'S' | b'K', At::In) => Step::Pass(whole),
            (b'Z', At::In) => Step::Ready(whole),
            _ => Step::Refuse,
        }
    }

    fn asked(&mut self, whole: usize, body: &[u8]) -> Step {
        let Some((code, rest)) = body.split_first_chunk::<4>() else {
            return Step::Refuse;
        };
        let text = std::str::from_utf8(rest).unwrap_or_default();
        let mut out = Outbox::default();
        match (u32::from_be_bytes(*code), &self.at) {
            (10, At::Begun) if rest.split(|b| *b == 0).any(|m| m == METHOD) => {
                let first = self.scram.first();
                out.message(b'p', |b| {
                    b.extend(METHOD);
                    b.push(0);
                    b.extend((first.len() as u32).to_be_bytes());
                    b.extend(first.as_bytes());
                });
                self.at = At::First;
            }
            (11, At::First) => {
                let Some(proof) = self.scram.prove(text) else {
                    return Step::Refuse;
                };
                out.message(b'p', |b| b.extend(proof.as_bytes()));
                self.at = At::Proof;
            }
            (12, At::Proof) if self.scram.verify(text) => self.at = At::Verified,
            (0, At::Verified) => {
                self.at = At::In;
                return Step::Pass(whole);
            }
            _ => return Step::Refuse,
        }
        Step::Answer(whole, out.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::scram::{Exchange, Verifier};
    use super::*;
    use crate::pg::scram::{ClientLogin, ServerLogin, Verifier as ServerVerifier};
    use proptest::prelude::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Outbox::default();
        out.message(kind, |b| b.extend(body));
        out.into_bytes()
    }

    fn request(code: u32, rest: &[u8]) -> Vec<u8> {
        message(b'R', &[&code.to_be_bytes(), rest].concat())
    }

    fn keys(server: &ServerVerifier) -> Keys {
        let mut client = ClientLogin::new("secret");
        let first = client.first();
        let (_, challenge) = ServerLogin::challenge(server, &first).unwrap();
        let last = client.prove(&challenge).unwrap();
        let exchange = Exchange::new(&first, &challenge, &last).unwrap();
        let verifier = Verifier::parse(&server.to_string()).unwrap();
        exchange.keys(&verifier).unwrap()
    }

    fn answer(step: Step, skip: usize) -> String {
        match step {
            Step::Answer(_, bytes) => String::from_utf8(bytes[skip..].to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    const SASL: &[u8] = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";

    /// Up to the proof, and the server's answer to that.
    fn proven(server: &ServerVerifier) -> (Login, String) {
        let mut login = Login::new(keys(server), &[7; 18]);
        let first = answer(login.server(&request(10, SASL)), 5 + 14 + 4);
        let (challenger, challenge) = ServerLogin::challenge(server, &first).unwrap();
        let proof = answer(login.server(&request(11, challenge.as_bytes())), 5);
        let last = challenger.finish(&proof).expect("the server believes it");
        (login, last)
    }

    #[test]
    fn a_server_with_the_verifier_lets_it_in() {
        let (mut login, last) = proven(&ServerVerifier::new("secret"));
        let last = request(12, last.as_bytes());
        assert_eq!(login.server(&last), Step::Answer(last.len(), Vec::new()));
        assert_eq!(login.server(&request(0, b"")), Step::Pass(9));
        let setting = message(b'S', b"a\0b\0");
        for cut in 0..setting.len() {
            assert_eq!(login.server(&setting[..cut]), Step::Wait);
        }
        assert_eq!(login.server(&setting), Step::Pass(setting.len()));
        assert_eq!(login.server(&message(b'Z', b"I")), Step::Ready(6));
    }

    #[test]
    fn a_server_that_does_not_prove_itself_is_refused() {
        let server = ServerVerifier::new("secret");
        let (mut login, last) = proven(&server);
        assert_eq!(login.server(&request(0, b"")), Step::Refuse, "no proof");
        let (mut login, _) = proven(&server);
        let other = request(12, b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        assert_eq!(login.server(&other), Step::Refuse);
        let mut trusting = Login::new(keys(&server), &[7; 18]);
        assert_eq!(trusting.server(&request(0, b"")), Step::Refuse);
        for code in [3, 5, 7, 11, 12] {
            let mut login = Login::new(keys(&server), &[7; 18]);
            let asked = request(code, last.as_bytes());
            assert_eq!(login.server(&asked), Step::Refuse, "{code}");
        }
        let mut plus = Login::new(keys(&server), &[7; 18]);
        let only = request(10, b"SCRAM-SHA-256-PLUS\0\0");
        assert_eq!(plus.server(&only), Step::Refuse);
        // Nothing of a session before the proof.
        for kind in [b'S', b'K', b'Z', b'T', b'D'] {
            let mut login = Login::new(keys(&server), &[7; 18]);
            assert_eq!(login.server(&message(kind, b"I")), Step::Refuse);
        }
    }

    #[test]
    fn the_servers_own_refusal_is_passed_on_at_any_point() {
        let server = ServerVerifier::new("secret");
        let error = message(b'E', b"SFATAL\0\0");
        let mut login = Login::new(keys(&server), &[7; 18]);
        assert_eq!(login.server(&error), Step::Failed(error.len()));
        let (mut login, last) = proven(&server);
        assert_eq!(login.server(&error), Step::Failed(error.len()));
        login.server(&request(12, last.as_bytes()));
        login.server(&request(0, b""));
        assert_eq!(login.server(&error), Step::Failed(error.len()));
    }

    proptest! {
        #[test]
        fn no_bytes_upset_it(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_usize..4) {
            let (mut login, _) = proven(&ServerVerifier::new("secret"));
            let framed = message(b"RSZE"[kind], &bytes);
            prop_assert!(!matches!(login.server(&framed), Step::Ready(_)));
            let _ = login.server(&bytes);
        }
    }
}
