//! A client in plain sockets, by name, through every hooked call: over shared memory and over TCP, against two node
//! daemons in front of an echo server.

mod common;
#[path = "../../tests/support/mod.rs"]
mod support;

use common::{compile, finish, library, text};
use std::path::Path;
use std::process::Command;
use support::cluster::{Cluster, Plan};
use support::echo::EchoServer;
use support::programs;

/// Runs one scenario of `byname.c` over both transports, in subnet 127.0.`subnet`.
fn scenario(name: &str, subnet: u8) {
    scenario_of("byname", name, subnet);
}

fn scenario_of(program: &str, name: &str, subnet: u8) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let Some(program) = compile(directory.path(), program, &[]) else {
        return;
    };
    let echo = EchoServer::start("127.0.0.1:0", "");
    let cluster = Cluster::start(Plan::new(subnet, echo.addr()));
    let config = cluster.client_toml("client.toml", "deadline_ms = 10000", "");
    for transport in ["shm", "tcp"] {
        for server in ["test\\echo", "echo.test"] {
            let log = directory.path().join(format!("{transport}.log"));
            let mut command = client(&program, &config);
            command
                .env("VIANET_DEBUG", &log)
                .env("VIANET_TRANSPORTS", transport);
            let output = finish(command.args([name, server]));
            if !output.status.success() {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                panic!("{name} over {transport}: {}\n--- log\n{log}", text(&output));
            }
        }
    }
}

fn client(program: &Path, config: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env("LD_PRELOAD", library())
        .env("VIANET_CONFIG", config);
    command
}

#[test]
fn through_vianet_run_by_every_form_of_the_name() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let Some(program) = compile(directory.path(), "byname", &[]) else {
        return;
    };
    let echo = EchoServer::start("127.0.0.1:0", "");
    let cluster = Cluster::start(Plan::new(149, echo.addr()));
    let alias = "[aliases]\nours = 'test\\echo'";
    let config = cluster.client_toml("client.toml", "deadline_ms = 10000", alias);
    for transport in ["shm", "tcp"] {
        for server in ["test\\echo", "echo.test", "ours"] {
            let log = directory.path().join(format!("{transport}.log"));
            let mut run = programs::command(programs::built("vianet"));
            run.arg("run").arg("--config").arg(&config);
            run.args(["--strict", "--transports", transport, "--"]);
            run.arg(&program).args(["calls", server]);
            run.env("VIANET_PRELOAD", library())
                .env("VIANET_DEBUG", &log);
            let output = finish(&mut run);
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(
                output.status.success(),
                "{server} over {transport}: {}\n--- log\n{log}",
                text(&output)
            );
        }
    }
}

#[test]
fn names_have_addresses_that_stand_for_them() {
    scenario("addresses", 150);
}

#[test]
fn options_and_addresses_are_those_of_a_tcp_socket() {
    scenario("options", 151);
}

#[test]
fn every_call_that_moves_bytes() {
    scenario("calls", 152);
}

#[test]
fn readiness_and_nonblocking_connect() {
    scenario("events", 153);
}

#[test]
fn duplicates_of_the_descriptor() {
    scenario("duplicates", 154);
}

#[test]
fn shutdown_and_sigpipe() {
    scenario("endings", 155);
}

#[test]
fn fork_vfork_exec_and_streams() {
    scenario("processes", 156);
}

#[test]
fn programs_and_streams_that_write_without_the_library() {
    scenario("writers", 158);
}

#[test]
fn a_poll_of_the_one_descriptor_answers_as_the_kernel_does() {
    scenario_of("polls", "answers", 145);
}

#[test]
fn a_poll_keeps_its_time_limit() {
    scenario_of("polls", "limits", 146);
}

#[test]
fn signals_jumps_and_cancellation_end_a_poll() {
    scenario_of("polls", "interruptions", 147);
}

#[test]
fn parent_and_child_poll_in_turn() {
    scenario_of("polls", "processes", 148);
}

#[test]
fn without_proc_a_registration_is_not_lost_in_silence() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let Some(program) = compile(directory.path(), "byname", &[]) else {
        return;
    };
    if !common::can_hide_proc() {
        return;
    }
    let echo = EchoServer::start("127.0.0.1:0", "");
    let cluster = Cluster::start(Plan::new(144, echo.addr()));
    let config = cluster.client_toml("client.toml", "deadline_ms = 10000", "");
    let log = directory.path().join("log");
    // Shared memory is out of reach too: who is on the same host is known from /proc.
    for scenario in ["without_proc", "calls", "duplicates"] {
        let mut command = common::without_proc(&program);
        command
            .args([scenario, "echo.test"])
            .env("LD_PRELOAD", library())
            .env("VIANET_CONFIG", &config)
            .env("VIANET_DEBUG", &log);
        let output = finish(&mut command);
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(
            output.status.success(),
            "{scenario}: {}\n--- log\n{log}",
            text(&output)
        );
        assert!(log.contains("mount -t proc"), "{scenario}: {log}");
    }
}

#[test]
fn the_kill_switch_makes_names_unknown() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let Some(program) = compile(directory.path(), "byname", &[]) else {
        return;
    };
    let config = directory.path().join("client.toml");
    std::fs::write(&config, "[clusters.test]\nnodes = [\"127.0.157.11\"]\n").expect("written");
    let output = finish(
        client(&program, &config)
            .args(["calls", "echo.test"])
            .env("VIANET_DISABLE", "1"),
    );
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("getaddrinfo(echo.test)"), "{said}");
    let output = finish(client(&program, &config).args(["addresses", "echo.test"]));
    assert!(output.status.success(), "{}", text(&output));
}
