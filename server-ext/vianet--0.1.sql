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
