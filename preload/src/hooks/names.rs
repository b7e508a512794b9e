//! Host names. The real functions do the work, on the numeric address that stands for the name, so that their results
//! are theirs to free.

use crate::ops::names::addresses;
use crate::outcome::{Outcome, guarded, keeping_errno};
use crate::real;
use libc::{
    AF_INET, AF_INET6, AF_UNSPEC, AI_ADDRCONFIG, AI_ALL, AI_CANONNAME, AI_NUMERICHOST, AI_V4MAPPED,
    addrinfo, c_char, c_int, hostent, size_t,
};
use std::ffi::{CStr, CString};
use std::net::IpAddr;
use std::ptr::null_mut;

/// The numeric address of `family` that stands for `node`; `None`: the name is not ours.
///
/// # Safety
/// `node` is NULL or a C string.
unsafe fn numeric(node: *const c_char, family: c_int) -> Option<CString> {
    if node.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let host = unsafe { CStr::from_ptr(node) }.to_str().ok()?;
    let outcome = keeping_errno(|| guarded(|| addresses(host)));
    let Outcome::Handled((v4, v6)) = outcome else {
        return None;
    };
    let addr: IpAddr = match family {
        AF_UNSPEC | AF_INET => v4.into(),
        AF_INET6 => v6.into(),
        _ => return None,
    };
    CString::new(addr.to_string()).ok()
}

#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn getaddrinfo(
    node: *const c_char,
    service: *const c_char,
    hints: *const addrinfo,
    result: *mut *mut addrinfo,
) -> c_int {
    // SAFETY: the caller keeps to the contract of the C function: NULL or hints.
    let (flags, family, socktype, protocol) = match unsafe { hints.as_ref() } {
        Some(h) => (h.ai_flags, h.ai_family, h.ai_socktype, h.ai_protocol),
        // What the C library takes for no hints, without the flags that look at the interfaces.
        None => (0, AF_UNSPEC, 0, 0),
    };
    let ours = if flags & AI_NUMERICHOST == 0 {
        // SAFETY: as above.
        unsafe { numeric(node, family) }
    } else {
        None
    };
    let Some(ours) = ours else {
        // SAFETY: as above.
        return unsafe { real::getaddrinfo(node, service, hints, result) };
    };
    // Which addresses this machine has does not matter: nothing is ever sent to this one.
    let hints = addrinfo {
        ai_flags: flags & !(AI_ADDRCONFIG | AI_V4MAPPED | AI_ALL) | AI_NUMERICHOST,
        ai_family: family,
        ai_socktype: socktype,
        ai_protocol: protocol,
        ai_addrlen: 0,
        ai_addr: null_mut(),
        ai_canonname: null_mut(),
        ai_next: null_mut(),
    };
    // SAFETY: as above; `ours` and the hints live until the return.
    let code = unsafe { real::getaddrinfo(ours.as_ptr(), service, &raw const hints, result) };
    if code == 0 && flags & AI_CANONNAME != 0 {
        // SAFETY: the result is a list that the C library just made, and `node` is a C string.
        unsafe { name_it(*result, node) };
    }
    code
}

/// Puts the name in the place of the numeric text that the C library took for the canonical name. Both come from
/// `malloc`, as freeaddrinfo(3) expects.
unsafe fn name_it(first: *mut addrinfo, name: *const c_char) {
    // SAFETY: the caller's promise.
    let Some(first) = (unsafe { first.as_mut() }) else {
        return;
    };
    if first.ai_canonname.is_null() {
        return;
    }
    // SAFETY: a C string.
    let copy = unsafe { libc::strdup(name) };
    if !copy.is_null() {
        // SAFETY: the C library's own, from malloc.
        unsafe { libc::free(first.ai_canonname.cast()) };
        first.ai_canonname = copy;
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn gethostbyname(name: *const c_char) -> *mut hostent {
    // SAFETY: the caller keeps to the contract of the C function.
    match unsafe { numeric(name, AF_INET) } {
        // SAFETY: as above.
        Some(ours) => unsafe { real::gethostbyname(ours.as_ptr()) },
        // SAFETY: as above.
        None => unsafe { real::gethostbyname(name) },
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent {
    // SAFETY: the caller keeps to the contract of the C function.
    match unsafe { numeric(name, family) } {
        // SAFETY: as above.
        Some(ours) => unsafe { real::gethostbyname2(ours.as_ptr(), family) },
        // SAFETY: as above.
        None => unsafe { real::gethostbyname2(name, family) },
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn gethostbyname_r(
    name: *const c_char,
    host: *mut hostent,
    buf: *mut c_char,
    len: size_t,
    result: *mut *mut hostent,
    h_errno: *mut c_int,
) -> c_int {
    // SAFETY: the caller keeps to the contract of the C function.
    match unsafe { numeric(name, AF_INET) } {
        // SAFETY: as above.
        Some(ours) => unsafe {
            real::gethostbyname_r(ours.as_ptr(), host, buf, len, result, h_errno)
        },
        // SAFETY: as above.
        None => unsafe { real::gethostbyname_r(name, host, buf, len, result, h_errno) },
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn gethostbyname2_r(
    name: *const c_char,
    family: c_int,
    host: *mut hostent,
    buf: *mut c_char,
    len: size_t,
    result: *mut *mut hostent,
    h_errno: *mut c_int,
) -> c_int {
    // SAFETY: the caller keeps to the contract of the C function.
    match unsafe { numeric(name, family) } {
        // SAFETY: as above.
        Some(ours) => unsafe {
            real::gethostbyname2_r(ours.as_ptr(), family, host, buf, len, result, h_errno)
        },
        // SAFETY: as above.
        None => unsafe { real::gethostbyname2_r(name, family, host, buf, len, result, h_errno) },
    }
}
