//! Interleavings that take more threads than the model checker has time for.

use super::*;
use std::sync::mpsc::channel;

/// A publisher that was held up after its token was taken must not vouch for the token of another one.
#[test]
fn who_rings_says_so_for_itself() {
    let (word, voucher) = (AtomicU32::new(ARMED), AtomicU32::new(0));
    let (second_rings, it_rings) = channel();
    let (go_on, told) = channel();
    let told = std::sync::Mutex::new(Some(told));
    std::thread::scope(|scope| {
        publish(
            &word,
            &voucher,
            || true,
            |_| {
                // The token is sent, a consumer comes, takes it and leaves, and another publisher begins.
                assert!(matches!(enter(&word), Entered::Late(_)));
                assert!(leave_armed(&word, || false));
                let (word, voucher, second_rings) = (&word, &voucher, second_rings.clone());
                let told = told.lock().unwrap().take().expect("rung once");
                scope.spawn(move || {
                    let ring = |_| {
                        second_rings.send(()).unwrap();
                        told.recv().unwrap();
                        true
                    };
                    publish(word, voucher, || true, ring);
                });
                it_rings.recv().unwrap();
                true
            },
        );
        let meanwhile = word.load(Ordering::SeqCst);
        go_on.send(()).unwrap();
        assert!(is_ringing(meanwhile), "{meanwhile}");
    });
    assert_eq!(word.load(Ordering::SeqCst), RUNG);
}

/// A token that was sent is vouched for where the consumer came in before the word could say so, and no other one is.
#[test]
fn a_token_that_was_sent_is_vouched_for() {
    let (word, voucher) = (AtomicU32::new(ARMED), AtomicU32::new(0));
    let late = std::cell::Cell::new(0);
    let comes_in = |_| {
        assert_eq!(voucher.load(Ordering::SeqCst), 0, "not sent yet");
        if let Entered::Late(ringing) = enter(&word) {
            late.set(ringing);
        }
        true
    };
    for _ in 0..2 {
        publish(&word, &voucher, || true, comes_in);
        assert!(is_ringing(late.get()));
        assert_eq!(voucher.load(Ordering::SeqCst), late.take());
        assert!(leave_armed(&word, || false));
    }
    // A consumer that comes after it needs no voucher, and finds none.
    publish(&word, &voucher, || true, |_| true);
    assert_eq!(voucher.load(Ordering::SeqCst), 0);
    assert_eq!(enter(&word), Entered::Rung);
}
