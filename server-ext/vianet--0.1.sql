\echo Use "CREATE EXTENSION vianet" to load this file. \quit

-- Fails where there is one already: who owns it could put functions beside ours.
CREATE SCHEMA vianet;
GRANT USAGE ON SCHEMA vianet TO PUBLIC;

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

-- The verifier of a role's password, for the node's daemon: with it, and the login that it relays, a session that is moved to the
-- other node can log in there. NULL for roles that get no login ticket: superusers and roles that may replicate, those that may not
-- log in or whose password has expired, and those without a SCRAM verifier.
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
      AND NOT a.rolsuper
      AND NOT a.rolreplication
      AND (a.rolvaliduntil IS NULL OR a.rolvaliduntil OPERATOR(pg_catalog.>) pg_catalog.now())
      AND pg_catalog.starts_with(a.rolpassword, 'SCRAM-SHA-256$')
$$;

REVOKE ALL ON FUNCTION vianet.scram_verifier(text) FROM PUBLIC;

COMMENT ON FUNCTION vianet.scram_verifier(text) IS
    'the SCRAM verifier of a role, for the daemon of a node; EXECUTE is for that daemon''s role alone';
