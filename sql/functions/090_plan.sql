-- Plans: the consequences of the change of the current transaction, for a report before it is rolled back or committed.
-- The setting nipap.plan is the last audit entry before the change; triggers note rows while it is set.

CREATE FUNCTION make_plan_tables() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass('pg_temp.plan_prefix') IS NULL THEN
        CREATE TEMPORARY TABLE plan_prefix (
            id bigint PRIMARY KEY, vrf_id int, prefix cidr, parent_id bigint, children int, used_addresses numeric, pool_id int, free_blocks numeric,
            added timestamptz
        ) ON COMMIT DELETE ROWS;
        CREATE TEMPORARY TABLE plan_total (
            vrf_id int, family smallint, slot smallint, num_prefixes bigint, total_addresses numeric, used_addresses numeric,
            PRIMARY KEY (vrf_id, family, slot)
        ) ON COMMIT DELETE ROWS;
    END IF;
END $$;
COMMENT ON FUNCTION make_plan_tables() IS 'Create the temporary tables of this session in which triggers note rows, unless they exist.';

CREATE FUNCTION plan_begin() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM make_plan_tables();
    RETURN set_config('nipap.plan', (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM audit_log_id_seq)::text, true);
END $$;
COMMENT ON FUNCTION plan_begin() IS 'Begin to note rows for a plan, until the transaction ends.';

CREATE FUNCTION plan_entries(above bigint, most int) RETURNS SETOF audit_log LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT * FROM audit_log a
    WHERE a.change_set = current_change_set() AND a.id > greatest(above, current_setting('nipap.plan')::bigint) ORDER BY a.id LIMIT most;
END $$;
COMMENT ON FUNCTION plan_entries(bigint, int) IS 'Audit entries of the planned change with higher ids than a given one, in order.';

CREATE FUNCTION plan_adds(kind text, object bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM audit_log a WHERE a.object_type = kind AND a.object_id = object
        AND a.id > current_setting('nipap.plan')::bigint AND a.change_set = current_change_set() AND a.action = 'add');
END $$;
COMMENT ON FUNCTION plan_adds(text, bigint) IS 'Whether the planned change adds an object.';

CREATE FUNCTION plan_rest(listed bigint) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- The ids of new objects and times differ from one run of a change to the next.
    RETURN (SELECT encode(sha256(string_agg(sha256(convert_to(concat_ws(' ', a.object_type, a.action,
            CASE WHEN a.action <> 'add' AND NOT plan_adds(a.object_type, a.object_id) THEN a.object_id END,
            a.before - '{id,added,last_modified,vrf_id,pool_id}'::text[],
            a.after - '{id,added,last_modified,vrf_id,pool_id,expires}'::text[]), 'UTF8')), '' ORDER BY a.id)), 'hex')
        FROM plan_entries(listed, NULL) a);
END $$;
COMMENT ON FUNCTION plan_rest(bigint) IS 'Hash of the audit entries of the planned change with higher ids than a given one. Equal for two runs of the same change.';

CREATE FUNCTION plan_place(object bigint) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN coalesce(
        (SELECT r.prefix FROM pg_temp.plan_prefix r WHERE r.id = object)::text,
        (SELECT p.prefix FROM prefix p WHERE p.id = object)::text,
        (SELECT a.before ->> 'prefix' FROM audit_log a WHERE a.object_type = 'prefix' AND a.object_id = object
            AND a.id > current_setting('nipap.plan')::bigint AND a.change_set = current_change_set() ORDER BY a.id LIMIT 1));
END $$;
COMMENT ON FUNCTION plan_place(bigint) IS 'The network of a prefix before the planned change.';

CREATE FUNCTION plan_existed(noted_added timestamptz, object bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN noted_added <> now() OR NOT plan_adds('prefix', object);
END $$;
COMMENT ON FUNCTION plan_existed(timestamptz, bigint) IS 'Whether a noted prefix existed before the planned change. Looks it up only if it was added when the transaction began.';

CREATE FUNCTION plan_tree(most int) RETURNS json LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        WITH around AS MATERIALIZED (
            SELECT p.id, p.vrf_id, p.prefix, r.parent_id AS former, p.parent_id AS parent, r.prefix AS was, r.children AS children_before, p.children,
                r.used_addresses AS used_before, p.used_addresses AS used
            FROM pg_temp.plan_prefix r JOIN prefix p ON p.id = r.id
            WHERE (r.parent_id, r.children, r.used_addresses, r.prefix) IS DISTINCT FROM (p.parent_id, p.children, p.used_addresses, p.prefix)
                AND plan_existed(r.added, r.id)),
        moved AS (SELECT a.*, row_number() OVER (ORDER BY a.vrf_id, a.prefix) AS n FROM around a WHERE a.former IS DISTINCT FROM a.parent),
        former AS (SELECT f.former AS id, plan_place(f.former) AS prefix FROM (SELECT DISTINCT m.former FROM moved m) f),
        move AS (
            SELECT m.n, m.id, m.vrf_id, m.prefix, m.former, f.prefix AS former_prefix, m.parent, q.prefix AS parent_prefix
            FROM moved m LEFT JOIN former f ON f.id = m.former LEFT JOIN prefix q ON q.id = m.parent),
        counted AS (
            SELECT a.*, row_number() OVER (ORDER BY a.vrf_id, a.prefix) AS n FROM around a
            WHERE (a.children_before, a.used_before, prefix_size(a.was)) IS DISTINCT FROM (a.children, a.used, prefix_size(a.prefix)))
        SELECT json_build_object(
            'moved', (SELECT json_agg(json_build_array(m.id, m.vrf_id, m.prefix, m.former, m.former_prefix, m.parent, m.parent_prefix) ORDER BY m.n)
                FROM move m WHERE m.n <= most),
            'moves', (SELECT count(*) FROM moved),
            'other_moves', (SELECT encode(sha256(string_agg(sha256(convert_to(concat_ws(' ', m.vrf_id, m.prefix, coalesce(m.former_prefix, '-'), m.parent_prefix), 'UTF8')), ''
                ORDER BY m.n)), 'hex') FROM move m WHERE m.n > most),
            'counters', (SELECT json_agg(json_build_array(c.id, c.prefix, c.children_before, prefix_size(c.was)::text, c.used_before::text,
                c.children, prefix_size(c.prefix)::text, c.used::text) ORDER BY c.n) FROM counted c WHERE c.n <= most),
            'counts', (SELECT count(*) FROM counted),
            'other_counters', (SELECT encode(sha256(string_agg(sha256(convert_to(concat_ws(' ', c.id, c.children_before, c.used_before, c.children, c.used), 'UTF8')), ''
                ORDER BY c.n)), 'hex') FROM counted c WHERE c.n > most)));
END $$;
COMMENT ON FUNCTION plan_tree(int) IS 'The prefixes that get another parent, and the counters of prefixes, before and after the planned change. At most so many are listed of each; of the others there is a hash.';

CREATE FUNCTION plan_pools(pools int[]) RETURNS json LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        WITH m AS (
            SELECT q.pool_id, true AS planned, q.prefix, q.children, q.used_addresses, q.free_blocks FROM prefix q WHERE q.pool_id = ANY (pools)
            UNION ALL SELECT r.pool_id, false, r.prefix, r.children, r.used_addresses, r.free_blocks FROM pg_temp.plan_prefix r
            WHERE r.pool_id = ANY (pools) AND plan_existed(r.added, r.id)
            UNION ALL SELECT q.pool_id, false, q.prefix, q.children, q.used_addresses, q.free_blocks FROM prefix q
            WHERE q.pool_id = ANY (pools) AND NOT EXISTS (SELECT FROM pg_temp.plan_prefix r WHERE r.id = q.id) AND plan_existed(q.added, q.id)),
        o AS (SELECT m.*, coalesce(addr_last(m.prefix) > max(addr_last(m.prefix))
                OVER (PARTITION BY m.pool_id, m.planned ORDER BY m.prefix ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), true) AS outermost FROM m),
        f AS (SELECT o.pool_id, o.planned, family(o.prefix) AS family, count(*) AS members, sum(o.children) AS used, sum(prefix_size(o.prefix)) FILTER (WHERE o.outermost) AS total,
                sum(prefix_size(o.prefix) - o.used_addresses) AS free, sum(o.free_blocks) AS blocks
            FROM o GROUP BY 1, 2, 3)
        SELECT json_agg(json_build_array(p.id, p.name, f.planned, f.family, f.members, f.used, f.total::text, f.free::text, f.blocks::text) ORDER BY p.name, p.id)
        FROM f JOIN pool p ON p.id = f.pool_id WHERE NOT plan_adds('pool', p.id));
END $$;
COMMENT ON FUNCTION plan_pools(int[]) IS 'The counters of pools of each family, before and after (planned) the planned change.';

-- Transactions at the same time write other rows of the same totals. So the difference is taken from our own rows.
CREATE FUNCTION plan_vrfs() RETURNS json LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT json_agg(json_build_array(v.id, v.name, d.family, d.num, d.total::text, d.used::text, s.num, s.total::text, s.used::text) ORDER BY v.rt_rank, v.id)
        FROM (
            SELECT r.vrf_id, r.family, sum(t.num_prefixes - r.num_prefixes) AS num, sum(t.total_addresses - r.total_addresses) AS total,
                sum(t.used_addresses - r.used_addresses) AS used
            FROM pg_temp.plan_total r JOIN vrf_total t USING (vrf_id, family, slot) GROUP BY 1, 2) d
        JOIN vrf v ON v.id = d.vrf_id
        CROSS JOIN LATERAL (
            SELECT sum(t.num_prefixes) AS num, sum(t.total_addresses) AS total, sum(t.used_addresses) AS used
            FROM vrf_total t WHERE t.vrf_id = d.vrf_id AND t.family = d.family) s
        WHERE NOT plan_adds('vrf', v.id));
END $$;
COMMENT ON FUNCTION plan_vrfs() IS 'The totals of VRFs around the planned change, of each family: the difference, and the totals after it.';

CREATE FUNCTION plan_webhooks() RETURNS json LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT json_agg(json_build_array(w.id, w.url) ORDER BY w.id) FROM webhook w WHERE w.enabled AND EXISTS (
        SELECT FROM plan_entries(0, NULL) a WHERE a.object_type IN ('vrf', 'pool', 'prefix', 'asn')
            AND (w.kinds = '{}' OR a.object_type = ANY (w.kinds))
            AND (w.tags = '{}' OR coalesce(a.before -> 'tags' ?| w.tags, false) OR coalesce(a.after -> 'tags' ?| w.tags, false))
            AND (w.vrf_ids = '{}' OR a.object_type = 'vrf' AND a.object_id = ANY (w.vrf_ids)
                OR (a.before ->> 'vrf_id')::bigint = ANY (w.vrf_ids) OR (a.after ->> 'vrf_id')::bigint = ANY (w.vrf_ids))
            AND (w.pool_ids = '{}' OR a.object_type = 'pool' AND a.object_id = ANY (w.pool_ids)
                OR (a.before ->> 'pool_id')::bigint = ANY (w.pool_ids) OR (a.after ->> 'pool_id')::bigint = ANY (w.pool_ids))));
END $$;
COMMENT ON FUNCTION plan_webhooks() IS 'The webhooks to which the events of the planned change go.';

CREATE FUNCTION plan_made(most int) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    bound bigint := current_setting('nipap.plan');
    number bigint := current_change_set();
    entries audit_log[] := ARRAY(SELECT a FROM audit_log a WHERE a.change_set = number AND a.id > bound ORDER BY a.id LIMIT most);
    is_long boolean := cardinality(entries) = most;
    counts json;
    others text;
    pools int[];
    tree json;
BEGIN
    IF is_long THEN
        counts := (SELECT json_object_agg(c.object_type, c.n) FROM (SELECT a.object_type, count(*) AS n FROM plan_entries(0, NULL) a GROUP BY 1) c);
        others := plan_rest(entries[most].id);
    END IF;
    IF EXISTS (SELECT FROM pg_temp.plan_prefix) THEN
        tree := plan_tree(most);
    END IF;
    IF tree IS NOT NULL THEN
        pools := ARRAY(
            SELECT n.pool FROM pg_temp.plan_prefix r LEFT JOIN prefix p ON p.id = r.id CROSS JOIN LATERAL (VALUES (r.pool_id), (p.pool_id)) n (pool)
            WHERE n.pool IS NOT NULL);
    END IF;
    IF EXISTS (SELECT FROM unnest(entries) e WHERE e.after ? 'pool_id') OR is_long THEN
        pools := pools || ARRAY(SELECT DISTINCT (a.after ->> 'pool_id')::int FROM plan_entries(0, NULL) a
            WHERE a.object_type = 'prefix' AND a.action = 'add' AND a.after ? 'pool_id');
    END IF;
    RETURN json_build_object(
        'secret', (SELECT encode(k.secret, 'hex') FROM plan_key k),
        'entries', (SELECT json_agg(json_build_array(e.object_type, e.object_id, e.action, e.before, e.after) ORDER BY e.id) FROM unnest(entries) e),
        'counts', counts,
        'rest', others,
        'tree', tree,
        'pools', CASE WHEN cardinality(pools) > 0 THEN plan_pools(pools) END,
        'vrfs', CASE WHEN EXISTS (SELECT FROM pg_temp.plan_total) THEN plan_vrfs() END,
        'webhooks', CASE WHEN number IS NOT NULL AND EXISTS (SELECT FROM webhook w WHERE w.enabled) THEN plan_webhooks() END);
END $$;
COMMENT ON FUNCTION plan_made(int) IS 'The consequences of the planned change as JSON, of each list at most so many items.';
