//! Records and handshakes over socket pairs, and what a peer or a man in the middle can do to them.

use super::link::TlsLink;
use super::record::{self, HEADER, Key, PLAIN_MAX, TRAILER};
use super::*;
use crate::via::tcp::link::Link;
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn secret() -> Arc<SecretKey> {
    Arc::new(SecretKey::from_seed([1; 32]))
}

fn key(n: u8) -> Key {
    Key::new(&[n; 32], [n; 12])
}

fn sockets() -> (UnixStream, UnixStream) {
    let pair = UnixStream::pair().expect("a pair");
    for socket in [&pair.0, &pair.1] {
        socket.set_nonblocking(true).expect("sets");
    }
    pair
}

fn owned(socket: UnixStream) -> Arc<OwnedFd> {
    Arc::new(socket.into())
}

/// A link as behind a handshake, which reads as much as there is.
fn link(socket: UnixStream, seals: u8, opens: u8) -> TlsLink {
    let link = TlsLink::new(owned(socket), (0, key(seals)), (0, key(opens))).expect("maps");
    link.spare_no_more();
    link
}

fn pair() -> (TlsLink, TlsLink) {
    let (a, b) = sockets();
    (link(a, 1, 2), link(b, 2, 1))
}

/// A link, and the raw end of its socket.
fn against_raw() -> (TlsLink, UnixStream) {
    let (a, b) = sockets();
    b.set_nonblocking(false).expect("sets");
    (link(a, 1, 2), b)
}

fn send(link: &TlsLink, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the tests use each half by one thread.
    unsafe { link.send(&[IoSlice::new(bytes)]) }
}

fn flush(link: &TlsLink) -> Result<(), Errno> {
    // SAFETY: as above.
    unsafe { link.flush() }
}

fn recv(link: &TlsLink, room: &mut [u8]) -> Result<usize, Fault> {
    // SAFETY: as above.
    unsafe { link.recv(&mut [IoSliceMut::new(room)], RecvFlags::DONTWAIT) }
}

fn holds(link: &TlsLink) -> bool {
    // SAFETY: as above.
    unsafe { link.holds() }
}

/// The record that the peer of [`against_raw`] would make as its `seq`th.
fn sealed(seq: u64, kind: u8, contents: &[u8]) -> Vec<u8> {
    let mut record = vec![0; HEADER + contents.len() + TRAILER];
    let fill = |out: &mut [u8]| out.copy_from_slice(contents);
    let n = record::seal(&key(2), seq, kind, &mut record, contents.len(), fill);
    assert_eq!(n, record.len());
    record
}

fn broken(link: &TlsLink) -> &'static str {
    match recv(link, &mut [0; 100]) {
        Err(Fault::Broken(text)) => text,
        other => panic!("{other:?} is no break"),
    }
}

#[test]
fn a_record_is_what_others_make() {
    // By another implementation of RFC 8439, put together as RFC 8446 section 5.2 says.
    let known = "170303001c6f3d03cc3470f9d116851c2cdd3706b9e73dba4aafe6e67493d41f1f";
    let key = Key::new(&std::array::from_fn(|n| n as u8), [0xa5; 12]);
    let mut record = vec![0; HEADER + 11 + TRAILER];
    record::seal(&key, 0x0102_0304, record::DATA, &mut record, 11, |out| {
        out.copy_from_slice(b"hello viane");
    });
    let hex: String = record.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, known);
}

#[test]
fn bytes_go_through_in_any_pieces() {
    let (a, b) = pair();
    let all: Vec<u8> = (0..300_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let (mut sent, mut got) = (0, Vec::<u8>::new());
    let mut n = 1;
    while got.len() < all.len() {
        n = n * 3 % 70_001;
        match send(&a, &all[sent..all.len().min(sent + n)]) {
            Ok(n) => sent += n,
            Err(e) => assert_eq!(e, Errno::AGAIN),
        }
        let mut room = vec![0; 1 + n * 2];
        loop {
            match recv(&b, &mut room) {
                Ok(n) => got.extend(&room[..n]),
                Err(fault) => break assert_eq!(fault, Errno::AGAIN.into()),
            }
        }
        assert!(!holds(&b));
    }
    assert!(got == all);
}

#[test]
fn a_full_socket_gets_the_rest_later() {
    let (a, b) = pair();
    let piece = vec![7; 50_000];
    let mut taken = 0;
    while let Ok(n) = send(&a, &piece) {
        taken += n;
    }
    assert_eq!(flush(&a), Err(Errno::AGAIN));
    let mut room = vec![0; 1 << 16];
    let mut got = 0;
    while got < taken {
        match recv(&b, &mut room) {
            Ok(n) => {
                assert!(room[..n].iter().all(|b| *b == 7));
                got += n;
            }
            Err(fault) => {
                assert_eq!(fault, Errno::AGAIN.into());
                let _ = flush(&a);
            }
        }
    }
    assert_eq!(flush(&a), Ok(()));
    assert_eq!(recv(&b, &mut room), Err(Errno::AGAIN.into()));
}

#[test]
fn many_records_that_came_at_once_are_held() {
    let (link, mut raw) = against_raw();
    let all: Vec<u8> = (0..9)
        .flat_map(|n| sealed(n, record::DATA, &[n as u8; 3]))
        .collect();
    raw.write_all(&all).expect("writes");
    let mut room = [0; 2];
    let mut got = Vec::<u8>::new();
    assert!(!holds(&link));
    while got.len() < 27 {
        let n = recv(&link, &mut room).expect("contents");
        got.extend(&room[..n]);
        assert_eq!(holds(&link), got.len() < 27);
    }
    assert!(got.chunks(3).enumerate().all(|(n, c)| c == [n as u8; 3]));
}

#[test]
fn no_bit_can_be_changed() {
    let record = sealed(0, record::DATA, b"contents");
    for at in 0..record.len() {
        for bit in [1, 0x80] {
            let (link, mut raw) = against_raw();
            let mut changed = record.clone();
            changed[at] ^= bit;
            raw.write_all(&changed).expect("writes");
            raw.write_all(&sealed(1, record::DATA, b"next"))
                .expect("writes");
            drop(raw);
            let mut room = [0; 100];
            let mut received = recv(&link, &mut room);
            if received == Err(Errno::AGAIN.into()) {
                received = recv(&link, &mut room);
            }
            match received {
                // A longer record, which never comes whole.
                Ok(0) => {}
                Err(Fault::Broken(_)) => {
                    assert!(holds(&link));
                    // It stays so, whatever follows.
                    broken(&link);
                }
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }
}

#[test]
fn what_is_good_before_a_bad_record_comes_first() {
    let (link, mut raw) = against_raw();
    let mut all = sealed(0, record::DATA, b"good");
    all.extend(sealed(7, record::DATA, b"out of its turn"));
    raw.write_all(&all).expect("writes");
    let mut room = [0; 100];
    assert_eq!(recv(&link, &mut room), Ok(4));
    assert!(holds(&link), "somebody must hear of it");
    assert!(broken(&link).contains("does not decrypt"));
}

#[test]
fn what_is_no_contents_is_refused() {
    for (record, text) in [
        (sealed(0, record::DATA, b""), "without contents"),
        (
            sealed(0, record::HANDSHAKE, &[24, 0, 0, 1, 0]),
            "not expected",
        ),
        (sealed(0, record::ALERT, &[2, 20]), "alert"),
        (sealed(0, 0, &[0; 20]), "without contents"),
        (sealed(0, record::DATA, &vec![1; PLAIN_MAX + 1]), "too much"),
        (vec![23, 3, 3, 0xff, 0xff], "impossible length"),
        (vec![23, 3, 3, 0, 16], "impossible length"),
        (b"VIA packets in clear".to_vec(), "no encrypted TLS record"),
        (vec![20, 3, 3, 0, 1, 1], "no encrypted TLS record"),
    ] {
        let (link, mut raw) = against_raw();
        raw.write_all(&record).expect("writes");
        let said = broken(&link);
        assert!(said.contains(text), "{said:?}, expected {text:?}");
    }
}

#[test]
fn zeros_behind_the_contents_are_padding() {
    let (link, mut raw) = against_raw();
    let mut contents = b"padded".to_vec();
    contents.push(record::DATA);
    contents.extend([0; 30]);
    raw.write_all(&sealed(0, 0, &contents)).expect("writes");
    let mut room = [0; 100];
    assert_eq!(recv(&link, &mut room), Ok(6));
    assert_eq!(&room[..6], b"padded");
}

#[test]
fn an_end_is_said_and_heard() {
    let (a, b) = pair();
    assert_eq!(send(&a, b"last"), Ok(4));
    // SAFETY: as above.
    unsafe { a.finish() };
    let mut room = [0; 10];
    assert_eq!(recv(&b, &mut room), Ok(4));
    assert_eq!(recv(&b, &mut room), Ok(0));
    assert_eq!(recv(&b, &mut room), Ok(0));
}

#[test]
fn a_forked_process_goes_on_with_the_numbers_and_the_half_record() {
    let (a, mut raw) = against_raw();
    let (reader, mut feeder) = against_raw();
    let record = sealed(0, record::DATA, b"half here, half there");
    feeder.write_all(&record[..12]).expect("writes");
    let mut room = [0; 100];
    assert_eq!(recv(&reader, &mut room), Err(Errno::AGAIN.into()));
    feeder.write_all(&record[12..]).expect("writes");
    assert_eq!(send(&a, b"parent"), Ok(6));
    // SAFETY: the child makes system calls and works on memory that it has; it allocates nothing and takes no lock.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let good = recv(&reader, &mut room) == Ok(21) && send(&a, b"child") == Ok(5);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if good { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    feeder
        .write_all(&sealed(1, record::DATA, b"next"))
        .expect("writes");
    assert_eq!(recv(&reader, &mut room), Ok(4));
    assert_eq!(send(&a, b"again"), Ok(5));
    let opens = key(1);
    for (seq, text) in [(0, &b"parent"[..]), (1, b"child"), (2, b"again")] {
        let mut record = vec![0; HEADER + text.len() + TRAILER];
        raw.read_exact(&mut record).expect("reads");
        assert_eq!(record::open(&opens, seq, &mut record), Ok((23, text.len())));
        assert_eq!(&record[HEADER..][..text.len()], text);
    }
}

// ------------------------------------------------------------------------------------------------------ handshakes

/// Both sides to their ends; `between` may change what goes from the one to the other (true: from the client).
fn shake(
    mut client: Handshake,
    mut server: Handshake,
    mut between: impl FnMut(bool, &mut Vec<u8>),
) -> (Result<TlsLink, Refused>, Result<TlsLink, Refused>) {
    let ((c, c_far), (s, s_far)) = (sockets(), sockets());
    let (c, s) = (owned(c), owned(s));
    let (mut c_end, mut s_end) = (None, None);
    for _ in 0..1000 {
        if c_end.is_none() {
            c_end = client
                .advance(&c)
                .map_or_else(|e| Some(Err(e)), |done| done.then_some(Ok(())));
        }
        if s_end.is_none() {
            s_end = server
                .advance(&s)
                .map_or_else(|e| Some(Err(e)), |done| done.then_some(Ok(())));
        }
        let mut moved = false;
        for (from_client, mut from, mut to) in [(true, &c_far, &s_far), (false, &s_far, &c_far)] {
            let mut bytes = vec![0; 20_000];
            if let Ok(n @ 1..) = from.read(&mut bytes) {
                bytes.truncate(n);
                between(from_client, &mut bytes);
                let _ = to.write_all(&bytes);
                moved = true;
            }
        }
        if c_end.is_some() && s_end.is_some() {
            break;
        }
        if !moved && (matches!(c_end, Some(Err(_))) || matches!(s_end, Some(Err(_)))) {
            // The other one would wait for bytes that never come.
            let _ = (
                c_far.shutdown(std::net::Shutdown::Both),
                s_far.shutdown(std::net::Shutdown::Both),
            );
        }
    }
    let stuck = || Err(Refused::Failed("nothing more comes".into()));
    let link = |end: Option<Result<(), Refused>>, side: Handshake, socket| match end {
        Some(Ok(())) => Ok(side.finish(socket).expect("finishes")),
        Some(Err(e)) => Err(e),
        None => stuck(),
    };
    (link(c_end, client, c), link(s_end, server, s))
}

fn sides() -> (Handshake, Handshake) {
    let client = Handshake::connect(secret().public(), HERE).expect("begins");
    let server = Acceptor::new(&secret()).and_then(|a| a.begin());
    (client, server.expect("begins"))
}

#[test]
fn a_handshake_gives_both_the_same_keys() {
    let (client, server) = sides();
    let (c, s) = sockets();
    let (c, s) = (owned(c), owned(s));
    let (mut client, mut server) = (client, server);
    let (mut done_c, mut done_s) = (false, false);
    while !(done_c && done_s) {
        done_c = done_c || client.advance(&c).expect("goes on");
        done_s = done_s || server.advance(&s).expect("goes on");
    }
    let (client, server) = (
        client.finish(c).expect("keys"),
        server.finish(s).expect("keys"),
    );
    let mut room = [0; 100];
    for n in 0..3 {
        assert_eq!(send(&client, b"from client"), Ok(11));
        assert_eq!(recv(&server, &mut room), Ok(11), "round {n}");
        assert_eq!(send(&server, b"from node"), Ok(9));
        assert_eq!(recv(&client, &mut room), Ok(9), "round {n}");
    }
    assert!(client.is_private() && server.is_private());
}

#[test]
fn another_key_is_not_believed() {
    let client = Handshake::connect(SecretKey::from_seed([2; 32]).public(), HERE).expect("begins");
    let (_, server) = sides();
    match shake(client, server, |_, _| {}).0 {
        Err(Refused::NotAuthentic(text)) => assert!(text.contains("public_key"), "{text}"),
        other => panic!("{:?} must be refused", other.err()),
    }
}

/// Shows the cluster's public key, which everybody has, and signs with another one, or under another scheme's name.
#[derive(Clone, Debug)]
struct Impostor {
    signs: NodeKey,
    scheme: rustls::SignatureScheme,
    spoil: Spoil,
}

type Spoil = fn(Vec<u8>) -> Vec<u8>;

impl rustls::sign::SigningKey for Impostor {
    fn choose_scheme(
        &self,
        _: &[rustls::SignatureScheme],
    ) -> Option<Box<dyn rustls::sign::Signer>> {
        Some(Box::new(self.clone()))
    }

    fn public_key(&self) -> Option<rustls::pki_types::SubjectPublicKeyInfoDer<'_>> {
        Some(crypto::spki(&secret().public()).into())
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::ED25519
    }
}

impl rustls::sign::Signer for Impostor {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        rustls::sign::Signer::sign(&self.signs, message).map(self.spoil)
    }

    fn scheme(&self) -> rustls::SignatureScheme {
        self.scheme
    }
}

#[test]
fn who_only_shows_the_key_is_not_believed() {
    use rustls::SignatureScheme as Scheme;
    let cases: [(u8, Scheme, Spoil); 6] = [
        (1, Scheme::ED25519, |s| s),
        (2, Scheme::ED25519, |s| s),
        (1, Scheme::ED25519, |_| Vec::new()),
        (1, Scheme::ED25519, |_| vec![0; 64]),
        (1, Scheme::ED25519, |s| s[..63].to_vec()),
        (1, Scheme::ECDSA_NISTP256_SHA256, |s| s),
    ];
    for (n, (seed, scheme, spoil)) in cases.into_iter().enumerate() {
        let signs = NodeKey(Arc::new(SecretKey::from_seed([seed; 32])));
        let impostor = Impostor {
            signs,
            scheme,
            spoil,
        };
        let shown = vec![crypto::spki(&secret().public()).into()];
        let certified = CertifiedKey::new(shown, Arc::new(impostor));
        let mut config = ServerConfig::builder_with_provider(crypto::provider())
            .with_protocol_versions(&[&TLS13])
            .expect("a version")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::new(
                certified,
            ))));
        config.alpn_protocols = vec![PROTOCOL.into()];
        config.send_tls13_tickets = 0;
        config.enable_secret_extraction = true;
        let server = Acceptor(Arc::new(config)).begin().expect("begins");
        let (client, _) = sides();
        let (client, _) = shake(client, server, |_, _| {});
        assert_eq!(client.is_ok(), n == 0, "case {n}");
    }
}

#[test]
fn a_point_that_gives_the_same_secret_for_everybody_is_refused() {
    let hex = |text: &str| -> Vec<u8> {
        let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
        (0..text.len()).step_by(2).map(digit).collect()
    };
    let group = crypto::provider().kx_groups[0];
    for point in [
        // Of order 1, 2, 4 and 8, and the same beyond the field's prime.
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ] {
        let ours = group.start().expect("starts");
        assert!(ours.complete(&hex(point)).is_err(), "{point}");
    }
    for wrong in [0, 31, 33] {
        let ours = group.start().expect("starts");
        assert!(ours.complete(&vec![9; wrong]).is_err(), "{wrong} bytes");
    }
    // RFC 7748 section 5.2: the highest bit of a point means nothing.
    let (mine, theirs) = (
        group.start().expect("starts"),
        group.start().expect("starts"),
    );
    let mine_point = mine.pub_key().to_vec();
    let mut point = theirs.pub_key().to_vec();
    point[31] |= 0x80;
    let (a, b) = (theirs.complete(&mine_point), mine.complete(&point));
    let (a, b) = (a.expect("a secret"), b.expect("a secret"));
    assert_eq!(a.secret_bytes(), b.secret_bytes());
}

#[test]
fn no_byte_of_a_handshake_can_be_changed() {
    let mut flights = [Vec::new(), Vec::new()];
    let (client, server) = sides();
    let (c, s) = shake(client, server, |from_client, bytes| {
        flights[usize::from(from_client)].extend_from_slice(bytes);
    });
    assert!(c.is_ok() && s.is_ok());
    for from_client in [false, true] {
        let flight = &flights[usize::from(from_client)];
        for (at, was) in flight.iter().enumerate() {
            let (client, server) = sides();
            let mut seen = 0;
            let (c, s) = shake(client, server, |whose, bytes| {
                if whose == from_client {
                    if let Some(byte) = at.checked_sub(seen).and_then(|at| bytes.get_mut(at)) {
                        *byte ^= 0x55;
                    }
                    seen += bytes.len();
                }
            });
            // The minor version in front of a record is not looked at, and means nothing.
            let nothing = *was == 3 || (*was == 1 && at == 2);
            assert!(
                c.is_err() || s.is_err() || nothing,
                "byte {at} of {}",
                from_client
            );
        }
    }
}

#[test]
fn nonsense_is_no_handshake() {
    for (bytes, authentic) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], false),
        // A reject of a node that does not know TLS.
        (&[3, 0, 0x56, 0x49, 1, 0, 0, 0], false),
        (&[22, 3, 3, 0xff, 0xff], true),
        (&[22, 3, 3, 0, 4, 9, 9, 9, 9], true),
        (&[21, 3, 3, 0, 2, 2, 40], true),
        (&[23, 3, 3, 0, 2, 2, 40], true),
    ] {
        let (mut client, _) = sides();
        let (c, mut far) = sockets();
        far.write_all(bytes).expect("writes");
        drop(far.shutdown(std::net::Shutdown::Write));
        match client.advance(&owned(c)) {
            Err(Refused::NotAuthentic(text)) => {
                assert!(!authentic && text.contains("tls = \"off\""), "{text}");
            }
            Err(Refused::Failed(text)) => assert!(authentic, "{text}"),
            Ok(done) => panic!("{done}: it must be refused"),
        }
    }
}

#[test]
fn a_handshake_that_never_ends_is_ended() {
    let (_, mut server) = sides();
    let (s, mut far) = sockets();
    let s = owned(s);
    // A hello that is announced as longer than any, in pieces that are allowed.
    let mut record = vec![22, 3, 1, 1, 0, 1, 0, 0xff, 0xff];
    record.resize(HEADER + 256, 0);
    let mut fed = 0;
    let error = loop {
        fed += far.write(&record).expect("writes");
        record[5..9].fill(0);
        match server.advance(&s) {
            Ok(done) => assert!(!done),
            Err(error) => break error,
        }
        assert!(fed < 10_000, "memory must be bounded");
    };
    assert!(matches!(error, Refused::Failed(_)));
}

#[test]
fn the_first_byte_tells() {
    let (a, mut b) = sockets();
    let a = owned(a);
    assert_eq!(begins(&a), Ok(None));
    b.write_all(&[FIRST_BYTE, 1, 2]).expect("writes");
    assert_eq!(begins(&a), Ok(Some(true)));
    let (a, mut b) = sockets();
    b.write_all(&[1]).expect("writes");
    drop(b);
    let a = owned(a);
    assert_eq!(begins(&a), Ok(Some(false)));
    let mut fds = [PollFd::new(&a, PollFlags::IN)];
    assert_eq!(
        poll(&mut fds, Some(&Timespec::default())),
        Ok(1),
        "it was not taken"
    );
}

proptest! {
    #[test]
    fn nothing_that_comes_makes_a_link_panic(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..8),
        good in 0_usize..8,
    ) {
        let (link, mut raw) = against_raw();
        for (n, piece) in pieces.iter().enumerate() {
            match n < good {
                true => raw.write_all(&sealed(n as u64, record::DATA, piece)).expect("writes"),
                false => raw.write_all(piece).expect("writes"),
            }
        }
        drop(raw);
        let mut room = [0; 33];
        for _ in 0..100 {
            if let Ok(0) | Err(_) = recv(&link, &mut room) {
                break;
            }
        }
    }

    #[test]
    fn nothing_that_comes_makes_a_handshake_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), head in any::<bool>()) {
        for side in <[Handshake; 2]>::from(sides()) {
            let mut side = side;
            let (s, mut far) = sockets();
            let mut all = if head { vec![22, 3, 3, 0, bytes.len() as u8] } else { Vec::new() };
            all.extend(&bytes);
            far.write_all(&all).expect("writes");
            drop(far);
            prop_assert!(!matches!(side.advance(&owned(s)), Ok(true)));
        }
    }
}
