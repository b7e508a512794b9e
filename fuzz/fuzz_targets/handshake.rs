//! Bytes of the fuzzer as the peer of either side, in pieces: no panic, bounded buffers, and without the keys neither an
//! accept that is believed nor a proof that is right.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vianet::resolve::identity::SecretKey;
use vianet::via::handshake::{
    ClientHandshake, ClientHello, ClientResume, Offsets, ServerHandshake,
};
use vianet::via::packet::{CONTROL_MAX, HEADER_BYTES, Header, Type, packet};

const SECRET: [u8; 32] = [7; 32];

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, piece], bytes)) = data.split_first_chunk() else {
        return;
    };
    let piece = usize::from(piece).max(1);
    // Half of the inputs get headers that are right: a type, a length, a payload, and again.
    let framed = frame(bytes);
    let bytes = if choice & 8 == 0 { bytes } else { &framed };
    if choice & 1 == 0 {
        let mut server = ServerHandshake::new([1; 16]);
        for part in bytes.chunks(piece) {
            match server.feed(part) {
                Ok(None) => assert!(server.want() <= HEADER_BYTES + CONTROL_MAX),
                Ok(Some(request)) => {
                    assert!(!request.server.is_empty());
                    assert!(!request.proves(&SECRET));
                    return; // the connection now belongs to the provider
                }
                Err(_) => return,
            }
        }
    } else {
        let resume = (choice & 2 != 0).then_some(ClientResume {
            channel_id: 7,
            secret: SECRET,
            offsets: Offsets::default(),
        });
        let pinned = choice & 4 != 0;
        let resuming = resume.is_some();
        let mut client = ClientHandshake::new(ClientHello {
            server: "sales".into(),
            node: "node-a".into(),
            min_generation: 5,
            pinned: pinned.then(|| SecretKey::from_seed([1; 32]).public()),
            ring_bytes: 1 << 16,
            nonce: [2; 16],
            boot_id: [0; 16],
            patient: choice & 16 != 0,
            warm: false,
            resume,
        });
        for part in bytes.chunks(piece) {
            match client.feed(part) {
                Ok(None) => assert!(client.want() <= HEADER_BYTES + CONTROL_MAX),
                Ok(Some(established)) => {
                    assert!(!pinned && !resuming);
                    assert_eq!(established.accept.node, "node-a");
                    assert!(established.accept.generation >= 5);
                    assert!(established.ring_bytes <= 1 << 16);
                    return;
                }
                Err(_) => return,
            }
        }
    }
});

fn frame(mut bytes: &[u8]) -> Vec<u8> {
    let mut packets = Vec::new();
    while let Some((&[kind, length], rest)) = bytes.split_first_chunk() {
        let (payload, rest) = rest.split_at(rest.len().min(length.into()));
        bytes = rest;
        let header = Header {
            flags: kind >> 7,
            generation: 5,
            ..Header::new(Type::from_wire((kind & 0x7f) % 11 + 1).expect("1 to 11"))
        };
        packets.extend(packet(header, payload));
    }
    packets
}
