//! What `client.toml` is refused for.

use super::*;

fn problem(text: &str) -> String {
    let client: Client = toml::from_str(text).expect("the form is right");
    client.check().expect_err(text)
}

fn cluster(more: &str) -> String {
    format!("[clusters.lab]\nnodes = [\"127.0.0.11\"]\n{more}\n")
}

#[test]
fn a_device_that_does_not_end_is_no_configuration() {
    let error = Client::load(Path::new("/dev/zero")).expect_err("a device");
    let text = error.to_string();
    assert!(
        text.contains("/dev/zero: cannot be read: larger than 1 MiB"),
        "{text}"
    );
}

#[test]
fn a_value_that_cannot_be_is_refused_with_its_key() {
    for (text, key) in [
        ("deadline_ms = 0".into(), "deadline_ms = 0"),
        ("probe_interval_ms = 0".into(), "probe_interval_ms = 0"),
        ("probes_lost = 0".into(), "probes_lost = 0"),
        ("spin_us = 1000001".into(), "spin_us = 1000001"),
        ("ring_bytes = 5000".into(), "ring_bytes = 5000"),
        (
            "[clusters.lab]\nnodes = []".into(),
            "clusters.lab.nodes is empty",
        ),
        (
            "[clusters.lab]\nnodes = [\"10.0.0.1:x\"]".into(),
            "clusters.lab.nodes: \"10.0.0.1:x\"",
        ),
        (
            cluster("public_key = \"beef\""),
            "clusters.lab.public_key: ",
        ),
        (
            cluster("transports = []"),
            "clusters.lab.transports is empty",
        ),
        (
            cluster("transports = [\"plain\"]\nstrict = true"),
            "clusters.lab.strict = true refuses plain",
        ),
        (
            cluster("tls = \"require\""),
            "clusters.lab.tls = \"require\": nodes are known by public_key",
        ),
        (
            cluster(&format!(
                "tls = \"require\"\ntransports = [\"rdma\", \"plain\"]\npublic_key = \"{}\"",
                "0".repeat(64)
            )),
            "clusters.lab.tls = \"require\" uses shm and tcp only",
        ),
        (
            "[clusters.lab]\nnodes = [\"a node\"]".into(),
            "clusters.lab.nodes: \"a node\"",
        ),
        (
            cluster("[clusters.LAB]\nnodes = [\"127.0.0.12\"]"),
            "clusters.lab: there are two",
        ),
        (
            "[clusters.\"a b\"]\nnodes = [\"127.0.0.11\"]".into(),
            "clusters.a b: the cluster name \"a b\"",
        ),
        (
            cluster("[clusters.lab.servers.\"sa;les\"]"),
            "clusters.lab.servers: the server name \"sa;les\"",
        ),
        (
            cluster("[clusters.lab.servers.a]\n[clusters.lab.servers.A]"),
            "clusters.lab.servers.a: there are two",
        ),
        (
            cluster("[aliases]\nshop = 'nope\\sales'"),
            "aliases.shop = \"nope\\\\sales\": write cluster\\server, with a cluster of this file (lab)",
        ),
        (
            cluster("[aliases]\na = 'b'\nb = 'lab\\sales'"),
            "aliases.a = \"b\": ",
        ),
        (
            cluster("[aliases]\nShop = 'lab\\a'\nshop = 'lab\\b'"),
            "aliases.shop: there are two",
        ),
    ] {
        let problem = problem(&text);
        assert!(problem.starts_with(key), "{text}: {problem}");
    }
}

#[test]
fn what_is_not_understood_is_refused_with_file_and_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("client.toml");
    for text in [&b"mystery = 1\n"[..], b"deadline_ms = \"long\"\n", b"\xff"] {
        std::fs::write(&path, text).unwrap();
        let error = Client::load(&path).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains("man vianet-client.toml"), "{error}");
    }
}

#[test]
fn defaults_and_plain_examples_are_good() {
    assert_eq!(Client::default().check(), Ok(()));
    let text = cluster(
        "transports = [\"tcp\"]\nstrict = true\n[aliases]\nshop = 'sales.LAB'\n'old\\name' = 'Lab\\x'",
    );
    let client: Client = toml::from_str(&text).expect("the form is right");
    assert_eq!(client.check(), Ok(()));
}

#[test]
fn what_is_encrypted_falls_back_to_plain_only_where_that_is_said() {
    let pinned = format!("public_key = \"{}\"", "11".repeat(32));
    let allows_plain = |more: &str| {
        let client: Client = toml::from_str(&cluster(more)).expect("the form is right");
        client.clusters["lab"]
            .transports()
            .contains(&Transport::Plain)
    };
    assert!(allows_plain(""));
    assert!(!allows_plain(&pinned));
    assert!(allows_plain(&format!("{pinned}\ntls = \"off\"")));
    assert!(allows_plain(&format!(
        "{pinned}\ntransports = [\"tcp\", \"plain\"]"
    )));
}

#[test]
fn the_file_is_looked_for_where_the_environment_says() {
    let places = |xdg: Option<&str>, home: Option<&str>| {
        let found = usual_places(|name| match name {
            "XDG_CONFIG_HOME" => xdg.map(PathBuf::from),
            "HOME" => home.map(PathBuf::from),
            _ => None,
        });
        let found = found.iter().map(|path| path.to_str().unwrap());
        found.collect::<Vec<_>>().join(" ")
    };
    let etc = "/etc/vianet/client.toml";
    let own = |dir: &str| format!("{dir}/vianet/client.toml {etc}");
    assert_eq!(places(Some("/xdg"), Some("/home/me")), own("/xdg"));
    for unset in [None, Some(""), Some("relative")] {
        assert_eq!(places(unset, Some("/home/me")), own("/home/me/.config"));
        assert_eq!(places(unset, unset), etc);
    }
}
