//! Finds BackendKeyData in what a server answers to a login: the key by which the session can be canceled. Pure, and a looker-on:
//! it is shown every byte from the startup packet on, in pieces of any size, and holds nothing back.

use vianet::session::postgres::known_key;

/// What has come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It may still come.
    NotYet,
    /// Here it is.
    Key(Vec<u8>),
    /// It does not come.
    None,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct BackendKey {
    head: [u8; 5],
    have: usize,
    /// Of the body.
    left: usize,
    body: Vec<u8>,
}

impl BackendKey {
    /// These bytes came. Not to be called again after anything but [`Found::NotYet`].
    pub fn look(&mut self, mut bytes: &[u8]) -> Found {
        while !bytes.is_empty() {
            let more = (self.head.len() - self.have).min(bytes.len());
            if more > 0 {
                self.head[self.have..self.have + more].copy_from_slice(&bytes[..more]);
                self.have += more;
                bytes = &bytes[more..];
                if self.have < self.head.len() {
                    break;
                }
                let [kind, a, b, c, d] = self.head;
                let body = (u32::from_be_bytes([a, b, c, d]) as usize).checked_sub(4);
                match (kind, body) {
                    (b'K', Some(body)) if known_key::KEY.contains(&body) => self.left = body,
                    // Authentication, notices, an older protocol, parameters.
                    (b'R' | b'N' | b'v' | b'S', Some(body)) => self.left = body,
                    // It is ready without one, refuses, or says what is not known.
                    _ => return Found::None,
                }
            }
            let take = self.left.min(bytes.len());
            if self.head[0] == b'K' {
                self.body.extend_from_slice(&bytes[..take]);
            }
            self.left -= take;
            bytes = &bytes[take..];
            if self.left == 0 {
                if self.head[0] == b'K' {
                    return Found::Key(std::mem::take(&mut self.body));
                }
                self.have = 0;
            }
        }
        Found::NotYet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32 + 4).to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    fn login(key: &[u8]) -> Vec<u8> {
        [
            message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"),
            message(b'R', &[0; 4]),
            message(b'S', b"TimeZone\0UTC\0"),
            message(b'N', b""),
            message(b'K', key),
        ]
        .concat()
    }

    #[test]
    fn it_is_found_in_pieces_of_any_size() {
        for length in [8, 36, 260] {
            let key: Vec<u8> = (0..length as u32).map(|n| n as u8).collect();
            let all = login(&key);
            for size in 1..all.len() {
                let mut looker = BackendKey::default();
                let mut found = Found::NotYet;
                for piece in all.chunks(size) {
                    assert_eq!(found, Found::NotYet);
                    found = looker.look(piece);
                }
                assert_eq!(found, Found::Key(key.clone()));
            }
        }
    }

    #[test]
    fn what_is_none_ends_it() {
        let ready = [message(b'R', &[0; 4]), message(b'Z', b"I")].concat();
        let refused = message(b'E', b"SFATAL\0\0");
        let short = login(&[0; 7]);
        let long = login(&[0; 261]);
        for bytes in [
            &ready[..],
            &refused,
            &short,
            &long,
            b"R\0\0\0\x03",
            b"HTTP/1.1",
        ] {
            assert_eq!(BackendKey::default().look(bytes), Found::None, "{bytes:?}");
        }
    }
}
