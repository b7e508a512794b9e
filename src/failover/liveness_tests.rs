use super::*;
use proptest::prelude::*;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Runs the loop as the contract says from `from` to `to`; the node answers nothing.
fn run(live: &mut Liveness, from: u64, to: u64) {
    let mut now = ms(from);
    while now < ms(to) {
        turn(live, now);
        now = live.poll_timeout().max(now + ms(1)).min(ms(to));
    }
}

fn turn(live: &mut Liveness, now: Duration) {
    live.ran(now);
    live.drained(now);
    if live.due(now) {
        live.sent(now, true);
    }
}

#[test]
fn three_unanswered_probes_are_a_lost_node() {
    let mut live = Liveness::new(ms(250), 3, ms(0));
    run(&mut live, 0, 900);
    assert_eq!(live.unanswered(), 2);
    assert!(!live.is_lost());
    run(&mut live, 900, 1002);
    assert!(
        live.is_lost(),
        "frozen right after an answer: known after one second"
    );
}

#[test]
fn anything_heard_starts_again_and_silences_the_probes() {
    let mut live = Liveness::new(ms(250), 3, ms(0));
    run(&mut live, 0, 900);
    live.heard(ms(900));
    assert_eq!(live.unanswered(), 0);
    assert_eq!(
        live.poll_timeout(),
        ms(1150),
        "no turn of the loop before the next probe"
    );
    for now in (1000..5000).step_by(100) {
        live.ran(ms(now));
        live.heard(ms(now));
        live.drained(ms(now));
        assert!(!live.due(ms(now)), "none while bytes arrive");
    }
}

#[test]
fn a_stopped_process_concludes_nothing() {
    let mut live = Liveness::new(ms(250), 3, ms(0));
    run(&mut live, 0, 600);
    let before = live.unanswered();
    // Stopped for ten seconds with a probe under way; the answer is not in the socket either.
    turn(&mut live, ms(10_600));
    assert_eq!(live.unanswered(), before, "the gap spoiled the probe");
    assert!(!live.is_lost());
    // From there on the probes count again.
    run(&mut live, 10_601, 12_000);
    assert!(live.is_lost());
}

#[test]
fn a_probe_counts_only_once_the_socket_was_drained() {
    let mut live = Liveness::new(ms(100), 1, ms(0));
    live.sent(ms(0), true);
    for now in [25, 50, 75, 100, 125] {
        live.ran(ms(now));
    }
    assert!(!live.is_lost());
    live.drained(ms(125));
    assert!(live.is_lost());
}

#[test]
fn a_broken_channel_hurries_the_probe() {
    let mut live = Liveness::new(ms(250), 3, ms(0));
    assert!(!live.due(ms(10)));
    live.hurry(ms(10));
    assert!(live.due(ms(10)));
}

proptest! {
    /// However the loop is stopped and goes on: a node is lost only after `lost_after` probes whose windows were
    /// run through without a gap.
    #[test]
    fn no_loss_without_running(gaps in prop::collection::vec(1u64..400, 1..200)) {
        let mut live = Liveness::new(ms(100), 3, ms(0));
        let (mut now, mut smooth) = (0, 0);
        for gap in gaps {
            now += gap;
            smooth = if gap > 50 { 0 } else { smooth + gap };
            let before = live.unanswered();
            turn(&mut live, ms(now));
            if live.unanswered() > before {
                prop_assert!(smooth >= 100, "counted after {smooth} ms without a gap");
            }
        }
    }
}

#[test]
fn a_node_that_stops_right_after_bytes_is_noticed_in_time() {
    let mut live = Liveness::new(ms(250), 3, ms(0));
    // The bytes came just after 0 and are seen at the first turn.
    live.ran(ms(250));
    live.heard_bytes(ms(250));
    run(&mut live, 250, 1130);
    assert!(live.is_lost());
}

#[test]
fn in_a_hurry_probes_are_repeated_and_do_not_count() {
    let mut live = Liveness::new(ms(250), 3, ms(0));
    live.ran(ms(10));
    live.hurry(ms(10));
    let mut sent = Vec::new();
    let mut now = ms(10);
    while now < ms(250) {
        live.ran(now);
        live.drained(now);
        if live.due(now) {
            live.sent(now, true);
            sent.push(now.as_millis());
        }
        now = live.poll_timeout().max(now + ms(1));
    }
    assert_eq!(sent, [10, 13, 19, 31, 55, 103, 199]);
    assert_eq!(live.unanswered(), 0);
    run(&mut live, 250, 740);
    assert!(
        !live.is_lost(),
        "three whole intervals of silence, not three probes"
    );
    run(&mut live, 740, 1000);
    assert!(live.is_lost());
}

#[test]
fn bytes_from_before_the_break_do_not_end_a_hurry() {
    let mut live = Liveness::new(ms(250), 3, ms(0));
    live.ran(ms(10));
    live.hurry(ms(10));
    live.heard_bytes(ms(10));
    assert!(live.due(ms(10)));
    live.sent(ms(10), true);
    assert_eq!(live.poll_timeout(), ms(13));
}
