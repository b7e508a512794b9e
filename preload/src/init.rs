//! The constructor: finds the C library's functions and whether we may do anything at all.

use crate::process;
use crate::real;
use libc::{c_char, c_int};
use rustix::fs::{CWD, Mode, OFlags};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use vianet::log::Level;

static ENABLED: AtomicBool = AtomicBool::new(false);

/// Whether names are looked at: the constructor ran, the kill switch `VIANET_DISABLE` is not set, and the process has no
/// raised privileges.
pub fn enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = construct;

extern "C" fn construct(
    _argc: c_int,
    _argv: *const *const c_char,
    environment: *const *const c_char,
) {
    real::resolve();
    process::remember();
    // SAFETY: takes a number, answers a number.
    let raised = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    // SAFETY: the dynamic linker passes the process's environment.
    let disabled = unsafe { variable(environment, b"VIANET_DISABLE=") };
    if raised || disabled.is_some_and(|value| !value.is_empty() && value != b"0") {
        return;
    }
    // SAFETY: as above.
    if let Some(path) = unsafe { variable(environment, b"VIANET_DEBUG=") } {
        use std::os::unix::ffi::OsStrExt;
        log_to(PathBuf::from(std::ffi::OsStr::from_bytes(path)));
    }
    ENABLED.store(true, Ordering::Relaxed);
}

/// The value of the variable whose `NAME=` is `prefix`, without the C library (it may not be initialised yet).
///
/// # Safety
/// `environment` is NULL or a NULL-terminated array of C strings that live for ever.
unsafe fn variable(environment: *const *const c_char, prefix: &[u8]) -> Option<&'static [u8]> {
    let mut at = environment;
    if at.is_null() {
        return None;
    }
    loop {
        // SAFETY: `at` has not passed the array's NULL yet.
        let entry = unsafe { *at };
        if entry.is_null() {
            return None;
        }
        // SAFETY: the entries are C strings.
        if let Some(value) = unsafe { CStr::from_ptr(entry) }
            .to_bytes()
            .strip_prefix(prefix)
        {
            return Some(value);
        }
        // SAFETY: this entry is not the NULL, so there is another one.
        at = unsafe { at.add(1) };
    }
}

/// Appends the library's records to a file: seconds since 1970, process, level, module, text.
fn log_to(path: PathBuf) {
    let write = move |level: Level, module: &str, text: &str| {
        let pid = rustix::process::getpid().as_raw_nonzero();
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        let (s, us) = (now.as_secs(), now.subsec_micros());
        let line = format!("{s}.{us:06} {pid} {level:?} {module}: {text}\n");
        if let Some(file) = log_file(&path) {
            // SAFETY: the number was the log's a moment ago, and nothing of ours closes it.
            let _ = rustix::io::write(unsafe { BorrowedFd::borrow_raw(file) }, line.as_bytes());
        }
    };
    vianet::log::set_callback(Level::Debug, Box::new(write));
}

/// The number of the log file, -1: not open.
static LOG: AtomicI32 = AtomicI32::new(-1);
/// Its inode: a program may close what it does not know, and get the number for a file of its own.
static LOG_INODE: AtomicU64 = AtomicU64::new(0);

/// The log file, opened when there is the first record, or when the program has closed it. It is kept, out of the way as
/// all that is ours: opened for each record it would have the lowest free number again and again, for a moment, which
/// other threads take to be theirs.
fn log_file(path: &Path) -> Option<RawFd> {
    const HIGH: RawFd = 512;
    // SAFETY: used for this one call; a closed number gives EBADF.
    let inode =
        |fd: RawFd| rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(fd) }).map(|s| s.st_ino);
    let known = LOG.load(Ordering::Acquire);
    if known >= 0 && inode(known) == Ok(LOG_INODE.load(Ordering::Acquire)) {
        return Some(known);
    }
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o600)).ok()?;
    let file = rustix::io::fcntl_dupfd_cloexec(&file, HIGH).unwrap_or(file);
    LOG_INODE.store(inode(file.as_raw_fd()).ok()?, Ordering::Release);
    // Two threads that come here at once leave one number too many open, once.
    let number = file.into_raw_fd();
    LOG.store(number, Ordering::Release);
    Some(number)
}
