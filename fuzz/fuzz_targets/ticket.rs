//! What has to do with login tickets: datagrams of clients and of the other node, with and without a good signature, and the
//! packet that redeems one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vianet::resolve::identity::SecretKey;
use vianet::resolve::ticket::{Ask, KeyAsk, KeysGiven, Redemption};

fuzz_target!(|bytes: &[u8]| {
    let key = SecretKey::from_seed([5; 32]);
    let public = key.public();
    if let Ok(read) = Redemption::parse(bytes) {
        assert!(!read.ticket.is_empty());
    }
    let ask = Ask {
        nonce: [0; 16],
        server: "sales".into(),
        channel: 0,
        public,
    };
    let _ = ask.parse_answer(bytes, &public);

    // The fields are reached only with a good signature.
    let (kind, fields) = bytes.split_first().unwrap_or((&0, &[]));
    let (kind, context): (u8, &[u8]) = match kind % 3 {
        0 => (8, b"vianet ticket given 1\0"),
        1 => (9, b"vianet ticket key ask 1\0"),
        _ => (10, b"vianet ticket keys given 1\0"),
    };
    let mut framed = b"VIA1\x01".to_vec();
    framed.push(kind);
    framed.extend_from_slice(&((fields.len() + 8 + 64) as u16).to_le_bytes());
    framed.extend_from_slice(fields);
    let signature = key.sign(&[context, &framed[..]].concat());
    framed.extend_from_slice(&signature);
    let _ = ask.parse_answer(&framed, &public);
    if let Ok(read) = KeyAsk::parse(&framed, &public) {
        let again = read.encode(&key).expect("it was read");
        assert_eq!(KeyAsk::parse(&again, &public), Ok(read));
    }
    if let Ok(read) = KeysGiven::parse(&framed, &public)
        && let Ok(again) = read.encode(&key)
    {
        assert_eq!(KeysGiven::parse(&again, &public), Ok(read));
    }

    // A client signs by a key of its own.
    let mut framed = b"VIA1\x01\x07\0\0".to_vec();
    framed.extend_from_slice(fields);
    framed.truncate(640 - 64);
    if framed.len() >= 64 {
        framed[32..64].copy_from_slice(&public.0);
    }
    let size = (framed.len() + 64) as u16;
    framed[6..8].copy_from_slice(&size.to_le_bytes());
    let signature = key.sign(&[&b"vianet ticket ask 1\0"[..], &framed].concat());
    framed.extend_from_slice(&signature);
    framed.resize(640, 0);
    if let Ok(read) = Ask::parse(&framed) {
        assert_eq!(read.public, public);
    }
});
