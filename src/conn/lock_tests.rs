use super::*;
use std::sync::atomic::AtomicBool;

#[test]
fn counts_right_under_contention() {
    let lock = Lock::new(0u64);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    *lock.lock() += 1;
                }
            });
        }
    });
    assert_eq!(*lock.lock(), 80_000);
}

#[test]
fn own_thread_is_told_and_others_time_out() {
    let lock = RawLock::new();
    let held = lock.lock(None).unwrap();
    assert_eq!(lock.lock(None).err(), Some(NotTaken::Own));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| lock.lock(Some(Duration::from_millis(5))).err());
        assert_eq!(other.join().unwrap(), Some(NotTaken::Busy));
    });
    drop(held);
    assert!(lock.lock(Some(Duration::ZERO)).is_ok());
}

#[test]
fn a_holder_that_died_is_found_out() {
    let lock = RawLock::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::mem::forget(lock.lock(None).unwrap());
            done.store(true, Ordering::Release);
        });
    });
    assert!(done.load(Ordering::Acquire));
    assert!(lock.lock(Some(Duration::from_secs(20))).is_ok());
}
