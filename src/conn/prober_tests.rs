use super::*;
use crate::conn::asker::tests::{Node, answer, closed};
use crate::resolve::Role;
use std::time::Instant;

const INTERVAL: Duration = Duration::from_millis(60);

/// A prober with a clock that goes on with its turns alone: a machine that stands still makes no gap in it.
struct Run {
    prober: Prober,
    now: Duration,
}

impl Run {
    fn new(addr: SocketAddr, lost_after: u32) -> Self {
        let now = Duration::ZERO;
        let prober = Prober::new(addr, "sales", None, (INTERVAL, lost_after), now);
        Self {
            prober: prober.unwrap(),
            now,
        }
    }

    /// Turns until something but `Nothing` comes.
    fn until_news(&mut self) -> Probed {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            match self.prober.turn(self.now) {
                Probed::Nothing => {}
                news => return news,
            }
            let step = Duration::from_millis(5);
            std::thread::sleep(step);
            self.now += step;
        }
        panic!("no news");
    }
}

/// For nodes that live: their threads may be kept from running for a long time.
const NEVER: u32 = 1_000_000;

#[test]
fn alive_refused_and_lost() {
    let node = Node::with("node-a", Role::Active, 5);
    let mut alive = Run::new(node.addr, NEVER);
    let Probed::Alive(answer) = alive.until_news() else {
        panic!("must be alive")
    };
    assert_eq!(
        (answer.node.as_str(), answer.role),
        ("node-a", Role::Active)
    );
    assert_eq!(alive.prober.unanswered(), 0);

    let mut refused = Run::new(closed(), 3);
    refused.prober.hurry(refused.now);
    assert_eq!(refused.until_news(), Probed::Refused);

    let silent = Node::new(|_| Vec::new());
    let mut lost = Run::new(silent.addr, 3);
    assert_eq!(lost.until_news(), Probed::Lost(3));
    lost.prober.heard_bytes(lost.now);
    assert_eq!(lost.prober.unanswered(), 0);
}

#[test]
fn a_late_answer_counts_and_an_old_one_does_not() {
    let mut first: Option<Vec<u8>> = None;
    // Answers each probe with the answer to the one before.
    let late = Node::new(move |bytes| {
        let query = Query::parse(bytes).unwrap();
        let now = query
            .answer(&answer("node-a", Role::Active, 5), None)
            .unwrap();
        first.replace(now).into_iter().collect()
    });
    let alive = Run::new(late.addr, NEVER).until_news();
    assert!(matches!(alive, Probed::Alive(_)), "{alive:?}");

    let mut oldest: Option<Vec<u8>> = None;
    let replays = Node::new(move |bytes| {
        let query = Query::parse(bytes).unwrap();
        let again = oldest.get_or_insert_with(|| {
            let other = Query {
                nonce: [0; 16],
                ..query
            };
            other
                .answer(&answer("node-a", Role::Active, 5), None)
                .unwrap()
        });
        vec![again.clone()]
    });
    assert_eq!(Run::new(replays.addr, 3).until_news(), Probed::Lost(3));
}
