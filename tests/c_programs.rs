//! The programs of `c-tests/`, each with the C interface alone: plain, under valgrind's memcheck, with the sanitizers,
//! and the same sources with plain sockets under the preload library.

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use support::c::{How, Program};
use support::cluster::{Cluster, Plan};
use support::echo::{EchoServer, resetting_server};
use support::lab::Lab;
use support::programs::{built, installed, run_within};
use support::rdma;
use support::sql_browser::{Instance, SqlBrowser};
use support::sqlline::SqlLine;
use support::story::wait_until_noticed;
use support::tap::TcpTap;

/// Never reached by a program that works.
const LIMIT: Duration = Duration::from_secs(600);

/// `C_PROGRAM=echo cargo test --test c_programs` runs only that one, for whoever looks for a defect.
fn run(name: &str, how: How, config: &std::path::Path, args: &[&str]) -> String {
    if std::env::var("C_PROGRAM").is_ok_and(|only| only != name) {
        return String::new();
    }
    let program = Program::build(name, how);
    let log = config.with_extension(format!("{name}.log"));
    let mut command = program.command(config);
    command
        .args(args)
        .env("TEST_SECONDS", "540")
        .env("VIANET_DEBUG", &log);
    eprintln!(
        "running {name} ({how:?}) {args:?} with {}",
        config.display()
    );
    let output = run_within(LIMIT, &mut command);
    let text = support::programs::both(&output);
    if !output.status.success() {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(100)..].join("\n");
        panic!(
            "{name} ({how:?}): {}\n{text}--- last of its log\n{last}",
            output.status
        );
    }
    eprintln!("--- {name} ({how:?})\n{text}");
    text
}

/// `make test-rdma` builds them where that is quick, and runs them where it is not.
#[test]
#[ignore = "builds the programs into C_PROGRAMS_FOR, for another machine"]
fn programs_for_elsewhere() {
    let dir = std::env::var_os("C_PROGRAMS_FOR").expect("a directory");
    Program::build_all_into(dir.as_ref());
}

/// Every program against an echo server behind two daemons, over each transport.
fn all_programs(how: How, subnet: u8) {
    let server = EchoServer::start("127.0.0.1:0", "");
    let cluster = Cluster::start(Plan::new(subnet, server.addr()));
    let name = "echo.test";
    let transports = match rdma::device() {
        Some(_) => &["rdma"][..],
        None => &["shm", "tcp", "tls"],
    };
    for carrier in transports {
        let (transport, tls) = match *carrier {
            "tls" => ("tcp", "require"),
            "tcp" => ("tcp", "off"),
            other => (other, "auto"),
        };
        let config = cluster.client_toml(
            &format!("{carrier}.toml"),
            "",
            // A forked child has no RDMA.
            &match transport {
                "rdma" => "transports = [\"rdma\", \"tcp\"]".into(),
                transport => format!("transports = [\"{transport}\"]\ntls = \"{tls}\""),
            },
        );
        let opened = |how: &str| {
            let log = cluster.log(0);
            let opened = log.lines().filter(|l| l.contains("channel-open"));
            opened.filter(|l| l.contains(how)).count()
        };
        let this = format!("transport={transport}");
        let before = (opened(""), opened(&this));
        // The cipher is not optimised in a test's build.
        let moved = match (how, *carrier) {
            (How::Valgrind, "tls") => "20000",
            (How::Valgrind, _) => "200000",
            (_, "tls") => "1000000",
            // An emulated processor.
            (_, "rdma") => "2000000",
            _ => "20000000",
        };
        run("echo", how, &config, &[name]);
        run("poll", how, &config, &[name, moved]);
        run("epoll", how, &config, &[name, moved]);
        if (how, *carrier) != (How::Valgrind, "tls") {
            run("threads", how, &config, &[name]);
        }
        match transport {
            // Parent and child use one connection in turn, which over RDMA they cannot.
            "rdma" => run("fork", how, &config, &[name, "once"]),
            _ => run("fork", how, &config, &[name]),
        };
        run("dup", how, &config, &[name]);
        run("rawreader", how, &config, &[name]);
        let part = if *carrier == "tls" { 32 } else { 8 };
        let bytes = (how.stream_bytes() / part).to_string();
        run("stream", how, &config, &[name, &bytes]);
        let (all, over) = (opened("") - before.0, opened(&this) - before.1);
        // A connect that takes too long goes on with the next transport, and processors may be emulated and busy.
        assert!(
            all > 8 && over * 2 > all && (over == all || transport == "rdma"),
            "{over} of {all} channels over {transport}"
        );
    }
}

/// A process that closes and exits has said goodbye: its SQL connection ends with it, and not when nobody has resumed it.
#[test]
fn who_closes_and_exits_leaves_nothing_behind() {
    let server = EchoServer::start("127.0.0.1:0", "");
    let cluster = Cluster::start(Plan::new(96, server.addr()));
    let config = cluster.client_toml("goodbye.toml", "", "transports = [\"tcp\"]");
    for how in [How::Plain, How::Preloaded] {
        for _ in 0..10 {
            run("goodbye", how, &config, &["echo.test"]);
        }
    }
    let log = cluster.log(0);
    let count = |event: &str| log.lines().filter(|line| line.contains(event)).count();
    assert_eq!(count("channel-open"), 20);
    assert_eq!(count("channel-parked"), 0, "{log}");
}

#[test]
fn programs_plain() {
    all_programs(How::Plain, 50);
}

#[test]
fn programs_under_valgrind() {
    assert!(
        installed("valgrind"),
        "valgrind is missing: run `make tools`"
    );
    all_programs(How::Valgrind, 51);
}

#[test]
fn programs_with_sanitizers() {
    all_programs(How::Sanitized, 52);
}

#[test]
fn programs_preloaded() {
    all_programs(How::Preloaded, 53);
}

/// A stream with a checksum through a tap that cuts its TCP connection at random places: nothing missing, nothing twice.
fn cut_stream(how: How, subnet: u8, tls: &str) {
    let server = EchoServer::start("127.0.0.1:0", "");
    let tap_addr: SocketAddr = format!("127.0.{subnet}.21:7434")
        .parse()
        .expect("an address");
    let via: SocketAddr = format!("127.0.{subnet}.11:7434")
        .parse()
        .expect("an address");
    let mut plan = Plan::new(subnet, server.addr());
    plan.advertise_via = [Some(tap_addr), None];
    let cluster = Cluster::start(plan);
    let bytes = match tls {
        "off" => how.stream_bytes(),
        // As above.
        _ => how.stream_bytes() / 32,
    };
    let tap = TcpTap::start(&tap_addr.to_string(), via, bytes / 50);
    let inside = format!("transports = [\"tcp\"]\ntls = \"{tls}\"");
    let config = cluster.client_toml("tcp.toml", "", &inside);
    let text = run("stream", how, &config, &["echo.test", &bytes.to_string()]);
    eprintln!("{} cuts, {} connections", tap.cuts(), tap.accepted());
    assert!(
        tap.cuts() >= 5,
        "only {} cuts: the test cut nothing\n{text}",
        tap.cuts()
    );
    assert_eq!(
        server.used(),
        1,
        "the SQL server's connection must outlive the cuts"
    );
}

#[test]
fn cut_stream_plain() {
    cut_stream(How::Plain, 54, "off");
}

#[test]
fn cut_stream_under_valgrind() {
    cut_stream(How::Valgrind, 55, "off");
}

#[test]
fn cut_stream_with_sanitizers() {
    cut_stream(How::Sanitized, 56, "off");
}

#[test]
fn cut_stream_preloaded() {
    cut_stream(How::Preloaded, 57, "off");
}

#[test]
fn cut_stream_encrypted() {
    cut_stream(How::Plain, 46, "require");
}

#[test]
fn cut_stream_encrypted_and_preloaded() {
    cut_stream(How::Preloaded, 47, "require");
}

/// Every error of the table.
fn errors(how: How, subnet: u8) {
    let server = EchoServer::start("127.0.0.1:0", "");
    let mut plan = Plan::new(subnet, server.addr());
    let resetting = resetting_server();
    (plan.servers).push(("resets".into(), resetting, resetting));
    let node: SocketAddr = ([127, 0, subnet, 11], 7434).into();
    let tap = TcpTap::start(&format!("127.0.{subnet}.21:0"), node, 0);
    plan.advertise_via = [Some(tap.addr()), None];
    let cluster = Cluster::start(plan);
    let addr = |last: u8| -> SocketAddr {
        format!("127.0.{subnet}.{last}:1434")
            .parse()
            .expect("an address")
    };
    let _silent = UdpSocket::bind(addr(31)).expect("a free address");
    let sales = |port| {
        vec![Instance {
            name: "sales".into(),
            port,
        }]
    };
    let _browser = SqlBrowser::start(addr(32), sales(server.addr().port()));
    // A port on which nobody listens any more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let _refusing = SqlBrowser::start(addr(33), sales(closed.local_addr().expect("bound").port()));
    drop(closed);
    let other_key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let more = format!(
        // Who spoils a packet must find it.
        "tls = \"off\"\n\
         [clusters.nowhere]\nnodes = [\"{}\"]\n\
         [clusters.silent]\nnodes = [\"{}\"]\n\
         [clusters.passive]\nnodes = [\"{}\"]\n\
         [clusters.forged]\nnodes = [\"{}\"]\npublic_key = \"{other_key}\"\n\
         [clusters.unsigned]\nnodes = [\"{browser}\"]\npublic_key = \"{other_key}\"\n\
         [clusters.strict]\nnodes = [\"{browser}\"]\nstrict = true\n\
         [clusters.refused]\nnodes = [\"{}\"]\n",
        addr(30),
        addr(31),
        cluster.query_addr(1),
        cluster.query_addr(0),
        addr(33),
        browser = addr(32),
    );
    let config = cluster.client_toml("errors.toml", "", &more);
    run("errors", how, &config, &[]);
}

#[test]
fn errors_plain() {
    errors(How::Plain, 58);
}

#[test]
fn errors_under_valgrind() {
    errors(How::Valgrind, 59);
}

#[test]
fn errors_with_sanitizers() {
    errors(How::Sanitized, 60);
}

/// The active node is killed between two statements: with `continue` the descriptor goes on, with `reset` the same name
/// reaches the second server. What was acknowledged is there.
fn failover_by_name(how: How, subnet: u8, policy: &str) {
    let lab = Lab::up("embedded", subnet);
    let config = lab.client_toml_with("policy.toml", |text| {
        support::with_raw_failover(&text, policy)
    });
    let library = built("libvianet.so");
    let library = library.to_string_lossy();
    let journal = lab.dir().join("journal");
    let env = [("VIANET_DEBUG", &*journal)];
    let mut client = SqlLine::start_with(how, &config, &["ledger.lab", &library], &env);
    client.sql("CREATE TABLE t (n INTEGER PRIMARY KEY)");
    client.sql("INSERT INTO t VALUES (1)");
    lab.tell("kill", "node-a");
    if policy == "reset" {
        client.send("INSERT INTO t VALUES (2)");
        let lost = client.answer();
        let number = libc::ECONNRESET.to_string();
        assert!(lost.starts_with(&format!("LOST {number}")), "{lost}");
        // Outcome unknown to the program: it looks before it writes again.
        let found = client.sql("SELECT count(*) FROM t WHERE n = 2");
        if found["rows"][0][0] == 0 {
            client.sql("INSERT INTO t VALUES (2)");
        }
        assert_eq!(client.connects.len(), 2);
    } else {
        wait_until_noticed(&journal);
        client.sql("INSERT INTO t VALUES (2)");
        assert_eq!(client.connects.len(), 1, "the same descriptor");
        if how != How::Preloaded {
            assert_eq!(client.info("node"), "node-b");
            assert_eq!(client.info("failovers"), "1");
        }
    }
    let rows = client.sql("SELECT n FROM t ORDER BY n");
    assert_eq!(rows["rows"], serde_json::json!([[1], [2]]));
    client.end();
}

#[test]
fn failover_by_name_plain() {
    failover_by_name(How::Plain, 61, "continue");
    failover_by_name(How::Plain, 61, "reset");
}

#[test]
fn failover_by_name_under_valgrind() {
    failover_by_name(How::Valgrind, 62, "continue");
}

#[test]
fn failover_by_name_with_sanitizers() {
    failover_by_name(How::Sanitized, 63, "continue");
}

#[test]
fn failover_by_name_preloaded() {
    failover_by_name(How::Preloaded, 64, "continue");
    failover_by_name(How::Preloaded, 64, "reset");
}
