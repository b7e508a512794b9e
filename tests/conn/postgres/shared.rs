//! Sessions whose descriptor somebody else uses as well: nothing is said of what was not seen, and nobody waits for ever.

use super::*;
use crate::processes::{assert_ends_well, in_child};

#[test]
fn what_another_process_sent_is_not_idle() {
    for (n, transport) in transports().into_iter().enumerate() {
        for (m, settings) in ["", "on_unknown = \"error\"\n"].iter().enumerate() {
            let bed = server(200 + (2 * n + m) as u8, settings);
            let fd = session(&bed, transport);
            assert_ends_well(in_child(|| {
                send_all(fd, &message(b'Q', b"insert\0"));
                // Over tcp this process drives; the parent does when it comes back.
                true
            }));
            if m == 0 {
                wait_for("the reason", || why(fd) == Some("shared"));
            }
            assert_eq!(loses(&bed, fd), (Vec::new(), libc::ECONNRESET));
        }
    }
}

#[test]
fn a_byte_read_behind_our_back_just_before_the_loss_comes_once() {
    for (n, transport) in transports().into_iter().enumerate() {
        let bed = server(204 + n as u8, "");
        let fd = session(&bed, transport);
        let words = notice(100);
        bed.a.say(&words);
        assert_eq!(poll_one(fd, libc::POLLIN, NEVER_MS), libc::POLLIN);
        wait_for("all of it", || {
            conn::find(fd).unwrap().readable() == words.len()
        });
        let mut byte = [0; 1];
        // SAFETY: room for one byte.
        assert_eq!(unsafe { libc::read(fd, byte.as_mut_ptr().cast(), 1) }, 1);
        bed.b.set_role(Role::Active, 2000);
        bed.a.kill();
        wait_for("the loss", || {
            conn::find(fd).unwrap().info().phase == conn::Phase::Lost
        });
        let (said, end) = last_words(fd);
        assert_eq!([&byte[..], &said].concat(), words);
        assert_eq!(end, libc::ECONNRESET);
    }
}

#[test]
fn nobody_waits_for_the_rest_of_what_another_process_has_read() {
    // A child that finds less than it waits for takes a connection over RDMA away from its parent.
    let shared = transports().into_iter().filter(|t| *t != Transport::Rdma);
    for (n, transport) in shared.enumerate() {
        let bed = server(210 + n as u8, "");
        let fd = session(&bed, transport);
        let (first, words) = (notice(10), notice(3000));
        bed.a.say(&[&first[..], &words[..1000]].concat());
        assert_eq!(recv_exactly(fd, first.len()), first);
        // What came with it is held back from now on.
        nonblocking(fd, true);
        let look = conn::find(fd).unwrap().recv(&mut [0; 9], 0);
        assert!(look.is_err_and(|error| error.errno() == libc::EAGAIN));
        bed.a.say(&words[1000..]);
        assert_ends_well(in_child(|| {
            let (mut got, mut buffer) = (0, [0; 9000]);
            while got < words.len() {
                match conn::find(fd).unwrap().recv(&mut buffer, 0) {
                    Ok(n) => got += n,
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
            true
        }));
        send_all(fd, &message(b'Q', b"select 1\0"));
        bed.a
            .say(&[message(b'C', b"SELECT 1\0"), ready(b"I")].concat());
        assert_eq!(poll_one(fd, libc::POLLIN, NEVER_MS), libc::POLLIN);
        conn::close(fd).unwrap();
    }
}
