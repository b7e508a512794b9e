use super::*;

const GOOD: &str = r#"
node = "node-a"
cluster = "lab"
cluster_id = "00112233445566778899aabbccddeeff"
key_file = "cluster.key"
state_dir = "state"
shm_dir = "/run/vianet"

[listen]
query = ["127.0.0.11:1434", "[::1]:1434"]
via_tcp = ["127.0.0.11:7434"]
shm = true

[authority]
kind = "keepalive"
interval_ms = 250
lost_after = 4

[[peers]]
node = "node-b"
query = "127.0.0.12:1434"

[[servers]]
name = "sales"
initial_active = true
upstream = "127.0.0.11:5432"
upstream_source = "127.0.0.21"
protocol = "postgres"
version = "15.0"
advertise_tcp = "127.0.0.11:5432"
advertise_dac = ["127.0.0.11:1500", "[::1]:1500"]
[servers.hooks]
fence = ["/usr/local/bin/fence", "node-b"]
promote = ["pg_ctl", "promote"]
promote_timeout_ms = 5000
"#;

fn load(text: &str) -> Result<Node, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    std::fs::write(&path, text).unwrap();
    Node::load(&path).map_err(|e| {
        assert!(e.0.contains("node.toml"), "names the file: {e}");
        e.0
    })
}

#[test]
fn programs_of_hooks_are_found_below_the_file_or_in_path() {
    let node = load(&GOOD.replace("/usr/local/bin/fence", "./fence")).unwrap();
    let hooks = &node.servers[0].hooks;
    let fence = Path::new(&hooks.fence[0]);
    assert!(fence.is_absolute() && fence.ends_with("fence"), "{fence:?}");
    assert_eq!(hooks.promote[0], "pg_ctl");
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_its_key() {
    for (good, bad) in [
        ("interval_ms = 250", "interval_ms = -1"),
        ("lost_after = 4", "lost_after = \"four\""),
        ("kind = \"keepalive\"", "kind = \"guess\""),
    ] {
        let said = load(&GOOD.replace(good, bad)).unwrap_err();
        assert!(said.contains(bad), "{said}");
    }
}

#[test]
fn a_peer_that_no_query_address_can_reach_is_refused() {
    let ipv6_only = GOOD.replace("127.0.0.12:1434", "[2001:db8::12]:1434");
    let ipv4_only = ipv6_only.replace(", \"[::1]:1434\"", "");
    let far = GOOD.replace("127.0.0.12:1434", "192.0.2.12:1434");
    for text in [ipv6_only, ipv4_only, far] {
        let why = load(&text).unwrap_err();
        assert!(why.contains("peers.node-b.query = "), "{why}");
    }
}

#[test]
fn a_full_file_is_read_and_written_again() {
    let node = load(GOOD).unwrap();
    assert!(node.state_dir.is_absolute() && node.state_dir.ends_with("state"));
    assert_eq!(node.servers[0].hooks.promote_timeout_ms, 5000);
    assert_eq!(node.servers[0].hooks.fence_timeout_ms, 10_000);
    assert_eq!(node.control_path(), Path::new("/run/vianet/node-a.ctl"));
    assert_eq!(node.cluster_id_bytes()[1], 0x11);
    assert_eq!(load(&node.to_toml()).unwrap(), node);
}

#[test]
fn bad_files_are_refused_with_key_and_remedy() {
    // (what is replaced, by what, what the message must name)
    let table = [
        ("node = \"node-a\"\n", "", "node"),
        ("node = \"node-a\"\n", "node = \"a/b\"\n", "node = \"a/b\""),
        ("\"lab\"", "\"\"", "cluster = \"\""),
        (
            "00112233445566778899aabbccddeeff",
            "+0112233445566778899aabbccddeeff",
            "cluster_id",
        ),
        ("00112233445566778899aabbccddeeff", "0011", "vianet keygen"),
        ("key_file = \"cluster.key\"\n", "", "key_file"),
        (
            "[\"127.0.0.11:1434\", \"[::1]:1434\"]",
            "[]",
            "listen.query is empty",
        ),
        (
            "[\"127.0.0.11:1434\", \"[::1]:1434\"]",
            "[\"0.0.0.0:1434\"]",
            "listen.query",
        ),
        (
            "[\"127.0.0.11:7434\"]\nshm = true",
            "[]\nshm = false",
            "listen",
        ),
        (
            "[\"127.0.0.11:7434\"]",
            "[\"localhost\"]",
            "via_tcp = [\"localhost\"]",
        ),
        (
            "[\"127.0.0.11:7434\"]",
            "[\"localhost\"]",
            "write ADDRESS:PORT",
        ),
        ("\"127.0.0.12:1434\"", "\"127.0.0.11:1434\"", "own address"),
        ("\"node-b\"\nquery", "\"node-a\"\nquery", "peers"),
        (
            "interval_ms = 250",
            "interval_ms = 0",
            "authority.interval_ms",
        ),
        ("lost_after = 4", "lost_after = 1", "authority.lost_after"),
        ("kind = \"keepalive\"", "kind = \"quorum\"", "quorum"),
        (
            "\"sales\"",
            "\"a23456789012345678901234567890123\"",
            "servers.name",
        ),
        ("\"sales\"", "\"sa;les\"", "servers.name"),
        (
            "upstream = \"127.0.0.11:5432\"",
            "upstream = \"nowhere\"",
            "upstream",
        ),
        (
            "upstream = \"127.0.0.11:5432\"",
            "upstream = \"unix:/x\"",
            "allow_unauthenticated_upstream",
        ),
        (
            "advertise_tcp = \"127.0.0.11:5432\"",
            "advertise_tcp = \"here\"",
            "or a list of them",
        ),
        (
            "advertise_tcp = \"127.0.0.11:5432\"",
            "advertise_tcp = [\"0.0.0.0:5432\"]",
            "sales.advertise_tcp",
        ),
        (
            "\"[::1]:1500\"",
            "\"[::1]:0\"",
            "sales.advertise_dac = [::1]:0",
        ),
        ("\"127.0.0.21\"", "\"::1\"", "upstream_source"),
        ("\"127.0.0.21\"", "\"0.0.0.0\"", "upstream_source = 0.0.0.0"),
        ("\"127.0.0.21\"", "\"127.0.0.1\"", "a local one"),
        ("\"127.0.0.21\"", "\"127.0.0.11\"", "a local one"),
        (
            "upstream = \"127.0.0.11:5432\"\nupstream_source = \"127.0.0.21\"",
            "upstream = \"[::ffff:127.0.0.11]:5432\"\nupstream_source = \"::ffff:127.0.0.1\"",
            "a local one",
        ),
        (
            "upstream = \"127.0.0.11:5432\"\nupstream_source = \"127.0.0.21\"",
            "upstream = \"[2001:db8::1]:5432\"\nupstream_source = \"::1\"",
            "a local one",
        ),
        (
            "upstream = \"127.0.0.11:5432\"\nupstream_source = \"127.0.0.21\"",
            "upstream = \"[::1]:5432\"",
            "upstream_source",
        ),
        ("protocol = \"postgres\"", "protocol = \"tds\"", "tds"),
        ("\"15.0\"", "\"15.0 beta\"", "version"),
        (
            "promote_timeout_ms = 5000",
            "promote_timeout_ms = 0",
            "hooks.promote_timeout_ms",
        ),
        (
            "promote_timeout_ms = 5000",
            "promote_timout_ms = 5000",
            "promote_timout_ms",
        ),
        (
            "fence = [\"/usr/local/bin/fence\", \"node-b\"]",
            "fence = [\"\"]",
            "fence = [\"\"]\n   |         ^^^^\nnames no program",
        ),
        (
            "fence = [\"/usr/local/bin/fence\", \"node-b\"]",
            "fence = []",
            "fence = []\n   |         ^^\nnames no program",
        ),
        ("shm = true", "shm = true\nmystery = 1", "mystery"),
        ("node = \"node-a\"\n", "", "man vianet-node.toml"),
        ("shm = true", "shm = 1", "man vianet-node.toml"),
        (
            "\"127.0.0.11:5432\"",
            "\"127.0.0.11:0\"",
            "servers.sales.upstream = 127.0.0.11:0: name the port",
        ),
        (
            "\"127.0.0.12:1434\"",
            "\"127.0.0.12:0\"",
            "peers.node-b.query = 127.0.0.12:0: name the port",
        ),
    ];
    for (from, to, named) in table {
        assert!(GOOD.contains(from), "{from}");
        let err = load(&GOOD.replacen(from, to, 1)).expect_err(to);
        assert!(err.contains(named), "{to}: {err}");
    }
}

#[test]
fn two_servers_of_one_name_are_refused() {
    let more = "\n[[servers]]\nname = \"SALES\"\nupstream = \"127.0.0.11:1\"\n";
    let err = load(&format!("{GOOD}{more}")).unwrap_err();
    assert!(err.contains("servers.SALES"), "{err}");
}

#[test]
fn a_relayed_client_does_not_come_from_127_0_0_1_by_default() {
    let source = |text: &str| load(text).unwrap().servers[0].relay_source();
    let named = "upstream_source = \"127.0.0.21\"\n";
    assert_eq!(source(GOOD), Some([127, 0, 0, 21].into()));
    assert_eq!(source(&GOOD.replace(named, "")), Some(RELAY_SOURCE));
    let remote = GOOD.replace(named, "").replace(
        "upstream = \"127.0.0.11:5432\"",
        "upstream = \"192.0.2.1:5432\"",
    );
    let err = load(&remote).unwrap_err();
    assert!(
        err.contains("servers.sales.upstream_source is missing") && err.contains("192.0.2.1:5432"),
        "{err}"
    );
    let chosen = remote.replace(
        "protocol =",
        "allow_unauthenticated_upstream = true\nprotocol =",
    );
    assert_eq!(source(&chosen), None, "whoever wants it so");
    let local = GOOD.replace("127.0.0.21", "127.0.0.1").replace(
        "protocol =",
        "allow_unauthenticated_upstream = true\nprotocol =",
    );
    assert_eq!(source(&local), Some([127, 0, 0, 1].into()), "the same");
}

#[test]
fn tickets_are_off_and_on_only_where_they_are_safe() {
    assert_eq!(load(GOOD).unwrap().servers[0].tickets, None);
    let with = |more: &str| {
        let table = "[servers.tickets]\nrole = \"vianet\"\ndatabase = \"app\"\n";
        format!("{GOOD}{table}{more}")
    };
    let node = load(&with("password_file = \"secret\"\n")).unwrap();
    let tickets = node.servers[0].tickets.clone().unwrap();
    assert_eq!(tickets.lifetime_s, 43_200);
    let file = tickets.password_file.unwrap();
    assert!(file.is_absolute() && file.ends_with("secret"), "{file:?}");
    assert_eq!(load(&node.to_toml()).unwrap(), node);

    let mut many = with("");
    let table = many[many.find("[[servers]]").unwrap()..].to_owned();
    for n in 1..129 {
        many += &table.replace("\"sales\"", &format!("\"sales-{n}\""));
    }
    let why = load(&many).unwrap_err();
    assert!(why.contains("sales-128.tickets: more than 128"), "{why}");

    let alone = with("").replace(
        "[[peers]]\nnode = \"node-b\"\nquery = \"127.0.0.12:1434\"\n",
        "",
    );
    let unwatched = "protocol = \"postgres\"\nallow_unauthenticated_upstream = true";
    let postgres = "protocol = \"postgres\"";
    for (text, names) in [
        (with("").replace(postgres, ""), "servers.sales.tickets: "),
        (
            with("").replace(postgres, unwatched),
            "allow_unauthenticated_upstream",
        ),
        (
            alone.replace("key_file = \"cluster.key\"\n", ""),
            "key_file is missing",
        ),
        (alone.clone(), "[[peers]]"),
        (with("").replace("\"vianet\"", "\"\""), "tickets.role"),
        (with("connect = \"127.0.0.1:0\"\n"), "tickets.connect"),
        (with("connect = \"socket\"\n"), "unix:/PATH"),
        (with("lifetime_s = 59\n"), "tickets.lifetime_s"),
        (with("lifetime_s = 43201\n"), "tickets.lifetime_s"),
        (with("user = \"x\"\n"), "user"),
    ] {
        let why = load(&text).unwrap_err();
        assert!(why.contains(names), "{names}: {why}");
    }
}
