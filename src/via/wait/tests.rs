//! What is learned, and who drives. No test asserts a time.

use super::*;
use std::cell::Cell;

const LIMIT: Duration = Duration::from_millis(2);

#[test]
fn a_hit_at_once_is_a_hit() {
    let spin = Spin::default();
    for _ in 0..100 {
        assert_eq!(spin.run(LIMIT, || true), Spun::Hit);
    }
    assert_eq!(spin.eighths.load(Ordering::Relaxed), FULL);
}

#[test]
fn a_limit_of_zero_never_looks() {
    let spin = Spin::default();
    let missed = spin.run(Duration::ZERO, || unreachable!("looked"));
    assert_eq!(missed, Spun::Miss);
}

#[test]
fn misses_teach_not_to_spin_and_trials_become_rarer() {
    let spin = Spin::default();
    let spun = Cell::new(0);
    let mut spins = Vec::new();
    for _ in 0..2000 {
        let looked = Cell::new(false);
        spin.run(Duration::from_micros(20), || {
            looked.set(true);
            false
        });
        spun.set(spun.get() + u32::from(looked.get()));
        spins.push(looked.get());
    }
    assert_eq!(spin.eighths.load(Ordering::Relaxed), 0);
    assert!(spun.get() < 30, "{} of 2000 waits spun", spun.get());
    let (first, second) = spins.split_at(1000);
    let count = |half: &[bool]| half.iter().filter(|s| **s).count();
    assert!(count(second) < count(first));
}

#[test]
fn one_hit_of_a_trial_brings_the_spin_back() {
    let spin = Spin::default();
    spin.eighths.store(0, Ordering::Relaxed);
    let mut waits = 0;
    while spin.run(LIMIT, || true) == Spun::Miss {
        waits += 1;
        assert!(waits <= TRIAL_FIRST, "no trial");
        if !several_processors() {
            return;
        }
    }
    assert_eq!(spin.run(LIMIT, || true), Spun::Hit);
}

#[test]
fn work_left_to_the_holder_is_done_once_more() {
    let token = Token::default();
    let runs = Cell::new(0);
    let result = token.run(|| {
        runs.set(runs.get() + 1);
        if runs.get() == 1 {
            assert_eq!(token.run(|| unreachable!("two at once")), None::<()>);
            assert_eq!(token.run(|| unreachable!("two at once")), None::<()>);
        }
        runs.get()
    });
    assert_eq!(result, Some(2));
    assert!(token.is_free());
}

#[test]
fn a_panic_frees_the_token() {
    let token = Token::default();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        token.run(|| std::panic::resume_unwind(Box::new("on purpose")))
    }));
    assert!(panicked.is_err_and(|why| why.is::<&str>()));
    assert_eq!(token.run(|| 5), Some(5));
}

#[test]
fn a_habit_of_failing_is_tried_now_and_then() {
    let habit = Habit::default();
    let mut tries = 0;
    for _ in 0..164 {
        if habit.worth_a_try() {
            tries += 1;
            habit.learn(false);
        }
    }
    assert_eq!(tries, 4 + 10);
    habit.learn(true);
    assert!(habit.worth_a_try());
    for _ in 0..50 {
        habit.learn(true);
        habit.learn(true);
        habit.learn(false);
    }
    assert!(habit.worth_a_try());
    (0..4).for_each(|_| habit.learn(false));
    let tries = (0..64).filter(|n| {
        let tried = habit.worth_a_try();
        if tried {
            // As often as not.
            habit.learn(n % 2 == 0);
        }
        tried
    });
    assert!(tries.count() < 20);
}

#[test]
fn a_deadline_passes_or_never_does() {
    let most = Duration::from_secs(5);
    assert_eq!(Deadline::after(None).left(most), Some(most));
    assert_eq!(Deadline::after(Some(Duration::MAX)).left(most), Some(most));
    assert_eq!(Deadline::after(Some(Duration::ZERO)).left(most), None);
    let left = Deadline::after(Some(Duration::from_secs(3600))).left(Duration::MAX);
    assert!(left.is_some_and(|l| l <= Duration::from_secs(3600)));
}
