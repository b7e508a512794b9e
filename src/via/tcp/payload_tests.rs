use super::payload::Payload;
use crate::via::channel::Direct;
use crate::via::packet::HEADER_BYTES;
use crate::via::region::{Direction, Region};
use crate::via::ring::Ring;

fn ring() -> Ring {
    let ring = Region::anonymous(4096)
        .expect("maps")
        .ring(Direction::ServerToClient);
    ring.start_at(1000);
    ring
}

#[test]
fn the_room_comes_first_and_then_the_ring() {
    let ring = ring();
    let (producer, consumer) = (ring.producer(), ring.consumer());
    let mut room = [0; 10];
    let mut direct = Direct::of(&mut room, true);
    let mut payload = Payload::new(&producer, &mut direct);
    assert_eq!(payload.push(b"0123"), Ok(4));
    assert!(!payload.is_enough());
    assert_eq!(payload.push(b"456789abc"), Ok(9));
    assert!(payload.is_enough());
    assert_eq!(payload.push(b"def"), Ok(3));
    assert_eq!(direct.filled(), 10);
    assert_eq!(&room, b"0123456789");
    assert_eq!(consumer.head(), 1010);
    let mut rest = [0; 10];
    assert_eq!(consumer.pop(&mut rest), Ok(6));
    assert_eq!(&rest[..6], b"abcdef");
}

#[test]
fn nothing_overtakes_what_is_in_the_ring() {
    let ring = ring();
    let (producer, consumer) = (ring.producer(), ring.consumer());
    producer.push(b"first").expect("fits");
    let mut room = [0; 10];
    let mut direct = Direct::of(&mut room, true);
    let mut payload = Payload::new(&producer, &mut direct);
    assert_eq!(payload.push(b"second"), Ok(6));
    let filled = payload.fill(3, |spans, behind| {
        assert!(behind > HEADER_BYTES);
        spans[0].copy_from_slice(b"3rd");
        3
    });
    filled.expect("fits");
    assert_eq!(direct.filled(), 0);
    assert_eq!(consumer.available(), Ok(14));
}

#[test]
fn a_read_is_offered_the_room_and_a_header_behind_the_end_of_a_packet() {
    let ring = ring();
    let producer = ring.producer();
    let mut room = [0; 10];
    let mut direct = Direct::of(&mut room, true);
    let mut payload = Payload::new(&producer, &mut direct);
    let mut offered = Vec::new();
    for (max, filled) in [(4, 2), (20, 8)] {
        let read = |spans: &mut [std::io::IoSliceMut<'_>], behind| {
            offered.push((spans[0].len(), behind));
            spans[0][..filled].fill(b'x');
            filled
        };
        payload.fill(max, read).expect("fits");
    }
    assert_eq!(offered, [(4, HEADER_BYTES), (8, 0)]);
    assert!(payload.is_enough());
    assert_eq!(producer.tail(), 1010);
}

#[test]
fn a_closed_room_is_left_alone() {
    let ring = ring();
    let producer = ring.producer();
    let mut room = [0; 10];
    let mut direct = Direct::of(&mut room, false);
    let mut payload = Payload::new(&producer, &mut direct);
    assert_eq!(payload.push(b"0123"), Ok(4));
    assert!(!payload.is_enough());
    assert_eq!((direct.filled(), room), (0, [0; 10]));
}
