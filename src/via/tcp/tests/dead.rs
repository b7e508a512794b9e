//! A process that shared a connection and died in the middle of using it.

use crate::via::region::{Direction, Region};
use crate::via::tcp::words::{Before, TxWords};

/// Runs `f` in a forked child, which `f` ends, and waits for it.
fn in_a_child_that_dies(f: impl FnOnce()) {
    // SAFETY: the child only reads and writes shared memory and asks for its own number, and ends by `_exit`.
    match unsafe { libc::fork() } {
        0 => {
            crate::thread::forget_id();
            f();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(1) }
        }
        child => {
            let mut status = -1;
            // SAFETY: one valid int.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0, "it got the word");
        }
    }
}

fn die() {
    // SAFETY: ends the child at once.
    unsafe { libc::_exit(0) }
}

fn words() -> TxWords {
    let region = Region::anonymous(4096).unwrap();
    let words = TxWords::new(region.ring(Direction::ClientToServer));
    words.start(0, 0);
    words
}

#[test]
fn who_sends_next_is_told() {
    let words = words();
    in_a_child_that_dies(|| _ = words.alone(|_| die()));
    assert!(words.is_orphaned());
    let mut told = Vec::new();
    assert!(words.alone(|before| told.push(before)));
    assert!(words.alone(|before| told.push(before)));
    assert_eq!(told, [Before::Died, Before::Finished]);
    assert!(!words.is_orphaned());
}

#[test]
fn who_reads_next_is_told() {
    let words = words();
    in_a_child_that_dies(|| words.read_alone(|_| die()).unwrap_or(()));
    assert!(words.is_orphaned());
    assert_eq!(words.read_alone(|before| before), Some(Before::Died));
    assert_eq!(words.read_alone(|before| before), Some(Before::Finished));
}

#[test]
fn who_comes_second_leaves_word() {
    let words = words();
    let mut runs = 0;
    assert!(words.alone(|_| {
        runs += 1;
        if runs == 1 {
            assert!(!words.alone(|_| unreachable!("this thread is at it")));
        }
    }));
    assert_eq!(runs, 2);
}

/// Somebody looks while processes finish what they do, and end.
#[test]
fn who_finished_and_ended_is_no_orphan() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let words = words();
    let done = AtomicBool::new(false);
    let mut wrong = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3000 {
                in_a_child_that_dies(|| {
                    for _ in 0..20 {
                        words.alone(|_| ());
                    }
                    die()
                });
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            wrong += u32::from(words.is_orphaned());
        }
    });
    assert_eq!(wrong, 0);
}
