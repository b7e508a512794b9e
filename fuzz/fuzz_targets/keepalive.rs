//! A keep-alive at a node, from somebody who has the cluster's key: the fields are reached only with a good signature.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vianet::resolve::identity::SecretKey;
use vianet::resolve::keepalive::KeepAlive;

fuzz_target!(|bytes: &[u8]| {
    let key = SecretKey::from_seed([5; 32]);
    let now_ms = 1_800_000_000_000;
    let _ = KeepAlive::parse(bytes, now_ms, &key.public());
    let (kind, fields) = bytes.split_first().unwrap_or((&0, &[]));
    let mut framed = b"VIA1\x01".to_vec();
    framed.push(3 + kind % 4);
    framed.extend_from_slice(&((fields.len() + 8 + 64) as u16).to_le_bytes());
    framed.extend_from_slice(fields);
    let signature = key.sign(&[b"vianet keep-alive 1\0", &framed[..]].concat());
    framed.extend_from_slice(&signature);
    if let Ok(read) = KeepAlive::parse(&framed, now_ms, &key.public()) {
        let again = read.encode(&key).expect("it was read");
        assert_eq!(KeepAlive::parse(&again, now_ms, &key.public()), Ok(read));
    }
});
