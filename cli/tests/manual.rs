//! The manual pages name every subcommand and every option that the programs know.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn help(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_vianet"))
        .args(args)
        .arg("--help")
        .output()
        .unwrap();
    assert!(out.status.success(), "{args:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// The words of the list of subcommands, if there is one.
fn subcommands(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|l| *l != "Commands:").skip(1);
    list.take_while(|l| !l.is_empty())
        .filter_map(|l| l.split_whitespace().next())
        .filter(|word| *word != "help")
        .map(Into::into)
        .collect()
}

/// The long options that are explained in it.
fn options(help: &str) -> BTreeSet<String> {
    let explained = help.lines().map(str::trim_start);
    explained
        .filter(|l| l.starts_with('-'))
        .filter_map(|l| l.split([' ', ',']).find(|word| word.starts_with("--")))
        .filter(|option| !matches!(*option, "--help" | "--version"))
        .map(Into::into)
        .collect()
}

/// The environment variables of ours that it names.
fn variables(help: &str) -> impl Iterator<Item = &str> {
    let words = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("VIANET_"))
}

#[test]
fn the_page_of_vianet_names_what_help_names() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/man/vianet.1");
    let page = std::fs::read_to_string(path).unwrap().replace('\\', "");
    let mut todo: Vec<Vec<String>> = vec![vec![]];
    let mut seen = 0;
    while let Some(command) = todo.pop() {
        let args: Vec<&str> = command.iter().map(String::as_str).collect();
        let text = help(&args);
        assert!(!text.contains("\\\""), "--help of {command:?} has \\\"");
        for variable in variables(&text) {
            assert!(page.contains(variable), "vianet.1 lacks {variable}");
        }
        for option in options(&text) {
            seen += 1;
            assert!(
                page.contains(&option),
                "vianet.1 lacks {option} of {command:?}"
            );
        }
        for word in subcommands(&text) {
            assert!(page.contains(&word), "vianet.1 lacks {command:?} {word}");
            todo.push([command.clone(), vec![word]].concat());
        }
    }
    assert!(seen > 20, "only {seen} options were found");
}

fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(path).unwrap()
}

/// `| key | default | meaning |` of docs/configuration.md below a heading, where the default is a number.
fn defaults_in_tables(heading: &str) -> Vec<(String, u64)> {
    let text = repository("docs/configuration.md");
    let (_, chapter) = text.split_once(heading).unwrap();
    let chapter = chapter.split("\n## ").next().unwrap();
    let rows = chapter.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let key = cells.next()?.trim_matches('`').to_owned();
        Some((key, cells.next()?.parse().ok()?))
    });
    rows.collect()
}

/// The number that a page says is the default of `key`.
fn default_in_page(page: &str, key: &str) -> Option<u64> {
    let (_, entry) = page.split_once(&format!("\n.TP\n\\fB{key}\\fR\n"))?;
    let (_, number) = entry.split("\n.TP\n").next()?.split_once("Default: ")?;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[test]
fn the_clients_defaults_are_the_documented_ones() {
    let client = vianet::config::Client::default();
    let page = repository("packaging/man/vianet-client.toml.5");
    let tables = defaults_in_tables("## client.toml\n");
    let real = [
        ("deadline_ms", client.deadline_ms),
        ("probe_interval_ms", client.probe_interval_ms),
        ("probes_lost", client.probes_lost.into()),
        ("spin_us", client.spin_us),
        ("snapshot_idle_ms", client.snapshot_idle_ms),
        ("ring_bytes", client.ring_bytes.into()),
    ];
    assert_eq!(tables, real.map(|(key, value)| (key.into(), value)));
    for (key, value) in real {
        assert_eq!(default_in_page(&page, key), Some(value), "{key}");
    }
}

#[test]
fn the_nodes_defaults_are_the_documented_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    let text = "node = \"a\"\ncluster = \"c\"\ncluster_id = \"00112233445566778899aabbccddeeff\"\nstate_dir = \"s\"\n\
                key_file = \"k\"\n[listen]\nquery = [\"127.0.0.11:1434\"]\nvia_tcp = [\"127.0.0.11:7434\"]\n\
                [authority]\nkind = \"keepalive\"\n[[peers]]\nnode = \"b\"\nquery = \"127.0.0.12:1434\"\n\
                [[servers]]\nname = \"sales\"\nupstream = \"127.0.0.1:5432\"\nprotocol = \"postgres\"\n\
                [servers.tickets]\nrole = \"vianet\"\ndatabase = \"app\"\n[servers.hooks]\n";
    std::fs::write(&path, text).unwrap();
    let all = vianet_node::config::Node::load(&path).unwrap().to_toml();
    let page = repository("packaging/man/vianet-node.toml.5");
    let tables = defaults_in_tables("## node.toml\n");
    assert!(tables.len() > 14, "{tables:?}");
    for (key, value) in tables {
        let last = key.rsplit('.').next().unwrap();
        assert!(
            all.lines().any(|line| line == format!("{last} = {value}")),
            "{key} is not {value}:\n{all}"
        );
        assert_eq!(default_in_page(&page, &key), Some(value), "{key}");
    }
}
