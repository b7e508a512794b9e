use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

/// One side: what it has to say, and what is on its way to it.
#[derive(Default)]
struct Side {
    credit: Credit,
    data: u32,
    got: u32,
    coming: VecDeque<(bool, u8)>,
}

/// What has to be said: data, or credit.
fn send(sides: &mut [Side; 2], from: usize) -> bool {
    let side = &mut sides[from];
    let data = side.data > 0 && side.credit.allows_data();
    let credit = side.credit.owes() && side.credit.allows_control();
    (data || credit) && say(sides, from, data)
}

/// What may be said at any time: that bytes were consumed, are you there, I am.
fn chat(sides: &mut [Side; 2], from: usize) -> bool {
    sides[from].credit.allows_control() && say(sides, from, false)
}

fn say(sides: &mut [Side; 2], from: usize, data: bool) -> bool {
    let side = &mut sides[from];
    side.credit.send();
    side.data -= u32::from(data);
    let count = side.credit.count();
    side.credit.tell(count);
    let other = &mut sides[1 - from];
    other.coming.push_back((data, count as u8));
    assert!(
        other.coming.len() <= DEPTH as usize,
        "more messages than receives"
    );
    true
}

fn receive(side: &mut Side) -> bool {
    let Some((data, count)) = side.coming.pop_front() else {
        return false;
    };
    side.got += u32::from(data);
    side.credit.receive(1);
    assert!(side.credit.heard_low(count));
    true
}

proptest! {
    /// In whatever order the sides run: there is always a receive, and everything arrives.
    #[test]
    fn everything_arrives(
        up in 0..2000_u32,
        down in 0..2000_u32,
        steps in prop::collection::vec((0..6_u8, 1..100_u8), 0..400),
    ) {
        let mut sides = [Side { data: up, ..Side::default() }, Side { data: down, ..Side::default() }];
        for (what, times) in steps {
            for _ in 0..times {
                match what {
                    0 | 1 => send(&mut sides, what.into()),
                    2 | 3 => chat(&mut sides, usize::from(what) - 2),
                    n => receive(&mut sides[usize::from(n) - 4]),
                };
            }
        }
        let mut rounds = 0;
        while {
            let sent = [send(&mut sides, 0), send(&mut sides, 1)];
            let received = [receive(&mut sides[0]), receive(&mut sides[1])];
            [sent, received].concat().contains(&true)
        } {
            rounds += 1;
            prop_assert!(rounds < 20_000, "two sides that only talk about credit");
        }
        prop_assert_eq!((sides[1].got, sides[0].got), (up, down));
        prop_assert!(chat(&mut sides, 0) && chat(&mut sides, 1), "a side may say nothing any more");
    }
}

/// All that may be said is said before anything of it arrives.
#[test]
fn two_sides_that_talk_at_once_hear_each_other() {
    let mut sides = [(); 2].map(|()| Side {
        data: 100,
        ..Side::default()
    });
    for from in [0, 1] {
        while send(&mut sides, from) || chat(&mut sides, from) {}
    }
    for to in [0, 1] {
        while receive(&mut sides[to]) {}
    }
    assert!(send(&mut sides, 0) && send(&mut sides, 1));
}

#[test]
fn a_count_of_what_was_never_sent_is_told() {
    let credit = Credit::default();
    credit.send();
    assert!(!credit.heard(2));
    assert!(!credit.heard_low(2));
    assert!(credit.heard_low(1));
    assert!(credit.heard(1));
    assert!(!credit.heard(0));
}
