-- What could set something that nobody sees: functions that are not the server's own, and its own behind a view, a default or the like.
-- $1: words of a function's source that make it one of them; $2: an UPDATE up to its SET.
-- Every name and operator is qualified, and there is no backslash: neither search_path nor standard_conforming_strings matters.
WITH own AS MATERIALIZED (
    SELECT p.oid, p.proname, p.prosrc, pg_catalog.concat(n.nspname, '.', p.proname) AS name, p.prolang, l.lanname, p.probin, p.prokind, p.prorettype,
        p.proconfig, p.proargdefaults, p.prosqlbody,
        pg_catalog.lower(pg_catalog.concat(p.prosrc, ' ', pg_catalog.pg_get_function_sqlbody(p.oid)) COLLATE pg_catalog."C") AS source
    FROM pg_catalog.pg_proc AS p
    JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
    JOIN pg_catalog.pg_language AS l ON l.oid OPERATOR(pg_catalog.=) p.prolang
    WHERE p.oid OPERATOR(pg_catalog.>=) CAST(16384 AS pg_catalog.oid)
), dynamic AS MATERIALIZED (
    -- set_config; what runs a text as a statement: query_to_xml and its like, ts_rewrite, ts_stat; pg_backup_start, and
    -- pg_replication_origin_session_setup.
    SELECT f.oid, f.prosrc FROM pg_catalog.pg_proc AS f
    WHERE f.oid OPERATOR(pg_catalog.=) ANY (CAST(ARRAY[2078, 2924, 2927, 2930, 3684, 3685, 3689, 3690, 2172, 6006] AS pg_catalog.oid[]))
), judged AS MATERIALIZED (
    SELECT o.oid, o.proname, o.name, o.prorettype,
        CASE WHEN o.prolang OPERATOR(pg_catalog.=) CAST(13 AS pg_catalog.oid)
            THEN pg_catalog.regexp_replace(o.probin, '^.*/', '') END AS library
    FROM own AS o
    WHERE CASE
        WHEN o.proconfig IS NOT NULL AND EXISTS (
            SELECT FROM pg_catalog.unnest(o.proconfig) AS c(one)
            WHERE pg_catalog.strpos(pg_catalog.split_part(c.one, '=', 1), '.') OPERATOR(pg_catalog.>) 0) THEN true
        WHEN o.prokind OPERATOR(pg_catalog.=) 'a' THEN EXISTS (
            SELECT FROM pg_catalog.pg_aggregate AS a, dynamic AS d
            WHERE CAST(a.aggfnoid AS pg_catalog.oid) OPERATOR(pg_catalog.=) o.oid
              AND d.oid OPERATOR(pg_catalog.=) ANY (ARRAY[CAST(a.aggtransfn AS pg_catalog.oid), CAST(a.aggfinalfn AS pg_catalog.oid),
                CAST(a.aggcombinefn AS pg_catalog.oid), CAST(a.aggserialfn AS pg_catalog.oid), CAST(a.aggdeserialfn AS pg_catalog.oid),
                CAST(a.aggmtransfn AS pg_catalog.oid), CAST(a.aggminvtransfn AS pg_catalog.oid), CAST(a.aggmfinalfn AS pg_catalog.oid)]))
        WHEN o.prolang OPERATOR(pg_catalog.=) CAST(12 AS pg_catalog.oid)
            THEN EXISTS (SELECT FROM dynamic AS d WHERE d.prosrc OPERATOR(pg_catalog.=) o.prosrc)
        WHEN o.lanname OPERATOR(pg_catalog.<>) ALL (CAST(ARRAY['sql', 'plpgsql'] AS pg_catalog.name[])) THEN true
        WHEN o.source OPERATOR(pg_catalog.~) $1 THEN true
        WHEN pg_catalog.strpos(o.source, 'set') OPERATOR(pg_catalog.=) 0 THEN false
        -- Comments may say anything.
        WHEN pg_catalog.strpos(o.source, '--') OPERATOR(pg_catalog.>) 0 OR pg_catalog.strpos(o.source, '/*') OPERATOR(pg_catalog.>) 0
            THEN o.source OPERATOR(pg_catalog.~) '[[:<:]]set[[:>:]]'
        ELSE pg_catalog.regexp_replace(o.source, $2, ' ', 'g') OPERATOR(pg_catalog.~) '[[:<:]]set[[:>:]]'
    END
), sources AS MATERIALIZED (
    SELECT pg_catalog.string_agg(o.source, ' ') AS source FROM own AS o
    WHERE o.prolang OPERATOR(pg_catalog.<>) ALL (CAST(ARRAY[12, 13] AS pg_catalog.oid[]))
), large AS MATERIALIZED (
    -- Too much to look for each name in.
    SELECT pg_catalog.length(s.source) OPERATOR(pg_catalog.*) (SELECT pg_catalog.count(*) FROM judged AS j)
        OPERATOR(pg_catalog.>) CAST(100000000 AS pg_catalog.int8) AS is_so
    FROM sources AS s
), word AS MATERIALIZED (
    -- Cut off as the server does it.
    SELECT DISTINCT CAST(w.word AS pg_catalog.name) AS word
    FROM own AS o, LATERAL pg_catalog.regexp_split_to_table(o.source, '[^a-z0-9_]+') AS w(word)
    WHERE (SELECT l.is_so FROM large AS l)
      AND o.prolang OPERATOR(pg_catalog.<>) ALL (CAST(ARRAY[12, 13] AS pg_catalog.oid[]))
), tree AS (
    -- As expressions have them.
    SELECT pg_catalog.concat('funcid (', pg_catalog.string_agg(CAST(d.oid AS pg_catalog.text), '|'), ') |:relid ',
        CAST(CAST('pg_catalog.pg_settings' AS pg_catalog.regclass) AS pg_catalog.oid), ' ') AS pattern FROM dynamic AS d
)
-- Used: something else than a statement's text may call it.
SELECT 'function' AS kind, j.name, j.library AS value,
    CASE WHEN j.prorettype OPERATOR(pg_catalog.=) ANY (CAST(ARRAY[2279, 3838] AS pg_catalog.oid[])) THEN 'used'
        WHEN EXISTS (SELECT FROM pg_catalog.pg_depend AS d
            WHERE d.refclassid OPERATOR(pg_catalog.=) CAST(1255 AS pg_catalog.oid) AND d.refobjid OPERATOR(pg_catalog.=) j.oid) THEN 'used'
        WHEN (SELECT l.is_so FROM large AS l)
            THEN CASE WHEN pg_catalog.lower(CAST(j.proname AS pg_catalog.text) COLLATE pg_catalog."C") OPERATOR(pg_catalog.~) '[^a-z0-9_]'
                OR CAST(pg_catalog.lower(CAST(j.proname AS pg_catalog.text) COLLATE pg_catalog."C") AS pg_catalog.name)
                    OPERATOR(pg_catalog.=) ANY (SELECT w.word FROM word AS w) THEN 'used' ELSE 'named' END
        WHEN pg_catalog.strpos((SELECT s.source FROM sources AS s), pg_catalog.lower(CAST(j.proname AS pg_catalog.text) COLLATE pg_catalog."C"))
            OPERATOR(pg_catalog.>) 0 THEN 'used'
        -- There it has two.
        WHEN pg_catalog.strpos(CAST(j.proname AS pg_catalog.text), '"') OPERATOR(pg_catalog.>) 0 THEN 'used'
        ELSE 'named' END AS source,
    NULL AS types
FROM judged AS j
UNION
SELECT 'function', x.name, NULL, 'used', NULL
FROM (
    SELECT pg_catalog.concat('a view or rule on ', CAST(CAST(r.ev_class AS pg_catalog.regclass) AS pg_catalog.text)) AS name
    FROM pg_catalog.pg_rewrite AS r, tree AS t
    WHERE r.oid OPERATOR(pg_catalog.>=) CAST(16384 AS pg_catalog.oid)
      AND pg_catalog.concat(r.ev_action, r.ev_qual) OPERATOR(pg_catalog.~) t.pattern
    UNION ALL
    SELECT pg_catalog.concat('a default of ', CAST(CAST(a.adrelid AS pg_catalog.regclass) AS pg_catalog.text))
    FROM pg_catalog.pg_attrdef AS a, tree AS t
    WHERE CAST(a.adbin AS pg_catalog.text) OPERATOR(pg_catalog.~) t.pattern
    UNION ALL
    SELECT pg_catalog.concat('a policy on ', CAST(CAST(p.polrelid AS pg_catalog.regclass) AS pg_catalog.text))
    FROM pg_catalog.pg_policy AS p, tree AS t
    WHERE pg_catalog.concat(p.polqual, p.polwithcheck) OPERATOR(pg_catalog.~) t.pattern
    UNION ALL
    SELECT pg_catalog.concat('the constraint ', c.conname)
    FROM pg_catalog.pg_constraint AS c, tree AS t
    WHERE c.oid OPERATOR(pg_catalog.>=) CAST(16384 AS pg_catalog.oid)
      AND CAST(c.conbin AS pg_catalog.text) OPERATOR(pg_catalog.~) t.pattern
    UNION ALL
    SELECT pg_catalog.concat('the trigger ', g.tgname)
    FROM pg_catalog.pg_trigger AS g, tree AS t
    WHERE CAST(g.tgqual AS pg_catalog.text) OPERATOR(pg_catalog.~) t.pattern
    UNION ALL
    SELECT o.name FROM own AS o, tree AS t
    WHERE pg_catalog.concat(o.proargdefaults, o.prosqlbody) OPERATOR(pg_catalog.~) t.pattern
    UNION ALL
    SELECT pg_catalog.concat('the operator ', o.oprname) FROM pg_catalog.pg_operator AS o, dynamic AS d
    WHERE o.oid OPERATOR(pg_catalog.>=) CAST(16384 AS pg_catalog.oid)
      AND CAST(o.oprcode AS pg_catalog.oid) OPERATOR(pg_catalog.=) d.oid
) AS x
