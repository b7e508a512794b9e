//! The numbers by which the application knows its end: the first that is still ours is the one that the bell uses.

use super::*;

impl Conn {
    /// The application knows the connection by these numbers; our own uses of its end go by the first.
    pub fn set_numbers(&self, numbers: &[RawFd]) {
        *self.numbers.lock() = numbers.to_vec();
        self.point_bell();
    }

    /// One more number.
    pub fn add_number(&self, fd: RawFd) {
        if let Some(mut numbers) = self.numbers.try_lock()
            && !numbers.contains(&fd)
        {
            numbers.push(fd);
        }
        self.point_bell();
    }

    /// One number less.
    pub fn remove_number(&self, fd: RawFd) {
        if let Some(mut numbers) = self.numbers.try_lock() {
            numbers.retain(|number| *number != fd);
        }
        self.point_bell();
    }

    /// Nobody holds the application's end any more: numbers that were closed behind our back mean others' descriptors, now
    /// or soon.
    pub fn forget_numbers(&self) {
        let numbers = self.numbers.try_lock().map(|numbers| numbers.clone());
        for fd in numbers.unwrap_or_default() {
            // SAFETY: used for this one call; a closed number gives EBADF.
            let inode = descriptor::inode(unsafe { BorrowedFd::borrow_raw(fd) });
            if inode != Ok(self.inode) {
                table::forget(fd, self);
                self.remove_number(fd);
            }
        }
    }

    /// Nobody holds the application's end any more.
    pub fn far_hung_up(&self) -> bool {
        let Some(bell) = self.bell.lock().clone() else {
            return true;
        };
        let mut poll = [rustix::event::PollFd::new(
            &*bell.far,
            rustix::event::PollFlags::empty(),
        )];
        let now = rustix::time::Timespec::default();
        let _ = rustix::event::poll(&mut poll, Some(&now));
        poll[0].revents().contains(rustix::event::PollFlags::HUP)
    }

    /// A number by which the application knows the connection, -1 if there is none.
    pub fn number(&self) -> RawFd {
        let numbers = self.numbers.try_lock();
        numbers
            .and_then(|numbers| numbers.first().copied())
            .unwrap_or(-1)
    }

    /// Lets the bell use a number that still means our end: others may have been closed behind our back.
    fn point_bell(&self) {
        let ours = |fd: &RawFd| {
            // SAFETY: used for this one call; a closed number gives EBADF.
            let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
            descriptor::inode(fd) == Ok(self.inode)
        };
        let number = match self.numbers.try_lock() {
            Some(numbers) => numbers.iter().copied().find(ours).unwrap_or(-1),
            None => return,
        };
        // Not under the lock: the I/O thread takes it, and may be what is waited for.
        let bell = self.bell.try_lock().and_then(|bell| bell.clone());
        if let Some(bell) = bell {
            bell.point_at(number);
        }
    }
}
