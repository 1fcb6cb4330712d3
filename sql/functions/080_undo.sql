-- Undo: the inverse of the net effect of a change set, or of a part of it, as a new change set. The temporary table
-- undoing has the objects to set back, undo_tree the prefixes that get a new parent, undo_owner the prefixes and tops of
-- VRFs whose direct children change. The steps: read the audit, lock, compare with the present, apply, record. Each step
-- is a few statements for any number of objects, since row by row the counters of one parent would be written as often
-- as it has children.

CREATE OR REPLACE FUNCTION make_undoing() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass('pg_temp.undoing') IS NULL THEN
        -- op: restore, edit, remove, or none. before, after: the facts around the change set. now: the present facts.
        -- place: the present network of a prefix, parent: its present parent. goal: the network it gets, base: the
        -- closest prefix around it that is stored at present. moves: an edit of the network.
        CREATE TEMPORARY TABLE undoing (
            n int, last_entry bigint, kind text, id bigint, op text, before jsonb, after jsonb, now jsonb, version int,
            why text, vrf_id int, type text, pool_id int, moves boolean NOT NULL DEFAULT false,
            place cidr, parent bigint, goal cidr, base bigint, base_version tid,
            CONSTRAINT undoing_pkey PRIMARY KEY (kind, id)
        ) ON COMMIT DELETE ROWS;
        -- incoming: the prefix gets a place, restored or moved; else it is stored and gets another parent. inner_id: the
        -- closest incoming prefix around it.
        CREATE TEMPORARY TABLE undo_tree (
            id bigint CONSTRAINT undo_tree_pkey PRIMARY KEY, vrf_id int, place cidr, type text, incoming boolean,
            former bigint, base bigint, base_place cidr, inner_id bigint, inner_place cidr, parent bigint
        ) ON COMMIT DELETE ROWS;
        -- The prefixes that leave their place, each with the closest prefix around it that stays.
        CREATE TEMPORARY TABLE undo_leaving (id bigint CONSTRAINT undo_leaving_pkey PRIMARY KEY, owner bigint) ON COMMIT DELETE ROWS;
        -- whole: its free space is computed anew as a whole.
        CREATE TEMPORARY TABLE undo_owner (
            owner bigint CONSTRAINT undo_owner_pkey PRIMARY KEY, id bigint, vrf_id int, space cidr, whole boolean,
            first_place cidr, last_address inet, children int, size numeric, lowest inet, highest inet
        ) ON COMMIT DELETE ROWS;
        CREATE TEMPORARY TABLE undo_total (vrf_id int, family int, prefixes bigint, total numeric, used numeric) ON COMMIT DELETE ROWS;
    ELSE
        TRUNCATE undoing, undo_leaving, undo_tree, undo_owner, undo_total;
    END IF;
END $$;
COMMENT ON FUNCTION make_undoing() IS 'Create the temporary tables of an undo, or empty them.';

CREATE OR REPLACE FUNCTION lacks_time(facts jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN facts - '{last_modified,version}'::text[];
COMMENT ON FUNCTION lacks_time(jsonb) IS 'Facts without the time of the last edit.';

CREATE OR REPLACE FUNCTION rank_of(rt text) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN rt IS NULL THEN -1 ELSE
    CASE WHEN rt LIKE '%.%' THEN (split_part(rt, ':', 1)::inet - inet '0.0.0.0')::numeric ELSE split_part(rt, ':', 1)::numeric END
    * 4294967296 + split_part(rt, ':', 2)::numeric END;
COMMENT ON FUNCTION rank_of(text) IS 'Rank of a route target, see vrf.rt_rank.';

CREATE OR REPLACE FUNCTION differing(one jsonb, other jsonb) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT key FROM (SELECT jsonb_object_keys(one || other) AS key) k WHERE one -> key IS DISTINCT FROM other -> key ORDER BY key);
COMMENT ON FUNCTION differing(jsonb, jsonb) IS 'The attributes in which two states of an object differ.';

CREATE OR REPLACE FUNCTION setting_back(before jsonb, after jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT coalesce(jsonb_object_agg(name, before -> name), '{}') FROM unnest(differing(lacks_time(before), lacks_time(after))) name);
COMMENT ON FUNCTION setting_back(jsonb, jsonb) IS 'The attributes that an edit has changed, with their values before; null for a value that was not set.';

-- ---------------------------------------------------------------- what there is to undo

CREATE OR REPLACE FUNCTION read_undoing(number bigint, part_kind text, part_id bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    root jsonb;
BEGIN
    PERFORM make_undoing();
    INSERT INTO undoing (n, last_entry, kind, id, op, before, after)
    SELECT e.n, e.last_entry, e.kind, e.id,
        CASE WHEN e.before IS NULL THEN 'remove' WHEN e.after IS NULL THEN 'restore' ELSE 'edit' END, e.before, e.after
    FROM (
        SELECT max(a.n) AS n, max(a.id) AS last_entry, a.object_type AS kind, a.object_id AS id,
            (array_agg(a.before - 'version' ORDER BY a.n))[1] AS before, (array_agg(a.after - 'version' ORDER BY a.n DESC))[1] AS after
        FROM (SELECT row_number() OVER (ORDER BY x.id) - 1 AS n, x.* FROM entries_of(number) x) a
        WHERE a.object_type IN ('vrf', 'pool', 'prefix', 'asn') GROUP BY a.object_type, a.object_id) e
    WHERE lacks_time(e.before) IS DISTINCT FROM lacks_time(e.after);
    IF part_kind IS NOT NULL THEN
        root := (SELECT u.before FROM undoing u WHERE u.kind = part_kind AND u.id = part_id AND u.op = 'restore');
        DELETE FROM undoing u WHERE NOT CASE
            WHEN u.kind = part_kind AND u.id = part_id THEN true
            WHEN part_kind = 'prefix' THEN u.kind = 'prefix' AND u.op = 'restore' AND u.before -> 'vrf_id' = root -> 'vrf_id'
                AND (u.before ->> 'prefix')::cidr << (root ->> 'prefix')::cidr
            WHEN part_kind = 'vrf' THEN u.kind = 'prefix' AND u.op = 'restore' AND (u.before ->> 'vrf_id')::bigint = part_id
            WHEN part_kind = 'pool' THEN u.kind = 'prefix' AND u.op = 'edit' AND (u.before ->> 'pool_id')::bigint = part_id
            ELSE false END;
    END IF;
    UPDATE undoing u SET
        vrf_id = (coalesce(u.before, u.after) ->> 'vrf_id')::int,
        goal = CASE WHEN u.op = 'restore' OR u.before -> 'prefix' <> u.after -> 'prefix' THEN (u.before ->> 'prefix')::cidr END,
        moves = u.op = 'edit' AND u.before -> 'prefix' <> u.after -> 'prefix',
        type = u.before ->> 'type',
        pool_id = (u.before ->> 'pool_id')::int
    WHERE u.kind = 'prefix';
    ANALYZE undoing;
END $$;
COMMENT ON FUNCTION read_undoing(bigint, text, bigint) IS 'Read the net effect of a change set on each object. With part_kind and part_id only the part of a removed object: the object, the prefixes removed inside it, and the members of a pool.';

-- ---------------------------------------------------------------- locks

CREATE OR REPLACE FUNCTION choose_bases() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE undoing u SET place = p.prefix, parent = p.parent_id FROM prefix p WHERE u.kind = 'prefix' AND p.id = u.id;
    UPDATE undoing u SET base = c.id, base_version = (SELECT p.ctid FROM prefix p WHERE p.id = c.id)
    FROM (SELECT x.id AS of, closest_parent(x.vrf_id, x.goal) AS id FROM undoing x WHERE x.kind = 'prefix' AND x.goal IS NOT NULL OFFSET 0) c
    WHERE u.kind = 'prefix' AND u.id = c.of;
END $$;
COMMENT ON FUNCTION choose_bases() IS 'Look up the present place of each prefix, and the closest stored prefix around the place that it gets.';

CREATE OR REPLACE FUNCTION lock_undoing() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    chosen int[];
    members bigint[];
BEGIN
    PERFORM choose_bases();
    chosen := ARRAY(
        SELECT u.id::int FROM undoing u WHERE u.kind = 'vrf' AND u.op <> 'restore'
        UNION SELECT u.vrf_id FROM undoing u WHERE u.kind = 'prefix'
            AND (u.goal IS NOT NULL AND u.base IS NULL OR (u.op = 'remove' OR u.moves) AND u.place IS NOT NULL AND u.parent IS NULL));
    PERFORM FROM vrf WHERE id = ANY (chosen) ORDER BY id FOR NO KEY UPDATE;
    members := ARRAY(SELECT m.id FROM undoing u JOIN prefix m ON m.pool_id = u.id WHERE u.kind = 'pool' AND u.op <> 'restore');
    PERFORM FROM prefix WHERE id IN (
        SELECT u.id FROM undoing u WHERE u.kind = 'prefix'
        UNION SELECT u.parent FROM undoing u WHERE u.op = 'remove' OR u.moves
        UNION SELECT u.base FROM undoing u
        UNION SELECT unnest(members))
    ORDER BY vrf_id, prefix FOR NO KEY UPDATE;
    PERFORM lock_pools(ARRAY(
        SELECT u.id::int FROM undoing u WHERE u.kind = 'pool' AND u.op <> 'restore'
        UNION SELECT u.pool_id FROM undoing u UNION SELECT p.pool_id FROM undoing u JOIN prefix p ON p.id = u.id WHERE u.kind = 'prefix'));
    PERFORM FROM asn WHERE asn IN (SELECT u.id FROM undoing u WHERE u.kind = 'asn') ORDER BY asn FOR NO KEY UPDATE;
    -- Rows were chosen before they were locked: start over if the tree has changed meanwhile. A prefix whose row is still
    -- the same version has the same children. The top level has no such version, so look there again.
    IF EXISTS (SELECT FROM undoing u LEFT JOIN prefix b ON b.id = u.base WHERE u.kind = 'prefix' AND u.goal IS NOT NULL
            AND (u.base IS NULL OR b.ctid IS DISTINCT FROM u.base_version) AND closest_parent(u.vrf_id, u.goal) IS DISTINCT FROM u.base)
        OR EXISTS (SELECT FROM undoing u JOIN prefix p ON p.id = u.id WHERE u.kind = 'prefix' AND (u.op = 'remove' OR u.moves)
            AND (u.place IS DISTINCT FROM p.prefix OR u.parent IS DISTINCT FROM p.parent_id))
        OR EXISTS (SELECT FROM undoing u JOIN prefix m ON m.pool_id = u.id WHERE u.kind = 'pool' AND u.op <> 'restore' AND NOT m.id = ANY (members)) THEN
        RAISE EXCEPTION 'the tree changed' USING ERRCODE = '40001';
    END IF;
END $$;
COMMENT ON FUNCTION lock_undoing() IS 'Lock the objects to set back, the prefixes and VRFs right around them and their pools, in the order of all changes.';

-- ---------------------------------------------------------------- conflicts with the present

CREATE OR REPLACE FUNCTION compare_undoing() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE undoing u SET now = prefix_facts(p), version = p.version FROM prefix p WHERE u.kind = 'prefix' AND p.id = u.id;
    UPDATE undoing u SET now = vrf_facts(t), version = t.version FROM vrf t WHERE u.kind = 'vrf' AND t.id = u.id;
    UPDATE undoing u SET now = pool_facts(t), version = t.version FROM pool t WHERE u.kind = 'pool' AND t.id = u.id;
    UPDATE undoing u SET now = asn_facts(t), version = t.version FROM asn t WHERE u.kind = 'asn' AND t.asn = u.id;
    UPDATE undoing u SET version = coalesce((SELECT l.version FROM last_version l WHERE l.kind = u.kind AND l.id = u.id), 1)
    WHERE u.now IS NULL;
    UPDATE undoing u SET
        op = CASE WHEN lacks_time(now) IS NOT DISTINCT FROM lacks_time(before) THEN 'none' ELSE op END,
        why = CASE
            WHEN lacks_time(now) IS NOT DISTINCT FROM lacks_time(before) THEN NULL
            WHEN now IS NULL AND op <> 'restore' THEN 'it was removed since'
            WHEN now IS NOT NULL AND op = 'restore' THEN 'it exists again, and differs in ' || array_to_string(differing(lacks_time(now), lacks_time(before)), ', ')
            WHEN op <> 'restore' AND lacks_time(now) <> lacks_time(after) THEN 'it was changed since: ' || array_to_string(differing(lacks_time(now), lacks_time(after)), ', ')
        END;
END $$;
COMMENT ON FUNCTION compare_undoing() IS 'Read the present facts. Objects that already are as they were before have nothing to undo; objects that were changed since are conflicts.';

CREATE OR REPLACE FUNCTION refuse_names() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    found bigint;
BEGIN
    WITH bad AS (
        SELECT u.kind, u.id, format('the name %s is in use', u.before ->> 'name') AS why FROM undoing u JOIN vrf t ON lower(t.name) = lower(u.before ->> 'name')
        WHERE u.kind = 'vrf' AND u.op IN ('restore', 'edit') AND u.why IS NULL AND t.id <> u.id
            AND NOT EXISTS (SELECT FROM undoing o WHERE o.kind = 'vrf' AND o.id = t.id AND o.op IN ('edit', 'remove') AND o.why IS NULL)
        UNION ALL
        SELECT u.kind, u.id, format('the route target %s is in use', u.before ->> 'rt') FROM undoing u JOIN vrf t ON t.rt = u.before ->> 'rt'
        WHERE u.kind = 'vrf' AND u.op IN ('restore', 'edit') AND u.why IS NULL AND t.id <> u.id
            AND NOT EXISTS (SELECT FROM undoing o WHERE o.kind = 'vrf' AND o.id = t.id AND o.op IN ('edit', 'remove') AND o.why IS NULL)
        UNION ALL
        SELECT u.kind, u.id, format('the name %s is in use', u.before ->> 'name') FROM undoing u JOIN pool t ON lower(t.name) = lower(u.before ->> 'name')
        WHERE u.kind = 'pool' AND u.op IN ('restore', 'edit') AND u.why IS NULL AND t.id <> u.id
            AND NOT EXISTS (SELECT FROM undoing o WHERE o.kind = 'pool' AND o.id = t.id AND o.op IN ('edit', 'remove') AND o.why IS NULL)
    )
    UPDATE undoing u SET why = bad.why FROM bad WHERE u.kind = bad.kind AND u.id = bad.id;
    GET DIAGNOSTICS found = ROW_COUNT;
    RETURN found;
END $$;
COMMENT ON FUNCTION refuse_names() IS 'Mark VRFs and pools that would get a name or route target in use; returns their number.';

CREATE OR REPLACE FUNCTION refuse_places() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    found bigint;
    total bigint := 0;
BEGIN
    -- A prefix needs its VRF and its pool.
    UPDATE undoing u SET why = format('its VRF %s does not exist', u.vrf_id)
    WHERE u.kind = 'prefix' AND u.op = 'restore' AND u.why IS NULL AND NOT EXISTS (SELECT FROM vrf v WHERE v.id = u.vrf_id)
        AND NOT EXISTS (SELECT FROM undoing o WHERE o.kind = 'vrf' AND o.id = u.vrf_id AND o.op = 'restore' AND o.why IS NULL);
    GET DIAGNOSTICS found = ROW_COUNT;
    total := total + found;
    UPDATE undoing u SET why = format('its pool %s does not exist', u.pool_id)
    WHERE u.kind = 'prefix' AND u.op IN ('restore', 'edit') AND u.why IS NULL AND u.pool_id IS NOT NULL
        AND NOT EXISTS (SELECT FROM pool v WHERE v.id = u.pool_id)
        AND NOT EXISTS (SELECT FROM undoing o WHERE o.kind = 'pool' AND o.id = u.pool_id AND o.op = 'restore' AND o.why IS NULL);
    GET DIAGNOSTICS found = ROW_COUNT;
    total := total + found;
    UPDATE undoing u SET why = format('its pool %s has members in another VRF', u.pool_id)
    FROM prefix m
    WHERE u.kind = 'prefix' AND u.op IN ('restore', 'edit') AND u.why IS NULL AND m.pool_id = u.pool_id AND m.vrf_id <> u.vrf_id AND m.id <> u.id
        AND NOT EXISTS (SELECT FROM undoing o WHERE o.kind = 'prefix' AND o.id = m.id AND o.op IN ('edit', 'remove') AND o.why IS NULL
                        AND o.pool_id IS DISTINCT FROM u.pool_id);
    GET DIAGNOSTICS found = ROW_COUNT;
    total := total + found;
    -- Its place must be free, or become free.
    UPDATE undoing u SET why = format('its place is taken by prefix %s', p.id)
    FROM prefix p
    WHERE u.kind = 'prefix' AND u.op <> 'none' AND u.goal IS NOT NULL AND u.why IS NULL AND p.vrf_id = u.vrf_id AND p.prefix = u.goal AND p.id <> u.id
        AND NOT EXISTS (SELECT FROM undoing o WHERE o.kind = 'prefix' AND o.id = p.id AND (o.op = 'remove' OR o.op = 'edit' AND o.moves) AND o.why IS NULL);
    GET DIAGNOSTICS found = ROW_COUNT;
    total := total + found;
    -- A removal must take nothing along that came later.
    UPDATE undoing u SET why = format('prefix %s was added to it since', p.prefix)
    FROM prefix p
    WHERE u.kind = 'vrf' AND u.op = 'remove' AND u.why IS NULL AND p.vrf_id = u.id
        AND NOT EXISTS (SELECT FROM undoing o WHERE o.kind = 'prefix' AND o.id = p.id AND o.op = 'remove' AND o.why IS NULL);
    GET DIAGNOSTICS found = ROW_COUNT;
    total := total + found;
    UPDATE undoing u SET why = format('prefix %s became a member since', p.prefix)
    FROM prefix p
    WHERE u.kind = 'pool' AND u.op = 'remove' AND u.why IS NULL AND p.pool_id = u.id
        AND NOT EXISTS (SELECT FROM undoing o WHERE o.kind = 'prefix' AND o.id = p.id AND o.why IS NULL
                        AND (o.op = 'remove' OR o.op = 'edit' AND o.pool_id IS DISTINCT FROM u.id));
    GET DIAGNOSTICS found = ROW_COUNT;
    total := total + found;
    UPDATE undoing u SET why = format('prefix %s was added inside it since', c.prefix)
    FROM prefix c
    WHERE u.kind = 'prefix' AND (u.op = 'remove' OR u.op = 'edit' AND u.moves) AND u.why IS NULL AND c.parent_id = u.id
        AND NOT EXISTS (SELECT FROM undoing o WHERE o.kind = 'prefix' AND o.id = c.id AND (o.op = 'remove' OR o.op = 'edit' AND o.moves) AND o.why IS NULL)
        AND EXISTS (SELECT FROM audit_log a WHERE a.object_type = 'prefix' AND a.object_id = c.id AND a.id > u.last_entry
                    AND a.before -> 'prefix' IS DISTINCT FROM a.after -> 'prefix');
    GET DIAGNOSTICS found = ROW_COUNT;
    RETURN total + found;
END $$;
COMMENT ON FUNCTION refuse_places() IS 'Mark prefixes without a VRF, a pool or a place, and objects with later prefixes in them; returns their number.';

-- ---------------------------------------------------------------- the tree

CREATE OR REPLACE FUNCTION find_leaving() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE undo_leaving;
    INSERT INTO undo_leaving WITH RECURSIVE gone AS MATERIALIZED (
        SELECT u.id, u.parent FROM undoing u WHERE u.kind = 'prefix' AND (u.op = 'remove' OR u.op = 'edit' AND u.moves) AND u.why IS NULL
    ), up AS (
        SELECT g.id, g.parent, 1 AS depth FROM gone g
        UNION ALL SELECT up.id, g.parent, up.depth + 1 FROM up JOIN gone g ON g.id = up.parent
    )
    SELECT DISTINCT ON (up.id) up.id, up.parent FROM up ORDER BY up.id, up.depth DESC;
    ANALYZE undo_leaving;
END $$;
COMMENT ON FUNCTION find_leaving() IS 'Find the prefixes that leave their place, each with the closest prefix around it that stays; NULL at the top level.';

CREATE OR REPLACE FUNCTION inner_parents() RETURNS TABLE (child bigint, inner_id bigint, inner_place cidr) LANGUAGE plpgsql AS $$
DECLARE
    entry record;
    open_places cidr[] := '{}';
    open_ids bigint[] := '{}';
    top int := 0;
    in_vrf int;
BEGIN
    -- One pass in tree order, with a stack of the incoming prefixes that are still open.
    FOR entry IN SELECT t.id, t.vrf_id, t.place, t.incoming FROM undo_tree t ORDER BY t.vrf_id, t.place LOOP
        IF in_vrf IS DISTINCT FROM entry.vrf_id THEN
            in_vrf := entry.vrf_id;
            top := 0;
        END IF;
        WHILE top > 0 AND NOT open_places[top] >> entry.place LOOP
            top := top - 1;
        END LOOP;
        IF top > 0 THEN
            child := entry.id;
            inner_id := open_ids[top];
            inner_place := open_places[top];
            RETURN NEXT;
        END IF;
        IF entry.incoming THEN
            top := top + 1;
            open_places[top] := entry.place;
            open_ids[top] := entry.id;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION inner_parents() IS 'The closest incoming prefix around each prefix of undo_tree that lies inside one.';

CREATE OR REPLACE FUNCTION place_undoing() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM find_leaving();
    TRUNCATE undo_tree;
    INSERT INTO undo_tree (id, vrf_id, place, type, incoming, base)
    SELECT u.id, u.vrf_id, u.goal, u.type, true, CASE WHEN l.id IS NULL THEN u.base ELSE l.owner END
    FROM undoing u LEFT JOIN undo_leaving l ON l.id = u.base
    WHERE u.kind = 'prefix' AND u.op <> 'none' AND u.why IS NULL AND u.goal IS NOT NULL;
    -- Prefixes whose parent leaves.
    INSERT INTO undo_tree (id, vrf_id, place, type, incoming, former, base)
    SELECT c.id, c.vrf_id, c.prefix, coalesce(o.type, c.type), false, c.parent_id, l.owner
    FROM undo_leaving l JOIN prefix c ON c.parent_id = l.id
    LEFT JOIN undoing o ON o.kind = 'prefix' AND o.id = c.id AND o.op = 'edit' AND o.why IS NULL
    WHERE NOT EXISTS (SELECT FROM undo_leaving g WHERE g.id = c.id);
    ANALYZE undo_tree;
    PERFORM find_inner_parents();
    -- Prefixes that an incoming prefix covers. Those inside an inner incoming prefix have the same parent.
    INSERT INTO undo_tree (id, vrf_id, place, type, incoming, former, base)
    SELECT c.id, c.vrf_id, c.prefix, coalesce(o.type, c.type), false, c.parent_id, c.parent_id
    FROM undo_tree t CROSS JOIN LATERAL (
        SELECT * FROM prefix p WHERE p.parent_id = t.base AND p.vrf_id = t.vrf_id AND p.prefix > t.place AND p.prefix <= addr_last(t.place)
        UNION ALL
        SELECT * FROM prefix p WHERE t.base IS NULL AND p.parent_id IS NULL AND p.vrf_id = t.vrf_id AND p.prefix > t.place AND p.prefix <= addr_last(t.place)) c
    LEFT JOIN undoing o ON o.kind = 'prefix' AND o.id = c.id AND o.op = 'edit' AND o.why IS NULL
    WHERE t.incoming AND t.parent IS NOT DISTINCT FROM t.base
        AND NOT EXISTS (SELECT FROM undo_leaving g WHERE g.id = c.id)
    ON CONFLICT ON CONSTRAINT undo_tree_pkey DO NOTHING;
    ANALYZE undo_tree;
    PERFORM find_inner_parents();
END $$;
COMMENT ON FUNCTION place_undoing() IS 'Find the prefixes that get a place or another parent, and their parents.';

CREATE OR REPLACE FUNCTION find_inner_parents() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE undo_tree t SET base_place = p.prefix FROM prefix p WHERE p.id = t.base;
    UPDATE undo_tree t SET inner_id = i.inner_id, inner_place = i.inner_place FROM inner_parents() i WHERE i.child = t.id;
    UPDATE undo_tree SET parent = CASE WHEN masklen(inner_place) > coalesce(masklen(base_place), -1) THEN inner_id ELSE base END;
END $$;
COMMENT ON FUNCTION find_inner_parents() IS 'Set the parent of each prefix of undo_tree: the closest incoming or stored prefix around it.';

CREATE OR REPLACE FUNCTION refuse_nesting() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    broken bigint;
    found bigint;
BEGIN
    PERFORM place_undoing();
    WITH placed AS (
        SELECT t.id, t.place, t.type, t.incoming, t.former, t.parent, own.id IS NOT NULL AS retyped, coalesce(i.type, o.type, p.type) AS parent_type, coalesce(i.place, p.prefix) AS parent_place,
            i.id IS NOT NULL AS below_incoming
        FROM undo_tree t
        LEFT JOIN undo_tree i ON i.id = t.parent AND i.incoming
        LEFT JOIN prefix p ON p.id = t.parent
        LEFT JOIN undoing o ON o.kind = 'prefix' AND o.id = t.parent AND o.op = 'edit' AND o.why IS NULL
        LEFT JOIN undoing own ON own.kind = 'prefix' AND own.id = t.id AND own.op = 'edit' AND own.why IS NULL AND own.type <> own.now ->> 'type'
    ), edited AS (
        -- A new type has to suit the parent and the children that stay.
        SELECT u.id, u.type, p.parent_id, p.prefix FROM undoing u JOIN prefix p ON p.id = u.id
        WHERE u.kind = 'prefix' AND u.op = 'edit' AND NOT u.moves AND u.why IS NULL AND u.type <> p.type
    ), below AS (
        SELECT e.id AS at, coalesce(o.type, c.type) AS type, c.prefix, e.type AS parent_type FROM edited e JOIN prefix c ON c.parent_id = e.id
        LEFT JOIN undoing o ON o.kind = 'prefix' AND o.id = c.id AND o.op = 'edit' AND o.why IS NULL
        WHERE NOT EXISTS (SELECT FROM undo_leaving g WHERE g.id = c.id) AND NOT EXISTS (SELECT FROM undo_tree t WHERE t.id = c.id)
    ), bad AS (
        -- The change to refuse: the incoming prefix itself, the incoming prefix around a stored one, or the one that left.
        SELECT CASE WHEN incoming OR retyped THEN id WHEN below_incoming THEN parent ELSE former END AS id,
            CASE WHEN incoming OR retyped THEN format('its place is now inside %s of type %s', parent_place, parent_type)
                 ELSE format('prefix %s of type %s is inside it', place, type) END AS why
        FROM placed WHERE NOT CASE type WHEN 'host' THEN coalesce(parent_type = 'assignment', false) ELSE parent_type IS NULL OR parent_type = 'reservation' END
        UNION ALL
        SELECT at, format('prefix %s of type %s is inside it', prefix, type) FROM below
        WHERE NOT CASE type WHEN 'host' THEN parent_type = 'assignment' ELSE parent_type = 'reservation' END
        UNION ALL
        SELECT e.id, format('it is now inside %s of type %s', p.prefix, coalesce(o.type, p.type)) FROM edited e
        LEFT JOIN prefix p ON p.id = e.parent_id LEFT JOIN undoing o ON o.kind = 'prefix' AND o.id = p.id AND o.op = 'edit' AND o.why IS NULL
        WHERE NOT EXISTS (SELECT FROM undo_tree t WHERE t.id = e.id)
            AND NOT CASE e.type WHEN 'host' THEN coalesce(coalesce(o.type, p.type) = 'assignment', false) ELSE p.id IS NULL OR coalesce(o.type, p.type) = 'reservation' END
    ), marked AS (
        UPDATE undoing u SET why = b.why FROM (SELECT DISTINCT ON (id) * FROM bad ORDER BY id) b WHERE u.kind = 'prefix' AND u.id = b.id AND u.why IS NULL
        RETURNING u.id
    )
    SELECT (SELECT count(*) FROM bad), (SELECT count(*) FROM marked) INTO broken, found;
    IF broken > 0 AND found = 0 THEN
        RAISE EXCEPTION 'the types of prefixes would not nest' USING ERRCODE = 'NP000';
    END IF;
    RETURN found;
END $$;
COMMENT ON FUNCTION refuse_nesting() IS 'Mark prefixes whose types would not nest; returns their number. Afterwards undo_tree has the tree without the marked ones only if there are none.';

CREATE OR REPLACE FUNCTION find_conflicts() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM compare_undoing();
    -- A conflict may be the cause of others: an object that stays keeps its name and place.
    LOOP
        CONTINUE WHEN refuse_names() + refuse_places() > 0;
        EXIT WHEN refuse_nesting() = 0;
    END LOOP;
END $$;
COMMENT ON FUNCTION find_conflicts() IS 'Mark all conflicts with the present, and the conflicts that follow from them.';

-- ---------------------------------------------------------------- setting back

CREATE TYPE undo_place AS (id bigint, vrf_id int, space cidr, first_place cidr, last_address inet);
COMMENT ON TYPE undo_place IS 'An owner of direct children, NULL for the top of a VRF, its whole space, and the first and last address that it has lost or gained.';

CREATE OR REPLACE FUNCTION sum_tops(sign int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO undo_total
    SELECT p.vrf_id, family(p.prefix), 0, sign * sum(prefix_size(p.prefix)), sign * sum(p.used_addresses)
    FROM prefix p WHERE p.parent_id IS NULL AND p.id IN (
        SELECT u.id FROM undoing u WHERE u.kind = 'prefix' AND u.op <> 'none' AND u.why IS NULL AND (u.op IN ('restore', 'remove') OR u.moves)
        UNION SELECT t.id FROM undo_tree t UNION SELECT o.id FROM undo_owner o)
    GROUP BY 1, 2;
END $$;
COMMENT ON FUNCTION sum_tops(int) IS 'Add the totals over the changed prefixes at the top level to undo_total, or subtract them.';

CREATE OR REPLACE FUNCTION find_owners() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- The networks that an owner loses and gains as direct children. Prefixes that get a place have no children before.
    INSERT INTO undo_owner (owner, id, vrf_id, space, whole, first_place, last_address, children, size)
    SELECT o.owner, p.id, o.vrf_id,
        coalesce(p.prefix, CASE o.fam WHEN 4 THEN cidr '0.0.0.0/0' ELSE cidr '::/0' END), coalesce(p.children = 0, false),
        o.first_place, o.last_address, o.children, o.size
    FROM (
        SELECT coalesce(c.of, -1 - 2 * c.vrf_id::bigint - CASE family(c.place) WHEN 4 THEN 0 ELSE 1 END) AS owner, c.of, c.vrf_id, family(c.place) AS fam,
            (array_agg(c.place ORDER BY c.place))[1] AS first_place, max(addr_last(c.place)) AS last_address, sum(c.number) AS children,
            sum(c.number * prefix_size(c.place)) AS size
        FROM (
            SELECT t.parent AS of, t.vrf_id, t.place, 1 AS number FROM undo_tree t
            WHERE (t.incoming OR t.parent IS DISTINCT FROM t.former) AND NOT EXISTS (SELECT FROM undo_tree i WHERE i.id = t.parent AND i.incoming)
            UNION ALL
            SELECT t.former, t.vrf_id, t.place, -1 FROM undo_tree t
            WHERE NOT t.incoming AND t.parent IS DISTINCT FROM t.former AND NOT EXISTS (SELECT FROM undo_leaving g WHERE g.id = t.former)
            UNION ALL
            SELECT u.parent, u.vrf_id, u.place, -1 FROM undoing u JOIN undo_leaving l ON l.id = u.id
            WHERE u.kind = 'prefix' AND NOT EXISTS (SELECT FROM undo_leaving g WHERE g.id = u.parent)) c
        GROUP BY 1, 2, 3, 4) o
    LEFT JOIN prefix p ON p.id = o.of;
    ANALYZE undo_owner;
END $$;
COMMENT ON FUNCTION find_owners() IS 'Find the stored prefixes and tops of VRFs that lose or gain direct children.';

CREATE OR REPLACE FUNCTION move_undoing() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- Prefixes that move step aside first: their places may be exchanged.
    UPDATE prefix SET vrf_id = -1 - vrf_id WHERE id IN (SELECT l.id FROM undo_leaving l JOIN undoing u ON u.kind = 'prefix' AND u.id = l.id WHERE u.op = 'edit');
    DELETE FROM free_range f USING undo_leaving l WHERE f.owner = l.id;
    DELETE FROM prefix_words WHERE prefix_id IN (SELECT u.id FROM undoing u WHERE u.kind = 'prefix' AND u.op = 'remove' AND u.why IS NULL);
    DELETE FROM prefix WHERE id IN (SELECT u.id FROM undoing u WHERE u.kind = 'prefix' AND u.op = 'remove' AND u.why IS NULL);
    UPDATE prefix p SET parent_id = t.parent FROM undo_tree t WHERE p.id = t.id AND NOT t.incoming AND t.parent IS DISTINCT FROM t.former;
    INSERT INTO prefix SELECT (n.row).* FROM (
        SELECT jsonb_populate_record(NULL::prefix, u.before || jsonb_build_object(
            'parent_id', t.parent, 'children', coalesce(k.children, 0), 'last_modified', now(), 'version', u.version + 1,
            'used_addresses', CASE WHEN masklen(t.place) = full_length(t.place) THEN 1 ELSE coalesce(k.size, 0) END)) AS row
        FROM undo_tree t JOIN undoing u ON u.kind = 'prefix' AND u.id = t.id LEFT JOIN (
            SELECT c.parent, count(*) AS children, sum(prefix_size(c.place)) AS size FROM undo_tree c GROUP BY 1) k ON k.parent = t.id
        WHERE u.op = 'restore' OFFSET 0) n;
    DELETE FROM last_version l USING undo_tree t JOIN undoing u ON u.kind = 'prefix' AND u.id = t.id WHERE l.kind = 'prefix' AND l.id = t.id AND u.op = 'restore';
    INSERT INTO prefix_words SELECT p.id, words_of(p) FROM undo_tree t JOIN undoing u ON u.kind = 'prefix' AND u.id = t.id JOIN prefix p ON p.id = t.id WHERE u.op = 'restore';
    UPDATE prefix p SET
        vrf_id = u.vrf_id, prefix = w.prefix, type = w.type, pool_id = w.pool_id, status = w.status, description = w.description, comment = w.comment,
        node = w.node, country = w.country, order_id = w.order_id, customer_id = w.customer_id, external_key = w.external_key,
        alarm_priority = w.alarm_priority, monitor = w.monitor, vlan = w.vlan, tags = w.tags, avps = w.avps, expires = w.expires,
        authoritative_source = w.authoritative_source, last_modified = now(), version = u.version + 1,
        parent_id = CASE WHEN t.id IS NULL THEN p.parent_id ELSE t.parent END,
        children = CASE WHEN t.id IS NULL THEN p.children ELSE coalesce(k.children, 0) END,
        used_addresses = CASE WHEN t.id IS NULL THEN p.used_addresses WHEN masklen(t.place) = full_length(t.place) THEN 1 ELSE coalesce(k.size, 0) END
    FROM undoing u JOIN prefix q ON q.id = u.id LEFT JOIN undo_tree t ON t.id = u.id AND t.incoming LEFT JOIN (
        SELECT c.parent, count(*) AS children, sum(prefix_size(c.place)) AS size FROM undo_tree c GROUP BY 1) k ON k.parent = t.id
    CROSS JOIN LATERAL jsonb_populate_record(q, setting_back(u.before, u.after)) w
    WHERE u.kind = 'prefix' AND u.op = 'edit' AND u.why IS NULL AND p.id = u.id;
    UPDATE prefix p SET children = p.children + o.children, used_addresses = p.used_addresses + o.size FROM undo_owner o WHERE p.id = o.id;
END $$;
COMMENT ON FUNCTION move_undoing() IS 'Take away, insert and edit the prefixes, with their parents and counters.';

CREATE OR REPLACE FUNCTION child_beside(owner undo_place, earlier boolean) RETURNS cidr LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- Branches: IS NOT DISTINCT FROM on parent_id uses no index.
    IF owner.id IS NULL AND earlier THEN
        RETURN (SELECT prefix FROM prefix WHERE parent_id IS NULL AND vrf_id = owner.vrf_id AND prefix < owner.first_place AND prefix > owner.space
                ORDER BY parent_id DESC, vrf_id DESC, prefix DESC LIMIT 1);
    ELSIF owner.id IS NULL THEN
        RETURN (SELECT prefix FROM prefix WHERE parent_id IS NULL AND vrf_id = owner.vrf_id AND prefix > owner.last_address AND prefix <= addr_last(owner.space)
                ORDER BY parent_id, vrf_id, prefix LIMIT 1);
    ELSIF earlier THEN
        RETURN (SELECT prefix FROM prefix WHERE parent_id = owner.id AND vrf_id = owner.vrf_id AND prefix < owner.first_place ORDER BY prefix DESC LIMIT 1);
    END IF;
    RETURN (SELECT prefix FROM prefix WHERE parent_id = owner.id AND vrf_id = owner.vrf_id AND prefix > owner.last_address ORDER BY prefix LIMIT 1);
END $$;
COMMENT ON FUNCTION child_beside(undo_place, boolean) IS 'The direct child of an owner right before, or right after, the networks that the owner has lost or gained.';

CREATE OR REPLACE FUNCTION children_within(owner undo_place) RETURNS TABLE (a inet, z inet) LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF owner.id IS NULL THEN
        RETURN QUERY SELECT addr_first(p.prefix), addr_last(p.prefix) FROM prefix p
        WHERE p.parent_id IS NULL AND p.vrf_id = owner.vrf_id AND p.prefix >= owner.first_place AND p.prefix <= owner.last_address;
    ELSE
        RETURN QUERY SELECT addr_first(p.prefix), addr_last(p.prefix) FROM prefix p
        WHERE p.parent_id = owner.id AND p.vrf_id = owner.vrf_id AND p.prefix >= owner.first_place AND p.prefix <= owner.last_address;
    END IF;
END $$;
COMMENT ON FUNCTION children_within(undo_place) IS 'The direct children of an owner between the first and the last network that it has lost or gained.';

CREATE OR REPLACE FUNCTION free_undoing() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO undo_owner (owner, id, vrf_id, space, whole)
    SELECT t.id, t.id, t.vrf_id, t.place, true FROM undo_tree t WHERE t.incoming AND EXISTS (SELECT FROM prefix c WHERE c.parent_id = t.id);
    UPDATE undo_owner SET first_place = space, last_address = addr_last(space) WHERE whole;
    -- Compute the free ranges between the nearest children that stay anew.
    UPDATE undo_owner o SET
        lowest = coalesce(addr_last(child_beside(ROW (o.id, o.vrf_id, o.space, o.first_place, o.last_address), true)) + 1, addr_first(o.space)),
        highest = coalesce(addr_first(child_beside(ROW (o.id, o.vrf_id, o.space, o.first_place, o.last_address), false)) - 1, addr_last(o.space));
    DELETE FROM free_range f USING undo_owner o WHERE f.owner = o.owner AND f.last_address BETWEEN o.lowest AND o.highest;
    INSERT INTO free_range
    WITH used AS (
        SELECT o.owner, o.lowest, o.highest, c.a, lag(c.z) OVER w AS before, c.z, lead(c.a) OVER w IS NULL AS is_last
        FROM undo_owner o CROSS JOIN LATERAL children_within(ROW (o.id, o.vrf_id, o.space, o.first_place, o.last_address)) c
        WINDOW w AS (PARTITION BY o.owner ORDER BY c.a)
    ), gaps AS (
        SELECT owner, CASE WHEN before IS NULL THEN lowest ELSE before + 1 END AS first, a - 1 AS last FROM used
        WHERE CASE WHEN before IS NULL THEN lowest < a ELSE before + 1 < a END
        UNION ALL
        SELECT owner, z + 1, highest FROM used WHERE is_last AND z < highest
        UNION ALL
        -- Without children in between: a prefix without any child has no rows.
        SELECT o.owner, o.lowest, o.highest FROM undo_owner o LEFT JOIN prefix p ON p.id = o.id
        WHERE NOT EXISTS (SELECT FROM used u WHERE u.owner = o.owner) AND (o.id IS NULL OR p.children > 0)
    )
    SELECT owner, first, last, range_fit(first, last) FROM gaps;
    UPDATE prefix p SET free_blocks = free_blocks_of(p, default_length(p.pool_id, p.prefix))
    WHERE (p.pool_id IS NOT NULL OR p.free_blocks IS NOT NULL) AND p.id IN (
        SELECT o.id FROM undo_owner o
        UNION SELECT t.id FROM undo_tree t WHERE t.incoming
        UNION SELECT u.id FROM undoing u WHERE u.kind = 'prefix' AND u.op = 'edit' AND u.why IS NULL AND u.before -> 'pool_id' IS DISTINCT FROM u.after -> 'pool_id'
        UNION SELECT m.id FROM undoing u JOIN prefix m ON m.pool_id = u.id WHERE u.kind = 'pool' AND u.op = 'edit' AND u.why IS NULL);
END $$;
COMMENT ON FUNCTION free_undoing() IS 'Compute the free ranges and free blocks anew where children were lost or gained.';

CREATE OR REPLACE FUNCTION set_others_back() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- Names and route targets step aside first: they may be exchanged. Version 0 keeps the triggers of versions still.
    UPDATE vrf t SET name = E'\x01' || t.id, rt = CASE WHEN t.id <> 0 THEN E'\x01' || t.id END, version = 0
    FROM undoing u WHERE u.kind = 'vrf' AND u.id = t.id AND u.op IN ('edit', 'remove') AND u.why IS NULL;
    UPDATE pool t SET name = E'\x01' || t.id, version = 0
    FROM undoing u WHERE u.kind = 'pool' AND u.id = t.id AND u.op IN ('edit', 'remove') AND u.why IS NULL;
    UPDATE vrf t SET rt = w.rt, rt_rank = rank_of(w.rt), name = w.name, description = w.description, tags = w.tags, avps = w.avps, version = u.version + 1
    FROM undoing u, LATERAL jsonb_populate_record(NULL::vrf, u.now || setting_back(u.before, u.after)) w
    WHERE u.kind = 'vrf' AND u.id = t.id AND u.op = 'edit' AND u.why IS NULL;
    UPDATE pool t SET name = w.name, description = w.description, default_type = w.default_type, tags = w.tags, avps = w.avps,
        ipv4_default_prefix_length = w.ipv4_default_prefix_length, ipv6_default_prefix_length = w.ipv6_default_prefix_length, version = u.version + 1
    FROM undoing u, LATERAL jsonb_populate_record(NULL::pool, u.now || setting_back(u.before, u.after)) w
    WHERE u.kind = 'pool' AND u.id = t.id AND u.op = 'edit' AND u.why IS NULL;
    UPDATE asn t SET name = u.before ->> 'name', version = u.version + 1 FROM undoing u WHERE u.kind = 'asn' AND u.id = t.asn AND u.op = 'edit' AND u.why IS NULL;
    INSERT INTO vrf SELECT (n.row).* FROM (
        SELECT jsonb_populate_record(NULL::vrf, u.before || jsonb_build_object('rt_rank', rank_of(u.before ->> 'rt'), 'version', u.version + 1)) AS row
        FROM undoing u WHERE u.kind = 'vrf' AND u.op = 'restore' AND u.why IS NULL OFFSET 0) n;
    INSERT INTO free_range SELECT -1 - 2 * u.id, inet '0.0.0.0', inet '255.255.255.255', 0 FROM undoing u WHERE u.kind = 'vrf' AND u.op = 'restore' AND u.why IS NULL
    UNION ALL SELECT -2 - 2 * u.id, inet '::', inet 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 0 FROM undoing u WHERE u.kind = 'vrf' AND u.op = 'restore' AND u.why IS NULL;
    INSERT INTO pool SELECT (n.row).* FROM (
        SELECT jsonb_populate_record(NULL::pool, u.before || jsonb_build_object('version', u.version + 1)) AS row
        FROM undoing u WHERE u.kind = 'pool' AND u.op = 'restore' AND u.why IS NULL OFFSET 0) n;
    INSERT INTO asn SELECT u.id, u.before ->> 'name', u.version + 1 FROM undoing u WHERE u.kind = 'asn' AND u.op = 'restore' AND u.why IS NULL;
    DELETE FROM last_version l USING undoing u WHERE u.kind <> 'prefix' AND u.op = 'restore' AND u.why IS NULL AND l.kind = u.kind AND l.id = u.id;
END $$;
COMMENT ON FUNCTION set_others_back() IS 'Restore and edit the VRFs, pools and AS numbers. Added ones keep until their prefixes are gone.';

CREATE OR REPLACE FUNCTION remove_others() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM pool WHERE id IN (SELECT u.id FROM undoing u WHERE u.kind = 'pool' AND u.op = 'remove' AND u.why IS NULL);
    DELETE FROM asn WHERE asn IN (SELECT u.id FROM undoing u WHERE u.kind = 'asn' AND u.op = 'remove' AND u.why IS NULL);
    DELETE FROM free_range WHERE owner IN (
        SELECT unnest(ARRAY[-1 - 2 * u.id, -2 - 2 * u.id]) FROM undoing u WHERE u.kind = 'vrf' AND u.op = 'remove' AND u.why IS NULL);
    DELETE FROM vrf WHERE id IN (SELECT u.id FROM undoing u WHERE u.kind = 'vrf' AND u.op = 'remove' AND u.why IS NULL);
    -- Their version was set aside.
    UPDATE last_version l SET version = u.version FROM undoing u
    WHERE u.kind IN ('vrf', 'pool') AND u.op = 'remove' AND u.why IS NULL AND l.kind = u.kind AND l.id = u.id;
    INSERT INTO last_version SELECT u.kind, u.id, u.version FROM undoing u
    WHERE u.kind IN ('vrf', 'pool') AND u.op = 'remove' AND u.why IS NULL AND u.version > 1 ON CONFLICT ON CONSTRAINT last_version_pkey DO NOTHING;
END $$;
COMMENT ON FUNCTION remove_others() IS 'Remove the VRFs, pools and AS numbers that were added.';

CREATE OR REPLACE FUNCTION record_undoing(number bigint, who actor) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    entries refcursor;
    each text;
    recorded bigint := 0;
    told text := set_config('nipap.undoes', coalesce(number::text, ''), true); -- the default of change_set.undoes
BEGIN
    FOREACH each IN ARRAY ARRAY['vrf', 'pool', 'asn'] LOOP
        OPEN entries FOR EXECUTE format('SELECT u.id, NULL::jsonb, %1$s_facts(t) FROM undoing u JOIN %1$s t ON t.%2$s = u.id
            WHERE u.kind = %1$L AND u.op = ''restore'' AND u.why IS NULL ORDER BY u.id', each, CASE each WHEN 'asn' THEN 'asn' ELSE 'id' END);
        recorded := recorded + record_rows(who, each, 'add', entries);
        OPEN entries FOR EXECUTE format('SELECT u.id, u.now, %1$s_facts(t) FROM undoing u JOIN %1$s t ON t.%2$s = u.id
            WHERE u.kind = %1$L AND u.op = ''edit'' AND u.why IS NULL ORDER BY u.id', each, CASE each WHEN 'asn' THEN 'asn' ELSE 'id' END);
        recorded := recorded + record_rows(who, each, 'edit', entries);
    END LOOP;
    OPEN entries FOR SELECT u.id, u.now, NULL::jsonb FROM undoing u WHERE u.kind = 'prefix' AND u.op = 'remove' AND u.why IS NULL ORDER BY u.vrf_id, u.place DESC;
    recorded := recorded + record_rows(who, 'prefix', 'remove', entries);
    OPEN entries FOR SELECT u.id, NULL::jsonb, prefix_facts(p) FROM undoing u JOIN prefix p ON p.id = u.id
    WHERE u.kind = 'prefix' AND u.op = 'restore' AND u.why IS NULL ORDER BY u.vrf_id, u.goal;
    recorded := recorded + record_rows(who, 'prefix', 'add', entries);
    OPEN entries FOR SELECT u.id, u.now, prefix_facts(p) FROM undoing u JOIN prefix p ON p.id = u.id
    WHERE u.kind = 'prefix' AND u.op = 'edit' AND u.why IS NULL ORDER BY p.vrf_id, p.prefix;
    recorded := recorded + record_rows(who, 'prefix', 'edit', entries);
    FOREACH each IN ARRAY ARRAY['pool', 'asn', 'vrf'] LOOP
        OPEN entries FOR SELECT u.id, u.now, NULL::jsonb FROM undoing u WHERE u.kind = each AND u.op = 'remove' AND u.why IS NULL ORDER BY u.id;
        recorded := recorded + record_rows(who, each, 'remove', entries);
    END LOOP;
    told := set_config('nipap.undoes', '', true);
    RETURN recorded;
END $$;
COMMENT ON FUNCTION record_undoing(bigint, actor) IS 'Record each object that was set back; returns their number. The change set gets the number of the one that it undoes.';

CREATE OR REPLACE FUNCTION count_undoing() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    entry record;
BEGIN
    INSERT INTO undo_total
    SELECT u.vrf_id, family(u.goal), 1, 0, 0 FROM undoing u WHERE u.kind = 'prefix' AND (u.op = 'restore' OR u.op = 'edit' AND u.moves) AND u.why IS NULL
    UNION ALL
    SELECT u.vrf_id, family(u.place), -1, 0, 0 FROM undoing u WHERE u.kind = 'prefix' AND (u.op = 'remove' OR u.op = 'edit' AND u.moves) AND u.why IS NULL;
    FOR entry IN SELECT t.vrf_id, t.family, sum(t.prefixes)::bigint AS prefixes, sum(t.total) AS total, sum(t.used) AS used FROM undo_total t
        WHERE EXISTS (SELECT FROM vrf v WHERE v.id = t.vrf_id) GROUP BY 1, 2 ORDER BY 1, 2
    LOOP
        done := add_to_totals(entry.vrf_id, entry.family, entry.prefixes, entry.total, entry.used);
    END LOOP;
END $$;
COMMENT ON FUNCTION count_undoing() IS 'Add the changes to the totals of the VRFs.';

CREATE OR REPLACE FUNCTION apply_undoing(number bigint, who actor) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM undoing WHERE op <> 'none' AND why IS NULL) THEN
        RETURN 0;
    END IF;
    PERFORM find_owners();
    PERFORM sum_tops(-1);
    PERFORM set_others_back();
    PERFORM move_undoing();
    PERFORM free_undoing();
    PERFORM sum_tops(1);
    PERFORM remove_others();
    PERFORM record_undoing(number, who);
    PERFORM count_undoing();
    RETURN 1;
END $$;
COMMENT ON FUNCTION apply_undoing(bigint, actor) IS 'Set back all objects without a conflict. Returns 0 when there are none.';

CREATE OR REPLACE FUNCTION is_undone(number bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM change_set u WHERE u.undoes = number AND NOT is_undone(u.id));
END $$;
COMMENT ON FUNCTION is_undone(bigint) IS 'Whether a change set is undone by one that is not undone itself.';

CREATE OR REPLACE FUNCTION undo_change_set(number bigint, part_kind text, part_id bigint, partly boolean, who actor) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    -- Most conflicts, and most entries that are left, in an answer. The rest is counted.
    most constant int := 1000;
    conflicts jsonb;
    done bigint := 0;
    others jsonb;
BEGIN
    PERFORM read_undoing(number, part_kind, part_id);
    PERFORM lock_undoing();
    PERFORM find_conflicts();
    SELECT jsonb_agg(jsonb_build_object('position', c.n, 'kind', c.kind, 'id', c.id, 'object', c.name, 'why', c.why) ORDER BY c.n) INTO conflicts
    FROM (SELECT u.n, u.kind, u.id, u.why, coalesce(u.before, u.after) ->> CASE u.kind WHEN 'prefix' THEN 'prefix' ELSE 'name' END AS name
          FROM undoing u WHERE u.why IS NOT NULL ORDER BY u.n LIMIT most) c;
    IF partly OR conflicts IS NULL THEN
        done := apply_undoing(CASE WHEN part_kind IS NULL THEN number END, who);
    END IF;
    SELECT jsonb_agg(jsonb_build_object('position', l.n, 'kind', l.object_type, 'id', l.object_id, 'action', l.action)) INTO others FROM (
        SELECT a.n, a.object_type, a.object_id, a.action FROM (SELECT row_number() OVER (ORDER BY x.id) - 1 AS n, x.* FROM entries_of(number) x) a
        WHERE a.object_type NOT IN ('vrf', 'pool', 'prefix', 'asn') AND part_kind IS NULL ORDER BY a.n LIMIT most) l;
    RETURN jsonb_build_object(
        'change_set', CASE WHEN done > 0 THEN current_change_set() END,
        'undone', CASE WHEN done > 0 THEN (SELECT jsonb_object_agg(c.kind, c.number) FROM (
            SELECT u.kind, count(*) AS number FROM undoing u WHERE u.op <> 'none' AND u.why IS NULL GROUP BY u.kind) c) ELSE '{}' END,
        'conflicts', coalesce(conflicts, '[]'),
        'number_of_conflicts', (SELECT count(*) FROM undoing u WHERE u.why IS NOT NULL),
        'left', coalesce(others, '[]'));
END $$;
COMMENT ON FUNCTION undo_change_set(bigint, text, bigint, boolean, actor) IS 'Undo a change set, or with part_kind and part_id the removal of an object. Conflicts: nothing is changed unless partly. Returns the new change set, the numbers of objects by kind, the conflicts and the entries that are left.';
