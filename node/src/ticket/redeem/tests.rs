use super::super::seal::EpochKey;
use super::*;
use std::time::Duration;
use vianet::resolve::ticket::{Held, Key};
use vianet::via::Accept;

const NOW: u64 = 1_000_000;
const STARTUP: &[u8] = b"user app, database app";

struct Case {
    tickets: Arc<Tickets>,
    key: Arc<Key>,
    contents: Contents,
}

fn place(generation: u64, channel: u64) -> Place {
    let accept = Accept {
        node: "node-b".into(),
        generation,
        cluster_id: [1; 16],
        channel_id: channel,
        resume_secret: [channel as u8; 32],
        authentic: true,
    };
    Place::new(&accept, "sales")
}

impl Case {
    fn new() -> Self {
        let tickets = Arc::new(Tickets::new([1; 16]));
        let peers = vec![(EpochKey::new(5, [5; 32]), Duration::MAX)];
        tickets.epochs.lock().learned(Duration::ZERO, peers);
        let key = Arc::new(Key::generate().unwrap());
        let contents = Contents {
            keys: Keys {
                client: [2; 32],
                server: [3; 32],
            },
            public: key.public(),
            startup: startup_digest(STARTUP),
            channel: 70,
            generation: 10,
            expires_ms: NOW + 1,
            id: [4; 16],
        };
        Self {
            tickets,
            key,
            contents,
        }
    }

    fn held(&self) -> Held {
        let scope = Scope {
            cluster: [1; 16],
            server: "sales",
        };
        let epoch = EpochKey::new(5, [5; 32]);
        Held::new(
            Arc::clone(&self.key),
            self.contents.seal(&epoch, scope, &[6; 24]),
        )
    }

    fn claim_with(
        &self,
        bytes: &[u8],
        place: &Place,
        server: &str,
        open: bool,
        now_ms: u64,
    ) -> Result<Claim, Why> {
        let at = u32::from_be_bytes(*bytes.first_chunk().unwrap()) as usize;
        let (packet, startup) = bytes.split_at(at);
        let request = Request {
            packet,
            startup,
            place,
            server,
            now_ms,
        };
        claim(&self.tickets, &request, |channel| {
            assert_eq!(channel, 70);
            open
        })
    }

    fn claim(&self, place: &Place) -> Result<Claim, Why> {
        let bytes = self.held().redemption(place, STARTUP);
        self.claim_with(&bytes, place, "sales", false, NOW)
    }
}

#[test]
fn a_good_ticket_is_honoured() {
    let case = Case::new();
    let claim = case.claim(&place(11, 1)).ok().unwrap();
    assert!(claim.keys == case.contents.keys);
}

/// Each refusal, by what is wrong.
#[test]
fn refusals() {
    let here = place(11, 1);
    let refused = |case: &Case, bytes: &[u8], place: &Place| {
        case.claim_with(bytes, place, "sales", false, NOW).err()
    };
    let case = Case::new();
    let good = case.held().redemption(&here, STARTUP);

    let truncated = [&9_u32.to_be_bytes()[..], &[0; 20]].concat();
    assert_eq!(refused(&case, &truncated, &here), Some(Why::Malformed));

    // Sealed by a key that this node does not have; changed; for another server name.
    case.tickets
        .epochs
        .lock()
        .tick(Duration::from_secs(1 << 30));
    assert_eq!(refused(&case, &good, &here), Some(Why::Sealed));
    let case = Case::new();
    let good = case.held().redemption(&here, STARTUP);
    let mut changed = good.clone();
    changed[150] ^= 1;
    assert_eq!(refused(&case, &changed, &here), Some(Why::Sealed));
    let other = case.claim_with(&good, &here, "sale", false, NOW);
    assert_eq!(other.err(), Some(Why::Sealed));

    // A ticket without its key; a redemption that was heard elsewhere, before, or for another startup packet.
    let thief = Held::new(
        Arc::new(Key::generate().unwrap()),
        case.held().ticket().to_vec(),
    );
    let stolen = thief.redemption(&here, STARTUP);
    assert_eq!(refused(&case, &stolen, &here), Some(Why::Signature));
    for elsewhere in [place(11, 2), place(12, 1)] {
        assert_eq!(refused(&case, &good, &elsewhere), Some(Why::Signature));
    }
    let mut swapped = good.clone();
    *swapped.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&case, &swapped, &here), Some(Why::Signature));

    // Another role, database or parameter.
    let other = case
        .held()
        .redemption(&here, b"user postgres, database app");
    assert_eq!(refused(&case, &other, &here), Some(Why::Startup));

    let late = case.claim_with(&good, &here, "sales", false, NOW + 1);
    assert_eq!(late.err(), Some(Why::Expired));

    // Its server lives: an earlier generation, or its channel is open (made before this generation, where it has waited for it).
    for (generation, open, why) in [
        (9, false, Some(Why::Generation)),
        (10, true, Some(Why::Generation)),
        (10, false, None),
        (11, true, Some(Why::Generation)),
        (11, false, None),
    ] {
        let place = place(generation, 1);
        let bytes = case.held().redemption(&place, STARTUP);
        let claim = case.claim_with(&bytes, &place, "sales", open, NOW);
        assert_eq!(claim.err(), why, "{generation} {open}");
    }
}

#[test]
fn once_in_a_generation() {
    let mut case = Case::new();
    // While one login is under way there is no second one.
    let first = case.claim(&place(11, 1)).ok().unwrap();
    assert_eq!(case.claim(&place(11, 2)).err(), Some(Why::Redeemed));
    // It failed for a reason of the server's: it may be tried again.
    drop(first);
    case.claim(&place(11, 3)).ok().unwrap().keep();
    assert_eq!(case.claim(&place(11, 4)).err(), Some(Why::Redeemed));
    // A renewed ticket of the same login is the same ticket.
    case.contents.expires_ms += 1000;
    assert_eq!(case.claim(&place(11, 5)).err(), Some(Why::Redeemed));
    // The next generation is the loss of another server.
    drop(case.claim(&place(12, 6)).ok().unwrap());
    assert_eq!(case.claim(&place(11, 7)).err(), Some(Why::Redeemed));
    case.claim(&place(12, 8)).ok().unwrap().keep();
    assert_eq!(case.claim(&place(12, 9)).err(), Some(Why::Redeemed));
    assert_eq!(case.claim(&place(11, 9)).err(), Some(Why::Redeemed));
}

#[test]
fn a_login_that_fails_late_does_not_take_back_a_later_one() {
    let case = Case::new();
    let slow = case.claim(&place(11, 1)).ok().unwrap();
    case.claim(&place(12, 2)).ok().unwrap().keep();
    drop(slow);
    assert_eq!(case.claim(&place(12, 3)).err(), Some(Why::Redeemed));
}

/// One login's tickets differ in when they expire, and are one ticket.
#[test]
fn an_earlier_ticket_does_not_make_room_for_a_renewed_one() {
    let mut case = Case::new();
    let here = place(11, 1);
    case.claim(&here).ok().unwrap().keep();
    let lifetime = LONGEST.as_millis() as u64;
    case.contents.expires_ms = NOW + lifetime;
    let now = NOW + lifetime - 1;
    let renewed = case.held().redemption(&here, STARTUP);
    for n in 0..2 * LEAST_FULL as u16 {
        case.contents.id = [5; 16];
        case.contents.id[..2].copy_from_slice(&n.to_le_bytes());
        let bytes = case.held().redemption(&here, STARTUP);
        let claim = case.claim_with(&bytes, &here, "sales", false, now);
        claim.ok().unwrap().keep();
    }
    let again = case.claim_with(&renewed, &here, "sales", false, now);
    assert_eq!(again.err(), Some(Why::Redeemed));
}

#[test]
fn what_has_expired_is_forgotten() {
    let mut case = Case::new();
    let most = 3 * LEAST_FULL;
    for n in 0..10 * LEAST_FULL {
        case.contents.id[..8].copy_from_slice(&n.to_le_bytes());
        // So much later each time that a third of them count.
        let now = NOW + n as u64 * 3 * KEEP_MS / most as u64;
        case.contents.expires_ms = now + 1;
        let here = place(11, 1);
        let bytes = case.held().redemption(&here, STARTUP);
        let claim = case.claim_with(&bytes, &here, "sales", false, now);
        claim.ok().unwrap().keep();
        assert!(case.tickets.redeemed.0.lock().entries.len() <= most);
    }
}
