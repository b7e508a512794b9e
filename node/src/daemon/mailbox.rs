//! What other threads tell the main loop.

use crate::control::{Reply, Request};
use crate::role::Event;
use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// One message; `server` is the index in the configuration.
pub enum Message {
    /// For the role machine.
    Event {
        /// Which server name.
        server: usize,
        /// What happened.
        event: Event,
    },
    /// A health check ended.
    Checked {
        /// Which server name.
        server: usize,
        /// When it began: which check.
        check: Duration,
        /// What failed.
        result: Result<(), String>,
    },
    /// Clients have said how their sessions stand.
    Standing {
        /// Which server name.
        server: usize,
    },
    /// The hook `ready` ended.
    Ready {
        /// Which server name.
        server: usize,
        /// When it was started.
        asked: Duration,
        /// What it says against a switchover.
        result: Result<(), String>,
    },
    /// The relay saw an end of file of the SQL server and must know what it means.
    CheckHealth {
        /// Which server name.
        server: usize,
    },
    /// From the control socket.
    Control {
        /// What is asked.
        request: Request,
        /// Where the answer goes.
        reply: Sender<Reply>,
    },
    /// SIGTERM or SIGINT.
    Terminate,
}

/// The receiving end.
pub struct Mailbox {
    receiver: Receiver<Message>,
    mail: Mail,
}

/// The sending end.
#[derive(Clone)]
pub struct Mail {
    sender: Sender<Message>,
    wake: Arc<OwnedFd>,
}

impl Mailbox {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        let (sender, receiver) = unbounded();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok(Self {
            receiver,
            mail: Mail { sender, wake },
        })
    }

    /// For another thread.
    pub fn sender(&self) -> Mail {
        self.mail.clone()
    }

    /// Readable when there is mail.
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        self.mail.wake.as_fd()
    }

    /// All that came.
    pub fn take(&self) -> Vec<Message> {
        let _ = rustix::io::read(&*self.mail.wake, &mut [0; 8]);
        self.receiver.try_iter().collect()
    }
}

impl Mail {
    /// Never blocks; does nothing once the loop has ended.
    pub fn send(&self, message: Message) {
        if self.sender.send(message).is_ok() {
            let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        }
    }
}
