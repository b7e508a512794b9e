//! How a session logs in on another server.

use super::Reason;

/// What the library has to prove who the application is: nothing. Either nothing is asked for, or the node answers in the
/// server's place, since what was sent first redeems a login ticket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Login {
    /// Whatever the server asks for, there is no answer.
    #[default]
    WithoutSecret,
}

impl Login {
    /// What to send on an authentication request, or why there is nothing to be sent.
    pub(super) fn answer(self, request: &[u8]) -> Result<Vec<u8>, (Reason, String)> {
        let code = request
            .first_chunk::<4>()
            .map(|code| u32::from_be_bytes(*code));
        match (self, code) {
            (Self::WithoutSecret, Some(0)) => Ok(Vec::new()),
            (Self::WithoutSecret, code) => {
                let text = match code {
                    Some(3 | 5) => "the server asks for a password".into(),
                    Some(10) => "the server asks for a password (SASL)".into(),
                    code => format!("the server asks for a proof (authentication {code:?})"),
                };
                Err((Reason::LoginNeedsPassword, text))
            }
        }
    }
}
