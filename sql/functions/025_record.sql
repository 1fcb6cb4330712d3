-- The gate: every change of every object is recorded by these functions, and nowhere else.

CREATE TYPE actor AS (
    username text, authenticated_as text, full_name text, authoritative_source text,
    method text, request_id text, idempotency_key text, reason text, change_group text
);
COMMENT ON TYPE actor IS 'The author of a change and the call that makes it: acting user, authenticated user, full name, system of origin, method, request, idempotency key, reason and group.';

-- The setting nipap.change_set holds the current call and its change set, as call/number, until the call ends. Several
-- calls may share one transaction; each then has a number of its own in nipap.change. Without a number the transaction
-- identifies the call. The setting outlives the transaction, so that it can be read after the COMMIT. A later call
-- never takes the setting for its own.
CREATE FUNCTION call_under_way() RETURNS text LANGUAGE sql STABLE
RETURN coalesce(nullif(current_setting('nipap.change', true), ''), 'x' || pg_current_xact_id());
COMMENT ON FUNCTION call_under_way() IS 'Identifier of the current call; no other call has the same one.';

CREATE FUNCTION current_change_set() RETURNS bigint LANGUAGE sql STABLE
RETURN CASE WHEN split_part(current_setting('nipap.change_set', true), '/', 1) = call_under_way()
    THEN split_part(current_setting('nipap.change_set', true), '/', 2)::bigint END;
COMMENT ON FUNCTION current_change_set() IS 'The change set of the current call; NULL while the call has changed nothing.';

-- These functions are in plpgsql so that their plans are kept: PostgreSQL prepares the body of an SQL function that is
-- not inlined at every call. They return a value so that callers can assign it: PERFORM would run a statement to call a
-- function, which takes longer than most of these functions.
CREATE FUNCTION record_changes(who actor, kind text, action text, object_ids bigint[], before jsonb[], after jsonb[]) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    call text := coalesce(nullif(current_setting('nipap.change', true), ''), 'x' || pg_current_xact_id());
    noted text := current_setting('nipap.change_set', true);
    number bigint;
BEGIN
    IF split_part(noted, '/', 1) = call THEN
        number := split_part(noted, '/', 2);
    ELSE
        number := nextval('change_set_id_seq');
        INSERT INTO change_set (
            id, call, username, authenticated_as, full_name, authoritative_source, method, request_id, idempotency_key, reason, change_group,
            entries_after)
        VALUES (
            number, nullif(current_setting('nipap.change', true), '')::bigint, who.username, who.authenticated_as, who.full_name,
            who.authoritative_source, who.method, who.request_id, who.idempotency_key, who.reason, who.change_group,
            coalesce(pg_sequence_last_value('audit_log_id_seq'), 0));
        noted := set_config('nipap.change_set', call || '/' || number, false);
    END IF;
    INSERT INTO audit_log (
        change_set, change, username, authenticated_as, full_name, authoritative_source, object_type, object_id, action, before, after)
    SELECT number, NULL, who.username, who.authenticated_as, who.full_name, who.authoritative_source, kind, entry.object_id,
        action, entry.before, entry.after
    FROM (SELECT unnest(object_ids) AS object_id, unnest(before) AS before, unnest(after) AS after) entry;
    RETURN true;
END $$;
COMMENT ON FUNCTION record_changes(actor, text, text, bigint[], jsonb[], jsonb[]) IS 'Record an action on up to 10,000 objects as audit entries of the change set of the current call. The first change of a call creates its change set.';

CREATE FUNCTION record_change(who actor, kind text, action text, object_id bigint, before jsonb, after jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN record_changes(who, kind, action, ARRAY[object_id], ARRAY[before], ARRAY[after]);
END $$;
COMMENT ON FUNCTION record_change(actor, text, text, bigint, jsonb, jsonb) IS 'Record an action on one object.';

CREATE FUNCTION record_rows(who actor, kind text, action text, rows refcursor) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    -- Limits of objects, and of bytes of their values, in memory at once: comments may be long.
    most_objects constant int := 10000;
    most_bytes constant int := 16777216;
    object_id bigint;
    before jsonb;
    after jsonb;
    object_ids bigint[];
    befores jsonb[];
    afters jsonb[];
    objects int := 0;
    bytes bigint := 0;
    recorded bigint := 0;
    done boolean;
BEGIN
    LOOP
        FETCH rows INTO object_id, before, after;
        EXIT WHEN NOT FOUND;
        object_ids := object_ids || object_id;
        befores := befores || before;
        afters := afters || after;
        objects := objects + 1;
        bytes := bytes + coalesce(pg_column_size(before), 0) + coalesce(pg_column_size(after), 0);
        IF objects = most_objects OR bytes > most_bytes THEN
            done := record_changes(who, kind, action, object_ids, befores, afters);
            recorded := recorded + objects;
            object_ids := NULL;
            befores := NULL;
            afters := NULL;
            objects := 0;
            bytes := 0;
        END IF;
    END LOOP;
    CLOSE rows;
    IF objects > 0 THEN
        done := record_changes(who, kind, action, object_ids, befores, afters);
    END IF;
    RETURN recorded + objects;
END $$;
COMMENT ON FUNCTION record_rows(actor, text, text, refcursor) IS 'Record an action on each object of a cursor, which has the columns id, values before and values after; returns the number of objects. The cursor is closed.';

CREATE FUNCTION change_set_of(entry audit_log) RETURNS bigint LANGUAGE sql STABLE
RETURN coalesce(entry.change_set, (
    SELECT s.id FROM change_set s WHERE s.id <= entry.id AND s.last_older_entry >= entry.id AND s.at = entry.at
        AND s.username = entry.username AND s.authenticated_as = entry.authenticated_as
        AND s.full_name IS NOT DISTINCT FROM entry.full_name AND s.authoritative_source = entry.authoritative_source
    ORDER BY s.id DESC LIMIT 1));
COMMENT ON FUNCTION change_set_of(audit_log) IS 'The change set of an audit entry that any version of the program has written.';

CREATE FUNCTION entries_of(number bigint) RETURNS SETOF audit_log LANGUAGE plpgsql STABLE AS $$
DECLARE
    older change_set;
BEGIN
    SELECT * INTO older FROM change_set WHERE id = number AND last_older_entry IS NOT NULL;
    IF NOT FOUND THEN
        RETURN QUERY SELECT * FROM audit_log a WHERE change_set = number
            AND a.id > (SELECT s.entries_after FROM change_set s WHERE s.id = number) ORDER BY id;
    ELSE
        RETURN QUERY SELECT * FROM audit_log a WHERE id BETWEEN older.id AND older.last_older_entry AND change_set IS NULL
            AND a.at = older.at AND a.username = older.username AND a.authenticated_as = older.authenticated_as
            AND a.full_name IS NOT DISTINCT FROM older.full_name AND a.authoritative_source = older.authoritative_source
        ORDER BY id;
    END IF;
END $$;
COMMENT ON FUNCTION entries_of(bigint) IS 'The audit entries of a change set in order, written by any version of the program.';
