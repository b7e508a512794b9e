-- What a session has become, where the server lacks our extension: the rows of vianet.session_state(true) as far as the catalogs tell.
-- $1: names of custom settings, one a line; $2: the name of this statement; $3: what is between the words of a statement.
-- Every name and operator is qualified, and there is no backslash: neither search_path nor standard_conforming_strings matters.
WITH setting AS MATERIALIZED (
    SELECT s.name, s.setting, s.vartype, s.source, s.name OPERATOR(pg_catalog.=) ANY (
        ARRAY['tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count', 'tcp_user_timeout']) AS of_connection
    FROM pg_catalog.pg_show_all_settings() AS s
    WHERE s.context OPERATOR(pg_catalog.=) ANY (ARRAY['user', 'superuser', 'backend', 'superuser-backend'])
      AND s.name OPERATOR(pg_catalog.<>) ALL (ARRAY['transaction_isolation', 'transaction_read_only', 'transaction_deferrable'])
), custom AS MATERIALIZED (
    -- In one spelling, as whoever looks them up does not care.
    SELECT DISTINCT c.name
    FROM (
        SELECT pg_catalog.lower(n.name COLLATE pg_catalog."C")
        FROM pg_catalog.unnest(pg_catalog.string_to_array($1, pg_catalog.chr(10))) AS n(name)
        UNION ALL
        SELECT pg_catalog.lower(pg_catalog.split_part(d.one, '=', 1) COLLATE pg_catalog."C")
        FROM pg_catalog.pg_db_role_setting AS r, LATERAL pg_catalog.unnest(r.setconfig) AS d(one)
    ) AS c(name)
    WHERE pg_catalog.strpos(c.name, '.') OPERATOR(pg_catalog.>) 0
      AND c.name OPERATOR(pg_catalog.<>) ALL (SELECT pg_catalog.lower(s.name COLLATE pg_catalog."C") FROM setting AS s)
), path AS MATERIALIZED (
    SELECT n.oid FROM pg_catalog.pg_namespace AS n
    WHERE n.nspname OPERATOR(pg_catalog.=) ANY (pg_catalog.current_schemas(true))
), prepared AS MATERIALIZED (
    -- Through arrays, of which the planner expects few elements: else it would compile this at every run.
    SELECT u.name, u.statement, u.from_sql, u.types
    FROM (
        SELECT pg_catalog.array_agg(p.name) AS names, pg_catalog.array_agg(p.statement) AS statements,
            pg_catalog.array_agg(p.from_sql) AS sql,
            pg_catalog.array_agg(CAST(CAST(p.parameter_types AS pg_catalog.oid[]) AS pg_catalog.text)) AS types
        FROM pg_catalog.pg_prepared_statement() AS p
        WHERE p.name OPERATOR(pg_catalog.<>) $2
    ) AS a, LATERAL ROWS FROM (pg_catalog.unnest(a.names), pg_catalog.unnest(a.statements), pg_catalog.unnest(a.sql),
        pg_catalog.unnest(a.types)) AS u(name, statement, from_sql, types)
), word AS MATERIALIZED (
    SELECT DISTINCT p.name, CAST(w.word AS pg_catalog.name) AS word
    FROM prepared AS p, LATERAL pg_catalog.unnest(pg_catalog.array_cat(
        pg_catalog.regexp_split_to_array(
            pg_catalog.concat(p.statement, ' ', pg_catalog.lower(p.statement COLLATE pg_catalog."C")), $3),
        ARRAY(SELECT (pg_catalog.regexp_matches(p.statement, '"([^"]+)"', 'g'))[1]))) AS w(word)
), meant AS MATERIALIZED (
    SELECT w.name, w.word, 'relation' AS what, c.oid, true AS own
    FROM word AS w
    JOIN pg_catalog.pg_class AS c ON c.relname OPERATOR(pg_catalog.=) w.word
    JOIN path AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.relkind OPERATOR(pg_catalog.=) ANY (CAST(ARRAY['r', 'v', 'm', 'f', 'p', 'S'] AS pg_catalog."char"[]))
    UNION ALL
    SELECT w.name, w.word, 'function', f.oid, f.oid OPERATOR(pg_catalog.>=) CAST(16384 AS pg_catalog.oid)
    FROM word AS w
    JOIN pg_catalog.pg_proc AS f ON f.proname OPERATOR(pg_catalog.=) w.word
    JOIN path AS n ON n.oid OPERATOR(pg_catalog.=) f.pronamespace
    UNION ALL
    SELECT w.name, w.word, 'type', t.oid, true
    FROM word AS w
    JOIN pg_catalog.pg_type AS t ON t.typname OPERATOR(pg_catalog.=) w.word
    JOIN path AS n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace
    WHERE t.typrelid OPERATOR(pg_catalog.=) CAST(0 AS pg_catalog.oid)
)
SELECT 'authenticated' AS kind, NULL AS name, CAST(pg_catalog.pg_get_userbyid(a.usesysid) AS pg_catalog.text) AS value,
    NULL AS source, pg_catalog.concat('{', a.usesysid, '}') AS types
FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS a
UNION ALL
SELECT 'session_authorization', NULL, CAST(session_user AS pg_catalog.text), NULL,
    pg_catalog.concat('{', CAST(pg_catalog.to_regrole(pg_catalog.quote_ident(session_user)) AS pg_catalog.oid), '}')
UNION ALL
SELECT 'role', NULL,
    CASE WHEN pg_catalog.current_setting('role') OPERATOR(pg_catalog.=) 'none' THEN 'none'
        ELSE CAST(current_user AS pg_catalog.text) END, NULL,
    CASE WHEN pg_catalog.current_setting('role') OPERATOR(pg_catalog.=) 'none' THEN '{0}'
        ELSE pg_catalog.concat('{', CAST(pg_catalog.to_regrole(pg_catalog.quote_ident(current_user)) AS pg_catalog.oid), '}') END
UNION ALL
-- Of a fraction the server shows six digits, and of its connection what the system says.
SELECT 'setting', s.name,
    CASE WHEN s.source OPERATOR(pg_catalog.=) 'session' AND (s.vartype OPERATOR(pg_catalog.=) 'real' OR s.of_connection) THEN NULL
        ELSE s.setting END,
    CASE WHEN s.vartype OPERATOR(pg_catalog.=) 'real' AND s.source OPERATOR(pg_catalog.<>) ALL (ARRAY['session', 'default'])
        THEN 'rounded' ELSE s.source END, NULL
FROM setting AS s
WHERE NOT s.of_connection OR s.source OPERATOR(pg_catalog.=) 'session'
UNION ALL
SELECT 'setting', c.name, c.value, 'session', NULL
FROM (SELECT c.name, pg_catalog.current_setting(c.name, true) AS value FROM custom AS c) AS c
WHERE c.value IS NOT NULL
UNION ALL
SELECT DISTINCT 'library', pg_catalog.split_part(s.name, '.', 1), NULL, NULL, NULL
FROM setting AS s WHERE pg_catalog.strpos(s.name, '.') OPERATOR(pg_catalog.>) 0
UNION ALL
-- The server keeps the whole query string.
SELECT 'prepared', p.name, p.statement,
    CASE WHEN NOT p.from_sql THEN 'protocol'
        WHEN p.statement OPERATOR(pg_catalog.~*) '^[[:space:]]*prepare[[:space:]][^;]*;?[[:space:]]*$' THEN 'sql'
        ELSE 'batch' END, p.types
FROM prepared AS p
UNION ALL
-- What its words may mean; its columns are described beside.
SELECT 'result', p.name, NULL, 'undescribed',
    CAST(ARRAY(SELECT DISTINCT m.oid FROM meant AS m
        WHERE m.name OPERATOR(pg_catalog.=) p.name AND m.own ORDER BY 1) AS pg_catalog.text)
FROM prepared AS p
UNION ALL
-- It was settled when the statement was prepared, and what is found now may be another.
SELECT 'ambiguous', m.name, CAST(m.word AS pg_catalog.text), m.what, NULL
FROM meant AS m GROUP BY m.name, m.word, m.what
HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1 AND pg_catalog.bool_or(m.own)
UNION ALL
SELECT 'ambiguous', p.name, NULL, 'quoted', NULL
FROM prepared AS p WHERE p.statement OPERATOR(pg_catalog.~*) 'u&"|""'
UNION ALL
SELECT 'listen', l.channel, NULL, NULL, NULL FROM pg_catalog.pg_listening_channels() AS l(channel)
UNION ALL
SELECT 'cursor', c.name, c.statement, NULL, NULL FROM pg_catalog.pg_cursor() AS c WHERE c.is_holdable
UNION ALL
SELECT 'temporary', CAST(d.objid AS pg_catalog.text), CAST(d.classid AS pg_catalog.text), NULL, NULL
FROM pg_catalog.pg_depend AS d
WHERE d.refclassid OPERATOR(pg_catalog.=) CAST(2615 AS pg_catalog.oid)
  AND d.refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()
  AND d.refobjid OPERATOR(pg_catalog.<>) CAST(0 AS pg_catalog.oid)
UNION ALL
SELECT 'advisory', CAST(l.objid AS pg_catalog.text), l.mode, NULL, NULL FROM pg_catalog.pg_lock_status() AS l
WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
UNION ALL
SELECT 'replication_slot', CAST(r.slot_name AS pg_catalog.text), NULL, NULL, NULL
FROM pg_catalog.pg_get_replication_slots() AS r
WHERE r.temporary AND r.active_pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
UNION ALL
-- The session's last commit is not behind it.
SELECT 'written',
    CAST(CAST(CAST(pg_catalog.concat('x', pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))
        AS pg_catalog.bit(32)) AS pg_catalog.int8) AS pg_catalog.text),
    CAST(pg_catalog.pg_current_wal_insert_lsn() AS pg_catalog.text), NULL, NULL
WHERE NOT pg_catalog.pg_is_in_recovery()
UNION ALL
SELECT 'catalog', pg_catalog.md5(pg_catalog.concat(
        (SELECT x.oid FROM pg_catalog.pg_database AS x WHERE x.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()), ';',
        (SELECT pg_catalog.string_agg(pg_catalog.concat(x.oid, ' ', x.xmin), ',' ORDER BY x.oid) FROM pg_catalog.pg_proc AS x
            WHERE x.oid OPERATOR(pg_catalog.>=) CAST(16384 AS pg_catalog.oid)), ';',
        (SELECT pg_catalog.string_agg(pg_catalog.concat(x.oid, ' ', x.xmin), ',' ORDER BY x.oid) FROM pg_catalog.pg_operator AS x
            WHERE x.oid OPERATOR(pg_catalog.>=) CAST(16384 AS pg_catalog.oid)), ';',
        (SELECT pg_catalog.string_agg(pg_catalog.concat(x.oid, ' ', x.xmin), ',' ORDER BY x.oid) FROM pg_catalog.pg_cast AS x
            WHERE x.oid OPERATOR(pg_catalog.>=) CAST(16384 AS pg_catalog.oid)), ';',
        (SELECT pg_catalog.string_agg(pg_catalog.concat(x.oid, ' ', x.xmin), ',' ORDER BY x.oid) FROM pg_catalog.pg_rewrite AS x
            WHERE x.oid OPERATOR(pg_catalog.>=) CAST(16384 AS pg_catalog.oid)), ';',
        (SELECT pg_catalog.string_agg(pg_catalog.concat(x.oid, ' ', x.xmin), ',' ORDER BY x.oid) FROM pg_catalog.pg_policy AS x))),
    pg_catalog.md5(pg_catalog.concat(
        (SELECT pg_catalog.string_agg(pg_catalog.concat(x.classid, ' ', x.objid, ' ', x.refobjid), ',' ORDER BY x.classid, x.objid, x.refobjid)
            FROM pg_catalog.pg_depend AS x WHERE x.refclassid OPERATOR(pg_catalog.=) CAST(1255 AS pg_catalog.oid)), ';',
        (SELECT pg_catalog.string_agg(pg_catalog.concat(x.oid, ' ', x.xmin), ',' ORDER BY x.oid) FROM pg_catalog.pg_attrdef AS x), ';',
        (SELECT pg_catalog.string_agg(pg_catalog.concat(x.oid, ' ', x.xmin), ',' ORDER BY x.oid) FROM pg_catalog.pg_constraint AS x
            WHERE x.conbin IS NOT NULL AND x.oid OPERATOR(pg_catalog.>=) CAST(16384 AS pg_catalog.oid)), ';',
        (SELECT pg_catalog.string_agg(pg_catalog.concat(x.oid, ' ', x.xmin), ',' ORDER BY x.oid) FROM pg_catalog.pg_trigger AS x
            WHERE x.tgqual IS NOT NULL))), NULL, NULL
