//! The bell against the kernel's own poll.

use super::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn level(fd: &OwnedFd) -> PollFlags {
    let mut fds = [PollFd::new(
        fd,
        PollFlags::IN | PollFlags::OUT | PollFlags::RDHUP,
    )];
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&zero)).unwrap();
    fds[0].revents()
}

#[test]
fn rings_and_takes_back() {
    let (near, bell) = AppBell::pair().unwrap();
    assert_eq!(level(&near), PollFlags::OUT);
    assert!(bell.is_taken());
    bell.ring(b"a");
    assert_eq!(level(&near), PollFlags::IN | PollFlags::OUT);
    assert!(!bell.is_taken());
    assert_eq!(bell.take_back(1, None), 1);
    assert_eq!(level(&near), PollFlags::OUT);
    bell.ring(b"abc");
    rustix::io::read(&near, &mut [0; 2]).unwrap();
    assert_eq!(bell.take_back(3, None), 1, "two were read behind our back");
    assert_eq!(bell.take_back(1, None), 0);
}

#[test]
fn a_token_that_never_comes_is_waited_for_within_bounds_and_thrown_away_when_it_does() {
    let (near, bell) = AppBell::pair().unwrap();
    assert_eq!(bell.take_back(1, Some((&|| false, 0))), 1);
    bell.ring(b"l");
    assert_eq!(level(&near), PollFlags::IN | PollFlags::OUT);
    assert_eq!(bell.take_back(0, None), 0);
    assert_eq!(level(&near), PollFlags::OUT);
    bell.ring(b"n");
    assert_eq!(
        bell.take_back(0, None),
        0,
        "no stray is left to be thrown away"
    );
    assert_eq!(level(&near), PollFlags::IN | PollFlags::OUT);
}

#[test]
fn a_late_token_is_waited_for() {
    let (_near, bell) = AppBell::pair().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(Duration::from_millis(2));
            bell.ring(b"l");
        });
        assert_eq!(bell.take_back(1, Some((&|| false, 0))), 1);
    });
}

/// Its sender vouches for it, and it is not there: somebody read it behind our back, and must not get it again.
#[test]
fn a_token_that_was_sent_and_is_gone_was_read() {
    let (near, bell) = AppBell::pair().unwrap();
    bell.ring(b"l");
    let read = rustix::net::recv(&near, &mut [0; 1], RecvFlags::DONTWAIT);
    assert_eq!(read.unwrap().0, 1);
    assert_eq!(bell.take_back(1, Some((&|| true, 0))), 0);
    // One that is found is found, whoever vouches for it.
    bell.ring(b"m");
    assert_eq!(bell.take_back(1, Some((&|| true, 0))), 1);
}

/// A thread of this process that is held up for long, after it has sent its token, says so in the end.
#[test]
fn a_sender_of_this_process_is_waited_for() {
    let (near, bell) = AppBell::pair().unwrap();
    let said = std::sync::atomic::AtomicBool::new(false);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|s| {
        s.spawn(|| {
            bell.ring(b"l");
            tell.send(crate::thread::id()).unwrap();
            std::thread::sleep(10 * LATE);
            said.store(true, Ordering::Release);
        });
        let sender = told.recv().unwrap();
        let read = rustix::net::recv(&near, &mut [0; 1], RecvFlags::DONTWAIT);
        assert_eq!(read.unwrap().0, 1);
        let is_sent = || said.load(Ordering::Acquire);
        assert_eq!(bell.take_back(1, Some((&is_sent, sender))), 0);
    });
}

#[test]
fn blocks_and_opens_as_often_as_it_is_told() {
    let (near, bell) = AppBell::pair().unwrap();
    bell.block_writes();
    assert_eq!(level(&near), PollFlags::empty());
    bell.open_writes();
    assert_eq!(level(&near), PollFlags::OUT);
    // Blocked again before the opening of the time before was carried out: it stays blocked.
    bell.block_writes();
    bell.block_writes();
    bell.open_writes();
    assert_eq!(level(&near), PollFlags::empty());
    bell.block_writes();
    bell.clear_writes();
    assert_eq!(level(&near), PollFlags::OUT);
}

#[test]
fn the_end_is_shown_for_ever() {
    let (near, bell) = AppBell::pair().unwrap();
    bell.finish();
    bell.finish();
    let end = PollFlags::IN | PollFlags::OUT | PollFlags::RDHUP;
    assert_eq!(level(&near), end);
    assert_eq!(bell.take_back(1, None), 0);
    assert_eq!(level(&near), end);
}

#[test]
fn a_reused_number_is_not_touched() {
    let (near, bell) = AppBell::pair().unwrap();
    let (stranger, friend) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::io::write(&friend, b"private").unwrap();
    bell.ring(b"x");
    // What would be left if the application closed its end and got the same number for something else.
    bell.near
        .store(rustix::fd::AsRawFd::as_raw_fd(&stranger), Ordering::Release);
    assert_eq!(
        bell.take_back(1, None),
        1,
        "nothing was read behind our back"
    );
    bell.block_writes();
    assert_eq!(level(&stranger), PollFlags::IN | PollFlags::OUT);
    let mut got = [0; 20];
    assert_eq!(rustix::io::read(&stranger, &mut got), Ok(7));
    bell.near.store(-1, Ordering::Release);
    assert_eq!(bell.take_back(1, Some((&|| false, 0))), 1);
    drop(near);
}

#[test]
fn the_daemon_takes_only_a_connected_unix_stream() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket, socketpair};
    let (near, bell) = AppBell::pair().unwrap();
    let me = rustix::process::getuid().as_raw();
    let far = FarBell::new(bell.far.try_clone().unwrap(), me).unwrap();
    far.ring(b"t");
    assert_eq!(level(&near), PollFlags::IN | PollFlags::OUT);
    bell.block_writes();
    far.open_writes();
    assert_eq!(level(&near), PollFlags::IN | PollFlags::OUT);

    let refused = |fd: OwnedFd| FarBell::new(fd, me).is_err();
    assert!(FarBell::new(bell.far.try_clone().unwrap(), me + 1).is_err());
    assert!(refused(rustix::pipe::pipe().unwrap().0));
    assert!(refused(
        socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap()
    ));
    assert!(refused(
        socket(AddressFamily::INET, SocketType::STREAM, None).unwrap()
    ));
    let flags = SocketFlags::CLOEXEC;
    let datagrams = socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
    assert!(refused(datagrams.0));
}

#[test]
fn the_nodes_bell_is_an_event() {
    let bell = EventBell::new().unwrap();
    let readable = || level(&bell.event.try_clone().unwrap()).contains(PollFlags::IN);
    assert!(!readable());
    bell.ring(b"a");
    bell.open_writes();
    assert!(readable());
    bell.reset();
    assert!(!readable());
    bell.finish();
    assert!(readable());
}

#[test]
fn a_number_that_was_given_up_is_never_used_again() {
    use std::os::fd::{AsRawFd, FromRawFd};
    let (near, bell) = AppBell::pair().unwrap();
    let bell = Arc::new(bell);
    let stop = Arc::new(AtomicU32::new(0));
    let user = std::thread::spawn({
        let (bell, stop) = (Arc::clone(&bell), Arc::clone(&stop));
        move || {
            while stop.load(Ordering::Relaxed) == 0 {
                bell.block_writes();
                bell.clear_writes();
            }
        }
    });
    let (stranger, other_end) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let mut hurt = 0;
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end && hurt == 0 {
        let number = rustix::io::dup(&near).unwrap();
        bell.point_at(number.as_raw_fd());
        std::thread::yield_now();
        // What `close` does, and then somebody else gets the number.
        bell.point_at(-1);
        let mut place = number;
        rustix::io::dup2(&stranger, &mut place).unwrap();
        let mut buffer = [0; 8];
        hurt =
            rustix::net::recv(&other_end, &mut buffer, RecvFlags::DONTWAIT).map_or(0, |(n, _)| n);
        // SAFETY: keeps the type: the number is closed by its owner.
        drop(unsafe { OwnedFd::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(place)) });
    }
    stop.store(1, Ordering::Relaxed);
    user.join().unwrap();
    assert_eq!(hurt, 0, "bytes of ours went to a stranger");
}
