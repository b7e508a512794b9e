//! `extern "C"` only: convert, call, convert back. The C documentation is in these comments: cbindgen copies it into
//! `include/vianet.h`.

mod convert;
mod errors;
mod types;

pub use types::*;

use crate::conn::{self, How};
use crate::error::{Error, Kind, Result};
use convert::{SizedStruct, border, callback_context, copy_text, from_c_struct, to_c_struct};
use libc::ssize_t;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::time::Duration;

/// Connects to the server that serves `name` now: `cluster\server`, `server.cluster`, or an alias of the configuration.
/// Returns a real descriptor (it works in poll, select, epoll beside others) that stays the same when the connection
/// moves to another server. `options` may be NULL. With VIANET_NONBLOCK it returns at once: wait for writable.
///
/// # Safety
/// `name` is a NUL-terminated string or NULL; `options` points to `options->size` readable bytes or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vianet_connect(
    name: *const c_char,
    options: *const vianet_options,
) -> c_int {
    border(|| {
        // SAFETY: the caller's promise.
        let (name, options) = unsafe { (convert::name(name)?, read_options(options)?) };
        conn::connect(name, &options)
    })
}

/// Sends as send(2) does, without ever raising SIGPIPE. `flags`: MSG_DONTWAIT, MSG_NOSIGNAL.
///
/// # Safety
/// `data` points to `len` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vianet_send(
    fd: c_int,
    data: *const c_void,
    len: usize,
    flags: c_int,
) -> ssize_t {
    border(|| {
        let conn = conn::known(fd)?;
        // SAFETY: the caller's promise.
        let data = unsafe { convert::bytes(data, len)? };
        conn.send(&[std::io::IoSlice::new(data)], flags)
    })
}

/// Receives as recv(2) does; 0 is the end of the stream. `flags`: MSG_DONTWAIT, MSG_PEEK, MSG_WAITALL, MSG_NOSIGNAL.
///
/// # Safety
/// `buffer` points to `len` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vianet_recv(
    fd: c_int,
    buffer: *mut c_void,
    len: usize,
    flags: c_int,
) -> ssize_t {
    border(|| {
        let conn = conn::known(fd)?;
        // SAFETY: the caller's promise.
        let buffer = unsafe { convert::bytes_mut(buffer, len)? };
        conn.recv(buffer, flags)
    })
}

/// Ends one or both directions as shutdown(2) does: SHUT_RD, SHUT_WR, SHUT_RDWR. Wakes threads that wait.
///
/// # Safety
/// None needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vianet_shutdown(fd: c_int, how: c_int) -> c_int {
    border(|| conn::find(fd)?.shutdown(How::from_c(how)?))
}

/// Closes the descriptor. Threads inside a call on it return with EBADF first. Bytes that `vianet_send` accepted are
/// still delivered.
///
/// # Safety
/// None needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vianet_close(fd: c_int) -> c_int {
    border(|| conn::close(fd))
}

/// Asks who serves `name` now (the process's cache first) and writes it to `*answer`.
///
/// # Safety
/// `name` is a NUL-terminated string or NULL; `answer` points to `answer->size` writable bytes or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vianet_resolve(name: *const c_char, answer: *mut vianet_answer) -> c_int {
    border(|| {
        // SAFETY: the caller's promise.
        let (name, size) = unsafe { (convert::name(name)?, convert::out_size(answer)?) };
        let resolved = conn::resolve(name, &conn::Options::default())?;
        // SAFETY: the caller's promise; `size` was checked.
        unsafe { to_c_struct(answer, size, vianet_answer::from(&resolved)) }
    })
}

/// Writes what the connection of `fd` is like now to `*info`.
///
/// # Safety
/// `info` points to `info->size` writable bytes or is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vianet_info(fd: c_int, info: *mut vianet_info) -> c_int {
    border(|| {
        // SAFETY: the caller's promise.
        let size = unsafe { convert::out_size(info)? };
        let found = conn::find(fd)?.info();
        // SAFETY: the caller's promise; `size` was checked.
        unsafe { to_c_struct(info, size, vianet_info::from(&found)) }
    })
}

/// Copies the text of this thread's last error (cut to `size` - 1 bytes, always terminated) and returns its whole
/// length; "" if no call failed yet. It does not change errno.
///
/// # Safety
/// `buffer` points to `size` writable bytes, or is NULL with `size` 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vianet_last_error(buffer: *mut c_char, size: usize) -> usize {
    errors::with_last(|text| {
        if !buffer.is_null() && size > 0 {
            // SAFETY: the caller's promise.
            unsafe { convert::copy_to(buffer, size, text) };
        }
        text.len()
    })
}

/// Hands log records of `level` (VIANET_LOG_...) and more important ones to `callback`; NULL ends it. The library
/// writes nothing by itself.
///
/// # Safety
/// `callback` can be called on any thread with `context` for the rest of the process's life.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vianet_set_log_callback(
    level: c_int,
    callback: vianet_log_callback,
    context: *mut c_void,
) -> c_int {
    border(|| {
        let level = convert::level(level)?;
        let context = callback_context(context);
        let sink: crate::log::Callback = match callback {
            None => Box::new(|_, _, _| ()),
            Some(callback) => Box::new(move |level, module, text| {
                let (module, text) = (convert::c_text(module), convert::c_text(text));
                // SAFETY: `vianet_set_log_callback`'s promise; both strings outlive the call.
                unsafe {
                    callback(
                        level as c_int,
                        module.as_ptr(),
                        text.as_ptr(),
                        context.pointer(),
                    )
                }
            }),
        };
        crate::log::set_callback(level, sink);
        Ok(())
    })
}

/// Hands events of all connections (failover begun, ended, lost, resumed) to `callback`; NULL ends it.
///
/// # Safety
/// `callback` can be called on any thread with `context` for the rest of the process's life.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vianet_set_event_callback(
    callback: vianet_event_callback,
    context: *mut c_void,
) -> c_int {
    border(|| {
        let context = callback_context(context);
        conn::events::set_callback(callback.map(|callback| {
            Box::new(move |event: &conn::events::Event| {
                let event = vianet_event::from(event);
                // SAFETY: `vianet_set_event_callback`'s promise; the event outlives the call.
                unsafe { callback(&event, context.pointer()) }
            }) as conn::events::Callback
        }));
        Ok(())
    })
}

/// The library's version, "major.minor.patch".
///
/// # Safety
/// None needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vianet_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(text) => text,
            Err(_) => panic!("a version has no NUL"),
        };
    VERSION.as_ptr()
}

/// Reads `*options` as a Rust value.
///
/// # Safety
/// NULL, or readable for the size that its first member says.
unsafe fn read_options(options: *const vianet_options) -> Result<conn::Options> {
    if options.is_null() {
        return Ok(conn::Options::default());
    }
    // SAFETY: the caller's promise.
    let given: vianet_options = unsafe { from_c_struct(options)? };
    if given.flags & !(VIANET_NONBLOCK | VIANET_CLOEXEC) != 0 || given.reserved != 0 {
        let text = "options: unknown flags, or reserved is not zero";
        return Err(Error::new(Kind::BadArgument, text));
    }
    if given.transports & !0b11110 != 0 {
        let text = "options.transports: bits are 1 << VIANET_TRANSPORT_...";
        return Err(Error::new(Kind::BadArgument, text));
    }
    let config = match given.config_file.is_null() {
        true => None,
        // SAFETY: the caller's promise: a NUL-terminated string.
        false => Some(unsafe { convert::path(given.config_file) }),
    };
    Ok(conn::Options {
        nonblocking: given.flags & VIANET_NONBLOCK != 0,
        cloexec: given.flags & VIANET_CLOEXEC != 0,
        deadline: (given.deadline_ms > 0).then(|| Duration::from_millis(given.deadline_ms.into())),
        config,
        transports: (1..=4u8)
            .filter(|n| given.transports & (1 << n) != 0)
            .filter_map(crate::via::Transport::from_wire)
            .collect(),
    })
}

impl From<&conn::Resolved> for vianet_answer {
    fn from(resolved: &conn::Resolved) -> Self {
        let answer = &resolved.answer;
        let mut endpoints = [vianet_endpoint {
            transport: 0,
            port: 0,
            address: [0; 64],
        }; VIANET_MAX_ENDPOINTS];
        for (out, endpoint) in endpoints.iter_mut().zip(&answer.endpoints) {
            out.transport = endpoint.transport as u32;
            if endpoint.transport != crate::via::Transport::Shm {
                out.port = endpoint.addr.port().into();
                copy_text(&mut out.address, &endpoint.addr.ip().to_string());
            }
        }
        let mut node = [0; 64];
        copy_text(&mut node, &answer.node);
        Self {
            size: size_of::<Self>(),
            node,
            generation: answer.generation,
            role: answer.role as u32,
            ttl_ms: answer.ttl.as_millis().try_into().unwrap_or(u32::MAX),
            cached: resolved.cached.into(),
            authentic: answer.authentic.into(),
            endpoint_count: answer.endpoints.len().min(VIANET_MAX_ENDPOINTS) as u32,
            reserved: 0,
            endpoints,
        }
    }
}

impl From<&conn::Info> for vianet_info {
    fn from(info: &conn::Info) -> Self {
        let mut out = Self {
            size: size_of::<Self>(),
            state: info.phase as u32,
            transport: info.transport.map_or(0, |t| t as u32),
            why_not_better: [0; 256],
            name: [0; 256],
            node: [0; 64],
            generation: info.generation,
            failovers: info.failovers,
            resumptions: info.resumptions,
            bytes_sent: info.bytes_sent,
            bytes_received: info.bytes_received,
            error: info.error,
            movable: info.why_not_movable.is_none().into(),
            why_not_movable: [0; 64],
            why_no_ticket: [0; 32],
            state_way: [0; 16],
            last_failover: info.last_failover.unwrap_or_default().into(),
            encrypted: info.why_not_encrypted.is_none().into(),
            why_not_encrypted: [0; 28],
            warm: info.why_not_warm.is_empty().into(),
            last_failover_warm: info.last_failover.is_some_and(|it| it.warm).into(),
            why_not_warm: [0; 32],
        };
        copy_text(&mut out.why_not_warm, info.why_not_warm);
        copy_text(&mut out.why_not_better, &info.why_not_better);
        copy_text(&mut out.name, &info.name);
        copy_text(&mut out.node, &info.node);
        copy_text(
            &mut out.why_not_movable,
            info.why_not_movable.unwrap_or_default(),
        );
        copy_text(
            &mut out.why_not_encrypted,
            info.why_not_encrypted.unwrap_or_default(),
        );
        copy_text(
            &mut out.why_no_ticket,
            info.why_no_ticket.map_or("", |why| why.name()),
        );
        copy_text(&mut out.state_way, info.state_way.unwrap_or_default());
        out
    }
}

impl From<conn::Times> for vianet_times {
    fn from(times: conn::Times) -> Self {
        let us = |time: Duration| time.as_micros().try_into().unwrap_or(u64::MAX);
        Self {
            detection_us: us(times.detection),
            takeover_us: us(times.takeover),
            resolution_us: us(times.resolution),
            turn_us: us(times.turn),
            connect_us: us(times.connect),
            login_us: us(times.login),
            restore_us: us(times.restore),
        }
    }
}

impl From<&conn::events::Event> for vianet_event {
    fn from(event: &conn::events::Event) -> Self {
        let mut node = [0; 64];
        copy_text(&mut node, &event.node);
        Self {
            size: size_of::<Self>(),
            kind: match event.notice {
                crate::failover::Notice::FailoverBegun => VIANET_EVENT_FAILOVER_BEGUN,
                crate::failover::Notice::FailoverEnded => VIANET_EVENT_FAILOVER_ENDED,
                crate::failover::Notice::Lost => VIANET_EVENT_LOST,
                crate::failover::Notice::Resumed => VIANET_EVENT_RESUMED,
            },
            fd: event.fd,
            generation: event.generation,
            elapsed_ms: event.elapsed.as_millis().try_into().unwrap_or(u64::MAX),
            node,
        }
    }
}

// SAFETY: all three are plain C structs whose first member is `size: usize` and for which all bytes zero is a value.
unsafe impl SizedStruct for vianet_options {}
// SAFETY: as above.
unsafe impl SizedStruct for vianet_answer {}
// SAFETY: as above.
unsafe impl SizedStruct for vianet_info {}

#[cfg(test)]
mod tests;
