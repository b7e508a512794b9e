//! Callbacks and fork: a child may log and set callbacks whatever another thread of its parent was doing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vianet::conn::events;
use vianet::log::{self, Level};

static CALLS: AtomicU64 = AtomicU64::new(0);

fn set_and_call() {
    let sink = |_: Level, _: &str, _: &str| {
        CALLS.fetch_add(1, Ordering::Relaxed);
    };
    log::set_callback(Level::Debug, Box::new(sink));
    vianet::log!(Level::Info, "test", "a record");
    events::set_callback(Some(Box::new(|_| ())));
}

#[test]
fn a_child_finds_no_lock_of_a_thread_that_does_not_exist_there() {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    set_and_call();
                }
                // What is replaced is kept: a fork must not become slow by it.
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        let mut stuck = false;
        for _ in 0..200 {
            let end = Instant::now() + Duration::from_secs(30);
            // SAFETY: the child uses the library and ends by _exit.
            let child = unsafe { libc::fork() };
            if child == 0 {
                set_and_call();
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(0) };
            }
            assert!(child > 0);
            // SAFETY: no status is wanted.
            while unsafe { libc::waitpid(child, std::ptr::null_mut(), libc::WNOHANG) } == 0 {
                stuck |= Instant::now() > end;
                if stuck {
                    // SAFETY: our own child.
                    unsafe { libc::kill(child, libc::SIGKILL) };
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            if stuck {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(!stuck, "a child waits for ever");
    });
    assert!(CALLS.load(Ordering::Relaxed) > 0);
}

/// In a process of its own: the callback is the process's.
#[test]
fn the_first_use_of_a_cluster_without_a_key_says_so_once() {
    const CHILD: &str = "VIANET_TEST_UNSIGNED";
    if std::env::var_os(CHILD).is_none() {
        let me = std::env::current_exe().unwrap();
        let name = "the_first_use_of_a_cluster_without_a_key_says_so_once";
        let mut child = std::process::Command::new(me);
        let status = child.args(["--exact", name]).env(CHILD, "1").status();
        assert!(status.unwrap().success());
        return;
    }
    let said = std::sync::Arc::new(AtomicU64::new(0));
    let count = said.clone();
    let sink = move |level: Level, module: &str, text: &str| {
        if level == Level::Warn && module == "resolve" && text.contains("cluster lab are not") {
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    log::set_callback(Level::Debug, Box::new(sink));
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("client.toml");
    // Nobody listens there.
    std::fs::write(&config, "[clusters.lab]\nnodes = [\"127.0.0.1:9\"]\n").unwrap();
    let options = vianet::conn::Options {
        config: Some(config),
        deadline: Some(Duration::from_millis(100)),
        ..Default::default()
    };
    for _ in 0..2 {
        assert!(vianet::conn::resolve("lab\\sales", &options).is_err());
    }
    assert_eq!(said.load(Ordering::Relaxed), 1);
}

#[test]
fn a_callback_may_set_another_one() {
    let event = || events::set_callback(None);
    log::set_callback(
        Level::Debug,
        Box::new(move |_, _, _| {
            event();
            log::set_callback(Level::Debug, Box::new(|_, _, _| ()));
        }),
    );
    vianet::log!(Level::Info, "test", "a record");
}
