//! Whatever bytes come: no panic, and what is understood is exactly what was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vianet::via::packet::{self, Accepted, Connect, HEADER_BYTES, Header, Type};

fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    // Half of the inputs get a header that is right, so that the payloads are reached.
    let framed;
    let bytes = if choice & 1 == 0 {
        rest
    } else {
        let kind = Type::from_wire((choice >> 1) % 11 + 1).expect("1 to 11");
        let flags = choice >> 6 & 1;
        let header = Header {
            flags,
            ..Header::new(kind)
        };
        framed = packet::packet(header, rest);
        &framed
    };
    let Some((front, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return;
    };
    let Ok(header) = Header::decode(front) else {
        return;
    };
    assert_eq!(&header.encode(), front);
    let written = match header.kind {
        Type::Connect | Type::Resume => Connect::decode(header.kind, payload)
            .ok()
            .map(|connect| connect.encode(header.generation, header.acked)),
        Type::Accept => Accepted::decode(header.flags, payload)
            .ok()
            .map(|accepted| accepted.encode(header.generation, header.acked)),
        Type::Reject => packet::decode_reject(payload)
            .ok()
            .map(|reason| packet::reject(reason, header.generation)),
        Type::Disconnect => {
            let _ = packet::decode_disconnect(payload);
            None
        }
        _ => None,
    };
    if let Some(written) = written {
        assert_eq!(&written[HEADER_BYTES..], payload);
    }
});
