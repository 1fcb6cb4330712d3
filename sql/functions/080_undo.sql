-- Undo: the inverse of the net effect of a change set, or of a part of it, as a new change set. The steps: read the
-- audit, lock, compare with the present, apply, record. Each step is a few statements for any number of objects, since
-- row by row the counters of one parent would be written as often as it has children.

CREATE OR REPLACE FUNCTION make_undoing() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass('pg_temp.undoing') IS NULL THEN
        -- The entries of the change set, by their position in it.
        CREATE TEMPORARY TABLE undo_entry (
            n int CONSTRAINT undo_entry_pkey PRIMARY KEY, entry bigint, kind text, id bigint, before jsonb, after jsonb
        ) ON COMMIT DELETE ROWS;
        -- The objects to set back. first_n, last_n: the first and the last entry of the object, with its facts before and
        -- after the change set. op: restore, edit, remove, or none. why: the conflict. place, parent: the present network of
        -- a prefix and its present parent. goal: the network it gets, base: the closest prefix around the goal that is
        -- stored at present. moves: an edit of the network.
        CREATE TEMPORARY TABLE undoing (
            first_n int, last_n int, kind text, id bigint, op text, version int, why text,
            vrf_id int, type text, former_type text, pool_id int, former_pool int, moves boolean NOT NULL DEFAULT false,
            place cidr, parent bigint, goal cidr, base bigint, base_version tid,
            CONSTRAINT undoing_pkey PRIMARY KEY (id, kind)
        ) ON COMMIT DELETE ROWS;
        -- The present facts of the objects that exist.
        CREATE TEMPORARY TABLE undo_now (id bigint, kind text, facts jsonb, CONSTRAINT undo_now_pkey PRIMARY KEY (id, kind)) ON COMMIT DELETE ROWS;
        -- The outermost prefixes that get a place, and whether prefixes are stored inside.
        CREATE TEMPORARY TABLE undo_outer (id bigint CONSTRAINT undo_outer_pkey PRIMARY KEY, vrf_id int, goal cidr, holds boolean) ON COMMIT DELETE ROWS;
        -- The prefixes that leave their place, each with the closest prefix around it that stays.
        CREATE TEMPORARY TABLE undo_leaving (id bigint CONSTRAINT undo_leaving_pkey PRIMARY KEY, owner bigint) ON COMMIT DELETE ROWS;
        -- The prefixes that get a place (incoming) or another parent.
        CREATE TEMPORARY TABLE undo_tree (
            id bigint CONSTRAINT undo_tree_pkey PRIMARY KEY, vrf_id int, place cidr, type text, incoming boolean,
            former bigint, base bigint, parent bigint
        ) ON COMMIT DELETE ROWS;
        -- The children of prefixes that get a place.
        CREATE TEMPORARY TABLE undo_count (parent bigint CONSTRAINT undo_count_pkey PRIMARY KEY, children bigint, size numeric) ON COMMIT DELETE ROWS;
        -- Prefixes, and tops of VRFs, that lose or gain direct children. whole: the free space is computed anew as a whole.
        CREATE TEMPORARY TABLE undo_owner (
            owner bigint CONSTRAINT undo_owner_pkey PRIMARY KEY, id bigint, vrf_id int, space cidr, whole boolean,
            first_place cidr, last_address inet, children int, size numeric, lowest inet, highest inet
        ) ON COMMIT DELETE ROWS;
        CREATE TEMPORARY TABLE undo_total (vrf_id int, family int, prefixes bigint, total numeric, used numeric) ON COMMIT DELETE ROWS;
    ELSE
        TRUNCATE undo_entry, undoing, undo_now, undo_outer, undo_leaving, undo_tree, undo_count, undo_owner, undo_total;
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

-- ---------------------------------------------------------------- the objects to set back

CREATE OR REPLACE FUNCTION read_undoing(number bigint, part_kind text, part_id bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    root jsonb;
BEGIN
    PERFORM make_undoing();
    INSERT INTO undo_entry SELECT row_number() OVER () - 1, x.id, x.object_type, x.object_id, x.before - 'version', x.after - 'version' FROM entries_of(number) x;
    ANALYZE undo_entry;
    INSERT INTO undoing (first_n, last_n, kind, id, op, vrf_id, type, former_type, pool_id, former_pool, goal, moves)
    SELECT e.first_n, e.last_n, e.kind, e.id,
        CASE WHEN f.before IS NULL THEN 'remove' WHEN l.after IS NULL THEN 'restore' ELSE 'edit' END,
        (coalesce(f.before, l.after) ->> 'vrf_id')::int, f.before ->> 'type', l.after ->> 'type',
        (f.before ->> 'pool_id')::int, (l.after ->> 'pool_id')::int,
        CASE WHEN e.kind = 'prefix' AND (l.after IS NULL OR f.before -> 'prefix' <> l.after -> 'prefix') THEN (f.before ->> 'prefix')::cidr END,
        e.kind = 'prefix' AND coalesce(f.before -> 'prefix' <> l.after -> 'prefix', false)
    FROM (SELECT x.kind, x.id, min(x.n) AS first_n, max(x.n) AS last_n FROM undo_entry x WHERE x.kind IN ('vrf', 'pool', 'prefix', 'asn') GROUP BY 1, 2) e
    JOIN undo_entry f ON f.n = e.first_n JOIN undo_entry l ON l.n = e.last_n
    WHERE CASE WHEN f.before IS NULL OR l.after IS NULL THEN f.before IS NOT NULL OR l.after IS NOT NULL
          ELSE lacks_time(f.before) <> lacks_time(l.after) END;
    IF part_kind IS NOT NULL THEN
        root := (SELECT f.before FROM undoing u JOIN undo_entry f ON f.n = u.first_n WHERE u.kind = part_kind AND u.id = part_id AND u.op = 'restore');
        DELETE FROM undoing u WHERE NOT CASE
            WHEN u.kind = part_kind AND u.id = part_id THEN true
            WHEN part_kind = 'prefix' THEN u.kind = 'prefix' AND u.op = 'restore' AND u.vrf_id = (root ->> 'vrf_id')::int AND u.goal << (root ->> 'prefix')::cidr
            WHEN part_kind = 'vrf' THEN u.kind = 'prefix' AND u.op = 'restore' AND u.vrf_id = part_id
            WHEN part_kind = 'pool' THEN u.kind = 'prefix' AND u.op = 'edit' AND u.pool_id = part_id
            ELSE false END;
    END IF;
    ANALYZE undoing;
END $$;
COMMENT ON FUNCTION read_undoing(bigint, text, bigint) IS 'Read the net effect of a change set on each object. With part_kind and part_id only the part of a removed object: the object, the prefixes removed inside it, and the members of a pool.';

-- ---------------------------------------------------------------- locks

CREATE OR REPLACE FUNCTION outermost_goals() RETURNS TABLE (id bigint, vrf_id int, goal cidr, outer_id bigint) LANGUAGE plpgsql AS $$
DECLARE
    entry record;
    around cidr;
    around_vrf int;
BEGIN
    FOR entry IN SELECT u.id, u.vrf_id, u.goal FROM undoing u WHERE u.goal IS NOT NULL ORDER BY u.vrf_id, u.goal LOOP
        IF around_vrf IS DISTINCT FROM entry.vrf_id OR NOT around >>= entry.goal THEN
            around := entry.goal;
            around_vrf := entry.vrf_id;
            outer_id := entry.id;
        END IF;
        id := entry.id;
        vrf_id := entry.vrf_id;
        goal := entry.goal;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION outermost_goals() IS 'Each prefix that gets a place, with the outermost one around it, which may be itself.';

CREATE OR REPLACE FUNCTION holds_stored(in_vrf int, network cidr) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM prefix p WHERE p.vrf_id = in_vrf AND p.prefix >= network AND p.prefix <= addr_last(network));
END $$;
COMMENT ON FUNCTION holds_stored(int, cidr) IS 'Whether prefixes are stored at a network or inside it.';

CREATE OR REPLACE FUNCTION choose_bases() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE undoing u SET place = p.prefix, parent = p.parent_id FROM prefix p WHERE u.kind = 'prefix' AND u.op <> 'restore' AND p.id = u.id;
    INSERT INTO undo_outer SELECT o.id, o.vrf_id, o.goal, holds_stored(o.vrf_id, o.goal) FROM outermost_goals() o WHERE o.id = o.outer_id;
    -- Without stored prefixes inside an outermost prefix, all prefixes inside it have the same base.
    UPDATE undoing u SET base = c.base, base_version = (SELECT p.ctid FROM prefix p WHERE p.id = c.base)
    FROM (SELECT g.id, closest_parent(g.vrf_id, CASE WHEN o.holds THEN g.goal ELSE o.goal END) AS base
          FROM outermost_goals() g JOIN undo_outer o ON o.id = g.outer_id WHERE o.holds OR g.id = o.id OFFSET 0) c
    WHERE u.kind = 'prefix' AND u.id = c.id AND c.base IS NOT NULL;
    UPDATE undoing u SET base = t.base FROM outermost_goals() g JOIN undo_outer o ON o.id = g.outer_id JOIN undoing t ON t.id = o.id AND t.kind = 'prefix'
    WHERE NOT o.holds AND g.id <> o.id AND u.id = g.id AND u.kind = 'prefix' AND t.base IS NOT NULL;
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
        SELECT u.id FROM undoing u WHERE u.kind = 'prefix' AND u.op <> 'restore'
        UNION SELECT u.parent FROM undoing u WHERE u.op = 'remove' OR u.moves
        UNION SELECT u.base FROM undoing u
        UNION SELECT unnest(members))
    ORDER BY vrf_id, prefix FOR NO KEY UPDATE;
    PERFORM lock_pools(ARRAY(
        SELECT u.id::int FROM undoing u WHERE u.kind = 'pool' AND u.op <> 'restore'
        UNION SELECT u.pool_id FROM undoing u UNION SELECT p.pool_id FROM undoing u JOIN prefix p ON p.id = u.id WHERE u.kind = 'prefix' AND u.op <> 'restore'));
    PERFORM FROM asn WHERE asn IN (SELECT u.id FROM undoing u WHERE u.kind = 'asn') ORDER BY asn FOR NO KEY UPDATE;
    -- Rows were chosen before they were locked: start over if the tree has changed meanwhile. A prefix whose row is still
    -- the same version has the same children. The top level has no such version, so look there again.
    IF EXISTS (SELECT FROM undo_outer o WHERE NOT o.holds AND holds_stored(o.vrf_id, o.goal))
        -- OFFSET 0: look up the remaining prefixes only. A look-up steps over removed rows before they are vacuumed.
        OR EXISTS (SELECT FROM (
            SELECT u.vrf_id, u.goal, u.base FROM outermost_goals() g JOIN undo_outer o ON o.id = g.outer_id JOIN undoing u ON u.kind = 'prefix' AND u.id = g.id
            WHERE (o.holds OR g.id = o.id) AND (u.base IS NULL OR (SELECT b.ctid FROM prefix b WHERE b.id = u.base) IS DISTINCT FROM u.base_version)
            OFFSET 0) c WHERE closest_parent(c.vrf_id, c.goal) IS DISTINCT FROM c.base)
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
    INSERT INTO undo_now
    SELECT u.id, 'prefix', p.facts FROM undoing u CROSS JOIN LATERAL (SELECT prefix_facts(q) AS facts FROM prefix q WHERE q.id = u.id OFFSET 0) p WHERE u.kind = 'prefix'
    UNION ALL SELECT t.id, 'vrf', vrf_facts(t) FROM undoing u JOIN vrf t ON t.id = u.id WHERE u.kind = 'vrf'
    UNION ALL SELECT t.id, 'pool', pool_facts(t) FROM undoing u JOIN pool t ON t.id = u.id WHERE u.kind = 'pool'
    UNION ALL SELECT t.asn, 'asn', asn_facts(t) FROM undoing u JOIN asn t ON t.asn = u.id WHERE u.kind = 'asn';
    ANALYZE undo_now;
    UPDATE undoing u SET
        version = c.version,
        op = CASE WHEN c.now IS NOT DISTINCT FROM c.before THEN 'none' ELSE u.op END,
        why = CASE
            WHEN c.now IS NOT DISTINCT FROM c.before THEN NULL
            WHEN c.now IS NULL AND u.op <> 'restore' THEN 'it was removed since'
            WHEN c.now IS NOT NULL AND u.op = 'restore' THEN 'it exists again, and differs in ' || array_to_string(differing(c.now, c.before), ', ')
            WHEN u.op <> 'restore' AND c.now <> c.after THEN 'it was changed since: ' || array_to_string(differing(c.now, c.after), ', ')
        END
    FROM (
        SELECT x.id, x.kind, lacks_time(n.facts) AS now, lacks_time(f.before) AS before, CASE WHEN x.op <> 'restore' THEN lacks_time(l.after) END AS after,
            coalesce(CASE WHEN n.id IS NULL THEN (SELECT v.version FROM last_version v WHERE v.kind = x.kind AND v.id = x.id)
                ELSE coalesce(p.version, v.version, o.version, a.version) END, 1) AS version
        FROM undoing x JOIN undo_entry f ON f.n = x.first_n JOIN undo_entry l ON l.n = x.last_n
        LEFT JOIN undo_now n ON n.id = x.id AND n.kind = x.kind
        LEFT JOIN prefix p ON x.kind = 'prefix' AND p.id = n.id
        LEFT JOIN vrf v ON x.kind = 'vrf' AND v.id = n.id
        LEFT JOIN pool o ON x.kind = 'pool' AND o.id = n.id
        LEFT JOIN asn a ON x.kind = 'asn' AND a.asn = n.id
        OFFSET 0) c
    WHERE u.id = c.id AND u.kind = c.kind;
END $$;
COMMENT ON FUNCTION compare_undoing() IS 'Read the present facts. Objects that already are as they were before have nothing to undo; objects that were changed since are conflicts.';

CREATE OR REPLACE FUNCTION refuse_names() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    found bigint;
BEGIN
    WITH bad AS (
        SELECT u.kind, u.id, format('the name %s is in use', f.before ->> 'name') AS why FROM undoing u JOIN undo_entry f ON f.n = u.first_n JOIN vrf t ON lower(t.name) = lower(f.before ->> 'name')
        WHERE u.kind = 'vrf' AND u.op IN ('restore', 'edit') AND u.why IS NULL AND t.id <> u.id
            AND NOT EXISTS (SELECT FROM undoing o WHERE o.kind = 'vrf' AND o.id = t.id AND o.op IN ('edit', 'remove') AND o.why IS NULL)
        UNION ALL
        SELECT u.kind, u.id, format('the route target %s is in use', f.before ->> 'rt') FROM undoing u JOIN undo_entry f ON f.n = u.first_n JOIN vrf t ON t.rt = f.before ->> 'rt'
        WHERE u.kind = 'vrf' AND u.op IN ('restore', 'edit') AND u.why IS NULL AND t.id <> u.id
            AND NOT EXISTS (SELECT FROM undoing o WHERE o.kind = 'vrf' AND o.id = t.id AND o.op IN ('edit', 'remove') AND o.why IS NULL)
        UNION ALL
        SELECT u.kind, u.id, format('the name %s is in use', f.before ->> 'name') FROM undoing u JOIN undo_entry f ON f.n = u.first_n JOIN pool t ON lower(t.name) = lower(f.before ->> 'name')
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
        -- A child that was there before, was removed and came back has its former place.
        AND EXISTS (SELECT FROM (
            SELECT a.before FROM audit_log a WHERE a.object_type = 'prefix' AND a.object_id = c.id AND a.id > (SELECT l.entry FROM undo_entry l WHERE l.n = u.last_n)
            AND a.before -> 'prefix' IS DISTINCT FROM a.after -> 'prefix' ORDER BY a.id LIMIT 1) f
            WHERE (f.before ->> 'prefix')::cidr IS DISTINCT FROM c.prefix OR (f.before ->> 'vrf_id')::int IS DISTINCT FROM c.vrf_id);
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

CREATE OR REPLACE FUNCTION inner_parents() RETURNS TABLE (child bigint, inner_id bigint, inner_length int) LANGUAGE plpgsql AS $$
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
        child := entry.id;
        inner_id := CASE WHEN top > 0 THEN open_ids[top] END;
        inner_length := CASE WHEN top > 0 THEN masklen(open_places[top]) END;
        RETURN NEXT;
        IF entry.incoming THEN
            top := top + 1;
            open_places[top] := entry.place;
            open_ids[top] := entry.id;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION inner_parents() IS 'The closest incoming prefix around each prefix of undo_tree; NULL if there is none.';

CREATE OR REPLACE FUNCTION place_undoing() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    adopted bigint;
BEGIN
    PERFORM find_leaving();
    TRUNCATE undo_tree;
    INSERT INTO undo_tree (id, vrf_id, place, type, incoming, base)
    SELECT u.id, u.vrf_id, u.goal, u.type, true, CASE WHEN l.id IS NULL THEN u.base ELSE l.owner END
    FROM undoing u LEFT JOIN undo_leaving l ON l.id = u.base
    WHERE u.kind = 'prefix' AND u.op <> 'none' AND u.why IS NULL AND u.goal IS NOT NULL;
    -- The children of leaving prefixes.
    INSERT INTO undo_tree (id, vrf_id, place, type, incoming, former, base)
    SELECT c.id, c.vrf_id, c.prefix, coalesce(o.type, c.type), false, c.parent_id, l.owner
    FROM undo_leaving l JOIN prefix c ON c.parent_id = l.id
    LEFT JOIN undoing o ON o.kind = 'prefix' AND o.id = c.id AND o.op = 'edit' AND o.why IS NULL
    WHERE NOT EXISTS (SELECT FROM undo_leaving g WHERE g.id = c.id);
    ANALYZE undo_tree;
    PERFORM find_parents();
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
    GET DIAGNOSTICS adopted = ROW_COUNT;
    IF adopted > 0 THEN
        PERFORM find_parents();
    END IF;
    -- The parents were unknown when the table was last analyzed.
    ANALYZE undo_tree;
END $$;
COMMENT ON FUNCTION place_undoing() IS 'Find the prefixes that get a place or another parent, and their parents.';

CREATE OR REPLACE FUNCTION find_parents() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE undo_tree t SET parent = c.parent FROM (
        SELECT x.id, CASE WHEN i.inner_length > coalesce(masklen(p.prefix), -1) THEN i.inner_id ELSE x.base END AS parent
        FROM inner_parents() i JOIN undo_tree x ON x.id = i.child LEFT JOIN prefix p ON p.id = x.base OFFSET 0) c
    WHERE t.id = c.id AND t.parent IS DISTINCT FROM c.parent;
END $$;
COMMENT ON FUNCTION find_parents() IS 'Set the parent of each prefix of undo_tree: the closest incoming or stored prefix around it.';

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
        LEFT JOIN undoing own ON own.kind = 'prefix' AND own.id = t.id AND own.op = 'edit' AND own.why IS NULL AND own.type <> own.former_type
    ), edited AS (
        -- A new type has to suit the parent and the children that stay.
        SELECT u.id, u.type, p.parent_id, p.prefix FROM undoing u JOIN prefix p ON p.id = u.id
        WHERE u.kind = 'prefix' AND u.op = 'edit' AND NOT u.moves AND u.why IS NULL AND u.type <> u.former_type
    ), below AS (
        SELECT e.id AS at, coalesce(o.type, c.type) AS type, c.prefix, e.type AS parent_type FROM edited e JOIN prefix c ON c.parent_id = e.id
        LEFT JOIN undoing o ON o.kind = 'prefix' AND o.id = c.id AND o.op = 'edit' AND o.why IS NULL
        WHERE NOT EXISTS (SELECT FROM undo_leaving g WHERE g.id = c.id) AND NOT EXISTS (SELECT FROM undo_tree t WHERE t.id = c.id)
    ), bad AS (
        -- The change to refuse: the incoming prefix itself, the incoming prefix around a stored one, or the leaving prefix.
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
    INSERT INTO undo_count SELECT c.parent, count(*), sum(prefix_size(c.place)) FROM undo_tree c WHERE c.parent IS NOT NULL GROUP BY 1;
    ANALYZE undo_count;
    -- Prefixes that move step aside first: their places may be exchanged.
    UPDATE prefix SET vrf_id = -1 - vrf_id WHERE id IN (SELECT l.id FROM undo_leaving l JOIN undoing u ON u.kind = 'prefix' AND u.id = l.id WHERE u.op = 'edit');
    DELETE FROM free_range f USING undo_leaving l WHERE f.owner = l.id;
    DELETE FROM prefix_words WHERE prefix_id IN (SELECT u.id FROM undoing u WHERE u.kind = 'prefix' AND u.op = 'remove' AND u.why IS NULL);
    DELETE FROM prefix WHERE id IN (SELECT u.id FROM undoing u WHERE u.kind = 'prefix' AND u.op = 'remove' AND u.why IS NULL);
    UPDATE prefix p SET parent_id = t.parent FROM undo_tree t WHERE p.id = t.id AND NOT t.incoming AND t.parent IS DISTINCT FROM t.former;
    INSERT INTO prefix SELECT (n.row).* FROM (
        SELECT jsonb_populate_record(NULL::prefix, f.before || jsonb_build_object(
            'parent_id', t.parent, 'children', coalesce(k.children, 0), 'last_modified', now(), 'version', u.version + 1,
            'used_addresses', CASE WHEN masklen(t.place) = full_length(t.place) THEN 1 ELSE coalesce(k.size, 0) END)) AS row
        FROM undo_tree t JOIN undoing u ON u.kind = 'prefix' AND u.id = t.id JOIN undo_entry f ON f.n = u.first_n LEFT JOIN undo_count k ON k.parent = t.id
        WHERE u.op = 'restore' ORDER BY t.vrf_id, t.place OFFSET 0) n;
    DELETE FROM last_version l USING undo_tree t JOIN undoing u ON u.kind = 'prefix' AND u.id = t.id WHERE l.kind = 'prefix' AND l.id = t.id AND u.op = 'restore';
    INSERT INTO prefix_words SELECT u.id, p.words FROM undoing u CROSS JOIN LATERAL (SELECT words_of(q) AS words FROM prefix q WHERE q.id = u.id OFFSET 0) p
    WHERE u.kind = 'prefix' AND u.op = 'restore' AND u.why IS NULL;
    UPDATE prefix p SET
        vrf_id = u.vrf_id, prefix = w.prefix, type = w.type, pool_id = w.pool_id, status = w.status, description = w.description, comment = w.comment,
        node = w.node, country = w.country, order_id = w.order_id, customer_id = w.customer_id, external_key = w.external_key,
        alarm_priority = w.alarm_priority, monitor = w.monitor, vlan = w.vlan, tags = w.tags, avps = w.avps, expires = w.expires,
        authoritative_source = w.authoritative_source, last_modified = now(), version = u.version + 1,
        parent_id = CASE WHEN t.id IS NULL THEN p.parent_id ELSE t.parent END,
        children = CASE WHEN t.id IS NULL THEN p.children ELSE coalesce(k.children, 0) END,
        used_addresses = CASE WHEN t.id IS NULL THEN p.used_addresses WHEN masklen(t.place) = full_length(t.place) THEN 1 ELSE coalesce(k.size, 0) END
    FROM undoing u JOIN undo_entry f ON f.n = u.first_n JOIN undo_entry l ON l.n = u.last_n JOIN prefix q ON q.id = u.id LEFT JOIN undo_tree t ON t.id = u.id AND t.incoming LEFT JOIN undo_count k ON k.parent = t.id
    CROSS JOIN LATERAL jsonb_populate_record(q, setting_back(f.before, l.after)) w
    WHERE u.kind = 'prefix' AND u.op = 'edit' AND u.why IS NULL AND p.id = u.id;
    UPDATE prefix p SET children = p.children + o.children, used_addresses = p.used_addresses + o.size FROM undo_owner o WHERE p.id = o.id;
END $$;
COMMENT ON FUNCTION move_undoing() IS 'Take away, insert and edit the prefixes, with their parents and counters.';

CREATE OR REPLACE FUNCTION child_beside(owner undo_place, earlier boolean) RETURNS cidr LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- Branches: IS NOT DISTINCT FROM on parent_id uses no index. Comparisons of rows are served by the index on parents
    -- alone: along the index on places, all prefixes inside the neighbours would be read.
    IF owner.id IS NULL AND earlier THEN
        RETURN (SELECT prefix FROM prefix WHERE parent_id IS NULL AND vrf_id = owner.vrf_id AND prefix < owner.first_place AND prefix > owner.space
                ORDER BY parent_id DESC, vrf_id DESC, prefix DESC LIMIT 1);
    ELSIF owner.id IS NULL THEN
        RETURN (SELECT prefix FROM prefix WHERE parent_id IS NULL AND vrf_id = owner.vrf_id AND prefix > owner.last_address AND prefix <= addr_last(owner.space)
                ORDER BY parent_id, vrf_id, prefix LIMIT 1);
    ELSIF earlier THEN
        RETURN (SELECT CASE WHEN parent_id = owner.id THEN prefix END FROM prefix
                WHERE (parent_id, vrf_id, prefix) < (owner.id, owner.vrf_id, owner.first_place) ORDER BY parent_id DESC, vrf_id DESC, prefix DESC LIMIT 1);
    END IF;
    RETURN (SELECT CASE WHEN parent_id = owner.id THEN prefix END FROM prefix
            WHERE (parent_id, vrf_id, prefix) > (owner.id, owner.vrf_id, owner.last_address::cidr) ORDER BY parent_id, vrf_id, prefix LIMIT 1);
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
    SELECT t.id, t.id, t.vrf_id, t.place, true FROM undo_tree t WHERE t.incoming AND EXISTS (SELECT FROM undo_tree c WHERE c.parent = t.id);
    UPDATE undo_owner SET first_place = space, last_address = addr_last(space) WHERE whole;
    -- Compute the free ranges between the nearest children that stay anew.
    UPDATE undo_owner o SET
        lowest = coalesce(addr_last(child_beside(ROW (o.id, o.vrf_id, o.space, o.first_place, o.last_address), true)) + 1, addr_first(o.space)),
        highest = coalesce(addr_first(child_beside(ROW (o.id, o.vrf_id, o.space, o.first_place, o.last_address), false)) - 1, addr_last(o.space))
    WHERE NOT o.whole;
    UPDATE undo_owner SET lowest = addr_first(space), highest = addr_last(space) WHERE whole;
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
        UNION SELECT u.id FROM undoing u WHERE u.kind = 'prefix' AND u.op = 'edit' AND u.why IS NULL AND u.pool_id IS DISTINCT FROM u.former_pool
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
    FROM undoing u JOIN undo_entry f ON f.n = u.first_n JOIN undo_entry l ON l.n = u.last_n JOIN undo_now n ON n.id = u.id AND n.kind = u.kind
    CROSS JOIN LATERAL jsonb_populate_record(NULL::vrf, n.facts || setting_back(f.before, l.after)) w
    WHERE u.kind = 'vrf' AND u.id = t.id AND u.op = 'edit' AND u.why IS NULL;
    UPDATE pool t SET name = w.name, description = w.description, default_type = w.default_type, tags = w.tags, avps = w.avps,
        ipv4_default_prefix_length = w.ipv4_default_prefix_length, ipv6_default_prefix_length = w.ipv6_default_prefix_length, version = u.version + 1
    FROM undoing u JOIN undo_entry f ON f.n = u.first_n JOIN undo_entry l ON l.n = u.last_n JOIN undo_now n ON n.id = u.id AND n.kind = u.kind
    CROSS JOIN LATERAL jsonb_populate_record(NULL::pool, n.facts || setting_back(f.before, l.after)) w
    WHERE u.kind = 'pool' AND u.id = t.id AND u.op = 'edit' AND u.why IS NULL;
    UPDATE asn t SET name = f.before ->> 'name', version = u.version + 1 FROM undoing u JOIN undo_entry f ON f.n = u.first_n WHERE u.kind = 'asn' AND u.id = t.asn AND u.op = 'edit' AND u.why IS NULL;
    INSERT INTO vrf SELECT (n.row).* FROM (
        SELECT jsonb_populate_record(NULL::vrf, f.before || jsonb_build_object('rt_rank', rank_of(f.before ->> 'rt'), 'version', u.version + 1)) AS row
        FROM undoing u JOIN undo_entry f ON f.n = u.first_n WHERE u.kind = 'vrf' AND u.op = 'restore' AND u.why IS NULL OFFSET 0) n;
    INSERT INTO free_range SELECT -1 - 2 * u.id, inet '0.0.0.0', inet '255.255.255.255', 0 FROM undoing u WHERE u.kind = 'vrf' AND u.op = 'restore' AND u.why IS NULL
    UNION ALL SELECT -2 - 2 * u.id, inet '::', inet 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 0 FROM undoing u WHERE u.kind = 'vrf' AND u.op = 'restore' AND u.why IS NULL;
    INSERT INTO pool SELECT (n.row).* FROM (
        SELECT jsonb_populate_record(NULL::pool, f.before || jsonb_build_object('version', u.version + 1)) AS row
        FROM undoing u JOIN undo_entry f ON f.n = u.first_n WHERE u.kind = 'pool' AND u.op = 'restore' AND u.why IS NULL OFFSET 0) n;
    INSERT INTO asn SELECT u.id, f.before ->> 'name', u.version + 1 FROM undoing u JOIN undo_entry f ON f.n = u.first_n WHERE u.kind = 'asn' AND u.op = 'restore' AND u.why IS NULL;
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
        OPEN entries FOR EXECUTE format('SELECT u.id, n.facts, %1$s_facts(t) FROM undoing u JOIN undo_now n ON n.id = u.id AND n.kind = u.kind JOIN %1$s t ON t.%2$s = u.id
            WHERE u.kind = %1$L AND u.op = ''edit'' AND u.why IS NULL ORDER BY u.id', each, CASE each WHEN 'asn' THEN 'asn' ELSE 'id' END);
        recorded := recorded + record_rows(who, each, 'edit', entries);
    END LOOP;
    OPEN entries FOR SELECT u.id, n.facts, NULL::jsonb FROM undoing u JOIN undo_now n ON n.id = u.id AND n.kind = u.kind
    WHERE u.kind = 'prefix' AND u.op = 'remove' AND u.why IS NULL ORDER BY u.vrf_id, u.place DESC;
    recorded := recorded + record_rows(who, 'prefix', 'remove', entries);
    OPEN entries FOR SELECT u.id, NULL::jsonb, p.facts FROM undoing u CROSS JOIN LATERAL (SELECT prefix_facts(q) AS facts FROM prefix q WHERE q.id = u.id OFFSET 0) p
    WHERE u.kind = 'prefix' AND u.op = 'restore' AND u.why IS NULL ORDER BY u.vrf_id, u.goal;
    recorded := recorded + record_rows(who, 'prefix', 'add', entries);
    OPEN entries FOR SELECT u.id, n.facts, p.facts FROM undoing u JOIN undo_now n ON n.id = u.id AND n.kind = u.kind
    CROSS JOIN LATERAL (SELECT prefix_facts(q) AS facts, q.prefix FROM prefix q WHERE q.id = u.id OFFSET 0) p
    WHERE u.kind = 'prefix' AND u.op = 'edit' AND u.why IS NULL ORDER BY u.vrf_id, p.prefix;
    recorded := recorded + record_rows(who, 'prefix', 'edit', entries);
    FOREACH each IN ARRAY ARRAY['pool', 'asn', 'vrf'] LOOP
        OPEN entries FOR SELECT u.id, n.facts, NULL::jsonb FROM undoing u JOIN undo_now n ON n.id = u.id AND n.kind = u.kind
        WHERE u.kind = each AND u.op = 'remove' AND u.why IS NULL ORDER BY u.id;
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

CREATE OR REPLACE FUNCTION undo_change_set(number bigint, part_kind text, part_id bigint, partly boolean, who actor) RETURNS jsonb LANGUAGE plpgsql
SET work_mem = '64MB' SET enable_material = off AS $$
DECLARE
    -- Most conflicts, and most entries that are left, in an answer. The rest is counted.
    most constant int := 1000;
    conflicts jsonb;
    done bigint := 0;
    others jsonb;
BEGIN
    -- An object that does not exist cannot be locked. So undos take turns: two could restore the same object.
    PERFORM pg_advisory_xact_lock(5466136);
    PERFORM read_undoing(number, part_kind, part_id);
    PERFORM lock_undoing();
    PERFORM find_conflicts();
    SELECT jsonb_agg(jsonb_build_object('position', c.n, 'kind', c.kind, 'id', c.id, 'object', c.name, 'why', c.why) ORDER BY c.n) INTO conflicts
    FROM (SELECT u.last_n AS n, u.kind, u.id, u.why, coalesce(f.before, l.after) ->> CASE u.kind WHEN 'prefix' THEN 'prefix' ELSE 'name' END AS name
          FROM undoing u JOIN undo_entry f ON f.n = u.first_n JOIN undo_entry l ON l.n = u.last_n WHERE u.why IS NOT NULL ORDER BY u.last_n LIMIT most) c;
    IF partly OR conflicts IS NULL THEN
        done := apply_undoing(CASE WHEN part_kind IS NULL THEN number END, who);
    END IF;
    SELECT jsonb_agg(jsonb_build_object('position', l.n, 'kind', l.kind, 'id', l.id, 'action', l.action)) INTO others FROM (
        SELECT e.n, e.kind, e.id, CASE WHEN e.before IS NULL THEN 'add' WHEN e.after IS NULL THEN 'remove' ELSE 'edit' END AS action FROM undo_entry e
        WHERE e.kind NOT IN ('vrf', 'pool', 'prefix', 'asn') AND part_kind IS NULL ORDER BY e.n LIMIT most) l;
    RETURN jsonb_build_object(
        'change_set', CASE WHEN done > 0 THEN current_change_set() END,
        'undone', CASE WHEN done > 0 THEN (SELECT jsonb_object_agg(c.kind, c.number) FROM (
            SELECT u.kind, count(*) AS number FROM undoing u WHERE u.op <> 'none' AND u.why IS NULL GROUP BY u.kind) c) ELSE '{}' END,
        'conflicts', coalesce(conflicts, '[]'),
        'number_of_conflicts', (SELECT count(*) FROM undoing u WHERE u.why IS NOT NULL),
        'left', coalesce(others, '[]'));
END $$;
COMMENT ON FUNCTION undo_change_set(bigint, text, bigint, boolean, actor) IS 'Undo a change set, or with part_kind and part_id the removal of an object. Conflicts: nothing is changed unless partly. Returns the new change set, the numbers of objects by kind, the conflicts and the entries that are left.';

-- ---------------------------------------------------------------- removed objects

CREATE OR REPLACE FUNCTION removed_in(number bigint) RETURNS TABLE (entry bigint, kind text, id bigint, before jsonb, below bigint) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY WITH gone AS MATERIALIZED (
        SELECT DISTINCT ON (a.object_type, a.object_id) a.id AS entry, a.object_type AS kind, a.object_id AS id, a.before - 'version' AS before,
            CASE WHEN a.object_type = 'prefix' THEN (a.before ->> 'vrf_id')::int END AS vrf_id,
            CASE WHEN a.object_type = 'prefix' THEN (a.before ->> 'prefix')::cidr END AS place
        FROM audit_log a WHERE a.change_set = number AND a.action = 'remove' AND a.object_type IN ('vrf', 'pool', 'prefix', 'asn')
        ORDER BY a.object_type, a.object_id, a.id DESC
    ), absent AS (
        SELECT g.* FROM gone g WHERE NOT CASE g.kind
            WHEN 'prefix' THEN EXISTS (SELECT FROM prefix p WHERE p.id = g.id)
            WHEN 'vrf' THEN EXISTS (SELECT FROM vrf p WHERE p.id = g.id)
            WHEN 'pool' THEN EXISTS (SELECT FROM pool p WHERE p.id = g.id)
            ELSE EXISTS (SELECT FROM asn p WHERE p.asn = g.id) END
    ), placed AS (
        -- In tree order, a prefix inside another one does not end after all earlier prefixes.
        SELECT g.*, coalesce(addr_last(g.place) <= max(addr_last(g.place)) OVER w, false) AS inside
        FROM absent g WHERE g.kind = 'prefix'
        WINDOW w AS (PARTITION BY g.vrf_id, family(g.place) ORDER BY g.place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    ), grouped AS (
        SELECT p.*, count(*) FILTER (WHERE NOT p.inside) OVER (ORDER BY p.vrf_id, p.place) AS tree FROM placed p
    ), counted AS (
        SELECT g.*, count(*) OVER (PARTITION BY g.tree) - 1 AS below FROM grouped g
    )
    SELECT c.entry, c.kind, c.id, c.before, c.below FROM counted c
    WHERE NOT c.inside AND NOT EXISTS (SELECT FROM absent v WHERE v.kind = 'vrf' AND v.id = c.vrf_id)
    UNION ALL
    SELECT g.entry, g.kind, g.id, g.before, CASE WHEN g.kind = 'vrf' THEN (SELECT count(*) FROM absent p WHERE p.vrf_id = g.id) ELSE 0 END
    FROM absent g WHERE g.kind <> 'prefix';
END $$;
COMMENT ON FUNCTION removed_in(bigint) IS 'The objects that a change set has removed and that do not exist now, each with the number of prefixes removed below it; those below are left out.';

CREATE OR REPLACE FUNCTION list_removed(kinds text[], since timestamptz, last_set bigint, last_entry bigint, wanted int) RETURNS SETOF jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    number bigint := last_set;
    made change_set;
    item jsonb;
    left_over int := wanted;
BEGIN
    LOOP
        number := (SELECT a.change_set FROM audit_log a WHERE a.action = 'remove' AND a.change_set <= number ORDER BY a.change_set DESC LIMIT 1);
        SELECT * INTO made FROM change_set s WHERE s.id = number;
        EXIT WHEN NOT FOUND OR made.at < since;
        FOR item IN
            SELECT jsonb_build_object('kind', r.kind, 'id', r.id, 'object', r.before ->> CASE r.kind WHEN 'prefix' THEN 'prefix' ELSE 'name' END,
                'before', r.before, 'below', r.below, 'change_set', number, 'at', made.at, 'username', made.username,
                'authenticated_as', made.authenticated_as, 'method', made.method, 'reason', made.reason, 'entry', r.entry)
            FROM removed_in(number) r WHERE r.kind = ANY (kinds) AND (number < last_set OR r.entry < last_entry)
            ORDER BY r.entry DESC LIMIT left_over
        LOOP
            RETURN NEXT item;
            left_over := left_over - 1;
        END LOOP;
        EXIT WHEN left_over = 0;
        number := number - 1;
    END LOOP;
END $$;
COMMENT ON FUNCTION list_removed(text[], timestamptz, bigint, bigint, int) IS 'Removed objects, the newest first, from an entry of a change set on. Objects that exist again are left out.';
