//! The documents name everything that an operator can meet.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else {
            out.push(path);
        }
    }
}

#[test]
fn every_log_line_is_explained() {
    let mut files = Vec::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    let mut events = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        for part in text.split("event = \"").skip(1) {
            events.insert(part.split('"').next().unwrap().to_owned());
        }
    }
    assert!(events.len() > 20, "{events:?}");
    let page = read("docs/operations.md");
    let missing: Vec<_> = events
        .iter()
        .filter(|e| !page.contains(&format!("\n| `{e}` |")))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/operations.md, \"Log lines\", lacks {missing:?}"
    );
}

#[test]
fn every_key_of_node_toml_is_explained() {
    let page = read("docs/configuration.md");
    let source = read("node/src/config.rs");
    // Every `pub name: type` of the configuration's structures, and the fields of the authority.
    let keys = source.lines().filter_map(|line| {
        let line = line.trim();
        let field = line.strip_prefix("pub ").unwrap_or(line);
        let (name, kind) = field.split_once(": ")?;
        let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        (plain && kind.ends_with(',')).then(|| name.to_owned())
    });
    let keys: BTreeSet<_> = keys
        .filter(|k| {
            !matches!(
                k.as_str(),
                "hooks" | "limits" | "servers" | "listen" | "peers"
            )
        })
        .collect();
    assert!(keys.len() > 30, "{keys:?}");
    for key in keys {
        let found = [format!("`{key}`"), format!(".{key}`"), format!("`{key}.")];
        assert!(
            found.iter().any(|f| page.contains(f)),
            "docs/configuration.md does not explain {key}"
        );
    }
}

#[test]
fn every_errno_of_the_table_is_explained() {
    let source = read("src/error.rs");
    let (_, table) = source.split_once("fn errno(self)").expect("the table");
    let page = read("docs/protocol.md");
    let mut seen = 0;
    for part in table.split("libc::E").skip(1) {
        let name: String = part.chars().take_while(char::is_ascii_uppercase).collect();
        seen += 1;
        assert!(
            page.contains(&format!("\n| E{name} |")),
            "docs/protocol.md, \"Errors\", lacks E{name}"
        );
    }
    assert!(seen > 20, "{seen}");
}
