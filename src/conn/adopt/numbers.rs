//! Which numbers are open in this process, which of them are epoll sets, and what those watch.
//!
//! `/proc` tells, where it is there. In a chroot or a container without it the kernel is asked about each number, which
//! tells everything except what a registration is for.

use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use rustix::time::Timespec;

/// Numbers that are looked at in one system call.
const BATCH: u64 = 256;
/// Numbers above are not looked for without `/proc`.
const HIGHEST: u64 = 1 << 20;

/// An epoll set's registration of a number.
pub struct Registration {
    /// The set.
    pub set: RawFd,
    /// EPOLLIN, EPOLLET, ...
    pub events: u32,
    /// What the application wants to be given.
    pub data: u64,
}

/// Whether a set watches a number.
pub enum Watched {
    /// It does not.
    No,
    /// It does.
    For(Registration),
    /// It does, or that cannot be excluded, and what for is not known: `/proc/self/fdinfo` cannot be read.
    Unknown(Errno),
}

/// All numbers that are open.
pub fn open_numbers() -> Vec<RawFd> {
    listed().unwrap_or_else(|_| {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(HIGHEST);
        probed(limit.min(HIGHEST))
    })
}

fn listed() -> Result<Vec<RawFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = open("/proc/self/fd", flags, Mode::empty())?;
    let mut buffer = Vec::with_capacity(8192);
    let mut found = Vec::new();
    let mut entries = rustix::fs::RawDir::new(&dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let number = entry.file_name().to_str().ok();
        found.extend(number.and_then(|name| name.parse::<RawFd>().ok()));
    }
    Ok(found)
}

/// The open ones among the numbers below `limit`: a poll for nothing says which are not.
fn probed(limit: u64) -> Vec<RawFd> {
    let mut found = Vec::new();
    for first in (0..limit).step_by(BATCH as usize) {
        let numbers = first..limit.min(first + BATCH);
        let mut fds: Vec<PollFd<'_>> = numbers
            .clone()
            .map(|n| {
                // SAFETY: used for this one poll; a closed number gives NVAL.
                let fd = unsafe { BorrowedFd::borrow_raw(n as RawFd) };
                PollFd::from_borrowed_fd(fd, PollFlags::empty())
            })
            .collect();
        let now = Timespec::default();
        // It cannot wait; with an error all of them count as open, and are found out one by one.
        let _ = poll(&mut fds, Some(&now));
        let open = |(_, fd): &(u64, &PollFd<'_>)| !fd.revents().contains(PollFlags::NVAL);
        found.extend(numbers.zip(&fds).filter(open).map(|(n, _)| n as RawFd));
    }
    found
}

/// The epoll sets among `numbers`.
pub fn epoll_sets(numbers: &[RawFd]) -> Result<Vec<RawFd>, Errno> {
    // Only an epoll set says of a descriptor which it cannot have that it is not there.
    let stranger: OwnedFd = eventfd(0, EventfdFlags::CLOEXEC)?;
    let is_set = |number: &RawFd| {
        // SAFETY: used for this one call, which changes nothing; a number closed meanwhile gives EBADF.
        let fd = unsafe { BorrowedFd::borrow_raw(*number) };
        epoll::delete(fd, stranger.as_fd()) == Err(Errno::NOENT)
    };
    Ok(numbers.iter().copied().filter(is_set).collect())
}

/// Whether `set` watches the number `name`, and what for.
pub fn watched(set: RawFd, name: RawFd) -> Watched {
    match read_file(&format!("/proc/self/fdinfo/{set}")) {
        Ok(text) => in_fdinfo(&text, set, name),
        // Another thread has closed the set since it was found.
        Err(Errno::NOENT) if listed().is_ok() => Watched::No,
        Err(why) => match is_registered(set, name) {
            // BADF: closed, as above.
            Ok(false) | Err(Errno::BADF) => Watched::No,
            Ok(true) | Err(_) => Watched::Unknown(why),
        },
    }
}

/// What the set's `/proc/self/fdinfo` shows (proc(5)).
fn in_fdinfo(text: &str, set: RawFd, name: RawFd) -> Watched {
    let registration = text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let mut field = |key: &str| (words.next()? == key).then(|| words.next()).flatten();
        let tfd: RawFd = field("tfd:")?.parse().ok()?;
        let events = u32::from_str_radix(field("events:")?, 16).ok()?;
        let data = u64::from_str_radix(field("data:")?, 16).ok()?;
        (tfd == name).then_some(Registration { set, events, data })
    });
    registration.map_or(Watched::No, Watched::For)
}

/// The same without `/proc`: kcmp knows whether, not what for. An error where it is not allowed.
fn is_registered(set: RawFd, name: RawFd) -> Result<bool, Errno> {
    /// `struct kcmp_epoll_slot`, <linux/kcmp.h>.
    #[repr(C)]
    struct Slot {
        efd: u32,
        tfd: u32,
        toff: u32,
    }
    const KCMP_EPOLL_TFD: libc::c_int = 7;
    let slot = Slot {
        efd: set as u32,
        tfd: name as u32,
        // A second one of the same number can only be a ghost of an older descriptor; that one counts too.
        toff: 0,
    };
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: kcmp reads the slot, which lives until it returns, and changes nothing.
    let order = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            pid,
            pid,
            KCMP_EPOLL_TFD,
            name,
            &raw const slot,
        )
    };
    match order {
        0.. => Ok(true),
        _ => match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::ENOENT) => Ok(false),
            errno => Err(Errno::from_raw_os_error(errno.unwrap_or(libc::EIO))),
        },
    }
}

fn read_file(path: &str) -> Result<String, Errno> {
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    let mut piece = [0u8; 4096];
    loop {
        match rustix::io::read(&file, &mut piece[..]) {
            Ok(0) => return String::from_utf8(text).map_err(|_| Errno::ILSEQ),
            Ok(n) => text.extend_from_slice(&piece[..n]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::epoll::{CreateFlags, EventData, EventFlags};
    use rustix::fd::AsRawFd;

    #[test]
    fn numbers_are_found_without_proc() {
        let set = epoll::create(CreateFlags::CLOEXEC).expect("an epoll set");
        let watched = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        let other = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        let data = EventData::new_u64(0xfedc_ba98_7654_3210);
        epoll::add(&set, &watched, data, EventFlags::IN | EventFlags::ET).expect("registered");
        let ours = [set.as_raw_fd(), watched.as_raw_fd(), other.as_raw_fd()];
        for found in [listed().expect("/proc"), probed(4096)] {
            assert!(ours.iter().all(|n| found.contains(n)), "{found:?}");
            assert!(!found.contains(&4095), "{found:?}");
        }
        assert_eq!(epoll_sets(&ours), Ok(vec![ours[0]]));
        // Asking has changed nothing.
        match super::watched(ours[0], ours[1]) {
            Watched::For(r) => assert_eq!(
                (r.set, r.events, r.data),
                (
                    ours[0],
                    (EventFlags::IN | EventFlags::ET).bits() | 0x18,
                    0xfedc_ba98_7654_3210
                )
            ),
            _ => panic!("not found"),
        }
        assert!(matches!(super::watched(ours[0], ours[2]), Watched::No));
        // kcmp may be forbidden; then it says so.
        match is_registered(ours[0], ours[1]) {
            Ok(registered) => assert!(registered && is_registered(ours[0], ours[2]) == Ok(false)),
            Err(errno) => eprintln!("kcmp: {errno}"),
        }
    }

    #[test]
    fn a_set_that_was_closed_since_it_was_found_watches_nothing() {
        let name = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        let set = epoll::create(CreateFlags::CLOEXEC).expect("a set");
        let number = set.as_raw_fd();
        drop(set);
        // Whatever another thread has opened under this number meanwhile does not watch the name either.
        assert!(matches!(
            super::watched(number, name.as_raw_fd()),
            Watched::No
        ));
    }
}
