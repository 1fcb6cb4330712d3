-- Allocation: the lowest free block of a source, added in the same locked section.

CREATE OR REPLACE FUNCTION lock_source(in_vrf int, source cidr) RETURNS prefix LANGUAGE plpgsql AS $$
DECLARE
    owner_row prefix;
BEGIN
    LOOP
        SELECT * INTO owner_row FROM prefix WHERE vrf_id = in_vrf AND prefix = source FOR NO KEY UPDATE;
        IF NOT FOUND THEN
            owner_row := lock_owner(in_vrf, source);
            -- The source may have been added before the prefix above it was locked.
            CONTINUE WHEN EXISTS (SELECT FROM prefix WHERE vrf_id = in_vrf AND prefix = source);
        END IF;
        RETURN owner_row;
    END LOOP;
END $$;
COMMENT ON FUNCTION lock_source(int, cidr) IS 'Lock and return the prefix that will be the parent of blocks from a source: the source if it is stored, else the closest prefix around it. At the top level lock the VRF and return NULL.';

CREATE OR REPLACE FUNCTION prefix_allocate(in_vrf int, from_pool int, sources cidr[], length int, facts jsonb, who actor) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    source cidr;
    block cidr;
    owner_row prefix;
BEGIN
    FOREACH source IN ARRAY sources LOOP
        -- Probe several sources without a lock first, else two clients that name the sources in opposite order
        -- deadlock.
        CONTINUE WHEN cardinality(sources) > 1 AND probe_source(source_owner(in_vrf, source), in_vrf, source, length, NULL) IS NULL;
        owner_row := lock_source(in_vrf, source);
        IF from_pool IS NOT NULL AND (owner_row.prefix IS DISTINCT FROM source OR owner_row.pool_id IS DISTINCT FROM from_pool) THEN
            -- The source has moved or has left the pool. There may be room where it is now, so run the call again.
            RAISE EXCEPTION 'the members of pool % have changed', from_pool USING ERRCODE = '40001';
        END IF;
        block := probe_source(owner_row, in_vrf, source, length, NULL);
        IF block IS NOT NULL THEN
            RETURN insert_under(owner_row, in_vrf, block, facts, who);
        END IF;
    END LOOP;
    IF from_pool IS NOT NULL AND sources IS DISTINCT FROM
       ARRAY(SELECT prefix FROM prefix WHERE pool_id = from_pool AND family(prefix) = family(sources[1]) ORDER BY vrf_id, prefix) THEN
        RAISE EXCEPTION 'the members of pool % have changed', from_pool USING ERRCODE = '40001';
    END IF;
    RAISE EXCEPTION 'no free prefix found' USING ERRCODE = 'NP300';
END $$;
COMMENT ON FUNCTION prefix_allocate(int, int, cidr[], int, jsonb, actor) IS 'Add the lowest free block of a length in the first source with such a block; returns its id. from_pool: the pool that all sources must still be members of.';

-- Look up everything that an allocation from a pool needs in one call: a round trip costs more than the look-up.
CREATE OR REPLACE FUNCTION pool_sources(
    by_id int, by_name text, address_family int, INOUT in_vrf int, INOUT length int, OUT pool_id int, OUT default_type text, OUT networks cidr[]
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    chosen pool;
    implied int;
BEGIN
    IF by_name IS NULL THEN
        SELECT * INTO chosen FROM pool WHERE id = by_id;
    ELSE
        SELECT * INTO chosen FROM pool WHERE lower(name) = lower(by_name) AND name = by_name;
    END IF;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    pool_id := chosen.id;
    default_type := chosen.default_type;
    SELECT min(m.vrf_id), array_agg(m.prefix ORDER BY m.prefix) FILTER (WHERE family(m.prefix) = address_family) INTO implied, networks
    FROM prefix m WHERE m.pool_id = chosen.id;
    IF implied IS NULL THEN
        RAISE EXCEPTION 'No prefixes in pool' USING ERRCODE = 'NP100';
    ELSIF networks IS NULL THEN
        RAISE EXCEPTION 'No prefixes of family % in pool', address_family USING ERRCODE = 'NP100', COLUMN = 'family';
    ELSIF in_vrf <> implied THEN
        RAISE EXCEPTION 'VRF must be the same as the pools implied VRF' USING ERRCODE = 'NP100', COLUMN = 'vrf_id';
    END IF;
    in_vrf := implied;
    length := coalesce(length, CASE address_family WHEN 4 THEN chosen.ipv4_default_prefix_length ELSE chosen.ipv6_default_prefix_length END);
    IF length IS NULL THEN
        RAISE EXCEPTION '''prefix_length'' must be specified, the pool has no default prefix length for IPv%', address_family USING ERRCODE = 'NP110', COLUMN = 'prefix_length';
    END IF;
END $$;
COMMENT ON FUNCTION pool_sources(int, text, int, int, int) IS 'The sources of allocations from a pool, found by id or name: its VRF, its default type and its members of a family. A given in_vrf must be that VRF. length is the given one or the default of the pool. pool_id is NULL if there is no such pool.';

CREATE OR REPLACE FUNCTION pool_find_free(by_id int, by_name text, address_family int, length int, wanted int) RETURNS SETOF cidr LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
DECLARE
    chosen record;
BEGIN
    chosen := pool_sources(by_id, by_name, address_family, NULL, length);
    IF chosen.pool_id IS NULL THEN
        RAISE EXCEPTION 'Non-existent pool specified' USING ERRCODE = 'NP300';
    END IF;
    RETURN QUERY SELECT * FROM find_free(chosen.in_vrf, chosen.networks, chosen.length, wanted);
END $$;
COMMENT ON FUNCTION pool_find_free(int, text, int, int, int) IS 'The lowest free blocks of a pool, at most as many as wanted.';

CREATE OR REPLACE FUNCTION pool_allocate(by_id int, by_name text, address_family int, in_vrf int, length int, facts jsonb, who actor) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    chosen record;
BEGIN
    chosen := pool_sources(by_id, by_name, address_family, in_vrf, length);
    IF chosen.pool_id IS NULL THEN
        RAISE EXCEPTION 'non-existing pool specified' USING ERRCODE = 'NP100';
    END IF;
    IF chosen.default_type IS NULL AND facts ->> 'type' IS NULL THEN
        RAISE EXCEPTION 'Unknown prefix type' USING ERRCODE = 'NP200', COLUMN = 'type';
    END IF;
    RETURN prefix_allocate(chosen.in_vrf, chosen.pool_id, chosen.networks, chosen.length, jsonb_build_object('type', chosen.default_type) || facts, who);
END $$;
COMMENT ON FUNCTION pool_allocate(int, text, int, int, int, jsonb, actor) IS 'Add the lowest free block of a pool; returns its id. Its type is that of the facts, else the default type of the pool. An error if both are missing.';
