//! A node's answer at a client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vianet::resolve::query::Query;

fuzz_target!(|bytes: &[u8]| {
    let query = Query {
        nonce: [9; 16],
        server: "sales".into(),
        min_generation: 0,
    };
    let now_ms = 1_800_000_000_000;
    let _ = query.parse_answer(bytes, now_ms, None);
    let mut framed = b"VIA1\x01\x02".to_vec();
    framed.extend_from_slice(&((bytes.len() + 24) as u16).to_le_bytes());
    framed.extend_from_slice(&query.nonce);
    framed.extend_from_slice(bytes);
    if let Ok(answer) = query.parse_answer(&framed, now_ms, None) {
        let again = query.answer(&answer, None).expect("it was read");
        assert_eq!(query.parse_answer(&again, now_ms, None), Ok(answer));
    }
});
