//! What may block: hooks, health checks, the disk. Each reports to the mailbox when it is done.

use super::mailbox::{Mail, Message};
use crate::config::Server;
use crate::hooks::{self, Permit};
use crate::role::{Event, Hook};
use crate::state::{Lock, Store};
use crate::{clock, health};
use crossbeam_channel::{Sender, unbounded};
use std::time::Duration;
use tracing::{error, info, warn};

/// Who runs something, for its environment and its report.
pub struct Context<'a> {
    /// Index of the server.
    pub index: usize,
    /// This node.
    pub node: &'a str,
    /// The other one, or empty.
    pub peer: &'a str,
    /// Where reports go.
    pub mail: Mail,
}

impl Context<'_> {
    fn env(&self, server: &Server, generation: u64, reason: &str) -> Vec<(&'static str, String)> {
        vec![
            ("VIANET_NODE", self.node.into()),
            ("VIANET_SERVER", server.name.clone()),
            ("VIANET_PEER", self.peer.into()),
            ("VIANET_GENERATION", generation.to_string()),
            ("VIANET_REASON", reason.into()),
        ]
    }

    /// Starts a hook.
    pub fn run_hook(
        &self,
        server: &Server,
        hook: Hook,
        generation: u64,
        reason: &str,
        permit: Permit,
    ) {
        let env = self.env(server, generation, reason);
        let (name, argv, limit) = match hook {
            Hook::Fence => ("fence", &server.hooks.fence, server.hooks.fence_timeout_ms),
            Hook::Promote => (
                "promote",
                &server.hooks.promote,
                server.hooks.promote_timeout_ms,
            ),
            Hook::Demote => (
                "demote",
                &server.hooks.demote,
                server.hooks.demote_timeout_ms,
            ),
        };
        let (argv, limit) = (argv.clone(), Duration::from_millis(limit));
        let (index, mail, server) = (self.index, self.mail.clone(), server.name.clone());
        let work = move || {
            let outcome = hooks::run(&argv, &env, limit, &permit);
            let ms = outcome.took.as_millis() as u64;
            let (ended, output) = (&outcome.ended, &outcome.output);
            if argv.is_empty() {
                info!(event = "hook", server, hook = name, "not configured");
            } else if outcome.ok {
                info!(
                    event = "hook",
                    server,
                    hook = name,
                    ms,
                    ended,
                    output,
                    "done"
                );
            } else {
                error!(
                    event = "hook-failed",
                    server,
                    hook = name,
                    ms,
                    ended,
                    output,
                    "failed"
                );
            }
            let event = Event::HookDone {
                hook,
                ok: outcome.ok,
            };
            mail.send(Message::Event {
                server: index,
                event,
            });
        };
        self.spawn(&format!("hook-{name}"), work, move |mail| {
            mail.send(Message::Event {
                server: index,
                event: Event::HookDone { hook, ok: false },
            });
        });
    }

    /// Asks, by the hook `ready`, whether the other node's SQL server can take over.
    pub fn run_ready(&self, server: &Server, generation: u64, asked: Duration) {
        let env = self.env(server, generation, "switchover");
        let (index, mail, hooks) = (self.index, self.mail.clone(), server.hooks.clone());
        let work = move || {
            let limit = Duration::from_millis(hooks.ready_timeout_ms);
            let outcome = hooks::run(&hooks.ready, &env, limit, &Permit::default());
            let result = match outcome.ok {
                true => Ok(()),
                false => Err(format!("{}: {}", outcome.ended, outcome.output)),
            };
            mail.send(Message::Ready {
                server: index,
                asked,
                result,
            });
        };
        self.spawn("ready", work, move |mail| {
            mail.send(Message::Ready {
                server: index,
                asked,
                result: Err("no thread can be started".into()),
            });
        });
    }

    /// Starts a health check that is known by the time it began.
    pub fn run_check(&self, server: &Server, generation: u64, check: Duration) {
        let env = self.env(server, generation, "health");
        let (index, mail, server) = (self.index, self.mail.clone(), server.clone());
        let work = move || {
            let result = health::check(&server, &env);
            mail.send(Message::Checked {
                server: index,
                check,
                result,
            });
        };
        self.spawn("health", work, move |mail| {
            mail.send(Message::Checked {
                server: index,
                check,
                result: Err("no thread can be started".into()),
            });
        });
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static, failed: impl FnOnce(&Mail)) {
        let spawned = std::thread::Builder::new().name(name.into()).spawn(work);
        if let Err(e) = spawned {
            error!(event = "no-thread", thread = name, error = %e, "cannot start a thread");
            failed(&self.mail);
        }
    }
}

struct Job {
    server: String,
    index: usize,
    seen: u64,
    own: u64,
    report: bool,
}

/// The one thread that writes generations to disk, in order.
#[derive(Clone)]
pub struct Writer {
    jobs: Sender<Job>,
}

impl Writer {
    /// Starts it; `lock` is held as long as it runs.
    pub fn start(store: Store, lock: Lock, mail: Mail) -> Self {
        let (jobs, queue) = unbounded::<Job>();
        std::thread::spawn(move || {
            let _lock = lock;
            for job in queue {
                let began = clock::now();
                let saved = store.save(&job.server, job.seen, job.own);
                let ms = clock::now().saturating_sub(began).as_millis() as u64;
                let (server, generation) = (&job.server, job.seen);
                match &saved {
                    Ok(()) => info!(event = "saved", server, generation, ms, "on disk"),
                    Err(e) if job.report => error!(
                        event = "not-saved",
                        server,
                        generation,
                        error = %e,
                        "the generation cannot be written to state_dir: this node does not become active"
                    ),
                    Err(e) => warn!(
                        event = "not-saved",
                        server,
                        generation,
                        error = %e,
                        "the peer's generation cannot be written to state_dir"
                    ),
                }
                if job.report {
                    mail.send(Message::Event {
                        server: job.index,
                        event: Event::Persisted { ok: saved.is_ok() },
                    });
                }
            }
        });
        Self { jobs }
    }

    /// Writes; with `report` the role machine hears of the result.
    pub fn save(&self, server: &str, index: usize, seen: u64, own: u64, report: bool) {
        let _ = self.jobs.send(Job {
            server: server.into(),
            index,
            seen,
            own,
            report,
        });
    }
}
