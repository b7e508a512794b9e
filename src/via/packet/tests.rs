use super::*;
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn connect() -> Connect {
    Connect {
        ring_log2: 18,
        nonce: [0xaa; 16],
        boot_id: [0; 16],
        server: "sales".into(),
        resume: None,
    }
}

fn accepted() -> Accepted {
    Accepted {
        ring_log2: 18,
        cluster_id: [0xc1; 16],
        channel_id: 0x0102_0304_0506_0708,
        received: 9,
        node: "node-b".into(),
        secret_or_proof: [0x5e; 32],
        signature: None,
    }
}

/// Splits a packet made here; its header must be valid and its length right.
fn split(bytes: &[u8]) -> (Header, &[u8]) {
    let (header, payload) = bytes.split_first_chunk().expect("a header");
    let header = Header::decode(header).expect("a valid header");
    assert_eq!(header.length as usize, payload.len());
    (header, payload)
}

#[test]
fn golden_header() {
    let header = Header {
        flags: FLAG_FIN,
        length: 0x0001_0002,
        offset: 0x1122_3344_5566_7788,
        acked: 0x99aa_bbcc_ddee_ff00,
        generation: 7,
        ..Header::new(Type::Data)
    };
    let bytes = header.encode();
    assert_eq!(
        hex(&bytes),
        concat!(
            "04",               // type data
            "01",               // flags: FIN
            "5649",             // magic "VI"
            "02000100",         // length
            "8877665544332211", // offset
            "00ffeeddccbbaa99", // acknowledged
            "0700000000000000", // generation
        )
    );
    assert_eq!(Header::decode(&bytes), Ok(header));
}

#[test]
fn golden_connect() {
    let bytes = connect().encode(5, 0);
    assert_eq!(
        hex(&bytes),
        concat!(
            "0100564929000000",                 // connect, 41 bytes
            "0000000000000000",                 // offset
            "0000000000000000",                 // acknowledged
            "0500000000000000",                 // smallest generation
            "0100",                             // version
            "12",                               // ring 2^18
            "05",                               // name length
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", // nonce
            "00000000000000000000000000000000", // boot id
            "73616c6573",                       // "sales"
        )
    );
}

#[test]
fn golden_resume() {
    let resume = Connect {
        resume: Some(ConnectResume {
            channel_id: 0x77,
            received: 0x1000,
        }),
        ..connect()
    };
    let bytes = resume.encode(5, 0x0800);
    assert_eq!(
        hex(&bytes),
        concat!(
            "0800564939000000", // resume, 57 bytes
            "0000000000000000",
            "0008000000000000", // consumed
            "0500000000000000",
            "0100",
            "12",
            "05",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "00000000000000000000000000000000",
            "7700000000000000", // channel id
            "0010000000000000", // received
            "73616c6573",
        )
    );
    let (header, payload) = split(&bytes);
    assert_eq!(Connect::decode(header.kind, payload), Ok(resume));
}

#[test]
fn golden_accept_reject_disconnect() {
    let bytes = accepted().encode(6, 3);
    assert_eq!(
        hex(&bytes),
        format!(
            "02005649{}{}{}{}{}{}{}{}{}{}{}{}",
            "4a000000",         // 74 bytes
            "0000000000000000", // offset
            "0300000000000000", // consumed
            "0600000000000000", // generation
            "0100",             // version
            "12",               // ring 2^18
            "06",               // name length
            "c1".repeat(16),    // cluster id
            "0807060504030201", // channel id
            "0900000000000000", // received
            hex(b"node-b"),
            "5e".repeat(32), // secret
        )
    );
    let signed = Accepted {
        signature: Some([0x51; 64]),
        ..accepted()
    };
    let bytes = signed.encode(6, 3);
    assert_eq!(bytes[1], FLAG_SIGNED);
    assert_eq!(hex(&bytes[bytes.len() - 64..]), "51".repeat(64));
    let (header, payload) = split(&bytes);
    assert_eq!(Accepted::decode(header.flags, payload), Ok(signed));

    let bytes = reject(RejectReason::NotActive, 4);
    assert_eq!(
        hex(&bytes),
        format!("0300564901000000{:032}0400000000000000{}", 0, "01")
    );
    let (_, payload) = split(&bytes);
    assert_eq!(decode_reject(payload), Ok(RejectReason::NotActive));
    assert_eq!(decode_disconnect(&[5]), Ok(EndReason::Stopping));
}

#[test]
fn a_header_that_cannot_be_says_why() {
    let good = Header::new(Type::Ack).encode();
    let with = |at: usize, value: u8| {
        let mut bytes = good;
        bytes[at] = value;
        Header::decode(&bytes).expect_err("must be refused").0
    };
    assert_eq!(with(0, 0), "packet type 0, known are 1 to 11");
    assert_eq!(with(0, 12), "packet type 12, known are 1 to 11");
    assert_eq!(with(1, 1), "flags 0x01 in Ack, allowed are 0x00");
    assert_eq!(with(2, b'X'), "packet magic 5849, must be 5649");
    assert_eq!(with(4, 1), "length 1 of Ack, allowed are 0 to 0");
    assert_eq!(
        with(0, Type::Connect as u8),
        "length 0 of Connect, allowed are 1 to 512"
    );
    let huge = Header {
        length: (1 << RING_LOG2_MAX) + 1,
        ..Header::new(Type::Data)
    };
    assert!(Header::decode(&huge.encode()).is_err());
}

#[test]
fn payloads_that_cannot_be_say_why() {
    let bytes = connect().encode(0, 0);
    let (header, good) = split(&bytes);
    let with = |at: usize, value: u8| {
        let mut payload = good.to_vec();
        payload[at] = value;
        Connect::decode(header.kind, &payload)
            .expect_err("must be refused")
            .0
    };
    assert_eq!(with(0, 2), "protocol version 2, spoken here is 1");
    assert_eq!(with(2, 11), "ring of 2^11 bytes, allowed are 2^12 to 2^30");
    assert_eq!(with(2, 31), "ring of 2^31 bytes, allowed are 2^12 to 2^30");
    assert_eq!(with(3, 0), "server name is empty, must be 1 to 255 bytes");
    assert_eq!(with(3, 4), "1 bytes after the last field");
    assert_eq!(with(3, 9), "payload ends 5 bytes into a field of 9");
    assert_eq!(with(36, 0xff), "server name is not UTF-8");
    assert_eq!(with(36, b'\n'), "server name has a control character");
    assert!(decode_reject(&[0]).is_err());
    assert!(decode_reject(&[11]).is_err());
    assert!(decode_reject(&[1, 1]).is_err());
    assert!(decode_disconnect(&[7]).is_err());
    assert!(decode_disconnect(&[]).is_err());
}

#[test]
fn every_truncation_is_refused() {
    let resume = Connect {
        resume: Some(ConnectResume {
            channel_id: 1,
            received: 2,
        }),
        ..connect()
    };
    let signed = Accepted {
        signature: Some([1; 64]),
        ..accepted()
    };
    let (bytes, more) = (resume.encode(0, 0), signed.encode(0, 0));
    let (header, payload) = split(&bytes);
    for n in 0..payload.len() {
        assert!(Connect::decode(header.kind, &payload[..n]).is_err());
    }
    let (header, payload) = split(&more);
    for n in 0..payload.len() {
        assert!(Accepted::decode(header.flags, &payload[..n]).is_err());
    }
}

fn any_type() -> impl Strategy<Value = Type> {
    proptest::sample::select(&Type::ALL[..])
}

proptest! {
    #[test]
    fn headers_come_back(
        kind in any_type(), offset: u64, acked: u64, generation: u64, bits: u8, length: u32,
    ) {
        let (least, most) = kind.payload();
        let length = least + length % (most - least + 1);
        let header = Header { kind, flags: bits & kind.flags(), length, offset, acked, generation };
        prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn any_header_decodes_to_itself_or_not_at_all(bytes: [u8; HEADER_BYTES], kind in any_type()) {
        let mut bytes = bytes;
        for valid_front in [false, true] {
            if valid_front {
                bytes[..4].copy_from_slice(&[kind as u8, 0, MAGIC[0], MAGIC[1]]);
            }
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }

    #[test]
    fn connects_come_back(
        ring_log2 in RING_LOG2_MIN..=RING_LOG2_MAX,
        nonce: Nonce,
        boot_id: [u8; 16],
        server in "[a-zäß\u{10348}]{1,60}",
        resume in proptest::option::of((any::<u64>(), any::<u64>())),
        consumed: u64,
    ) {
        let resume = resume.map(|(channel_id, received)| ConnectResume { channel_id, received });
        let connect = Connect { ring_log2, nonce, boot_id, server, resume };
        let bytes = connect.encode(3, consumed);
        let (header, payload) = split(&bytes);
        prop_assert_eq!(header.acked, consumed);
        prop_assert_eq!(Connect::decode(header.kind, payload), Ok(connect));
    }

    #[test]
    fn any_payload_decodes_to_itself_or_not_at_all(
        mut payload in proptest::collection::vec(any::<u8>(), 0..200),
        front: bool,
    ) {
        if front && payload.len() > 3 {
            payload[..3].copy_from_slice(&[1, 0, 18]);
            payload[3] = (payload.len() as u8).wrapping_sub(36);
        }
        for kind in [Type::Connect, Type::Resume] {
            if let Ok(connect) = Connect::decode(kind, &payload) {
                prop_assert_eq!(&connect.encode(0, 0)[HEADER_BYTES..], &payload[..]);
            }
        }
        for flags in [0, FLAG_SIGNED] {
            if let Ok(accepted) = Accepted::decode(flags, &payload) {
                prop_assert_eq!(&accepted.encode(0, 0)[HEADER_BYTES..], &payload[..]);
            }
        }
        let _ = (decode_reject(&payload), decode_disconnect(&payload));
    }
}
