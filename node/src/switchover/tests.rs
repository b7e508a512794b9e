use super::*;

const MS: Duration = Duration::from_millis(1);
const WELL: Roles = Roles {
    own: "active",
    peer: "passive",
    can_hand_over: true,
};

/// A switchover, its clock, and the sessions.
struct Story {
    it: Switchover,
    at: Duration,
    sessions: Sessions,
}

impl Story {
    fn new(dry_run: bool) -> Self {
        let at = 1000 * MS;
        let it = Switchover::new(at, "sales", ("node-a", "node-b"), 10_000 * MS, dry_run);
        let mut story = Self {
            it,
            at,
            sessions: Sessions::new(),
        };
        assert_eq!(story.pass(10), Step::Wait);
        assert_eq!(
            story.it.ready(story.at, at, Ok(())),
            Step::Order(Order::Tell)
        );
        story
    }

    fn says(&mut self, channel: u64, why: Option<Why>, held: bool, rested: bool) {
        let standing = Standing { why, held, rested };
        self.word(channel, standing.to_wire());
    }

    fn word(&mut self, channel: u64, standing: u8) {
        let session = SessionStatus {
            warm: false,
            channel,
            transport: "shm".into(),
            peer: "uid 1000 pid 4711".into(),
            standing,
            ..SessionStatus::default()
        };
        self.sessions.insert(channel, session);
    }

    fn with(&mut self, own: &'static str, peer: &'static str) -> Step {
        let can_hand_over = WELL.can_hand_over;
        let roles = Roles {
            own,
            peer,
            can_hand_over,
        };
        self.it.step(self.at, roles, &self.sessions)
    }

    fn pass(&mut self, ms: u32) -> Step {
        self.at += ms * MS;
        self.it.step(self.at, WELL, &self.sessions)
    }

    fn error(&self) -> String {
        assert!(self.it.is_over());
        self.it.status().error.unwrap()
    }
}

const TRANSACTION: Option<Why> = Some(Why::Session(Reason::Transaction));
const TEMPORARY: Option<Why> = Some(Why::Session(Reason::Temporary));

#[test]
fn a_long_transaction_is_waited_for_while_the_others_go_on() {
    let mut s = Story::new(false);
    s.says(1, TRANSACTION, false, false);
    s.says(2, None, false, true);
    assert_eq!(s.pass(5000), Step::Wait);
    // Its transaction has ended, and the next one has begun.
    s.says(1, TRANSACTION, false, true);
    assert_eq!(s.pass(10), Step::Order(Order::Hold));
    assert!(s.it.closes());
    s.says(2, None, true, true);
    assert_eq!(s.pass(2000), Step::Wait);
    s.says(1, None, true, true);
    assert_eq!(s.pass(10), Step::HandOver);
    assert_eq!(s.with("handing-over", "passive"), Step::Wait);
    s.at += 70 * MS;
    assert_eq!(s.with("passive", "passive"), Step::Wait);
    s.at += 200 * MS;
    assert_eq!(s.with("passive", "taking-over"), Step::Wait);
    s.at += 100 * MS;
    assert_eq!(s.with("passive", "active"), Step::Over);
    let status = s.it.status();
    assert_eq!((status.error, status.over), (None, true));
    assert_eq!((status.drain_ms, status.hold_ms), (5010, 2010));
    assert_eq!((status.demote_ms, status.takeover_ms), (70, 300));
    assert_eq!(status.stall_ms, 2380);
    let outcomes = status.sessions.iter().map(|s| s.outcome.as_str());
    assert_eq!(outcomes.collect::<Vec<_>>(), ["moves", "moves"]);
}

#[test]
fn a_transaction_that_may_wait_for_one_that_is_held_gets_another_chance() {
    let mut s = Story::new(false);
    // One program has both, and asks the second before it ends the transaction of the first.
    s.says(1, TRANSACTION, false, true);
    s.says(2, None, false, true);
    s.says(3, TEMPORARY, false, true);
    assert_eq!(s.pass(10), Step::Order(Order::Hold));
    s.says(2, None, true, true);
    assert_eq!(s.pass(4900), Step::Wait);
    assert_eq!(s.pass(100), Step::Order(Order::Tell));
    assert!(!s.it.closes());
    // What was said before counts no more, but not for ever.
    assert_eq!(s.pass(10), Step::Wait);
    s.says(2, None, false, true);
    assert_eq!(s.pass(10), Step::Wait);
    s.says(1, TRANSACTION, false, false);
    assert_eq!(s.pass(1500), Step::Wait);
    s.says(1, None, false, true);
    assert_eq!(s.pass(10), Step::Order(Order::Hold));
    s.says(1, None, true, true);
    s.says(2, None, true, true);
    assert_eq!(s.pass(10), Step::HandOver);
    let status = s.it.status();
    assert_eq!((status.drain_ms, status.hold_ms), (1540, 10));
}

#[test]
fn what_does_not_come_to_rest_ends_after_the_drain_time() {
    let mut s = Story::new(false);
    s.says(1, TRANSACTION, false, false);
    assert_eq!(s.pass(8900), Step::Wait);
    // The last second: the others wait, so that this one is the last that can begin anything.
    assert_eq!(s.pass(100), Step::Order(Order::Hold));
    assert_eq!(s.pass(900), Step::Wait);
    assert_eq!(s.pass(100), Step::HandOver);
    let status = s.it.status();
    assert_eq!(status.sessions[0].movable, "transaction");
    assert!(status.sessions[0].outcome.contains("08006"));
}

#[test]
fn what_can_never_move_is_not_waited_for() {
    let mut s = Story::new(false);
    s.says(1, TEMPORARY, false, true);
    s.says(2, Some(Why::RawReset), false, true);
    assert_eq!(s.pass(10), Step::Order(Order::Hold));
    assert_eq!(s.pass(10), Step::HandOver);
    let words: Vec<_> = s.it.status().sessions;
    assert_eq!(words[0].movable, "temporary");
    assert!(words[0].outcome.contains("57P01"), "{words:?}");
    assert_eq!(words[1].outcome, "is reset");
}

#[test]
fn who_is_silent_is_not_waited_for_long() {
    let mut s = Story::new(false);
    s.word(1, 0);
    assert_eq!(s.pass(900), Step::Wait);
    assert_eq!(s.pass(100), Step::Order(Order::Hold));
    // One that could move, and does not say that it waits; one that came only now.
    s.says(2, None, false, true);
    s.word(3, 0);
    assert_eq!(s.pass(900), Step::Wait);
    assert_eq!(s.pass(100), Step::HandOver);
    assert_eq!(s.it.status().sessions[0].movable, "unknown");
}

#[test]
fn a_dry_run_asks_and_changes_nothing() {
    let mut s = Story::new(true);
    s.says(1, TRANSACTION, false, false);
    s.word(2, 0);
    assert_eq!(s.pass(10), Step::Wait);
    s.says(2, None, false, true);
    assert_eq!(s.pass(10), Step::Over);
    let status = s.it.status();
    assert_eq!(status.error, None);
    assert!(status.sessions[0].outcome.contains("waited for"));
    assert_eq!(status.sessions[1].outcome, "moves");
    assert_eq!(s.pass(60_000), Step::Wait);
}

#[test]
fn nothing_is_done_where_the_other_side_is_not_fit() {
    let mut it = Switchover::new(MS, "sales", ("node-a", "node-b"), MS, false);
    // The word of a hook that an earlier one has left.
    for late in [Ok(()), Err("it is late".into())] {
        assert_eq!(it.ready(MS, Duration::ZERO, late), Step::Wait);
    }
    assert_eq!(it.ready(MS, MS, Err("it lags".into())), Step::Over);
    assert!(it.status().error.unwrap().contains("it lags"));
    for (own, peer) in [
        ("active", "down"),
        ("passive", "passive"),
        ("active", "active"),
    ] {
        let mut s = Story::new(false);
        s.says(1, TRANSACTION, false, false);
        assert_eq!(s.with(own, peer), Step::Over);
        let other = if own == "active" { peer } else { own };
        assert!(s.error().contains(other), "{}", s.error());
    }
}

#[test]
fn a_role_that_comes_back_is_told() {
    let mut s = Story::new(false);
    assert_eq!(s.pass(10), Step::Order(Order::Hold));
    assert_eq!(s.pass(10), Step::HandOver);
    s.with("handing-over", "passive");
    s.with("passive", "passive");
    s.with("passive", "taking-over");
    s.with("taking-over", "passive");
    assert_eq!(s.with("active", "passive"), Step::Over);
    assert!(
        s.error().contains("node-b did not take over"),
        "{}",
        s.error()
    );

    let mut s = Story::new(false);
    s.pass(10);
    assert_eq!(s.pass(10), Step::HandOver);
    s.with("handing-over", "passive");
    assert_eq!(s.with("taking-over", "passive"), Step::Wait);
    assert_eq!(s.with("active", "passive"), Step::Over);
    assert!(s.error().contains("demoted"), "{}", s.error());

    let mut s = Story::new(false);
    s.pass(10);
    assert_eq!(s.pass(10), Step::HandOver);
    s.with("passive", "passive");
    s.at += LOST;
    assert_eq!(s.with("passive", "down"), Step::Over);
    assert!(s.error().contains("neither"), "{}", s.error());
}
