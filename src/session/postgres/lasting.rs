//! Whether anything in the database can do what a rollback does not undo (take a session's advisory lock, prepare a statement, load
//! a library), out of sight of who follows a session: functions, and what calls built-in ones by itself.

use super::Policy;
use super::snapshot;

/// $1: a pattern of a function's text; $2: one of a built-in function's name; $3: libraries, with commas. Functions in languages
/// that keep variables in a session are taken for such. Everything is named in full.
pub(super) const QUESTION: &[u8] = b"SELECT EXISTS (\
    SELECT FROM pg_catalog.pg_proc AS p \
    JOIN pg_catalog.pg_language AS l ON l.oid OPERATOR(pg_catalog.=) p.prolang \
    WHERE p.oid OPERATOR(pg_catalog.>=) CAST(16384 AS pg_catalog.oid) AND CASE \
    WHEN p.prokind OPERATOR(pg_catalog.=) CAST('a' AS pg_catalog.\"char\") THEN false \
    WHEN l.lanname OPERATOR(pg_catalog.=) CAST('c' AS pg_catalog.name) THEN \
    pg_catalog.regexp_replace(pg_catalog.regexp_replace(p.probin, '^.*/', ''), '[.]so$', '') \
    OPERATOR(pg_catalog.<>) ALL (pg_catalog.string_to_array($3, ',')) \
    WHEN CAST(l.lanname AS pg_catalog.text) OPERATOR(pg_catalog.=) ANY \
    (CAST('{internal,sql,plpgsql}' AS pg_catalog.text[])) THEN \
    pg_catalog.pg_get_functiondef(p.oid) OPERATOR(pg_catalog.~*) $1 \
    ELSE true END) \
    OR EXISTS (SELECT FROM (\
    SELECT CAST(r.ev_action AS pg_catalog.text) FROM pg_catalog.pg_rewrite AS r \
    WHERE r.oid OPERATOR(pg_catalog.>=) CAST(16384 AS pg_catalog.oid) \
    UNION ALL SELECT CAST(r.ev_qual AS pg_catalog.text) FROM pg_catalog.pg_rewrite AS r \
    WHERE r.oid OPERATOR(pg_catalog.>=) CAST(16384 AS pg_catalog.oid) \
    UNION ALL SELECT CAST(o.polqual AS pg_catalog.text) FROM pg_catalog.pg_policy AS o \
    UNION ALL SELECT CAST(o.polwithcheck AS pg_catalog.text) FROM pg_catalog.pg_policy AS o \
    UNION ALL SELECT CAST(d.adbin AS pg_catalog.text) FROM pg_catalog.pg_attrdef AS d \
    UNION ALL SELECT CAST(c.conbin AS pg_catalog.text) FROM pg_catalog.pg_constraint AS c \
    UNION ALL SELECT CAST(t.tgqual AS pg_catalog.text) FROM pg_catalog.pg_trigger AS t \
    UNION ALL SELECT CAST(y.typdefaultbin AS pg_catalog.text) FROM pg_catalog.pg_type AS y) AS n (tree) \
    WHERE n.tree OPERATOR(pg_catalog.~) (SELECT pg_catalog.concat(':funcid (', \
    pg_catalog.string_agg(CAST(b.oid AS pg_catalog.text), '|'), ') ') FROM pg_catalog.pg_proc AS b \
    WHERE b.oid OPERATOR(pg_catalog.<) CAST(16384 AS pg_catalog.oid) \
    AND CAST(b.proname AS pg_catalog.text) OPERATOR(pg_catalog.~) $2))";

const NAMES: &str = "advisory(?!_xact)|_to_xml|ts_stat|ts_rewrite|replication|backup";
const WORDS: &str = "\\m(prepare|deallocate|execute|load|discard)\\M|dblink|u&\"";
/// What a COMMIT would keep besides.
const SETS: &str = "\\m(temp|temporary)\\M|pg_temp[.]|(;|\\$|\\m(begin|then|else|loop)\\M)\\s*(re)?set\\M|set_config";

/// The parameters of the question; `commits`: also what only a rollback would undo.
pub(super) fn parameters(policy: &Policy, commits: bool) -> [String; 3] {
    let (mut texts, mut names) = (format!("{NAMES}|{WORDS}"), NAMES.to_owned());
    if commits {
        texts.push_str(&format!("|{SETS}"));
        names.push_str("|set_config");
    }
    let known = snapshot::STATELESS.iter();
    let known = known.map(|name| String::from_utf8_lossy(name).into_owned());
    let libraries: Vec<_> = known.chain(policy.libraries.iter().cloned()).collect();
    [texts, names, libraries.join(",")]
}
