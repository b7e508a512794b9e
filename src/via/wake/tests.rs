//! Interleavings that take more threads than the model checker has time for.

use super::*;
use std::sync::mpsc::channel;

/// A publisher that was held up after its token was taken must not vouch for the token of another one.
#[test]
fn who_rings_says_so_for_itself() {
    let word = AtomicU32::new(ARMED);
    let (second_rings, it_rings) = channel();
    let (go_on, told) = channel();
    let told = std::sync::Mutex::new(Some(told));
    std::thread::scope(|scope| {
        publish(
            &word,
            || true,
            |_| {
                // The token is sent, a consumer comes, takes it and leaves, and another publisher begins.
                assert_eq!(enter(&word), Entered::Late);
                assert!(leave_armed(&word, || false));
                let (word, second_rings) = (&word, second_rings.clone());
                let told = told.lock().unwrap().take().expect("rung once");
                scope.spawn(move || {
                    let ring = |_| {
                        second_rings.send(()).unwrap();
                        told.recv().unwrap();
                        true
                    };
                    publish(word, || true, ring);
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
