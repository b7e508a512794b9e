//! Safe owners of what libibverbs gives: one queue pair with its completion queue and its registered memory, in a
//! protection domain of its own (a peer's key is good for this queue pair only).

use super::cm::{EventChannel, Id, check, nonblocking};
use super::layout;
use super::load::Library;
use super::sys::{
    ibv_comp_channel, ibv_context, ibv_cq, ibv_mr, ibv_pd, ibv_qp, ibv_qp_cap, ibv_qp_init_attr,
    ibv_recv_wr, ibv_send_wr, ibv_sge, ibv_wc,
};
use rustix::fd::BorrowedFd;
use std::ffi::{CStr, c_int};
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What is to be sent from registered memory.
#[derive(Clone, Copy)]
pub struct Piece {
    /// Where it is.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// Local key of its region.
    pub key: u32,
}

/// How a message goes.
#[derive(Clone, Copy)]
pub enum Operation {
    /// Takes one of the peer's receives.
    Send,
    /// Into the peer's memory, without a word.
    Write {
        /// Virtual address at the peer.
        address: u64,
        /// Remote key.
        key: u32,
    },
    /// The same, and takes one of the peer's receives to tell so.
    WriteTell {
        /// Virtual address at the peer.
        address: u64,
        /// Remote key.
        key: u32,
        /// In this host's order.
        immediate: u32,
    },
}

/// One work request.
pub struct Work<'a> {
    /// Comes back in the completion.
    pub id: u64,
    /// How it goes.
    pub operation: Operation,
    /// At most two.
    pub pieces: &'a [Piece],
    /// Whether its completion is reported (an error always is).
    pub signaled: bool,
}

/// A finished work request.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// Of the work request.
    pub id: u64,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened to a work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was sent.
    Sent,
    /// A packet of so many bytes is in the slot.
    Packet(u32),
    /// So many bytes were written by the peer; its immediate.
    Written(u32, u32),
    /// `IBV_WC_*`.
    Failed(i32),
}

/// A region of registered memory; no key of it is good for anything after the drop.
pub struct Registered<K> {
    raw: NonNull<ibv_mr>,
    library: &'static Library,
    /// The domain must outlive it, and so must the memory.
    _pd: Arc<Domain>,
    _memory: K,
}

// SAFETY: libibverbs locks what it shares between threads; the keys are constants.
unsafe impl<K: Send> Send for Registered<K> {}
// SAFETY: as above.
unsafe impl<K: Sync> Sync for Registered<K> {}

impl<K> Registered<K> {
    /// Local key.
    pub fn local_key(&self) -> u32 {
        // SAFETY: the region lives.
        unsafe { self.raw.as_ref().lkey }
    }

    /// Remote key.
    pub fn remote_key(&self) -> u32 {
        // SAFETY: the region lives.
        unsafe { self.raw.as_ref().rkey }
    }
}

impl<K> Drop for Registered<K> {
    fn drop(&mut self) {
        if !self.library.owner.is_this() {
            return;
        }
        // SAFETY: ours, and the queue pair that uses it is gone or its work is flushed.
        unsafe { (self.library.verbs.ibv_dereg_mr)(self.raw.as_ptr()) };
    }
}

/// A protection domain, with what must outlive everything in it: librdmacm closes a device when its last identifier goes.
struct Domain {
    raw: NonNull<ibv_pd>,
    library: &'static Library,
    // In the order in which they must go.
    id: Id,
    channel: EventChannel,
}

// SAFETY: libibverbs locks what it shares between threads.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Drop for Domain {
    fn drop(&mut self) {
        if !self.library.owner.is_this() {
            return;
        }
        // SAFETY: ours, and everything in it is gone (each holds the domain). The fields go after this.
        unsafe { (self.library.verbs.ibv_dealloc_pd)(self.raw.as_ptr()) };
    }
}

/// A queue pair on a connection identifier.
pub struct QueuePair {
    qp: NonNull<ibv_qp>,
    cq: NonNull<ibv_cq>,
    channel: NonNull<ibv_comp_channel>,
    context: NonNull<ibv_context>,
    domain: Arc<Domain>,
    library: &'static Library,
    max_inline: u32,
    immediates: bool,
    /// Events that were taken and must be acknowledged before the queue goes.
    events: AtomicU32,
}

// SAFETY: libibverbs locks its queues; which thread polls and which sends is up to the callers.
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}

/// Data that is copied into the work request, where the device can: what is asked for, best first.
const INLINE: [u32; 3] = [256, 64, 0];

impl QueuePair {
    /// On `id`, which reports to `channel` and whose device is known, with room for so many receives and sends.
    pub fn new(id: Id, channel: EventChannel, receives: u32, sends: u32) -> io::Result<Self> {
        let library = id.library();
        // SAFETY: the identifier lives; its device was resolved, or came with the request.
        let context = NonNull::new(unsafe { id.raw().as_ref().verbs })
            .ok_or_else(|| io::Error::other("the connection has no device"))?;
        // SAFETY: an open context has its device.
        let transport = unsafe { (*context.as_ref().device).transport_type };
        let verbs = &library.verbs;
        // SAFETY: the context is open as long as the identifier lives. Null is an error in errno.
        let pd = NonNull::new(unsafe { (verbs.ibv_alloc_pd)(context.as_ptr()) })
            .ok_or_else(io::Error::last_os_error)?;
        let domain = Arc::new(Domain {
            raw: pd,
            library,
            id,
            channel,
        });
        let id = &domain.id;
        // SAFETY: as above.
        let channel = NonNull::new(unsafe { (verbs.ibv_create_comp_channel)(context.as_ptr()) })
            .ok_or_else(io::Error::last_os_error)?;
        let depth = (receives + sends + 8) as c_int;
        // SAFETY: context and channel live.
        let cq = NonNull::new(unsafe {
            (verbs.ibv_create_cq)(context.as_ptr(), depth, null_mut(), channel.as_ptr(), 0)
        });
        let Some(cq) = cq else {
            let e = io::Error::last_os_error();
            // SAFETY: ours, without a queue.
            unsafe { (verbs.ibv_destroy_comp_channel)(channel.as_ptr()) };
            return Err(e);
        };
        let abandon = |e: io::Error| {
            // SAFETY: ours, and no queue pair uses them.
            unsafe {
                (verbs.ibv_destroy_cq)(cq.as_ptr());
                (verbs.ibv_destroy_comp_channel)(channel.as_ptr());
            }
            e
        };
        let mut made = Err(io::Error::other("no size of inline data"));
        for inline in INLINE {
            let mut attr = ibv_qp_init_attr {
                qp_context: null_mut(),
                send_cq: cq.as_ptr(),
                recv_cq: cq.as_ptr(),
                srq: null_mut(),
                cap: ibv_qp_cap {
                    max_send_wr: sends,
                    max_recv_wr: receives,
                    max_send_sge: 2,
                    max_recv_sge: 1,
                    max_inline_data: inline,
                },
                qp_type: layout::IBV_QPT_RC as c_int,
                sq_sig_all: 0,
            };
            // SAFETY: all of it lives; the domain is of the identifier's device.
            made = check(unsafe {
                (library.cm.rdma_create_qp)(id.raw().as_ptr(), pd.as_ptr(), &mut attr)
            })
            .map(|()| attr.cap.max_inline_data);
            if made.is_ok() {
                break;
            }
        }
        let max_inline = made.map_err(abandon)?;
        // SAFETY: the call of above put the queue pair there.
        let qp = NonNull::new(unsafe { id.raw().as_ref().qp });
        let qp = qp.ok_or_else(|| abandon(io::Error::other("rdma_create_qp gave nothing")))?;
        let pair = Self {
            qp,
            cq,
            channel,
            context,
            domain,
            library,
            max_inline,
            immediates: transport != layout::IBV_TRANSPORT_IWARP as c_int,
            events: AtomicU32::new(0),
        };
        nonblocking(pair.fd())?;
        pair.arm()?;
        Ok(pair)
    }

    /// Registers `length` bytes from `address` on, which `memory` keeps. `remote`: the peer may write to it.
    ///
    /// # Errors
    /// `OutOfMemory` where the limit on locked memory does not allow it (RLIMIT_MEMLOCK).
    ///
    /// # Safety
    /// The bytes are inside a mapping that lives as long as `memory`, and that a fork shares.
    pub unsafe fn register<K>(
        &self,
        address: NonNull<u8>,
        length: usize,
        local: bool,
        remote: bool,
        memory: K,
    ) -> io::Result<Registered<K>> {
        let mut access = 0;
        if local || remote {
            access |= layout::IBV_ACCESS_LOCAL_WRITE;
        }
        if remote {
            access |= layout::IBV_ACCESS_REMOTE_WRITE;
        }
        // SAFETY: the caller's promise; null is an error in errno.
        let raw = unsafe {
            (self.library.verbs.ibv_reg_mr)(
                self.domain.raw.as_ptr(),
                address.as_ptr().cast(),
                length,
                access as c_int,
            )
        };
        let raw = NonNull::new(raw).ok_or_else(|| explain_registration(length))?;
        let registered = Registered {
            raw,
            library: self.library,
            _pd: Arc::clone(&self.domain),
            _memory: memory,
        };
        if !self.library.fork_copies {
            // libibverbs has hidden the pages from children, which would fault on them. They are shared, not copied on
            // write, so a child does not take them away from the device.
            let start = address.as_ptr() as usize & !4095;
            let end = (address.as_ptr() as usize + length).next_multiple_of(4096);
            // SAFETY: whole pages of the caller's mapping; the advice changes no contents.
            unsafe {
                rustix::mm::madvise(
                    start as *mut _,
                    end - start,
                    rustix::mm::Advice::LinuxDoFork,
                )?;
            }
        }
        Ok(registered)
    }

    /// Whether an RDMA write can tell the peer that it happened.
    pub fn immediates(&self) -> bool {
        self.immediates
    }

    /// Readable when an armed queue has got a completion.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel's own descriptor, open as long as the channel.
        unsafe { BorrowedFd::borrow_raw(self.channel.as_ref().fd) }
    }

    /// Whether this is the process that made it: nobody else may do anything with it.
    pub fn is_ours(&self) -> bool {
        self.library.owner.is_this()
    }

    /// The connection identifier.
    pub fn id(&self) -> &Id {
        &self.domain.id
    }

    /// What it reports to.
    pub fn channel(&self) -> &EventChannel {
        &self.domain.channel
    }

    /// The next completion gives an event.
    pub fn arm(&self) -> io::Result<()> {
        // SAFETY: the context lives as long as the queue, its table has the function, and the queue is ours.
        let error = unsafe {
            match self.context.as_ref().ops.req_notify_cq {
                Some(arm) => arm(self.cq.as_ptr(), 0),
                None => libc::ENOSYS,
            }
        };
        result(error)
    }

    /// Takes the event that an armed queue gave. False: there is none yet.
    pub fn take_event(&self) -> bool {
        let (mut cq, mut context) = (null_mut(), null_mut());
        // SAFETY: the channel lives; the out-parameters take what came.
        let got = unsafe {
            (self.library.verbs.ibv_get_cq_event)(self.channel.as_ptr(), &mut cq, &mut context)
        };
        if got == 0 {
            self.events.fetch_add(1, Ordering::Relaxed);
        }
        got == 0
    }

    /// Takes finished work; how much. One poller at a time.
    pub fn poll(&self, out: &mut [Completion; 16]) -> io::Result<usize> {
        let mut raw = [ibv_wc::default(); 16];
        // SAFETY: as in `arm`; `raw` has room for what is asked for.
        let n = unsafe {
            match self.context.as_ref().ops.poll_cq {
                Some(poll) => poll(self.cq.as_ptr(), raw.len() as c_int, raw.as_mut_ptr()),
                None => -libc::ENOSYS,
            }
        };
        let n =
            usize::try_from(n).map_err(|_| io::Error::other("the completion queue is broken"))?;
        for (to, wc) in out.iter_mut().zip(&raw[..n.min(16)]) {
            *to = completion(wc);
        }
        Ok(n.min(16))
    }

    /// What a failed outcome means.
    pub fn describe(&self, status: i32) -> String {
        // SAFETY: a constant text for every number.
        let text = unsafe { CStr::from_ptr((self.library.verbs.ibv_wc_status_str)(status)) };
        text.to_string_lossy().into_owned()
    }

    /// Posts receives: one for each id and address, of `length` bytes each.
    ///
    /// # Safety
    /// So many bytes are there, registered under `key`, as long as the queue pair lives.
    pub unsafe fn post_receives(
        &self,
        receives: impl Iterator<Item = (u64, u64)>,
        length: u32,
        key: u32,
    ) -> io::Result<()> {
        for (id, addr) in receives {
            let mut sge = ibv_sge {
                addr,
                length,
                lkey: key,
            };
            let mut wr = ibv_recv_wr {
                wr_id: id,
                next: null_mut(),
                sg_list: &mut sge,
                num_sge: 1,
            };
            let mut bad = null_mut();
            // SAFETY: request and list live during the call, which copies them; the buffer is the caller's promise.
            result(unsafe {
                match self.context.as_ref().ops.post_recv {
                    Some(post) => post(self.qp.as_ptr(), &mut wr, &mut bad),
                    None => libc::ENOSYS,
                }
            })?;
        }
        Ok(())
    }

    /// Posts `work`, at most two requests, in one call. What was posted of it, and the error that stopped it: `ENOMEM`
    /// where the queue is full.
    ///
    /// # Safety
    /// The pieces lie in memory registered under their keys that stays until the work is finished or the queue pair gone.
    pub unsafe fn post_sends(&self, work: &[Work<'_>]) -> (usize, io::Result<()>) {
        let mut sges = [[ibv_sge::default(); 2]; 2];
        let mut wrs = [ibv_send_wr::default(), ibv_send_wr::default()];
        let n = work.len().min(2);
        for ((w, wr), sge) in work.iter().zip(&mut wrs).zip(&mut sges) {
            let mut total = 0;
            for (piece, sge) in w.pieces.iter().zip(sge.iter_mut()) {
                *sge = ibv_sge {
                    addr: piece.address,
                    length: piece.length,
                    lkey: piece.key,
                };
                total += piece.length;
            }
            wr.wr_id = w.id;
            wr.num_sge = w.pieces.len().min(2) as c_int;
            wr.sg_list = sge.as_mut_ptr();
            if w.signaled {
                wr.send_flags |= layout::IBV_SEND_SIGNALED;
            }
            if total <= self.max_inline && total > 0 {
                wr.send_flags |= layout::IBV_SEND_INLINE;
            }
            wr.opcode = match w.operation {
                Operation::Send => layout::IBV_WR_SEND,
                Operation::Write { address, key } => {
                    (wr.remote_addr, wr.rkey) = (address, key);
                    layout::IBV_WR_RDMA_WRITE
                }
                Operation::WriteTell {
                    address,
                    key,
                    immediate,
                } => {
                    (wr.remote_addr, wr.rkey) = (address, key);
                    wr.imm_data = immediate.to_be();
                    layout::IBV_WR_RDMA_WRITE_WITH_IMM
                }
            } as c_int;
        }
        let first: *mut ibv_send_wr = wrs.as_mut_ptr();
        if n > 1 {
            // SAFETY: both are elements of the array.
            unsafe { (*first).next = first.add(1) };
        }
        let mut bad = null_mut();
        // SAFETY: requests and lists live during the call, which copies them; the pieces are the caller's promise.
        let error = unsafe {
            match self.context.as_ref().ops.post_send {
                Some(post) if n > 0 => post(self.qp.as_ptr(), first, &mut bad),
                _ => libc::ENOSYS,
            }
        };
        match result(error) {
            Ok(()) => (n, Ok(())),
            // SAFETY: only compared.
            Err(e) => (usize::from(n > 1 && bad == unsafe { first.add(1) }), Err(e)),
        }
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        if !self.library.owner.is_this() {
            // SAFETY: a forked child's copy, which nobody uses after this: the kernel must not wait for it.
            return unsafe { rustix::io::close(self.channel.as_ref().fd) };
        }
        let verbs = &self.library.verbs;
        // SAFETY: ours, in the order in which they use each other: pair, queue (its events acknowledged), channel. The
        // domain goes with the last region.
        unsafe {
            (self.library.cm.rdma_destroy_qp)(self.domain.id.raw().as_ptr());
            (verbs.ibv_ack_cq_events)(self.cq.as_ptr(), self.events.load(Ordering::Relaxed));
            (verbs.ibv_destroy_cq)(self.cq.as_ptr());
            (verbs.ibv_destroy_comp_channel)(self.channel.as_ptr());
        }
    }
}

fn completion(wc: &ibv_wc) -> Completion {
    let outcome = match (wc.status as u32, wc.opcode as u32) {
        (layout::IBV_WC_SUCCESS, layout::IBV_WC_RECV) => Outcome::Packet(wc.byte_len),
        (layout::IBV_WC_SUCCESS, layout::IBV_WC_RECV_RDMA_WITH_IMM) => {
            Outcome::Written(wc.byte_len, u32::from_be(wc.imm_data))
        }
        (layout::IBV_WC_SUCCESS, _) => Outcome::Sent,
        _ => Outcome::Failed(wc.status),
    };
    Completion {
        id: wc.wr_id,
        outcome,
    }
}

fn explain_registration(length: usize) -> io::Error {
    let e = io::Error::last_os_error();
    if e.kind() != io::ErrorKind::OutOfMemory {
        return io::Error::new(e.kind(), format!("registering {length} bytes: {e}"));
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let limit = limit.map_or("unlimited".into(), |bytes| format!("{bytes} bytes"));
    io::Error::new(
        io::ErrorKind::OutOfMemory,
        format!("registering {length} bytes: {e} (locked memory is limited to {limit}: ulimit -l)"),
    )
}

/// 0, or an errno.
fn result(error: c_int) -> io::Result<()> {
    match error {
        0 => Ok(()),
        e => Err(io::Error::from_raw_os_error(e.abs())),
    }
}
