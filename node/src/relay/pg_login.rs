//! Watches one PostgreSQL login (protocol 3.x) and finds out whether the server asked for a proof.
//!
//! The relay connects from this machine, so access rules that trust local connections would trust every remote client.
//! A login that reaches AuthenticationOk without any challenge before it is therefore refused. Pure: bytes in, verdicts
//! out; nothing is buffered here.
//!
//! TLS inside the stream would hide the login. Where nobody else can read the stream, a request for it is answered with `N`
//! ("not here"), as a server without TLS does. Elsewhere that would take encryption away in silence: the server is asked, and
//! where it would encrypt, the login goes on unwatched, if nobody comes in unasked that way ([`super::door`]).
//!
//! A server whose protocol is not known ([`Login::guess`]) may be PostgreSQL all the same: the client's first 8 bytes tell.
//! Where the server may let in whom it likes ([`Login::lenient`]), the login is followed, and nothing is refused.

use vianet::resolve::ticket::{self, Why};
use vianet::session::postgres::arrival;

#[cfg(test)]
mod tests;

/// Longest startup packet that PostgreSQL takes: its own limit of 10,000 leaves out the length itself. What is longer is
/// refused by the server, what is not longer must be watched.
const MAX_STARTUP: usize = 10_004;
/// Longest message that a server may send before the login is decided: challenges are far smaller.
const MAX_BEFORE_LOGIN: usize = 1 << 20;
/// Length and code: the beginning of a startup packet.
const HEAD: usize = 8;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// What to do with the first bytes of the client's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// So many more bytes are needed.
    Wait(usize),
    /// So many bytes ask for encryption: drop them and answer the client with `N`; or [`Login::asks`], and pass them on.
    Encryption(usize),
    /// A login ticket, so many bytes; the startup packet follows. To be taken off, once.
    Ticket(usize),
    /// A session that has moved introduces itself, so many bytes; more follows. To be taken off, once.
    Arrival(usize),
    /// A cancel request, which has no login.
    Cancel,
    /// Another protocol, which may be passed on unwatched.
    Unwatched,
    /// The whole startup packet is there and may be passed on; what follows it must wait for a challenge, or a server
    /// that trusts everybody would already have run it.
    Started,
    /// It was not known what the client speaks; it is this protocol. Ask again.
    Recognised,
    /// Not this protocol.
    Refuse(&'static str),
}

/// What to do with the unread bytes of the server's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// So many bytes may be passed on; the rest needs more bytes.
    Pass(usize),
    /// The server asked for a proof and got it: everything may be passed on, unwatched from now on.
    Proven,
    /// The server encrypts from the next byte on (or says what is not understood and must not be refused), and nothing can
    /// be watched any more.
    Encrypts,
    /// So many bytes may be passed on, and then the login is to be refused.
    Refuse(&'static str),
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Login {
    /// It is not known yet whether this is PostgreSQL; the client's bytes that were passed on meanwhile (at most 7).
    guess: Option<Vec<u8>>,
    /// Nothing is refused.
    lenient: bool,
    /// An arrival came before the startup packet.
    arrival: bool,
    /// A ticket came before the startup packet.
    ticket: bool,
    /// The server was asked for encryption and has not answered.
    asking: bool,
    started: bool,
    challenged: bool,
    /// Bytes of a message's body that are still to come.
    body: usize,
}

impl Login {
    /// For a server whose protocol is not known: everything passes unless the client begins a PostgreSQL login.
    pub fn guess() -> Self {
        Self {
            guess: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// The same for a server that may let in whom it likes.
    pub fn lenient(self) -> Self {
        Self {
            lenient: true,
            // Nothing waits for a challenge.
            challenged: true,
            ..self
        }
    }

    /// Whether it may.
    pub fn is_lenient(&self) -> bool {
        self.lenient
    }

    /// Whether it is still unknown what the client speaks.
    pub fn guessing(&self) -> bool {
        self.guess.is_some()
    }

    /// These bytes of the client were passed on while [`Login::guessing`].
    pub fn passed(&mut self, bytes: &[u8]) {
        if let Some(passed) = &mut self.guess {
            passed.extend(bytes.iter().take(HEAD - passed.len().min(HEAD)));
        }
    }

    /// Whether the client's startup packet was seen.
    pub fn started(&self) -> bool {
        self.started
    }

    /// The client's request for encryption is passed on to the server.
    pub fn asks(&mut self) {
        self.asking = true;
    }

    /// Whether the server's answer to [`Login::asks`] has not come; until then nothing of the client's is taken.
    pub fn asking(&self) -> bool {
        self.asking
    }

    /// Whether the server has asked for a proof: the client's bytes may be passed on.
    pub fn challenged(&self) -> bool {
        self.challenged
    }

    /// The first bytes of the client's stream, up to its startup packet and not beyond; the caller has copied them
    /// (a client can change what is in shared memory).
    pub fn client(&mut self, bytes: &[u8]) -> Client {
        match self.judge_client(bytes) {
            Client::Refuse(_) if self.lenient => Client::Unwatched,
            judged => judged,
        }
    }

    fn judge_client(&mut self, bytes: &[u8]) -> Client {
        if let Some(passed) = &self.guess {
            let head: Vec<u8> = passed.iter().chain(bytes).take(HEAD).copied().collect();
            return match begins_login(&head) {
                None => Client::Wait(HEAD - head.len()),
                Some(false) => Client::Unwatched,
                Some(true) if passed.is_empty() => {
                    self.guess = None;
                    Client::Recognised
                }
                Some(true) => {
                    Client::Refuse("the first bytes of a PostgreSQL login came in pieces")
                }
            };
        }
        let Some((head, _)) = bytes.split_first_chunk::<8>() else {
            return Client::Wait(8 - bytes.len());
        };
        let [l0, l1, l2, l3, c0, c1, c2, c3] = *head;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let code = u32::from_be_bytes([c0, c1, c2, c3]);
        match code {
            SSL_REQUEST | GSS_REQUEST if length == 8 => Client::Encryption(8),
            arrival::CODE
                if !self.arrival
                    && !self.ticket
                    && bytes.len() <= length
                    && arrival::PACKET.contains(&length) =>
            {
                if bytes.len() < length {
                    return Client::Wait(length - bytes.len());
                }
                self.arrival = true;
                Client::Arrival(length)
            }
            ticket::CODE
                if !self.ticket && (bytes.len().max(9)..=MAX_STARTUP).contains(&length) =>
            {
                if bytes.len() < length {
                    return Client::Wait(length - bytes.len());
                }
                self.ticket = true;
                Client::Ticket(length)
            }
            _ if (code == CANCEL_REQUEST || code >> 16 == 3)
                && (bytes.len().max(9)..=MAX_STARTUP).contains(&length) =>
            {
                if bytes.len() < length {
                    return Client::Wait(length - bytes.len());
                }
                if code == CANCEL_REQUEST {
                    return Client::Cancel;
                }
                self.started = true;
                Client::Started
            }
            _ => Client::Refuse("the first bytes are no PostgreSQL 3.x startup packet"),
        }
    }

    /// The server's stream from the first byte on that was not passed yet.
    pub fn server(&mut self, bytes: &[u8]) -> Server {
        match self.judge_server(bytes) {
            Server::Refuse(_) if self.lenient => Server::Encrypts,
            judged => judged,
        }
    }

    fn judge_server(&mut self, bytes: &[u8]) -> Server {
        let mut at = 0;
        if self.asking {
            match bytes.first() {
                None => return Server::Pass(0),
                Some(b'S' | b'G') => return Server::Encrypts,
                Some(answer) => {
                    self.asking = false;
                    // What is no answer is an error message.
                    at = usize::from(*answer == b'N');
                }
            }
        }
        loop {
            let left = &bytes[at..];
            let skip = self.body.min(left.len());
            self.body -= skip;
            at += skip;
            let left = &bytes[at..];
            let Some((head, _)) = left.split_first_chunk::<5>() else {
                return Server::Pass(at);
            };
            let [kind, l0, l1, l2, l3] = *head;
            let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
            if !(4..=MAX_BEFORE_LOGIN).contains(&length) {
                return Server::Refuse("the server's answer is no PostgreSQL message");
            }
            match kind {
                b'R' => {
                    let Some(code) = left.get(5..9) else {
                        return Server::Pass(at);
                    };
                    let code = u32::from_be_bytes([code[0], code[1], code[2], code[3]]);
                    if length < 8 {
                        return Server::Refuse("the server's answer is no PostgreSQL message");
                    }
                    match (code, self.challenged) {
                        (0, true) => return Server::Proven,
                        (0, false) => {
                            return Server::Refuse(
                                "the SQL server lets this user in without a proof",
                            );
                        }
                        _ => self.challenged = true,
                    }
                }
                // Error, notice, protocol negotiation.
                b'E' | b'N' | b'v' => {}
                _ => return Server::Refuse("the server answers a login with an unknown message"),
            }
            self.body = length + 1;
        }
    }
}

/// Whether a client that begins like this begins a PostgreSQL login (of any version, or a request for encryption, or to
/// cancel, or a session that moves); `None`: more bytes are needed.
fn begins_login(head: &[u8]) -> Option<bool> {
    let codes = [SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST, arrival::CODE].map(u32::to_be_bytes);
    let code = head.get(4..).unwrap_or(&[]);
    let code_fits = code.is_empty()
        || codes.iter().any(|c| c.starts_with(code))
        || (code[0] == 0 && code.get(1).is_none_or(|major| (2..=3).contains(major)));
    // A length that PostgreSQL takes.
    let length_fits = match *head {
        [a, b, c, d, ..] => {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            (HEAD..=MAX_STARTUP).contains(&length)
        }
        _ => head.iter().take(2).all(|&b| b == 0),
    };
    match (length_fits && code_fits, head.len() >= HEAD) {
        (true, false) => None,
        (fits, _) => Some(fits),
    }
}

/// An ErrorResponse that ends the connection: FATAL, SQLSTATE 28000, with the remedy.
pub fn refusal(why: &str, node: &str) -> Vec<u8> {
    let hint = format!(
        "vianetd on {node} relays only logins that the server challenges. In pg_hba.conf, give the relay's address a \
         method such as scram-sha-256 instead of trust, or set allow_unauthenticated_upstream = true in node.toml."
    );
    error(&[(b'M', &format!("vianet: {why}")), (b'H', &hint)])
}

/// The same where TLS of the driver would hide the login from the relay, and the relay may not take it away.
pub fn unwatched(why: &str, node: &str) -> Vec<u8> {
    let message = format!(
        "vianet: the connection to the node is not encrypted, and TLS inside it was not let through: {why}"
    );
    let hint = format!(
        "Pin the cluster's public_key in client.toml: vianet then encrypts, and the driver need not. Or in node.toml of \
         {node}, for this server: allow_unwatched_tls = true lets TLS through, allow_plaintext = true goes on without any."
    );
    error(&[(b'M', &message), (b'H', &hint)])
}

/// The same for a ticket that is not honoured; the reason's word is the detail, alone.
pub fn ticket_refusal(why: Why) -> Vec<u8> {
    let message = format!("vianet: login ticket refused: {}", why.text());
    error(&[(b'M', &message), (b'D', why.name())])
}

fn error(more: &[(u8, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    let always = [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "28000")];
    for (field, text) in always.iter().chain(more).copied() {
        body.push(field);
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let mut out = vec![b'E'];
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(&body);
    out
}
