//! The handshake of a channel, for every provider: two state machines over bytes, without I/O, clock or randomness.
//!
//! ```text
//! client                          node
//! CONNECT (name, nonce)      ──►  complete: is this node active for the name?  (claims 22 and 23)
//!                            ◄──  ACCEPT (node, generation, secret, signature)  or  REJECT (reason)
//!
//! RESUME (name, nonce, id)   ──►
//!                            ◄──  CHALLENGE (nonce)
//! PROOF (MAC by the secret)  ──►  complete: is the channel known, is the proof right?
//!                            ◄──  ACCEPT (node's own MAC by the secret, signature)  or  REJECT (reason)
//! ```
//!
//! The caller moves bytes: it writes [`ClientHandshake::output`], and reads at most [`ClientHandshake::want`] bytes at a
//! time, so that nothing of the stream behind the accept is swallowed. Time limits are the caller's.

#![forbid(unsafe_code)]

use super::packet::{
    self, ConnectResume, FLAG_PATIENT, FLAG_WARM, HEADER_BYTES, Header, Nonce, PacketError, Type,
};
use super::{Accept, ConnectError, RejectReason};
use crate::resolve::Generation;
use crate::resolve::identity::{PublicKey, SecretKey};

const SIGN_CONTEXT: &[u8] = b"vianet accept 1\0";
const CLIENT_PROOF_CONTEXT: &[u8] = b"vianet resume 1\0";
const NODE_PROOF_CONTEXT: &[u8] = b"vianet resumed 1\0";

/// What is left of an earlier channel at one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// The local reader consumed the peer's stream up to here.
    pub consumed: u64,
    /// The peer's stream is held up to here (`consumed <= received`); the peer sends from here on.
    pub received: u64,
}

/// What the client wants.
pub struct ClientHello {
    /// The server name: the discriminator.
    pub server: String,
    /// The node that the answer named; compared with the accept unless it is empty.
    pub node: String,
    /// Smallest generation that will do.
    pub min_generation: Generation,
    /// With it, the accept must be signed.
    pub pinned: Option<PublicKey>,
    /// Ring per direction, a power of two from 2^12 to 2^30. For a resumption that of the old channel.
    pub ring_bytes: u32,
    /// 16 random bytes.
    pub nonce: Nonce,
    /// Boot id of this host (shm); zero otherwise.
    pub boot_id: [u8; 16],
    /// Carry this channel on.
    pub resume: Option<ClientResume>,
    /// Nobody waits for it.
    pub patient: bool,
    /// To a passive node.
    pub warm: bool,
}

/// An earlier channel of the client.
pub struct ClientResume {
    /// From the first accept.
    pub channel_id: u64,
    /// From the first accept.
    pub secret: [u8; 32],
    /// What of the node's stream is here.
    pub offsets: Offsets,
}

/// A channel that stands, as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// What the node said. After a resumption the secret is the one already known.
    pub accept: Accept,
    /// Ring per direction that was granted.
    pub ring_bytes: u32,
    /// What of our stream is at the node: all zero for a new channel.
    pub peer: Offsets,
}

/// The client's side.
pub struct ClientHandshake {
    hello: ClientHello,
    /// The connect or resume packet, over which the resumption's proofs go.
    request: Vec<u8>,
    node_nonce: Option<Nonce>,
    io: Buffers,
}

impl ClientHandshake {
    /// Begins: the connect packet stands in [`ClientHandshake::output`].
    pub fn new(hello: ClientHello) -> Self {
        let connect = packet::Connect {
            ring_log2: log2(hello.ring_bytes),
            nonce: hello.nonce,
            boot_id: hello.boot_id,
            server: hello.server.clone(),
            resume: hello.resume.as_ref().map(|r| ConnectResume {
                channel_id: r.channel_id,
                received: r.offsets.received,
            }),
        };
        let consumed = hello.resume.as_ref().map_or(0, |r| r.offsets.consumed);
        let mut flags = if hello.patient { FLAG_PATIENT } else { 0 };
        flags |= if hello.warm { FLAG_WARM } else { 0 };
        let request = connect.encode_with(flags, hello.min_generation, consumed);
        Self {
            hello,
            io: Buffers::new(request.clone()),
            request,
            node_nonce: None,
        }
    }

    /// Bytes to be written to the node; [`ClientHandshake::sent`] takes them off.
    pub fn output(&self) -> &[u8] {
        &self.io.out
    }

    /// The first `n` bytes of the output were written.
    pub fn sent(&mut self, n: usize) {
        self.io.sent(n);
    }

    /// How many bytes may be read now.
    pub fn want(&self) -> usize {
        self.io.want()
    }

    /// Takes bytes of the node, any number up to [`ClientHandshake::want`] (a provider that receives whole messages may
    /// give a whole one). `None`: more is to be written or read.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Established>, ConnectError> {
        let broken = |e: PacketError| ConnectError::Failed(format!("the node's answer: {e}"));
        let Some((header, payload)) = self.io.feed(bytes).map_err(broken)? else {
            return Ok(None);
        };
        match (header.kind, &self.hello.resume, self.node_nonce) {
            (Type::Reject, ..) => Err(ConnectError::Rejected(
                packet::decode_reject(&payload).map_err(broken)?,
            )),
            (Type::Challenge, Some(resume), None) => {
                let nonce = fixed(&payload).map_err(broken)?;
                self.node_nonce = Some(nonce);
                let proof = mac(
                    &resume.secret,
                    &[CLIENT_PROOF_CONTEXT, &nonce, &self.request],
                );
                self.io
                    .out
                    .extend(packet::packet(Header::new(Type::Proof), &proof));
                Ok(None)
            }
            (Type::Accept, None, None) | (Type::Accept, Some(_), Some(_)) => {
                self.accepted(&header, &payload).map(Some)
            }
            (kind, ..) => Err(broken(PacketError(format!(
                "unexpected {kind:?} in the handshake"
            )))),
        }
    }

    fn accepted(&self, header: &Header, payload: &[u8]) -> Result<Established, ConnectError> {
        let said = packet::Accepted::decode(header.flags, payload)
            .map_err(|e| ConnectError::Failed(format!("the node's accept: {e}")))?;
        let not_authentic = |text: String| Err(ConnectError::NotAuthentic(text));
        let impossible =
            |text: String| Err(ConnectError::Failed(format!("the node's accept: {text}")));
        let bytes = packet::packet(*header, payload);

        let authentic = match (&self.hello.pinned, &said.signature) {
            (None, _) => false,
            (Some(_), None) => {
                return not_authentic(
                    "the accept is not signed, and the cluster's key is pinned".into(),
                );
            }
            (Some(key), Some(signature)) => {
                let signed = &bytes[..bytes.len() - signature.len()];
                let message = signed_message(&self.hello.nonce, &self.hello.server, signed);
                if !key.verify(&message, signature) {
                    return not_authentic("the accept's signature is not by the pinned key".into());
                }
                true
            }
        };
        if !self.hello.node.is_empty() && said.node != self.hello.node {
            return not_authentic(format!(
                "node {:?} accepts where {:?} was expected",
                said.node, self.hello.node
            ));
        }
        if header.generation < self.hello.min_generation {
            return not_authentic(format!(
                "generation {} accepts where at least {} was expected",
                header.generation, self.hello.min_generation
            ));
        }
        let peer = Offsets {
            consumed: header.acked,
            received: said.received,
        };
        if peer.consumed > peer.received {
            return impossible(format!(
                "{} bytes consumed of {} received",
                peer.consumed, peer.received
            ));
        }
        let asked = log2(self.hello.ring_bytes);
        let resume_secret = match (&self.hello.resume, self.node_nonce) {
            (Some(resume), Some(node_nonce)) => {
                let proof = node_proof(
                    &resume.secret,
                    &node_nonce,
                    &self.hello.nonce,
                    &bytes,
                    said.signature.is_some(),
                );
                if said.channel_id != resume.channel_id {
                    return not_authentic(format!(
                        "channel {} is carried on where {} was asked for",
                        said.channel_id, resume.channel_id
                    ));
                }
                if !same(&proof, &said.secret_or_proof) {
                    return not_authentic("the node does not know the resume secret".into());
                }
                if said.ring_log2 != asked {
                    return impossible(format!(
                        "ring of 2^{} bytes for a resumption, must be 2^{asked}",
                        said.ring_log2
                    ));
                }
                resume.secret
            }
            _ => {
                if peer != Offsets::default() {
                    return impossible(format!(
                        "{} bytes received on a new channel, must be 0",
                        peer.received
                    ));
                }
                if said.ring_log2 > asked {
                    return impossible(format!(
                        "ring of 2^{} bytes, at most 2^{asked} was asked for",
                        said.ring_log2
                    ));
                }
                said.secret_or_proof
            }
        };
        Ok(Established {
            accept: Accept {
                node: said.node,
                generation: header.generation,
                cluster_id: said.cluster_id,
                channel_id: said.channel_id,
                resume_secret,
                authentic,
            },
            ring_bytes: 1 << said.ring_log2,
            peer,
        })
    }
}

/// A client's complete request, as the node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The server name asked for: the discriminator.
    pub server: String,
    /// Smallest generation that the client accepts.
    pub min_generation: Generation,
    /// Ring per direction that the client asks for.
    pub ring_bytes: u32,
    /// Boot id of the client's host; zero where the transport does not need it.
    pub boot_id: [u8; 16],
    /// The channel to be carried on.
    pub resume: Option<RequestResume>,
    /// Of the client's; the accept is signed over it.
    pub nonce: Nonce,
    /// Nobody waits for it.
    pub patient: bool,
    /// To a passive node.
    pub warm: bool,
}

/// A channel that the client wants to carry on; believed only after [`Request::proves`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestResume {
    /// From the first accept.
    pub channel_id: u64,
    /// What of the node's stream is at the client.
    pub offsets: Offsets,
    node_nonce: Nonce,
    request: Vec<u8>,
    proof: [u8; 32],
}

impl Request {
    /// Whether the client proved that it knows the channel's resume secret. False for a request that resumes nothing.
    pub fn proves(&self, secret: &[u8; 32]) -> bool {
        self.resume.as_ref().is_some_and(|r| {
            let proof = mac(secret, &[CLIENT_PROOF_CONTEXT, &r.node_nonce, &r.request]);
            same(&proof, &r.proof)
        })
    }

    /// The accept packet. `ring_bytes` is what is granted: at most what was asked for, and exactly that for a resumption.
    /// `here` is what of the client's stream is at the node (zero for a new channel). With `signer`, it is signed.
    pub fn accept(
        &self,
        accept: &Accept,
        ring_bytes: u32,
        here: Offsets,
        signer: Option<&SecretKey>,
    ) -> Vec<u8> {
        let mut said = packet::Accepted {
            ring_log2: log2(ring_bytes),
            cluster_id: accept.cluster_id,
            channel_id: accept.channel_id,
            received: here.received,
            node: accept.node.clone(),
            secret_or_proof: accept.resume_secret,
            // The proofs go over the header too, whose length and flags count the signature.
            signature: signer.map(|_| [0; 64]),
        };
        let encode = |said: &packet::Accepted| said.encode(accept.generation, here.consumed);
        if let Some(resume) = &self.resume {
            said.secret_or_proof = node_proof(
                &accept.resume_secret,
                &resume.node_nonce,
                &self.nonce,
                &encode(&said),
                signer.is_some(),
            );
        }
        let mut bytes = encode(&said);
        if let Some(key) = signer {
            let at = bytes.len() - 64;
            let message = signed_message(&self.nonce, &self.server, &bytes[..at]);
            bytes[at..].copy_from_slice(&key.sign(&message));
        }
        bytes
    }
}

/// The node's side.
pub struct ServerHandshake {
    challenge: Nonce,
    /// The resume packet that waits for its proof.
    resuming: Option<(Request, RequestResume)>,
    io: Buffers,
}

impl ServerHandshake {
    /// Waits for a client; `challenge` are 16 random bytes, new for every handshake.
    pub fn new(challenge: Nonce) -> Self {
        Self {
            challenge,
            resuming: None,
            io: Buffers::new(Vec::new()),
        }
    }

    /// Bytes to be written to the client; [`ServerHandshake::sent`] takes them off.
    pub fn output(&self) -> &[u8] {
        &self.io.out
    }

    /// The first `n` bytes of the output were written.
    pub fn sent(&mut self, n: usize) {
        self.io.sent(n);
    }

    /// How many bytes may be read now.
    pub fn want(&self) -> usize {
        self.io.want()
    }

    /// Takes bytes of the client, any number up to [`ServerHandshake::want`] (or a whole packet). `Some`: the request is
    /// complete, to be answered by [`Request::accept`] or [`packet::reject`]. An error is to be answered by a reject with
    /// [`RejectReason::BadRequest`] and the end of the connection.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Request>, PacketError> {
        let Some((header, payload)) = self.io.feed(bytes)? else {
            return Ok(None);
        };
        match (header.kind, self.resuming.take()) {
            (Type::Connect | Type::Resume, None) => self.asked(&header, &payload),
            (Type::Proof, Some((mut request, mut resume))) => {
                resume.proof = fixed(&payload)?;
                request.resume = Some(resume);
                Ok(Some(request))
            }
            (kind, _) => Err(PacketError(format!("unexpected {kind:?} in the handshake"))),
        }
    }

    fn asked(&mut self, header: &Header, payload: &[u8]) -> Result<Option<Request>, PacketError> {
        let connect = packet::Connect::decode(header.kind, payload)?;
        let request = Request {
            server: connect.server,
            min_generation: header.generation,
            ring_bytes: 1 << connect.ring_log2,
            boot_id: connect.boot_id,
            resume: None,
            nonce: connect.nonce,
            patient: header.kind == Type::Connect && header.flags & FLAG_PATIENT != 0,
            warm: header.kind == Type::Connect && header.flags & FLAG_WARM != 0,
        };
        let Some(resume) = connect.resume else {
            return Ok(Some(request));
        };
        if header.acked > resume.received {
            return Err(PacketError(format!(
                "{} bytes consumed of {} received",
                header.acked, resume.received
            )));
        }
        let resume = RequestResume {
            channel_id: resume.channel_id,
            offsets: Offsets {
                consumed: header.acked,
                received: resume.received,
            },
            node_nonce: self.challenge,
            request: packet::packet(*header, payload),
            proof: [0; 32],
        };
        self.resuming = Some((request, resume));
        self.io.out.extend(packet::packet(
            Header::new(Type::Challenge),
            &self.challenge,
        ));
        Ok(None)
    }
}

/// The reject that answers a request which [`ServerHandshake::feed`] refused.
pub fn bad_request() -> Vec<u8> {
    packet::reject(RejectReason::BadRequest, 0)
}

/// Collects one packet at a time, and holds what is to be written.
struct Buffers {
    out: Vec<u8>,
    input: Vec<u8>,
}

impl Buffers {
    fn new(out: Vec<u8>) -> Self {
        Self {
            out,
            input: Vec::new(),
        }
    }

    fn sent(&mut self, n: usize) {
        self.out.drain(..n.min(self.out.len()));
    }

    /// Bytes to the end of the header, or then of the packet.
    fn want(&self) -> usize {
        let whole = match self.input.get(4..8) {
            // `feed` checked the length as soon as the header was complete.
            Some(length) if self.input.len() >= HEADER_BYTES => {
                HEADER_BYTES + length.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b))
            }
            _ => HEADER_BYTES,
        };
        whole.saturating_sub(self.input.len())
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<Option<(Header, Vec<u8>)>, PacketError> {
        let result = self.collect(bytes);
        if !matches!(result, Ok(None)) {
            self.input.clear();
        }
        result
    }

    fn collect(&mut self, bytes: &[u8]) -> Result<Option<(Header, Vec<u8>)>, PacketError> {
        if self.input.len() + bytes.len() > HEADER_BYTES + packet::CONTROL_MAX {
            return Err(PacketError(format!(
                "{} bytes, a packet of the handshake has at most {}",
                self.input.len() + bytes.len(),
                HEADER_BYTES + packet::CONTROL_MAX
            )));
        }
        self.input.extend_from_slice(bytes);
        let Some((header, payload)) = self.input.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = Header::decode(header)?;
        if matches!(
            header.kind,
            Type::Data | Type::Ack | Type::Disconnect | Type::KeepAlive
        ) {
            return Err(PacketError(format!(
                "{:?} before the handshake is complete",
                header.kind
            )));
        }
        if payload.len() > header.length as usize {
            return Err(PacketError(format!(
                "{} bytes after the packet",
                payload.len() - header.length as usize
            )));
        }
        if payload.len() < header.length as usize {
            return Ok(None);
        }
        Ok(Some((header, payload.to_vec())))
    }
}

/// What the accept's signature goes over: this connect's nonce and name, and every byte of the accept before it.
fn signed_message(nonce: &Nonce, server: &str, accept: &[u8]) -> Vec<u8> {
    let mut message = SIGN_CONTEXT.to_vec();
    message.extend(nonce);
    message.extend((server.len() as u16).to_le_bytes());
    message.extend(server.as_bytes());
    message.extend(accept);
    message
}

/// By which the node shows that it knows the secret of the channel that it carries on. `accept` is the whole packet.
fn node_proof(
    secret: &[u8; 32],
    node_nonce: &Nonce,
    nonce: &Nonce,
    accept: &[u8],
    signed: bool,
) -> [u8; 32] {
    let behind = packet::Accepted::PROOF_BYTES + if signed { 64 } else { 0 };
    let before = &accept[..accept.len() - behind];
    mac(secret, &[NODE_PROOF_CONTEXT, node_nonce, nonce, before])
}

fn mac(secret: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = hmac_sha256::HMAC::new(secret);
    for part in parts {
        mac.update(part);
    }
    mac.finalize()
}

/// Without telling by its time where the first difference is.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y))) == 0
}

fn fixed<const N: usize>(payload: &[u8]) -> Result<[u8; N], PacketError> {
    payload
        .try_into()
        .map_err(|_| PacketError(format!("payload of {} bytes, must be {N}", payload.len())))
}

/// Of a ring size, held within what the wire can say.
fn log2(ring_bytes: u32) -> u8 {
    (ring_bytes.max(1).ilog2() as u8).clamp(packet::RING_LOG2_MIN, packet::RING_LOG2_MAX)
}

#[cfg(all(test, not(loom)))]
mod tests;
