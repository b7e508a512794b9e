//! Opens libibverbs and librdmacm on first use. Whatever is missing is a normal answer with a reason.

use super::layout;
use super::process::{Once, Owner};
use super::sys::{Cm, Verbs};
use std::ffi::{CStr, c_int, c_void};

/// The functions of both libraries, which stay loaded.
pub struct Library {
    /// Of libibverbs.
    pub verbs: Verbs,
    /// Of librdmacm.
    pub cm: Cm,
    /// The kernel copies pinned pages at a fork, so a child's copies do no harm. Without it libibverbs hides registered
    /// pages from children, and [`super::verbs`] shows them the rings again, which are shared mappings.
    pub fork_copies: bool,
    /// The process that opened them.
    pub owner: Owner,
}

/// The libraries, opened by the first call.
///
/// # Errors
/// Which library, or which symbol with which version, is not there; or that this process was forked from one that uses
/// them: they keep devices open that a child must not touch, and cannot be told to forget them.
pub fn library() -> Result<&'static Library, String> {
    static LIBRARY: Once<Result<Library, String>> = Once::new();
    match LIBRARY.get_or_make(|owner| open(c"libibverbs.so.1", c"librdmacm.so.1", owner)) {
        Ok(Some(Ok(library))) if library.owner.is_this() => Ok(library),
        Ok(Some(Err(why))) => Err(why.clone()),
        Ok(_) => Err("this process was forked from one that uses RDMA".into()),
        Err(e) => Err(format!("no page that a fork clears: {e}")),
    }
}

fn open(verbs: &CStr, cm: &CStr, owner: Owner) -> Result<Library, String> {
    let verbs = Handle::open(verbs)?;
    let cm = Handle::open(cm)?;
    let fork_copies = prepare_fork(&verbs)?;
    // SAFETY: dlvsym gives the function of that name and version.
    let verbs = unsafe { Verbs::load(|n, v| verbs.symbol(n, v)) }
        .map_err(|what| format!("{}: {what}", verbs.name))?;
    // SAFETY: as above.
    let cm = unsafe { Cm::load(|n, v| cm.symbol(n, v)) }
        .map_err(|what| format!("{}: {what}", cm.name))?;
    Ok(Library {
        verbs,
        cm,
        fork_copies,
        owner,
    })
}

/// True where the kernel makes ibv_fork_init unnecessary (Linux 5.12 and rdma-core 35, or newer); else it is called, which
/// must be before anything is registered.
fn prepare_fork(verbs: &Handle) -> Result<bool, String> {
    let state = verbs.symbol(c"ibv_is_fork_initialized", c"IBVERBS_1.13");
    if !state.is_null() {
        // SAFETY: `enum ibv_fork_status ibv_is_fork_initialized(void)`.
        let state =
            unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(state)() };
        if state == layout::IBV_FORK_UNNEEDED as c_int {
            return Ok(true);
        }
    }
    let init = verbs.symbol(c"ibv_fork_init", c"IBVERBS_1.1");
    if init.is_null() {
        return Err(format!("{}: no ibv_fork_init", verbs.name));
    }
    // SAFETY: `int ibv_fork_init(void)`.
    let error =
        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(init)() };
    match error {
        0 => Ok(false),
        e => Err(format!(
            "ibv_fork_init: {}",
            std::io::Error::from_raw_os_error(e)
        )),
    }
}

/// A library that stays loaded: its providers leave threads and handlers behind.
struct Handle {
    name: String,
    handle: *mut c_void,
}

impl Handle {
    fn open(name: &CStr) -> Result<Self, String> {
        // SAFETY: a NUL-terminated name; the library's constructors are what loading it is for.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        let name = name.to_string_lossy().into_owned();
        if handle.is_null() {
            // SAFETY: a text of the loader's for this thread, or null.
            let why = unsafe { libc::dlerror() };
            let why = match why.is_null() {
                true => "cannot be loaded".into(),
                // SAFETY: NUL-terminated, and valid until the next call of this thread.
                false => unsafe { CStr::from_ptr(why) }
                    .to_string_lossy()
                    .into_owned(),
            };
            return Err(match why.contains(&name) {
                true => why,
                false => format!("{name}: {why}"),
            });
        }
        Ok(Self { name, handle })
    }

    fn symbol(&self, name: &CStr, version: &CStr) -> *mut c_void {
        // SAFETY: the handle is open, both texts end with a NUL.
        unsafe { libc::dlvsym(self.handle, name.as_ptr(), version.as_ptr()) }
    }
}

#[cfg(test)]
mod tests;
