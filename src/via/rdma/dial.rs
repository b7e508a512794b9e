//! Connects that last as long as the call: for iWARP the kernel makes a TCP connection inside it, which an address that
//! swallows packets lets take two minutes. Nor can a request be taken back there before it is answered, or the kernel's own
//! time is over. Nobody else may wait for that, so a thread each makes such calls.

use super::cm::Event;
use super::link::Link;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::OwnedFd;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

/// Calls at a time. Their threads outlive a connect that was given up.
const LIMIT: usize = 16;

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// One of [`LIMIT`]; given back when dropped.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let place = Self;
        (UNDER_WAY.fetch_add(1, Ordering::AcqRel) < LIMIT).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A call under way. Dropped, the thread that makes it drops the link when it comes back.
pub struct Dialling {
    back: Receiver<io::Result<Unanswered>>,
    /// Readable when the call came back.
    event: OwnedFd,
}

impl Dialling {
    /// Asks the node on a thread; `epoll` tells when there is something to [`Dialling::take`].
    ///
    /// # Errors
    /// No thread or descriptor is left, or too many calls of before have not come back.
    pub fn begin(link: Link, private: Vec<u8>, epoll: &OwnedFd) -> io::Result<Self> {
        let place = Place::take().ok_or_else(|| {
            io::Error::other(format!("{LIMIT} others wait for addresses that are silent"))
        })?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let event = crate::fd::move_high(event);
        let told = rustix::io::fcntl_dupfd_cloexec(&event, 0).map(crate::fd::move_high)?;
        let data = epoll::EventData::new_u64(0);
        epoll::add(epoll, &event, data, epoll::EventFlags::IN)?;
        let (done, back) = sync_channel(1);
        let dial = move || {
            let asked = link.id().connect(&private).map(|()| Unanswered::new(link));
            // Before whoever waits can begin the next one.
            drop(place);
            let _ = done.send(asked);
            let _ = rustix::io::write(&told, &1_u64.to_ne_bytes());
        };
        on_a_thread(dial)?;
        Ok(Self { back, event })
    }

    /// How the call ended; `None`: it has not come back. Once.
    pub fn take(&self, epoll: &OwnedFd) -> Option<io::Result<Unanswered>> {
        let done = match self.back.try_recv() {
            Ok(done) => done,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => return None,
        };
        let _ = epoll::delete(epoll, &self.event);
        Some(done)
    }
}

/// A link whose request was not answered yet. Given up, a thread waits for what the kernel waits for.
pub struct Unanswered(Option<Link>);

impl Unanswered {
    /// After the request.
    pub fn new(link: Link) -> Self {
        Self(Some(link))
    }

    /// What the kernel has said to it, if anything.
    pub fn event(&self) -> io::Result<Option<Event>> {
        self.0.as_ref().map_or(Ok(None), Link::event)
    }

    /// The kernel has said something.
    pub fn answered(mut self) -> Option<Link> {
        self.0.take()
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(link) = self.0.take()
            && link.is_ours()
            && !link.pair().immediates()
        {
            // Where there is no thread it is dropped here.
            let _ = on_a_thread(|| drop(link));
        }
    }
}

fn on_a_thread(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = std::thread::Builder::new().name("vianet-dial".into());
    crate::signals::with_signals_blocked(|| builder.spawn(work)).map(drop)
}
