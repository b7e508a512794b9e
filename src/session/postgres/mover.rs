//! Makes a session again on another server: logs in by the packet with which it began, finds out which server it is and what
//! a fresh session is like there, makes it what the old one was, and reads everything back. Nothing of the application's is
//! run; until the end the new session can be dropped and made again.
//!
//! It may be made beforehand, on a standby: *warm*. Then what a standby refuses (LISTEN) or would not keep (the unnamed statement)
//! is left for later, and later it is asked the same again and made what the session has become meanwhile. Nothing is taken for
//! granted of it but the login.

use super::login::Login;
use super::message::{self, Messages, Writer, error};
use super::question::{self, Answer, Question};
use super::{
    Identity, Onward, Reason, Record, Snapshot, Written, backend, compare, derived, frontend,
    lasting, restore,
};

/// Most bytes of an answer.
const MOST: usize = 4 << 20;
/// Codes of a server that cannot take the session now, and perhaps can soon: too many connections, shutting down or starting.
const NOT_NOW: [&str; 4] = ["53300", "57P01", "57P02", "57P03"];

/// What is to be made again.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How it began.
    pub record: Record,
    /// Of which server.
    pub identity: Identity,
    /// What it had become.
    pub state: Snapshot,
    /// How far it had written.
    pub written: Option<Written>,
    /// Where that was derived from the catalogs: names of custom settings, as in [`Question::Derived`].
    pub custom: Option<Vec<u8>>,
    /// What is allowed.
    pub policy: Policy,
    /// As what it goes on.
    pub onward: Onward,
}

/// One that fails, and shows in the server's log.
const FAILS: &[u8] = b"vianet: the transaction was lost with its server";
const HOLDS: &str =
    "SELECT vianet.holds(CAST($1 AS pg_catalog.int8), CAST($2 AS pg_catalog.pg_lsn))";

impl Plan {
    /// What is asked of the state: as it was asked of the old server.
    fn question(&self, prepared: Vec<Box<[u8]>>) -> Question {
        match &self.custom {
            None => Question::State,
            Some(custom) => Question::Derived {
                custom: custom.clone(),
                prepared,
            },
        }
    }
}

/// What the configuration allows.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// A session that listens is made to listen again.
    pub listening: bool,
    /// Libraries that keep nothing in a session, besides those that are known; without `.so`.
    pub libraries: Vec<String>,
    /// Names of custom settings that a session may have, besides those that its statements name.
    pub custom: Vec<String>,
    /// Functions that set nothing which would be missed: with their schema; a `*` at the end stands for the rest.
    pub trusted: Vec<String>,
}

/// A session that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The other server.
    pub identity: Identity,
    /// What it has reported.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// Messages for the application: what is reported otherwise than before.
    pub news: Vec<u8>,
    /// What was answered about its state there, with the question's seed.
    pub state: (u64, Box<[u8]>),
    /// How far it has written there, at most.
    pub written: Option<Written>,
    /// As what it goes on. What is sent again was sent.
    pub onward: Onward,
}

/// A session that was made on a standby.
#[derive(Debug)]
pub struct Warm(Box<Moved>);

impl Warm {
    /// Whether it is still what is to be made.
    pub fn fits(&self, plan: &Plan) -> bool {
        let (seed, state) = &self.0.state;
        let Ok(Answer::State(made)) = Question::State.read(*seed, state) else {
            return false;
        };
        compare::difference(&plan.state.clone().without_listens(), &made).is_none()
    }
}

impl From<Box<Moved>> for Warm {
    fn from(made: Box<Moved>) -> Self {
        Self(made)
    }
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More must come.
    More,
    /// It is the same session.
    Done(Box<Moved>),
    /// Not now, and perhaps soon: everything may be tried again.
    Again(String),
    /// It cannot be.
    Refused(Reason, String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Login,
    AskIdentity,
    AskHeld,
    AskState,
    Restore,
    Unnamed,
    Check,
    AskLasting,
    Begin,
    Abort,
    /// It is made. What the server says of itself behind its last answer comes whole.
    Made,
    /// Everything is done but what is sent again.
    Again,
}

/// See the module's text.
#[derive(Debug)]
pub struct Mover {
    plan: Plan,
    login: Login,
    /// On a standby, for later.
    warms: bool,
    /// What it was when it was made there before.
    made: Option<Snapshot>,
    seed: u64,
    step: Step,
    /// To be sent.
    out: Vec<u8>,
    /// To be sent once the other side has said that there is no encryption.
    withheld: Option<Vec<u8>>,
    /// What came of the step, whole messages first.
    come: Vec<u8>,
    /// Whole messages of this step.
    whole: usize,
    after: Record,
    news: Vec<u8>,
    identity: Option<Identity>,
    /// The last answer to [`Question::State`].
    known: Box<[u8]>,
    /// How far it had written by then.
    wrote: Option<Written>,
    moved: Option<Box<Moved>>,
}

impl Mover {
    /// `first` is what logs in; `seed` makes names that the application has not.
    ///
    /// What the application was told where it began, that there is no encryption to be had, must be said again here, by who knows
    /// whether it may be; a node that has said it does not carry the session on where the network can read.
    pub fn new(plan: Plan, first: Vec<u8>, seed: u64) -> Self {
        let (out, withheld) = match plan.record.asked_to_encrypt {
            true => {
                let ask = [8, frontend::SSL_REQUEST].map(u32::to_be_bytes).concat();
                (ask, Some(first))
            }
            false => (first, None),
        };
        Self {
            plan,
            login: Login::default(),
            warms: false,
            made: None,
            seed,
            step: Step::Login,
            out,
            withheld,
            come: Vec::new(),
            whole: 0,
            after: Record::default(),
            news: Vec::new(),
            identity: None,
            known: Box::default(),
            wrote: None,
            moved: None,
        }
    }

    /// Makes it on a standby, for later. `warm` is what was made there of it before.
    pub fn beforehand(mut plan: Plan, first: Vec<u8>, warm: Option<Warm>, seed: u64) -> Self {
        plan.state = plan.state.without_listens();
        plan.record.unnamed = None;
        plan.written = None;
        plan.onward = Onward::Same(Vec::new());
        let mut mover = match warm {
            Some(warm) => Self::again(plan, warm, seed),
            None => Self::new(plan, first, seed),
        };
        mover.warms = true;
        mover
    }

    /// Goes on with one that was made beforehand.
    pub fn again(plan: Plan, warm: Warm, seed: u64) -> Self {
        let mut mover = Self::new(plan, Vec::new(), seed);
        let (seed, state) = &warm.0.state;
        if let Ok(Answer::State(made)) = Question::State.read(*seed, state) {
            mover.made = Some(made);
        }
        mover.after.parameters = warm.0.parameters;
        // Encryption was asked for, and refused, when it was made.
        mover.withheld = None;
        mover.out.clear();
        mover.ask();
        mover.step = Step::AskIdentity;
        mover
    }

    /// Whether the other server has let the session in.
    pub fn has_logged_in(&self) -> bool {
        self.step != Step::Login
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        &self.out
    }

    /// So much of it was.
    pub fn sent(&mut self, bytes: usize) {
        self.out.drain(..bytes);
    }

    /// What comes from now on answers the application.
    pub fn only_sends(&self) -> bool {
        self.step == Step::Again
    }

    /// Whether all is sent, where nothing more is to come.
    pub fn finish(&mut self) -> Option<Box<Moved>> {
        let done = self.only_sends() && self.out.is_empty();
        done.then(|| self.moved.take()).flatten()
    }

    /// These bytes came. Not to be called again after anything but [`Progress::More`].
    pub fn received(&mut self, bytes: &[u8]) -> Progress {
        self.come.extend_from_slice(bytes);
        if let Some(first) = self.withheld.take() {
            match self.come.first() {
                None => self.withheld = Some(first),
                Some(b'N') => {
                    self.come.remove(0);
                    self.out = first;
                }
                // A message that says why nobody is let in.
                Some(b'E') => {}
                Some(_) => {
                    let why = "it demands the encryption that there was none of";
                    return Progress::Refused(Reason::Tls, why.into());
                }
            }
        }
        while let Some(total) = message::total(&self.come[self.whole..]) {
            let Some(one) = self.come.get(self.whole..self.whole + total) else {
                break;
            };
            let (kind, body) = (one[0], one[5..].to_vec());
            self.whole += total;
            if let Err(end) = self.message(kind, &body) {
                return end;
            }
        }
        if self.step == Step::Made && self.whole == self.come.len() {
            return self.done();
        }
        match self.come.len() > MOST {
            true => Progress::Refused(Reason::TooLarge, "the answer is too long".into()),
            false => Progress::More,
        }
    }

    fn message(&mut self, kind: u8, body: &[u8]) -> Result<(), Progress> {
        match (kind, self.step) {
            (b'E', _) if backend::is_fatal(body) => {
                let (code, text) = error(body);
                let why = format!("{code} {text}");
                return Err(match NOT_NOW.contains(&&*code) {
                    true => Progress::Again(why),
                    false => Progress::Refused(Reason::LoginRefused, why),
                });
            }
            (b'R', Step::Login) => {
                let answer = self.login.answer(body);
                let answer = answer.map_err(|(reason, why)| Progress::Refused(reason, why))?;
                self.out.extend_from_slice(&answer);
            }
            (b'S', _) => self.after.told(kind, body, true),
            (b'A', _) => self.news.extend_from_slice(&message::message(kind, body)),
            (b'Z', _) => {
                let status = match self.step {
                    Step::Begin => b"T",
                    Step::Abort => b"E",
                    _ => b"I",
                };
                if body != status {
                    let why = "a transaction is open there".into();
                    return Err(Progress::Refused(Reason::RestoreFailed, why));
                }
                let rest = self.come.split_off(self.whole);
                let come = std::mem::replace(&mut self.come, rest);
                self.whole = 0;
                return self.ready(&come);
            }
            _ => {}
        }
        Ok(())
    }

    /// A step is done; what came of it.
    fn ready(&mut self, come: &[u8]) -> Result<(), Progress> {
        self.step = match self.step {
            Step::Login => {
                self.ask();
                Step::AskIdentity
            }
            Step::AskIdentity => {
                self.identify(come)?;
                match self.plan.written {
                    Some(_) => Step::AskHeld,
                    None => Step::AskState,
                }
            }
            Step::AskHeld => {
                holds(come)?;
                Step::AskState
            }
            Step::AskState => {
                let now = self.read_state(come)?;
                let then = &self.plan.state;
                // What was prepared was read by the settings of that moment.
                let changes = |made: &Snapshot| compare::setting(then, made).is_some();
                let again = now.has_prepared() && self.made.as_ref().is_none_or(changes);
                let as_it_is =
                    !again && !now.is_undescribed() && self.plan.record.unnamed.is_none();
                if as_it_is && compare::difference(then, &now).is_none() {
                    self.step = Step::Check;
                    return self.ready(come);
                }
                let steps = restore::plan(then, &now, again);
                let mut out = Writer::default();
                restore::write(&steps, &question::name(self.seed), &mut out);
                if let Some(body) = &self.plan.record.unnamed {
                    out.raw(b'P', body);
                    out.sync();
                }
                let prepared = self.plan.state.prepared();
                self.plan.question(prepared).write(self.seed, &mut out);
                self.out.extend_from_slice(&out.into_bytes());
                Step::Restore
            }
            Step::Restore => {
                if let Some((_, body)) = Messages(come).find(|(kind, _)| *kind == b'E') {
                    let (code, text) = error(body);
                    let why = format!("{code} {text}");
                    return Err(Progress::Refused(Reason::RestoreFailed, why));
                }
                match self.plan.record.unnamed {
                    Some(_) => Step::Unnamed,
                    None => Step::Check,
                }
            }
            // One that cannot be made is not there, and its next use says so.
            Step::Unnamed => Step::Check,
            Step::Check => {
                let now = self.read_state(come)?;
                if let Some(what) = compare::difference(&self.plan.state, &now) {
                    return Err(Progress::Refused(Reason::StateDiffers, what));
                }
                self.known = come.into();
                self.wrote = now.written();
                match self.plan.onward {
                    Onward::Same(_) => Step::Made,
                    _ => {
                        self.ask_lasting();
                        Step::AskLasting
                    }
                }
            }
            Step::AskLasting => {
                undoes(come)?;
                match self.plan.onward {
                    Onward::Aborted => Step::Begin,
                    _ => Step::Made,
                }
            }
            Step::Begin => Step::Abort,
            Step::Abort => Step::Made,
            step @ (Step::Made | Step::Again) => step,
        };
        Ok(())
    }

    /// Which server it is, whether it has what the session has written, and what the session is there.
    fn ask(&mut self) {
        let mut out = Writer::default();
        Question::Identity.write(self.seed, &mut out);
        if let Some((timeline, position)) = &self.plan.written {
            let holds = self.plan.custom.as_ref().map_or(HOLDS, |_| derived::HOLDS);
            out.run(
                &question::name(self.seed),
                holds.as_bytes(),
                &[timeline, position],
            );
            out.sync();
        }
        self.plan.question(Vec::new()).write(self.seed, &mut out);
        self.out.extend_from_slice(&out.into_bytes());
    }

    /// Whether a rollback would have undone all; and the block that is aborted.
    fn ask_lasting(&mut self) {
        let commits = self.plan.onward == Onward::Unknown;
        let parameters = lasting::parameters(&self.plan.policy, commits);
        let parameters: Vec<_> = parameters.iter().map(|text| text.as_bytes()).collect();
        let (mut out, own) = (Writer::default(), question::name(self.seed));
        out.run(&own, lasting::QUESTION, &parameters);
        out.sync();
        if self.plan.onward == Onward::Aborted {
            out.run(&own, b"BEGIN", &[]);
            out.sync();
            out.parse(own.as_bytes(), FAILS, &[]);
            out.sync();
        }
        self.out.extend_from_slice(&out.into_bytes());
    }

    fn identify(&mut self, come: &[u8]) -> Result<(), Progress> {
        let identity = match Question::Identity.read(self.seed, come) {
            Ok(Answer::Identity(identity)) => identity,
            Ok(_) => return Err(Progress::Refused(Reason::UnknownState, String::new())),
            Err(why) => return Err(Progress::Refused(Reason::UnknownState, why)),
        };
        if self.warms != identity.timeline.is_none() {
            return Err(match self.warms {
                true => Progress::Refused(Reason::OtherServer, "it is no standby".into()),
                false => Progress::Again("it cannot be written to yet".into()),
            });
        }
        let (before, after) = (&self.plan.record, &self.after);
        let may = match self.warms {
            false => self.plan.identity.may_follow(&identity, before, after),
            // What it will be is asked when it is.
            true => {
                let mut later = identity.clone();
                later.timeline = self.plan.identity.timeline;
                self.plan.identity.may_follow(&later, before, after)
            }
        };
        may.map_err(|(reason, why)| Progress::Refused(reason, why))?;
        self.identity = Some(identity);
        Ok(())
    }

    fn read_state(&self, come: &[u8]) -> Result<Snapshot, Progress> {
        let state = match Question::State.read(self.seed, come) {
            Ok(Answer::State(state)) => state,
            Ok(_) => return Err(Progress::Refused(Reason::UnknownState, String::new())),
            Err(why) => return Err(Progress::Refused(Reason::UnknownState, why)),
        };
        match state.obstacle(&self.plan.policy) {
            Some(reason) => {
                let why = format!("there: {}", reason.text());
                Err(Progress::Refused(Reason::StateDiffers, why))
            }
            None => Ok(state),
        }
    }

    fn done(&mut self) -> Progress {
        let mut news = std::mem::take(&mut self.news);
        for (name, value) in &self.after.parameters {
            let before = self.plan.record.parameters.iter();
            let mut before = before.filter(|(known, _)| known == name);
            if before.next().is_none_or(|(_, old)| old != value) {
                let body = [name, &b"\0"[..], value, b"\0"].concat();
                news.extend_from_slice(&message::message(b'S', &body));
            }
        }
        let Some(identity) = self.identity.take() else {
            let why = "the server is not known".into();
            return Progress::Refused(Reason::UnknownState, why);
        };
        let moved = Box::new(Moved {
            identity,
            parameters: std::mem::take(&mut self.after.parameters),
            news,
            state: (self.seed, std::mem::take(&mut self.known)),
            written: self.wrote.take(),
            onward: self.plan.onward.clone(),
        });
        match &self.plan.onward {
            Onward::Same(again) if !again.is_empty() => {
                self.out.extend_from_slice(again);
                self.moved = Some(moved);
                self.step = Step::Again;
                Progress::More
            }
            _ => Progress::Done(moved),
        }
    }
}

/// Whether a rollback undoes all that anything in the database can do.
fn undoes(come: &[u8]) -> Result<(), Progress> {
    match told(come)? {
        Some(b"f") => Ok(()),
        Some(b"t") => refused(Reason::Lasting, "functions of the database can"),
        _ => refused(Reason::UnknownState, "what functions do is not told"),
    }
}

/// Whether the server has what the session had written.
fn holds(come: &[u8]) -> Result<(), Progress> {
    match told(come)? {
        Some(b"t") => Ok(()),
        Some(b"f") => refused(Reason::DataLoss, ""),
        _ => refused(Reason::UnknownState, "what it has is not told"),
    }
}

/// The answer to a question of one value; `None`: NULL, or another form.
fn told(come: &[u8]) -> Result<Option<&[u8]>, Progress> {
    match Messages(come).find(|(kind, _)| matches!(kind, b'D' | b'E')) {
        Some((b'D', body)) => Ok(match message::columns(body).as_deref() {
            Some([value]) => *value,
            _ => None,
        }),
        Some((_, body)) => {
            let (code, text) = error(body);
            refused(Reason::UnknownState, &format!("{code} {text}"))
        }
        None => Ok(None),
    }
}

fn refused<T>(reason: Reason, why: &str) -> Result<T, Progress> {
    Err(Progress::Refused(reason, why.to_owned()))
}
