use super::*;
use crate::via::RejectReason;
use proptest::prelude::*;

proptest! {
    #[test]
    fn immediates_come_back(fin: bool, received: u32, acked: u64) {
        let said = Immediate::new(fin, received, acked);
        prop_assert_eq!(Immediate::decode(said.encode()), Ok(said));
    }

    #[test]
    fn an_acknowledgement_is_found_anywhere_in_the_largest_ring(head: u64, forward in 0..=u64::from(RING_MAX)) {
        let acked = head.wrapping_add(forward);
        prop_assert_eq!(position(head, Immediate::new(false, 0, acked).acked), acked);
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..80), n: u32) {
        let _ = (Prefix::decode(&bytes), private::Request::decode(&bytes), private::refused(&bytes));
        let _ = Immediate::decode(n);
    }

    #[test]
    fn requests_come_back(name in "[a-z]{1,80}", generation: u64, padding in 0..20_usize) {
        let request = private::Request::new(&name, generation);
        let mut bytes = request.encode();
        prop_assert!(bytes.len() <= private::REQUEST_MAX);
        bytes.resize(bytes.len() + padding, 0);
        prop_assert_eq!(private::Request::decode(&bytes), Ok(request));
    }
}

#[test]
fn the_reserved_bit_is_refused() {
    assert!(Immediate::decode(1 << 30).is_err());
}

#[test]
fn prefixes_come_back() {
    let prefix = Prefix {
        received: 0x1234_5678,
        window: Window {
            address: 0xfedc_ba98_7654_3210,
            key: 0x8765_4321,
        },
    };
    let mut message = prefix.encode().to_vec();
    message.push(7);
    assert_eq!(Prefix::decode(&message), Ok((prefix, &[7][..])));
    assert!(Prefix::decode(&message[..15]).is_err());
}

#[test]
fn a_refusal_says_why() {
    for reason in (1..=10).filter_map(RejectReason::from_wire) {
        assert_eq!(private::refused(&private::refusal(reason)), Some(reason));
    }
    assert_eq!(private::refused(b"VIA"), None);
}

#[test]
fn private_data_of_others_are_refused() {
    let good = private::Request::new("sales", 5).encode();
    let mut long = good.clone();
    long.push(1);
    let mut version = good.clone();
    version[4] = 9;
    let mut name = good.clone();
    name[6] = 60;
    for bad in [long, version, name, good[..10].to_vec(), vec![0; 56]] {
        assert!(private::Request::decode(&bad).is_err(), "{bad:02x?}");
    }
}
