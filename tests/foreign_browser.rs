//! Our client finds servers through a SQL Browser that is not ours and knows nothing of vianet, and then uses `plain`.

mod support;

use std::net::SocketAddr;
use std::time::Duration;
use support::c::{How, Program};
use support::echo::EchoServer;
use support::programs::{command, installed, run_well, run_within, scratch};
use support::sql_browser::{Fault, Instance, SqlBrowser};
use support::tds::TdsServer;

const LIMIT: Duration = Duration::from_secs(120);

/// A cluster that a foreign SQL Browser answers for: naming works, the transport is `plain`.
fn foreign_config(subnet: u8, inside: &str) -> std::path::PathBuf {
    let path = scratch().join(format!("foreign-{subnet}.toml"));
    let text = format!("[clusters.old]\nnodes = [\"127.0.{subnet}.31\"]\n{inside}\n");
    std::fs::create_dir_all(scratch()).expect("target can be written");
    std::fs::write(&path, text).expect("target can be written");
    path
}

#[test]
fn our_client_resolves_through_a_foreign_browser() {
    let server = EchoServer::start("127.0.75.31:0", "");
    let instance = Instance {
        name: "sales".into(),
        port: server.addr().port(),
    };
    let addr = SocketAddr::from(([127, 0, 75, 31], 1434));
    let browser = SqlBrowser::start(addr, vec![instance]);
    let config = foreign_config(75, "");
    for (how, name) in [
        (How::Plain, "old\\sales"),
        (How::Plain, "sales.old"),
        (How::Preloaded, "sales.old"),
    ] {
        let program = Program::build("echo", how);
        let mut echo = program.command(&config);
        let text = run_well(LIMIT, echo.arg(name));
        if how == How::Plain {
            assert!(text.contains("transport 4"), "plain is in use:\n{text}");
        }
    }
    let asked = browser.asked();
    assert!(
        asked.iter().any(|request| request == b"\x04sales\0"),
        "CLNT_UCAST_INST as the specification has it: {asked:02x?}"
    );
}

/// A real client under the preload library, by a name that a foreign SQL Browser resolves.
#[test]
fn tsql_under_the_preload_library_reaches_a_foreign_server() {
    assert!(installed("tsql"), "tsql is missing: run `make tools`");
    let tds = TdsServer::start(SocketAddr::from(([127, 0, 76, 31], 0)), 76);
    let instance = Instance {
        name: "sales".into(),
        port: tds.addr().port(),
    };
    let _browser = SqlBrowser::start(SocketAddr::from(([127, 0, 76, 31], 1434)), vec![instance]);
    let config = foreign_config(76, "");
    let mut tsql = command(support::programs::built("vianet"));
    tsql.env("VIANET_CONFIG", config).args([
        "run",
        "--",
        "sh",
        "-c",
        r"printf 'select 1\ngo\nexit\n' | tsql -H sales.old -p 1 -U sa -P x -o fq",
    ]);
    let text = run_well(LIMIT, &mut tsql);
    assert!(text.lines().any(|line| line.trim() == "76"), "{text}");
    assert_eq!(tds.logins(), 1);
}

/// Answers of a foreign browser that are wrong: never believed, never fatal, and the right one is taken when it comes.
#[test]
fn spoilt_answers_of_a_foreign_browser_are_not_believed() {
    let server = EchoServer::start("127.0.77.31:0", "");
    let instance = Instance {
        name: "sales".into(),
        port: server.addr().port(),
    };
    let browser = SqlBrowser::start(SocketAddr::from(([127, 0, 77, 31], 1434)), vec![instance]);
    let config = foreign_config(77, "");
    let program = Program::build("echo", How::Plain);
    let short = scratch().join("foreign-77-short.toml");
    let text = std::fs::read_to_string(&config).expect("just written");
    std::fs::write(&short, format!("deadline_ms = 500\n{text}")).expect("target can be written");
    for fault in [
        Fault::Short,
        Fault::SizeTooSmall,
        Fault::SizeTooLarge,
        Fault::WrongType,
        Fault::ImpossiblePort,
        Fault::TooLong,
        Fault::OtherSource,
    ] {
        browser.set_fault(fault);
        let output = run_within(LIMIT, program.command(&short).arg("old\\sales"));
        assert!(!output.status.success(), "{fault:?} was believed");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("No route to host") || said.contains("errno 113"),
            "{fault:?}: {said}"
        );
    }
    browser.set_fault(Fault::None);
    run_well(LIMIT, program.command(&config).arg("old\\sales"));
}
