-- The tree of prefixes: who is above, what is free, and how children, ranges and counters move when a prefix is
-- attached to or detached from its parent.
--
-- Everything here that changes rows expects the caller to hold the locks, in this order (DESIGN of the lock order:
-- docs/architecture.md): the VRF's row for changes at the top level, prefixes in (vrf_id, prefix) order, pools by id;
-- vrf_total comes last of all. FOR NO KEY UPDATE throughout: FOR UPDATE would block the foreign-key checks beneath.

CREATE OR REPLACE FUNCTION closest_parent(v int, x cidr) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    i bigint;
    candidate cidr;
    above bigint;
BEGIN
    -- Whatever covers x covers its predecessor in index order too, or is it: one step in the index, then up from there.
    SELECT id, prefix, parent_id INTO i, candidate, above FROM prefix
    WHERE vrf_id = v AND prefix < x ORDER BY vrf_id DESC, prefix DESC LIMIT 1;
    WHILE i IS NOT NULL AND NOT candidate >> x LOOP
        SELECT id, prefix, parent_id INTO i, candidate, above FROM prefix WHERE id = above;
    END LOOP;
    RETURN i;
END $$;
COMMENT ON FUNCTION closest_parent(int, cidr) IS 'Id of the longest stored prefix that covers x, x itself not counted; NULL at the top level.';

CREATE OR REPLACE FUNCTION range_owner(p prefix, v int, x inet) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce((p).id, -1 - 2 * v::bigint - CASE family(x) WHEN 4 THEN 0 ELSE 1 END);
COMMENT ON FUNCTION range_owner(prefix, int, inet) IS 'Owner of the free ranges directly inside p or, when p is NULL, inside the address space of a VRF in the family of x.';

CREATE OR REPLACE FUNCTION whole_space(p prefix, x inet) RETURNS cidr LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce((p).prefix, CASE family(x) WHEN 4 THEN cidr '0.0.0.0/0' ELSE cidr '::/0' END);
COMMENT ON FUNCTION whole_space(prefix, inet) IS 'The network of p or, when p is NULL, the whole address space in the family of x.';

-- ---------------------------------------------------------------- looking for free space

CREATE OR REPLACE FUNCTION lowest_free(o bigint, leaf boolean, lo inet, hi inet, len int) RETURNS cidr LANGUAGE plpgsql STABLE AS $$
DECLARE
    a inet;
    z inet;
    after inet;
    best_a inet;
    best_z inet;
    f int := -1;
BEGIN
    IF leaf THEN
        RETURN first_block(lo, hi, len);
    END IF;
    -- The range at the lower edge may begin before lo: cut it. Nothing lies lower, so when the block fits here, done.
    SELECT first_address, last_address INTO a, z FROM free_range
    WHERE owner = o AND last_address >= lo ORDER BY last_address LIMIT 1;
    IF NOT FOUND OR a > hi THEN
        RETURN NULL;
    END IF;
    best_a := first_block(greatest(a, lo), least(z, hi), len);
    IF best_a IS NOT NULL OR z >= hi THEN
        RETURN best_a;
    END IF;
    -- Ranges wholly inside: one probe for each distinct fit that exists, fits too small are never visited.
    after := z;
    LOOP
        SELECT fit INTO f FROM free_range WHERE owner = o AND fit > f AND fit <= len ORDER BY owner, fit LIMIT 1;
        EXIT WHEN NOT FOUND;
        SELECT first_address, last_address INTO a, z FROM free_range
        WHERE owner = o AND fit = f AND last_address > after AND last_address <= hi ORDER BY last_address LIMIT 1;
        IF FOUND AND (best_z IS NULL OR z < best_z) THEN
            best_a := a;
            best_z := z;
        END IF;
    END LOOP;
    IF best_z IS NOT NULL THEN
        RETURN first_block(best_a, best_z, len);
    END IF;
    -- The range at the upper edge may end after hi.
    SELECT first_address, last_address INTO a, z FROM free_range
    WHERE owner = o AND last_address > hi ORDER BY last_address LIMIT 1;
    RETURN CASE WHEN FOUND AND a <= hi THEN first_block(greatest(a, lo), hi, len) END;
END $$;
COMMENT ON FUNCTION lowest_free(bigint, boolean, inet, inet, int) IS 'Lowest free block of a length within lo..hi directly inside an owner; leaf: the owner has no children and so no rows.';

CREATE OR REPLACE FUNCTION source_owner(v int, source cidr) RETURNS prefix LANGUAGE plpgsql STABLE AS $$
DECLARE
    p prefix;
BEGIN
    SELECT * INTO p FROM prefix WHERE vrf_id = v AND prefix = source;
    IF NOT FOUND THEN
        SELECT * INTO p FROM prefix WHERE id = closest_parent(v, source);
    END IF;
    RETURN p;
END $$;
COMMENT ON FUNCTION source_owner(int, cidr) IS 'The stored prefix whose free ranges a source to allocate from lies in: itself or its closest parent; NULL at the top level.';

CREATE OR REPLACE FUNCTION probe_source(p prefix, v int, source cidr, len int, after inet) RETURNS cidr LANGUAGE plpgsql STABLE AS $$
DECLARE
    lo inet := addr_first(source);
    hi inet := addr_last(source);
BEGIN
    -- A stored source is not free itself: its blocks are longer than it is.
    IF len <= masklen(source) AND (p.prefix = source OR len < masklen(source)) THEN
        RETURN NULL;
    END IF;
    -- The all-zeros and all-ones addresses of a source are not handed out.
    IF len = full_length(source) AND masklen(source) < len - 1 THEN
        lo := lo + 1;
        hi := hi - 1;
    END IF;
    IF after >= hi THEN
        RETURN NULL;
    ELSIF after >= lo THEN
        lo := after + 1;
    END IF;
    RETURN lowest_free(range_owner(p, v, source), coalesce(p.children = 0, false), lo, hi, len);
END $$;
COMMENT ON FUNCTION probe_source(prefix, int, cidr, int, inet) IS 'Lowest free block of a length in a source whose owner (see source_owner) is p, behind an address when one is given; takes no lock.';

-- Without scans of whole tables, as all changes (nipap/transaction.py): the plans of the functions it calls are kept.
CREATE OR REPLACE FUNCTION find_free(v int, sources cidr[], len int, wanted int) RETURNS SETOF cidr LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
DECLARE
    source cidr;
    p prefix;
    block cidr;
    found_blocks cidr[] := '{}';
BEGIN
    FOREACH source IN ARRAY sources LOOP
        p := source_owner(v, source);
        block := NULL;
        WHILE cardinality(found_blocks) < wanted LOOP
            block := probe_source(p, v, source, len, addr_last(block));
            EXIT WHEN block IS NULL;
            -- Sources may overlap: each block is named once.
            IF NOT block = ANY (found_blocks) THEN
                found_blocks := found_blocks || block;
                RETURN NEXT block;
            END IF;
        END LOOP;
    END LOOP;
END $$;
COMMENT ON FUNCTION find_free(int, cidr[], int, int) IS 'The lowest free blocks of a length, source by source in the order given, at most as many as wanted.';

-- ---------------------------------------------------------------- keeping free ranges

CREATE OR REPLACE FUNCTION free_blocks_of(p prefix, len int) RETURNS numeric LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF len IS NULL THEN
        RETURN NULL;
    ELSIF p.children > 0 THEN
        RETURN (SELECT coalesce(sum(count_blocks(first_address, last_address, len)), 0) FROM free_range WHERE owner = p.id);
    ELSIF masklen(p.prefix) = full_length(p.prefix) THEN
        RETURN 0;
    END IF;
    RETURN count_blocks(addr_first(p.prefix), addr_last(p.prefix), len);
END $$;
COMMENT ON FUNCTION free_blocks_of(prefix, int) IS 'Free blocks of a length in a prefix, counted from its free ranges; a full-length prefix uses itself.';

CREATE OR REPLACE FUNCTION take_range(o bigint, leaf_space cidr, x cidr, len int) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    a inet := addr_first(leaf_space);
    z inet := addr_last(leaf_space);
    x_first inet := addr_first(x);
    x_last inet := addr_last(x);
    delta numeric;
BEGIN
    IF leaf_space IS NULL THEN
        SELECT first_address, last_address INTO a, z FROM free_range
        WHERE owner = o AND last_address >= x_last ORDER BY last_address LIMIT 1;
        IF NOT FOUND OR a > x_first THEN
            RAISE EXCEPTION 'free ranges of % do not hold %', o, x USING ERRCODE = 'NP000';
        ELSIF x_last < z THEN
            UPDATE free_range SET first_address = x_last + 1, fit = range_fit(x_last + 1, z) WHERE owner = o AND last_address = z;
        ELSE
            DELETE FROM free_range WHERE owner = o AND last_address = z;
        END IF;
    ELSIF x_last < z THEN
        INSERT INTO free_range VALUES (o, x_last + 1, z, range_fit(x_last + 1, z));
    END IF;
    IF a < x_first THEN
        INSERT INTO free_range VALUES (o, a, x_first - 1, range_fit(a, x_first - 1));
    END IF;
    IF len IS NOT NULL THEN
        delta := - count_blocks(a, z, len);
        IF x_last < z THEN delta := delta + count_blocks(x_last + 1, z, len); END IF;
        IF a < x_first THEN delta := delta + count_blocks(a, x_first - 1, len); END IF;
    END IF;
    RETURN delta;
END $$;
COMMENT ON FUNCTION take_range(bigint, cidr, cidr, int) IS 'Take block x out of the free ranges of an owner; leaf_space: its whole network when it had no rows yet. Returns the change of its free blocks.';

CREATE OR REPLACE FUNCTION give_range(o bigint, space cidr, x cidr, len int) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    a inet := addr_first(x);
    z inet := addr_last(x);
    left_first inet;
    right_first inet;
    right_last inet;
    delta numeric := 0;
BEGIN
    IF a > addr_first(space) THEN
        DELETE FROM free_range WHERE owner = o AND last_address = a - 1 RETURNING first_address INTO left_first;
    END IF;
    IF z < addr_last(space) THEN
        SELECT first_address, last_address INTO right_first, right_last FROM free_range
        WHERE owner = o AND last_address > z ORDER BY last_address LIMIT 1;
    END IF;
    IF len IS NOT NULL AND left_first IS NOT NULL THEN
        delta := delta - count_blocks(left_first, a - 1, len);
    END IF;
    a := coalesce(left_first, a);
    IF right_first - 1 = z THEN -- not z + 1: after the last address there is none
        IF len IS NOT NULL THEN delta := delta - count_blocks(right_first, right_last, len); END IF;
        z := right_last;
        UPDATE free_range SET first_address = a, fit = range_fit(a, z) WHERE owner = o AND last_address = z;
    ELSE
        INSERT INTO free_range VALUES (o, a, z, range_fit(a, z));
    END IF;
    RETURN CASE WHEN len IS NOT NULL THEN delta + count_blocks(a, z, len) END;
END $$;
COMMENT ON FUNCTION give_range(bigint, cidr, cidr, int) IS 'Give block x back to the free ranges of an owner that keeps other children, merging neighbours. Returns the change of its free blocks.';

CREATE OR REPLACE FUNCTION move_ranges_down(o bigint, to_owner bigint, x cidr, len int) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    x_first inet := addr_first(x);
    x_last inet := addr_last(x);
    a inet;
    z inet;
    delta numeric := 0;
BEGIN
    -- The ranges at the two edges of x are cut, the outer piece stays; the same range may be at both edges only when x
    -- holds no child, and then nobody calls this.
    SELECT first_address, last_address INTO a, z FROM free_range
    WHERE owner = o AND last_address >= x_first ORDER BY last_address LIMIT 1;
    IF a < x_first THEN
        UPDATE free_range SET last_address = x_first - 1, fit = range_fit(a, x_first - 1) WHERE owner = o AND last_address = z;
        INSERT INTO free_range VALUES (o, x_first, z, range_fit(x_first, z));
        delta := delta + coalesce(count_blocks(a, x_first - 1, len) + count_blocks(x_first, z, len) - count_blocks(a, z, len), 0);
    END IF;
    SELECT first_address, last_address INTO a, z FROM free_range
    WHERE owner = o AND last_address > x_last ORDER BY last_address LIMIT 1;
    IF a <= x_last THEN
        UPDATE free_range SET first_address = x_last + 1, fit = range_fit(x_last + 1, z) WHERE owner = o AND last_address = z;
        INSERT INTO free_range VALUES (o, a, x_last, range_fit(a, x_last));
        delta := delta + coalesce(count_blocks(x_last + 1, z, len) + count_blocks(a, x_last, len) - count_blocks(a, z, len), 0);
    END IF;
    WITH moved AS (
        UPDATE free_range SET owner = to_owner WHERE owner = o AND last_address BETWEEN x_first AND x_last
        RETURNING first_address, last_address)
    SELECT delta - coalesce(sum(count_blocks(first_address, last_address, len)), 0) INTO delta FROM moved;
    RETURN CASE WHEN len IS NOT NULL THEN delta END;
END $$;
COMMENT ON FUNCTION move_ranges_down(bigint, bigint, cidr, int) IS 'Hand the free ranges inside x from an owner to x, which now covers some of its children. Returns the change of the old owner''s free blocks.';

CREATE OR REPLACE FUNCTION move_ranges_up(o bigint, to_owner bigint, space cidr, x cidr, len int) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    x_first inet := addr_first(x);
    x_last inet := addr_last(x);
    upper_end inet := x_last;
    a inet;
    z inet;
    edge inet;
    delta numeric := 0;
BEGIN
    -- Where free space reaches the edge of x on both sides, the two ranges become one.
    SELECT first_address, last_address INTO a, z FROM free_range WHERE owner = o ORDER BY last_address LIMIT 1;
    IF a = x_first AND x_first > addr_first(space) THEN
        DELETE FROM free_range WHERE owner = to_owner AND last_address = x_first - 1 RETURNING first_address INTO edge;
        IF FOUND THEN
            delta := delta - coalesce(count_blocks(edge, x_first - 1, len), 0);
            UPDATE free_range SET first_address = edge, fit = range_fit(edge, z) WHERE owner = o AND last_address = z;
        END IF;
    END IF;
    SELECT first_address INTO a FROM free_range WHERE owner = o AND last_address = x_last;
    IF FOUND AND x_last < addr_last(space) THEN
        SELECT first_address, last_address INTO edge, z FROM free_range
        WHERE owner = to_owner AND last_address > x_last ORDER BY last_address LIMIT 1;
        IF edge = x_last + 1 THEN
            delta := delta - coalesce(count_blocks(edge, z, len), 0);
            DELETE FROM free_range WHERE owner = o AND last_address = x_last;
            UPDATE free_range SET first_address = a, fit = range_fit(a, z) WHERE owner = to_owner AND last_address = z;
            upper_end := z;
        END IF;
    END IF;
    UPDATE free_range SET owner = to_owner WHERE owner = o;
    IF len IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN delta + (SELECT coalesce(sum(count_blocks(first_address, last_address, len)), 0) FROM free_range
                    WHERE owner = to_owner AND last_address BETWEEN x_first AND upper_end);
END $$;
COMMENT ON FUNCTION move_ranges_up(bigint, bigint, cidr, cidr, int) IS 'Hand all free ranges of x, which has children, to the prefix around it. Returns the change of the new owner''s free blocks.';
