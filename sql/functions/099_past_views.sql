-- Views of the past with the names of the tables, in a schema of PostgreSQL of their own: a statement that reads the
-- present reads the past when this schema comes first on the search path and nipap.position names a position of
-- change_order. What the tables keep as counters is computed here.

DO $$ BEGIN
    EXECUTE format('CREATE SCHEMA %1$I; GRANT USAGE ON SCHEMA %1$I TO PUBLIC', current_schema() || '_past');
    EXECUTE format('COMMENT ON SCHEMA %I IS %L', current_schema() || '_past', 'Views of the past for the functions of ' || current_schema() || '.');
    PERFORM set_config('search_path', quote_ident(current_schema() || '_past') || ', ' || current_setting('search_path'), true);
END $$;

CREATE VIEW vrf AS SELECT p.id, p.rt, p.rt_rank, p.name, p.description, p.tags, p.avps, p.version
FROM past_vrf p WHERE p.since <= past_position() AND p.until > past_position();
COMMENT ON VIEW vrf IS 'The VRFs at a position.';

CREATE VIEW pool AS SELECT p.id, p.name, p.description, p.default_type, p.ipv4_default_prefix_length, p.ipv6_default_prefix_length, p.tags, p.avps, p.version
FROM past_pool p WHERE p.since <= past_position() AND p.until > past_position();
COMMENT ON VIEW pool IS 'The pools at a position.';

CREATE VIEW asn AS SELECT p.asn, p.name, p.version FROM past_asn p WHERE p.since <= past_position() AND p.until > past_position();
COMMENT ON VIEW asn IS 'The AS numbers at a position.';

CREATE FUNCTION closest_parent(in_vrf int, network cidr) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    at_position bigint := past_position();
    candidate_id bigint;
    candidate cidr;
BEGIN
    SELECT p.id, p.prefix INTO candidate_id, candidate FROM past_prefix p
    WHERE p.vrf_id = in_vrf AND p.prefix < network AND p.since <= at_position AND p.until > at_position ORDER BY p.vrf_id DESC, p.prefix DESC LIMIT 1;
    -- A prefix that covers the network covers all that comes between the two. So it covers the network that a candidate
    -- and the network have in common, or is that network.
    WHILE candidate_id IS NOT NULL AND NOT candidate >> network LOOP
        IF family(candidate) <> family(network) THEN
            RETURN NULL;
        END IF;
        candidate := inet_merge(candidate, network);
        SELECT p.id, p.prefix INTO candidate_id, candidate FROM past_prefix p
        WHERE p.vrf_id = in_vrf AND p.prefix <= candidate AND p.since <= at_position AND p.until > at_position ORDER BY p.vrf_id DESC, p.prefix DESC LIMIT 1;
    END LOOP;
    RETURN candidate_id;
END $$;
COMMENT ON FUNCTION closest_parent(int, cidr) IS 'Id of the longest prefix of a position that covers a network, the network itself not counted; NULL at the top level.';

CREATE FUNCTION children_within(in_vrf int, lowest cidr, highest cidr) RETURNS SETOF cidr LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
DECLARE
    most_inside constant int := 50;
    after cidr := lowest;
    child cidr;
    found cidr;
    inside int := 0;
    is_over boolean;
BEGIN
    -- One scan in the order of the tree. Behind a child with many prefixes inside, a new scan begins at the end of the child.
    LOOP
        is_over := true;
        FOR found IN SELECT p.prefix FROM past_prefix p
            WHERE p.vrf_id = in_vrf AND p.prefix > after AND p.prefix <= highest AND p.since <= past_position() AND p.until > past_position()
            ORDER BY p.vrf_id, p.prefix
        LOOP
            IF child >> found THEN
                inside := inside + 1;
                IF inside > most_inside THEN
                    after := addr_last(child);
                    is_over := false;
                    EXIT;
                END IF;
            ELSE
                child := found;
                inside := 0;
                RETURN NEXT child;
            END IF;
        END LOOP;
        EXIT WHEN is_over;
    END LOOP;
END $$;
COMMENT ON FUNCTION children_within(int, cidr, cidr) IS 'The outermost prefixes of a position after one place and up to another, in order.';

CREATE FUNCTION children_of(in_vrf int, network cidr) RETURNS SETOF cidr LANGUAGE sql STABLE
RETURN children_within(in_vrf, network, addr_last(network)::cidr);
COMMENT ON FUNCTION children_of(int, cidr) IS 'The direct children of a prefix at a position, in order.';

CREATE FUNCTION children_by_id(parent bigint) RETURNS SETOF cidr LANGUAGE plpgsql STABLE AS $$
DECLARE
    place record;
BEGIN
    SELECT p.vrf_id, p.prefix INTO place FROM past_prefix p WHERE p.id = parent AND p.since <= past_position() AND p.until > past_position();
    IF FOUND THEN
        RETURN QUERY SELECT * FROM children_of(place.vrf_id, place.prefix);
    END IF;
END $$;
COMMENT ON FUNCTION children_by_id(bigint) IS 'The direct children of a prefix at a position, by its id.';

CREATE FUNCTION count_children(in_vrf int, network cidr) RETURNS int LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT count(*) FROM children_of(in_vrf, network));
END $$;
COMMENT ON FUNCTION count_children(int, cidr) IS 'The number of direct children of a prefix at a position.';

CREATE FUNCTION used_within(in_vrf int, network cidr) RETURNS numeric LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN coalesce((SELECT sum(prefix_size(c)) FROM children_of(in_vrf, network) c), CASE WHEN masklen(network) = full_length(network) THEN 1 ELSE 0 END);
END $$;
COMMENT ON FUNCTION used_within(int, cidr) IS 'The used addresses of a prefix at a position: those of its children; a single address is used itself.';

CREATE FUNCTION gaps_within(in_vrf int, space cidr, lowest inet, highest inet) RETURNS TABLE (first_address inet, last_address inet) LANGUAGE plpgsql STABLE AS $$
DECLARE
    child cidr;
    next_free inet := lowest;
BEGIN
    FOR child IN SELECT c FROM children_of(in_vrf, space) c LOOP
        IF addr_first(child) > next_free THEN
            first_address := next_free;
            last_address := least(addr_first(child) - 1, highest);
            RETURN NEXT;
        END IF;
        -- There is no address after the last one.
        IF addr_last(child) >= highest THEN
            RETURN;
        END IF;
        next_free := greatest(next_free, addr_last(child) + 1);
    END LOOP;
    first_address := next_free;
    last_address := highest;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION gaps_within(int, cidr, inet, inet) IS 'The free ranges directly inside a network at a position, cut to a range of addresses.';

CREATE FUNCTION free_blocks_within(in_vrf int, network cidr, in_pool int) RETURNS numeric LANGUAGE plpgsql STABLE AS $$
DECLARE
    length int := (SELECT CASE family(network) WHEN 4 THEN o.ipv4_default_prefix_length ELSE o.ipv6_default_prefix_length END FROM pool o WHERE o.id = in_pool);
BEGIN
    IF length IS NULL THEN
        RETURN NULL;
    ELSIF masklen(network) = full_length(network) THEN
        RETURN 0;
    END IF;
    RETURN (SELECT coalesce(sum(count_blocks(g.first_address, g.last_address, length)), 0)
            FROM gaps_within(in_vrf, network, addr_first(network), addr_last(network)) g);
END $$;
COMMENT ON FUNCTION free_blocks_within(int, cidr, int) IS 'The free blocks of a member of a pool at a position; NULL without a default prefix length.';

CREATE VIEW prefix AS SELECT p.id, p.vrf_id, p.prefix, p.type, closest_parent(p.vrf_id, p.prefix) AS parent_id, count_children(p.vrf_id, p.prefix) AS children,
    used_within(p.vrf_id, p.prefix) AS used_addresses, p.pool_id, free_blocks_within(p.vrf_id, p.prefix, p.pool_id) AS free_blocks, p.status,
    p.description, p.comment, p.node, p.country, p.order_id, p.customer_id, p.external_key, p.alarm_priority, p.monitor, p.vlan, p.tags, p.avps,
    p.expires, p.authoritative_source, p.added, p.last_modified, p.version
FROM past_prefix p WHERE p.since <= past_position() AND p.until > past_position();
COMMENT ON VIEW prefix IS 'The prefixes at a position.';

CREATE VIEW prefix_words AS SELECT w.prefix_id, w.words FROM past_words w;
COMMENT ON VIEW prefix_words IS 'The texts of prefixes at a position and at others: a search compares the prefixes that it finds here.';

CREATE FUNCTION totals_of(in_vrf int, address_family int, OUT num_prefixes bigint, OUT total_addresses numeric, OUT used_addresses numeric) LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
DECLARE
    space cidr := CASE address_family WHEN 4 THEN cidr '0.0.0.0/0' ELSE cidr '::/0' END;
    each cidr;
    outermost cidr;
    child cidr;
    has_child boolean := true;
BEGIN
    num_prefixes := 0;
    total_addresses := 0;
    used_addresses := 0;
    FOR each IN SELECT p.prefix FROM past_prefix p WHERE p.vrf_id = in_vrf AND p.prefix >= space AND p.prefix <= addr_last(space)::cidr
        AND p.since <= past_position() AND p.until > past_position() ORDER BY p.vrf_id, p.prefix
    LOOP
        num_prefixes := num_prefixes + 1;
        IF outermost IS NULL OR NOT outermost >> each THEN
            outermost := each;
            child := NULL;
            total_addresses := total_addresses + prefix_size(each);
            used_addresses := used_addresses + CASE WHEN masklen(each) = full_length(each) THEN 1 ELSE 0 END;
        ELSIF child IS NULL OR NOT child >> each THEN
            child := each;
            used_addresses := used_addresses + prefix_size(each);
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION totals_of(int, int) IS 'The totals of a VRF and address family at a position.';

CREATE VIEW vrf_total AS SELECT v.id AS vrf_id, f.family, 0 AS slot, t.num_prefixes, t.total_addresses, t.used_addresses
FROM past_vrf v CROSS JOIN (VALUES (4), (6)) f (family) CROSS JOIN LATERAL totals_of(v.id, f.family) t
WHERE v.since <= past_position() AND v.until > past_position();
COMMENT ON VIEW vrf_total IS 'The totals of the VRFs at a position.';

CREATE FUNCTION find_free(in_vrf int, sources cidr[], length int, wanted int) RETURNS SETOF cidr LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
DECLARE
    source cidr;
    is_stored boolean;
    lowest inet;
    highest inet;
    gap record;
    block cidr;
    found_blocks cidr[] := '{}';
BEGIN
    -- The rules are those of find_free and probe_source for the present.
    FOREACH source IN ARRAY sources LOOP
        is_stored := EXISTS (SELECT FROM past_prefix p WHERE p.vrf_id = in_vrf AND p.prefix = source AND p.since <= past_position() AND p.until > past_position());
        CONTINUE WHEN length <= masklen(source) AND (is_stored OR length < masklen(source));
        lowest := addr_first(source);
        highest := addr_last(source);
        IF length = full_length(source) AND masklen(source) < length - 1 THEN
            lowest := lowest + 1;
            highest := highest - 1;
        END IF;
        FOR gap IN SELECT g.first_address, g.last_address FROM gaps_within(in_vrf, source, lowest, highest) g LOOP
            block := first_block(gap.first_address, gap.last_address, length);
            WHILE block IS NOT NULL LOOP
                IF cardinality(found_blocks) >= wanted THEN
                    RETURN;
                END IF;
                IF NOT block = ANY (found_blocks) THEN
                    found_blocks := found_blocks || block;
                    RETURN NEXT block;
                END IF;
                EXIT WHEN addr_last(block) >= gap.last_address;
                block := first_block(addr_last(block) + 1, gap.last_address, length);
            END LOOP;
        END LOOP;
    END LOOP;
END $$;
COMMENT ON FUNCTION find_free(int, cidr[], int, int) IS 'The lowest free blocks of a length at a position, source by source in the order given, at most as many as wanted.';

CREATE FUNCTION pool_find_free(by_id int, by_name text, address_family int, length int, wanted int) RETURNS SETOF cidr LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
DECLARE
    chosen record;
    in_vrf int;
    networks cidr[];
BEGIN
    SELECT * INTO chosen FROM pool o WHERE CASE WHEN by_name IS NULL THEN o.id = by_id ELSE o.name = by_name END;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Non-existent pool specified' USING ERRCODE = 'NP300';
    END IF;
    SELECT min(m.vrf_id), array_agg(m.prefix ORDER BY m.prefix) FILTER (WHERE family(m.prefix) = address_family) INTO in_vrf, networks
    FROM past_prefix m WHERE m.pool_id = chosen.id AND m.since <= past_position() AND m.until > past_position();
    IF in_vrf IS NULL THEN
        RAISE EXCEPTION 'No prefixes in pool' USING ERRCODE = 'NP100';
    ELSIF networks IS NULL THEN
        RAISE EXCEPTION 'No prefixes of family % in pool', address_family USING ERRCODE = 'NP100', COLUMN = 'family';
    END IF;
    length := coalesce(length, CASE address_family WHEN 4 THEN chosen.ipv4_default_prefix_length ELSE chosen.ipv6_default_prefix_length END);
    IF length IS NULL THEN
        RAISE EXCEPTION '''prefix_length'' must be specified, the pool has no default prefix length for IPv%', address_family USING ERRCODE = 'NP110', COLUMN = 'prefix_length';
    END IF;
    RETURN QUERY SELECT * FROM find_free(in_vrf, networks, length, wanted);
END $$;
COMMENT ON FUNCTION pool_find_free(int, text, int, int, int) IS 'The lowest free blocks of a pool at a position, at most as many as wanted.';

-- The same text as for the present. A function of its own keeps the plans of both apart.
DO $$ BEGIN
    EXECUTE regexp_replace(pg_get_functiondef('ancestors_of(bigint[])'::regprocedure), 'FUNCTION \S+\(', 'FUNCTION ancestors_of(');
    COMMENT ON FUNCTION ancestors_of(bigint[]) IS 'The prefixes of a position with the given ids and all their ancestors, as ancestors_of says for the present.';
END $$;

-- Who may read the prefixes of the present may read those of the past.
DO $$
DECLARE
    reader text;
BEGIN
    FOR reader IN SELECT DISTINCT quote_ident(acl.grantee::regrole::text) FROM pg_class c, aclexplode(c.relacl) acl
        WHERE c.oid = format('%I.prefix', current_setting('nipap.home'))::regclass AND acl.privilege_type = 'SELECT' AND acl.grantee <> 0
    LOOP
        EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO %s', current_schema(), reader);
    END LOOP;
    PERFORM set_config('search_path', regexp_replace(current_setting('search_path'), '^[^,]+, ', ''), true);
END $$;
