//! One lab, its clients, and one fault after another.

use crate::audit;
use crate::books::Books;
use crate::clients::{self, Client, Common};
use crate::faults::{self, Fault, Nodes};
use crate::pg_ext::Installation;
use crate::pg_lab::{Lab, Libpq};
use crate::plan::{Load, Plan};
use crate::random::Random;
use crate::times::{self, Sample};
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    /// A primary and its synchronous standby.
    Postgres,
    /// One server behind both nodes.
    Shared,
}

impl Engine {
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Postgres, Self::Shared]
            .into_iter()
            .find(|engine| engine.name() == text)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Shared => "postgres-shared",
        }
    }
}

pub struct Round {
    pub number: u64,
    pub engine: Engine,
    pub extension: bool,
    pub trust: bool,
    pub load: Load,
    /// Sessions wait on the standby.
    pub warm: bool,
    pub failovers: u64,
    pub seed: u64,
}

pub struct RoundResult {
    pub books: Arc<Books>,
    pub faults: BTreeMap<Fault, u64>,
    pub losses: u64,
    pub times: Vec<Sample>,
    /// What the other server said where a session could not be made again, and how often.
    pub refusals: BTreeMap<String, u64>,
    pub took: Duration,
}

impl Round {
    /// `None` where PostgreSQL is not installed.
    pub fn run(
        &self,
        plan: &Plan,
        installation: &Installation,
        end: &AtomicBool,
    ) -> Option<RoundResult> {
        let begun = Instant::now();
        println!("{}", self.title());
        let bin = installation.bin.to_str().unwrap();
        let mut more = vec![];
        if self.extension {
            more.extend(["--pg-bin", bin]);
        }
        if self.engine == Engine::Shared && self.load == Load::Busy {
            // More losses in the same time; and of a machine that stands still for a moment, others.
            more.extend(["--keepalive-ms", "20"]);
        }
        if self.trust {
            more.push("--trust");
        }
        if self.warm {
            more.extend(["--warm", "100"]);
        }
        let lab = Lab::up_with(self.engine.name(), plan.subnet, &more)?;
        lab.wait_until_active("node-a");
        let config = lab.dir().join("client.toml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(
            &config,
            text + "\n[clusters.lab.servers.sales]\nsession = \"postgres\"\n",
        )
        .unwrap();
        audit::make_tables(&lab);
        let books = Arc::<Books>::default();
        let debug = lab.dir.path().join("clients");
        fs::create_dir(&debug).unwrap();
        let common = Common {
            books: Arc::clone(&books),
            lab_dir: lab.dir(),
            debug,
            seed: self.seed,
            pause: self.load.pause(),
        };
        let program = Libpq::compile(lab.dir.path(), "soak");
        let count = if self.load == Load::Alone { 1 } else { 4 };
        let mut all: Vec<Client> = (1..=count)
            .map(|id| clients::libpq::start(&common, &program, id))
            .collect();
        if self.load != Load::Alone {
            all.extend((11..=12).map(|id| clients::psql::start(&common, id)));
            all.push(clients::pgbench::start(&common, 21));
        }
        let mut result = RoundResult {
            books: Arc::clone(&books),
            faults: BTreeMap::new(),
            losses: 0,
            times: Vec::new(),
            refusals: BTreeMap::new(),
            took: Duration::ZERO,
        };
        self.suffer(&lab, &all, &mut result, end);
        all.iter().for_each(Client::ask_to_stop);
        all.into_iter().for_each(Client::join);
        result.times = times::read(&common.debug, &lab.dir());
        result.refusals = clients::refusals(&common.debug);
        if books.with(|books| books.wrong.is_empty()) {
            audit::check(&lab, &books);
        } else {
            println!("something was wrong: what was told is not compared with the tables");
        }
        if plan.keep || books.with(|books| !books.wrong.is_empty()) {
            println!("the lab's files are kept in {}", lab.keep().display());
        }
        result.took = begun.elapsed();
        Some(result)
    }

    fn suffer(&self, lab: &Lab, clients: &[Client], result: &mut RoundResult, end: &AtomicBool) {
        let nodes = Nodes {
            lab,
            shared: self.engine == Engine::Shared,
        };
        let books = Arc::clone(&result.books);
        let mut random = Random::new(self.seed);
        clients::wait_for_all(clients, lab, &books);
        while result.losses < self.failovers
            && !end.load(Ordering::Acquire)
            && books.with(|books| books.wrong.is_empty())
        {
            // A session has to have been made on the standby by then, now and then.
            let pause = if self.warm { 3_000 } else { 300 };
            std::thread::sleep(Duration::from_millis(random.below(pause)));
            let fault = self.draw(&mut random);
            let losses = &mut result.losses;
            let loses = || {
                *losses += 1;
                let open =
                    |client: &Client| (client.kind, client.seen.open.load(Ordering::Acquire));
                let sessions: Vec<_> = clients.iter().map(open).collect();
                books.exposes(fault, &sessions);
            };
            if let Err(why) = nodes.suffer(fault, &mut random, loses) {
                books.wrong(format!("{}: {why}", fault.name()));
            }
            *result.faults.entry(fault).or_default() += 1;
            clients::wait_for_all(clients, lab, &books);
            print!("\r{} of {} ", result.losses, self.failovers);
            let _ = std::io::Write::flush(&mut std::io::stdout());
        }
        println!();
    }

    /// Most of them are plain losses.
    fn draw(&self, random: &mut Random) -> Fault {
        match random.below(3) {
            _ if self.load == Load::Alone => random.pick(&[Fault::Kill, Fault::Freeze]),
            0 => random.pick(&faults::ALL),
            _ => random.pick(&[Fault::Kill, Fault::Freeze, Fault::Daemon]),
        }
    }

    pub fn title(&self) -> String {
        format!(
            "round {}: {}{}, {} the extension, {}, {} clients, seed {}, {} losses",
            self.number + 1,
            self.engine.name(),
            if self.warm { ", warm" } else { "" },
            if self.extension { "with" } else { "without" },
            if self.trust { "trust" } else { "SCRAM" },
            self.load.name(),
            self.seed,
            self.failovers
        )
    }
}
