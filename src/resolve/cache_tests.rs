use super::*;
use crate::resolve::Role;
use proptest::prelude::*;

const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn name() -> ServerName {
    ServerName::new("lab", "sales").unwrap()
}

fn answer(node: &str, generation: Generation) -> Answer {
    Answer {
        cluster_id: Some([1; 16]),
        node: node.into(),
        role: Role::Active,
        generation,
        ttl: s(5),
        endpoints: Vec::new(),
        authentic: true,
        from: None,
    }
}

fn lead(cache: &mut Cache, now: Duration) -> Ticket {
    match cache.begin_query(&name(), now) {
        Flight::Lead(ticket) => ticket,
        Flight::Follow(_) => panic!("must lead"),
    }
}

/// Query, store and end, as a leader does.
fn bring(cache: &mut Cache, answer: Answer, now: Duration) -> Result<(), NotStored> {
    let ticket = lead(cache, now);
    let stored = cache.store(&name(), ticket, answer, now);
    cache.finish_query(&name(), ticket, now);
    stored
}

fn whats(cache: &Cache) -> Vec<What> {
    cache.journal().map(|entry| entry.what.clone()).collect()
}

/// Claims 20, 21 and 24 as the journal shows them.
#[test]
fn purged_before_stored_and_read_after_it() {
    let mut cache = Cache::new();
    bring(&mut cache, answer("node-a", 5), s(0)).unwrap();
    assert_eq!(cache.read(&name(), s(1)).unwrap().node, "node-a");
    assert!(cache.purge(&name(), 5, s(2)));
    assert_eq!(cache.read(&name(), s(2)), None);
    bring(&mut cache, answer("node-b", 6), s(3)).unwrap();
    assert_eq!(cache.read(&name(), s(3)).unwrap().node, "node-b");
    let (a, b) = (("node-a".to_owned(), 5), ("node-b".to_owned(), 6));
    assert_eq!(
        whats(&cache),
        [
            What::QueryBegun(Ticket(1)),
            What::Stored(a.0.clone(), 5),
            What::QueryEnded(Ticket(1)),
            What::Hit(a.0.clone(), 5),
            What::Purged(Some(a)),
            What::Miss,
            What::QueryBegun(Ticket(2)),
            What::Stored(b.0.clone(), 6),
            What::QueryEnded(Ticket(2)),
            What::Hit(b.0, 6),
        ]
    );
    assert_eq!(cache.journal().last().unwrap().at, s(3));
}

#[test]
fn an_answer_is_handed_out_within_its_time_to_live() {
    let mut cache = Cache::new();
    bring(&mut cache, answer("node-a", 5), s(10)).unwrap();
    assert!(cache.read(&name(), s(15)).is_some());
    assert!(cache.read(&name(), Duration::from_millis(15_001)).is_none());
    // Read back at once, an answer is there even with no time to live at all: a leader takes it from the cache.
    let short = Answer {
        ttl: s(0),
        ..answer("node-a", 6)
    };
    bring(&mut cache, short, s(20)).unwrap();
    assert!(cache.read(&name(), s(20)).is_some());
    assert!(cache.read(&name(), s(21)).is_none());
}

#[test]
fn a_query_that_began_before_the_purge_cannot_bring_the_purged_answer_back() {
    let mut cache = Cache::new();
    bring(&mut cache, answer("node-a", 5), s(0)).unwrap();
    let old = lead(&mut cache, s(1));
    cache.purge(&name(), 5, s(2));
    // The one who comes after the purge does not join the old query.
    let new = lead(&mut cache, s(3));
    assert_eq!(
        cache.store(&name(), old, answer("node-a", 5), s(4)),
        Err(NotStored::Purged)
    );
    assert_eq!(cache.read(&name(), s(4)), None);
    // What is newer than the purge may come from anywhere; and the node may be asked again and say the same.
    assert_eq!(cache.store(&name(), old, answer("node-b", 6), s(5)), Ok(()));
    cache.finish_query(&name(), old, s(5));
    assert_eq!(
        cache.begin_query(&name(), s(5)),
        Flight::Follow(new),
        "the old end ends not the new"
    );
    cache.purge(&name(), 6, s(6));
    assert_eq!(
        cache.store(&name(), new, answer("node-b", 6), s(7)),
        Err(NotStored::Purged)
    );
    let fresh = lead(&mut cache, s(8));
    assert_eq!(
        cache.store(&name(), fresh, answer("node-b", 6), s(9)),
        Ok(())
    );
}

#[test]
fn a_purge_spares_what_is_newer() {
    let mut cache = Cache::new();
    bring(&mut cache, answer("node-b", 6), s(0)).unwrap();
    assert!(!cache.purge(&name(), 5, s(1)));
    assert_eq!(cache.read(&name(), s(1)).unwrap().generation, 6);
}

#[test]
fn a_smaller_generation_is_refused_purged_or_not() {
    let mut cache = Cache::new();
    bring(&mut cache, answer("node-b", 6), s(0)).unwrap();
    let refused = Err(NotStored::SmallerGeneration { seen: 6 });
    assert_eq!(bring(&mut cache, answer("node-a", 5), s(1)), refused);
    cache.purge(&name(), 6, s(2));
    assert_eq!(bring(&mut cache, answer("node-a", 5), s(3)), refused);
    assert_eq!(cache.min_generation(&name()), 6);
    let other = ServerName::new("lab", "ledger").unwrap();
    assert_eq!(
        cache.min_generation(&other),
        0,
        "generations are of one name"
    );
}

#[test]
fn another_cluster_needs_as_much_proof_as_the_one_before() {
    let mut cache = Cache::new();
    let with = |cluster_id, authentic| Answer {
        cluster_id,
        authentic,
        ..answer("node-x", 1)
    };
    bring(&mut cache, answer("node-a", 5), s(0)).unwrap();
    let refused = Err(NotStored::OtherCluster);
    assert_eq!(bring(&mut cache, with(Some([2; 16]), false), s(1)), refused);
    assert_eq!(
        bring(&mut cache, with(None, false), s(1)),
        refused,
        "a SQL Browser's word"
    );
    assert_eq!(
        bring(&mut cache, with(Some([2; 16]), true), s(1)),
        Ok(()),
        "set up anew"
    );
    assert_eq!(cache.min_generation(&name()), 1);
}

#[test]
fn many_waiters_share_one_query() {
    let mut cache = Cache::new();
    bring(&mut cache, answer("node-a", 5), s(0)).unwrap();
    // A thousand connections lose the same server: each purges, and one asks.
    let mut leads = 0;
    for _ in 0..1000 {
        cache.purge(&name(), 5, s(1));
        leads += usize::from(matches!(cache.begin_query(&name(), s(1)), Flight::Lead(_)));
    }
    assert_eq!(leads, 1);
    assert_eq!(cache.journal().count(), JOURNAL_EVENTS);
}

#[test]
fn what_failed_before_anything_was_stored_cannot_come_from_the_query_under_way() {
    let mut cache = Cache::new();
    let old = lead(&mut cache, s(0));
    assert!(!cache.purge(&name(), 5, s(1)), "nothing is stored");
    assert_eq!(
        cache.store(&name(), old, answer("node-a", 5), s(2)),
        Err(NotStored::Purged)
    );
}

proptest! {
    /// Whatever happens in whatever order: nothing is read that was not stored after the last purge that covers it, no
    /// generation goes back, and no two queries are on their way but around a purge.
    #[test]
    fn random_histories(ops in prop::collection::vec((0u8..5, 0u64..6, 0usize..4), 1..200)) {
        let mut cache = Cache::new();
        let mut tickets: Vec<(Ticket, u64)> = Vec::new();
        let (mut floor, mut purges) = (0, Vec::new());
        for (now, (op, generation, which)) in ops.into_iter().enumerate() {
            let at = s(0);
            let now = now as u64;
            match op {
                0 => if let Flight::Lead(ticket) = cache.begin_query(&name(), at) {
                    tickets.push((ticket, now));
                },
                1 => if !tickets.is_empty() {
                    let (ticket, _) = tickets.remove(which % tickets.len());
                    cache.finish_query(&name(), ticket, at);
                },
                2 => if let Some(&(ticket, begun)) = tickets.get(which) {
                    let stored = cache.store(&name(), ticket, answer("node", generation), at);
                    if stored.is_ok() {
                        prop_assert!(generation >= floor);
                        floor = generation;
                        let stale = |p: &(u64, u64, bool)| p.2 && p.0 >= generation && p.1 > begun;
                        prop_assert!(!purges.iter().any(stale), "a purged answer came back");
                    }
                },
                3 => {
                    let removed = cache.purge(&name(), generation, at);
                    purges.push((generation, now, removed));
                    prop_assert!(cache.read(&name(), at).is_none_or(|a| a.generation > generation));
                }
                _ => if let Some(found) = cache.read(&name(), at) {
                    prop_assert_eq!(found.generation, floor);
                },
            }
        }
    }
}
