//! The wake words (DESIGN section 4): who has to tell whom, without a lost wake-up and without a system call for
//! nothing.
//!
//! **Receive word**, between the side that delivers and the consumer of a ring:
//!
//! | state | true in it | a publisher |
//! | --- | --- | --- |
//! | ARMED | resting: ring and bell are empty | takes it to RINGING, rings, takes it to RUNG |
//! | RINGING | a publisher, which it names, is about to send the token | does nothing |
//! | RUNG | the token was sent (or the stream's end was shown) | does nothing |
//! | INSIDE | a thread is in our code and looks again before it leaves | does nothing |
//! | FUTEX | that thread sleeps on the word | takes it to INSIDE and wakes it |
//!
//! RINGING is what lets the consumer tell a token that is late from one that somebody read behind our back; and a publisher
//! that has sent it, and finds that the consumer came in before it could say RUNG, says so in a second word, the voucher.
//!
//! **Space word**, between the side that frees room and the producer: OPEN (the bell is writable), FULL (a send came
//! back short and the bell was blocked: who frees enough room takes it to OPEN and opens the bell), INSIDE and FUTEX as
//! above.
//!
//! Each side first changes its index, then looks at the other's word; the other first changes its word, then looks at
//! the index. Store, then load: that needs a sequentially consistent fence on both sides; acquire and release alone
//! lost 43,000 wake-ups in 1.5 million on x86.

use super::sync::{AtomicU32, Ordering, fence, futex_wake, me};

/// Resting; the next publisher rings.
pub const ARMED: u32 = 0;
/// A token is in the bell.
pub const RUNG: u32 = 1;
/// A thread is inside and looks again before it leaves. Also the state of a new channel until it is activated.
pub const INSIDE: u32 = 2;
/// The thread inside sleeps on the word.
pub const FUTEX: u32 = 3;
/// A token is about to be sent; in the lowest bits, with the thread that sends it above. (One that is held up after its
/// token was taken must not take another one's RINGING for its own.)
pub const RINGING: u32 = 4;

/// Whether a word says RINGING.
pub fn is_ringing(word: u32) -> bool {
    word & 7 == RINGING
}

/// The thread that a word which says RINGING names.
pub fn who_rings(word: u32) -> u32 {
    word >> 3
}

/// Space word: a send would not block, or at least nobody was told otherwise.
pub const OPEN: u32 = 0;
/// Space word: the bell is blocked until there is room.
pub const FULL: u32 = 1;

/// Looks at a word that says RINGING before the token counts as late.
const RINGING_LOOKS: u32 = if cfg!(loom) { 1 } else { 200 };

/// What a consumer found when it entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// The bell is empty.
    Quiet,
    /// What was rung is in the bell, or was read behind our back.
    Rung,
    /// One token is on its way (or its sender died), or was sent and perhaps read behind our back: then the voucher comes to
    /// hold this number.
    Late(u32),
}

/// Publisher: after `tail` or `fin` was stored. `unread` says whether there is anything for the consumer, `ring` sends
/// the token and says whether it did: the consumer may have come, taken everything and left meanwhile, and then a word
/// that said RUNG with an empty bell would silence every later publisher. `ring(true)` sends some token in any case.
pub fn publish(
    word: &AtomicU32,
    voucher: &AtomicU32,
    unread: impl Fn() -> bool,
    ring: impl Fn(bool) -> bool,
) {
    let ringing = RINGING | me() << 3;
    // What was said of an earlier token is not true of the next one. (Nobody else writes our number.)
    if voucher.load(Ordering::Relaxed) == ringing {
        voucher.store(0, Ordering::Relaxed);
    }
    // Bounded, since `unread` looks at what another process can write.
    for _ in 0..100 {
        fence(Ordering::SeqCst);
        if !unread() {
            return;
        }
        let mut state = word.load(Ordering::Acquire);
        loop {
            let next = match state {
                ARMED => ringing,
                FUTEX => INSIDE,
                _ => return,
            };
            match word.compare_exchange(state, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(FUTEX) => return futex_wake(word),
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        let rung = ring(false);
        let next = if rung { RUNG } else { ARMED };
        // Fails when the consumer came in meanwhile; it waits for a token then and throws it away.
        let left = word.compare_exchange(ringing, next, Ordering::AcqRel, Ordering::Relaxed);
        if left.is_err() {
            if !rung {
                ring(true);
            }
            voucher.store(ringing, Ordering::Release);
        }
        if left.is_err() || rung {
            return;
        }
        // While the word said RINGING, others relied on us: look again.
    }
}

/// Consumer: a thread comes in (under the direction's lock).
pub fn enter(word: &AtomicU32) -> Entered {
    // A publisher that is between two instructions decides within them whether there is a token.
    for _ in 0..RINGING_LOOKS {
        if !is_ringing(word.load(Ordering::Acquire)) {
            break;
        }
        super::sync::pause();
    }
    match word.swap(INSIDE, Ordering::AcqRel) {
        RUNG => Entered::Rung,
        word if is_ringing(word) => Entered::Late(word),
        _ => Entered::Quiet,
    }
}

/// Consumer: leaves with something in the bell.
pub fn leave_rung(word: &AtomicU32) {
    word.store(RUNG, Ordering::Release);
}

/// Consumer: leaves with ring and bell empty. False: something came in between and nobody was told, so the caller is
/// inside again and looks.
pub fn leave_armed(word: &AtomicU32, pending: impl FnOnce() -> bool) -> bool {
    word.store(ARMED, Ordering::Release);
    fence(Ordering::SeqCst);
    // Where the exchange fails a publisher was quicker, and what it rings is the level.
    !pending()
        || word
            .compare_exchange(ARMED, INSIDE, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
}

/// Consumer or producer, inside: says that it will sleep. False: `pending` became true, it is inside still. After the
/// sleep, [`wake_up`].
pub fn lie_down(word: &AtomicU32, pending: impl FnOnce() -> bool) -> bool {
    word.store(FUTEX, Ordering::Release);
    fence(Ordering::SeqCst);
    if pending() {
        wake_up(word);
        return false;
    }
    true
}

/// The thread that slept (or did not come to it) is inside again.
pub fn wake_up(word: &AtomicU32) {
    let _ = word.compare_exchange(FUTEX, INSIDE, Ordering::AcqRel, Ordering::Relaxed);
}

/// Anybody: wakes the thread that sleeps on the word, if one does.
pub fn nudge(word: &AtomicU32) {
    fence(Ordering::SeqCst);
    if word.load(Ordering::Acquire) == FUTEX
        && word
            .compare_exchange(FUTEX, INSIDE, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    {
        futex_wake(word);
    }
}

/// Consumer: after `head` was stored. `enough` says whether there is room worth a wake-up, `open` makes the producer's
/// bell writable (undoes one blocking of it).
pub fn freed(word: &AtomicU32, enough: impl Fn() -> bool, open: impl FnOnce()) {
    // Bounded, since `enough` looks at what another process can write.
    for _ in 0..100 {
        fence(Ordering::SeqCst);
        let mut state = word.load(Ordering::Acquire);
        loop {
            let next = match state {
                FULL if enough() => OPEN,
                FUTEX if enough() => INSIDE,
                _ => return,
            };
            match word.compare_exchange(state, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(FUTEX) => return futex_wake(word),
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        // Between the look and the exchange a producer may have come, used the room up, and left with the word FULL again.
        // The bell is blocked still, so that is undone; unless a producer came in since, who counts on us to open it.
        if enough()
            || word
                .compare_exchange(OPEN, FULL, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
        {
            return open();
        }
        // While the word said OPEN, others who freed room relied on us: look again.
    }
}

/// Producer: a thread comes in and may sleep; true where the bell is blocked. (A send that finds room for everything
/// does not touch the word.)
pub fn enter_space(word: &AtomicU32) -> bool {
    word.swap(INSIDE, Ordering::AcqRel) == FULL
}

/// Producer: leaves, and the bell is writable.
pub fn leave_open(word: &AtomicU32) {
    word.store(OPEN, Ordering::Release);
}

/// Producer: leaves with the bell blocked. True: there is room meanwhile and nobody was told, so the word is OPEN and
/// the caller opens the bell.
pub fn leave_full(word: &AtomicU32, enough: impl FnOnce() -> bool) -> bool {
    word.store(FULL, Ordering::Release);
    fence(Ordering::SeqCst);
    enough()
        && word
            .compare_exchange(FULL, OPEN, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests;
