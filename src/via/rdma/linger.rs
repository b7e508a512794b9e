//! What is accepted is delivered although nobody holds the channel any more: queue pairs live on for a moment.
//!
//! A device has no kernel buffer that survives its queue pair. So a wire that is dropped with bytes on their way goes to
//! one thread, which carries on until they are at the peer, at most for [`LIMIT`]; then, or when the connection breaks,
//! the peer sees its end. A process that exits in good order waits for that thread.

use super::link::Link;
use super::wire::Core;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once};
use std::time::{Duration, Instant};

/// Longest.
const LIMIT: Duration = Duration::from_secs(3);
/// Where the device's word does not mean that the peer has the bytes (iWARP: they may be in a TCP buffer), the peer gets
/// so long to end the connection by itself.
const GRACE: Duration = Duration::from_millis(200);
/// Between two looks.
const TICK: Duration = Duration::from_millis(2);
/// Refused links at a time; of what is beyond, the last word may be lost. (Channels are limited by who accepts them.)
const REFUSALS: usize = 256;

enum What {
    Channel(Arc<Core>),
    /// A link on which a last word was said.
    Refused(Refused),
}

/// In the order in which they must go.
struct Refused {
    link: Link,
    /// The listener's count of what this source holds.
    _unit: Arc<()>,
    _place: Place,
}

/// One of [`REFUSALS`].
struct Place;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

impl Place {
    fn take() -> Option<Self> {
        let place = Self;
        // Given back by the drop where it was one too many.
        (TAKEN.fetch_add(1, Ordering::AcqRel) < REFUSALS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        TAKEN.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Job {
    what: What,
    until: Instant,
    graced: bool,
}

impl Job {
    /// Whether it can go now.
    fn step(&mut self) -> bool {
        let (done, buffered) = match &self.what {
            What::Channel(core) => (core.wind_up(), core.buffered_below()),
            What::Refused(Refused { link, .. }) => {
                let Ok(done) = link.last_word() else {
                    return true;
                };
                (done, !link.pair().immediates())
            }
        };
        if done && buffered && !self.graced && !self.ended() {
            self.graced = true;
            self.until = self.until.min(Instant::now() + GRACE);
        }
        Instant::now() >= self.until || (done && (!buffered || self.ended()))
    }

    fn ended(&self) -> bool {
        match &self.what {
            What::Channel(core) => core.is_broken(),
            What::Refused(_) => false,
        }
    }
}

/// The waiting jobs; whether the thread runs.
struct Queue {
    jobs: Vec<Job>,
    running: bool,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    jobs: Vec::new(),
    running: false,
});
/// Told when the last job is done.
static DONE: Condvar = Condvar::new();

/// Of a channel that nobody holds any more.
pub fn channel(core: Arc<Core>) {
    begin(What::Channel(core));
}

/// Of a link on which the last word is on its way; `unit` counts it for its source.
pub fn refused(link: Link, unit: Arc<()>) {
    if let Some(place) = Place::take() {
        begin(What::Refused(Refused {
            link,
            _unit: unit,
            _place: place,
        }));
    }
}

fn begin(what: What) {
    let mut job = Job {
        what,
        until: Instant::now() + LIMIT,
        graced: false,
    };
    let foreign = match &job.what {
        What::Channel(core) => !core.is_ours(),
        What::Refused(refused) => !refused.link.is_ours(),
    };
    if foreign || job.step() {
        return;
    }
    let mut queue = queue();
    queue.jobs.push(job);
    if !queue.running {
        queue.running = start().is_ok();
    }
    if !queue.running {
        // Nobody would ever look at them: the peers see a reset, and the memory is free.
        let jobs = std::mem::take(&mut queue.jobs);
        drop(queue);
        drop(jobs);
    }
}

fn start() -> io::Result<()> {
    static AT_EXIT: Once = Once::new();
    // SAFETY: a function without arguments that lives as long as the library, which is never unloaded.
    AT_EXIT.call_once(|| unsafe {
        libc::atexit(at_exit);
    });
    crate::signals::with_signals_blocked(|| {
        std::thread::Builder::new()
            .name("vianet-linger".into())
            .spawn(run)
    })?;
    Ok(())
}

fn run() {
    loop {
        let mut jobs = {
            let mut queue = queue();
            if queue.jobs.is_empty() {
                queue.running = false;
                DONE.notify_all();
                return;
            }
            std::mem::take(&mut queue.jobs)
        };
        jobs.retain_mut(|job| !job.step());
        queue().jobs.append(&mut jobs);
        std::thread::sleep(TICK);
    }
}

/// The thread does not outlive the process's end: waits for it.
extern "C" fn at_exit() {
    if !super::load::library().is_ok_and(|library| library.owner.is_this()) {
        return;
    }
    let queue = queue();
    if queue.running {
        let _ = DONE.wait_timeout_while(queue, LIMIT, |queue| queue.running);
    }
}

fn queue() -> MutexGuard<'static, Queue> {
    QUEUE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
