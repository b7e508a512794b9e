//! The LD_PRELOAD library: unmodified programs connect by server name (DESIGN section 10).
//!
//! **One call, from start to end.** psql calls `getaddrinfo("sales.lab")`. The hook in `hooks::names` asks
//! [`ops::names`], which reads the client configuration (once, at the first name that could be one of ours) and finds
//! the cluster `lab`; the answer is an address that the name hashes to, in 239.192.0.0/14 or ff05::/16, where an
//! ordinary TCP connect would fail at once. psql calls `connect` with that address; [`ops::connect`] maps it back to
//! the name and has `vianet::conn` put the *bell* in the place of psql's socket. From then on `recv`, `send` and
//! their relatives on that number are answered by [`ops::io`] out of the channel's rings. `poll` is answered by the
//! kernel, where the bell's readiness is right; a poll of the one descriptor only spins a little first ([`ops::poll`]), which
//! halves the time of a request and its answer.
//!
//! **Two layers.** A hook (`hooks::*`) is the exported C function: it converts C to Rust and back. An operation
//! (`ops::*`) answers [`Outcome`](outcome::Outcome): handled, pass through (and why), or failed with an `errno`.
//!
//! **Programs that name no server of ours** must not be able to tell that we are loaded: until the first connection of
//! ours exists every hook is one relaxed load and a jump to the C library's own function, whose `errno` nobody touches.
//! No hook allocates, locks or panics on that path, or later on a descriptor that is not ours.
//!
//! **Order of life.** Calls arrive before the constructor ran (from other libraries' constructors) and after our
//! destructors would have run. [`real`] therefore holds raw system calls until [`init`] has resolved the C
//! library's functions, once; nothing is ever resolved inside a hook, and nothing is torn down.
//!
//! **Signal handlers.** psql cancels from one: `connect`, `send`, `recv`, `close` there must not need a lock that the
//! interrupted thread may hold. Lookups are lock-free, and the library's memory is not the C library's ([`alloc`]).
//!
//! **What is not hooked, and why.** `select`, `pselect`, `epoll_*`, `accept`, `socket`, `bind`, `listen`: the descriptor is
//! a real kernel object, so they are right by themselves. `F_SETFL`, `FIONBIO`: the kernel keeps
//! O_NONBLOCK, and `vianet::conn` asks it when it is about to block. `fork`, `vfork`: `vianet::conn` finds out by
//! itself that it runs in another process (see [`process`]). `execl*` and `posix_spawn` (variadic; two versions with
//! different meaning): the child reads true bytes from the bell anyway, the announcement of the other `exec`
//! functions only makes it quicker. `freeaddrinfo`: our results come from the real `getaddrinfo`.
//!
//! Out of reach: static programs, Go (raw system calls), setuid programs, `io_uring`, and calls that the C library
//! makes inside itself (stdio on a descriptor): where these touch a descriptor of ours they read and write true bytes
//! through the bell, slower.

#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!(
    "the hooks of variadic functions (fcntl, ioctl, syscall) rely on integer varargs being passed in the same \
     registers as fixed ones, which holds on Linux x86-64 and AArch64 only"
);

mod alloc;
mod hooks;
mod init;
mod ops;
mod outcome;
mod process;
mod raw;
mod real;

#[global_allocator]
static ALLOCATOR: alloc::SignalSafe = alloc::SignalSafe;
