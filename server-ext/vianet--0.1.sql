\echo Use "CREATE EXTENSION vianet" to load this file. \quit

-- Fails where there is one already: who owns it could put functions beside ours.
CREATE SCHEMA vianet;

CREATE FUNCTION vianet.session_state(
    everything boolean DEFAULT false,
    OUT kind text,
    OUT name text,
    OUT value text,
    OUT source text,
    OUT parameter_types oid[])
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'vianet_session_state'
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 20;

GRANT EXECUTE ON FUNCTION vianet.session_state(boolean) TO PUBLIC;

COMMENT ON FUNCTION vianet.session_state(boolean) IS
    'what this session has become since its login; everything: also settings that it did not set';

CREATE FUNCTION vianet.holds(timeline bigint, position_in_wal pg_lsn)
RETURNS boolean
AS 'MODULE_PATHNAME', 'vianet_holds'
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;

GRANT EXECUTE ON FUNCTION vianet.holds(bigint, pg_lsn) TO PUBLIC;

COMMENT ON FUNCTION vianet.holds(bigint, pg_lsn) IS
    'whether this server has what was written up to a position on a timeline; NULL: it is a standby';

-- The verifier of a role's password, for the node's daemon: with it, and the login that it relays, a session that is moved to the
-- other node can log in there. NULL for roles that get no login ticket: superusers and roles that may replicate, or can become one
-- that does; those that may run programs or read and write files as the server, which can make themselves superusers; those that
-- may not log in or whose password has expired, and those without a SCRAM verifier.
--
-- Nobody may call it but the daemon's own role, to which the administrator grants it. Everything in it is named in full, and
-- search_path is fixed, so that a caller's schemas cannot get into it.
CREATE FUNCTION vianet.scram_verifier(role text)
RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.rolpassword
    FROM pg_catalog.pg_authid a
    WHERE a.rolname OPERATOR(pg_catalog.=) $1::pg_catalog.name
      AND pg_catalog.octet_length($1) OPERATOR(pg_catalog.<) 64
      AND a.rolcanlogin
      AND (a.rolvaliduntil IS NULL OR a.rolvaliduntil OPERATOR(pg_catalog.>) pg_catalog.now())
      AND pg_catalog.starts_with(a.rolpassword, 'SCRAM-SHA-256$')
      -- A role is a member of itself.
      AND NOT EXISTS (
          SELECT
          FROM pg_catalog.pg_authid b
          WHERE (b.rolsuper OR b.rolreplication OR b.rolname OPERATOR(pg_catalog.=) ANY (
                    '{pg_execute_server_program,pg_read_server_files,pg_write_server_files}'::pg_catalog.name[]))
            AND pg_catalog.pg_has_role(a.oid, b.oid, 'MEMBER'))
$$;

COMMENT ON FUNCTION vianet.scram_verifier(text) IS
    'the SCRAM verifier of a role, for the daemon of a node; EXECUTE is for that daemon''s role alone';

-- Whatever default privileges have given to whomever is taken back: who may create objects in the schema could put functions beside
-- ours, and verifiers are for the daemon alone.
DO LANGUAGE plpgsql $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT DISTINCT o.what, a.grantee
        FROM (SELECT 'SCHEMA vianet' AS what, n.nspacl AS acl, n.nspowner AS owner
              FROM pg_catalog.pg_namespace n
              WHERE n.oid = 'vianet'::pg_catalog.regnamespace
              UNION ALL
              SELECT 'FUNCTION vianet.scram_verifier(text)', p.proacl, p.proowner
              FROM pg_catalog.pg_proc p
              WHERE p.oid = 'vianet.scram_verifier(text)'::pg_catalog.regprocedure) o,
             pg_catalog.aclexplode(o.acl) a
        WHERE a.grantee NOT IN (0, o.owner)
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %I', one.what, pg_catalog.pg_get_userbyid(one.grantee));
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION vianet.scram_verifier(text) FROM PUBLIC;
REVOKE ALL ON SCHEMA vianet FROM PUBLIC;
GRANT USAGE ON SCHEMA vianet TO PUBLIC;
