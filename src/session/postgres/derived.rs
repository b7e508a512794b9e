//! What is asked of a server that lacks our extension: its catalogs, which tell less, and what could have set the rest.

use super::message::columns;
use super::texts::Suspect;
use std::sync::{Arc, LazyLock};

/// See the files: one answers as the extension does, the other tells what could set something unseen.
pub(super) static STATE: LazyLock<String> =
    LazyLock::new(|| one_line(include_str!("sql/derived.sql")));
pub(super) static CATALOG: LazyLock<String> =
    LazyLock::new(|| one_line(include_str!("sql/catalog.sql")));

/// Between the words of a statement, quotes included: what is ASCII and in no identifier.
pub(super) const BETWEEN: &[u8] = br"[\x01-\x23\x25-\x2f\x3a-\x40\x5b-\x5e\x60\x7b-\x7e]+";
/// Words by which a function may set something unseen; for SET see the query.
pub(super) const SETS: &[u8] = br#"\m(set_config|reset|execute|load|language|extension|pg_settings|query_to_xml|query_to_xmlschema|query_to_xml_and_xmlschema|ts_stat|ts_rewrite|seed|crosstab\w*|connectby|xpath_table|dblink\w*|pg_backup_start|pg_start_backup|pg_replication_origin_session_setup)\M|u&""#;
/// UPDATE, a table, perhaps its alias, and SET. What may end a head of PL/pgSQL is none of those: `for update loop set ...`. Between
/// quotes there is one word only, or they may be the end of one name and the beginning of another.
pub(super) const UPDATE: &[u8] = br#"\mupdate\s+(only\s+)?(?!(then|loop|begin|else|elsif|elseif|end|of|nowait|declare|when|case|skip)\M)("[\w$]+"|[\w$]+)(\s*\.\s*("[\w$]+"|[\w$]+))?(\s*\*)?(\s+(as\s+)?(?!(then|loop|begin|else|elsif|elseif|end|set)\M)[\w$]+)?\s+set\M|\mdo\s+update\s+set\M"#;

/// Whether the session has what it had written, where no function tells. The last position that a server has replayed as a standby is
/// the one at which its own timeline begins, as long as it has not been restarted since.
pub(super) const HOLDS: &str = "SELECT CASE \
    WHEN pg_catalog.pg_is_in_recovery() THEN NULL \
    WHEN t.timeline OPERATOR(pg_catalog.=) CAST($1 AS pg_catalog.int8) \
    THEN CAST($2 AS pg_catalog.pg_lsn) OPERATOR(pg_catalog.<=) pg_catalog.pg_current_wal_insert_lsn() \
    WHEN t.timeline OPERATOR(pg_catalog.=) (CAST($1 AS pg_catalog.int8) OPERATOR(pg_catalog.+) CAST(1 AS pg_catalog.int8)) \
    AND pg_catalog.pg_last_wal_receive_lsn() IS NOT NULL \
    THEN CAST($2 AS pg_catalog.pg_lsn) OPERATOR(pg_catalog.<=) pg_catalog.pg_last_wal_replay_lsn() \
    ELSE false END \
    FROM (SELECT CAST(CAST(pg_catalog.concat('x', \
    pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)) \
    AS pg_catalog.bit(32)) AS pg_catalog.int8) AS timeline) AS t";

/// Without comments and line ends.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("--"));
    lines.collect::<Vec<_>>().join(" ")
}

/// Of DataRows. `None`: they are not understood.
pub(super) fn suspects(rows: &[&[u8]]) -> Option<Arc<[Suspect]>> {
    let suspects = rows.iter().map(|row| {
        let columns = columns(row)?;
        let [Some(b"function"), Some(name), library, Some(source), None] = columns[..] else {
            return None;
        };
        Some(Suspect {
            name: String::from_utf8_lossy(name).into_owned(),
            library: library.map(<[u8]>::to_vec),
            used: source == b"used",
        })
    });
    suspects.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_plain_whatever_the_settings_are() {
        for text in [&STATE[..], &CATALOG, HOLDS] {
            // A backslash is one thing or another; so is what search_path decides.
            assert!(text.is_ascii() && !text.contains(['\\', '\n']), "{text}");
            assert!(!text.contains("--") || text.contains("'--'"), "{text}");
            // A language may have another small letter for I.
            assert_eq!(
                text.matches("lower(").count(),
                text.matches(" COLLATE pg_catalog.\"C\"").count()
            );
            let bare = text.replace("OPERATOR(pg_catalog.", "");
            for operator in [
                " = ", " <> ", " >= ", " <= ", " || ", " ~ ", " + ", "::", " IN (", " LIKE ",
            ] {
                assert!(!bare.contains(operator), "{operator}: {text}");
            }
        }
    }
}
