-- Changes of the tree: add, allocate, edit, remove. Each change is one locked section; the caller owns the transaction.
-- Errors carry a code of ours (nipap/postgres/sqlstates.py translates the codes) and the text for the client: NP100
-- wrong input, NP110 missing input, NP200 wrong value, NP300 not found, NP400 duplicate, NP000 a broken invariant.
-- 40001: run the call again.

CREATE OR REPLACE FUNCTION prefix_facts(stored prefix) RETURNS jsonb LANGUAGE sql STABLE
RETURN jsonb_strip_nulls(to_jsonb(stored) - '{parent_id,children,used_addresses,free_blocks,version}'::text[]);
COMMENT ON FUNCTION prefix_facts(prefix) IS 'The stored facts of a prefix, without derived columns, version and nulls.';

CREATE OR REPLACE FUNCTION add_to_totals(in_vrf int, address_family int, prefixes bigint, total numeric, used numeric) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO vrf_total AS t VALUES (in_vrf, address_family, pg_backend_pid() % 16, prefixes, total, used)
    ON CONFLICT ON CONSTRAINT vrf_total_pkey DO UPDATE SET
        num_prefixes = t.num_prefixes + excluded.num_prefixes,
        total_addresses = t.total_addresses + excluded.total_addresses,
        used_addresses = t.used_addresses + excluded.used_addresses;
    RETURN true;
END $$;
COMMENT ON FUNCTION add_to_totals(int, int, bigint, numeric, numeric) IS 'Add deltas to the totals of a VRF. Its lock is the last one that a change takes.';

-- ---------------------------------------------------------------- locks

CREATE OR REPLACE FUNCTION lock_vrf(in_vrf int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM vrf WHERE id = in_vrf FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'No matching VRF found.' USING ERRCODE = 'NP300', COLUMN = 'vrf_id';
    END IF;
END $$;
COMMENT ON FUNCTION lock_vrf(int) IS 'Lock the top level of a VRF.';

CREATE OR REPLACE FUNCTION lock_owner(in_vrf int, network cidr) RETURNS prefix LANGUAGE plpgsql AS $$
DECLARE
    closest bigint := closest_parent(in_vrf, network);
    now_closest bigint;
    parent prefix;
BEGIN
    -- Look the parent up again after locking, in a separate statement: a new prefix may have been committed meanwhile.
    -- The row of that prefix sorts after the row already locked and is locked too. Any other order deadlocks.
    LOOP
        IF closest IS NULL THEN
            PERFORM lock_vrf(in_vrf);
            parent := NULL;
        ELSE
            SELECT * INTO parent FROM prefix WHERE id = closest FOR NO KEY UPDATE;
        END IF;
        now_closest := closest_parent(in_vrf, network);
        EXIT WHEN now_closest IS NOT DISTINCT FROM closest;
        closest := now_closest;
    END LOOP;
    RETURN parent;
END $$;
COMMENT ON FUNCTION lock_owner(int, cidr) IS 'Lock and return the closest prefix around a network. At the top level lock the VRF and return NULL.';

CREATE OR REPLACE FUNCTION lock_pools(ids int[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM pool WHERE id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
END $$;
COMMENT ON FUNCTION lock_pools(int[]) IS 'Lock pools before their members change: in order of id, after all prefixes. A change that only counts the blocks of a member needs only the lock of the member, since pool_edit locks all members first.';

CREATE OR REPLACE FUNCTION default_length(pool int, address inet) RETURNS int LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF pool IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT CASE family(address) WHEN 4 THEN ipv4_default_prefix_length ELSE ipv6_default_prefix_length END FROM pool p WHERE p.id = default_length.pool);
END $$;
COMMENT ON FUNCTION default_length(int, inet) IS 'Default prefix length of a pool in the family of the address; read under the lock of the member or of the pool.';

-- ---------------------------------------------------------------- rules

CREATE OR REPLACE FUNCTION check_place(parent prefix, new_row prefix) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF new_row.type = 'host' THEN
        IF masklen(new_row.prefix) <> full_length(new_row.prefix) THEN
            RAISE EXCEPTION 'Prefix of type host must have all bits set in netmask' USING ERRCODE = 'NP200', COLUMN = 'type';
        ELSIF parent.id IS NULL THEN
            RAISE EXCEPTION 'Prefix of type host must have a parent (covering) prefix of type assignment' USING ERRCODE = 'NP200', COLUMN = 'type';
        ELSIF parent.type <> 'assignment' THEN
            RAISE EXCEPTION 'Parent prefix (%) is of type % but must be of type ''assignment''', parent.prefix, parent.type USING ERRCODE = 'NP200', COLUMN = 'type';
        END IF;
    ELSIF parent.type <> 'reservation' THEN
        RAISE EXCEPTION 'Parent prefix (%) is of type % but must be of type ''reservation''', parent.prefix, parent.type USING ERRCODE = 'NP200', COLUMN = 'type';
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION check_place(prefix, prefix) IS 'Refuse new_row below parent if their types do not nest; returns true otherwise.';

CREATE OR REPLACE FUNCTION check_node(network cidr, type text, node text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF node IS NULL OR type = 'host' THEN
        RETURN true;
    ELSIF type = 'reservation' THEN
        RAISE EXCEPTION 'Not allowed to set ''node'' value for prefixes of type ''reservation''.' USING ERRCODE = 'NP200', COLUMN = 'node';
    ELSIF masklen(network) <> full_length(network) THEN
        RAISE EXCEPTION 'Not allowed to set ''node'' value for prefixes of type ''assignment'' which do not have all bits set in netmask.' USING ERRCODE = 'NP200', COLUMN = 'node';
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION check_node(cidr, text, text) IS 'Refuse a node unless the prefix is a host or a full-length assignment; returns true otherwise.';

CREATE OR REPLACE FUNCTION check_vlan(vlan int, former int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF vlan IS DISTINCT FROM former AND vlan NOT BETWEEN 0 AND 4095 THEN
        RAISE EXCEPTION 'Invalid value % for vlan, must be between 0 and 4095', vlan USING ERRCODE = 'NP200', COLUMN = 'vlan';
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION check_vlan(int, int) IS 'Refuse a new VLAN outside 0 to 4095; returns true otherwise. An unchanged VLAN is accepted, since databases of NIPAP have other numbers.';

CREATE OR REPLACE FUNCTION check_children(new_row prefix) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF new_row.type = 'assignment' THEN
        IF EXISTS (SELECT FROM prefix WHERE parent_id = new_row.id AND type <> 'host') THEN
            RAISE EXCEPTION 'Prefix of type ''assignment'' must not have any subnets other than of type ''host''' USING ERRCODE = 'NP200', COLUMN = 'type';
        END IF;
    ELSIF EXISTS (SELECT FROM prefix WHERE parent_id = new_row.id AND type = 'host') THEN
        RAISE EXCEPTION 'Parent prefix (%) is of type % but must be of type ''assignment''', new_row.prefix, new_row.type USING ERRCODE = 'NP200', COLUMN = 'type';
    END IF;
END $$;
COMMENT ON FUNCTION check_children(prefix) IS 'Refuse new_row if the types of its children do not nest in it.';

CREATE OR REPLACE FUNCTION check_pool(new_row prefix) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pool WHERE id = new_row.pool_id) THEN
        RAISE EXCEPTION 'non-existing pool specified' USING ERRCODE = 'NP100', COLUMN = 'pool_id';
    ELSIF EXISTS (SELECT FROM prefix WHERE pool_id = new_row.pool_id AND vrf_id <> new_row.vrf_id AND id <> new_row.id) THEN
        RAISE EXCEPTION 'Change not allowed. All member prefixes of a pool must be in a the same VRF.' USING ERRCODE = 'NP200', COLUMN = 'pool_id';
    END IF;
END $$;
COMMENT ON FUNCTION check_pool(prefix) IS 'Refuse new_row as a member of its pool if the pool does not exist or has members in another VRF. The caller has locked the pool.';

CREATE OR REPLACE FUNCTION refuse_duplicate(in_vrf int, network cidr) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'Duplicate value for ''prefix'', the value ''%, %'' is already in use.', in_vrf, network USING ERRCODE = 'NP400', COLUMN = 'prefix';
END $$;
COMMENT ON FUNCTION refuse_duplicate(int, cidr) IS 'Raise the error for a network that is in use already.';

-- ---------------------------------------------------------------- attach and detach

CREATE OR REPLACE FUNCTION adopt(old_parent bigint, in_vrf int, network cidr, new_parent bigint, OUT given adopted) LANGUAGE plpgsql AS $$
BEGIN
    -- Two branches: IS NOT DISTINCT FROM on parent_id uses no index and would read all descendants.
    IF old_parent IS NULL THEN
        WITH moved AS (
            UPDATE prefix SET parent_id = new_parent
            WHERE parent_id IS NULL AND vrf_id = in_vrf AND prefix > network AND prefix <= addr_last(network) AND id <> new_parent
            RETURNING prefix_size(prefix) AS size, used_addresses AS used)
        SELECT count(*), coalesce(sum(size), 0), coalesce(sum(used), 0) INTO given.children, given.size, given.used FROM moved;
    ELSE
        WITH moved AS (
            UPDATE prefix SET parent_id = new_parent
            WHERE parent_id = old_parent AND vrf_id = in_vrf AND prefix > network AND prefix <= addr_last(network) AND id IS DISTINCT FROM new_parent
            RETURNING prefix_size(prefix) AS size, used_addresses AS used)
        SELECT count(*), coalesce(sum(size), 0), coalesce(sum(used), 0) INTO given.children, given.size, given.used FROM moved;
    END IF;
END $$;
COMMENT ON FUNCTION adopt(bigint, int, cidr, bigint) IS 'Move the direct children of old_parent that lie inside a network to new_parent; NULL is the top level. One statement for any number of children.';

CREATE OR REPLACE FUNCTION attach(parent prefix, INOUT new_row prefix, taken adopted) LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    owner bigint := range_owner(parent, new_row.vrf_id, new_row.prefix);
    parent_length int := default_length(parent.pool_id, new_row.prefix);
    size numeric := prefix_size(new_row.prefix);
    delta numeric;
BEGIN
    new_row.parent_id := parent.id;
    new_row.children := taken.children;
    IF taken.children > 0 THEN
        delta := move_ranges_down(owner, new_row.id, new_row.prefix, parent_length);
        new_row.used_addresses := taken.size;
    ELSE
        delta := take_range(owner, CASE WHEN parent.children = 0 THEN parent.prefix END, new_row.prefix, parent_length);
        new_row.used_addresses := CASE WHEN size = 1 THEN 1 ELSE 0 END;
    END IF;
    new_row.free_blocks := free_blocks_of(new_row, default_length(new_row.pool_id, new_row.prefix));
    IF parent.id IS NOT NULL THEN
        UPDATE prefix SET
            children = children + 1 - taken.children,
            used_addresses = used_addresses + size - taken.size,
            free_blocks = free_blocks + delta
        WHERE id = parent.id;
    END IF;
    done := add_to_totals(new_row.vrf_id, family(new_row.prefix), 1,
        CASE WHEN parent.id IS NULL THEN size - taken.size ELSE 0 END,
        CASE WHEN parent.id IS NULL THEN new_row.used_addresses - taken.used WHEN parent.parent_id IS NULL THEN size - taken.size ELSE 0 END);
END $$;
COMMENT ON FUNCTION attach(prefix, prefix, adopted) IS 'Put new_row, which has adopted the prefixes that it covers, below parent: update ranges, counters and totals. Returns new_row with its derived columns; the caller stores it.';

CREATE OR REPLACE FUNCTION detach(parent prefix, old_row prefix, given adopted) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    owner bigint := range_owner(parent, old_row.vrf_id, old_row.prefix);
    parent_length int := default_length(parent.pool_id, old_row.prefix);
    size numeric := prefix_size(old_row.prefix);
    delta numeric;
BEGIN
    IF given.children > 0 THEN
        delta := move_ranges_up(old_row.id, owner, whole_space(parent, old_row.prefix), old_row.prefix, parent_length);
    ELSIF parent.children = 1 THEN
        DELETE FROM free_range f WHERE f.owner = parent.id;
        delta := count_blocks(addr_first(parent.prefix), addr_last(parent.prefix), parent_length) - parent.free_blocks;
    ELSE
        delta := give_range(owner, whole_space(parent, old_row.prefix), old_row.prefix, parent_length);
    END IF;
    IF parent.id IS NOT NULL THEN
        UPDATE prefix SET
            children = children - 1 + given.children,
            used_addresses = used_addresses - size + given.size,
            free_blocks = free_blocks + delta
        WHERE id = parent.id;
    END IF;
    done := add_to_totals(old_row.vrf_id, family(old_row.prefix), -1,
        CASE WHEN parent.id IS NULL THEN given.size - size ELSE 0 END,
        CASE WHEN parent.id IS NULL THEN given.used - old_row.used_addresses WHEN parent.parent_id IS NULL THEN given.size - size ELSE 0 END);
END $$;
COMMENT ON FUNCTION detach(prefix, prefix, adopted) IS 'Remove old_row from below parent, which has adopted the children of old_row: update ranges, counters and totals.';

-- ---------------------------------------------------------------- add

CREATE OR REPLACE FUNCTION insert_under(parent prefix, in_vrf int, network cidr, facts jsonb, who actor) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    new_row prefix := jsonb_populate_record(NULL::prefix, facts);
    taken adopted := ROW (0, 0, 0);
    first_inside cidr;
BEGIN
    new_row.id := nextval('prefix_id_seq');
    new_row.vrf_id := in_vrf;
    new_row.prefix := network;
    new_row.added := now();
    new_row.last_modified := new_row.added;
    new_row.version := 1;
    SELECT prefix INTO first_inside FROM prefix WHERE vrf_id = in_vrf AND prefix >= network AND prefix <= addr_last(network) ORDER BY prefix LIMIT 1;
    IF first_inside = network THEN
        PERFORM refuse_duplicate(in_vrf, network);
    END IF;
    done := check_place(parent, new_row);
    done := check_node(network, new_row.type, new_row.node);
    IF first_inside IS NOT NULL THEN
        taken := adopt(parent.id, in_vrf, network, new_row.id);
        PERFORM check_children(new_row);
    END IF;
    IF new_row.pool_id IS NOT NULL THEN
        PERFORM lock_pools(ARRAY[new_row.pool_id]);
        PERFORM check_pool(new_row);
    END IF;
    new_row := attach(parent, new_row, taken);
    INSERT INTO prefix SELECT new_row.*;
    INSERT INTO prefix_words VALUES (new_row.id, words_of(new_row));
    done := record_change(who, 'prefix', 'add', new_row.id, NULL, prefix_facts(new_row));
    RETURN new_row.id;
END $$;
COMMENT ON FUNCTION insert_under(prefix, int, cidr, jsonb, actor) IS 'Add a network below parent; returns its id. The caller holds the lock of parent.';

CREATE OR REPLACE FUNCTION prefix_add(in_vrf int, network cidr, facts jsonb, who actor) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN insert_under(lock_owner(in_vrf, network), in_vrf, network, facts, who);
END $$;
COMMENT ON FUNCTION prefix_add(int, cidr, jsonb, actor) IS 'Add a prefix; returns its id. facts: all columns except vrf_id and prefix, defaults filled in.';

-- ---------------------------------------------------------------- edit

CREATE OR REPLACE FUNCTION prefix_move(old_row prefix, new_row prefix) RETURNS prefix LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    from_id bigint := old_row.parent_id;
    to_id bigint;
    parent prefix;
    given adopted;
    taken adopted;
BEGIN
    SELECT id INTO to_id FROM prefix WHERE vrf_id = old_row.vrf_id AND prefix = ANY (supernets(new_row.prefix)) AND id <> old_row.id
    ORDER BY masklen(prefix) DESC LIMIT 1;
    IF from_id IS NULL OR to_id IS NULL THEN
        PERFORM lock_vrf(old_row.vrf_id);
    END IF;
    PERFORM FROM prefix WHERE id IN (from_id, to_id, old_row.id) ORDER BY vrf_id, prefix FOR NO KEY UPDATE;
    -- All rows were chosen before they were locked: start over if the tree has changed meanwhile.
    IF NOT EXISTS (SELECT FROM prefix q WHERE q.id = old_row.id AND q.prefix = old_row.prefix AND q.parent_id IS NOT DISTINCT FROM from_id
                   AND q.type = old_row.type AND q.pool_id IS NOT DISTINCT FROM old_row.pool_id)
       OR to_id IS DISTINCT FROM (SELECT id FROM prefix WHERE vrf_id = old_row.vrf_id AND prefix = ANY (supernets(new_row.prefix)) AND id <> old_row.id
                                  ORDER BY masklen(prefix) DESC LIMIT 1) THEN
        RAISE EXCEPTION 'the tree around % changed', old_row.prefix USING ERRCODE = '40001';
    END IF;
    SELECT * INTO old_row FROM prefix WHERE id = old_row.id;
    IF EXISTS (SELECT FROM prefix WHERE vrf_id = old_row.vrf_id AND prefix = new_row.prefix AND id <> old_row.id) THEN
        PERFORM refuse_duplicate(old_row.vrf_id, new_row.prefix);
    END IF;
    -- All rows are locked before the pools, and the pools before the totals. So adopt both sets of children first: the
    -- children of the old place go to its former parent, the prefixes that the new place covers go to old_row.
    given := adopt(old_row.id, old_row.vrf_id, old_row.prefix, from_id);
    taken := adopt(to_id, old_row.vrf_id, new_row.prefix, old_row.id);
    IF old_row.pool_id IS DISTINCT FROM new_row.pool_id THEN
        PERFORM lock_pools(ARRAY[old_row.pool_id, new_row.pool_id]);
    END IF;
    SELECT * INTO parent FROM prefix WHERE id = from_id;
    PERFORM detach(parent, old_row, given);
    SELECT * INTO parent FROM prefix WHERE id = to_id;
    done := check_place(parent, new_row);
    PERFORM check_children(new_row);
    PERFORM check_left_behind(from_id, old_row, new_row.prefix);
    RETURN attach(parent, new_row, taken);
END $$;
COMMENT ON FUNCTION prefix_move(prefix, prefix) IS 'Move old_row to the place new_row.prefix; returns new_row with its derived columns, which the caller stores.';

CREATE OR REPLACE FUNCTION check_left_behind(former_parent bigint, old_row prefix, place cidr) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    orphan cidr;
BEGIN
    IF old_row.type <> 'assignment' OR old_row.children = 0 THEN
        RETURN;
    END IF;
    IF former_parent IS NULL THEN
        orphan := (SELECT prefix FROM prefix WHERE parent_id IS NULL AND vrf_id = old_row.vrf_id AND prefix > old_row.prefix AND prefix <= addr_last(old_row.prefix) AND type = 'host' ORDER BY vrf_id, prefix LIMIT 1);
    ELSE
        orphan := (SELECT prefix FROM prefix WHERE parent_id = former_parent AND vrf_id = old_row.vrf_id AND prefix > old_row.prefix AND prefix <= addr_last(old_row.prefix) AND type = 'host' ORDER BY vrf_id, prefix LIMIT 1);
    END IF;
    IF orphan IS NOT NULL THEN
        RAISE EXCEPTION 'Moving % to % would leave host % without an assignment around it', old_row.prefix, place, orphan USING ERRCODE = 'NP200', COLUMN = 'prefix';
    END IF;
END $$;
COMMENT ON FUNCTION check_left_behind(bigint, prefix, cidr) IS 'Refuse a move that leaves hosts of old_row without an assignment around them.';

CREATE OR REPLACE FUNCTION check_type_change(old_row prefix, new_row prefix) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF 'host' IN (old_row.type, new_row.type) THEN
        RAISE EXCEPTION 'Changing type is not allowed' USING ERRCODE = 'NP200', COLUMN = 'type';
    ELSIF new_row.children > 0 THEN
        RAISE EXCEPTION 'Changing from type ''%'' to ''%'' requires there to be no child prefixes.', old_row.type, new_row.type USING ERRCODE = 'NP200', COLUMN = 'type';
    END IF;
END $$;
COMMENT ON FUNCTION check_type_change(prefix, prefix) IS 'Refuse a change of type, except between reservation and assignment without children.';

CREATE OR REPLACE FUNCTION prefix_edit(target bigint, place cidr, changes jsonb, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    old_row prefix;
    new_row prefix;
    parent prefix;
    moves boolean := false;
BEGIN
    IF changes ? 'prefix' THEN
        SELECT * INTO old_row FROM prefix WHERE id = target;
        new_row := jsonb_populate_record(old_row, changes);
        moves := coalesce(new_row.prefix <> old_row.prefix, false);
    END IF;
    IF moves THEN
        IF old_row.prefix <> place THEN
            RAISE EXCEPTION '% was moved', place USING ERRCODE = '40001';
        END IF;
        new_row := prefix_move(old_row, new_row);
        SELECT * INTO old_row FROM prefix WHERE id = target;
        -- Only the place was locked before: read the other columns again.
        new_row := jsonb_populate_record(old_row, changes || jsonb_build_object('parent_id', new_row.parent_id, 'children', new_row.children,
            'used_addresses', new_row.used_addresses, 'free_blocks', new_row.free_blocks));
    ELSE
        SELECT * INTO old_row FROM prefix WHERE id = target FOR NO KEY UPDATE;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        new_row := jsonb_populate_record(old_row, changes);
        IF old_row.prefix <> place OR old_row.prefix <> new_row.prefix THEN
            RAISE EXCEPTION '% was moved', old_row.prefix USING ERRCODE = '40001';
        END IF;
    END IF;
    -- Values that NIPAP stored may stay as they are.
    IF (new_row.node, new_row.type, new_row.prefix) IS DISTINCT FROM (old_row.node, old_row.type, old_row.prefix) THEN
        done := check_node(new_row.prefix, new_row.type, new_row.node);
    END IF;
    done := check_vlan(new_row.vlan, old_row.vlan);
    IF new_row.type <> old_row.type THEN
        IF NOT moves THEN
            SELECT * INTO parent FROM prefix WHERE id = new_row.parent_id;
            done := check_place(parent, new_row);
            IF new_row.type = 'assignment' THEN
                PERFORM check_children(new_row);
            END IF;
        END IF;
        PERFORM check_type_change(old_row, new_row);
    END IF;
    IF new_row.pool_id IS DISTINCT FROM old_row.pool_id THEN
        IF NOT moves THEN
            PERFORM lock_pools(ARRAY[old_row.pool_id, new_row.pool_id]);
        END IF;
        IF new_row.pool_id IS NOT NULL THEN
            PERFORM check_pool(new_row);
        END IF;
        new_row.free_blocks := free_blocks_of(new_row, default_length(new_row.pool_id, new_row.prefix));
    END IF;
    IF new_row IS NOT DISTINCT FROM old_row THEN
        RETURN true;
    END IF;
    new_row.last_modified := now();
    new_row.version := old_row.version + 1;
    UPDATE prefix SET
        prefix = new_row.prefix, type = new_row.type, parent_id = new_row.parent_id, children = new_row.children, used_addresses = new_row.used_addresses,
        pool_id = new_row.pool_id, free_blocks = new_row.free_blocks, status = new_row.status, description = new_row.description, comment = new_row.comment,
        node = new_row.node, country = new_row.country, order_id = new_row.order_id, customer_id = new_row.customer_id, external_key = new_row.external_key,
        alarm_priority = new_row.alarm_priority, monitor = new_row.monitor, vlan = new_row.vlan, tags = new_row.tags, avps = new_row.avps, expires = new_row.expires,
        authoritative_source = new_row.authoritative_source, last_modified = new_row.last_modified, version = new_row.version
    WHERE id = target;
    done := record_change(who, 'prefix', 'edit', target, prefix_facts(old_row), prefix_facts(new_row));
    RETURN true;
END $$;
COMMENT ON FUNCTION prefix_edit(bigint, cidr, jsonb, actor) IS 'Edit one prefix; place is its expected network, NULL for any. The changes may include network, type and pool. Writes nothing if no fact changes. Returns false if there is no such prefix.';

CREATE OR REPLACE FUNCTION refuse_moved() RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'prefixes were moved meanwhile' USING ERRCODE = '40001';
END $$;
COMMENT ON FUNCTION refuse_moved() IS 'Raise 40001, so that the call is run again.';

CREATE OR REPLACE FUNCTION prefix_edit_many(ids bigint[], changes jsonb, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    edited refcursor;
BEGIN
    -- Opening a cursor takes half as long as the edit.
    IF cardinality(ids) = 1 THEN
        RETURN prefix_edit(ids[1], NULL, changes, who);
    END IF;
    -- Lock all rows in order first, so that two concurrent edits cannot deadlock; then edit any number of rows with one
    -- statement.
    OPEN edited FOR WITH old AS MATERIALIZED (
        SELECT p AS row FROM prefix p WHERE id = ANY (ids) ORDER BY vrf_id, prefix FOR NO KEY UPDATE
    )
    UPDATE prefix t SET
        status = wanted.status, description = wanted.description, comment = wanted.comment, node = wanted.node,
        country = wanted.country, order_id = wanted.order_id, customer_id = wanted.customer_id,
        external_key = wanted.external_key, alarm_priority = wanted.alarm_priority, monitor = wanted.monitor,
        vlan = wanted.vlan, tags = wanted.tags, avps = wanted.avps, expires = wanted.expires,
        authoritative_source = wanted.authoritative_source, last_modified = now(), version = t.version + 1
    FROM old, LATERAL jsonb_populate_record(old.row, changes) wanted
    WHERE t.id = (old.row).id AND wanted IS DISTINCT FROM old.row
    RETURNING t.id, prefix_facts(old.row),
        CASE WHEN wanted.prefix = t.prefix AND wanted.type = t.type AND wanted.pool_id IS NOT DISTINCT FROM t.pool_id
            AND (t.node IS NOT DISTINCT FROM (old.row).node OR check_node(t.prefix, t.type, t.node))
            AND check_vlan(t.vlan, (old.row).vlan) THEN prefix_facts(t) ELSE refuse_moved() END;
    RETURN record_rows(who, 'prefix', 'edit', edited) > 0;
END $$;
COMMENT ON FUNCTION prefix_edit_many(bigint[], jsonb, actor) IS 'Edit any number of prefixes; the changes keep network, type and pool. Writes nothing where no fact changes. Returns false if there was nothing to edit.';

-- ---------------------------------------------------------------- remove

CREATE OR REPLACE FUNCTION lock_with_parent(target bigint, OUT parent prefix, OUT old_row prefix) LANGUAGE plpgsql AS $$
DECLARE
    above bigint;
    in_vrf int;
BEGIN
    LOOP
        SELECT parent_id, vrf_id INTO above, in_vrf FROM prefix WHERE id = target;
        EXIT WHEN NOT FOUND;
        IF above IS NULL THEN
            PERFORM FROM vrf WHERE id = in_vrf FOR NO KEY UPDATE;
            parent := NULL;
        ELSE
            SELECT * INTO parent FROM prefix WHERE id = above FOR NO KEY UPDATE;
        END IF;
        -- Check before locking the child, else a parent would be locked after its child.
        CONTINUE WHEN NOT EXISTS (SELECT FROM prefix q WHERE q.id = target AND q.parent_id IS NOT DISTINCT FROM above);
        SELECT * INTO old_row FROM prefix q WHERE q.id = target AND q.parent_id IS NOT DISTINCT FROM above FOR UPDATE;
        EXIT WHEN FOUND;
    END LOOP;
END $$;
COMMENT ON FUNCTION lock_with_parent(bigint) IS 'Lock a prefix after the prefix or VRF above it. old_row is NULL if there is no such prefix.';

CREATE OR REPLACE FUNCTION lock_inside(in_vrf int, network cidr) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    before bigint;
    locked bigint := -1;
BEGIN
    -- The holder of a lock may have added prefixes below the locked row: repeat until no new rows appear. Then all
    -- owners are locked and no more prefixes can be added.
    LOOP
        before := locked;
        SELECT count(*) INTO locked FROM (
            SELECT FROM prefix WHERE vrf_id = in_vrf AND prefix > network AND prefix <= addr_last(network) ORDER BY vrf_id, prefix FOR UPDATE) q;
        EXIT WHEN locked = before OR locked = 0;
    END LOOP;
END $$;
COMMENT ON FUNCTION lock_inside(int, cidr) IS 'Lock all prefixes inside a network. The caller has locked the network itself, or the VRF.';

CREATE OR REPLACE FUNCTION delete_inside(in_vrf int, network cidr, who actor) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    inside refcursor;
    removed bigint;
BEGIN
    OPEN inside FOR SELECT id, prefix_facts(p), NULL::jsonb FROM prefix p
    WHERE vrf_id = in_vrf AND prefix > network AND prefix <= addr_last(network) ORDER BY vrf_id, prefix;
    removed := record_rows(who, 'prefix', 'remove', inside);
    WITH gone AS (
        DELETE FROM prefix WHERE vrf_id = in_vrf AND prefix > network AND prefix <= addr_last(network) RETURNING id
    ), ranges AS (
        DELETE FROM free_range USING gone WHERE owner = gone.id
    )
    DELETE FROM prefix_words USING gone WHERE prefix_id = gone.id;
    RETURN removed;
END $$;
COMMENT ON FUNCTION delete_inside(int, cidr, actor) IS 'Delete all prefixes inside a network and their free ranges, with an audit entry each; returns their number. The caller updates the counters of the network and the VRF.';

CREATE OR REPLACE FUNCTION prefix_remove(target bigint, place cidr, recursive boolean, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    parent prefix;
    old_row prefix;
    given adopted := ROW (0, 0, 0);
    locked record;
BEGIN
    SELECT * INTO locked FROM lock_with_parent(target);
    parent := locked.parent;
    old_row := locked.old_row;
    IF old_row.id IS NULL THEN
        RETURN false;
    ELSIF old_row.prefix <> place THEN -- never true without a place
        RAISE EXCEPTION '% was moved', place USING ERRCODE = '40001';
    ELSIF NOT recursive AND old_row.type = 'assignment' AND old_row.children > 0 THEN
        RAISE EXCEPTION 'Prohibited delete, prefix (%) contains hosts.', old_row.prefix USING ERRCODE = 'NP200';
    END IF;
    IF recursive AND old_row.children > 0 THEN
        PERFORM lock_inside(old_row.vrf_id, old_row.prefix);
        done := add_to_totals(old_row.vrf_id, family(old_row.prefix), - delete_inside(old_row.vrf_id, old_row.prefix, who), 0, 0);
        DELETE FROM free_range WHERE owner = target;
    ELSIF old_row.children > 0 THEN
        given := adopt(target, old_row.vrf_id, old_row.prefix, parent.id);
    END IF;
    PERFORM detach(parent, old_row, given);
    DELETE FROM prefix WHERE id = target;
    DELETE FROM prefix_words WHERE prefix_id = target;
    done := record_change(who, 'prefix', 'remove', target, prefix_facts(old_row), NULL);
    RETURN true;
END $$;
COMMENT ON FUNCTION prefix_remove(bigint, cidr, boolean, actor) IS 'Remove a prefix; place is its expected network, NULL for any. Its children move up; recursive: they are removed too. Returns false if there is no such prefix.';

CREATE OR REPLACE FUNCTION prefix_remove_one(target bigint, recursive boolean, who actor) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT prefix_remove(target, NULL, recursive, who) THEN
        RAISE EXCEPTION 'No prefix with id % found.', target USING ERRCODE = 'NP300';
    END IF;
    RETURN current_setting('nipap.change_set', true);
END $$;
COMMENT ON FUNCTION prefix_remove_one(bigint, boolean, actor) IS 'Remove the prefix with an id. Returns call and change set in the form of nipap.change_set. An error if there is no such prefix.';

CREATE OR REPLACE FUNCTION vrf_remove(in_vrf int, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    vrf_values jsonb;
    space cidr;
    top bigint;
    facts jsonb;
BEGIN
    SELECT vrf_facts(t) INTO vrf_values FROM vrf t WHERE id = in_vrf FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- A stored 0.0.0.0/0 is not inside itself: remove it by its own name, first in its family.
    FOREACH space IN ARRAY ARRAY[cidr '0.0.0.0/0', cidr '::/0'] LOOP
        PERFORM FROM prefix WHERE vrf_id = in_vrf AND prefix = space FOR UPDATE;
        PERFORM lock_inside(in_vrf, space);
        PERFORM delete_inside(in_vrf, space, who);
        DELETE FROM prefix p WHERE vrf_id = in_vrf AND prefix = space RETURNING p.id, prefix_facts(p) INTO top, facts;
        IF FOUND THEN
            DELETE FROM free_range WHERE owner = top;
            DELETE FROM prefix_words WHERE prefix_id = top;
            done := record_change(who, 'prefix', 'remove', top, facts, NULL);
        END IF;
    END LOOP;
    DELETE FROM free_range WHERE owner IN (-1 - 2 * in_vrf::bigint, -2 - 2 * in_vrf::bigint);
    DELETE FROM vrf WHERE id = in_vrf;
    done := record_change(who, 'vrf', 'remove', in_vrf, vrf_values, NULL);
    RETURN true;
END $$;
COMMENT ON FUNCTION vrf_remove(int, actor) IS 'Remove a VRF with all its prefixes. Returns false if there is no such VRF.';

-- ---------------------------------------------------------------- pools

CREATE OR REPLACE FUNCTION pool_facts(stored pool) RETURNS jsonb LANGUAGE sql STABLE
RETURN jsonb_strip_nulls(to_jsonb(stored) - 'version');
COMMENT ON FUNCTION pool_facts(pool) IS 'The stored facts of a pool, without version and nulls.';

CREATE OR REPLACE FUNCTION lock_pool_members(target int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    members bigint[];
    facts jsonb;
BEGIN
    -- Lock the members first and the pool last, in the order of all changes. A member that was added meanwhile is not
    -- locked: start over.
    members := ARRAY(SELECT id FROM prefix WHERE pool_id = target ORDER BY vrf_id, prefix FOR NO KEY UPDATE);
    SELECT pool_facts(t) INTO facts FROM pool t WHERE id = target FOR NO KEY UPDATE;
    IF EXISTS (SELECT FROM prefix WHERE pool_id = target AND NOT id = ANY (members)) THEN
        RAISE EXCEPTION 'pool % got new members', target USING ERRCODE = '40001';
    END IF;
    RETURN facts;
END $$;
COMMENT ON FUNCTION lock_pool_members(int) IS 'Lock a pool and its members; returns the stored facts of the pool, NULL if there is no such pool.';

CREATE OR REPLACE FUNCTION check_defaults(new_row pool, old_row pool) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF new_row.default_type IS DISTINCT FROM 'host' OR (new_row.default_type, new_row.ipv4_default_prefix_length, new_row.ipv6_default_prefix_length)
        IS NOT DISTINCT FROM (old_row.default_type, old_row.ipv4_default_prefix_length, old_row.ipv6_default_prefix_length) THEN
        RETURN;
    ELSIF new_row.ipv4_default_prefix_length <> 32 THEN
        RAISE EXCEPTION 'A pool of default type host cannot have default IPv4 prefix length %, hosts have 32', new_row.ipv4_default_prefix_length
            USING ERRCODE = 'NP200', COLUMN = 'ipv4_default_prefix_length';
    ELSIF new_row.ipv6_default_prefix_length <> 128 THEN
        RAISE EXCEPTION 'A pool of default type host cannot have default IPv6 prefix length %, hosts have 128', new_row.ipv6_default_prefix_length
            USING ERRCODE = 'NP200', COLUMN = 'ipv6_default_prefix_length';
    END IF;
END $$;
COMMENT ON FUNCTION check_defaults(pool, pool) IS 'Refuse new defaults of a pool with which no allocation can succeed. Unchanged defaults are accepted.';

CREATE OR REPLACE FUNCTION pool_edit(target int, changes jsonb, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    facts jsonb := lock_pool_members(target);
    old_row pool;
    new_row pool;
BEGIN
    SELECT * INTO old_row FROM pool WHERE id = target;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    new_row := jsonb_populate_record(old_row, changes);
    IF new_row IS NOT DISTINCT FROM old_row THEN
        RETURN true;
    END IF;
    PERFORM check_defaults(new_row, old_row);
    UPDATE pool SET
        name = new_row.name, description = new_row.description, default_type = new_row.default_type, tags = new_row.tags, avps = new_row.avps,
        ipv4_default_prefix_length = new_row.ipv4_default_prefix_length, ipv6_default_prefix_length = new_row.ipv6_default_prefix_length,
        version = old_row.version + 1
    WHERE id = target;
    IF (new_row.ipv4_default_prefix_length, new_row.ipv6_default_prefix_length) IS DISTINCT FROM (old_row.ipv4_default_prefix_length, old_row.ipv6_default_prefix_length) THEN
        UPDATE prefix p SET free_blocks = free_blocks_of(p, default_length(target, p.prefix)) WHERE pool_id = target;
    END IF;
    done := record_change(who, 'pool', 'edit', target, facts, pool_facts(new_row));
    RETURN true;
END $$;
COMMENT ON FUNCTION pool_edit(int, jsonb, actor) IS 'Edit a pool; a new default length recounts the free blocks of its members. Writes nothing if no fact changes. Returns false if there is no such pool.';

CREATE OR REPLACE FUNCTION pool_remove(target int, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    facts jsonb := lock_pool_members(target);
    members refcursor;
BEGIN
    IF facts IS NULL THEN
        RETURN false;
    END IF;
    OPEN members FOR WITH old AS MATERIALIZED (
        SELECT p AS row FROM prefix p WHERE pool_id = target
    )
    UPDATE prefix t SET pool_id = NULL, free_blocks = NULL, last_modified = now(), version = t.version + 1 FROM old WHERE t.id = (old.row).id
    RETURNING t.id, prefix_facts(old.row), prefix_facts(t);
    PERFORM record_rows(who, 'prefix', 'edit', members);
    DELETE FROM pool WHERE id = target;
    done := record_change(who, 'pool', 'remove', target, facts, NULL);
    RETURN true;
END $$;
COMMENT ON FUNCTION pool_remove(int, actor) IS 'Remove a pool; its members stay, without a pool. Returns false if there is no such pool.';
