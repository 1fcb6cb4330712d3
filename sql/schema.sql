-- The schema that the migrations and functions make, for readers: nothing is installed from this file, and what the
-- migrations put into the tables is not in it. Written by tests/dump_schema.py; do not edit.

SET check_function_bodies = false;

CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public;

COMMENT ON EXTENSION pg_trgm IS 'text similarity measurement and index searching based on trigrams';

CREATE TYPE public.actor AS (
	username text,
	authenticated_as text,
	full_name text,
	authoritative_source text
);

COMMENT ON TYPE public.actor IS 'Who changes something, on whose behalf, from which system.';

CREATE TYPE public.adopted AS (
	children integer,
	size numeric,
	used numeric
);

COMMENT ON TYPE public.adopted IS 'Prefixes that changed their parent: how many, their sizes and used addresses summed.';

CREATE DOMAIN public.alarm_priority AS text
	CONSTRAINT alarm_priority_check CHECK ((VALUE = ANY (ARRAY['warning'::text, 'low'::text, 'medium'::text, 'high'::text, 'critical'::text])));

COMMENT ON DOMAIN public.alarm_priority IS 'How urgent an alarm is.';

CREATE DOMAIN public.country_code AS text
	CONSTRAINT country_code_check CHECK ((VALUE ~ '^[A-Z]{2}$'::text));

COMMENT ON DOMAIN public.country_code IS 'ISO 3166-1 alpha-2, upper case.';

CREATE DOMAIN public.pairs AS jsonb
	CONSTRAINT pairs_check CHECK ((jsonb_typeof(VALUE) = 'object'::text));

COMMENT ON DOMAIN public.pairs IS 'Attribute-value pairs, string to string.';

CREATE DOMAIN public.prefix_status AS text
	CONSTRAINT prefix_status_check CHECK ((VALUE = ANY (ARRAY['assigned'::text, 'reserved'::text, 'quarantine'::text])));

COMMENT ON DOMAIN public.prefix_status IS 'Whether a prefix is in use.';

CREATE DOMAIN public.prefix_type AS text
	CONSTRAINT prefix_type_check CHECK ((VALUE = ANY (ARRAY['reservation'::text, 'assignment'::text, 'host'::text])));

COMMENT ON DOMAIN public.prefix_type IS 'What a prefix is for.';

CREATE DOMAIN public.vlan_id AS integer;

COMMENT ON DOMAIN public.vlan_id IS 'VLAN identifier (IEEE 802.1Q), 0 to 4095; NIPAP stored others, and these may stay.';

CREATE FUNCTION public.add_one_by_one(who public.actor) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    members cidr[] := ARRAY(SELECT i.prefix FROM incoming i WHERE i.pool_id IS NOT NULL);
    about text;
    r record;
BEGIN
    FOR r IN SELECT i.* FROM incoming i
        WHERE i.pool_id IS NOT NULL
           OR i.prefix >> ANY (members)
           OR EXISTS (SELECT FROM prefix p WHERE p.vrf_id = i.vrf_id AND p.prefix > i.prefix AND p.prefix <= addr_last(i.prefix))
        ORDER BY i.vrf_id, i.prefix
    LOOP
        BEGIN
            UPDATE incoming SET owner_id = insert_under(lock_owner(r.vrf_id, r.prefix), r.vrf_id, r.prefix, r.facts, who)
            WHERE ord = r.ord;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS about = COLUMN_NAME;
            RAISE EXCEPTION '%', SQLERRM USING ERRCODE = SQLSTATE, COLUMN = r.ord || ' ' || about;
        END;
    END LOOP;
END $$;

COMMENT ON FUNCTION public.add_one_by_one(who public.actor) IS 'Add those incoming prefixes that cover stored ones or join a pool, top down; their ids are left in owner_id.';

CREATE FUNCTION public.add_to_totals(v integer, fam integer, prefixes bigint, total numeric, used numeric) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO vrf_total AS t VALUES (v, fam, pg_backend_pid() % 16, prefixes, total, used)
    ON CONFLICT ON CONSTRAINT vrf_total_pkey DO UPDATE SET
        num_prefixes = t.num_prefixes + excluded.num_prefixes,
        total_addresses = t.total_addresses + excluded.total_addresses,
        used_addresses = t.used_addresses + excluded.used_addresses;
    RETURN true;
END $$;

COMMENT ON FUNCTION public.add_to_totals(v integer, fam integer, prefixes bigint, total numeric, used numeric) IS 'Move the totals of a VRF by deltas; the last lock a change takes.';

CREATE FUNCTION public.full_length(x inet) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE family(x) WHEN 4 THEN 32 ELSE 128 END;

COMMENT ON FUNCTION public.full_length(x inet) IS 'Prefix length of a single address in the family of x.';

CREATE FUNCTION public.addr_first(x inet) RETURNS inet
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN set_masklen((network(x))::inet, public.full_length(x));

COMMENT ON FUNCTION public.addr_first(x inet) IS 'First address of a network, full length.';

CREATE FUNCTION public.addr_last(x inet) RETURNS inet
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN set_masklen(broadcast(x), public.full_length(x));

COMMENT ON FUNCTION public.addr_last(x inet) IS 'Last address of a network, full length.';

CREATE FUNCTION public.addr_number(a inet) RETURNS numeric
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    b bytea;
    high bigint;
    low bigint;
BEGIN
    IF family(a) = 4 THEN
        RETURN a - inet '0.0.0.0';
    END IF;
    b := inet_send(a);
    high := ('x' || encode(substring(b, 5, 8), 'hex'))::bit(64)::bigint;
    low := ('x' || encode(substring(b, 13, 8), 'hex'))::bit(64)::bigint;
    RETURN (CASE WHEN high < 0 THEN high + 18446744073709551616 ELSE high END) * 18446744073709551616
         + CASE WHEN low < 0 THEN low + 18446744073709551616 ELSE low END;
END $$;

COMMENT ON FUNCTION public.addr_number(a inet) IS 'An address as an unsigned integer.';

CREATE FUNCTION public.adopt(old_parent bigint, v integer, x cidr, new_parent bigint, OUT a public.adopted) RETURNS public.adopted
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.adopt(old_parent bigint, v integer, x cidr, new_parent bigint, OUT a public.adopted) IS 'Give the direct children of one parent that lie inside x to another; NULL is the top level. One statement, however many.';

CREATE FUNCTION public.ancestors_of(parents bigint[]) RETURNS json
    LANGUAGE plpgsql STABLE
    AS $$
DECLARE
    i bigint;
    above bigint;
    len int;
    own_tags text[];
    met int;
    fresh bigint[];
    path bigint[]; -- the last way up
    found_ones text := '';
BEGIN
    FOREACH i IN ARRAY parents LOOP
        CONTINUE WHEN i = path[1];
        fresh := NULL;
        met := NULL;
        WHILE i IS NOT NULL LOOP
            met := array_position(path, i);
            EXIT WHEN met IS NOT NULL;
            SELECT parent_id, masklen(prefix), tags INTO above, len, own_tags FROM prefix WHERE id = i;
            found_ones := found_ones || CASE found_ones WHEN '' THEN '{"' ELSE ',"' END || i || '":[' || coalesce(above::text, 'null') || ','
                || len || ',' || CASE own_tags WHEN '{}' THEN '[]' ELSE to_json(own_tags)::text END || ']';
            fresh := fresh || i;
            i := above;
        END LOOP;
        -- In the order of the tree all that was met before and lies above the next lies above this one.
        IF fresh IS NOT NULL THEN
            path := CASE WHEN met IS NULL THEN fresh ELSE fresh || path[met:] END;
        END IF;
    END LOOP;
    RETURN CASE WHEN found_ones <> '' THEN found_ones || '}' END;
END $$;

COMMENT ON FUNCTION public.ancestors_of(parents bigint[]) IS 'Prefixes, given by id, and all above them, as {id: [parent, length, tags]}; NULL when there are none. Each is read once when they come in the order of the tree.';

CREATE FUNCTION public.asn_add(facts jsonb, who public.actor) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    done boolean;
    n asn := jsonb_populate_record(NULL::asn, facts);
BEGIN
    INSERT INTO asn SELECT n.*;
    done := audit(who, 'asn', n.asn, 'add', NULL, jsonb_strip_nulls(to_jsonb(n)));
    RETURN n.asn;
END $$;

COMMENT ON FUNCTION public.asn_add(facts jsonb, who public.actor) IS 'Add an AS number.';

CREATE FUNCTION public.asn_edit(i bigint, changes jsonb, who public.actor) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
DECLARE
    done boolean;
    x asn;
    n asn;
BEGIN
    SELECT * INTO x FROM asn WHERE asn = i FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    n := jsonb_populate_record(x, changes);
    UPDATE asn SET name = n.name WHERE asn = i;
    done := audit(who, 'asn', i, 'edit', jsonb_strip_nulls(to_jsonb(x)), jsonb_strip_nulls(to_jsonb(n)));
    RETURN true;
END $$;

COMMENT ON FUNCTION public.asn_edit(i bigint, changes jsonb, who public.actor) IS 'Edit an AS number. False when it is not there.';

CREATE FUNCTION public.asn_remove(i bigint, who public.actor) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
DECLARE
    done boolean;
    facts jsonb;
BEGIN
    DELETE FROM asn t WHERE asn = i RETURNING jsonb_strip_nulls(to_jsonb(t)) INTO facts;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    done := audit(who, 'asn', i, 'remove', facts, NULL);
    RETURN true;
END $$;

COMMENT ON FUNCTION public.asn_remove(i bigint, who public.actor) IS 'Remove an AS number. False when it is not there.';

CREATE TABLE public.prefix (
    id bigint NOT NULL,
    vrf_id integer NOT NULL,
    prefix cidr NOT NULL,
    type public.prefix_type NOT NULL,
    parent_id bigint,
    children integer DEFAULT 0 NOT NULL,
    used_addresses numeric DEFAULT 0 NOT NULL,
    pool_id integer,
    free_blocks numeric,
    status public.prefix_status DEFAULT 'assigned'::text NOT NULL,
    description text,
    comment text,
    node text,
    country public.country_code,
    order_id text,
    customer_id text,
    external_key text,
    alarm_priority public.alarm_priority,
    monitor boolean,
    vlan public.vlan_id,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    avps public.pairs DEFAULT '{}'::jsonb NOT NULL,
    expires timestamp with time zone DEFAULT 'infinity'::timestamp with time zone NOT NULL,
    authoritative_source text DEFAULT 'nipap'::text NOT NULL,
    added timestamp with time zone DEFAULT now() NOT NULL,
    last_modified timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='90', autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_threshold='1000');

COMMENT ON TABLE public.prefix IS 'The prefixes of all VRFs; together a tree, of which parent_id is derived.';

COMMENT ON COLUMN public.prefix.id IS 'Identity.';

COMMENT ON COLUMN public.prefix.vrf_id IS 'The VRF it lives in.';

COMMENT ON COLUMN public.prefix.prefix IS 'The network; unique in its VRF.';

COMMENT ON COLUMN public.prefix.type IS 'reservation, assignment or host; types nest as reservation, reservation, assignment, host.';

COMMENT ON COLUMN public.prefix.parent_id IS 'Derived: the longest prefix of the VRF that covers this one; NULL at the top.';

COMMENT ON COLUMN public.prefix.children IS 'Derived: number of direct children.';

COMMENT ON COLUMN public.prefix.used_addresses IS 'Derived: sum of the sizes of direct children; 1 for a full-length prefix.';

COMMENT ON COLUMN public.prefix.pool_id IS 'The pool of which it is a member.';

COMMENT ON COLUMN public.prefix.free_blocks IS 'Derived: aligned blocks of the pool''s default length that lie wholly in free ranges; NULL without pool or default length.';

COMMENT ON COLUMN public.prefix.status IS 'assigned, reserved or quarantine.';

COMMENT ON COLUMN public.prefix.description IS 'Free text.';

COMMENT ON COLUMN public.prefix.comment IS 'Free text.';

COMMENT ON COLUMN public.prefix.node IS 'Name of the node a full-length prefix sits on; NIPAP stored it of others too, and there it may stay.';

COMMENT ON COLUMN public.prefix.country IS 'Country code, ISO 3166-1 alpha-2, upper case.';

COMMENT ON COLUMN public.prefix.order_id IS 'Order identifier.';

COMMENT ON COLUMN public.prefix.customer_id IS 'Customer identifier.';

COMMENT ON COLUMN public.prefix.external_key IS 'Key in some other system.';

COMMENT ON COLUMN public.prefix.alarm_priority IS 'warning, low, medium, high or critical.';

COMMENT ON COLUMN public.prefix.monitor IS 'Whether it is to be monitored.';

COMMENT ON COLUMN public.prefix.vlan IS 'VLAN identifier, 0 to 4095; NIPAP stored others, and these may stay.';

COMMENT ON COLUMN public.prefix.tags IS 'Tags in the order given, duplicates kept.';

COMMENT ON COLUMN public.prefix.avps IS 'Attribute-value pairs, string to string.';

COMMENT ON COLUMN public.prefix.expires IS 'When it expires; infinity: never.';

COMMENT ON COLUMN public.prefix.authoritative_source IS 'The system that the prefix comes from.';

COMMENT ON COLUMN public.prefix.added IS 'When it was added.';

COMMENT ON COLUMN public.prefix.last_modified IS 'When it was last edited.';

CREATE FUNCTION public.attach(p public.prefix, INOUT n public.prefix, a public.adopted) RETURNS public.prefix
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.attach(p public.prefix, INOUT n public.prefix, a public.adopted) IS 'Put n, which has adopted what it covers, below p: ranges, counters, totals. Returns n with its derived columns; the caller stores it.';

CREATE FUNCTION public.audit(who public.actor, kind text, object_id bigint, action text, before jsonb, after jsonb) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO audit_log (username, authenticated_as, full_name, authoritative_source, object_type, object_id, action, before, after)
    VALUES (who.username, who.authenticated_as, who.full_name, who.authoritative_source, kind, object_id, action, before, after);
    RETURN true;
END $$;

COMMENT ON FUNCTION public.audit(who public.actor, kind text, object_id bigint, action text, before jsonb, after jsonb) IS 'Write one entry of the audit log.';

CREATE FUNCTION public.check_children(n public.prefix) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF n.type = 'assignment' THEN
        IF EXISTS (SELECT FROM prefix WHERE parent_id = n.id AND type <> 'host') THEN
            RAISE EXCEPTION 'Prefix of type ''assignment'' must not have any subnets other than of type ''host''' USING ERRCODE = 'NP200', COLUMN = 'type';
        END IF;
    ELSIF EXISTS (SELECT FROM prefix WHERE parent_id = n.id AND type = 'host') THEN
        RAISE EXCEPTION 'Parent prefix (%) is of type % but must be of type ''assignment''', n.prefix, n.type USING ERRCODE = 'NP200', COLUMN = 'type';
    END IF;
END $$;

COMMENT ON FUNCTION public.check_children(n public.prefix) IS 'Refuse n when the types of its children do not nest in it.';

CREATE TABLE public.pool (
    id integer NOT NULL,
    name text NOT NULL,
    description text,
    default_type text,
    ipv4_default_prefix_length smallint,
    ipv6_default_prefix_length smallint,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    avps jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT pool_avps_check CHECK ((jsonb_typeof(avps) = 'object'::text)),
    CONSTRAINT pool_default_type_check CHECK ((default_type = ANY (ARRAY['reservation'::text, 'assignment'::text, 'host'::text]))),
    CONSTRAINT pool_ipv4_length_check CHECK (((ipv4_default_prefix_length >= 1) AND (ipv4_default_prefix_length <= 32))),
    CONSTRAINT pool_ipv6_length_check CHECK (((ipv6_default_prefix_length >= 1) AND (ipv6_default_prefix_length <= 128)))
);

COMMENT ON TABLE public.pool IS 'Named sets of prefixes to allocate from.';

COMMENT ON COLUMN public.pool.id IS 'Identity.';

COMMENT ON COLUMN public.pool.name IS 'Name, unique without regard to case.';

COMMENT ON COLUMN public.pool.description IS 'Free text.';

COMMENT ON COLUMN public.pool.default_type IS 'Type of the prefixes that are allocated from the pool; without one an allocation names its type.';

COMMENT ON COLUMN public.pool.ipv4_default_prefix_length IS 'Prefix length of IPv4 allocations that name none.';

COMMENT ON COLUMN public.pool.ipv6_default_prefix_length IS 'Prefix length of IPv6 allocations that name none.';

COMMENT ON COLUMN public.pool.tags IS 'Tags in the order given, duplicates kept.';

COMMENT ON COLUMN public.pool.avps IS 'Attribute-value pairs, string to string.';

CREATE FUNCTION public.check_defaults(n public.pool, x public.pool) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.check_defaults(n public.pool, x public.pool) IS 'Refuse defaults of a pool by which nothing can ever be allocated, unless they are those that it had.';

CREATE FUNCTION public.check_left_behind(former_parent bigint, x public.prefix, place cidr) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.check_left_behind(former_parent bigint, x public.prefix, place cidr) IS 'Refuse a move that leaves hosts of x without an assignment around them.';

CREATE FUNCTION public.check_node(x cidr, type text, node text) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.check_node(x cidr, type text, node text) IS 'Refuse a node for what is not a single address, true else.';

CREATE FUNCTION public.check_place(p public.prefix, n public.prefix) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.check_place(p public.prefix, n public.prefix) IS 'Refuse n below p when their types do not nest, true else.';

CREATE FUNCTION public.check_pool(n public.prefix) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pool WHERE id = n.pool_id) THEN
        RAISE EXCEPTION 'non-existing pool specified' USING ERRCODE = 'NP100', COLUMN = 'pool_id';
    ELSIF EXISTS (SELECT FROM prefix WHERE pool_id = n.pool_id AND vrf_id <> n.vrf_id AND id <> n.id) THEN
        RAISE EXCEPTION 'Change not allowed. All member prefixes of a pool must be in a the same VRF.' USING ERRCODE = 'NP200', COLUMN = 'pool_id';
    END IF;
END $$;

COMMENT ON FUNCTION public.check_pool(n public.prefix) IS 'Refuse n as a member of its pool when that is not there or lives in another VRF; the pool is locked.';

CREATE FUNCTION public.check_type_change(x public.prefix, n public.prefix) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF 'host' IN (x.type, n.type) THEN
        RAISE EXCEPTION 'Changing type is not allowed' USING ERRCODE = 'NP200', COLUMN = 'type';
    ELSIF n.children > 0 THEN
        RAISE EXCEPTION 'Changing from type ''%'' to ''%'' requires there to be no child prefixes.', x.type, n.type USING ERRCODE = 'NP200', COLUMN = 'type';
    END IF;
END $$;

COMMENT ON FUNCTION public.check_type_change(x public.prefix, n public.prefix) IS 'Refuse a change of type but between reservation and assignment without children.';

CREATE FUNCTION public.check_vlan(vlan integer, former integer) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF vlan IS DISTINCT FROM former AND vlan NOT BETWEEN 0 AND 4095 THEN
        RAISE EXCEPTION 'Invalid value % for vlan, must be between 0 and 4095', vlan USING ERRCODE = 'NP200', COLUMN = 'vlan';
    END IF;
    RETURN true;
END $$;

COMMENT ON FUNCTION public.check_vlan(vlan integer, former integer) IS 'Refuse a new VLAN beyond 0 to 4095, true else. A former one may stay: NIPAP stored any.';

CREATE FUNCTION public.closest_parent(v integer, x cidr) RETURNS bigint
    LANGUAGE plpgsql STABLE
    AS $$
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

COMMENT ON FUNCTION public.closest_parent(v integer, x cidr) IS 'Id of the longest stored prefix that covers x, x itself not counted; NULL at the top level.';

CREATE FUNCTION public.count_blocks(a inet, z inet, len integer) RETURNS numeric
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    size numeric;
    bits int := masklen(a) - len;
BEGIN
    IF masklen(a) = 32 THEN
        RETURN greatest(0, ((z - inet '0.0.0.0' + 1) >> bits) - ((a - inet '0.0.0.0' + (1::bigint << bits) - 1) >> bits));
    END IF;
    size := exp2(bits);
    RETURN greatest(0, div(addr_number(z) + 1, size) - div(addr_number(a) + size - 1, size));
END $$;

COMMENT ON FUNCTION public.count_blocks(a inet, z inet, len integer) IS 'Number of aligned blocks of a length that lie wholly in a range.';

CREATE FUNCTION public.count_incoming() RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    done boolean;
    r record;
BEGIN
    FOR r IN
        SELECT i.vrf_id, family(i.prefix) AS fam, count(*) AS prefixes,
            coalesce(sum(prefix_size(i.prefix)) FILTER (WHERE NOT i.inside AND i.owner_id IS NULL), 0) AS total,
            coalesce(sum(n.used_addresses) FILTER (WHERE NOT i.inside AND i.owner_id IS NULL), 0)
            + coalesce(sum(prefix_size(i.prefix)) FILTER (WHERE NOT i.inside AND o.id IS NOT NULL AND o.parent_id IS NULL), 0) AS used
        FROM incoming i JOIN prefix n ON n.id = i.id LEFT JOIN prefix o ON o.id = i.owner_id
        GROUP BY 1, 2 ORDER BY 1, 2
    LOOP
        done := add_to_totals(r.vrf_id, r.fam, r.prefixes, r.total, r.used);
    END LOOP;
END $$;

COMMENT ON FUNCTION public.count_incoming() IS 'Move the totals of VRFs by the incoming prefixes.';

CREATE FUNCTION public.default_length(pool integer, x inet) RETURNS integer
    LANGUAGE plpgsql STABLE
    AS $$
BEGIN
    IF pool IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT CASE family(x) WHEN 4 THEN ipv4_default_prefix_length ELSE ipv6_default_prefix_length END FROM pool p WHERE p.id = default_length.pool);
END $$;

COMMENT ON FUNCTION public.default_length(pool integer, x inet) IS 'Default prefix length of a pool in the family of x; read under the lock of the member or of the pool.';

CREATE FUNCTION public.delete_inside(v integer, x cidr, who public.actor) RETURNS bigint
    LANGUAGE sql
    AS $$
    WITH gone AS (
        DELETE FROM prefix p WHERE vrf_id = v AND prefix > x AND prefix <= addr_last(x) RETURNING p.id, p.vrf_id, p.prefix, prefix_facts(p) AS facts
    ), ranges AS (
        DELETE FROM free_range USING gone WHERE owner = gone.id
    ), texts AS (
        DELETE FROM prefix_words USING gone WHERE prefix_id = gone.id
    ), logged AS (
        INSERT INTO audit_log (username, authenticated_as, full_name, authoritative_source, object_type, object_id, action, before)
        SELECT (who).username, (who).authenticated_as, (who).full_name, (who).authoritative_source, 'prefix', id, 'remove', facts
        FROM gone ORDER BY vrf_id, prefix
    )
    SELECT count(*) FROM gone
$$;

COMMENT ON FUNCTION public.delete_inside(v integer, x cidr, who public.actor) IS 'Delete everything inside x with its ranges, with an audit entry each; counters of x and the VRF are the caller''s.';

CREATE FUNCTION public.detach(p public.prefix, x public.prefix, a public.adopted) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.detach(p public.prefix, x public.prefix, a public.adopted) IS 'Take x, whose children p has adopted, out from below p: ranges, counters, totals.';

CREATE FUNCTION public.exp2(n integer) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ('{1,2,4,8,16,32,64,128,256,512,1024,2048,4096,8192,16384,32768,65536,131072,262144,524288,1048576,2097152,4194304,8388608,16777216,33554432,67108864,134217728,268435456,536870912,1073741824,2147483648,4294967296,8589934592,17179869184,34359738368,68719476736,137438953472,274877906944,549755813888,1099511627776,2199023255552,4398046511104,8796093022208,17592186044416,35184372088832,70368744177664,140737488355328,281474976710656,562949953421312,1125899906842624,2251799813685248,4503599627370496,9007199254740992,18014398509481984,36028797018963968,72057594037927936,144115188075855872,288230376151711744,576460752303423488,1152921504606846976,2305843009213693952,4611686018427387904,9223372036854775808,18446744073709551616,36893488147419103232,73786976294838206464,147573952589676412928,295147905179352825856,590295810358705651712,1180591620717411303424,2361183241434822606848,4722366482869645213696,9444732965739290427392,18889465931478580854784,37778931862957161709568,75557863725914323419136,151115727451828646838272,302231454903657293676544,604462909807314587353088,1208925819614629174706176,2417851639229258349412352,4835703278458516698824704,9671406556917033397649408,19342813113834066795298816,38685626227668133590597632,77371252455336267181195264,154742504910672534362390528,309485009821345068724781056,618970019642690137449562112,1237940039285380274899124224,2475880078570760549798248448,4951760157141521099596496896,9903520314283042199192993792,19807040628566084398385987584,39614081257132168796771975168,79228162514264337593543950336,158456325028528675187087900672,316912650057057350374175801344,633825300114114700748351602688,1267650600228229401496703205376,2535301200456458802993406410752,5070602400912917605986812821504,10141204801825835211973625643008,20282409603651670423947251286016,40564819207303340847894502572032,81129638414606681695789005144064,162259276829213363391578010288128,324518553658426726783156020576256,649037107316853453566312041152512,1298074214633706907132624082305024,2596148429267413814265248164610048,5192296858534827628530496329220096,10384593717069655257060992658440192,20769187434139310514121985316880384,41538374868278621028243970633760768,83076749736557242056487941267521536,166153499473114484112975882535043072,332306998946228968225951765070086144,664613997892457936451903530140172288,1329227995784915872903807060280344576,2658455991569831745807614120560689152,5316911983139663491615228241121378304,10633823966279326983230456482242756608,21267647932558653966460912964485513216,42535295865117307932921825928971026432,85070591730234615865843651857942052864,170141183460469231731687303715884105728,340282366920938463463374607431768211456}'::numeric[])[(n + 1)];

COMMENT ON FUNCTION public.exp2(n integer) IS '2^n exactly, for n from 0 to 128.';

CREATE FUNCTION public.find_free(v integer, sources cidr[], len integer, wanted integer) RETURNS SETOF cidr
    LANGUAGE plpgsql STABLE
    SET enable_seqscan TO 'off'
    AS $$
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

COMMENT ON FUNCTION public.find_free(v integer, sources cidr[], len integer, wanted integer) IS 'The lowest free blocks of a length, source by source in the order given, at most as many as wanted.';

CREATE FUNCTION public.first_block(a inet, z inet, len integer) RETURNS cidr
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    block cidr := network(set_masklen(a, len));
BEGIN
    IF set_masklen(block::inet, masklen(a)) <> a THEN
        IF addr_last(block) >= z THEN
            RETURN NULL;
        END IF;
        block := network(set_masklen(addr_last(block) + 1, len));
    END IF;
    RETURN CASE WHEN addr_last(block) <= z THEN block END;
END $$;

COMMENT ON FUNCTION public.first_block(a inet, z inet, len integer) IS 'Lowest aligned block of a length that lies wholly in a range; NULL when none does.';

CREATE FUNCTION public.free_blocks_of(p public.prefix, len integer) RETURNS numeric
    LANGUAGE plpgsql STABLE
    AS $$
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

COMMENT ON FUNCTION public.free_blocks_of(p public.prefix, len integer) IS 'Free blocks of a length in a prefix, counted from its free ranges; a full-length prefix uses itself.';

CREATE FUNCTION public.gaps_of_taken() RETURNS TABLE(owner bigint, a inet, z inet)
    LANGUAGE plpgsql
    AS $$
BEGIN
    RETURN QUERY WITH t AS (
        SELECT taken.*, lag(taken.last_address) OVER w AS before, lead(taken.first_address) OVER w IS NULL AS is_last
        FROM taken WINDOW w AS (PARTITION BY taken.owner, taken.space_last ORDER BY taken.first_address))
    SELECT t.owner, CASE WHEN t.before IS NULL THEN t.space_first ELSE t.before + 1 END, t.first_address - 1 FROM t
    WHERE CASE WHEN t.before IS NULL THEN t.space_first < t.first_address ELSE t.before + 1 < t.first_address END
    UNION ALL
    SELECT t.owner, t.last_address + 1, t.space_last FROM t WHERE t.is_last AND t.last_address < t.space_last;
END $$;

COMMENT ON FUNCTION public.gaps_of_taken() IS 'What is left free of the spaces in taken.';

CREATE FUNCTION public.give_range(o bigint, space cidr, x cidr, len integer) RETURNS numeric
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.give_range(o bigint, space cidr, x cidr, len integer) IS 'Give block x back to the free ranges of an owner that keeps other children, merging neighbours. Returns the change of its free blocks.';

CREATE FUNCTION public.holds(leaves boolean[], program integer[]) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
DECLARE
    stack boolean[] := '{}';
    top int := 0;
    step int;
BEGIN
    FOREACH step IN ARRAY program LOOP
        IF step >= 0 THEN
            top := top + 1;
            stack[top] := leaves[step + 1];
        ELSE
            top := top - 1;
            stack[top] := CASE step WHEN -1 THEN stack[top] AND stack[top + 1] ELSE stack[top] OR stack[top + 1] END;
        END IF;
    END LOOP;
    RETURN stack[1];
END $$;

COMMENT ON FUNCTION public.holds(leaves boolean[], program integer[]) IS 'Value of a boolean expression given in postfix: n >= 0 is leaf n, -1 is AND, -2 is OR. For queries too deep for the parser.';

CREATE FUNCTION public.incoming_parents() RETURNS TABLE(child bigint, parent bigint)
    LANGUAGE plpgsql
    AS $$
DECLARE
    r record;
    open_prefixes cidr[] := '{}';
    open_ids bigint[] := '{}';
    top int := 0;
    v int;
BEGIN
    -- One pass in tree order with a stack of the incoming prefixes that are still open.
    FOR r IN SELECT i.id, i.vrf_id, i.prefix FROM incoming i ORDER BY i.vrf_id, i.prefix LOOP
        IF v IS DISTINCT FROM r.vrf_id THEN
            v := r.vrf_id;
            top := 0;
        END IF;
        WHILE top > 0 AND NOT open_prefixes[top] >> r.prefix LOOP
            top := top - 1;
        END LOOP;
        IF top > 0 THEN
            child := r.id;
            parent := open_ids[top];
            RETURN NEXT;
        END IF;
        top := top + 1;
        open_prefixes[top] := r.prefix;
        open_ids[top] := r.id;
    END LOOP;
END $$;

COMMENT ON FUNCTION public.incoming_parents() IS 'For those rows of incoming that lie inside another one: the closest such.';

CREATE FUNCTION public.insert_under(p public.prefix, v integer, x cidr, facts jsonb, who public.actor) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
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
    done := audit(who, 'prefix', n.id, 'add', NULL, prefix_facts(n));
    RETURN n.id;
END $$;

COMMENT ON FUNCTION public.insert_under(p public.prefix, v integer, x cidr, facts jsonb, who public.actor) IS 'Add x below p, whose lock is held.';

CREATE FUNCTION public.is_pattern(pattern text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
BEGIN
    PERFORM '' ~* pattern;
    RETURN true;
-- What has some ten thousand states is read and then needs more memory than there may be: that is an internal error.
EXCEPTION WHEN invalid_regular_expression OR internal_error OR out_of_memory OR program_limit_exceeded OR statement_too_complex THEN
    RETURN false;
END $$;

COMMENT ON FUNCTION public.is_pattern(pattern text) IS 'Whether a text is a regular expression that PostgreSQL understands and can use.';

CREATE FUNCTION public.keep_words() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    UPDATE prefix_words SET words = words_of(NEW) WHERE prefix_id = NEW.id;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION public.keep_words() IS 'Keeps prefix_words as the text of prefixes changes.';

CREATE FUNCTION public.lock_incoming_owners() RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    v int;
BEGIN
    UPDATE incoming i SET owner_id = c.id, owner_version = (SELECT p.ctid FROM prefix p WHERE p.id = c.id)
    FROM (SELECT n.ord, closest_parent(n.vrf_id, n.prefix) AS id FROM incoming n WHERE NOT n.inside OFFSET 0) c
    WHERE c.ord = i.ord;
    FOR v IN SELECT DISTINCT vrf_id FROM incoming WHERE NOT inside AND owner_id IS NULL ORDER BY vrf_id LOOP
        PERFORM lock_vrf(v);
    END LOOP;
    PERFORM FROM prefix WHERE id IN (SELECT owner_id FROM incoming) ORDER BY vrf_id, prefix FOR NO KEY UPDATE;
    -- Chosen before they were locked: when something came in between, start over. An owner whose row is still the same
    -- version has no other children than then; at the top level it takes a look.
    IF EXISTS (SELECT FROM incoming i LEFT JOIN prefix o ON o.id = i.owner_id WHERE NOT i.inside AND (
            CASE WHEN i.owner_id IS NULL THEN closest_parent(i.vrf_id, i.prefix) IS NOT NULL
                 ELSE o.ctid IS DISTINCT FROM i.owner_version END
            OR EXISTS (SELECT FROM prefix p WHERE p.vrf_id = i.vrf_id AND p.prefix > i.prefix AND p.prefix <= addr_last(i.prefix)))) THEN
        RAISE EXCEPTION 'the tree changed' USING ERRCODE = '40001';
    END IF;
END $$;

COMMENT ON FUNCTION public.lock_incoming_owners() IS 'Lock the stored prefixes, or VRFs, right above the incoming ones.';

CREATE FUNCTION public.lock_inside(v integer, x cidr) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.lock_inside(v integer, x cidr) IS 'Lock everything inside x, whose own row is locked.';

CREATE FUNCTION public.lock_owner(v integer, x cidr) RETURNS public.prefix
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.lock_owner(v integer, x cidr) IS 'Lock the row whose children change when x does: the closest prefix around x, or the VRF (then NULL is returned).';

CREATE FUNCTION public.lock_pool_members(i integer) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.lock_pool_members(i integer) IS 'Lock a pool and its members; returns its stored facts, NULL when it is not there.';

CREATE FUNCTION public.lock_pools(ids integer[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM FROM pool WHERE id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
END $$;

COMMENT ON FUNCTION public.lock_pools(ids integer[]) IS 'Lock pools whose members change, in order, after all prefixes. Who only counts the blocks of a member needs no more than the lock of that member: whoever edits the pool locks all members first.';

CREATE FUNCTION public.lock_source(v integer, source cidr) RETURNS public.prefix
    LANGUAGE plpgsql
    AS $$
DECLARE
    p prefix;
BEGIN
    LOOP
        SELECT * INTO p FROM prefix WHERE vrf_id = v AND prefix = source FOR NO KEY UPDATE;
        IF NOT FOUND THEN
            p := lock_owner(v, source);
            -- It may have been added before what is above it was locked.
            CONTINUE WHEN EXISTS (SELECT FROM prefix WHERE vrf_id = v AND prefix = source);
        END IF;
        RETURN p;
    END LOOP;
END $$;

COMMENT ON FUNCTION public.lock_source(v integer, source cidr) IS 'Lock the row whose children change when a block is taken from a source: its own when it is stored, else the closest prefix around it, or the VRF (then NULL is returned).';

CREATE FUNCTION public.lock_vrf(v integer) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM FROM vrf WHERE id = v FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'No matching VRF found.' USING ERRCODE = 'NP300', COLUMN = 'vrf_id';
    END IF;
END $$;

COMMENT ON FUNCTION public.lock_vrf(v integer) IS 'Lock the top level of a VRF.';

CREATE FUNCTION public.lock_with_parent(i bigint, OUT p public.prefix, OUT x public.prefix) RETURNS record
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.lock_with_parent(i bigint, OUT p public.prefix, OUT x public.prefix) IS 'Lock a prefix after what is above it (a prefix or the VRF); x is NULL when it is not there.';

CREATE FUNCTION public.lower_each(words text[]) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (SELECT COALESCE(array_agg(lower(word.word)), '{}'::text[]) AS "coalesce" FROM unnest(lower_each.words) word(word));

COMMENT ON FUNCTION public.lower_each(words text[]) IS 'The words in lower case, for comparisons that ignore case.';

CREATE FUNCTION public.lowest_free(o bigint, leaf boolean, lo inet, hi inet, len integer) RETURNS cidr
    LANGUAGE plpgsql STABLE
    AS $$
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

COMMENT ON FUNCTION public.lowest_free(o bigint, leaf boolean, lo inet, hi inet, len integer) IS 'Lowest free block of a length within lo..hi directly inside an owner; leaf: the owner has no children and so no rows.';

CREATE FUNCTION public.macs_of(avps jsonb) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (SELECT COALESCE(array_agg(DISTINCT lower(regexp_replace(m.m[1], '[-:.]'::text, ''::text, 'g'::text))), '{}'::text[]) AS "coalesce" FROM (jsonb_each_text(macs_of.avps) e(key, value) CROSS JOIN LATERAL regexp_matches(e.value, '(?<![0-9A-Fa-f:.-])([0-9A-Fa-f]{12}|[0-9A-Fa-f]{2}(?:([-:.])[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{4}(?:[-:.][0-9A-Fa-f]{4}){2}|[0-9A-Fa-f]{6}[-:][0-9A-Fa-f]{6})(?![0-9A-Fa-f])'::text, 'g'::text) m(m)));

COMMENT ON FUNCTION public.macs_of(avps jsonb) IS 'The MAC addresses in the values of pairs, as twelve digits each.';

CREATE FUNCTION public.make_incoming() RETURNS void
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.make_incoming() IS 'The temporary tables of this session, empty.';

CREATE FUNCTION public.move_ranges_down(o bigint, to_owner bigint, x cidr, len integer) RETURNS numeric
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.move_ranges_down(o bigint, to_owner bigint, x cidr, len integer) IS 'Hand the free ranges inside x from an owner to x, which now covers some of its children. Returns the change of the old owner''s free blocks.';

CREATE FUNCTION public.move_ranges_up(o bigint, to_owner bigint, space cidr, x cidr, len integer) RETURNS numeric
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.move_ranges_up(o bigint, to_owner bigint, space cidr, x cidr, len integer) IS 'Hand all free ranges of x, which has children, to the prefix around it. Returns the change of the new owner''s free blocks.';

CREATE FUNCTION public.pool_add(facts jsonb, who public.actor) RETURNS integer
    LANGUAGE plpgsql
    AS $$
DECLARE
    done boolean;
    n pool := jsonb_populate_record(NULL::pool, facts);
BEGIN
    PERFORM check_defaults(n, NULL);
    n.id := nextval('pool_id_seq');
    INSERT INTO pool SELECT n.*;
    done := audit(who, 'pool', n.id, 'add', NULL, jsonb_strip_nulls(to_jsonb(n)));
    RETURN n.id;
END $$;

COMMENT ON FUNCTION public.pool_add(facts jsonb, who public.actor) IS 'Add a pool; returns its id.';

CREATE FUNCTION public.pool_allocate(i integer, named text, fam integer, v integer, len integer, facts jsonb, who public.actor) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    s record;
BEGIN
    s := pool_sources(i, named, fam, v, len);
    IF s.pool_id IS NULL THEN
        RAISE EXCEPTION 'non-existing pool specified' USING ERRCODE = 'NP100';
    END IF;
    IF s.default_type IS NULL AND facts ->> 'type' IS NULL THEN
        RAISE EXCEPTION 'Unknown prefix type' USING ERRCODE = 'NP200', COLUMN = 'type';
    END IF;
    RETURN prefix_allocate(s.v, s.pool_id, s.networks, s.len, jsonb_build_object('type', s.default_type) || facts, who);
END $$;

COMMENT ON FUNCTION public.pool_allocate(i integer, named text, fam integer, v integer, len integer, facts jsonb, who public.actor) IS 'Add the lowest free block of a pool; its type is that of the pool unless the facts name one, and one of them must.';

CREATE FUNCTION public.pool_edit(i integer, changes jsonb, who public.actor) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
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
    done := audit(who, 'pool', i, 'edit', facts, jsonb_strip_nulls(to_jsonb(n)));
    RETURN true;
END $$;

COMMENT ON FUNCTION public.pool_edit(i integer, changes jsonb, who public.actor) IS 'Edit a pool; a new default length recounts the free blocks of its members. False when it is not there.';

CREATE FUNCTION public.pool_find_free(i integer, named text, fam integer, len integer, wanted integer) RETURNS SETOF cidr
    LANGUAGE plpgsql STABLE
    SET enable_seqscan TO 'off'
    AS $$
DECLARE
    s record;
BEGIN
    s := pool_sources(i, named, fam, NULL, len);
    IF s.pool_id IS NULL THEN
        RAISE EXCEPTION 'Non-existent pool specified' USING ERRCODE = 'NP300';
    END IF;
    RETURN QUERY SELECT * FROM find_free(s.v, s.networks, s.len, wanted);
END $$;

COMMENT ON FUNCTION public.pool_find_free(i integer, named text, fam integer, len integer, wanted integer) IS 'The lowest free blocks of a pool, at most as many as wanted.';

CREATE FUNCTION public.pool_remove(i integer, who public.actor) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
DECLARE
    done boolean;
    facts jsonb := lock_pool_members(i);
BEGIN
    IF facts IS NULL THEN
        RETURN false;
    END IF;
    WITH old AS MATERIALIZED (
        SELECT p AS row FROM prefix p WHERE pool_id = i
    ), changed AS (
        UPDATE prefix t SET pool_id = NULL, free_blocks = NULL, last_modified = now() FROM old WHERE t.id = (old.row).id
        RETURNING t.id, prefix_facts(old.row) AS before, prefix_facts(t) AS after
    )
    INSERT INTO audit_log (username, authenticated_as, full_name, authoritative_source, object_type, object_id, action, before, after)
    SELECT (who).username, (who).authenticated_as, (who).full_name, (who).authoritative_source, 'prefix', id, 'edit', before, after FROM changed;
    DELETE FROM pool WHERE id = i;
    done := audit(who, 'pool', i, 'remove', facts, NULL);
    RETURN true;
END $$;

COMMENT ON FUNCTION public.pool_remove(i integer, who public.actor) IS 'Remove a pool; its members stay, without a pool. False when it is not there.';

CREATE FUNCTION public.pool_sources(i integer, named text, fam integer, INOUT v integer, INOUT len integer, OUT pool_id integer, OUT default_type text, OUT networks cidr[]) RETURNS record
    LANGUAGE plpgsql STABLE
    AS $$
DECLARE
    o pool;
    implied int;
BEGIN
    IF named IS NULL THEN
        SELECT * INTO o FROM pool WHERE id = i;
    ELSE
        SELECT * INTO o FROM pool WHERE lower(name) = lower(named) AND name = named;
    END IF;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    pool_id := o.id;
    default_type := o.default_type;
    SELECT min(m.vrf_id), array_agg(m.prefix ORDER BY m.prefix) FILTER (WHERE family(m.prefix) = fam) INTO implied, networks
    FROM prefix m WHERE m.pool_id = o.id;
    IF implied IS NULL THEN
        RAISE EXCEPTION 'No prefixes in pool' USING ERRCODE = 'NP100';
    ELSIF networks IS NULL THEN
        RAISE EXCEPTION 'No prefixes of family % in pool', fam USING ERRCODE = 'NP100', COLUMN = 'family';
    ELSIF v <> implied THEN
        RAISE EXCEPTION 'VRF must be the same as the pools implied VRF' USING ERRCODE = 'NP100', COLUMN = 'vrf_id';
    END IF;
    v := implied;
    len := coalesce(len, CASE fam WHEN 4 THEN o.ipv4_default_prefix_length ELSE o.ipv6_default_prefix_length END);
    IF len IS NULL THEN
        RAISE EXCEPTION '''prefix_length'' must be specified, the pool has no default prefix length for IPv%', fam USING ERRCODE = 'NP110', COLUMN = 'prefix_length';
    END IF;
END $$;

COMMENT ON FUNCTION public.pool_sources(i integer, named text, fam integer, INOUT v integer, INOUT len integer, OUT pool_id integer, OUT default_type text, OUT networks cidr[]) IS 'Where blocks of a family are taken from: the members of a pool, by id or name, their VRF, which must be v unless that is NULL, the length and the type of the pool unless given. No pool_id: there is no such pool.';

CREATE FUNCTION public.prefix_add(v integer, x cidr, facts jsonb, who public.actor) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
BEGIN
    RETURN insert_under(lock_owner(v, x), v, x, facts, who);
END $$;

COMMENT ON FUNCTION public.prefix_add(v integer, x cidr, facts jsonb, who public.actor) IS 'Add a prefix; returns its id. facts: its columns but vrf_id and prefix, defaults filled in.';

CREATE FUNCTION public.prefix_add_many(items jsonb, who public.actor) RETURNS bigint[]
    LANGUAGE plpgsql
    AS $$
DECLARE
    ids bigint[];
BEGIN
    PERFORM make_incoming();
    -- Additions of many to one VRF take turns from the beginning: else the one that waits has chosen its owners in vain.
    PERFORM pg_advisory_xact_lock(5466128, v) FROM (
        SELECT DISTINCT (item ->> 'vrf_id')::int AS v FROM jsonb_array_elements(items) item ORDER BY v) q;
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
            'id', i.id, 'parent_id', i.parent_id, 'children', coalesce(k.children, 0), 'added', now(), 'last_modified', now(),
            'used_addresses', CASE WHEN masklen(i.prefix) = full_length(i.prefix) THEN 1 ELSE coalesce(k.size, 0) END)) AS row
        FROM incoming i LEFT JOIN (
            SELECT parent_id, count(*) AS children, sum(prefix_size(prefix)) AS size FROM incoming WHERE inside GROUP BY parent_id) k
            ON k.parent_id = i.id
        OFFSET 0) n;
    INSERT INTO prefix_words SELECT p.id, words_of(p) FROM incoming i JOIN prefix p ON p.id = i.id;
    INSERT INTO audit_log (username, authenticated_as, full_name, authoritative_source, object_type, object_id, action, after)
    SELECT (who).username, (who).authenticated_as, (who).full_name, (who).authoritative_source, 'prefix', i.id, 'add', prefix_facts(p)
    FROM incoming i JOIN prefix p ON p.id = i.id ORDER BY i.ord;
    PERFORM count_incoming();
    RETURN ids;
END $$;

COMMENT ON FUNCTION public.prefix_add_many(items jsonb, who public.actor) IS 'Add many prefixes; returns their ids in the order given. items: their columns, vrf_id and prefix among them. The column of an error is the number of the item it is about.';

CREATE FUNCTION public.prefix_allocate(v integer, from_pool integer, sources cidr[], len integer, facts jsonb, who public.actor) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    source cidr;
    block cidr;
    p prefix;
BEGIN
    FOREACH source IN ARRAY sources LOOP
        -- Several sources are looked at without a lock first, else two clients that name them in opposite order deadlock.
        CONTINUE WHEN cardinality(sources) > 1 AND probe_source(source_owner(v, source), v, source, len, NULL) IS NULL;
        p := lock_source(v, source);
        IF from_pool IS NOT NULL AND (p.prefix IS DISTINCT FROM source OR p.pool_id IS DISTINCT FROM from_pool) THEN
            -- It has been moved or has left the pool; wherever it is now there may be room.
            RAISE EXCEPTION 'the members of pool % have changed', from_pool USING ERRCODE = '40001';
        END IF;
        block := probe_source(p, v, source, len, NULL);
        IF block IS NOT NULL THEN
            RETURN insert_under(p, v, block, facts, who);
        END IF;
    END LOOP;
    IF from_pool IS NOT NULL AND sources IS DISTINCT FROM
       ARRAY(SELECT prefix FROM prefix WHERE pool_id = from_pool AND family(prefix) = family(sources[1]) ORDER BY vrf_id, prefix) THEN
        RAISE EXCEPTION 'the members of pool % have changed', from_pool USING ERRCODE = '40001';
    END IF;
    RAISE EXCEPTION 'no free prefix found' USING ERRCODE = 'NP300';
END $$;

COMMENT ON FUNCTION public.prefix_allocate(v integer, from_pool integer, sources cidr[], len integer, facts jsonb, who public.actor) IS 'Find the lowest free block of a length in the first source that has one and add it. from_pool: the sources must still be members of it.';

CREATE FUNCTION public.prefix_edit(i bigint, place cidr, changes jsonb, who public.actor) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
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
    done := audit(who, 'prefix', i, 'edit', prefix_facts(x), prefix_facts(n));
    RETURN true;
END $$;

COMMENT ON FUNCTION public.prefix_edit(i bigint, place cidr, changes jsonb, who public.actor) IS 'Edit one prefix, found at a place; changes may move it, change its type or its pool. False when it is not there.';

CREATE FUNCTION public.prefix_edit_many(ids bigint[], changes jsonb, who public.actor) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    edited bigint;
    logged bigint;
BEGIN
    -- Locked in order first, so that two such edits cannot deadlock; then one statement, however many.
    WITH old AS MATERIALIZED (
        SELECT p AS row FROM prefix p WHERE id = ANY (ids) ORDER BY vrf_id, prefix FOR NO KEY UPDATE
    ), changed AS (
        UPDATE prefix t SET
            status = n.status, description = n.description, comment = n.comment, node = n.node, country = n.country,
            order_id = n.order_id, customer_id = n.customer_id, external_key = n.external_key, alarm_priority = n.alarm_priority,
            monitor = n.monitor, vlan = n.vlan, tags = n.tags, avps = n.avps, expires = n.expires,
            authoritative_source = n.authoritative_source, last_modified = now()
        FROM old, LATERAL jsonb_populate_record(old.row, changes) n
        WHERE t.id = (old.row).id
        RETURNING t.id, prefix_facts(old.row) AS before, prefix_facts(t) AS after,
            n.prefix = t.prefix AND n.type = t.type AND n.pool_id IS NOT DISTINCT FROM t.pool_id
            AND (t.node IS NOT DISTINCT FROM (old.row).node OR check_node(t.prefix, t.type, t.node)) AND check_vlan(t.vlan, (old.row).vlan) AS in_place
    ), entry AS (
        INSERT INTO audit_log (username, authenticated_as, full_name, authoritative_source, object_type, object_id, action, before, after)
        SELECT (who).username, (who).authenticated_as, (who).full_name, (who).authoritative_source, 'prefix', id, 'edit', before, after
        FROM changed WHERE in_place
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM changed), (SELECT count(*) FROM entry) INTO edited, logged;
    IF edited <> logged THEN
        RAISE EXCEPTION 'prefixes were moved meanwhile' USING ERRCODE = '40001';
    END IF;
    RETURN edited;
END $$;

COMMENT ON FUNCTION public.prefix_edit_many(ids bigint[], changes jsonb, who public.actor) IS 'Edit any number of prefixes by changes that leave place, type and pool as they are. Returns how many are there.';

CREATE FUNCTION public.prefix_facts(p public.prefix) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN jsonb_strip_nulls((to_jsonb(p) - '{parent_id,children,used_addresses,free_blocks}'::text[]));

COMMENT ON FUNCTION public.prefix_facts(p public.prefix) IS 'The stored facts of a prefix, without what is derived and without nulls.';

CREATE FUNCTION public.prefix_move(x public.prefix, n public.prefix) RETURNS public.prefix
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.prefix_move(x public.prefix, n public.prefix) IS 'Move the row x to the place n.prefix; returns n with its derived columns, which the caller stores.';

CREATE FUNCTION public.prefix_remove(i bigint, place cidr, recursive boolean, who public.actor) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
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
    done := audit(who, 'prefix', i, 'remove', prefix_facts(x), NULL);
    RETURN true;
END $$;

COMMENT ON FUNCTION public.prefix_remove(i bigint, place cidr, recursive boolean, who public.actor) IS 'Remove a prefix, found at a place unless that is NULL; its children move up; recursive: with everything inside. False when it is not there.';

CREATE FUNCTION public.prefix_remove_one(i bigint, recursive boolean, who public.actor) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF NOT prefix_remove(i, NULL, recursive, who) THEN
        RAISE EXCEPTION 'No prefix with id % found.', i USING ERRCODE = 'NP300';
    END IF;
END $$;

COMMENT ON FUNCTION public.prefix_remove_one(i bigint, recursive boolean, who public.actor) IS 'Remove the prefix that has an id, wherever it is.';

CREATE FUNCTION public.prefix_size(x inet) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN public.exp2((public.full_length(x) - masklen(x)));

COMMENT ON FUNCTION public.prefix_size(x inet) IS 'Number of addresses in a network.';

CREATE FUNCTION public.probe_source(p public.prefix, v integer, source cidr, len integer, after inet) RETURNS cidr
    LANGUAGE plpgsql STABLE
    AS $$
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

COMMENT ON FUNCTION public.probe_source(p public.prefix, v integer, source cidr, len integer, after inet) IS 'Lowest free block of a length in a source whose owner (see source_owner) is p, behind an address when one is given; takes no lock.';

CREATE FUNCTION public.range_fit(a inet, z inet) RETURNS integer
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    around inet := inet_merge(a, z);
    n int := masklen(around);
    width int := masklen(a);
    at_start boolean := set_masklen(around, width) = a;
    at_end boolean := set_masklen(broadcast(around), width) = z;
BEGIN
    IF at_start AND at_end THEN
        RETURN n;
    ELSIF at_start OR at_end THEN
        RETURN n + 1;
    END IF;
    -- a lies in the lower half of what is around both, z in the upper one: the largest block of each half that
    -- reaches the middle begins one bit below where a - 1 (or z + 1) and the middle part.
    RETURN 1 + least(
        masklen(inet_merge(a - 1, set_masklen(broadcast(set_masklen(a, n + 1)), width))),
        masklen(inet_merge(z + 1, set_masklen(network(set_masklen(z, n + 1))::inet, width))));
END $$;

COMMENT ON FUNCTION public.range_fit(a inet, z inet) IS 'Prefix length of the largest aligned block in a range.';

CREATE FUNCTION public.range_owner(p public.prefix, v integer, x inet) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN COALESCE((p).id, (('-1'::integer - (2 * (v)::bigint)) - CASE family(x) WHEN 4 THEN 0 ELSE 1 END));

COMMENT ON FUNCTION public.range_owner(p public.prefix, v integer, x inet) IS 'Owner of the free ranges directly inside p or, when p is NULL, inside the address space of a VRF in the family of x.';

CREATE FUNCTION public.refuse_duplicate(v integer, x cidr) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION 'Duplicate value for ''prefix'', the value ''%, %'' is already in use.', v, x USING ERRCODE = 'NP400', COLUMN = 'prefix';
END $$;

COMMENT ON FUNCTION public.refuse_duplicate(v integer, x cidr) IS 'Say that x is taken.';

CREATE FUNCTION public.refuse_incoming() RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    about text;
    done boolean;
    r record;
    n prefix;
    p prefix;
BEGIN
    -- The first one, in the order given, that breaks a rule; its number travels before the attribute as the column of the error.
    -- No EXISTS for duplicates: of one beside an OR PostgreSQL hashes all prefixes there are, a third of a second for half a million.
    FOR r IN
        SELECT * FROM (
            SELECT i.ord, i.vrf_id, i.prefix, i.type, i.facts ->> 'node' AS node, i.parent_id,
                   coalesce(above.type, stored.type) AS parent_type, coalesce(above.prefix, stored.prefix) AS parent_prefix,
                   coalesce(i.prefix = lag(i.prefix) OVER w AND i.vrf_id = lag(i.vrf_id) OVER w, false)
                   OR (SELECT true FROM prefix d WHERE d.vrf_id = i.vrf_id AND d.prefix = i.prefix) IS NOT NULL AS duplicate
            FROM incoming i
            LEFT JOIN incoming above ON above.id = i.parent_id AND i.inside
            LEFT JOIN prefix stored ON stored.id = i.owner_id
            WINDOW w AS (ORDER BY i.vrf_id, i.prefix, i.ord)) c
        WHERE duplicate OR node IS NOT NULL OR NOT CASE type
            WHEN 'host' THEN coalesce(parent_type = 'assignment', false) AND masklen(prefix) = full_length(prefix)
            ELSE parent_type IS NULL OR parent_type = 'reservation' END
        ORDER BY ord
    LOOP
        BEGIN
            IF r.duplicate THEN
                RAISE EXCEPTION 'Duplicate value for ''prefix'', the value ''%, %'' is already in use.', r.vrf_id, r.prefix USING ERRCODE = 'NP400', COLUMN = 'prefix';
            END IF;
            n.prefix := r.prefix;
            n.type := r.type;
            p.id := r.parent_id;
            p.prefix := r.parent_prefix;
            p.type := r.parent_type;
            done := check_place(p, n);
            done := check_node(r.prefix, r.type, r.node);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS about = COLUMN_NAME;
            RAISE EXCEPTION '%', SQLERRM USING ERRCODE = SQLSTATE, COLUMN = r.ord || ' ' || about;
        END;
    END LOOP;
END $$;

COMMENT ON FUNCTION public.refuse_incoming() IS 'Refuse incoming prefixes that are there already, whose types do not nest or that must not have a node.';

CREATE FUNCTION public.source_owner(v integer, source cidr) RETURNS public.prefix
    LANGUAGE plpgsql STABLE
    AS $$
DECLARE
    p prefix;
BEGIN
    SELECT * INTO p FROM prefix WHERE vrf_id = v AND prefix = source;
    IF NOT FOUND THEN
        SELECT * INTO p FROM prefix WHERE id = closest_parent(v, source);
    END IF;
    RETURN p;
END $$;

COMMENT ON FUNCTION public.source_owner(v integer, source cidr) IS 'The stored prefix whose free ranges a source to allocate from lies in: itself or its closest parent; NULL at the top level.';

CREATE FUNCTION public.supernets(x inet) RETURNS cidr[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ARRAY(SELECT network(set_masklen(supernets.x, g.g)) AS network FROM generate_series((masklen(supernets.x) - 1), 0, '-1'::integer) g(g));

COMMENT ON FUNCTION public.supernets(x inet) IS 'All networks that cover x, longest first, without x itself.';

CREATE FUNCTION public.take_incoming() RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    -- Where each block is taken from: a prefix that had no children is one space, else it is the free range around it.
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

COMMENT ON FUNCTION public.take_incoming() IS 'Take the incoming prefixes out of the free ranges around them.';

CREATE FUNCTION public.take_range(o bigint, leaf_space cidr, x cidr, len integer) RETURNS numeric
    LANGUAGE plpgsql
    AS $$
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

COMMENT ON FUNCTION public.take_range(o bigint, leaf_space cidr, x cidr, len integer) IS 'Take block x out of the free ranges of an owner; leaf_space: its whole network when it had no rows yet. Returns the change of its free blocks.';

CREATE FUNCTION public.vrf_add(facts jsonb, who public.actor) RETURNS integer
    LANGUAGE plpgsql
    AS $$
DECLARE
    done boolean;
    n vrf := jsonb_populate_record(NULL::vrf, facts);
BEGIN
    n.id := nextval('vrf_id_seq');
    INSERT INTO vrf SELECT n.*;
    INSERT INTO free_range VALUES
        (-1 - 2 * n.id::bigint, '0.0.0.0', '255.255.255.255', 0),
        (-2 - 2 * n.id::bigint, '::', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 0);
    done := audit(who, 'vrf', n.id, 'add', NULL, vrf_facts(n));
    RETURN n.id;
END $$;

COMMENT ON FUNCTION public.vrf_add(facts jsonb, who public.actor) IS 'Add a VRF with its two empty address spaces; returns its id.';

CREATE FUNCTION public.vrf_edit(i integer, changes jsonb, who public.actor) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
DECLARE
    done boolean;
    x vrf;
    n vrf;
BEGIN
    SELECT * INTO x FROM vrf WHERE id = i FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    n := jsonb_populate_record(x, changes);
    UPDATE vrf SET rt = n.rt, rt_rank = n.rt_rank, name = n.name, description = n.description, tags = n.tags, avps = n.avps WHERE id = i;
    done := audit(who, 'vrf', i, 'edit', vrf_facts(x), vrf_facts(n));
    RETURN true;
END $$;

COMMENT ON FUNCTION public.vrf_edit(i integer, changes jsonb, who public.actor) IS 'Edit a VRF. False when it is not there.';

CREATE TABLE public.vrf (
    id integer NOT NULL,
    rt text,
    rt_rank numeric(20,0) NOT NULL,
    name text NOT NULL,
    description text,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    avps jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT vrf_avps_check CHECK ((jsonb_typeof(avps) = 'object'::text)),
    CONSTRAINT vrf_default_check CHECK (((id = 0) = (rt IS NULL)))
);

COMMENT ON TABLE public.vrf IS 'Virtual routing and forwarding instances: each is an address space of its own. VRF 0, without route target, always exists.';

COMMENT ON COLUMN public.vrf.id IS 'Identity; 0 is the default VRF.';

COMMENT ON COLUMN public.vrf.rt IS 'Route target (RFC 4364) as ASN:n or a.b.c.d:n without leading zeros; NULL for VRF 0 only.';

COMMENT ON COLUMN public.vrf.rt_rank IS 'Route target as a number, administrator * 2^32 + n; -1 for VRF 0. Orders answers; different spellings may share one.';

COMMENT ON COLUMN public.vrf.name IS 'Name, unique without regard to case.';

COMMENT ON COLUMN public.vrf.description IS 'Free text.';

COMMENT ON COLUMN public.vrf.tags IS 'Tags in the order given, duplicates kept.';

COMMENT ON COLUMN public.vrf.avps IS 'Attribute-value pairs, string to string.';

CREATE FUNCTION public.vrf_facts(t public.vrf) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN jsonb_strip_nulls((to_jsonb(t) - 'rt_rank'::text));

COMMENT ON FUNCTION public.vrf_facts(t public.vrf) IS 'The stored facts of a VRF, without nulls.';

CREATE FUNCTION public.vrf_remove(v integer, who public.actor) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
DECLARE
    done boolean;
    facts jsonb;
    space cidr;
BEGIN
    SELECT jsonb_strip_nulls(to_jsonb(t) - 'rt_rank') INTO facts FROM vrf t WHERE id = v FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- A stored 0.0.0.0/0 is not inside itself: it goes by its own name, first of its family.
    FOREACH space IN ARRAY ARRAY[cidr '0.0.0.0/0', cidr '::/0'] LOOP
        PERFORM FROM prefix WHERE vrf_id = v AND prefix = space FOR UPDATE;
        PERFORM lock_inside(v, space);
        PERFORM delete_inside(v, space, who);
        WITH gone AS (DELETE FROM prefix p WHERE vrf_id = v AND prefix = space RETURNING p.id, prefix_facts(p) AS facts),
             ranges AS (DELETE FROM free_range USING gone WHERE owner = gone.id),
             texts AS (DELETE FROM prefix_words USING gone WHERE prefix_id = gone.id)
        INSERT INTO audit_log (username, authenticated_as, full_name, authoritative_source, object_type, object_id, action, before)
        SELECT (who).username, (who).authenticated_as, (who).full_name, (who).authoritative_source, 'prefix', id, 'remove', gone.facts FROM gone;
    END LOOP;
    DELETE FROM free_range WHERE owner IN (-1 - 2 * v::bigint, -2 - 2 * v::bigint);
    DELETE FROM vrf WHERE id = v;
    done := audit(who, 'vrf', v, 'remove', facts, NULL);
    RETURN true;
END $$;

COMMENT ON FUNCTION public.vrf_remove(v integer, who public.actor) IS 'Remove a VRF with all its prefixes. False when it is not there.';

CREATE TABLE public.webhook (
    id integer NOT NULL,
    url text NOT NULL,
    secret text NOT NULL,
    description text,
    kinds text[] DEFAULT '{}'::text[] NOT NULL,
    vrf_ids bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    pool_ids bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    added timestamp with time zone DEFAULT now() NOT NULL,
    cursor bigint NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    failing_since timestamp with time zone,
    next_attempt timestamp with time zone,
    last_error text,
    delivered bigint DEFAULT 0 NOT NULL,
    failed bigint DEFAULT 0 NOT NULL
);

COMMENT ON TABLE public.webhook IS 'Receivers of events over HTTP.';

COMMENT ON COLUMN public.webhook.id IS 'Identity.';

COMMENT ON COLUMN public.webhook.url IS 'Where events are posted to.';

COMMENT ON COLUMN public.webhook.secret IS 'Key of the signature; as it is, since signing takes it.';

COMMENT ON COLUMN public.webhook.description IS 'What it is for.';

COMMENT ON COLUMN public.webhook.kinds IS 'Kinds of object whose events are wanted; empty: all.';

COMMENT ON COLUMN public.webhook.vrf_ids IS 'VRFs whose events are wanted, with their prefixes; empty: all.';

COMMENT ON COLUMN public.webhook.pool_ids IS 'Pools whose events are wanted, with their members; empty: all.';

COMMENT ON COLUMN public.webhook.tags IS 'Tags of objects whose events are wanted; empty: all.';

COMMENT ON COLUMN public.webhook.enabled IS 'Whether events are sent.';

COMMENT ON COLUMN public.webhook.added IS 'When it was added.';

COMMENT ON COLUMN public.webhook.cursor IS 'The position up to which everything was delivered, given up, or not wanted.';

COMMENT ON COLUMN public.webhook.attempts IS 'Attempts that failed one after the other.';

COMMENT ON COLUMN public.webhook.failing_since IS 'When the first of them did.';

COMMENT ON COLUMN public.webhook.next_attempt IS 'When to try again.';

COMMENT ON COLUMN public.webhook.last_error IS 'What went wrong last.';

COMMENT ON COLUMN public.webhook.delivered IS 'Events that were delivered.';

COMMENT ON COLUMN public.webhook.failed IS 'Attempts that failed, ever.';

CREATE FUNCTION public.webhook_facts(t public.webhook) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN jsonb_strip_nulls((to_jsonb(t) - '{secret,cursor,attempts,failing_since,next_attempt,last_error,delivered,failed}'::text[]));

COMMENT ON FUNCTION public.webhook_facts(t public.webhook) IS 'What clients set of a webhook, without its secret and without nulls.';

CREATE FUNCTION public.whole_space(p public.prefix, x inet) RETURNS cidr
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN COALESCE((p).prefix, CASE family(x) WHEN 4 THEN '0.0.0.0/0'::cidr ELSE '::/0'::cidr END);

COMMENT ON FUNCTION public.whole_space(p public.prefix, x inet) IS 'The network of p or, when p is NULL, the whole address space in the family of x.';

CREATE FUNCTION public.words_of(p public.prefix) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((((((((COALESCE((p).comment, ''::text) || '
'::text) || COALESCE((p).description, ''::text)) || '
'::text) || COALESCE((p).node, ''::text)) || '
'::text) || COALESCE((p).order_id, ''::text)) || '
'::text) || COALESCE((p).customer_id, ''::text));

COMMENT ON FUNCTION public.words_of(p public.prefix) IS 'The text of a prefix that word searches look at, a line for each attribute.';

CREATE TABLE public.asn (
    asn bigint NOT NULL,
    name text,
    CONSTRAINT asn_range_check CHECK (((asn >= 1) AND (asn <= '4294967295'::bigint)))
);

COMMENT ON TABLE public.asn IS 'Autonomous systems.';

COMMENT ON COLUMN public.asn.asn IS 'AS number (RFC 6793).';

COMMENT ON COLUMN public.asn.name IS 'Name.';

CREATE TABLE public.audit_log (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    username text NOT NULL,
    authenticated_as text NOT NULL,
    full_name text,
    authoritative_source text NOT NULL,
    object_type text NOT NULL,
    object_id bigint NOT NULL,
    action text NOT NULL,
    before jsonb,
    after jsonb,
    change bigint DEFAULT (NULLIF(current_setting('nipap.change'::text, true), ''::text))::bigint
);

COMMENT ON TABLE public.audit_log IS 'Every change: written in the transaction of the change itself, never updated.';

COMMENT ON COLUMN public.audit_log.id IS 'Identity; grows, with gaps.';

COMMENT ON COLUMN public.audit_log.at IS 'When the transaction of the change began.';

COMMENT ON COLUMN public.audit_log.username IS 'On whose behalf.';

COMMENT ON COLUMN public.audit_log.authenticated_as IS 'Who proved their identity; differs from username when a trusted user acts for somebody.';

COMMENT ON COLUMN public.audit_log.full_name IS 'Full name that goes with username, when known.';

COMMENT ON COLUMN public.audit_log.authoritative_source IS 'The system that the change came from.';

COMMENT ON COLUMN public.audit_log.object_type IS 'vrf, pool, prefix, asn or webhook.';

COMMENT ON COLUMN public.audit_log.object_id IS 'Id of the object; the AS number itself for asn.';

COMMENT ON COLUMN public.audit_log.action IS 'add, edit, remove or, of dead letters of a webhook, resend.';

COMMENT ON COLUMN public.audit_log.before IS 'Stored values before, without nulls; NULL for add. Of webhooks what clients set, without secrets.';

COMMENT ON COLUMN public.audit_log.after IS 'Stored values after, without nulls; NULL for remove. Of webhooks what clients set, without secrets, and secret_changed or the dead letters that are sent again.';

COMMENT ON COLUMN public.audit_log.change IS 'Number of the call that made the change: time and chance; NULL for what is never looked for.';

ALTER TABLE public.audit_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.audit_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.dead_letter (
    id bigint NOT NULL,
    webhook_id integer NOT NULL,
    "position" bigint NOT NULL,
    event jsonb NOT NULL,
    error text NOT NULL,
    added timestamp with time zone DEFAULT now() NOT NULL,
    again boolean DEFAULT false NOT NULL
);

COMMENT ON TABLE public.dead_letter IS 'Events that a webhook did not take for hours.';

COMMENT ON COLUMN public.dead_letter.id IS 'Identity.';

COMMENT ON COLUMN public.dead_letter.webhook_id IS 'The webhook.';

COMMENT ON COLUMN public.dead_letter."position" IS 'Position of the event.';

COMMENT ON COLUMN public.dead_letter.event IS 'What would have been sent; the event itself may be removed.';

COMMENT ON COLUMN public.dead_letter.error IS 'What went wrong last.';

COMMENT ON COLUMN public.dead_letter.added IS 'When it was given up.';

COMMENT ON COLUMN public.dead_letter.again IS 'Whether it is to be sent once more.';

ALTER TABLE public.dead_letter ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.dead_letter_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.event (
    "position" bigint NOT NULL,
    audit_id bigint NOT NULL,
    created timestamp with time zone DEFAULT now() NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_threshold='1000');

COMMENT ON TABLE public.event IS 'Entries of the audit log in the order in which they are delivered; a row lives for event_retention_hours at least.';

COMMENT ON COLUMN public.event."position" IS 'Grows; who sees one sees all before it.';

COMMENT ON COLUMN public.event.audit_id IS 'The entry of the audit log.';

COMMENT ON COLUMN public.event.created IS 'When it got its position.';

CREATE TABLE public.event_state (
    settled bigint,
    last_position bigint DEFAULT 0 NOT NULL,
    removed bigint DEFAULT 0 NOT NULL,
    kafka_cursor bigint,
    kafka_delivered bigint DEFAULT 0 NOT NULL,
    kafka_failed bigint DEFAULT 0 NOT NULL
);

COMMENT ON TABLE public.event_state IS 'How far events have come; one row.';

COMMENT ON COLUMN public.event_state.settled IS 'No transaction can add an audit entry with this id or a lower one any more, and all there are were looked at. NULL: nobody has looked yet.';

COMMENT ON COLUMN public.event_state.last_position IS 'The highest position that was given.';

COMMENT ON COLUMN public.event_state.removed IS 'The highest position that was removed since it was old.';

COMMENT ON COLUMN public.event_state.kafka_cursor IS 'Kafka has confirmed everything up to this position; NULL: it was never used.';

COMMENT ON COLUMN public.event_state.kafka_delivered IS 'Events that Kafka has confirmed.';

COMMENT ON COLUMN public.event_state.kafka_failed IS 'Attempts that it refused.';

CREATE TABLE public.free_range (
    owner bigint NOT NULL,
    first_address inet NOT NULL,
    last_address inet NOT NULL,
    fit smallint NOT NULL
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.05');

COMMENT ON TABLE public.free_range IS 'Derived: maximal free ranges directly inside an owner. A prefix without children has no rows: it is free as a whole.';

COMMENT ON COLUMN public.free_range.owner IS 'Id of the prefix, or negative for the whole address space of a VRF: -1 - 2 * vrf_id for IPv4, -2 - 2 * vrf_id for IPv6.';

COMMENT ON COLUMN public.free_range.first_address IS 'First free address, full length.';

COMMENT ON COLUMN public.free_range.last_address IS 'Last free address, full length.';

COMMENT ON COLUMN public.free_range.fit IS 'Prefix length of the largest aligned block inside the range.';

CREATE TABLE public.idempotency (
    authenticated_as text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    answer bytea NOT NULL,
    created timestamp with time zone DEFAULT now() NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_threshold='1000');
ALTER TABLE ONLY public.idempotency ALTER COLUMN answer SET STORAGE EXTERNAL;

COMMENT ON TABLE public.idempotency IS 'Calls with an idempotency key and what was answered to them; a row lives for idempotency_hours.';

COMMENT ON COLUMN public.idempotency.authenticated_as IS 'Who proved their identity: each user has keys of their own.';

COMMENT ON COLUMN public.idempotency.key IS 'The key, as the client chose it.';

COMMENT ON COLUMN public.idempotency.fingerprint IS 'Hash of the acting user, the method and its arguments: the key is good for these alone.';

COMMENT ON COLUMN public.idempotency.answer IS 'What was answered: JSON with marks for what JSON has not, compressed (zlib).';

COMMENT ON COLUMN public.idempotency.created IS 'When it was answered.';

ALTER TABLE public.pool ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.pool_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE public.prefix ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.prefix_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.prefix_words (
    prefix_id bigint NOT NULL,
    words text NOT NULL
)
WITH (fillfactor='100', autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_threshold='1000');

COMMENT ON TABLE public.prefix_words IS 'Derived: the text of a prefix, for searches.';

COMMENT ON COLUMN public.prefix_words.prefix_id IS 'The prefix.';

COMMENT ON COLUMN public.prefix_words.words IS 'comment, description, node, order_id and customer_id, a line each.';

CREATE TABLE public.schema_functions (
    fingerprint text NOT NULL,
    signatures text[] NOT NULL
);

COMMENT ON TABLE public.schema_functions IS 'Which functions are in place; one row.';

COMMENT ON COLUMN public.schema_functions.fingerprint IS 'Hash of the text.';

COMMENT ON COLUMN public.schema_functions.signatures IS 'Their signatures: they are dropped before others are put in place.';

CREATE TABLE public.schema_migration (
    version integer NOT NULL,
    name text NOT NULL,
    applied timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE public.schema_migration IS 'The migrations that this database has seen.';

COMMENT ON COLUMN public.schema_migration.version IS 'Number of the migration; the highest is the version of the schema.';

COMMENT ON COLUMN public.schema_migration.name IS 'What it is called.';

COMMENT ON COLUMN public.schema_migration.applied IS 'When it was applied.';

ALTER TABLE public.vrf ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.vrf_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.vrf_total (
    vrf_id integer NOT NULL,
    family smallint NOT NULL,
    slot smallint NOT NULL,
    num_prefixes bigint DEFAULT 0 NOT NULL,
    total_addresses numeric DEFAULT 0 NOT NULL,
    used_addresses numeric DEFAULT 0 NOT NULL,
    CONSTRAINT vrf_total_family_check CHECK ((family = ANY (ARRAY[4, 6])))
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='200');

COMMENT ON TABLE public.vrf_total IS 'Totals of a VRF, spread over several rows a family; the sum counts, single rows may be negative.';

COMMENT ON COLUMN public.vrf_total.vrf_id IS 'The VRF.';

COMMENT ON COLUMN public.vrf_total.family IS 'Address family, 4 or 6.';

COMMENT ON COLUMN public.vrf_total.slot IS 'Arbitrary number that spreads writers.';

COMMENT ON COLUMN public.vrf_total.num_prefixes IS 'Share of the number of prefixes in the VRF.';

COMMENT ON COLUMN public.vrf_total.total_addresses IS 'Share of the sum of the sizes of prefixes without parent.';

COMMENT ON COLUMN public.vrf_total.used_addresses IS 'Share of the sum of used_addresses of prefixes without parent.';

ALTER TABLE public.webhook ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.webhook_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY public.asn
    ADD CONSTRAINT asn_pkey PRIMARY KEY (asn);

ALTER TABLE ONLY public.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.dead_letter
    ADD CONSTRAINT dead_letter_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_audit_id_key UNIQUE (audit_id);

ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_pkey PRIMARY KEY ("position");

ALTER TABLE ONLY public.free_range
    ADD CONSTRAINT free_range_pkey PRIMARY KEY (owner, last_address);

ALTER TABLE ONLY public.idempotency
    ADD CONSTRAINT idempotency_pkey PRIMARY KEY (authenticated_as, key);

ALTER TABLE ONLY public.pool
    ADD CONSTRAINT pool_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.prefix
    ADD CONSTRAINT prefix_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.prefix_words
    ADD CONSTRAINT prefix_words_pkey PRIMARY KEY (prefix_id);

ALTER TABLE ONLY public.schema_migration
    ADD CONSTRAINT schema_migration_pkey PRIMARY KEY (version);

ALTER TABLE ONLY public.vrf
    ADD CONSTRAINT vrf_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.vrf
    ADD CONSTRAINT vrf_rt_key UNIQUE (rt);

ALTER TABLE ONLY public.vrf_total
    ADD CONSTRAINT vrf_total_pkey PRIMARY KEY (vrf_id, family, slot);

ALTER TABLE ONLY public.webhook
    ADD CONSTRAINT webhook_pkey PRIMARY KEY (id);

CREATE INDEX audit_log_change_idx ON public.audit_log USING btree (change) WHERE (change IS NOT NULL);

COMMENT ON INDEX public.audit_log_change_idx IS 'Whether a call was committed; grows at its end, as numbers begin with the time.';

CREATE INDEX audit_log_object_idx ON public.audit_log USING btree (object_type, object_id, id);

COMMENT ON INDEX public.audit_log_object_idx IS 'The history of one object.';

CREATE INDEX dead_letter_webhook_idx ON public.dead_letter USING btree (webhook_id, "position");

COMMENT ON INDEX public.dead_letter_webhook_idx IS 'The dead letters of one webhook, in order.';

CREATE UNIQUE INDEX event_state_single_idx ON public.event_state USING btree ((true));

COMMENT ON INDEX public.event_state_single_idx IS 'There is one row.';

CREATE INDEX free_range_fit_idx ON public.free_range USING btree (owner, fit, last_address);

COMMENT ON INDEX public.free_range_fit_idx IS 'Finds the lowest range in which a block of a given length fits.';

CREATE INDEX idempotency_created_idx ON public.idempotency USING btree (created);

COMMENT ON INDEX public.idempotency_created_idx IS 'Finds what has expired.';

CREATE UNIQUE INDEX pool_name_key ON public.pool USING btree (lower(name));

COMMENT ON INDEX public.pool_name_key IS 'Names are unique without regard to case.';

CREATE INDEX prefix_avps_idx ON public.prefix USING gin (avps jsonb_path_ops) WHERE ((avps)::jsonb <> '{}'::jsonb);

COMMENT ON INDEX public.prefix_avps_idx IS 'Prefixes by attribute-value pair.';

CREATE INDEX prefix_expires_idx ON public.prefix USING btree (expires) WHERE (expires < 'infinity'::timestamp with time zone);

COMMENT ON INDEX public.prefix_expires_idx IS 'Prefixes that expire.';

CREATE INDEX prefix_external_key_idx ON public.prefix USING btree (external_key) WHERE (external_key IS NOT NULL);

COMMENT ON INDEX public.prefix_external_key_idx IS 'Prefixes by external key.';

CREATE INDEX prefix_macs_idx ON public.prefix USING gin (public.macs_of((avps)::jsonb)) WHERE ((avps)::jsonb <> '{}'::jsonb);

COMMENT ON INDEX public.prefix_macs_idx IS 'Prefixes by a MAC address among their pairs.';

CREATE INDEX prefix_parent_idx ON public.prefix USING btree (parent_id, vrf_id, prefix);

COMMENT ON INDEX public.prefix_parent_idx IS 'Direct children in order, of a prefix or (parent_id IS NULL) of a VRF.';

CREATE INDEX prefix_pool_idx ON public.prefix USING btree (pool_id, vrf_id, prefix) WHERE (pool_id IS NOT NULL);

COMMENT ON INDEX public.prefix_pool_idx IS 'Members of a pool in order.';

CREATE INDEX prefix_tags_idx ON public.prefix USING gin (public.lower_each(tags)) WHERE (tags <> '{}'::text[]);

COMMENT ON INDEX public.prefix_tags_idx IS 'Prefixes by tag, ignoring case.';

CREATE INDEX prefix_vlan_idx ON public.prefix USING btree (vlan) WHERE (vlan IS NOT NULL);

COMMENT ON INDEX public.prefix_vlan_idx IS 'Prefixes by VLAN.';

CREATE UNIQUE INDEX prefix_vrf_prefix_key ON public.prefix USING btree (vrf_id, prefix);

COMMENT ON INDEX public.prefix_vrf_prefix_key IS 'The tree: closest parents, descendants, order of answers.';

CREATE INDEX prefix_words_idx ON public.prefix_words USING gin (words public.gin_trgm_ops) WITH (gin_pending_list_limit='256');

COMMENT ON INDEX public.prefix_words_idx IS 'Words, patterns and like.';

CREATE UNIQUE INDEX vrf_name_key ON public.vrf USING btree (lower(name));

COMMENT ON INDEX public.vrf_name_key IS 'Names are unique without regard to case.';

CREATE UNIQUE INDEX vrf_rank_key ON public.vrf USING btree (rt_rank, id);

COMMENT ON INDEX public.vrf_rank_key IS 'The order of VRFs in answers.';

CREATE TRIGGER prefix_words_update AFTER UPDATE OF comment, description, node, order_id, customer_id ON public.prefix FOR EACH ROW WHEN ((public.words_of(old.*) <> public.words_of(new.*))) EXECUTE FUNCTION public.keep_words();

COMMENT ON TRIGGER prefix_words_update ON public.prefix IS 'Keeps prefix_words.';

ALTER TABLE ONLY public.dead_letter
    ADD CONSTRAINT dead_letter_webhook_id_fkey FOREIGN KEY (webhook_id) REFERENCES public.webhook(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.prefix
    ADD CONSTRAINT prefix_pool_id_fkey FOREIGN KEY (pool_id) REFERENCES public.pool(id);

ALTER TABLE ONLY public.vrf_total
    ADD CONSTRAINT vrf_total_vrf_id_fkey FOREIGN KEY (vrf_id) REFERENCES public.vrf(id) ON DELETE CASCADE;
