-- The past: the tables of former states are built from the audit log, in the order of change_order.

CREATE FUNCTION past_position() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
RETURN current_setting('nipap.position')::bigint;
COMMENT ON FUNCTION past_position() IS 'The position of change_order that questions about the past of this transaction are about.';

CREATE FUNCTION state_facts(facts jsonb, version int, since bigint, until bigint) RETURNS jsonb LANGUAGE sql IMMUTABLE
RETURN '{"tags": [], "avps": {}, "status": "assigned", "expires": "infinity"}'::jsonb || facts
    || jsonb_build_object('version', version, 'since', since, 'until', until, 'rt_rank', rank_of(facts ->> 'rt'));
COMMENT ON FUNCTION state_facts(jsonb, int, bigint, bigint) IS 'The facts of a state with all columns that its table needs, whatever the kind of the object.';

CREATE FUNCTION put_past(kind text, facts jsonb, version int, since bigint, until bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    whole jsonb := state_facts(facts, version, since, until);
BEGIN
    CASE kind
        WHEN 'prefix' THEN
            INSERT INTO past_prefix SELECT r.* FROM jsonb_populate_record(NULL::past_prefix, whole) r;
            INSERT INTO past_words SELECT r.id, words_of(r) FROM jsonb_populate_record(NULL::prefix, facts) r
            WHERE NOT EXISTS (SELECT FROM past_words w WHERE w.prefix_id = r.id AND w.words = words_of(r));
        WHEN 'vrf' THEN INSERT INTO past_vrf SELECT r.* FROM jsonb_populate_record(NULL::past_vrf, whole) r;
        WHEN 'pool' THEN INSERT INTO past_pool SELECT r.* FROM jsonb_populate_record(NULL::past_pool, whole) r;
        WHEN 'asn' THEN INSERT INTO past_asn SELECT r.* FROM jsonb_populate_record(NULL::past_asn, whole) r;
    END CASE;
END $$;
COMMENT ON FUNCTION put_past(text, jsonb, int, bigint, bigint) IS 'Store a state of an object, which held from one position until another.';

-- What the change sets of some positions have done to each object, as a whole for each position.
CREATE FUNCTION effects_between(first_position bigint, last_position bigint)
RETURNS TABLE (kind text, id bigint, "position" bigint, before jsonb, after jsonb, versions int, restores boolean) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT a.object_type, a.object_id, o.position, (array_agg(a.before ORDER BY a.id))[1], (array_agg(a.after ORDER BY a.id DESC))[1],
        count(*)::int, bool_and(coalesce(s.method IN ('undo', 'restore'), false))
    FROM change_order o CROSS JOIN LATERAL (SELECT c.id, c.method, c.entries_after FROM change_set c WHERE c.id = o.change_set OFFSET 0) s
    -- A plain join could read every partition of the log.
    CROSS JOIN LATERAL (
        SELECT l.id, l.object_type, l.object_id, l.before, l.after FROM audit_log l WHERE l.change_set = s.id AND l.id > s.entries_after OFFSET 0) a
    WHERE o.position BETWEEN first_position AND last_position AND a.object_type IN ('vrf', 'pool', 'prefix', 'asn')
    GROUP BY 1, 2, 3;
END $$;
COMMENT ON FUNCTION effects_between(bigint, bigint) IS 'The facts of each object before and after each position of a range, the number of its entries, and whether they are an undo.';

CREATE FUNCTION begin_past() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    forever constant bigint := 9223372036854775807;
    at_position bigint;
    built past_state;
BEGIN
    -- The caller has a snapshot of its own. Change sets that it sees, and that have no position yet, are applied later: the
    -- objects that they have changed get the facts from before them.
    SELECT * INTO built FROM past_state FOR UPDATE;
    IF built.position IS NOT NULL THEN
        RETURN false;
    END IF;
    at_position := (SELECT position FROM change_state);
    CREATE TEMPORARY TABLE past_ahead ON COMMIT DROP AS
    SELECT a.object_type AS kind, a.object_id AS id, (array_agg(a.before ORDER BY a.id))[1] AS before,
        count(*) FILTER (WHERE a.action <> 'remove')::int AS versions
    FROM change_set s JOIN audit_log a ON a.change_set = s.id AND a.id > s.entries_after
    WHERE s.id > (SELECT settled FROM change_state) AND NOT EXISTS (SELECT FROM change_order o WHERE o.change_set = s.id)
    GROUP BY 1, 2;
    INSERT INTO past_prefix SELECT r.* FROM prefix t CROSS JOIN LATERAL jsonb_populate_record(NULL::past_prefix,
        to_jsonb(t) || jsonb_build_object('since', 0, 'until', forever)) r
    WHERE NOT EXISTS (SELECT FROM past_ahead x WHERE x.kind = 'prefix' AND x.id = t.id);
    INSERT INTO past_words SELECT w.prefix_id, w.words FROM prefix_words w;
    INSERT INTO past_vrf SELECT 0, forever, t.id, t.rt, t.rt_rank, t.name, t.description, t.tags, t.avps, t.version FROM vrf t
    WHERE NOT EXISTS (SELECT FROM past_ahead x WHERE x.kind = 'vrf' AND x.id = t.id);
    INSERT INTO past_pool SELECT r.* FROM pool t CROSS JOIN LATERAL jsonb_populate_record(NULL::past_pool,
        to_jsonb(t) || jsonb_build_object('since', 0, 'until', forever)) r
    WHERE NOT EXISTS (SELECT FROM past_ahead x WHERE x.kind = 'pool' AND x.id = t.id);
    INSERT INTO past_asn SELECT 0, forever, t.asn, t.name, t.version FROM asn t
    WHERE NOT EXISTS (SELECT FROM past_ahead x WHERE x.kind = 'asn' AND x.id = t.asn);
    PERFORM put_past(x.kind, x.before, greatest(1, coalesce(CASE x.kind
            WHEN 'prefix' THEN (SELECT t.version FROM prefix t WHERE t.id = x.id) WHEN 'vrf' THEN (SELECT t.version FROM vrf t WHERE t.id = x.id)
            WHEN 'pool' THEN (SELECT t.version FROM pool t WHERE t.id = x.id) ELSE (SELECT t.version FROM asn t WHERE t.asn = x.id) END,
        (SELECT l.version FROM last_version l WHERE l.kind = x.kind AND l.id = x.id), 1) - x.versions), 0, forever) FROM past_ahead x
    WHERE x.before IS NOT NULL AND x.kind IN ('vrf', 'pool', 'prefix', 'asn');
    UPDATE past_state SET lowest = at_position, position = at_position;
    RETURN true;
END $$;
COMMENT ON FUNCTION begin_past() IS 'Store the present states of all objects, for the last position. Returns false if that was done before.';

CREATE FUNCTION close_past(kind text, key bigint, at_position bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    forever constant bigint := 9223372036854775807;
BEGIN
    CASE kind
        WHEN 'prefix' THEN UPDATE past_prefix p SET until = at_position WHERE p.id = key AND p.until = forever;
        WHEN 'vrf' THEN UPDATE past_vrf p SET until = at_position WHERE p.id = key AND p.until = forever;
        WHEN 'pool' THEN UPDATE past_pool p SET until = at_position WHERE p.id = key AND p.until = forever;
        WHEN 'asn' THEN UPDATE past_asn p SET until = at_position WHERE p.asn = key AND p.until = forever;
    END CASE;
END $$;
COMMENT ON FUNCTION close_past(text, bigint, bigint) IS 'End the present state of an object at a position.';

CREATE FUNCTION version_after(kind text, key bigint, restores boolean) RETURNS int LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF restores THEN
        RETURN coalesce(CASE kind
            WHEN 'prefix' THEN (SELECT max(p.version) FROM past_prefix p WHERE p.id = key)
            WHEN 'vrf' THEN (SELECT max(p.version) FROM past_vrf p WHERE p.id = key)
            WHEN 'pool' THEN (SELECT max(p.version) FROM past_pool p WHERE p.id = key)
            WHEN 'asn' THEN (SELECT max(p.version) FROM past_asn p WHERE p.asn = key) END, 0);
    END IF;
    RETURN coalesce(CASE kind
        WHEN 'prefix' THEN (SELECT p.version FROM past_prefix p WHERE p.id = key ORDER BY p.until DESC LIMIT 1)
        WHEN 'vrf' THEN (SELECT p.version FROM past_vrf p WHERE p.id = key ORDER BY p.until DESC LIMIT 1)
        WHEN 'pool' THEN (SELECT p.version FROM past_pool p WHERE p.id = key ORDER BY p.until DESC LIMIT 1)
        WHEN 'asn' THEN (SELECT p.version FROM past_asn p WHERE p.asn = key ORDER BY p.until DESC LIMIT 1) END, 0);
END $$;
COMMENT ON FUNCTION version_after(text, bigint, boolean) IS 'The version from which an object goes on: that of its last state, or of all states if it is restored; 0 without a state.';

CREATE FUNCTION version_before(kind text, key bigint) RETURNS int LANGUAGE plpgsql STABLE AS $$
DECLARE
    later int := CASE kind
        WHEN 'prefix' THEN (SELECT p.version FROM past_prefix p WHERE p.id = key ORDER BY p.until LIMIT 1)
        WHEN 'vrf' THEN (SELECT p.version FROM past_vrf p WHERE p.id = key ORDER BY p.until LIMIT 1)
        WHEN 'pool' THEN (SELECT p.version FROM past_pool p WHERE p.id = key ORDER BY p.until LIMIT 1)
        WHEN 'asn' THEN (SELECT p.version FROM past_asn p WHERE p.asn = key ORDER BY p.until LIMIT 1) END;
BEGIN
    RETURN CASE WHEN later > 1 THEN later - 1
        ELSE coalesce((SELECT l.version FROM last_version l WHERE l.kind = version_before.kind AND l.id = key), 1) END;
END $$;
COMMENT ON FUNCTION version_before(text, bigint) IS 'The version of an object when it was removed: one below that of its restored state, or the one that was kept.';

CREATE FUNCTION follow_past(most int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    forever constant bigint := 9223372036854775807;
    built bigint;
    goal bigint;
    each record;
BEGIN
    SELECT position INTO built FROM past_state FOR UPDATE;
    goal := least((SELECT position FROM change_state), built + most);
    IF built IS NULL OR goal <= built THEN
        RETURN built;
    END IF;
    IF to_regclass('pg_temp.past_effect') IS NULL THEN
        CREATE TEMPORARY TABLE past_effect (
            kind text, id bigint, "position" bigint, before jsonb, after jsonb, versions int, restores boolean, is_new boolean, until bigint
        ) ON COMMIT DELETE ROWS;
    ELSE
        TRUNCATE past_effect;
    END IF;
    INSERT INTO past_effect SELECT e.*, e.kind = 'prefix' AND e.before IS NULL AND row_number() OVER w = 1 AS is_new, coalesce(lead(e.position) OVER w, forever) AS until
    FROM effects_between(built + 1, goal) e WINDOW w AS (PARTITION BY e.kind, e.id ORDER BY e.position);
    -- Most changes add prefixes: one statement stores all of them.
    INSERT INTO past_prefix SELECT r.* FROM past_effect e CROSS JOIN LATERAL jsonb_populate_record(NULL::past_prefix,
        state_facts(e.after, CASE WHEN e.restores THEN version_after(e.kind, e.id, true) ELSE 0 END + e.versions, e.position, e.until)) r
    WHERE e.is_new AND e.after IS NOT NULL;
    INSERT INTO past_words SELECT r.id, words_of(r) FROM past_effect e CROSS JOIN LATERAL jsonb_populate_record(NULL::prefix, e.after) r
    WHERE e.is_new AND e.after IS NOT NULL AND NOT EXISTS (SELECT FROM past_words w WHERE w.prefix_id = r.id AND w.words = words_of(r));
    FOR each IN SELECT * FROM past_effect e WHERE NOT e.is_new ORDER BY e.position LOOP
        PERFORM close_past(each.kind, each.id, each.position);
        IF each.after IS NOT NULL THEN
            PERFORM put_past(each.kind, each.after,
                CASE WHEN each.before IS NULL AND NOT each.restores THEN 0 ELSE version_after(each.kind, each.id, each.before IS NULL) END + each.versions,
                each.position, each.until);
        END IF;
    END LOOP;
    UPDATE past_state SET position = goal;
    RETURN goal;
END $$;
COMMENT ON FUNCTION follow_past(int) IS 'Store the states after the next positions, at most so many; returns the last position that is stored now.';

CREATE FUNCTION open_past(kind text, key bigint, at_position bigint) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    later int;
BEGIN
    -- The earliest state of an object that is known so far began here.
    CASE kind
        WHEN 'prefix' THEN UPDATE past_prefix p SET since = at_position WHERE p.id = key AND p.since = 0 RETURNING p.version INTO later;
        WHEN 'vrf' THEN UPDATE past_vrf p SET since = at_position WHERE p.id = key AND p.since = 0 RETURNING p.version INTO later;
        WHEN 'pool' THEN UPDATE past_pool p SET since = at_position WHERE p.id = key AND p.since = 0 RETURNING p.version INTO later;
        WHEN 'asn' THEN UPDATE past_asn p SET since = at_position WHERE p.asn = key AND p.since = 0 RETURNING p.version INTO later;
    END CASE;
    RETURN later;
END $$;
COMMENT ON FUNCTION open_past(text, bigint, bigint) IS 'Note where the earliest known state of an object began; returns its version, NULL when no earlier state is open.';

CREATE FUNCTION go_back(most int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    built past_state;
    goal bigint;
    each record;
    later int;
BEGIN
    SELECT * INTO built FROM past_state FOR UPDATE;
    IF built.lowest IS NULL OR built.ends_at IS NOT NULL THEN
        RETURN NULL;
    END IF;
    -- The state at a position does not need the position itself to be undone: the lowest position to go back to is 1.
    goal := least(built.lowest, greatest(1, built.lowest - most));
    -- Entries in a detached partition cannot be read.
    goal := greatest(goal, coalesce((
        SELECT max(o.position) FROM change_order o JOIN change_set s ON s.id = o.change_set
        WHERE o.position > goal AND o.position <= built.lowest AND s.entries_after < (SELECT max(end_id) - 1 FROM audit_detached WHERE attached IS NULL)), 0));
    FOR each IN SELECT * FROM effects_between(goal + 1, built.lowest) e ORDER BY e.position DESC LOOP
        later := open_past(each.kind, each.id, each.position);
        IF each.before IS NOT NULL THEN
            PERFORM put_past(each.kind, each.before, greatest(1, coalesce(later - each.versions, version_before(each.kind, each.id))), 0, each.position);
        END IF;
    END LOOP;
    IF goal = built.lowest OR goal <= 1 THEN
        UPDATE past_state SET lowest = goal, ends_at = goal;
        RETURN NULL;
    END IF;
    UPDATE past_state SET lowest = goal;
    RETURN goal;
END $$;
COMMENT ON FUNCTION go_back(int) IS 'Store the states at earlier positions, at most so many; returns the lowest position that is stored now, NULL when there are no earlier ones.';

-- ---------------------------------------------------------------- the check

-- A state is compared as a whole row, so that no column is forgotten. One statement serves all kinds: it reads the log once.
CREATE FUNCTION wrong_states() RETURNS TABLE (kind text, id bigint, "position" bigint, why text) LANGUAGE plpgsql STABLE AS $$
DECLARE
    of_kind constant text := $sql$
        SELECT %1$L, e.id, e.position, 'its state before differs from the audit log' FROM effect e LEFT JOIN past_%1$s p ON p.%2$I = e.id AND p.until = e.position
        WHERE e.kind = %1$L AND ((e.before IS NULL) <> (p.since IS NULL)
            OR e.before IS NOT NULL AND p IS DISTINCT FROM jsonb_populate_record(NULL::past_%1$s, state_facts(e.before, p.version, p.since, p.until)))
        UNION ALL
        SELECT %1$L, e.id, e.position, 'its state after differs from the audit log' FROM effect e LEFT JOIN past_%1$s p ON p.%2$I = e.id AND p.since = e.position
        WHERE e.kind = %1$L AND ((e.after IS NULL) <> (p.since IS NULL)
            OR e.after IS NOT NULL AND p IS DISTINCT FROM jsonb_populate_record(NULL::past_%1$s, state_facts(e.after, p.version, p.since, p.until)))
        UNION ALL
        SELECT %1$L, p.%2$I::bigint, p.since, 'a state that the audit log does not have' FROM past_%1$s p
        WHERE p.since >= $1 AND p.since <= $2 AND NOT EXISTS (SELECT FROM effect e WHERE e.kind = %1$L AND e.id = p.%2$I AND e.position = p.since)
           OR p.until >= $1 AND p.until <= $2 AND NOT EXISTS (SELECT FROM effect e WHERE e.kind = %1$L AND e.id = p.%2$I AND e.position = p.until)
           OR p.since > $2 OR p.until > $2 AND p.until < 9223372036854775807
        UNION ALL
        SELECT %1$L, coalesce(t.%2$I, p.%2$I)::bigint, $2, 'its present state differs from the stored object' FROM %1$s t
        FULL JOIN (SELECT * FROM past_%1$s WHERE until = 9223372036854775807) p ON p.%2$I = t.%2$I
        WHERE (t.%2$I IS NULL OR p.%2$I IS NULL OR p IS DISTINCT FROM jsonb_populate_record(p, to_jsonb(t)))
            AND NOT EXISTS (SELECT FROM later l WHERE l.kind = %1$L AND l.id = coalesce(t.%2$I, p.%2$I))$sql$;
    built past_state;
    beginning bigint;
BEGIN
    SELECT * INTO built FROM past_state;
    IF built.position IS NULL THEN
        RETURN;
    END IF;
    -- Without the entries of a detached partition nothing is known about its positions and those before.
    beginning := 1 + greatest(built.lowest, (SELECT max(o.position) FROM change_order o JOIN change_set s ON s.id = o.change_set
        WHERE s.entries_after < (SELECT max(end_id) - 1 FROM audit_detached WHERE attached IS NULL)));
    -- later: the objects that were changed behind the last position.
    RETURN QUERY EXECUTE $sql$
        WITH effect AS MATERIALIZED (SELECT e.kind, e.id, e.position, e.before, e.after FROM effects_between($1, $2) e),
        later AS MATERIALIZED (
            SELECT e.kind, e.id FROM effects_between($2 + 1, 9223372036854775807) e
            UNION SELECT a.object_type, a.object_id FROM change_set s JOIN audit_log a ON a.change_set = s.id AND a.id > s.entries_after
            WHERE s.id > (SELECT c.settled FROM change_state c) AND NOT EXISTS (SELECT FROM change_order o WHERE o.change_set = s.id))
        $sql$ || (SELECT string_agg(format(of_kind, k.kind, k.key), ' UNION ALL ')
                  FROM (VALUES ('vrf', 'id'), ('pool', 'id'), ('prefix', 'id'), ('asn', 'asn')) k (kind, key))
    USING beginning, built.position;
END $$;
COMMENT ON FUNCTION wrong_states() IS 'The states in the tables of the past that differ from the audit log or, at present, from the object. Nothing while nothing is built.';

CREATE FUNCTION forget_past() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM past_vrf;
    DELETE FROM past_pool;
    DELETE FROM past_prefix;
    DELETE FROM past_asn;
    DELETE FROM past_words;
    UPDATE past_state SET lowest = NULL, position = NULL, ends_at = NULL;
END $$;
COMMENT ON FUNCTION forget_past() IS 'Empty the tables of the past. They are built again from the audit log.';
