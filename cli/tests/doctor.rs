//! `vianet doctor` on a machine as it is, without RDMA libraries that are any good, and (ignored: `make test-rdma` runs
//! them) on one that has RDMA devices.

use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

/// `vianet doctor` that finds no configuration but what a test gives it.
fn doctor(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vianet"));
    command
        .arg("doctor")
        .args(args)
        .env_remove("VIANET_CONFIG")
        .env_remove("VIANET_DISABLE")
        .env("XDG_CONFIG_HOME", "/nonexistent");
    command
}

fn run(command: &mut Command) -> (Value, Output) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let json = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (json, output)
}

/// The findings about one thing.
fn about<'a>(report: &'a Value, section: &str, subject: &str) -> Vec<&'a Value> {
    let findings = report["findings"].as_array().expect("findings");
    let wanted = |f: &&Value| f["section"] == section && f["subject"] == subject;
    let found: Vec<_> = findings.iter().filter(wanted).collect();
    assert!(!found.is_empty(), "nothing about {subject}: {report:#}");
    found
}

fn text<'a>(finding: &'a Value, key: &str) -> &'a str {
    finding[key].as_str().unwrap_or_default()
}

fn config(dir: &Path, text: &str) -> String {
    let path = dir.join("client.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn every_transport_is_there_with_a_reason_and_a_remedy_where_it_cannot_be_used() {
    let (report, output) = run(&mut doctor(&["--json"]));
    for transport in ["shm", "rdma", "tcp", "plain"] {
        for finding in about(&report, "transports", transport) {
            assert!(!text(finding, "says").is_empty(), "{finding}");
            if transport == "rdma" && finding["state"] != "good" {
                assert!(!text(finding, "remedy").is_empty(), "{finding}");
            }
        }
    }
    let wrong = report["findings"].as_array().unwrap().iter();
    let wrong = wrong.filter(|f| f["state"] == "wrong").count();
    assert_eq!(report["well"], wrong == 0);
    assert_eq!(
        output.status.code(),
        Some(i32::from(wrong > 0)),
        "{report:#}"
    );
}

#[test]
fn the_words_say_what_the_object_says() {
    let (report, _) = run(&mut doctor(&["--rdma", "--json"]));
    let said = doctor(&["--rdma"]).output().unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    for finding in report["findings"].as_array().unwrap() {
        // A round trip takes another time each time.
        if finding["subject"] != "round trip" {
            assert!(
                said.contains(text(finding, "says")),
                "{said}\nlacks {finding}"
            );
            assert!(
                said.contains(text(finding, "remedy")),
                "{said}\nlacks {finding}"
            );
        }
    }
    assert!(
        report["rdma"]["channel_bytes"]
            .as_u64()
            .is_some_and(|n| n > 0)
    );
}

/// A library that is none: RDMA is absent, with the name of what it lacks, and nothing else is the worse for it.
#[test]
fn a_wrong_libibverbs_is_named_and_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    for library in ["libibverbs.so.1", "librdmacm.so.1"] {
        let made = Command::new("cc")
            .args(["-shared", "-x", "c", "/dev/null", "-o"])
            .arg(dir.path().join(library))
            .status()
            .unwrap();
        assert!(made.success());
    }
    let mut command = doctor(&["--rdma", "--json"]);
    let (report, output) = run(command.env("LD_LIBRARY_PATH", dir.path()));
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let finding = about(&report, "rdma", "libraries")[0];
    assert_eq!(finding["state"], "absent");
    let says = text(finding, "says");
    assert!(
        says.contains("libibverbs.so.1") && says.contains("ibv_"),
        "{says}"
    );
    assert!(text(finding, "remedy").contains("libibverbs1"), "{finding}");
    assert_eq!(about(&report, "transports", "tcp")[0]["state"], "good");
}

#[test]
fn a_file_that_is_no_library_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("libibverbs.so.1"), "not a library").unwrap();
    let mut command = doctor(&["--json"]);
    let (report, _) = run(command.env("LD_LIBRARY_PATH", dir.path()));
    let says = text(about(&report, "transports", "rdma")[0], "says");
    assert!(says.contains("libibverbs.so.1"), "{says}");
}

#[test]
fn a_node_that_does_not_answer_is_wrong_and_so_is_a_bad_key() {
    let dir = tempfile::tempdir().unwrap();
    // Bound and never read.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let node = silent.local_addr().unwrap();
    let file = config(
        dir.path(),
        &format!("[clusters.lab]\nnodes = [\"{node}\"]\n[aliases]\nshop = 'lab\\sales'\n"),
    );
    let (report, output) = run(&mut doctor(&["--json", "--config", &file]));
    assert_eq!(output.status.code(), Some(1));
    let finding = about(&report, "cluster lab", &node.to_string())[0];
    assert_eq!(finding["state"], "wrong");
    assert!(text(finding, "says").contains("no answer"), "{finding}");
    assert!(text(finding, "remedy").contains("lab\\sales"), "{finding}");
    assert_eq!(
        about(&report, "cluster lab", "public key")[0]["state"],
        "absent"
    );

    let text_of_bad = format!("[clusters.lab]\nnodes = [\"{node}\"]\npublic_key = \"zz\"\n");
    let file = config(dir.path(), &text_of_bad);
    let (report, _) = run(&mut doctor(&["--json", "--config", &file]));
    let finding = about(&report, "client", "configuration")[0];
    assert_eq!(finding["state"], "wrong");
    assert!(text(finding, "says").contains("public_key"), "{finding}");
}

#[test]
fn a_configuration_that_cannot_be_understood_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path(), "deadline = 3\n");
    let (report, output) = run(&mut doctor(&["--json", "--config", &file]));
    assert_eq!(output.status.code(), Some(1));
    let finding = about(&report, "client", "configuration")[0];
    assert!(text(finding, "says").contains(&file), "{finding}");
    assert!(text(finding, "says").contains("deadline"), "{finding}");
}

#[test]
fn the_kill_switch_is_told() {
    for (value, state) in [("1", "absent"), ("0", "good"), ("", "good")] {
        let (report, _) = run(doctor(&["--json"]).env("VIANET_DISABLE", value));
        assert_eq!(about(&report, "client", "kill switch")[0]["state"], state);
    }
}

// ---------------------------------------------------------------------------------- on a machine with rxe0 and siw0

#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn rdma_devices_are_listed_and_each_brings_bytes_back() {
    let (report, output) = run(&mut doctor(&["--rdma", "--json"]));
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let rdma = &report["rdma"];
    for (name, iwarp, variable) in [
        ("rxe0", false, "RDMA_VM_RXE_ADDR"),
        ("siw0", true, "RDMA_VM_SIW_ADDR"),
    ] {
        let mut devices = rdma["devices"].as_array().unwrap().iter();
        let device = devices.find(|d| d["name"] == name).expect("is listed");
        assert_eq!(device["iwarp"], iwarp);
        assert!(device["queue_pairs"].as_u64().is_some_and(|n| n > 100));
        assert_eq!(device["ports"][0]["state"], "active");
        let address = std::env::var(variable).unwrap();
        let mut trips = rdma["round_trips"].as_array().unwrap().iter();
        let trip = trips.find(|t| t["device"] == name && t["address"] == address.as_str());
        let trip = trip.unwrap_or_else(|| panic!("no round trip over {name}: {report:#}"));
        assert!(trip["us"].as_f64().is_some_and(|us| us > 0.0), "{trip}");
    }
    assert_eq!(about(&report, "transports", "rdma")[0]["state"], "good");
}

/// As a user that may not open the device files.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn rdma_device_files_that_may_not_be_opened_are_named() {
    let dir = Path::new("/dev/infiniband");
    let files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let mode = |mode| {
        for file in &files {
            std::fs::set_permissions(file, PermissionsExt::from_mode(mode)).unwrap();
        }
    };
    mode(0o600);
    let (report, output) = run(doctor(&["--rdma", "--json"]).uid(65534).gid(65534));
    mode(0o666);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    let findings = about(&report, "rdma", "device files");
    // Other tests here make devices of their own.
    let opened = |file: &&std::path::PathBuf| {
        let name = file.file_name().unwrap().to_string_lossy();
        name.starts_with("uverbs") || name == "rdma_cm"
    };
    assert_eq!(
        findings.len(),
        files.iter().filter(opened).count(),
        "{findings:?}"
    );
    for finding in findings {
        assert!(
            text(finding, "says").contains("Permission denied"),
            "{finding}"
        );
        assert!(text(finding, "remedy").contains("permission"), "{finding}");
    }
    let short = about(&report, "transports", "rdma")[0];
    assert!(text(short, "says").contains("Permission denied"), "{short}");
}

/// With a limit on locked memory that no channel fits in, as a user for whom it holds.
#[test]
#[ignore = "needs an RDMA device: make test-rdma"]
fn rdma_locked_memory_that_is_too_little_is_named() {
    let mut command = doctor(&["--rdma", "--json"]);
    command.uid(65534).gid(65534);
    // SAFETY: one system call, in the child before it becomes the program.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: 65536,
                rlim_max: 65536,
            };
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit);
            Ok(())
        });
    }
    let (report, output) = run(&mut command);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    let finding = about(&report, "rdma", "locked memory")[0];
    assert_eq!(finding["state"], "wrong");
    assert!(text(finding, "says").contains("64 KiB"), "{finding}");
    assert!(text(finding, "remedy").contains("ulimit -l"), "{finding}");
    assert_eq!(report["rdma"]["memlock"], 65536);
}
