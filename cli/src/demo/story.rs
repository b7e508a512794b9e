//! What is printed: what the application did, and what the library did below it, in the order of time.

use super::work::Verdict;
use crate::failure::Outcome;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use vianet::conn::events;
use vianet::failover::Notice;
use vianet::log::{self, Level};

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The application has its first connection.
    Connected,
    /// So many rows.
    Written,
    /// The application's connection ended.
    Lost,
    /// A row was looked at again.
    InDoubt,
    /// The server refused a statement.
    Refused,
    /// The first row on the second node.
    GoesOn,
    /// The library noticed that something is wrong.
    Detected,
    /// The library asks the cluster.
    Asked,
    /// The cluster answered.
    Answered,
    /// The library connects, or has connected.
    Connects,
    /// The library's event callback.
    Event,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Written => "written",
            Self::Lost => "lost",
            Self::InDoubt => "in doubt",
            Self::Refused => "refused",
            Self::GoesOn => "goes on",
            Self::Detected => "detected",
            Self::Asked => "asked",
            Self::Answered => "answered",
            Self::Connects => "connected",
            Self::Event => "event",
        }
    }

    /// The library says it, not the application.
    fn is_library(self) -> bool {
        use Kind::*;
        matches!(self, Detected | Asked | Answered | Connects | Event)
    }
}

/// Something to tell.
pub struct Entry {
    at: Instant,
    what: What,
}

enum What {
    Said(Kind, String),
    End(Outcome<Verdict>),
}

impl Entry {
    /// It happens now.
    pub fn now(kind: Kind, text: &str) -> Self {
        Self {
            at: Instant::now(),
            what: What::Said(kind, text.to_owned()),
        }
    }

    /// The application is done.
    pub fn end(result: Outcome<Verdict>) -> Self {
        Self {
            at: Instant::now(),
            what: What::End(result),
        }
    }
}

/// Sends what the library's callbacks hear from now on.
pub fn listen(to: &Sender<Entry>) {
    let (logs, notices) = (to.clone(), to.clone());
    log::set_callback(
        Level::Debug,
        Box::new(move |_, module, text| {
            if let Some((kind, text)) = translate(module, text) {
                // Nobody listens any more once the demo is over.
                let _ = logs.send(Entry::now(kind, &text));
            }
        }),
    );
    events::set_callback(Some(Box::new(move |event| {
        let what = match event.notice {
            Notice::FailoverBegun => format!("failover begun, {} is lost", event.node),
            Notice::FailoverEnded => format!(
                "failover ended on {}: the quiet connection goes on, same descriptor",
                event.node
            ),
            Notice::Lost => {
                "the writing connection had a row in flight: it ends, nothing is sent twice".into()
            }
            Notice::Resumed => format!("carried on to {}", event.node),
        };
        let _ = notices.send(Entry::now(Kind::Event, &what));
    })));
}

/// What a record of the library's log means to somebody who watches; most mean nothing.
fn translate(module: &str, text: &str) -> Option<(Kind, String)> {
    let (_, text) = text.split_once(": ")?;
    let starts = |prefix: &str| text.strip_prefix(prefix);
    let quoted = |key: &str| {
        let (_, rest) = text.split_once(&format!("{key}: \""))?;
        rest.split('"').next().map(str::to_owned)
    };
    let number = |key: &str| {
        let (_, rest) = text.split_once(&format!("{key}: "))?;
        rest.split(|c: char| !c.is_ascii_digit())
            .next()
            .map(str::to_owned)
    };
    if module != "conn" {
        return None;
    }
    Some(if let Some(why) = starts("channel broke: ") {
        let why = why
            .strip_prefix("Transport(\"")
            .and_then(|w| w.strip_suffix("\")"))
            .unwrap_or(why);
        (Kind::Detected, format!("the channel broke: {why}"))
    } else if starts("NodeLost").is_some() {
        (
            Kind::Detected,
            "the node is lost: nobody answers there any more".into(),
        )
    } else if starts("NodeResigned").is_some() {
        (
            Kind::Detected,
            "the node says that it does not serve the name any more".into(),
        )
    } else if starts("Query ").is_some() {
        (
            Kind::Asked,
            "all nodes, by UDP: who serves the name now?".into(),
        )
    } else if starts("NotResolved(NobodyActive").is_some() {
        (Kind::Answered, "no node serves it yet".into())
    } else if starts("NotResolved(Nobody").is_some() {
        (Kind::Answered, "nobody".into())
    } else if starts("Resolved ").is_some() {
        let (node, generation) = (quoted("node")?, number("generation")?);
        (Kind::Answered, format!("{node}, generation {generation}"))
    } else if let Some(rest) = starts("connected to ") {
        (
            Kind::Connects,
            format!("{rest}, verified to serve the name"),
        )
    } else {
        return None;
    })
}

/// Prints entries.
#[derive(Default)]
pub struct Story {
    connected: Option<(String, Instant)>,
    killed: Option<Instant>,
    moved: bool,
    /// What the library was heard to say: several connections, and repeated questions, say the same.
    heard: Vec<(Kind, String)>,
}

impl Story {
    /// The node that the application is connected to first, and since when.
    pub fn connected(&self) -> Option<(String, Instant)> {
        self.connected.clone()
    }

    /// Prints an entry; gives the result once the application is done.
    pub fn tell(&mut self, entry: Entry) -> Option<Outcome<Verdict>> {
        let (kind, text) = match entry.what {
            What::End(result) => return Some(result),
            What::Said(kind, text) => (kind, text),
        };
        match kind {
            Kind::Connected => {
                self.connected = Some((text.clone(), entry.at));
                self.line(
                    entry.at,
                    kind,
                    &format!("the application, by name, to {text}; it writes rows without pause"),
                );
            }
            // How the first connection came about is not the story, and once it goes on, it is told.
            _ if kind.is_library() && (self.killed.is_none() || self.moved) => {}
            _ => {
                self.moved |= kind == Kind::GoesOn;
                self.line(entry.at, kind, &text);
            }
        }
        None
    }

    /// The active node was killed.
    pub fn kill(&mut self, at: Instant, text: &str) {
        self.killed = Some(at);
        println!("{:>8}     {:10} {text}", "0 ms", "KILLED");
    }

    fn line(&mut self, at: Instant, kind: Kind, text: &str) {
        if kind.is_library() {
            let this = (kind, text.to_owned());
            if self.heard.contains(&this) {
                return;
            }
            self.heard.push(this);
        }
        let time = match (self.killed, self.connected.as_ref()) {
            (Some(killed), _) => ms(at.saturating_duration_since(killed), ""),
            (None, Some((_, since))) => {
                let before = (*since + super::BEFORE).saturating_duration_since(at);
                ms(before, "-")
            }
            (None, None) => String::new(),
        };
        println!("{time:>8}     {:10} {text}", kind.word());
    }
}

fn ms(time: Duration, sign: &str) -> String {
    format!("{sign}{} ms", time.as_millis())
}
