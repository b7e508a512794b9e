//! Bytes: `recv`, `send`, and everything that is one of them in other clothes.

use super::on;
use crate::outcome::{Outcome, Why};
use libc::{
    MSG_DONTWAIT, MSG_ERRQUEUE, MSG_NOSIGNAL, MSG_OOB, MSG_PEEK, MSG_WAITALL, MSG_WAITFORONE,
    c_int, c_ulong, c_void, iovec, mmsghdr, msghdr, off_t, size_t, socklen_t,
};
use rustix::fs::SeekFrom;
use std::io::IoSlice;
use std::os::fd::{BorrowedFd, RawFd};
use vianet::conn::{ConnRef, How};

/// Largest count of one call, as in the kernel (MAX_RW_COUNT).
const MAX_BYTES: usize = 0x7fff_f000;
/// Largest number of pieces of one call, as in the kernel (UIO_MAXIOV).
const MAX_PIECES: usize = 1024;
/// Pieces that are handed on at once; more are handed on in turn.
const BATCH: usize = 32;

/// A buffer that the application gave.
///
/// # Safety
/// `buf` points to `len` writable bytes that nobody else uses until the call returns, or is NULL.
unsafe fn buffer<'a>(buf: *mut c_void, len: size_t) -> Result<&'a mut [u8], i32> {
    if len == 0 {
        return Ok(&mut []);
    }
    if buf.is_null() {
        return Err(libc::EFAULT);
    }
    // SAFETY: as the caller promises. Bytes have no invalid values, and `conn` only writes here.
    Ok(unsafe { std::slice::from_raw_parts_mut(buf.cast(), len.min(MAX_BYTES)) })
}

/// recv(2), and read(2) with `flags` 0.
///
/// # Safety
/// As recv(2).
pub unsafe fn recv(fd: RawFd, buf: *mut c_void, len: size_t, flags: c_int) -> Outcome<usize> {
    on(fd, |c| {
        // SAFETY: the application's contract.
        let buffer = match unsafe { buffer(buf, len) } {
            Ok(buffer) => buffer,
            Err(errno) => return Outcome::Failed(errno),
        };
        receive(&c, buffer, flags)
    })
}

/// `__recv_chk`, `__read_chk`: a length beyond the buffer is left to the C library, which ends the program.
///
/// # Safety
/// As recv(2).
pub unsafe fn recv_fortified(
    fd: RawFd,
    buf: *mut c_void,
    len: size_t,
    room: size_t,
    flags: c_int,
) -> Outcome<usize> {
    if len > room {
        return Outcome::PassThrough(Why::KernelKnows);
    }
    // SAFETY: the caller's promise.
    unsafe { recv(fd, buf, len, flags) }
}

/// recvfrom(2). There is no source address, as on a connected TCP socket.
///
/// # Safety
/// As recvfrom(2).
pub unsafe fn recvfrom(
    fd: RawFd,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
    from_len: *mut socklen_t,
) -> Outcome<usize> {
    // SAFETY: the caller's promise.
    let outcome = unsafe { recv(fd, buf, len, flags) };
    if matches!(outcome, Outcome::Handled(_)) && !from_len.is_null() {
        // SAFETY: the caller's promise: it points to a length.
        unsafe { from_len.write_unaligned(0) };
    }
    outcome
}

/// `__recvfrom_chk`.
///
/// # Safety
/// As recvfrom(2).
pub unsafe fn recvfrom_fortified(
    fd: RawFd,
    buf: *mut c_void,
    len: size_t,
    room: size_t,
    flags: c_int,
    from_len: *mut socklen_t,
) -> Outcome<usize> {
    if len > room {
        return Outcome::PassThrough(Why::KernelKnows);
    }
    // SAFETY: the caller's promise.
    unsafe { recvfrom(fd, buf, len, flags, from_len) }
}

fn receive(c: &ConnRef, buffer: &mut [u8], flags: c_int) -> Outcome<usize> {
    // There is no urgent data and no error queue, as on a TCP socket that never got any.
    if flags & MSG_OOB != 0 {
        return Outcome::Failed(libc::EINVAL);
    }
    if flags & MSG_ERRQUEUE != 0 {
        return Outcome::Failed(libc::EAGAIN);
    }
    c.recv(buffer, flags).into()
}

/// send(2), and write(2) with `flags` 0. EPIPE raises SIGPIPE unless MSG_NOSIGNAL, as sockets do.
///
/// # Safety
/// As send(2).
pub unsafe fn send(fd: RawFd, buf: *const c_void, len: size_t, flags: c_int) -> Outcome<usize> {
    on(fd, |c| {
        // SAFETY: the application's contract; `conn` only reads.
        match unsafe { buffer(buf.cast_mut(), len) } {
            Ok(data) => transmit(&c, &[IoSlice::new(data)], flags),
            Err(errno) => Outcome::Failed(errno),
        }
    })
}

fn transmit(c: &ConnRef, data: &[IoSlice<'_>], flags: c_int) -> Outcome<usize> {
    let outcome = c.send(data, flags).into();
    if matches!(outcome, Outcome::Failed(libc::EPIPE)) && flags & MSG_NOSIGNAL == 0 {
        // SAFETY: sends the calling thread the signal that the kernel would send it.
        unsafe { libc::raise(libc::SIGPIPE) };
    }
    outcome
}

/// The pieces of a gathering or scattering call.
///
/// # Safety
/// `iov` points to `count` pieces, or is NULL.
unsafe fn pieces<'a>(iov: *const iovec, count: usize) -> Result<&'a [iovec], i32> {
    if count > MAX_PIECES {
        return Err(libc::EINVAL);
    }
    if count == 0 {
        return Ok(&[]);
    }
    if iov.is_null() {
        return Err(libc::EFAULT);
    }
    // SAFETY: as the caller promises.
    Ok(unsafe { std::slice::from_raw_parts(iov, count) })
}

/// readv(2).
///
/// # Safety
/// As readv(2).
pub unsafe fn readv(fd: RawFd, iov: *const iovec, count: c_int) -> Outcome<usize> {
    // SAFETY: the application's contract.
    on(fd, |c| match unsafe { pieces(iov, count as usize) } {
        // SAFETY: as above.
        Ok(pieces) => unsafe { scatter(&c, pieces, 0) },
        Err(errno) => Outcome::Failed(errno),
    })
}

/// Fills the pieces in turn. Only the first one may wait, unless all were asked for (MSG_WAITALL); a peek looks at the
/// first one only, since it would see the same bytes again (a short peek is allowed).
///
/// # Safety
/// Each piece is a buffer of the application's.
unsafe fn scatter(c: &ConnRef, pieces: &[iovec], flags: c_int) -> Outcome<usize> {
    let mut total = 0;
    for piece in pieces.iter().filter(|piece| piece.iov_len > 0) {
        // SAFETY: the application's contract.
        let buffer = match unsafe { buffer(piece.iov_base, piece.iov_len) } {
            Ok(buffer) => buffer,
            Err(_) if total > 0 => break,
            Err(errno) => return Outcome::Failed(errno),
        };
        let room = buffer.len();
        let patience = if total == 0 || flags & MSG_WAITALL != 0 {
            0
        } else {
            MSG_DONTWAIT
        };
        match receive(c, buffer, flags | patience) {
            Outcome::Handled(n) => {
                total += n;
                if n < room || flags & MSG_PEEK != 0 {
                    break;
                }
            }
            _ if total > 0 => break,
            other => return other,
        }
    }
    Outcome::Handled(total)
}

/// writev(2).
///
/// # Safety
/// As writev(2).
pub unsafe fn writev(fd: RawFd, iov: *const iovec, count: c_int) -> Outcome<usize> {
    // SAFETY: the application's contract.
    on(fd, |c| match unsafe { pieces(iov, count as usize) } {
        // SAFETY: as above.
        Ok(pieces) => unsafe { gather(&c, pieces, 0) },
        Err(errno) => Outcome::Failed(errno),
    })
}

/// # Safety
/// Each piece is data of the application's.
unsafe fn gather(c: &ConnRef, pieces: &[iovec], flags: c_int) -> Outcome<usize> {
    let mut total = 0;
    for batch in pieces.chunks(BATCH) {
        let mut slices = [IoSlice::new(&[]); BATCH];
        let mut asked = 0;
        for (slice, piece) in slices.iter_mut().zip(batch) {
            // SAFETY: the application's contract; `conn` only reads.
            match unsafe { buffer(piece.iov_base, piece.iov_len) } {
                Ok(data) => {
                    asked += data.len();
                    *slice = IoSlice::new(data);
                }
                Err(_) if total > 0 => return Outcome::Handled(total),
                Err(errno) => return Outcome::Failed(errno),
            }
        }
        match transmit(c, &slices[..batch.len()], flags) {
            Outcome::Handled(n) => {
                total += n;
                if n < asked {
                    break;
                }
            }
            _ if total > 0 => break,
            other => return other,
        }
    }
    Outcome::Handled(total)
}

/// recvmsg(2). There is never a source address or control data, as on a connected TCP socket.
///
/// # Safety
/// As recvmsg(2).
pub unsafe fn recvmsg(fd: RawFd, msg: *mut msghdr, flags: c_int) -> Outcome<usize> {
    // SAFETY: the application's contract.
    on(fd, |c| unsafe { receive_message(&c, msg, flags) })
}

unsafe fn receive_message(c: &ConnRef, msg: *mut msghdr, flags: c_int) -> Outcome<usize> {
    // SAFETY: the application's contract: NULL or a message header.
    let Some(msg) = (unsafe { msg.as_mut() }) else {
        return Outcome::Failed(libc::EFAULT);
    };
    // SAFETY: the header's pieces are the application's.
    let outcome = match unsafe { pieces(msg.msg_iov, msg.msg_iovlen) } {
        // SAFETY: as above.
        Ok(pieces) => unsafe { scatter(c, pieces, flags) },
        Err(errno) => Outcome::Failed(errno),
    };
    if matches!(outcome, Outcome::Handled(_)) {
        msg.msg_namelen = 0;
        msg.msg_controllen = 0;
        msg.msg_flags = 0;
    }
    outcome
}

/// sendmsg(2). A destination address is ignored, as a connected TCP socket does.
///
/// # Safety
/// As sendmsg(2).
pub unsafe fn sendmsg(fd: RawFd, msg: *const msghdr, flags: c_int) -> Outcome<usize> {
    // SAFETY: the application's contract.
    let outcome = on(fd, |c| unsafe { send_message(&c, msg, flags) });
    if matches!(outcome, Outcome::PassThrough(_)) {
        // SAFETY: as above.
        unsafe { super::descriptors::shared_by_message(msg) };
    }
    outcome
}

unsafe fn send_message(c: &ConnRef, msg: *const msghdr, flags: c_int) -> Outcome<usize> {
    // SAFETY: the application's contract: NULL or a message header.
    let Some(msg) = (unsafe { msg.as_ref() }) else {
        return Outcome::Failed(libc::EFAULT);
    };
    // SAFETY: the header's pieces are the application's.
    match unsafe { pieces(msg.msg_iov, msg.msg_iovlen) } {
        // SAFETY: as above.
        Ok(pieces) => unsafe { gather(c, pieces, flags) },
        Err(errno) => Outcome::Failed(errno),
    }
}

/// recvmmsg(2), without its time limit (which the kernel too looks at only between messages).
///
/// # Safety
/// As recvmmsg(2).
pub unsafe fn recvmmsg(
    fd: RawFd,
    msgs: *mut mmsghdr,
    count: usize,
    flags: c_int,
) -> Outcome<usize> {
    on(fd, |c| {
        let first = flags & !MSG_WAITFORONE;
        let later = if flags & MSG_WAITFORONE == 0 {
            first
        } else {
            first | MSG_DONTWAIT
        };
        each(count, |n| {
            // SAFETY: the application's contract: `count` headers.
            let msg = unsafe { &mut *msgs.add(n) };
            // SAFETY: as above.
            let got = unsafe {
                receive_message(&c, &mut msg.msg_hdr, if n == 0 { first } else { later })
            };
            note_length(got, msg)
        })
    })
}

/// sendmmsg(2).
///
/// # Safety
/// As sendmmsg(2).
pub unsafe fn sendmmsg(
    fd: RawFd,
    msgs: *mut mmsghdr,
    count: usize,
    flags: c_int,
) -> Outcome<usize> {
    on(fd, |c| {
        each(count, |n| {
            // SAFETY: the application's contract: `count` headers.
            let msg = unsafe { &mut *msgs.add(n) };
            // SAFETY: as above.
            let sent = unsafe { send_message(&c, &msg.msg_hdr, flags) };
            note_length(sent, msg)
        })
    })
}

fn note_length(outcome: Outcome<usize>, msg: &mut mmsghdr) -> Outcome<usize> {
    if let Outcome::Handled(n) = outcome {
        msg.msg_len = n as u32;
    }
    outcome
}

/// Runs `one` for message 0, 1, ... and answers how many succeeded; the error only if it was the first.
fn each(count: usize, mut one: impl FnMut(usize) -> Outcome<usize>) -> Outcome<usize> {
    let count = count.min(MAX_PIECES);
    for n in 0..count {
        match one(n) {
            // The end of the stream, and nothing to send: no further message can have bytes.
            Outcome::Handled(0) => return Outcome::Handled(n + 1),
            Outcome::Handled(_) => {}
            _ if n > 0 => return Outcome::Handled(n),
            other => return other,
        }
    }
    Outcome::Handled(count)
}

/// sendfile(2) to one of ours: read and send, since the kernel would write into the bell. Like the kernel's it wants an
/// input that has positions.
///
/// # Safety
/// As sendfile(2).
pub unsafe fn sendfile(
    out: RawFd,
    input: RawFd,
    offset: *mut off_t,
    count: size_t,
) -> Outcome<usize> {
    on(out, |c| {
        // SAFETY: the number is used within this call; a closed one gives EBADF.
        let input = unsafe { BorrowedFd::borrow_raw(input) };
        // SAFETY: the application's contract: NULL or an offset.
        let given = unsafe { offset.as_mut() };
        let start = match &given {
            Some(offset) => **offset as u64,
            None => match rustix::fs::seek(input, SeekFrom::Current(0)) {
                Ok(at) => at,
                Err(rustix::io::Errno::SPIPE) => return Outcome::Failed(libc::EINVAL),
                Err(err) => return Outcome::Failed(err.raw_os_error()),
            },
        };
        let outcome = copy(&c, input, start, count.min(MAX_BYTES));
        if let Outcome::Handled(n) = outcome {
            let end = start + n as u64;
            match given {
                Some(offset) => *offset = end as off_t,
                None => drop(rustix::fs::seek(input, SeekFrom::Start(end))),
            }
        }
        outcome
    })
}

fn copy(c: &ConnRef, input: BorrowedFd<'_>, start: u64, count: usize) -> Outcome<usize> {
    let mut chunk = [0; 16 * 1024];
    let mut total = 0;
    while total < count {
        let want = chunk.len().min(count - total);
        let got = match rustix::io::pread(input, &mut chunk[..want], start + total as u64) {
            Ok(0) => break,
            Ok(got) => got,
            Err(_) if total > 0 => break,
            Err(rustix::io::Errno::SPIPE) => return Outcome::Failed(libc::EINVAL),
            Err(err) => return Outcome::Failed(err.raw_os_error()),
        };
        match transmit(c, &[IoSlice::new(&chunk[..got])], 0) {
            Outcome::Handled(sent) => {
                total += sent;
                if sent < got {
                    break;
                }
            }
            _ if total > 0 => break,
            other => return other,
        }
    }
    Outcome::Handled(total)
}

/// splice(2) with one of ours: EINVAL, which callers must expect of any descriptor and answer with read and write.
pub fn splice(input: RawFd, out: RawFd) -> Outcome<usize> {
    match super::ours(input).or_else(|| super::ours(out)) {
        Some(_) => Outcome::Failed(libc::EINVAL),
        None => Outcome::PassThrough(Why::NotOurs),
    }
}

/// shutdown(2).
pub fn shutdown(fd: RawFd, how: c_int) -> Outcome<c_int> {
    on(fd, |c| {
        How::from_c(how)
            .and_then(|how| c.shutdown(how))
            .map(|()| 0)
            .into()
    })
}

/// ioctl(2): FIONREAD. FIONBIO and the rest are the kernel's.
///
/// # Safety
/// As ioctl(2).
pub unsafe fn ioctl(fd: RawFd, request: c_ulong, arg: usize) -> Outcome<c_int> {
    if request != libc::FIONREAD {
        return Outcome::PassThrough(Why::KernelKnows);
    }
    on(fd, |c| {
        let answer = arg as *mut c_int;
        if answer.is_null() {
            return Outcome::Failed(libc::EFAULT);
        }
        let readable = c_int::try_from(c.readable()).unwrap_or(c_int::MAX);
        // SAFETY: the caller's promise: FIONREAD is given a pointer to an int.
        unsafe { answer.write_unaligned(readable) };
        Outcome::Handled(0)
    })
}
