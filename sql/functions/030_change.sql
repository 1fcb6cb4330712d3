-- Changes of the tree: add, allocate, edit, remove. Each is one locked section; the caller owns the transaction.
-- Errors are raised with a code of ours (nipap/sqlstates.py translates them) and the text that the client gets:
-- NP100 input, NP110 input missing, NP200 value, NP300 not there, NP400 duplicate, NP000 a broken invariant. 40001: run the call again.

CREATE OR REPLACE FUNCTION prefix_facts(p prefix) RETURNS jsonb LANGUAGE sql STABLE
RETURN jsonb_strip_nulls(to_jsonb(p) - '{parent_id,children,used_addresses,free_blocks}'::text[]);
COMMENT ON FUNCTION prefix_facts(prefix) IS 'The stored facts of a prefix, without what is derived and without nulls.';

CREATE OR REPLACE FUNCTION add_to_totals(v int, fam int, prefixes bigint, total numeric, used numeric) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO vrf_total AS t VALUES (v, fam, pg_backend_pid() % 16, prefixes, total, used)
    ON CONFLICT ON CONSTRAINT vrf_total_pkey DO UPDATE SET
        num_prefixes = t.num_prefixes + excluded.num_prefixes,
        total_addresses = t.total_addresses + excluded.total_addresses,
        used_addresses = t.used_addresses + excluded.used_addresses;
    RETURN true;
END $$;
COMMENT ON FUNCTION add_to_totals(int, int, bigint, numeric, numeric) IS 'Move the totals of a VRF by deltas; the last lock a change takes.';

-- ---------------------------------------------------------------- locks

CREATE OR REPLACE FUNCTION lock_vrf(v int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM vrf WHERE id = v FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'No matching VRF found.' USING ERRCODE = 'NP300', COLUMN = 'vrf_id';
    END IF;
END $$;
COMMENT ON FUNCTION lock_vrf(int) IS 'Lock the top level of a VRF.';

CREATE OR REPLACE FUNCTION lock_owner(v int, x cidr) RETURNS prefix LANGUAGE plpgsql AS $$
DECLARE
    i bigint := closest_parent(v, x);
    now_closest bigint;
    p prefix;
BEGIN
    -- Looked up again after locking, as a separate statement: a prefix may have come in between, and then its row, which
    -- sorts after the one already held, is locked too. Any other order deadlocks.
    LOOP
        IF i IS NULL THEN
            PERFORM lock_vrf(v);
            p := NULL;
        ELSE
            SELECT * INTO p FROM prefix WHERE id = i FOR NO KEY UPDATE;
        END IF;
        now_closest := closest_parent(v, x);
        EXIT WHEN now_closest IS NOT DISTINCT FROM i;
        i := now_closest;
    END LOOP;
    RETURN p;
END $$;
COMMENT ON FUNCTION lock_owner(int, cidr) IS 'Lock the row whose children change when x does: the closest prefix around x, or the VRF (then NULL is returned).';

CREATE OR REPLACE FUNCTION lock_pools(ids int[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM pool WHERE id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
END $$;
COMMENT ON FUNCTION lock_pools(int[]) IS 'Lock pools whose members change, in order, after all prefixes. Who only counts the blocks of a member needs no more than the lock of that member: whoever edits the pool locks all members first.';

CREATE OR REPLACE FUNCTION default_length(pool int, x inet) RETURNS int LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF pool IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT CASE family(x) WHEN 4 THEN ipv4_default_prefix_length ELSE ipv6_default_prefix_length END FROM pool p WHERE p.id = default_length.pool);
END $$;
COMMENT ON FUNCTION default_length(int, inet) IS 'Default prefix length of a pool in the family of x; read under the lock of the member or of the pool.';

-- ---------------------------------------------------------------- rules

CREATE OR REPLACE FUNCTION check_place(p prefix, n prefix) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF n.type = 'host' THEN
        IF masklen(n.prefix) <> full_length(n.prefix) THEN
            RAISE EXCEPTION 'Prefix of type host must have all bits set in netmask' USING ERRCODE = 'NP200', COLUMN = 'type';
        ELSIF p.id IS NULL THEN
            RAISE EXCEPTION 'Prefix of type host must have a parent (covering) prefix of type assignment' USING ERRCODE = 'NP200', COLUMN = 'type';
        ELSIF p.type <> 'assignment' THEN
            RAISE EXCEPTION 'Parent prefix (%) is of type % but must be of type ''assignment''', p.prefix, p.type USING ERRCODE = 'NP200', COLUMN = 'type';
        END IF;
    ELSIF p.type <> 'reservation' THEN
        RAISE EXCEPTION 'Parent prefix (%) is of type % but must be of type ''reservation''', p.prefix, p.type USING ERRCODE = 'NP200', COLUMN = 'type';
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION check_place(prefix, prefix) IS 'Refuse n below p when their types do not nest, true else.';

CREATE OR REPLACE FUNCTION check_node(x cidr, type text, node text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF node IS NULL OR type = 'host' THEN
        RETURN true;
    ELSIF type = 'reservation' THEN
        RAISE EXCEPTION 'Not allowed to set ''node'' value for prefixes of type ''reservation''.' USING ERRCODE = 'NP200', COLUMN = 'node';
    ELSIF masklen(x) <> full_length(x) THEN
        RAISE EXCEPTION 'Not allowed to set ''node'' value for prefixes of type ''assignment'' which do not have all bits set in netmask.' USING ERRCODE = 'NP200', COLUMN = 'node';
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION check_node(cidr, text, text) IS 'Refuse a node for what is not a single address, true else.';

CREATE OR REPLACE FUNCTION check_vlan(vlan int, former int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF vlan IS DISTINCT FROM former AND vlan NOT BETWEEN 0 AND 4095 THEN
        RAISE EXCEPTION 'Invalid value % for vlan, must be between 0 and 4095', vlan USING ERRCODE = 'NP200', COLUMN = 'vlan';
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION check_vlan(int, int) IS 'Refuse a new VLAN beyond 0 to 4095, true else. A former one may stay: NIPAP stored any.';

CREATE OR REPLACE FUNCTION check_children(n prefix) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF n.type = 'assignment' THEN
        IF EXISTS (SELECT FROM prefix WHERE parent_id = n.id AND type <> 'host') THEN
            RAISE EXCEPTION 'Prefix of type ''assignment'' must not have any subnets other than of type ''host''' USING ERRCODE = 'NP200', COLUMN = 'type';
        END IF;
    ELSIF EXISTS (SELECT FROM prefix WHERE parent_id = n.id AND type = 'host') THEN
        RAISE EXCEPTION 'Parent prefix (%) is of type % but must be of type ''assignment''', n.prefix, n.type USING ERRCODE = 'NP200', COLUMN = 'type';
    END IF;
END $$;
COMMENT ON FUNCTION check_children(prefix) IS 'Refuse n when the types of its children do not nest in it.';

CREATE OR REPLACE FUNCTION check_pool(n prefix) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pool WHERE id = n.pool_id) THEN
        RAISE EXCEPTION 'non-existing pool specified' USING ERRCODE = 'NP100', COLUMN = 'pool_id';
    ELSIF EXISTS (SELECT FROM prefix WHERE pool_id = n.pool_id AND vrf_id <> n.vrf_id AND id <> n.id) THEN
        RAISE EXCEPTION 'Change not allowed. All member prefixes of a pool must be in a the same VRF.' USING ERRCODE = 'NP200', COLUMN = 'pool_id';
    END IF;
END $$;
COMMENT ON FUNCTION check_pool(prefix) IS 'Refuse n as a member of its pool when that is not there or lives in another VRF; the pool is locked.';

CREATE OR REPLACE FUNCTION refuse_duplicate(v int, x cidr) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'Duplicate value for ''prefix'', the value ''%, %'' is already in use.', v, x USING ERRCODE = 'NP400', COLUMN = 'prefix';
END $$;
COMMENT ON FUNCTION refuse_duplicate(int, cidr) IS 'Say that x is taken.';

-- ---------------------------------------------------------------- attach and detach

CREATE OR REPLACE FUNCTION adopt(old_parent bigint, v int, x cidr, new_parent bigint, OUT a adopted) LANGUAGE plpgsql AS $$
BEGIN
    -- Two branches: parent_id IS NOT DISTINCT FROM uses no index and would read all descendants.
    IF old_parent IS NULL THEN
        WITH moved AS (
            UPDATE prefix SET parent_id = new_parent
            WHERE parent_id IS NULL AND vrf_id = v AND prefix > x AND prefix <= addr_last(x) AND id <> new_parent
            RETURNING prefix_size(prefix) AS size, used_addresses AS used)
        SELECT count(*), coalesce(sum(size), 0), coalesce(sum(used), 0) INTO a.children, a.size, a.used FROM moved;
    ELSE
        WITH moved AS (
            UPDATE prefix SET parent_id = new_parent
            WHERE parent_id = old_parent AND vrf_id = v AND prefix > x AND prefix <= addr_last(x) AND id IS DISTINCT FROM new_parent
            RETURNING prefix_size(prefix) AS size, used_addresses AS used)
        SELECT count(*), coalesce(sum(size), 0), coalesce(sum(used), 0) INTO a.children, a.size, a.used FROM moved;
    END IF;
END $$;
COMMENT ON FUNCTION adopt(bigint, int, cidr, bigint) IS 'Give the direct children of one parent that lie inside x to another; NULL is the top level. One statement, however many.';

CREATE OR REPLACE FUNCTION attach(p prefix, INOUT n prefix, a adopted) LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    owner bigint := range_owner(p, n.vrf_id, n.prefix);
    p_length int := default_length(p.pool_id, n.prefix);
    size numeric := prefix_size(n.prefix);
    delta numeric;
BEGIN
    n.parent_id := p.id;
    n.children := a.children;
    IF a.children > 0 THEN
        delta := move_ranges_down(owner, n.id, n.prefix, p_length);
        n.used_addresses := a.size;
    ELSE
        delta := take_range(owner, CASE WHEN p.children = 0 THEN p.prefix END, n.prefix, p_length);
        n.used_addresses := CASE WHEN size = 1 THEN 1 ELSE 0 END;
    END IF;
    n.free_blocks := free_blocks_of(n, default_length(n.pool_id, n.prefix));
    IF p.id IS NOT NULL THEN
        UPDATE prefix SET
            children = children + 1 - a.children,
            used_addresses = used_addresses + size - a.size,
            free_blocks = free_blocks + delta
        WHERE id = p.id;
    END IF;
    done := add_to_totals(n.vrf_id, family(n.prefix), 1,
        CASE WHEN p.id IS NULL THEN size - a.size ELSE 0 END,
        CASE WHEN p.id IS NULL THEN n.used_addresses - a.used WHEN p.parent_id IS NULL THEN size - a.size ELSE 0 END);
END $$;
COMMENT ON FUNCTION attach(prefix, prefix, adopted) IS 'Put n, which has adopted what it covers, below p: ranges, counters, totals. Returns n with its derived columns; the caller stores it.';

CREATE OR REPLACE FUNCTION detach(p prefix, x prefix, a adopted) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    owner bigint := range_owner(p, x.vrf_id, x.prefix);
    p_length int := default_length(p.pool_id, x.prefix);
    size numeric := prefix_size(x.prefix);
    delta numeric;
BEGIN
    IF a.children > 0 THEN
        delta := move_ranges_up(x.id, owner, whole_space(p, x.prefix), x.prefix, p_length);
    ELSIF p.children = 1 THEN
        DELETE FROM free_range f WHERE f.owner = p.id;
        delta := count_blocks(addr_first(p.prefix), addr_last(p.prefix), p_length) - p.free_blocks;
    ELSE
        delta := give_range(owner, whole_space(p, x.prefix), x.prefix, p_length);
    END IF;
    IF p.id IS NOT NULL THEN
        UPDATE prefix SET
            children = children - 1 + a.children,
            used_addresses = used_addresses - size + a.size,
            free_blocks = free_blocks + delta
        WHERE id = p.id;
    END IF;
    done := add_to_totals(x.vrf_id, family(x.prefix), -1,
        CASE WHEN p.id IS NULL THEN a.size - size ELSE 0 END,
        CASE WHEN p.id IS NULL THEN a.used - x.used_addresses WHEN p.parent_id IS NULL THEN a.size - size ELSE 0 END);
END $$;
COMMENT ON FUNCTION detach(prefix, prefix, adopted) IS 'Take x, whose children p has adopted, out from below p: ranges, counters, totals.';

-- ---------------------------------------------------------------- add

CREATE OR REPLACE FUNCTION insert_under(p prefix, v int, x cidr, facts jsonb, who actor) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    n prefix := jsonb_populate_record(NULL::prefix, facts);
    a adopted := ROW (0, 0, 0);
    first_inside cidr;
BEGIN
    n.id := nextval('prefix_id_seq');
    n.vrf_id := v;
    n.prefix := x;
    n.added := now();
    n.last_modified := n.added;
    SELECT prefix INTO first_inside FROM prefix WHERE vrf_id = v AND prefix >= x AND prefix <= addr_last(x) ORDER BY prefix LIMIT 1;
    IF first_inside = x THEN
        PERFORM refuse_duplicate(v, x);
    END IF;
    done := check_place(p, n);
    done := check_node(x, n.type, n.node);
    IF first_inside IS NOT NULL THEN
        a := adopt(p.id, v, x, n.id);
        PERFORM check_children(n);
    END IF;
    IF n.pool_id IS NOT NULL THEN
        PERFORM lock_pools(ARRAY[n.pool_id]);
        PERFORM check_pool(n);
    END IF;
    n := attach(p, n, a);
    INSERT INTO prefix SELECT n.*;
    INSERT INTO prefix_words VALUES (n.id, words_of(n));
    done := record_change(who, 'prefix', 'add', n.id, NULL, prefix_facts(n));
    RETURN n.id;
END $$;
COMMENT ON FUNCTION insert_under(prefix, int, cidr, jsonb, actor) IS 'Add x below p, whose lock is held.';

CREATE OR REPLACE FUNCTION prefix_add(v int, x cidr, facts jsonb, who actor) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN insert_under(lock_owner(v, x), v, x, facts, who);
END $$;
COMMENT ON FUNCTION prefix_add(int, cidr, jsonb, actor) IS 'Add a prefix; returns its id. facts: its columns but vrf_id and prefix, defaults filled in.';

-- ---------------------------------------------------------------- edit

CREATE OR REPLACE FUNCTION prefix_move(x prefix, n prefix) RETURNS prefix LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    from_id bigint := x.parent_id;
    to_id bigint;
    p prefix;
    given adopted;
    taken adopted;
BEGIN
    SELECT id INTO to_id FROM prefix WHERE vrf_id = x.vrf_id AND prefix = ANY (supernets(n.prefix)) AND id <> x.id
    ORDER BY masklen(prefix) DESC LIMIT 1;
    IF from_id IS NULL OR to_id IS NULL THEN
        PERFORM lock_vrf(x.vrf_id);
    END IF;
    PERFORM FROM prefix WHERE id IN (from_id, to_id, x.id) ORDER BY vrf_id, prefix FOR NO KEY UPDATE;
    -- Everything was chosen before it was locked: when something came in between, start over.
    IF NOT EXISTS (SELECT FROM prefix q WHERE q.id = x.id AND q.prefix = x.prefix AND q.parent_id IS NOT DISTINCT FROM from_id
                   AND q.type = x.type AND q.pool_id IS NOT DISTINCT FROM x.pool_id)
       OR to_id IS DISTINCT FROM (SELECT id FROM prefix WHERE vrf_id = x.vrf_id AND prefix = ANY (supernets(n.prefix)) AND id <> x.id
                                  ORDER BY masklen(prefix) DESC LIMIT 1) THEN
        RAISE EXCEPTION 'the tree around % changed', x.prefix USING ERRCODE = '40001';
    END IF;
    SELECT * INTO x FROM prefix WHERE id = x.id;
    IF EXISTS (SELECT FROM prefix WHERE vrf_id = x.vrf_id AND prefix = n.prefix AND id <> x.id) THEN
        PERFORM refuse_duplicate(x.vrf_id, n.prefix);
    END IF;
    -- All rows are locked before the pools, and these before the totals: first both times children change hands, those
    -- of the old place to its former parent, what the new place covers to x.
    given := adopt(x.id, x.vrf_id, x.prefix, from_id);
    taken := adopt(to_id, x.vrf_id, n.prefix, x.id);
    IF x.pool_id IS DISTINCT FROM n.pool_id THEN
        PERFORM lock_pools(ARRAY[x.pool_id, n.pool_id]);
    END IF;
    SELECT * INTO p FROM prefix WHERE id = from_id;
    PERFORM detach(p, x, given);
    SELECT * INTO p FROM prefix WHERE id = to_id;
    done := check_place(p, n);
    PERFORM check_children(n);
    PERFORM check_left_behind(from_id, x, n.prefix);
    RETURN attach(p, n, taken);
END $$;
COMMENT ON FUNCTION prefix_move(prefix, prefix) IS 'Move the row x to the place n.prefix; returns n with its derived columns, which the caller stores.';

CREATE OR REPLACE FUNCTION check_left_behind(former_parent bigint, x prefix, place cidr) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    orphan cidr;
BEGIN
    IF x.type <> 'assignment' OR x.children = 0 THEN
        RETURN;
    END IF;
    IF former_parent IS NULL THEN
        orphan := (SELECT prefix FROM prefix WHERE parent_id IS NULL AND vrf_id = x.vrf_id AND prefix > x.prefix AND prefix <= addr_last(x.prefix) AND type = 'host' ORDER BY vrf_id, prefix LIMIT 1);
    ELSE
        orphan := (SELECT prefix FROM prefix WHERE parent_id = former_parent AND vrf_id = x.vrf_id AND prefix > x.prefix AND prefix <= addr_last(x.prefix) AND type = 'host' ORDER BY vrf_id, prefix LIMIT 1);
    END IF;
    IF orphan IS NOT NULL THEN
        RAISE EXCEPTION 'Moving % to % would leave host % without an assignment around it', x.prefix, place, orphan USING ERRCODE = 'NP200', COLUMN = 'prefix';
    END IF;
END $$;
COMMENT ON FUNCTION check_left_behind(bigint, prefix, cidr) IS 'Refuse a move that leaves hosts of x without an assignment around them.';

CREATE OR REPLACE FUNCTION check_type_change(x prefix, n prefix) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF 'host' IN (x.type, n.type) THEN
        RAISE EXCEPTION 'Changing type is not allowed' USING ERRCODE = 'NP200', COLUMN = 'type';
    ELSIF n.children > 0 THEN
        RAISE EXCEPTION 'Changing from type ''%'' to ''%'' requires there to be no child prefixes.', x.type, n.type USING ERRCODE = 'NP200', COLUMN = 'type';
    END IF;
END $$;
COMMENT ON FUNCTION check_type_change(prefix, prefix) IS 'Refuse a change of type but between reservation and assignment without children.';

CREATE OR REPLACE FUNCTION prefix_edit(i bigint, place cidr, changes jsonb, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    x prefix;
    n prefix;
    p prefix;
    moves boolean;
BEGIN
    SELECT * INTO x FROM prefix WHERE id = i;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    n := jsonb_populate_record(x, changes);
    moves := n.prefix <> x.prefix;
    IF x.prefix <> place THEN
        RAISE EXCEPTION '% was moved', place USING ERRCODE = '40001';
    ELSIF moves THEN
        n := prefix_move(x, n);
        SELECT * INTO x FROM prefix WHERE id = i;
        -- Nothing but the place was locked before: take the other columns as they are now.
        n := jsonb_populate_record(x, changes || jsonb_build_object('parent_id', n.parent_id, 'children', n.children,
            'used_addresses', n.used_addresses, 'free_blocks', n.free_blocks));
    ELSE
        SELECT * INTO x FROM prefix WHERE id = i FOR NO KEY UPDATE;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        n := jsonb_populate_record(x, changes);
        IF x.prefix <> place THEN
            RAISE EXCEPTION '% was moved', place USING ERRCODE = '40001';
        END IF;
    END IF;
    -- What NIPAP stored may stay as it is.
    IF (n.node, n.type, n.prefix) IS DISTINCT FROM (x.node, x.type, x.prefix) THEN
        done := check_node(n.prefix, n.type, n.node);
    END IF;
    done := check_vlan(n.vlan, x.vlan);
    IF n.type <> x.type THEN
        IF NOT moves THEN
            SELECT * INTO p FROM prefix WHERE id = n.parent_id;
            done := check_place(p, n);
            IF n.type = 'assignment' THEN
                PERFORM check_children(n);
            END IF;
        END IF;
        PERFORM check_type_change(x, n);
    END IF;
    IF n.pool_id IS DISTINCT FROM x.pool_id THEN
        IF NOT moves THEN
            PERFORM lock_pools(ARRAY[x.pool_id, n.pool_id]);
        END IF;
        IF n.pool_id IS NOT NULL THEN
            PERFORM check_pool(n);
        END IF;
        n.free_blocks := free_blocks_of(n, default_length(n.pool_id, n.prefix));
    END IF;
    n.last_modified := now();
    UPDATE prefix SET
        prefix = n.prefix, type = n.type, parent_id = n.parent_id, children = n.children, used_addresses = n.used_addresses,
        pool_id = n.pool_id, free_blocks = n.free_blocks, status = n.status, description = n.description, comment = n.comment,
        node = n.node, country = n.country, order_id = n.order_id, customer_id = n.customer_id, external_key = n.external_key,
        alarm_priority = n.alarm_priority, monitor = n.monitor, vlan = n.vlan, tags = n.tags, avps = n.avps, expires = n.expires,
        authoritative_source = n.authoritative_source, last_modified = n.last_modified
    WHERE id = i;
    done := record_change(who, 'prefix', 'edit', i, prefix_facts(x), prefix_facts(n));
    RETURN true;
END $$;
COMMENT ON FUNCTION prefix_edit(bigint, cidr, jsonb, actor) IS 'Edit one prefix, found at a place; changes may move it, change its type or its pool. False when it is not there.';

CREATE OR REPLACE FUNCTION refuse_moved() RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'prefixes were moved meanwhile' USING ERRCODE = '40001';
END $$;
COMMENT ON FUNCTION refuse_moved() IS 'Have the call run again.';

CREATE OR REPLACE FUNCTION prefix_edit_many(ids bigint[], changes jsonb, who actor) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    edited refcursor;
BEGIN
    -- Locked in order first, so that two such edits cannot deadlock; then one statement, however many.
    OPEN edited FOR WITH old AS MATERIALIZED (
        SELECT p AS row FROM prefix p WHERE id = ANY (ids) ORDER BY vrf_id, prefix FOR NO KEY UPDATE
    )
    UPDATE prefix t SET
        status = wanted.status, description = wanted.description, comment = wanted.comment, node = wanted.node,
        country = wanted.country, order_id = wanted.order_id, customer_id = wanted.customer_id,
        external_key = wanted.external_key, alarm_priority = wanted.alarm_priority, monitor = wanted.monitor,
        vlan = wanted.vlan, tags = wanted.tags, avps = wanted.avps, expires = wanted.expires,
        authoritative_source = wanted.authoritative_source, last_modified = now()
    FROM old, LATERAL jsonb_populate_record(old.row, changes) wanted
    WHERE t.id = (old.row).id
    RETURNING t.id, prefix_facts(old.row),
        CASE WHEN wanted.prefix = t.prefix AND wanted.type = t.type AND wanted.pool_id IS NOT DISTINCT FROM t.pool_id
            AND (t.node IS NOT DISTINCT FROM (old.row).node OR check_node(t.prefix, t.type, t.node))
            AND check_vlan(t.vlan, (old.row).vlan) THEN prefix_facts(t) ELSE refuse_moved() END;
    RETURN record_rows(who, 'prefix', 'edit', edited);
END $$;
COMMENT ON FUNCTION prefix_edit_many(bigint[], jsonb, actor) IS 'Edit any number of prefixes by changes that leave place, type and pool as they are. Returns how many are there.';

-- ---------------------------------------------------------------- remove

CREATE OR REPLACE FUNCTION lock_with_parent(i bigint, OUT p prefix, OUT x prefix) LANGUAGE plpgsql AS $$
DECLARE
    parent bigint;
    v int;
BEGIN
    LOOP
        SELECT parent_id, vrf_id INTO parent, v FROM prefix WHERE id = i;
        EXIT WHEN NOT FOUND;
        IF parent IS NULL THEN
            PERFORM FROM vrf WHERE id = v FOR NO KEY UPDATE;
            p := NULL;
        ELSE
            SELECT * INTO p FROM prefix WHERE id = parent FOR NO KEY UPDATE;
        END IF;
        -- Asked before locking the child, else a parent would be locked after its child.
        CONTINUE WHEN NOT EXISTS (SELECT FROM prefix q WHERE q.id = i AND q.parent_id IS NOT DISTINCT FROM parent);
        SELECT * INTO x FROM prefix q WHERE q.id = i AND q.parent_id IS NOT DISTINCT FROM parent FOR UPDATE;
        EXIT WHEN FOUND;
    END LOOP;
END $$;
COMMENT ON FUNCTION lock_with_parent(bigint) IS 'Lock a prefix after what is above it (a prefix or the VRF); x is NULL when it is not there.';

CREATE OR REPLACE FUNCTION lock_inside(v int, x cidr) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    before bigint;
    locked bigint := -1;
BEGIN
    -- Who holds a row may have added below it: again until no new rows appear. Then all owners are held and none can.
    LOOP
        before := locked;
        SELECT count(*) INTO locked FROM (
            SELECT FROM prefix WHERE vrf_id = v AND prefix > x AND prefix <= addr_last(x) ORDER BY vrf_id, prefix FOR UPDATE) q;
        EXIT WHEN locked = before OR locked = 0;
    END LOOP;
END $$;
COMMENT ON FUNCTION lock_inside(int, cidr) IS 'Lock everything inside x, whose own row is locked.';

CREATE OR REPLACE FUNCTION delete_inside(vrf int, network cidr, who actor) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    inside refcursor;
    removed bigint;
BEGIN
    OPEN inside FOR SELECT id, prefix_facts(p), NULL::jsonb FROM prefix p
    WHERE vrf_id = vrf AND prefix > network AND prefix <= addr_last(network) ORDER BY vrf_id, prefix;
    removed := record_rows(who, 'prefix', 'remove', inside);
    WITH gone AS (
        DELETE FROM prefix WHERE vrf_id = vrf AND prefix > network AND prefix <= addr_last(network) RETURNING id
    ), ranges AS (
        DELETE FROM free_range USING gone WHERE owner = gone.id
    )
    DELETE FROM prefix_words USING gone WHERE prefix_id = gone.id;
    RETURN removed;
END $$;
COMMENT ON FUNCTION delete_inside(int, cidr, actor) IS 'Delete everything inside x with its ranges, with an audit entry each; counters of x and the VRF are the caller''s.';

CREATE OR REPLACE FUNCTION prefix_remove(i bigint, place cidr, recursive boolean, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    p prefix;
    x prefix;
    a adopted := ROW (0, 0, 0);
    locked record;
BEGIN
    SELECT * INTO locked FROM lock_with_parent(i);
    p := locked.p;
    x := locked.x;
    IF x.id IS NULL THEN
        RETURN false;
    ELSIF x.prefix <> place THEN -- never when no place is given
        RAISE EXCEPTION '% was moved', place USING ERRCODE = '40001';
    ELSIF NOT recursive AND x.type = 'assignment' AND x.children > 0 THEN
        RAISE EXCEPTION 'Prohibited delete, prefix (%) contains hosts.', x.prefix USING ERRCODE = 'NP200';
    END IF;
    IF recursive AND x.children > 0 THEN
        PERFORM lock_inside(x.vrf_id, x.prefix);
        done := add_to_totals(x.vrf_id, family(x.prefix), - delete_inside(x.vrf_id, x.prefix, who), 0, 0);
        DELETE FROM free_range WHERE owner = i;
    ELSIF x.children > 0 THEN
        a := adopt(i, x.vrf_id, x.prefix, p.id);
    END IF;
    PERFORM detach(p, x, a);
    DELETE FROM prefix WHERE id = i;
    DELETE FROM prefix_words WHERE prefix_id = i;
    done := record_change(who, 'prefix', 'remove', i, prefix_facts(x), NULL);
    RETURN true;
END $$;
COMMENT ON FUNCTION prefix_remove(bigint, cidr, boolean, actor) IS 'Remove a prefix, found at a place unless that is NULL; its children move up; recursive: with everything inside. False when it is not there.';

CREATE OR REPLACE FUNCTION prefix_remove_one(i bigint, recursive boolean, who actor) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT prefix_remove(i, NULL, recursive, who) THEN
        RAISE EXCEPTION 'No prefix with id % found.', i USING ERRCODE = 'NP300';
    END IF;
    RETURN current_setting('nipap.change_set', true);
END $$;
COMMENT ON FUNCTION prefix_remove_one(bigint, boolean, actor) IS 'Remove the prefix that has an id, wherever it is. Returns call and change set, as nipap.change_set has them.';

CREATE OR REPLACE FUNCTION vrf_remove(v int, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    vrf_values jsonb;
    space cidr;
    top bigint;
    facts jsonb;
BEGIN
    SELECT jsonb_strip_nulls(to_jsonb(t) - 'rt_rank') INTO vrf_values FROM vrf t WHERE id = v FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- A stored 0.0.0.0/0 is not inside itself: it goes by its own name, first of its family.
    FOREACH space IN ARRAY ARRAY[cidr '0.0.0.0/0', cidr '::/0'] LOOP
        PERFORM FROM prefix WHERE vrf_id = v AND prefix = space FOR UPDATE;
        PERFORM lock_inside(v, space);
        PERFORM delete_inside(v, space, who);
        DELETE FROM prefix p WHERE vrf_id = v AND prefix = space RETURNING p.id, prefix_facts(p) INTO top, facts;
        IF FOUND THEN
            DELETE FROM free_range WHERE owner = top;
            DELETE FROM prefix_words WHERE prefix_id = top;
            done := record_change(who, 'prefix', 'remove', top, facts, NULL);
        END IF;
    END LOOP;
    DELETE FROM free_range WHERE owner IN (-1 - 2 * v::bigint, -2 - 2 * v::bigint);
    DELETE FROM vrf WHERE id = v;
    done := record_change(who, 'vrf', 'remove', v, vrf_values, NULL);
    RETURN true;
END $$;
COMMENT ON FUNCTION vrf_remove(int, actor) IS 'Remove a VRF with all its prefixes. False when it is not there.';

-- ---------------------------------------------------------------- pools

CREATE OR REPLACE FUNCTION lock_pool_members(i int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    members bigint[];
    facts jsonb;
BEGIN
    -- Members first, the pool last, as everybody does. A member that came meanwhile is not locked: start over.
    members := ARRAY(SELECT id FROM prefix WHERE pool_id = i ORDER BY vrf_id, prefix FOR NO KEY UPDATE);
    SELECT jsonb_strip_nulls(to_jsonb(t)) INTO facts FROM pool t WHERE id = i FOR NO KEY UPDATE;
    IF EXISTS (SELECT FROM prefix WHERE pool_id = i AND NOT id = ANY (members)) THEN
        RAISE EXCEPTION 'pool % got new members', i USING ERRCODE = '40001';
    END IF;
    RETURN facts;
END $$;
COMMENT ON FUNCTION lock_pool_members(int) IS 'Lock a pool and its members; returns its stored facts, NULL when it is not there.';

CREATE OR REPLACE FUNCTION check_defaults(n pool, x pool) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF n.default_type IS DISTINCT FROM 'host' OR (n.default_type, n.ipv4_default_prefix_length, n.ipv6_default_prefix_length)
        IS NOT DISTINCT FROM (x.default_type, x.ipv4_default_prefix_length, x.ipv6_default_prefix_length) THEN
        RETURN;
    ELSIF n.ipv4_default_prefix_length <> 32 THEN
        RAISE EXCEPTION 'A pool of default type host cannot have default IPv4 prefix length %, hosts have 32', n.ipv4_default_prefix_length
            USING ERRCODE = 'NP200', COLUMN = 'ipv4_default_prefix_length';
    ELSIF n.ipv6_default_prefix_length <> 128 THEN
        RAISE EXCEPTION 'A pool of default type host cannot have default IPv6 prefix length %, hosts have 128', n.ipv6_default_prefix_length
            USING ERRCODE = 'NP200', COLUMN = 'ipv6_default_prefix_length';
    END IF;
END $$;
COMMENT ON FUNCTION check_defaults(pool, pool) IS 'Refuse defaults of a pool by which nothing can ever be allocated, unless they are those that it had.';

CREATE OR REPLACE FUNCTION pool_edit(i int, changes jsonb, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    facts jsonb := lock_pool_members(i);
    x pool;
    n pool;
BEGIN
    SELECT * INTO x FROM pool WHERE id = i;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    n := jsonb_populate_record(x, changes);
    PERFORM check_defaults(n, x);
    UPDATE pool SET
        name = n.name, description = n.description, default_type = n.default_type, tags = n.tags, avps = n.avps,
        ipv4_default_prefix_length = n.ipv4_default_prefix_length, ipv6_default_prefix_length = n.ipv6_default_prefix_length
    WHERE id = i;
    IF (n.ipv4_default_prefix_length, n.ipv6_default_prefix_length) IS DISTINCT FROM (x.ipv4_default_prefix_length, x.ipv6_default_prefix_length) THEN
        UPDATE prefix p SET free_blocks = free_blocks_of(p, default_length(i, p.prefix)) WHERE pool_id = i;
    END IF;
    done := record_change(who, 'pool', 'edit', i, facts, jsonb_strip_nulls(to_jsonb(n)));
    RETURN true;
END $$;
COMMENT ON FUNCTION pool_edit(int, jsonb, actor) IS 'Edit a pool; a new default length recounts the free blocks of its members. False when it is not there.';

CREATE OR REPLACE FUNCTION pool_remove(i int, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    facts jsonb := lock_pool_members(i);
    members refcursor;
BEGIN
    IF facts IS NULL THEN
        RETURN false;
    END IF;
    OPEN members FOR WITH old AS MATERIALIZED (
        SELECT p AS row FROM prefix p WHERE pool_id = i
    )
    UPDATE prefix t SET pool_id = NULL, free_blocks = NULL, last_modified = now() FROM old WHERE t.id = (old.row).id
    RETURNING t.id, prefix_facts(old.row), prefix_facts(t);
    PERFORM record_rows(who, 'prefix', 'edit', members);
    DELETE FROM pool WHERE id = i;
    done := record_change(who, 'pool', 'remove', i, facts, NULL);
    RETURN true;
END $$;
COMMENT ON FUNCTION pool_remove(int, actor) IS 'Remove a pool; its members stay, without a pool. False when it is not there.';
