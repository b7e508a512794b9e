//! What a session was begun with and has been told, kept for the case that it must begin again on another server.

use super::parsing::Parsing;
use super::texts::Texts;
use super::{Policy, Reason, message};

/// Longest body of a message that is kept. Bytes.
pub(super) const LONGEST: usize = 8192;

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The startup packet, as it was sent.
    pub packet: Vec<u8>,
    /// The application asked for encryption, and was told no.
    pub asked_to_encrypt: bool,
    /// What the server has reported: names and last values.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// BackendKeyData: by which the application can cancel.
    pub key: Vec<u8>,
    /// The body of the last Parse without a name, where it may still be bound.
    pub unnamed: Option<Vec<u8>>,
    /// It was too long to be kept.
    pub lacks_unnamed: bool,
    /// Something that was reported was too long to be kept.
    pub too_large: bool,
    pub(super) parsing: Parsing,
    pub(super) texts: Texts,
}

/// How much of a message's body is kept: names tell.
pub(super) fn kept_of_client(kind: u8) -> usize {
    match kind {
        b'P' => LONGEST,
        // Of a statement or a portal, and the first byte of its name.
        b'D' | b'C' => 2,
        _ => 0,
    }
}

impl Record {
    /// A whole message of the client; its body as far as it is kept, and whether that is all. Whether it changes the unnamed
    /// statement.
    pub(super) fn asked(&mut self, kind: u8, body: &[u8], whole: bool) -> bool {
        match (kind, body) {
            // A simple query destroys it.
            (b'Q', _) | (b'C', [b'S', 0, ..]) => self.forget_unnamed(),
            (b'P', [0, ..]) => {
                self.unnamed = whole.then(|| body.to_vec());
                self.lacks_unnamed = !whole;
            }
            // Whether its text still fits what was told is not known elsewhere: it is not there any more.
            (b'D', [b'S', 0, ..]) => self.forget_unnamed(),
            (b'P', _) => {
                self.parsing.prepares();
                return false;
            }
            _ => return false,
        }
        true
    }

    /// ErrorResponse: whether a Parse before it was run is not known.
    pub(super) fn failed(&mut self) {
        self.forget_unnamed();
    }

    /// Without it, its next use is an error.
    fn forget_unnamed(&mut self) {
        self.unnamed = None;
        self.lacks_unnamed = false;
    }

    /// What of it is missing.
    pub fn obstacle(&self) -> Option<Reason> {
        (self.too_large || self.lacks_unnamed).then_some(Reason::TooLarge)
    }

    /// ParameterStatus or BackendKeyData.
    pub(super) fn told(&mut self, kind: u8, body: &[u8], whole: bool) {
        match (kind, message::pair(body)) {
            (b'K', _) => self.key = body.to_vec(),
            (b'S', Some((name, value))) if whole => self.set(name, value),
            (b'S', _) => self.too_large = true,
            _ => {}
        }
    }

    /// Names of custom settings that the session may have, one a line.
    pub fn custom(&self, policy: &Policy) -> Vec<u8> {
        self.texts.custom(policy)
    }

    /// Where the session is not movable for this reason: what a function, a statement or the like is called that may have set
    /// something unseen.
    pub fn suspect(&self, reason: Reason) -> &str {
        self.texts.about(reason)
    }

    /// The last value of a reported parameter.
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        let mut all = self.parameters.iter();
        let found = all.find(|(known, _)| known == name.as_bytes());
        found.map(|(_, value)| &value[..])
    }

    fn set(&mut self, name: &[u8], value: &[u8]) {
        let at = self.parameters.iter().position(|(known, _)| known == name);
        match at {
            Some(at) if self.parameters[at].1 == value => {}
            Some(at) => {
                let read_by = Parsing::is_read_by(name);
                if read_by || name == b"client_encoding" {
                    // Its text was in the one before, or was read under it.
                    self.forget_unnamed();
                }
                if read_by {
                    self.parsing.changes();
                }
                self.parameters[at].1 = value.to_vec();
            }
            // A server reports some dozen.
            None if self.parameters.len() < 64 => {
                self.parameters.push((name.to_vec(), value.to_vec()));
            }
            None => self.too_large = true,
        }
    }
}
