//! Streams of other protocols on a connection whose protocol is followed: nothing of theirs is held back.

use super::*;

/// A poller is woken for these bytes, and gets them.
fn hears(bed: &Bed, fd: RawFd, bytes: &[u8]) {
    bed.a.say(bytes);
    let (mut got, mut buffer) = (Vec::new(), [0; 16384]);
    while got.len() < bytes.len() {
        assert_eq!(poll_one(fd, libc::POLLIN, NEVER_MS), libc::POLLIN);
        match conn::find(fd).unwrap().recv(&mut buffer, 0) {
            Ok(n) => got.extend_from_slice(&buffer[..n]),
            Err(error) => assert_eq!(error.errno(), libc::EAGAIN),
        }
    }
    assert_eq!(got, bytes);
}

#[test]
fn what_may_begin_like_postgres_is_not_held_back() {
    // A greeting of MySQL's: its first length would be a large one.
    let mut greeting =
        b"\x49\0\0\0\x0a8.4.3\0\x08\0\0\0d2345678\0\xff\xff\xff\x02\0\xff\xdf\x15".to_vec();
    greeting.extend_from_slice(&[0; 10]);
    greeting.extend_from_slice(b"123456789012\0caching_sha2_password\0");
    for (n, transport) in transports().into_iter().enumerate() {
        for (m, session) in ["auto", "postgres"].iter().enumerate() {
            let server = |number| server(number, &format!("session = \"{session}\"\n"));
            // It speaks first.
            let bed = server(206 + (2 * n + m) as u8);
            let fd = bed.connect(transport);
            nonblocking(fd, true);
            hears(&bed, fd, &greeting);
            send_all(fd, b"an answer");
            hears(&bed, fd, b"\x07\0\0\x02\0\0\0\x02\0\0\0");
            conn::close(fd).unwrap();
            // A few bytes there and a few back.
            let bed = server(212 + (2 * n + m) as u8);
            let fd = bed.connect(transport);
            nonblocking(fd, true);
            for bytes in [&b"\0"[..], b"\0", b"\0\x01"] {
                send_all(fd, bytes);
                hears(&bed, fd, bytes);
            }
            conn::close(fd).unwrap();
        }
    }
}
