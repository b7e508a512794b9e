use super::*;
use proptest::prelude::*;

fn config() -> Client {
    toml::from_str(
        r#"
        [clusters.lab]
        nodes = ["127.0.0.11", "127.0.0.12"]
        [clusters.lab.servers.sales]
        [clusters.Prod]
        nodes = ["db1"]
        [clusters."eu.lab"]
        nodes = ["eu1"]
        [aliases]
        books = 'lab\ledger'
        "shop.example.org" = "sales.prod"
        loop = "loop"
        stray = 'nowhere\sales'
        "#,
    )
    .unwrap()
}

fn parse(text: &str) -> Result<String> {
    ServerName::parse(text, &config()).map(|name| name.to_string())
}

#[test]
fn all_three_forms_in_any_case() {
    for (text, name) in [
        (r"lab\sales", r"lab\sales"),
        (r"LAB\Sales", r"lab\sales"),
        ("sales.lab", r"lab\sales"),
        ("Sales.LAB", r"lab\sales"),
        (r"prod\x", r"prod\x"),
        ("x.prod", r"prod\x"),
        ("sales.eu.lab", r"eu.lab\sales"),
        ("a.b.lab", r"lab\a.b"),
        ("books", r"lab\ledger"),
        ("BOOKS", r"lab\ledger"),
        ("Shop.Example.org", r"prod\sales"),
    ] {
        assert_eq!(parse(text).unwrap(), name, "{text}");
        assert_eq!(
            ServerName::from_host(text, &config()).unwrap().to_string(),
            name
        );
    }
}

#[test]
fn ordinary_host_names_are_never_taken() {
    for host in [
        "",
        "localhost",
        "lab",
        "sales",
        "prod",
        "db1",
        "sales.lab.",
        ".lab",
        "saleslab",
        "sales.labs",
        "sales.lab.example.org",
        "example.org",
        "127.0.0.1",
        "::1",
        r"other\sales",
        r"\sales",
        r"lab\",
        "stray",
        "loop",
        "a b.lab",
        "a:b.lab",
        "é.labx",
        "xélab",
    ] {
        assert_eq!(ServerName::from_host(host, &config()), None, "{host:?}");
    }
    assert_eq!(
        ServerName::from_host(&format!("{}.lab", "x".repeat(252)), &config()),
        None
    );
}

#[test]
fn errors_name_the_remedy() {
    let kind = |text: &str| parse(text).unwrap_err().kind();
    for text in [
        "nowhere",
        r"nowhere\sales",
        "stray",
        "loop",
        "",
        "sales.nowhere",
        ".lab",
    ] {
        assert_eq!(kind(text), Kind::UnknownCluster, "{text}");
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains("lab") && error.contains("books"), "{error}");
        assert!(error.contains("client.toml"), "{error}");
    }
    for text in [
        r"lab\",
        r"lab\a;b",
        r"lab\a b",
        r"lab\a\b",
        "lab\\a\0b",
        r"lab\a/b",
    ] {
        assert_eq!(kind(text), Kind::BadArgument, "{text}");
    }
    assert_eq!(kind(&"x".repeat(10_000)), Kind::NameTooLong);
    assert_eq!(
        kind(&format!("lab\\{}", "x".repeat(252))),
        Kind::NameTooLong
    );
    assert!(parse(&format!("lab\\{}", "x".repeat(251))).is_ok());
    let none = ServerName::parse("x", &Client::default())
        .unwrap_err()
        .to_string();
    assert!(none.contains("clusters: none"), "{none}");
    let evil = parse("nowhere\\\u{1b}[2J\n").unwrap_err().to_string();
    assert!(!evil.contains('\u{1b}') && !evil.contains('\n'), "{evil}");
}

#[test]
fn fake_addresses_stand_for_names_and_map_back() {
    let config = config();
    let mut parent = FakeAddresses::new(&config);
    let child = FakeAddresses::new(&config);
    let name = ServerName::parse("sales.lab", &config).unwrap();
    let (v4, v6) = parent.addresses(&name);
    assert!(is_fake(v4.into()) && is_fake(v6.into()) && is_fake(v4.to_ipv6_mapped().into()));
    for table in [&parent, &child] {
        assert_eq!(
            table.name(v4.into()),
            Some(&name),
            "a child maps configured names back"
        );
        assert_eq!(table.name(v6.into()), Some(&name));
        assert_eq!(table.name(v4.to_ipv6_mapped().into()), Some(&name));
        assert_eq!(table.name("239.192.0.0".parse().unwrap()), None);
    }
    let seen = ServerName::new("lab", "seen").unwrap();
    let (v4, _) = parent.addresses(&seen);
    assert_eq!(parent.name(v4.into()), Some(&seen));
    assert_eq!(parent.addresses(&seen).0, v4, "and stays");
    for addr in [
        "239.191.255.255",
        "239.196.0.0",
        "127.0.0.1",
        "ff02::1",
        "::1",
    ] {
        assert!(!is_fake(addr.parse().unwrap()), "{addr}");
    }
    for addr in [
        "239.192.0.0",
        "239.195.255.255",
        "ff05::",
        "::ffff:239.193.1.2",
    ] {
        assert!(is_fake(addr.parse().unwrap()), "{addr}");
    }
}

/// 2,000 names on 262,144 addresses collide with near certainty; each still has an address of its own.
#[test]
fn colliding_names_get_addresses_of_their_own() {
    let mut table = FakeAddresses::default();
    let names: Vec<_> = (0..2000)
        .map(|n| ServerName::new("lab", &format!("s{n}")).unwrap())
        .collect();
    let collided = names
        .iter()
        .filter(|name| table.addresses(name).0 != name.fake_v4(0))
        .count();
    assert!(collided > 0);
    for name in &names {
        let (v4, v6) = table.addresses(name);
        assert!(is_fake(v4.into()) && is_fake(v6.into()));
        assert_eq!(table.name(v4.into()), Some(name));
        assert_eq!(table.name(v6.into()), Some(name));
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in r"(lab|prod|eu|[.\\]|é|\PC){0,20}") {
        let host = ServerName::from_host(&text, &config());
        if let Ok(name) = ServerName::parse(&text, &config()) {
            prop_assert_eq!(Some(&name), host.as_ref());
            let canonical = name.to_string();
            prop_assert_eq!(&ServerName::parse(&canonical, &config()).unwrap(), &name);
        }
    }
}
