//! A cluster query at a node.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vianet::resolve::query::{Query, REQUEST_BYTES};

fuzz_target!(|bytes: &[u8]| {
    let check = |bytes: &[u8]| {
        if let Ok(query) = Query::parse(bytes) {
            assert_eq!(
                Query::parse(&query.encode().expect("it was read")),
                Ok(query)
            );
        }
    };
    check(bytes);
    // With the right length, type and size, so that the fields are reached at once.
    let mut framed = b"VIA1\x01\x01".to_vec();
    let size = (bytes.len() + 8).min(REQUEST_BYTES) as u16;
    framed.extend_from_slice(&size.to_le_bytes());
    framed.extend_from_slice(bytes);
    framed.resize(REQUEST_BYTES, 0);
    check(&framed);
});
