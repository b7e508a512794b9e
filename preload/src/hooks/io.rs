//! Bytes, with the fortified twins and the older names under which programs were linked.

use super::hooks;
use crate::ops::io;
use libc::{
    c_int, c_uint, c_void, iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t,
    timespec,
};

hooks! {
    recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t
        = recv, io::recv(fd, buf, len, flags);
    __recv_chk(fd: c_int, buf: *mut c_void, len: size_t, room: size_t, flags: c_int) -> ssize_t
        = recv_chk, io::recv_fortified(fd, buf, len, room, flags);
    recvfrom(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int, from: *mut sockaddr,
        from_len: *mut socklen_t) -> ssize_t
        = recvfrom, io::recvfrom(fd, buf, len, flags, from_len);
    __recvfrom_chk(fd: c_int, buf: *mut c_void, len: size_t, room: size_t, flags: c_int,
        from: *mut sockaddr, from_len: *mut socklen_t) -> ssize_t
        = recvfrom_chk, io::recvfrom_fortified(fd, buf, len, room, flags, from_len);
    recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t
        = recvmsg, io::recvmsg(fd, msg, flags);
    recvmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec)
        -> c_int
        = recvmmsg, io::recvmmsg(fd, msgs, count as usize, flags);
    read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t
        = read, io::recv(fd, buf, len, 0);
    __read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t
        = read, io::recv(fd, buf, len, 0);
    __read_chk(fd: c_int, buf: *mut c_void, len: size_t, room: size_t) -> ssize_t
        = read_chk, io::recv_fortified(fd, buf, len, room, 0);
    readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t
        = readv, io::readv(fd, iov, count);
    send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t
        = send, io::send(fd, buf, len, flags);
    __send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t
        = send, io::send(fd, buf, len, flags);
    // A connected TCP socket ignores the destination.
    sendto(fd: c_int, buf: *const c_void, len: size_t, flags: c_int, to: *const sockaddr,
        to_len: socklen_t) -> ssize_t
        = sendto, io::send(fd, buf, len, flags);
    sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t
        = sendmsg, io::sendmsg(fd, msg, flags);
    sendmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int
        = sendmmsg, io::sendmmsg(fd, msgs, count as usize, flags);
    write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t
        = write, io::send(fd, buf, len, 0);
    __write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t
        = write, io::send(fd, buf, len, 0);
    writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t
        = writev, io::writev(fd, iov, count);
    sendfile(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t
        = sendfile, io::sendfile(out, input, offset, count);
    sendfile64(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t
        = sendfile, io::sendfile(out, input, offset, count);
    splice(input: c_int, in_off: *mut i64, out: c_int, out_off: *mut i64, len: size_t,
        flags: c_uint) -> ssize_t
        = splice, io::splice(input, out);
}
