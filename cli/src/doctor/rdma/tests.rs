use super::*;

#[test]
fn a_memory_limit_that_is_too_low_is_wrong_and_says_how_to_raise_it() {
    let finding = memory_finding(Some(CHANNEL_BYTES - 1));
    assert_eq!(finding.state, State::Wrong);
    assert!(
        finding.says.contains("enough for 0 channels"),
        "{finding:?}"
    );
    assert!(finding.remedy.is_some_and(|r| r.contains("ulimit -l")));
}

#[test]
fn a_memory_limit_of_a_few_channels_works_and_says_so() {
    let finding = memory_finding(Some(3 * CHANNEL_BYTES));
    assert_eq!(finding.state, State::Good);
    assert!(
        finding.says.contains("enough for 3 channels"),
        "{finding:?}"
    );
    assert!(finding.remedy.is_some());
    assert_eq!(memory_finding(None).state, State::Good);
}

#[test]
fn device_files_that_are_not_there_name_the_module() {
    let dir = tempfile::tempdir().unwrap();
    let findings = device_files(dir.path());
    assert_eq!(findings.len(), 2, "{findings:?}");
    for (finding, name) in findings.iter().zip(["uverbs0", "rdma_cm"]) {
        assert_eq!(finding.state, State::Wrong);
        assert!(finding.says.contains(name), "{finding:?}");
        assert!(
            finding
                .remedy
                .as_ref()
                .is_some_and(|r| r.contains("modprobe"))
        );
    }
}

#[test]
fn device_files_that_can_be_opened_are_one_finding() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["uverbs3", "rdma_cm", "umad0"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let findings = device_files(dir.path());
    assert!(
        matches!(&findings[..], [one] if one.state == State::Good),
        "{findings:?}"
    );
}
