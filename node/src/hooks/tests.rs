use super::*;

fn sh(script: &str, limit: Duration) -> Outcome {
    let argv = ["sh", "-c", script].map(String::from);
    run(
        &argv,
        &[("VIANET_NODE", "node-a".into())],
        limit,
        &Permit::default(),
    )
}

const LONG: Duration = Duration::from_secs(30);

#[test]
fn success_failure_and_output() {
    let o = sh("echo out; echo err >&2; echo $VIANET_NODE", LONG);
    assert!(
        o.ok && o.output.contains("out") && o.output.contains("err"),
        "{o:?}"
    );
    assert!(o.output.contains("node-a"));
    let o = sh("echo why; exit 3", LONG);
    assert!(!o.ok);
    assert_eq!(
        (o.ended.as_str(), o.output.as_str()),
        ("exit status 3", "why")
    );
    assert_eq!(sh("kill -9 $$", LONG).ended, "killed by signal 9");
    assert!(
        run(&[], &[], LONG, &Permit::default()).ok,
        "a hook that is not configured is a success"
    );
    let o = run(&["/no/such/program".into()], &[], LONG, &Permit::default());
    assert!(!o.ok && o.ended.contains("/no/such/program"), "{o:?}");
}

#[test]
fn at_the_limit_the_whole_group_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let script = format!("sleep 300 & echo $! > {}; sleep 300", file.display());
    // A shell that did not come so far within the limit is started again.
    let pid: i32 = (0..20)
        .find_map(|_| {
            let o = sh(&script, Duration::from_millis(1500));
            assert!(!o.ok);
            assert_eq!(o.ended, "time limit of 1500 ms");
            std::fs::read_to_string(&file).ok()?.trim().parse().ok()
        })
        .expect("the script never began");
    let gone = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        // Gone, or a zombie that nobody has reaped yet.
        std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z "))
    });
    assert!(gone, "the background child {pid} lives");
}

#[test]
fn a_server_that_a_hook_starts_is_not_waited_for() {
    let o = sh("sleep 5 & echo started", LONG);
    assert!(o.ok && o.took < Duration::from_secs(5), "{o:?}");
    assert_eq!(o.output, "started");
}

#[test]
fn much_output_is_read_and_cut() {
    let o = sh("yes | head -c 1000000", LONG);
    assert!(o.ok, "{o:?}");
    assert!(o.output.len() <= MAX_OUTPUT);
}

#[test]
fn without_permit_nothing_runs() {
    let permit = Permit::default();
    permit.revoke();
    let argv = ["sh", "-c", "exit 0"].map(String::from);
    let o = run(&argv, &[], LONG, &permit);
    assert!(!o.ok && o.ended.contains("not wanted"), "{o:?}");
    // Revoked while it runs, at whatever moment.
    for _ in 0..20 {
        let permit = Permit::default();
        let revoker = permit.clone();
        let thread = std::thread::spawn(move || revoker.revoke());
        let argv = ["sleep", "300"].map(String::from);
        let o = run(&argv, &[], LONG, &permit);
        thread.join().unwrap();
        assert!(!o.ok && !o.ended.contains("time limit"), "{o:?}");
    }
}
