-- The tree of prefixes: closest parents, free space, and the moves of children, ranges and counters when a prefix is
-- attached to its parent or detached from it.
--
-- Functions that change rows expect the caller to hold the locks, taken in this order (reasons: docs/architecture.md):
-- the row of the VRF for changes at the top level, prefixes in (vrf_id, prefix) order, pools by id; vrf_total comes
-- last of all. Locks are FOR NO KEY UPDATE throughout: FOR UPDATE would block the foreign-key checks below them.

CREATE OR REPLACE FUNCTION closest_parent(in_vrf int, network cidr) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    candidate_id bigint;
    candidate cidr;
    above bigint;
BEGIN
    -- A prefix that covers the network also covers the predecessor of the network in index order, or is that
    -- predecessor. So take one step in the index, then walk up from there.
    SELECT id, prefix, parent_id INTO candidate_id, candidate, above FROM prefix
    WHERE vrf_id = in_vrf AND prefix < network ORDER BY vrf_id DESC, prefix DESC LIMIT 1;
    WHILE candidate_id IS NOT NULL AND NOT candidate >> network LOOP
        SELECT id, prefix, parent_id INTO candidate_id, candidate, above FROM prefix WHERE id = above;
    END LOOP;
    RETURN candidate_id;
END $$;
COMMENT ON FUNCTION closest_parent(int, cidr) IS 'Id of the longest stored prefix that covers a network, the network itself not counted; NULL at the top level.';

CREATE OR REPLACE FUNCTION range_owner(parent prefix, in_vrf int, address inet) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce((parent).id, -1 - 2 * in_vrf::bigint - CASE family(address) WHEN 4 THEN 0 ELSE 1 END);
COMMENT ON FUNCTION range_owner(prefix, int, inet) IS 'Owner of the free ranges directly inside parent or, when parent is NULL, inside the address space of a VRF in the family of the address.';

CREATE OR REPLACE FUNCTION whole_space(parent prefix, address inet) RETURNS cidr LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce((parent).prefix, CASE family(address) WHEN 4 THEN cidr '0.0.0.0/0' ELSE cidr '::/0' END);
COMMENT ON FUNCTION whole_space(prefix, inet) IS 'The network of parent or, when parent is NULL, the whole address space in the family of the address.';

-- ---------------------------------------------------------------- searches for free space

CREATE OR REPLACE FUNCTION lowest_free(owner_id bigint, leaf boolean, lowest inet, highest inet, length int) RETURNS cidr LANGUAGE plpgsql STABLE AS $$
DECLARE
    range_first inet;
    range_last inet;
    after inet;
    best_first inet;
    best_last inet;
    probed_fit int := -1;
BEGIN
    IF leaf THEN
        RETURN first_block(lowest, highest, length);
    END IF;
    -- The range at the lower edge may begin before lowest: cut the range. No other range lies lower, so a block that
    -- fits here is the answer.
    SELECT first_address, last_address INTO range_first, range_last FROM free_range
    WHERE owner = owner_id AND last_address >= lowest ORDER BY last_address LIMIT 1;
    IF NOT FOUND OR range_first > highest THEN
        RETURN NULL;
    END IF;
    best_first := first_block(greatest(range_first, lowest), least(range_last, highest), length);
    IF best_first IS NOT NULL OR range_last >= highest THEN
        RETURN best_first;
    END IF;
    -- Ranges wholly inside: probe once for each distinct fit that exists. Ranges that are too small are never visited.
    after := range_last;
    LOOP
        SELECT fit INTO probed_fit FROM free_range WHERE owner = owner_id AND fit > probed_fit AND fit <= length ORDER BY owner, fit LIMIT 1;
        EXIT WHEN NOT FOUND;
        SELECT first_address, last_address INTO range_first, range_last FROM free_range
        WHERE owner = owner_id AND fit = probed_fit AND last_address > after AND last_address <= highest ORDER BY last_address LIMIT 1;
        IF FOUND AND (best_last IS NULL OR range_last < best_last) THEN
            best_first := range_first;
            best_last := range_last;
        END IF;
    END LOOP;
    IF best_last IS NOT NULL THEN
        RETURN first_block(best_first, best_last, length);
    END IF;
    -- The range at the upper edge may end after highest.
    SELECT first_address, last_address INTO range_first, range_last FROM free_range
    WHERE owner = owner_id AND last_address > highest ORDER BY last_address LIMIT 1;
    RETURN CASE WHEN FOUND AND range_first <= highest THEN first_block(greatest(range_first, lowest), highest, length) END;
END $$;
COMMENT ON FUNCTION lowest_free(bigint, boolean, inet, inet, int) IS 'Lowest free block of a length within lowest..highest directly inside an owner; leaf: the owner has no children and so no rows.';

CREATE OR REPLACE FUNCTION source_owner(in_vrf int, source cidr) RETURNS prefix LANGUAGE plpgsql STABLE AS $$
DECLARE
    owner_row prefix;
BEGIN
    SELECT * INTO owner_row FROM prefix WHERE vrf_id = in_vrf AND prefix = source;
    IF NOT FOUND THEN
        SELECT * INTO owner_row FROM prefix WHERE id = closest_parent(in_vrf, source);
    END IF;
    RETURN owner_row;
END $$;
COMMENT ON FUNCTION source_owner(int, cidr) IS 'The stored prefix that owns the free ranges of a source of allocations: the source itself or its closest parent; NULL at the top level.';

CREATE OR REPLACE FUNCTION probe_source(owner_row prefix, in_vrf int, source cidr, length int, after inet) RETURNS cidr LANGUAGE plpgsql STABLE AS $$
DECLARE
    lowest inet := addr_first(source);
    highest inet := addr_last(source);
BEGIN
    -- A stored source is not free itself: its blocks are longer than the source.
    IF length <= masklen(source) AND (owner_row.prefix = source OR length < masklen(source)) THEN
        RETURN NULL;
    END IF;
    -- The all-zeros and all-ones addresses of a source are not allocated.
    IF length = full_length(source) AND masklen(source) < length - 1 THEN
        lowest := lowest + 1;
        highest := highest - 1;
    END IF;
    IF after >= highest THEN
        RETURN NULL;
    ELSIF after >= lowest THEN
        lowest := after + 1;
    END IF;
    RETURN lowest_free(range_owner(owner_row, in_vrf, source), coalesce(owner_row.children = 0, false), lowest, highest, length);
END $$;
COMMENT ON FUNCTION probe_source(prefix, int, cidr, int, inet) IS 'Lowest free block of a length in a source, after an address if one is given. owner_row is the result of source_owner. Takes no lock.';

-- Disable scans of whole tables, as for every change (nipap/postgres/transaction.py): PostgreSQL keeps the plans of the
-- functions that find_free calls.
CREATE OR REPLACE FUNCTION find_free(in_vrf int, sources cidr[], length int, wanted int) RETURNS SETOF cidr LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
DECLARE
    source cidr;
    owner_row prefix;
    block cidr;
    found_blocks cidr[] := '{}';
BEGIN
    FOREACH source IN ARRAY sources LOOP
        owner_row := source_owner(in_vrf, source);
        block := NULL;
        WHILE cardinality(found_blocks) < wanted LOOP
            block := probe_source(owner_row, in_vrf, source, length, addr_last(block));
            EXIT WHEN block IS NULL;
            -- Sources may overlap: return each block once.
            IF NOT block = ANY (found_blocks) THEN
                found_blocks := found_blocks || block;
                RETURN NEXT block;
            END IF;
        END LOOP;
    END LOOP;
END $$;
COMMENT ON FUNCTION find_free(int, cidr[], int, int) IS 'The lowest free blocks of a length, source by source in the order given, at most as many as wanted.';

-- ---------------------------------------------------------------- upkeep of free ranges

CREATE OR REPLACE FUNCTION free_blocks_of(parent prefix, length int) RETURNS numeric LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF length IS NULL THEN
        RETURN NULL;
    ELSIF parent.children > 0 THEN
        RETURN (SELECT coalesce(sum(count_blocks(first_address, last_address, length)), 0) FROM free_range WHERE owner = parent.id);
    ELSIF masklen(parent.prefix) = full_length(parent.prefix) THEN
        RETURN 0;
    END IF;
    RETURN count_blocks(addr_first(parent.prefix), addr_last(parent.prefix), length);
END $$;
COMMENT ON FUNCTION free_blocks_of(prefix, int) IS 'Free blocks of a length in a prefix, counted from its free ranges. A full-length prefix has none.';

CREATE OR REPLACE FUNCTION take_range(owner_id bigint, leaf_space cidr, network cidr, length int) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    range_first inet := addr_first(leaf_space);
    range_last inet := addr_last(leaf_space);
    network_first inet := addr_first(network);
    network_last inet := addr_last(network);
    delta numeric;
BEGIN
    IF leaf_space IS NULL THEN
        SELECT first_address, last_address INTO range_first, range_last FROM free_range
        WHERE owner = owner_id AND last_address >= network_last ORDER BY last_address LIMIT 1;
        IF NOT FOUND OR range_first > network_first THEN
            RAISE EXCEPTION 'free ranges of % do not hold %', owner_id, network USING ERRCODE = 'NP000';
        ELSIF network_last < range_last THEN
            UPDATE free_range SET first_address = network_last + 1, fit = range_fit(network_last + 1, range_last) WHERE owner = owner_id AND last_address = range_last;
        ELSE
            DELETE FROM free_range WHERE owner = owner_id AND last_address = range_last;
        END IF;
    ELSIF network_last < range_last THEN
        INSERT INTO free_range VALUES (owner_id, network_last + 1, range_last, range_fit(network_last + 1, range_last));
    END IF;
    IF range_first < network_first THEN
        INSERT INTO free_range VALUES (owner_id, range_first, network_first - 1, range_fit(range_first, network_first - 1));
    END IF;
    IF length IS NOT NULL THEN
        delta := - count_blocks(range_first, range_last, length);
        IF network_last < range_last THEN delta := delta + count_blocks(network_last + 1, range_last, length); END IF;
        IF range_first < network_first THEN delta := delta + count_blocks(range_first, network_first - 1, length); END IF;
    END IF;
    RETURN delta;
END $$;
COMMENT ON FUNCTION take_range(bigint, cidr, cidr, int) IS 'Take a network out of the free ranges of an owner; leaf_space: the whole network of the owner when it had no rows yet. Returns the change of its free blocks.';

CREATE OR REPLACE FUNCTION give_range(owner_id bigint, space cidr, network cidr, length int) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    range_first inet := addr_first(network);
    range_last inet := addr_last(network);
    left_first inet;
    right_first inet;
    right_last inet;
    delta numeric := 0;
BEGIN
    IF range_first > addr_first(space) THEN
        DELETE FROM free_range WHERE owner = owner_id AND last_address = range_first - 1 RETURNING first_address INTO left_first;
    END IF;
    IF range_last < addr_last(space) THEN
        SELECT first_address, last_address INTO right_first, right_last FROM free_range
        WHERE owner = owner_id AND last_address > range_last ORDER BY last_address LIMIT 1;
    END IF;
    IF length IS NOT NULL AND left_first IS NOT NULL THEN
        delta := delta - count_blocks(left_first, range_first - 1, length);
    END IF;
    range_first := coalesce(left_first, range_first);
    -- Not range_last + 1: there is no address after the last one.
    IF right_first - 1 = range_last THEN
        IF length IS NOT NULL THEN delta := delta - count_blocks(right_first, right_last, length); END IF;
        range_last := right_last;
        UPDATE free_range SET first_address = range_first, fit = range_fit(range_first, range_last) WHERE owner = owner_id AND last_address = range_last;
    ELSE
        INSERT INTO free_range VALUES (owner_id, range_first, range_last, range_fit(range_first, range_last));
    END IF;
    RETURN CASE WHEN length IS NOT NULL THEN delta + count_blocks(range_first, range_last, length) END;
END $$;
COMMENT ON FUNCTION give_range(bigint, cidr, cidr, int) IS 'Give a network back to the free ranges of an owner that keeps other children, merging neighbours. Returns the change of its free blocks.';

CREATE OR REPLACE FUNCTION move_ranges_down(owner_id bigint, to_owner bigint, network cidr, length int) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    network_first inet := addr_first(network);
    network_last inet := addr_last(network);
    range_first inet;
    range_last inet;
    delta numeric := 0;
BEGIN
    -- Cut the ranges at the two edges of the network; the outer pieces stay. One range lies at both edges only when the
    -- network holds no child, and then this function is not called.
    SELECT first_address, last_address INTO range_first, range_last FROM free_range
    WHERE owner = owner_id AND last_address >= network_first ORDER BY last_address LIMIT 1;
    IF range_first < network_first THEN
        UPDATE free_range SET last_address = network_first - 1, fit = range_fit(range_first, network_first - 1) WHERE owner = owner_id AND last_address = range_last;
        INSERT INTO free_range VALUES (owner_id, network_first, range_last, range_fit(network_first, range_last));
        delta := delta + coalesce(count_blocks(range_first, network_first - 1, length) + count_blocks(network_first, range_last, length) - count_blocks(range_first, range_last, length), 0);
    END IF;
    SELECT first_address, last_address INTO range_first, range_last FROM free_range
    WHERE owner = owner_id AND last_address > network_last ORDER BY last_address LIMIT 1;
    IF range_first <= network_last THEN
        UPDATE free_range SET first_address = network_last + 1, fit = range_fit(network_last + 1, range_last) WHERE owner = owner_id AND last_address = range_last;
        INSERT INTO free_range VALUES (owner_id, range_first, network_last, range_fit(range_first, network_last));
        delta := delta + coalesce(count_blocks(network_last + 1, range_last, length) + count_blocks(range_first, network_last, length) - count_blocks(range_first, range_last, length), 0);
    END IF;
    WITH moved AS (
        UPDATE free_range SET owner = to_owner WHERE owner = owner_id AND last_address BETWEEN network_first AND network_last
        RETURNING first_address, last_address)
    SELECT delta - coalesce(sum(count_blocks(first_address, last_address, length)), 0) INTO delta FROM moved;
    RETURN CASE WHEN length IS NOT NULL THEN delta END;
END $$;
COMMENT ON FUNCTION move_ranges_down(bigint, bigint, cidr, int) IS 'Hand the free ranges inside a network from an owner to the prefix of that network, which now covers some of its children. Returns the change of the old owner''s free blocks.';

CREATE OR REPLACE FUNCTION move_ranges_up(owner_id bigint, to_owner bigint, space cidr, network cidr, length int) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    network_first inet := addr_first(network);
    network_last inet := addr_last(network);
    upper_end inet := network_last;
    range_first inet;
    range_last inet;
    edge inet;
    delta numeric := 0;
BEGIN
    -- Where free space touches an edge of the network from both sides, merge the two ranges.
    SELECT first_address, last_address INTO range_first, range_last FROM free_range WHERE owner = owner_id ORDER BY last_address LIMIT 1;
    IF range_first = network_first AND network_first > addr_first(space) THEN
        DELETE FROM free_range WHERE owner = to_owner AND last_address = network_first - 1 RETURNING first_address INTO edge;
        IF FOUND THEN
            delta := delta - coalesce(count_blocks(edge, network_first - 1, length), 0);
            UPDATE free_range SET first_address = edge, fit = range_fit(edge, range_last) WHERE owner = owner_id AND last_address = range_last;
        END IF;
    END IF;
    SELECT first_address INTO range_first FROM free_range WHERE owner = owner_id AND last_address = network_last;
    IF FOUND AND network_last < addr_last(space) THEN
        SELECT first_address, last_address INTO edge, range_last FROM free_range
        WHERE owner = to_owner AND last_address > network_last ORDER BY last_address LIMIT 1;
        IF edge = network_last + 1 THEN
            delta := delta - coalesce(count_blocks(edge, range_last, length), 0);
            DELETE FROM free_range WHERE owner = owner_id AND last_address = network_last;
            UPDATE free_range SET first_address = range_first, fit = range_fit(range_first, range_last) WHERE owner = to_owner AND last_address = range_last;
            upper_end := range_last;
        END IF;
    END IF;
    UPDATE free_range SET owner = to_owner WHERE owner = owner_id;
    IF length IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN delta + (SELECT coalesce(sum(count_blocks(first_address, last_address, length)), 0) FROM free_range
                    WHERE owner = to_owner AND last_address BETWEEN network_first AND upper_end);
END $$;
COMMENT ON FUNCTION move_ranges_up(bigint, bigint, cidr, cidr, int) IS 'Hand all free ranges of the prefix of a network, which has children, to the prefix around it. Returns the change of the new owner''s free blocks.';
