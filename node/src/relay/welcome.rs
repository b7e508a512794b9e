//! What a server says to a client that it lets in: the key by which the session can be canceled (BackendKeyData), and that it is
//! ready. Pure, and a looker-on: it is shown every byte from the startup packet on, in pieces of any size, and holds nothing back.

use vianet::session::postgres::arrival::KEY;

/// What has come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// More must come.
    NotYet,
    /// The key. More comes.
    Key(Vec<u8>),
    /// The session is ready.
    Ready,
    /// It does not get so far, or not in a way that is known.
    None,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Welcome {
    head: [u8; 5],
    have: usize,
    /// Of the body.
    left: usize,
    body: Vec<u8>,
}

impl Welcome {
    /// Takes bytes off the front of `bytes`, up to what is found; all of them with [`Found::NotYet`]. Not to be called again after
    /// [`Found::Ready`] or [`Found::None`].
    pub fn look(&mut self, bytes: &mut &[u8]) -> Found {
        while !bytes.is_empty() {
            let more = (self.head.len() - self.have).min(bytes.len());
            if more > 0 {
                self.head[self.have..self.have + more].copy_from_slice(&bytes[..more]);
                self.have += more;
                *bytes = &bytes[more..];
                if self.have < self.head.len() {
                    break;
                }
                let [kind, a, b, c, d] = self.head;
                let body = (u32::from_be_bytes([a, b, c, d]) as usize).checked_sub(4);
                match (kind, body) {
                    (b'K', Some(body)) if KEY.contains(&body) => self.left = body,
                    // Authentication, notices, an older protocol, parameters.
                    (b'R' | b'N' | b'v' | b'S', Some(body)) => self.left = body,
                    (b'Z', Some(1)) => return Found::Ready,
                    // It refuses, or says what is not known.
                    _ => return Found::None,
                }
            }
            let take = self.left.min(bytes.len());
            if self.head[0] == b'K' {
                self.body.extend_from_slice(&bytes[..take]);
            }
            self.left -= take;
            *bytes = &bytes[take..];
            if self.left == 0 {
                self.have = 0;
                if self.head[0] == b'K' {
                    return Found::Key(std::mem::take(&mut self.body));
                }
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
    fn key_and_end_are_found_in_pieces_of_any_size() {
        for length in [8, 36, 260] {
            let key: Vec<u8> = (0..length as u32).map(|n| n as u8).collect();
            let all = [login(&key), message(b'N', b"more"), message(b'Z', b"I")].concat();
            for size in 1..=all.len() {
                let (mut welcome, mut found) = (Welcome::default(), Vec::new());
                for mut piece in all.chunks(size) {
                    while found.last() != Some(&Found::Ready) {
                        match welcome.look(&mut piece) {
                            Found::NotYet => break,
                            it => found.push(it),
                        }
                    }
                }
                assert_eq!(found, [Found::Key(key.clone()), Found::Ready], "{size}");
            }
        }
    }

    #[test]
    fn what_is_none_ends_it() {
        let refused = message(b'E', b"SFATAL\0\0");
        let (short, long) = (login(&[0; 7]), login(&[0; 261]));
        for mut bytes in [&refused[..], &short, &long, b"R\0\0\0\x03", b"HTTP/1.1"] {
            assert_eq!(Welcome::default().look(&mut bytes), Found::None);
        }
        // There need not be a key.
        let ready = [message(b'R', &[0; 4]), message(b'Z', b"I")].concat();
        assert_eq!(Welcome::default().look(&mut &ready[..]), Found::Ready);
    }
}
