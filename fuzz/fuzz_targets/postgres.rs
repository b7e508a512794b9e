//! Both streams of a PostgreSQL session: no panic, and nothing depends on how the bytes are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vianet::session::postgres::{Observer, Standing};

fuzz_target!(|data: &[u8]| {
    let Some((&cut, mut rest)) = data.split_first() else {
        return;
    };
    let (mut whole, mut cut_up) = (Observer::default(), Observer::default());
    // Each piece: who sends it, how long it is.
    while let Some((&[head], more)) = rest.split_first_chunk::<1>() {
        let (piece, after) = more.split_at(usize::from(head >> 1).min(more.len()));
        rest = after;
        let pieces = piece.chunks(usize::from(cut).max(1));
        if head & 1 == 0 {
            whole.sent(piece);
            pieces.for_each(|piece| cut_up.sent(piece));
        } else {
            let ahead = |skip: usize, out: &mut [u8]| {
                let rest = piece.get(skip..).unwrap_or_default();
                let n = out.len().min(rest.len());
                out[..n].copy_from_slice(&rest[..n]);
                n
            };
            let release = whole.release(piece.len(), piece.len(), 64, ahead);
            assert!(release.bytes <= piece.len() && release.next > 0);
            whole.received(piece);
            pieces.for_each(|piece| cut_up.received(piece));
        }
        assert_eq!(whole.standing(), cut_up.standing());
        assert_eq!(whole.obstacle(), cut_up.obstacle());
        assert_eq!(whole.at_boundary(), cut_up.at_boundary());
        assert!(whole.standing() != Standing::Blind || whole.obstacle().is_some());
    }
});
