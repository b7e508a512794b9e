//! What goes wrong around a real daemon: hooks, disk, ports, forgeries, logins without proof.

mod common;

use common::client::{connect, connect_when_active, request};
use common::{Lab, calm, until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vianet::resolve::Role;
use vianet::resolve::identity::SecretKey;
use vianet::resolve::keepalive::{KeepAlive, Kind, ServerState};
use vianet::via::{Broken, EndReason, Transport};
use vianet_node::config::{Protocol, Upstream};
use vianet_node::control::{Reply, Request};

fn argv(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(String::from).to_vec()
}

/// Runs `vianetd` to its end; exit status and standard error.
fn run(lab: &Lab, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vianetd"))
        .arg("--config")
        .arg(&lab.nodes[0].path)
        .args(args)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn check_config_says_what_is_wrong() {
    let lab = Lab::of(1, 230, |_, _| {});
    assert_eq!(run(&lab, &["--check-config"]).0, Some(0));
    let node = &lab.nodes[0];
    for (program, is_there) in [
        ("true", true),
        ("/bin/true", true),
        ("no-such-program", false),
        ("/etc/passwd", false),
        ("/etc", false),
        ("./no-such-file", false),
    ] {
        let mut config = node.config.clone();
        config.servers[0].hooks.promote = vec![program.into()];
        std::fs::write(&node.path, config.to_toml()).unwrap();
        let (code, text) = run(&lab, &["--check-config"]);
        let expected = if is_there { 0 } else { 2 };
        assert_eq!(code, Some(expected), "{program}: {text}");
        let names = text.contains("hooks.promote = ") && text.contains("node-a.toml");
        assert!(is_there || names, "{text}");
    }
    std::fs::write(&node.path, node.config.to_toml()).unwrap();
    std::fs::remove_file(lab.dir.path().join("cluster.key")).unwrap();
    let (code, text) = run(&lab, &["--check-config"]);
    assert!(
        code == Some(2) && text.contains("key_file") && text.contains("vianet keygen"),
        "{text}"
    );
    std::fs::write(lab.dir.path().join("cluster.key"), "not a key").unwrap();
    let (code, text) = run(&lab, &["--check-config"]);
    assert!(
        code == Some(2) && text.contains("key_file") && !text.contains("not a key"),
        "{text}"
    );
    assert!(text.contains("vianet keygen"), "{text}");
    std::fs::write(&lab.nodes[0].path, "node = \"x\"\nmystery = 1\n").unwrap();
    let (code, text) = run(&lab, &["--check-config"]);
    assert!(
        code == Some(2) && text.contains("mystery") && text.contains("node-a.toml"),
        "{text}"
    );
}

#[test]
fn a_level_of_the_log_that_is_none_is_refused() {
    let lab = Lab::of(1, 222, |_, _| {});
    for (level, code) in [("nonsense", 2), ("info,x=debug", 2), ("warn", 0), ("", 0)] {
        let output = Command::new(env!("CARGO_BIN_EXE_vianetd"))
            .args(["--check-config", "--config"])
            .arg(&lab.nodes[0].path)
            .env("VIANET_LOG", level)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{level}: {text}");
        assert!(code == 0 || text.contains("VIANET_LOG = "), "{text}");
    }
}

/// The group may be the daemon's own; all users of the machine are not.
#[test]
fn a_key_that_everybody_can_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    for (subnet, mode, warned) in [(226, 0o644, true), (227, 0o640, false)] {
        let mut lab = Lab::of(1, subnet, |_, _| {});
        let key = lab.dir.path().join("cluster.key");
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(mode)).unwrap();
        lab.nodes[0].start();
        common::until("the node serves", || {
            lab.nodes[0].log().contains("serving").then_some(())
        });
        let log = lab.nodes[0].log();
        assert_eq!(log.contains("key-exposed"), warned, "{log}");
    }
}

/// A directory that cannot be used is not laid at another daemon's door.
#[test]
fn a_directory_that_cannot_be_made_is_named_with_the_remedy() {
    let remedy = "a directory that this user can make or write";
    for (subnet, key) in [(223, "state_dir"), (224, "shm_dir")] {
        let lab = Lab::of(1, subnet, |_, config| match key {
            "state_dir" => config.state_dir = "/proc/nowhere".into(),
            _ => config.shm_dir = "/proc/nowhere".into(),
        });
        let (code, text) = run(&lab, &[]);
        let names = text.contains(&format!("{key} = /proc/nowhere: ")) && text.contains(remedy);
        assert!(code == Some(1) && names, "{text}");
    }
    // It is there, and what is in it cannot be written.
    let lab = Lab::of(1, 225, |_, _| {});
    let lock = lab.nodes[0].config.state_dir.join("lock");
    std::fs::create_dir_all(lock).unwrap();
    let (code, text) = run(&lab, &[]);
    let names = text.contains("state_dir = ") && text.contains(remedy);
    assert!(code == Some(1) && names, "{text}");
    assert!(!text.contains("another vianetd"), "{text}");
}

/// The log is on a full disk, or whoever read it is gone: lines are lost, and nothing else.
#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let (reader, unread) = std::io::pipe().unwrap();
    drop(reader);
    for (subnet, log) in [(219, Stdio::from(full.unwrap())), (220, unread.into())] {
        let mut lab = Lab::of(1, subnet, |_, _| {});
        let node = &mut lab.nodes[0];
        let Upstream::Tcp(addr) = node.config.servers[0].upstream else {
            unreachable!("the lab's upstreams are TCP")
        };
        common::echo(addr);
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_vianetd"));
        let daemon = daemon.arg("--config").arg(&node.path).stderr(log);
        node.child = Some(daemon.spawn().unwrap());
        lab.wait_active(0);
        lab.nodes[0].signal(15);
        let end = lab.nodes[0].child.as_mut().unwrap().wait().unwrap();
        assert_eq!(end.code(), Some(0), "127.0.{subnet}: {end}");
    }
    // What cannot be said has its exit status all the same.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let mut vianetd = Command::new(env!("CARGO_BIN_EXE_vianetd"));
    let vianetd = vianetd.args(["--config", "/nonexistent/node.toml"]);
    let end = vianetd.stderr(full.unwrap()).status().unwrap();
    assert_eq!(end.code(), Some(2), "{end}");
}

#[test]
fn a_port_in_use_is_said_so() {
    let lab = Lab::of(1, 231, |_, _| {});
    let udp = UdpSocket::bind(lab.addr(0)).unwrap();
    let (code, text) = run(&lab, &[]);
    assert!(
        code == Some(1) && text.contains("listen.query") && text.contains("1434"),
        "{text}"
    );
    drop(udp);
    let tcp = TcpListener::bind(lab.nodes[0].config.listen.via_tcp[0]).unwrap();
    let (code, text) = run(&lab, &[]);
    assert!(
        code == Some(1) && text.contains("listen.via_tcp") && text.contains("7434"),
        "{text}"
    );
    drop(tcp);
    let http = TcpListener::bind("127.0.231.11:9180").unwrap();
    let mut config = lab.nodes[0].config.clone();
    config.http = Some(http.local_addr().unwrap());
    std::fs::write(&lab.nodes[0].path, config.to_toml()).unwrap();
    let (code, text) = run(&lab, &[]);
    assert!(
        code == Some(1) && text.contains("http = 127.0.231.11:9180"),
        "{text}"
    );
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused() {
    let lab = Lab::of(1, 232, |_, _| {}).up();
    let (code, text) = run(&lab, &[]);
    assert!(code == Some(1) && text.contains("state_dir"), "{text}");
    assert_eq!(lab.answer(0, "sales").role, Role::Active);
}

#[test]
fn hooks_run_in_order_and_see_their_environment() {
    let trace = |hook: &str| {
        argv(&format!(
            "echo {hook} $VIANET_NODE $VIANET_SERVER $VIANET_PEER $VIANET_REASON >> \"$0.trace\""
        ))
    };
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("t").display().to_string();
    let mut lab = Lab::new(233, |_, c| {
        let hooks = &mut c.servers[0].hooks;
        for (name, hook) in [
            ("fence", &mut hooks.fence),
            ("promote", &mut hooks.promote),
            ("demote", &mut hooks.demote),
        ] {
            *hook = trace(name);
            hook.push(base.clone());
        }
    })
    .up();
    lab.wait_role(1, Role::Passive);
    lab.nodes[0].kill();
    lab.wait_active(1);
    let trace = std::fs::read_to_string(format!("{base}.trace")).unwrap();
    assert_eq!(
        trace,
        "promote node-a sales node-b start\n\
         fence node-b sales node-a peer-lost\n\
         promote node-b sales node-a peer-lost\n"
    );
}

/// A hook with a child of its own, both longer than any test; `dir/NODE` has their process ids.
fn endless(dir: &Path) -> Vec<String> {
    let mut hook = argv("sleep 300 & echo $$ $! > \"$0/$VIANET_NODE\"; sleep 300");
    hook.push(dir.display().to_string());
    hook
}

fn endless_pids(dir: &Path, node: &str) -> Vec<i32> {
    until("the hook runs", || {
        let text = std::fs::read_to_string(dir.join(node)).ok()?;
        let pids: Vec<i32> = text.split_whitespace().flat_map(str::parse).collect();
        (pids.len() == 2).then_some(pids)
    })
}

fn wait_gone(pid: i32) {
    until(&format!("process {pid} is gone"), || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |s| s.contains(") Z ")).then_some(())
    });
}

#[test]
fn no_hook_outlives_its_daemon_or_its_takeover() {
    let dir = tempfile::tempdir().unwrap();
    let mut lab = Lab::of(1, 243, |_, c| {
        c.servers[0].hooks.promote = endless(dir.path());
    });
    // Killed: the kernel ends the hook.
    lab.nodes[0].start();
    let killed = endless_pids(dir.path(), "node-a");
    lab.nodes[0].kill();
    wait_gone(killed[0]);
    // Its child is not known to the kernel's rule.
    let child = rustix::process::Pid::from_raw(killed[1]).unwrap();
    let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
    // The operator's word ends the takeover and its hook, while the daemon lives.
    std::fs::remove_file(dir.path().join("node-a")).unwrap();
    lab.nodes[0].start();
    let resigned = endless_pids(dir.path(), "node-a");
    std::fs::remove_file(dir.path().join("node-a")).unwrap();
    let server = "sales".into();
    assert_eq!(
        lab.nodes[0].control(&Request::Resign { server }),
        Some(Reply::Done)
    );
    resigned.into_iter().for_each(wait_gone);
    // Stopped while the next takeover runs.
    let stopped = endless_pids(dir.path(), "node-a");
    lab.nodes[0].signal(15);
    let status = lab.nodes[0].child.take().unwrap().wait().unwrap();
    assert!(status.success(), "{status}\n{}", lab.logs());
    stopped.into_iter().for_each(wait_gone);
}

#[test]
fn a_demote_hook_that_does_not_end_is_killed_when_the_daemon_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut lab = Lab::of(1, 244, |_, c| {
        c.servers[0].hooks.demote = endless(dir.path());
    })
    .up();
    lab.nodes[0].signal(15);
    let pids = endless_pids(dir.path(), "node-a");
    lab.nodes[0].child.take().unwrap().wait().unwrap();
    pids.into_iter().for_each(wait_gone);
    assert!(lab.logs().contains("stop-limit"), "{}", lab.logs());
}

/// Not a test of its own: the process that panics.
#[test]
fn panicking_process() {
    if std::env::var_os("VIANET_TEST_PANIC").is_some() {
        vianet_node::daemon::abort_on_panic();
        let _ = std::thread::spawn(|| panic!("a fault")).join();
        println!("went on");
    }
}

#[test]
fn a_panic_in_any_thread_ends_the_whole_process() {
    use std::os::unix::process::ExitStatusExt;
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "panicking_process", "--nocapture"])
        .env("VIANET_TEST_PANIC", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(6), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("a fault"));
}

#[test]
fn without_a_fence_there_is_no_takeover() {
    let mut lab = Lab::new(234, |_, c| {
        c.servers[0].hooks.fence = argv("echo cannot reach the switch; sleep 60");
        c.servers[0].hooks.fence_timeout_ms = 2000;
    })
    .up();
    lab.wait_role(1, Role::Passive);
    lab.nodes[0].kill();
    until(
        &format!("the hook failure {}", lab.nodes[1].log.display()),
        || {
            let log = lab.nodes[1].log();
            (log.contains("hook-failed") && log.contains("time limit of 2000 ms")).then_some(())
        },
    );
    assert!(
        lab.nodes[1].log().contains("cannot reach the switch"),
        "its output is in the log"
    );
    lab.wait_role(1, Role::Passive);
    let status = lab.nodes[1].status();
    // It may have tried again.
    let changes = &status.servers[0].changes;
    assert!(
        changes.iter().any(|c| c.reason == "fence-failed"),
        "{}",
        lab.logs()
    );
}

#[test]
fn a_full_disk_refuses_the_active_role_and_a_saved_generation_survives() {
    let mut lab = Lab::of(1, 235, |_, c| {
        let vianet_node::config::Authority::Keepalive { retry_ms, .. } = &mut c.authority;
        *retry_ms = 500;
    });
    let Upstream::Tcp(addr) = lab.nodes[0].config.servers[0].upstream else {
        unreachable!()
    };
    common::echo(addr);
    lab.nodes[0].start_on_a_full_disk();
    until("refused", || {
        lab.nodes[0].log().contains("not-saved").then_some(())
    });
    let answer = lab.answer(0, "sales");
    assert_ne!(answer.role, Role::Active);
    assert_eq!(lab.nodes[0].control(&Request::Stop), Some(Reply::Done));
    lab.nodes[0].child.take().unwrap().wait().unwrap();
    lab.nodes[0].start();
    let first = lab.wait_active(0);
    lab.nodes[0].kill();
    let state = lab.nodes[0].config.state_dir.join("sales.toml");
    assert!(
        std::fs::read_to_string(&state)
            .unwrap()
            .contains(&first.generation.to_string())
    );
    assert_eq!(
        std::fs::metadata(&state).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_saved_generation_from_the_far_future_is_refused_until_the_operator_overrides() {
    let mut lab = Lab::of(1, 236, |_, _| {});
    let Upstream::Tcp(addr) = lab.nodes[0].config.servers[0].upstream else {
        unreachable!()
    };
    common::echo(addr);
    let dir = lab.nodes[0].config.state_dir.clone();
    std::fs::create_dir_all(&dir).unwrap();
    let far = u64::MAX / 4;
    let saved = format!(
        "cluster_id = \"{}\"\nseen = {far}\nown = {far}\n",
        lab.cluster_id
    );
    std::fs::write(dir.join("sales.toml"), saved).unwrap();
    lab.nodes[0].start();
    until("said so", || {
        lab.nodes[0]
            .log()
            .contains("generation-refused")
            .then_some(())
    });
    let answer = lab.answer(0, "sales");
    assert_ne!(answer.role, Role::Active);
    let server = "sales".to_owned();
    assert_eq!(
        lab.nodes[0].control(&Request::ForceActive { server }),
        Some(Reply::Done)
    );
    assert!(lab.wait_active(0).generation < far);
}

#[test]
fn forged_keep_alives_move_nothing() {
    let lab = Lab::new(237, |_, c| calm(c)).up();
    lab.wait_role(1, Role::Passive);
    let active = lab.wait_active(0);
    let mut cluster_id = [0; 16];
    for (i, byte) in cluster_id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&lab.cluster_id[2 * i..2 * i + 2], 16).unwrap();
    }
    // From the peer's own address (another port), once with a wrong key, once rightly signed but not fresh.
    let socket = UdpSocket::bind(SocketAddr::new(lab.addr(0).ip(), 0)).unwrap();
    for (key, role, generation) in [
        (
            SecretKey::generate().unwrap(),
            Role::Passive,
            active.generation,
        ),
        (
            SecretKey::generate().unwrap(),
            Role::Active,
            active.generation + 10,
        ),
        (lab.key.clone(), Role::Passive, active.generation),
        (lab.key.clone(), Role::Active, active.generation + 10),
    ] {
        let forged = KeepAlive {
            kind: Kind::Resign,
            cluster_id,
            from: "node-a".into(),
            to: "node-b".into(),
            incarnation: 1,
            sequence: u64::MAX,
            nonce: [1; 16],
            echo: [2; 16],
            servers: vec![ServerState {
                name: "sales".into(),
                role,
                generation,
            }],
        };
        for _ in 0..20 {
            socket
                .send_to(&forged.encode(&key).unwrap(), lab.addr(1))
                .unwrap();
        }
    }
    until("refused", || {
        lab.nodes[1]
            .log()
            .contains("keepalive-refused")
            .then_some(())
    });
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(lab.answer(1, "sales").role, Role::Passive);
    assert_eq!(lab.wait_active(0).generation, active.generation);
}

#[test]
fn a_server_that_fails_its_health_checks_is_left() {
    let mut lab = Lab::new(238, |i, c| {
        calm(c);
        if i == 0 {
            c.servers[0].hooks.health = argv("test ! -e \"$0\"");
            c.servers[0]
                .hooks
                .health
                .push(c.state_dir.with_extension("sick").display().to_string());
        }
    });
    // The hook's path is relative to where the daemon runs; make it absolute.
    let sick = lab.dir.path().join("sick");
    let mut config = lab.nodes[0].config.clone();
    if let Some(last) = config.servers[0].hooks.health.last_mut() {
        *last = sick.display().to_string();
    }
    std::fs::write(&lab.nodes[0].path, config.to_toml()).unwrap();
    lab.nodes[0].config = config;
    let lab = lab.up();
    lab.wait_role(1, Role::Passive);
    let client = connect_when_active(&lab, 0, Transport::Tcp);
    std::fs::write(&sick, "").unwrap();
    assert_eq!(client.broken(), Broken::Ended(EndReason::UpstreamLost));
    lab.wait_active(1);
    lab.wait_role(0, Role::Passive);
    assert!(
        lab.nodes[1].log().contains("peer-resigned"),
        "{}",
        lab.logs()
    );
}

/// A server that answers every startup packet with `answer`; says whether it ever got a byte more than that.
fn fake_postgres(addr: SocketAddr, answer: &'static [u8]) -> Arc<AtomicBool> {
    let listener = TcpListener::bind(addr).unwrap();
    let more = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&more);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, flag) = (stream.unwrap(), Arc::clone(&flag));
            std::thread::spawn(move || {
                let mut buffer = [0; 1024];
                while let Ok(n) = stream.read(&mut buffer) {
                    match &buffer[..n] {
                        [] => return,
                        // The health check.
                        [0, 0, 0, 8, 4, 210, 22, 47] => _ = stream.write_all(b"N"),
                        both if both.starts_with(STARTUP) && both.len() > STARTUP.len() => {
                            flag.store(true, Ordering::Release);
                            let _ = stream.write_all(answer);
                        }
                        STARTUP => {
                            // Time for whatever the relay would let through before the answer.
                            std::thread::sleep(std::time::Duration::from_millis(100));
                            let _ = stream.write_all(answer);
                        }
                        _ => flag.store(true, Ordering::Release),
                    }
                }
            });
        }
    });
    more
}

const STARTUP: &[u8] = b"\0\0\0\x12\0\x03\0\0user\0app\0\0";
const TRUSTED: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
const CHALLENGED: &[u8] = b"R\0\0\0\x0c\0\0\0\x05saltR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

#[test]
fn a_login_without_a_challenge_is_refused_and_says_why() {
    use Protocol::{Postgres, Raw};
    for (subnet, protocol, answer, allow, passes) in [
        (239, Postgres, TRUSTED, false, false),
        (240, Postgres, TRUSTED, true, true),
        (241, Postgres, CHALLENGED, false, true),
        // A configuration that forgot to say so.
        (245, Raw, TRUSTED, false, false),
        (246, Raw, CHALLENGED, false, true),
    ] {
        let mut lab = Lab::of(1, subnet, |_, c| {
            c.servers[0].protocol = protocol;
            c.servers[0].allow_unauthenticated_upstream = allow;
        });
        let Upstream::Tcp(addr) = lab.nodes[0].config.servers[0].upstream else {
            unreachable!()
        };
        let more = fake_postgres(addr, answer);
        lab.nodes[0].start();
        lab.wait_active(0);
        for transport in [Transport::Tcp, Transport::Shm] {
            let client = connect_when_active(&lab, 0, transport);
            if !allow {
                client.send(&[0, 0, 0, 8, 4, 210, 22, 47]);
                client.expect(b"N");
            }
            // A client that does not wait for an answer must not get its statement run.
            client.send(&[STARTUP, b"Q\0\0\0\x0dDROP all\0"].concat());
            if passes {
                client.expect(answer);
                continue;
            }
            let mut all = Vec::new();
            while let Ok(more) = client.recv() {
                if more.is_empty() {
                    break;
                }
                all.extend(more);
            }
            let text = String::from_utf8_lossy(&all);
            assert!(text.starts_with('E') && text.contains("C28000\0"), "{text}");
            assert!(text.contains("allow_unauthenticated_upstream"), "{text}");
            assert!(
                !all.windows(9).any(|w| w == &TRUSTED[..9]),
                "no success reaches the client"
            );
        }
        if allow {
            continue; // unwatched: startup and statement come in one piece
        }
        if passes {
            until("what followed was passed on", || {
                more.load(Ordering::Acquire).then_some(())
            });
        } else {
            std::thread::sleep(std::time::Duration::from_millis(300));
            assert!(
                !more.load(Ordering::Acquire),
                "the server got more than the startup packet"
            );
        }
        let said = lab.logs().contains("event=\"protocol\"");
        assert_eq!(said, protocol == Raw, "{}", lab.logs());
    }
}

#[test]
fn a_unix_upstream_of_our_own_user_is_refused_although_allowed() {
    let mut lab = Lab::of(1, 242, |_, _| {});
    let path = lab.dir.path().join("db.sock");
    let mut config = lab.nodes[0].config.clone();
    config.servers[0].upstream = Upstream::Unix(path.clone());
    config.servers[0].allow_unauthenticated_upstream = true;
    std::fs::write(&lab.nodes[0].path, config.to_toml()).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    lab.nodes[0].start();
    lab.wait_active(0);
    assert!(connect(request(&lab, 0, Transport::Tcp, "sales")).is_err());
    assert!(
        lab.nodes[0].log().contains("runs as our own user"),
        "{}",
        lab.logs()
    );
}
