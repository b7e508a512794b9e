//! The soak: clients that keep books of what they did, while node after node is lost. Every acknowledged row exists once, none
//! twice, every unknown one once at most, totals hold, and every statement gives the settings that its client has set.
//!
//! `make soak FAILOVERS=10000` runs it long; see [`plan::Plan`] for the environment. Ctrl-C ends it with a report of what it has.
//! Skipped, with a line that says so, where PostgreSQL, its server headers or psql are not installed.

mod audit;
mod books;
mod clients;
mod faults;
#[path = "../pg_ext/mod.rs"]
mod pg_ext;
#[path = "../pg_lab/mod.rs"]
mod pg_lab;
mod plan;
mod random;
mod report;
mod round;
mod times;

use plan::Plan;
use report::Report;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn nothing_is_lost_or_run_twice() {
    let plan = Plan::from_environment();
    let end = Arc::<AtomicBool>::default();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&end)).unwrap();
    }
    let Some(installation) = pg_ext::Installation::make() else {
        return;
    };
    if let Some(limit) = plan.limit {
        let end = Arc::clone(&end);
        std::thread::spawn(move || {
            std::thread::sleep(limit);
            end.store(true, Ordering::Release);
        });
    }
    for _ in 0..plan.load {
        // For as long as the process lives.
        std::thread::spawn(|| {
            loop {
                std::hint::black_box(0);
            }
        });
    }
    println!("seed {}", plan.seed);
    let mut report = Report::new(&plan);
    let mut random = random::Random::new(plan.seed);
    while let Some(round) = plan.next(&report, &mut random) {
        if end.load(Ordering::Acquire) || !report.wrong.is_empty() {
            break;
        }
        let Some(result) = round.run(&plan, &installation, &end) else {
            return;
        };
        report.add(&round, result);
        report.write();
    }
    println!("{}", report.text());
    assert!(report.wrong.is_empty(), "{:#?}", report.wrong);
}
