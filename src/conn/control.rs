//! The control page of a connection: all words that a parent and its child after fork both touch, in shared memory.

use super::Phase;
use super::lock::{self, RawLock};
use crate::error::{Error, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The words. All bytes zero is a fresh page.
#[derive(Default)]
#[repr(C)]
pub struct Words {
    /// Which process owns the connection (its I/O thread drives it): see `fork::process_token`.
    pub owner: AtomicU64,
    /// [`Phase`]; a futex word.
    pub phase: AtomicU32,
    /// errno of what ended the connection, else 0.
    pub error: AtomicI32,
    /// The same until SO_ERROR or a failing call took it.
    pub so_error: AtomicI32,
    /// Counts the channels; a process whose own count differs has an outdated one.
    pub epoch: AtomicU32,
    /// One receiver at a time.
    pub rx: RawLock,
    /// One sender at a time.
    pub tx: RawLock,
    /// Who holds `rx` may be asleep in the channel.
    pub rx_asleep: AtomicBool,
    /// Who holds `tx` may be asleep in the channel.
    pub tx_asleep: AtomicBool,
    /// The application shut its receiving direction.
    pub read_shut: AtomicBool,
    /// The application shut its sending direction.
    pub write_shut: AtomicBool,
    /// A resumption copies the old channel's ring: receivers stay off it.
    pub held: AtomicBool,
    /// Which of the bytes that come next answer a question of ours ([`crate::session::postgres::Ours`]); under `rx`.
    pub ours: AtomicU64,
    /// So many bytes of that answer were taken, by whichever process.
    pub ours_taken: AtomicU64,
    /// This process forked since the channel in use was put in: another one may use it.
    pub forked: AtomicBool,
    /// The application waits for a channel: it has something to send.
    pub wanted: AtomicBool,
    /// What the node of the channel in use wants ([`crate::conn::connection::Gate`]).
    pub gate: AtomicU32,
    /// Stream offset up to which the server's bytes had arrived before the last send.
    pub asked_at: AtomicU64,
    /// Up to here, when the channel in use was put in, everything sent had been answered on the one before.
    pub quiet_at: AtomicU64,
    /// Bytes accepted from the application, on all channels.
    pub sent: AtomicU64,
    /// Bytes accepted from the application on the channel in use.
    pub sent_here: AtomicU64,
    /// Bytes given to the application.
    pub received: AtomicU64,
    /// Moves to another server.
    pub failovers: AtomicU64,
    /// Channels carried on to the same node.
    pub resumptions: AtomicU64,
    /// Generation of the node in use.
    pub generation: AtomicU64,
}

/// The page; unmapped when dropped.
pub struct Control(NonNull<Words>);

// SAFETY: all members are atomics.
unsafe impl Send for Control {}
// SAFETY: as above.
unsafe impl Sync for Control {}

impl Control {
    /// A fresh page in phase [`Phase::Connecting`].
    pub fn new() -> Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let at = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                size_of::<Words>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )
        }
        .map_err(|e| Error::system("mmap of a control page", e))?;
        let words = NonNull::new(at.cast::<Words>()).expect("the kernel never maps page zero");
        let control = Self(words);
        control
            .phase
            .store(Phase::Connecting as u32, Ordering::Release);
        Ok(control)
    }

    /// What the connection is doing.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            1 => Phase::Connecting,
            2 => Phase::Established,
            3 => Phase::Suspended,
            _ => Phase::Lost,
        }
    }

    /// Sets the phase and wakes whoever waits for a change.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u32, Ordering::Release);
        lock::wake(&self.phase, u32::MAX >> 1);
    }

    /// Sleeps while the phase is `phase`. True if a signal handler ran.
    pub fn wait_while(&self, phase: Phase, limit: Option<Duration>) -> bool {
        lock::wait(&self.phase, phase as u32, limit)
    }
}

impl Deref for Control {
    type Target = Words;
    fn deref(&self) -> &Words {
        // SAFETY: mapped until drop, aligned to a page, zeroed by the kernel.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nobody can hold a reference any more.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), size_of::<Words>()) };
    }
}
