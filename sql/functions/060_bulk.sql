-- Additions of many prefixes: the same result as adding the prefixes one by one, in about a dozen statements. The
-- temporary table incoming holds the new prefixes, the table taken holds the space that they take.

CREATE OR REPLACE FUNCTION make_incoming() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass('pg_temp.incoming') IS NULL THEN
        CREATE TEMPORARY TABLE incoming (
            ord int, id bigint, vrf_id int, prefix cidr, type text, facts jsonb, pool_id int,
            owner_id bigint, owner_version tid, parent_id bigint, inside boolean NOT NULL DEFAULT false
        ) ON COMMIT DELETE ROWS;
        CREATE TEMPORARY TABLE taken (
            owner bigint, space_first inet, space_last inet, stored boolean, first_address inet, last_address inet
        ) ON COMMIT DELETE ROWS;
    ELSE
        TRUNCATE incoming, taken;
    END IF;
END $$;
COMMENT ON FUNCTION make_incoming() IS 'Create the temporary tables of this session, or empty them.';

CREATE OR REPLACE FUNCTION incoming_parents() RETURNS TABLE (child bigint, parent bigint) LANGUAGE plpgsql AS $$
DECLARE
    entry record;
    open_prefixes cidr[] := '{}';
    open_ids bigint[] := '{}';
    top int := 0;
    in_vrf int;
BEGIN
    -- One pass in tree order, with a stack of the incoming prefixes that are still open. Of equal prefixes the first one
    -- is the parent; the others are refused later.
    FOR entry IN SELECT i.id, i.vrf_id, i.prefix FROM incoming i ORDER BY i.vrf_id, i.prefix, i.ord LOOP
        IF in_vrf IS DISTINCT FROM entry.vrf_id THEN
            in_vrf := entry.vrf_id;
            top := 0;
        END IF;
        CONTINUE WHEN top > 0 AND open_prefixes[top] = entry.prefix;
        WHILE top > 0 AND NOT open_prefixes[top] >> entry.prefix LOOP
            top := top - 1;
        END LOOP;
        IF top > 0 THEN
            child := entry.id;
            parent := open_ids[top];
            RETURN NEXT;
        END IF;
        top := top + 1;
        open_prefixes[top] := entry.prefix;
        open_ids[top] := entry.id;
    END LOOP;
END $$;
COMMENT ON FUNCTION incoming_parents() IS 'The closest incoming prefix around each incoming prefix that lies inside another one.';

CREATE OR REPLACE FUNCTION add_one_by_one(who actor) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    members cidr[] := ARRAY(SELECT i.prefix FROM incoming i WHERE i.pool_id IS NOT NULL);
    about text;
    entry record;
BEGIN
    FOR entry IN SELECT i.* FROM incoming i
        WHERE i.pool_id IS NOT NULL
           OR i.prefix >> ANY (members)
           OR EXISTS (SELECT FROM prefix p WHERE p.vrf_id = i.vrf_id AND p.prefix > i.prefix AND p.prefix <= addr_last(i.prefix))
        ORDER BY i.vrf_id, i.prefix, i.ord
    LOOP
        BEGIN
            UPDATE incoming SET owner_id = insert_under(lock_owner(entry.vrf_id, entry.prefix), entry.vrf_id, entry.prefix, entry.facts, who)
            WHERE ord = entry.ord;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS about = COLUMN_NAME;
            RAISE EXCEPTION '%', SQLERRM USING ERRCODE = SQLSTATE, COLUMN = entry.ord || ' ' || about;
        END;
    END LOOP;
END $$;
COMMENT ON FUNCTION add_one_by_one(actor) IS 'Add the incoming prefixes that cover stored prefixes, cover members or join a pool, top down, and write their ids into owner_id.';

CREATE OR REPLACE FUNCTION lock_incoming_owners() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    in_vrf int;
BEGIN
    UPDATE incoming i SET owner_id = c.id, owner_version = (SELECT p.ctid FROM prefix p WHERE p.id = c.id)
    FROM (SELECT n.ord, closest_parent(n.vrf_id, n.prefix) AS id FROM incoming n WHERE NOT n.inside OFFSET 0) c
    WHERE c.ord = i.ord;
    FOR in_vrf IN SELECT DISTINCT vrf_id FROM incoming WHERE NOT inside AND owner_id IS NULL ORDER BY vrf_id LOOP
        PERFORM lock_vrf(in_vrf);
    END LOOP;
    PERFORM FROM prefix WHERE id IN (SELECT owner_id FROM incoming) ORDER BY vrf_id, prefix FOR NO KEY UPDATE;
    -- Owners were chosen before they were locked: start over if the tree has changed meanwhile. An owner whose row is
    -- still the same version has the same children as before. The top level has no such version, so look there again.
    IF EXISTS (SELECT FROM incoming i LEFT JOIN prefix o ON o.id = i.owner_id WHERE NOT i.inside AND (
            CASE WHEN i.owner_id IS NULL THEN closest_parent(i.vrf_id, i.prefix) IS NOT NULL
                 ELSE o.ctid IS DISTINCT FROM i.owner_version END
            OR EXISTS (SELECT FROM prefix p WHERE p.vrf_id = i.vrf_id AND p.prefix > i.prefix AND p.prefix <= addr_last(i.prefix)))) THEN
        RAISE EXCEPTION 'the tree changed' USING ERRCODE = '40001';
    END IF;
END $$;
COMMENT ON FUNCTION lock_incoming_owners() IS 'Lock the stored prefixes, or VRFs, right above the incoming prefixes.';

CREATE OR REPLACE FUNCTION refuse_incoming() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    about text;
    done boolean;
    entry record;
    root_vrf int;
    root_prefix cidr;
    worst record;
    worst_ord int;
    new_row prefix;
    parent prefix;
BEGIN
    -- Report the first prefix, in the order given, that breaks a rule. A prefix inside another one that breaks a rule is
    -- not reported: it might be right if the outer one were. No EXISTS for duplicates: PostgreSQL hashes all stored
    -- prefixes for an EXISTS beside an OR, which takes a third of a second with half a million prefixes.
    FOR entry IN
        SELECT * FROM (
            SELECT i.ord, i.vrf_id, i.prefix, i.type, i.facts ->> 'node' AS node, i.parent_id,
                   coalesce(above.type, stored.type) AS parent_type, coalesce(above.prefix, stored.prefix) AS parent_prefix,
                   coalesce(i.prefix = lag(i.prefix) OVER w AND i.vrf_id = lag(i.vrf_id) OVER w, false) AS is_repeated,
                   (SELECT true FROM prefix d WHERE d.vrf_id = i.vrf_id AND d.prefix = i.prefix) IS NOT NULL AS is_stored
            FROM incoming i
            LEFT JOIN incoming above ON above.id = i.parent_id AND i.inside
            LEFT JOIN prefix stored ON stored.id = i.owner_id
            WINDOW w AS (ORDER BY i.vrf_id, i.prefix, i.ord)) c
        WHERE is_repeated OR is_stored
            OR node IS NOT NULL AND type <> 'host' AND (type = 'reservation' OR masklen(prefix) <> full_length(prefix))
            OR NOT CASE type
                WHEN 'host' THEN coalesce(parent_type = 'assignment', false) AND masklen(prefix) = full_length(prefix)
                ELSE parent_type IS NULL OR parent_type = 'reservation' END
        ORDER BY vrf_id, prefix, ord
    LOOP
        CONTINUE WHEN root_vrf = entry.vrf_id AND root_prefix >> entry.prefix;
        -- A repeated prefix has nothing inside it: the first one of its equals has.
        IF NOT entry.is_repeated THEN
            root_vrf := entry.vrf_id;
            root_prefix := entry.prefix;
        END IF;
        IF worst_ord IS NULL OR entry.ord < worst_ord THEN
            worst := entry;
            worst_ord := entry.ord;
        END IF;
    END LOOP;
    IF worst_ord IS NULL THEN
        RETURN;
    END IF;
    BEGIN
        IF worst.is_repeated OR worst.is_stored THEN
            PERFORM refuse_duplicate(worst.vrf_id, worst.prefix);
        END IF;
        new_row.prefix := worst.prefix;
        new_row.type := worst.type;
        parent.id := worst.parent_id;
        parent.prefix := worst.parent_prefix;
        parent.type := worst.parent_type;
        done := check_place(parent, new_row);
        done := check_node(worst.prefix, worst.type, worst.node);
        RAISE EXCEPTION 'no rule refuses %', worst.prefix USING ERRCODE = 'NP000';
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS about = COLUMN_NAME;
        RAISE EXCEPTION '%', SQLERRM USING ERRCODE = SQLSTATE, COLUMN = worst.ord || ' ' || about;
    END;
END $$;
COMMENT ON FUNCTION refuse_incoming() IS 'Refuse incoming prefixes that are duplicates, have types that do not nest, or must not have a node.';

CREATE OR REPLACE FUNCTION take_incoming() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- The space around each block: the whole network of a prefix that had no children, else the free range around the
    -- block.
    INSERT INTO taken
    SELECT i.parent_id, addr_first(above.prefix), addr_last(above.prefix), false, addr_first(i.prefix), addr_last(i.prefix)
    FROM incoming i JOIN incoming above ON above.id = i.parent_id WHERE i.inside
    UNION ALL
    SELECT o.id, addr_first(o.prefix), addr_last(o.prefix), false, addr_first(i.prefix), addr_last(i.prefix)
    FROM incoming i JOIN prefix o ON o.id = i.owner_id AND o.children = 0 WHERE NOT i.inside;
    INSERT INTO taken
    SELECT i.owner, f.first_address, f.last_address, true, addr_first(i.prefix), addr_last(i.prefix)
    FROM (SELECT coalesce(n.owner_id, -1 - 2 * n.vrf_id::bigint - CASE family(n.prefix) WHEN 4 THEN 0 ELSE 1 END) AS owner, n.prefix
          FROM incoming n LEFT JOIN prefix o ON o.id = n.owner_id WHERE NOT n.inside AND (o.id IS NULL OR o.children > 0)) i
    CROSS JOIN LATERAL (
        SELECT r.first_address, r.last_address FROM free_range r
        WHERE r.owner = i.owner AND r.last_address >= addr_last(i.prefix) ORDER BY r.last_address LIMIT 1) f;
    IF EXISTS (SELECT FROM taken WHERE space_first > first_address) THEN
        RAISE EXCEPTION 'free ranges do not hold what is to be added' USING ERRCODE = 'NP000';
    END IF;
    DELETE FROM free_range r USING (SELECT DISTINCT owner, space_last FROM taken WHERE stored) t
    WHERE r.owner = t.owner AND r.last_address = t.space_last;
    INSERT INTO free_range SELECT g.owner, g.a, g.z, range_fit(g.a, g.z) FROM gaps_of_taken() g;
END $$;
COMMENT ON FUNCTION take_incoming() IS 'Take the incoming prefixes out of the free ranges around them.';

CREATE OR REPLACE FUNCTION gaps_of_taken() RETURNS TABLE (owner bigint, a inet, z inet) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY WITH t AS (
        SELECT taken.*, lag(taken.last_address) OVER w AS before, lead(taken.first_address) OVER w IS NULL AS is_last
        FROM taken WINDOW w AS (PARTITION BY taken.owner, taken.space_last ORDER BY taken.first_address))
    SELECT t.owner, CASE WHEN t.before IS NULL THEN t.space_first ELSE t.before + 1 END, t.first_address - 1 FROM t
    WHERE CASE WHEN t.before IS NULL THEN t.space_first < t.first_address ELSE t.before + 1 < t.first_address END
    UNION ALL
    SELECT t.owner, t.last_address + 1, t.space_last FROM t WHERE t.is_last AND t.last_address < t.space_last;
END $$;
COMMENT ON FUNCTION gaps_of_taken() IS 'The free ranges that remain in the spaces of taken.';

CREATE OR REPLACE FUNCTION count_incoming() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    entry record;
BEGIN
    FOR entry IN
        SELECT i.vrf_id, family(i.prefix) AS fam, count(*) AS prefixes,
            coalesce(sum(prefix_size(i.prefix)) FILTER (WHERE NOT i.inside AND i.owner_id IS NULL), 0) AS total,
            coalesce(sum(n.used_addresses) FILTER (WHERE NOT i.inside AND i.owner_id IS NULL), 0)
            + coalesce(sum(prefix_size(i.prefix)) FILTER (WHERE NOT i.inside AND o.id IS NOT NULL AND o.parent_id IS NULL), 0) AS used
        FROM incoming i JOIN prefix n ON n.id = i.id LEFT JOIN prefix o ON o.id = i.owner_id
        GROUP BY 1, 2 ORDER BY 1, 2
    LOOP
        done := add_to_totals(entry.vrf_id, entry.fam, entry.prefixes, entry.total, entry.used);
    END LOOP;
END $$;
COMMENT ON FUNCTION count_incoming() IS 'Add the incoming prefixes to the totals of their VRFs.';

CREATE OR REPLACE FUNCTION prefix_add_many(items jsonb, who actor) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    ids bigint[];
    piece record;
BEGIN
    PERFORM make_incoming();
    -- Bulk additions to one VRF run one after the other from the beginning: else a waiting addition has chosen its
    -- owners in vain.
    PERFORM pg_advisory_xact_lock(5466130, in_vrf) FROM (
        SELECT DISTINCT (item ->> 'vrf_id')::int AS in_vrf FROM jsonb_array_elements(items) item ORDER BY in_vrf) q;
    INSERT INTO incoming (ord, id, vrf_id, prefix, type, facts, pool_id)
    SELECT n::int, nextval('prefix_id_seq'), (item ->> 'vrf_id')::int, (item ->> 'prefix')::cidr, item ->> 'type', item,
        (item ->> 'pool_id')::int
    FROM jsonb_array_elements(items) WITH ORDINALITY AS e (item, n);
    ANALYZE incoming;
    PERFORM add_one_by_one(who);
    ids := ARRAY(SELECT coalesce(owner_id, id) FROM incoming ORDER BY ord);
    DELETE FROM incoming WHERE owner_id IS NOT NULL;
    UPDATE incoming i SET inside = true, parent_id = p.parent FROM incoming_parents() p WHERE p.child = i.id;
    PERFORM lock_incoming_owners();
    UPDATE incoming SET parent_id = owner_id WHERE NOT inside;
    PERFORM refuse_incoming();
    PERFORM take_incoming();
    UPDATE prefix o SET
        children = o.children + t.children,
        used_addresses = o.used_addresses + t.size,
        free_blocks = o.free_blocks + t.free_delta
    FROM (
        SELECT i.owner_id, count(*) AS children, sum(prefix_size(i.prefix)) AS size, CASE WHEN d.len IS NOT NULL THEN (
            SELECT coalesce(sum(count_blocks(g.a, g.z, d.len)), 0) FROM gaps_of_taken() g WHERE g.owner = i.owner_id
        ) - (
            SELECT coalesce(sum(count_blocks(s.space_first, s.space_last, d.len)), 0)
            FROM (SELECT DISTINCT space_first, space_last FROM taken k WHERE k.owner = i.owner_id) s
        ) END AS free_delta
        FROM incoming i JOIN prefix q ON q.id = i.owner_id
        CROSS JOIN LATERAL (SELECT default_length(q.pool_id, q.prefix) AS len) d
        WHERE NOT i.inside GROUP BY i.owner_id, d.len) t
    WHERE o.id = t.owner_id;
    INSERT INTO prefix SELECT (n.row).* FROM (
        SELECT jsonb_populate_record(NULL::prefix, i.facts || jsonb_build_object(
            'id', i.id, 'parent_id', i.parent_id, 'children', coalesce(k.children, 0), 'added', now(), 'last_modified', now(), 'version', 1,
            'used_addresses', CASE WHEN masklen(i.prefix) = full_length(i.prefix) THEN 1 ELSE coalesce(k.size, 0) END)) AS row
        FROM incoming i LEFT JOIN (
            SELECT parent_id, count(*) AS children, sum(prefix_size(prefix)) AS size FROM incoming WHERE inside GROUP BY parent_id) k
            ON k.parent_id = i.id
        OFFSET 0) n;
    INSERT INTO prefix_words SELECT p.id, words_of(p) FROM incoming i JOIN prefix p ON p.id = i.id;
    -- Record in pieces: all facts together may exceed the largest size of a value.
    FOR piece IN SELECT array_agg(p.id ORDER BY i.ord) AS ids, array_agg(prefix_facts(p) ORDER BY i.ord) AS facts
        FROM incoming i JOIN prefix p ON p.id = i.id GROUP BY (i.ord - 1) / 10000 ORDER BY (i.ord - 1) / 10000
    LOOP
        PERFORM record_changes(who, 'prefix', 'add', piece.ids, NULL, piece.facts);
    END LOOP;
    PERFORM count_incoming();
    RETURN ids;
END $$;
COMMENT ON FUNCTION prefix_add_many(jsonb, actor) IS 'Add many prefixes; returns their ids in the order given. items: the columns of each prefix, including vrf_id and prefix. The column of an error is the number of the item, and the name of the attribute.';
