//! C values to Rust values and back, each check once.

use super::errors;
use crate::error::{Error, Kind, Result};
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// Longest server name, bytes.
const NAME_MAX: usize = 255;

/// What a C caller gets for a Rust value.
pub trait IntoCReturn {
    /// `int` or `ssize_t`.
    type C: From<i8>;
    /// The value for success.
    fn into_c(self) -> Self::C;
}

impl IntoCReturn for () {
    type C = c_int;
    fn into_c(self) -> c_int {
        0
    }
}

impl IntoCReturn for c_int {
    type C = c_int;
    fn into_c(self) -> c_int {
        self
    }
}

impl IntoCReturn for usize {
    type C = isize;
    fn into_c(self) -> isize {
        isize::try_from(self).unwrap_or(isize::MAX)
    }
}

/// The border: runs `f`, turns an error into -1, errno and the thread's text, and stops a panic here.
pub fn border<T: IntoCReturn>(f: impl FnOnce() -> Result<T>) -> T::C {
    let outcome = catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| {
        let text = "a defect inside vianet stopped this call; please report it";
        Err(Error::new(Kind::System(libc::EIO), text))
    });
    match outcome {
        Ok(value) => value.into_c(),
        Err(error) => {
            errors::set(&error);
            T::C::from(-1)
        }
    }
}

/// A server name.
///
/// # Safety
/// NUL-terminated or NULL, and valid for `'a`.
pub unsafe fn name<'a>(name: *const c_char) -> Result<&'a str> {
    if name.is_null() {
        return Err(Error::new(Kind::NullPointer, "the server name is NULL"));
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { CStr::from_ptr(name) }.to_bytes();
    if bytes.len() > NAME_MAX {
        let text = format!(
            "the server name has {} bytes, at most 255 are allowed",
            bytes.len()
        );
        return Err(Error::new(Kind::NameTooLong, text));
    }
    std::str::from_utf8(bytes)
        .map_err(|_| Error::new(Kind::NotUtf8, "the server name is not UTF-8"))
}

/// A path.
///
/// # Safety
/// NUL-terminated.
pub unsafe fn path(path: *const c_char) -> PathBuf {
    // SAFETY: the caller's promise.
    OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()).into()
}

/// Bytes to read. Any pointer will do for none.
///
/// # Safety
/// Readable for `len` bytes and for `'a`, or NULL.
pub unsafe fn bytes<'a>(data: *const c_void, len: usize) -> Result<&'a [u8]> {
    check_buffer(data, len)?;
    match len {
        0 => Ok(&[]),
        // SAFETY: not NULL, no longer than isize::MAX, and the caller's promise.
        _ => Ok(unsafe { std::slice::from_raw_parts(data.cast(), len) }),
    }
}

/// Bytes to write.
///
/// # Safety
/// Writable for `len` bytes and for `'a`, not used by anybody else meanwhile, or NULL.
pub unsafe fn bytes_mut<'a>(data: *mut c_void, len: usize) -> Result<&'a mut [u8]> {
    check_buffer(data, len)?;
    match len {
        0 => Ok(&mut []),
        // SAFETY: not NULL, no longer than isize::MAX, and the caller's promise. We only write to it.
        _ => Ok(unsafe { std::slice::from_raw_parts_mut(data.cast(), len) }),
    }
}

fn check_buffer(data: *const c_void, len: usize) -> Result<()> {
    if len > isize::MAX as usize {
        return Err(Error::new(
            Kind::BadArgument,
            "the length is larger than SSIZE_MAX",
        ));
    }
    if data.is_null() && len > 0 {
        return Err(Error::new(Kind::NullPointer, "the buffer is NULL"));
    }
    Ok(())
}

/// A C struct that begins with `size: usize`.
///
/// # Safety
/// `#[repr(C)]`, the first member is `size: usize`, and all bytes zero is a value of it.
pub unsafe trait SizedStruct: Copy {}

/// Copies a struct in as openat2(2) does: what an older caller does not have is zero, what a newer one has more must
/// be zero.
///
/// # Safety
/// `given` is readable for the size that its first member says.
pub unsafe fn from_c_struct<T: SizedStruct>(given: *const T) -> Result<T> {
    // SAFETY: the caller's promise; no alignment is assumed.
    let size = unsafe { given.cast::<usize>().read_unaligned() };
    check_size(size)?;
    // SAFETY: the caller's promise: readable for `size`.
    let bytes = unsafe { std::slice::from_raw_parts(given.cast::<u8>(), size) };
    let ours = size_of::<T>();
    if bytes.iter().skip(ours).any(|b| *b != 0) {
        let text = format!(
            "the struct has {size} bytes, this library knows {ours}, and the rest is not zero"
        );
        return Err(Error::new(Kind::BadStructSize, text));
    }
    // SAFETY: all bytes zero is a value of it (the trait's promise).
    let mut value: T = unsafe { std::mem::zeroed() };
    let n = size.min(ours);
    // SAFETY: both are valid for `n` bytes and are different objects.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut value).cast::<u8>(), n) };
    Ok(value)
}

/// The size that the caller set in a struct to be filled, checked.
///
/// # Safety
/// NULL, or readable for one `usize`.
pub unsafe fn out_size<T: SizedStruct>(out: *const T) -> Result<usize> {
    if out.is_null() {
        return Err(Error::new(
            Kind::NullPointer,
            "the struct to be filled is NULL",
        ));
    }
    // SAFETY: the caller's promise.
    let size = unsafe { out.cast::<usize>().read_unaligned() };
    check_size(size)?;
    Ok(size)
}

fn check_size(size: usize) -> Result<()> {
    // 64 KiB is openat2's kind of limit: no version will ever be as large, so it is a forgotten `size`.
    if !(size_of::<usize>() * 2..=65536).contains(&size) {
        let text = format!("size = {size}: set the struct's size member to its sizeof");
        return Err(Error::new(Kind::BadStructSize, text));
    }
    Ok(())
}

/// Copies a struct out: as much as the caller knows, zero for what only the caller knows; `size` stays the caller's.
///
/// # Safety
/// `out` is writable for `size` bytes, and `size` came from [`out_size`].
pub unsafe fn to_c_struct<T: SizedStruct>(out: *mut T, size: usize, value: T) -> Result<()> {
    let word = size_of::<usize>();
    let n = size.min(size_of::<T>());
    let (from, to) = ((&raw const value).cast::<u8>(), out.cast::<u8>());
    // SAFETY: `to` is writable for `size`, `from` readable for its type's size, `n` and `word` are at most both.
    unsafe {
        std::ptr::copy_nonoverlapping(from.add(word), to.add(word), n - word);
        std::ptr::write_bytes(to.add(n), 0, size - n);
    }
    Ok(())
}

/// Copies `text` into a member, cut at a character if it is too long, terminated.
pub fn copy_text<const N: usize>(out: &mut [c_char; N], text: &str) {
    // SAFETY: the array is writable for its length.
    unsafe { copy_to(out.as_mut_ptr(), N, text) };
}

/// As [`copy_text`], to a pointer.
///
/// # Safety
/// `out` is writable for `size` bytes; `size` is not 0.
pub unsafe fn copy_to(out: *mut c_char, size: usize, text: &str) {
    let mut n = text.len().min(size - 1);
    while !text.is_char_boundary(n) {
        n -= 1;
    }
    // SAFETY: n < size, and the caller's promise.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), out.cast(), n);
        *out.add(n) = 0;
    }
}

/// A C string; bytes after a NUL are dropped.
pub fn c_text(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}

/// A log level.
pub fn level(level: c_int) -> Result<crate::log::Level> {
    use crate::log::Level::*;
    [Error, Warn, Info, Debug]
        .into_iter()
        .find(|l| *l as c_int == level)
        .ok_or_else(|| {
            let text = format!("level {level}: must be one of VIANET_LOG_...");
            crate::Error::new(Kind::BadArgument, text)
        })
}

/// A callback's context, which its owner promises to be usable on any thread.
#[derive(Clone, Copy)]
pub struct Context(*mut c_void);

// SAFETY: the pointer is only handed back; that it can be used on any thread is the promise of whoever registered it.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Hands the pointer back.
    pub fn pointer(&self) -> *mut c_void {
        self.0
    }
}

/// Wraps a context.
pub fn callback_context(context: *mut c_void) -> Context {
    Context(context)
}
