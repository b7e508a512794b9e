//! Sizes and seals.

use super::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

#[test]
fn two_mappings_show_the_same_bytes() {
    let here = Region::create_sealed(8192).unwrap();
    let there = here.memfd().unwrap().try_clone_to_owned().unwrap();
    let there = Region::open_sealed(there, 8192).unwrap();
    assert_eq!(there.ring_bytes(), 8192);
    for direction in [Direction::ClientToServer, Direction::ServerToClient] {
        let producer = here.ring(direction).producer();
        let consumer = there.ring(direction).consumer();
        let text = format!("{direction:?}");
        producer.push(text.as_bytes()).unwrap();
        let mut got = [0; 64];
        let n = consumer.pop(&mut got).unwrap();
        assert_eq!(&got[..n], text.as_bytes());
    }
}

#[test]
fn a_sealed_region_keeps_its_size() {
    let region = Region::create_sealed(4096).unwrap();
    let memfd = region.memfd().unwrap();
    assert!(ftruncate(memfd, 4096).is_err());
    assert!(ftruncate(memfd, 1 << 20).is_err());
    assert!(rustix::fs::fcntl_add_seals(memfd, SealFlags::WRITE).is_err());
}

#[test]
fn what_is_not_sealed_or_not_a_region_is_not_mapped() {
    let file = |len: u64, seals: SealFlags| {
        let fd = memfd_create("test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len).unwrap();
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        Region::open_sealed(fd, 1 << 20)
            .map(|_| ())
            .map_err(|e| e.kind())
    };
    let refused = Err(io::ErrorKind::InvalidData);
    let good = 4096 + 2 * 4096;
    assert_eq!(file(good, SEALS), Ok(()));
    for seals in [
        SealFlags::empty(),
        SealFlags::GROW | SealFlags::SEAL,
        SealFlags::SHRINK | SealFlags::SEAL,
        SealFlags::SHRINK | SealFlags::GROW,
    ] {
        assert_eq!(file(good, seals), refused, "{seals:?}");
    }
    for len in [
        0,
        1,
        4095,
        4096,
        good - 1,
        good + 1,
        good + 4096,
        4096 + (4 << 20),
    ] {
        assert_eq!(file(len, SEALS), refused, "{len} bytes");
    }
    let pipe = rustix::pipe::pipe().unwrap().0;
    assert_eq!(
        Region::open_sealed(pipe, 1 << 20).err().map(|e| e.kind()),
        Some(io::ErrorKind::InvalidData)
    );
}

#[test]
fn other_sizes_than_powers_of_two_in_range_are_refused() {
    for ring in [0, 1, 2048, 4095, 5000, (1 << 30) + 1, 1 << 31] {
        for region in [Region::create_sealed(ring), Region::anonymous(ring)] {
            assert_eq!(
                region.err().map(|e| e.kind()),
                Some(io::ErrorKind::InvalidInput),
                "{ring}"
            );
        }
    }
}
