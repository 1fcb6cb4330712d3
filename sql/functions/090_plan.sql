-- Plans: the consequences of the change of the current transaction, for a report before it is rolled back or committed.
-- The setting nipap.plan is the last audit entry before the change; triggers note rows while it is set.

CREATE FUNCTION make_plan_tables() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass('pg_temp.plan_prefix') IS NULL THEN
        CREATE TEMPORARY TABLE plan_prefix (
            id bigint PRIMARY KEY, vrf_id int, prefix cidr, parent_id bigint, children int, used_addresses numeric, pool_id int, free_blocks numeric
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

CREATE FUNCTION plan_moved() RETURNS TABLE (id bigint, vrf_id int, prefix cidr, former bigint, former_prefix text, parent bigint, parent_prefix cidr) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT p.id, p.vrf_id, p.prefix, r.parent_id, plan_place(r.parent_id), p.parent_id, (SELECT q.prefix FROM prefix q WHERE q.id = p.parent_id)
    FROM pg_temp.plan_prefix r JOIN prefix p ON p.id = r.id
    WHERE r.parent_id IS DISTINCT FROM p.parent_id AND NOT plan_adds('prefix', p.id) ORDER BY p.vrf_id, p.prefix;
END $$;
COMMENT ON FUNCTION plan_moved() IS 'The prefixes to which the planned change gives another parent, in order.';

CREATE FUNCTION plan_prefix_counters() RETURNS TABLE (id bigint, vrf_id int, prefix cidr, figures jsonb) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT p.id, p.vrf_id, p.prefix, jsonb_build_array(
        jsonb_build_object('children', r.children, 'total_addresses', prefix_size(r.prefix)::text, 'used_addresses', r.used_addresses::text,
            'free_addresses', (prefix_size(r.prefix) - r.used_addresses)::text),
        jsonb_build_object('children', p.children, 'total_addresses', prefix_size(p.prefix)::text, 'used_addresses', p.used_addresses::text,
            'free_addresses', (prefix_size(p.prefix) - p.used_addresses)::text))
    FROM pg_temp.plan_prefix r JOIN prefix p ON p.id = r.id
    WHERE (r.children, r.used_addresses, prefix_size(r.prefix)) IS DISTINCT FROM (p.children, p.used_addresses, prefix_size(p.prefix))
        AND NOT plan_adds('prefix', p.id)
    ORDER BY p.vrf_id, p.prefix;
END $$;
COMMENT ON FUNCTION plan_prefix_counters() IS 'The counters of prefixes that the planned change moves, before and after it.';

CREATE FUNCTION plan_members(target int) RETURNS TABLE (planned boolean, vrf_id int, prefix cidr, children int, used_addresses numeric, free_blocks numeric) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT true, q.vrf_id, q.prefix, q.children, q.used_addresses, q.free_blocks FROM prefix q WHERE q.pool_id = target
    UNION ALL SELECT false, r.vrf_id, r.prefix, r.children, r.used_addresses, r.free_blocks FROM pg_temp.plan_prefix r
    WHERE r.pool_id = target AND NOT plan_adds('prefix', r.id)
    UNION ALL SELECT false, q.vrf_id, q.prefix, q.children, q.used_addresses, q.free_blocks FROM prefix q
    WHERE q.pool_id = target AND NOT EXISTS (SELECT FROM pg_temp.plan_prefix r WHERE r.id = q.id) AND NOT plan_adds('prefix', q.id);
END $$;
COMMENT ON FUNCTION plan_members(int) IS 'The members of a pool before the planned change, and after it (planned).';

CREATE FUNCTION plan_pool_figures(target int) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        WITH m AS (SELECT f.*, coalesce(addr_last(f.prefix) > max(addr_last(f.prefix))
                OVER (PARTITION BY f.planned ORDER BY f.prefix ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), true) AS outermost
            FROM plan_members(target) f),
        figure AS (
            SELECT s.planned, g.family, count(m.prefix) AS members, coalesce(sum(m.children), 0) AS used,
                coalesce(sum(prefix_size(m.prefix)) FILTER (WHERE m.outermost), 0) AS total,
                coalesce(sum(prefix_size(m.prefix) - m.used_addresses), 0) AS free, sum(m.free_blocks) AS blocks
            FROM (VALUES (false), (true)) s (planned) CROSS JOIN (VALUES (4), (6)) g (family)
            LEFT JOIN m ON m.planned = s.planned AND family(m.prefix) = g.family GROUP BY 1, 2),
        told AS (
            SELECT f.planned, jsonb_object_agg(n.name || '_v' || f.family, n.value) AS figures FROM figure f CROSS JOIN LATERAL (VALUES
                ('member_prefixes', f.members::text), ('used_prefixes', f.used::text), ('free_prefixes', f.blocks::text),
                ('total_prefixes', (f.used + f.blocks)::text), ('total_addresses', f.total::text), ('used_addresses', (f.total - f.free)::text),
                ('free_addresses', f.free::text)) n (name, value)
            GROUP BY 1)
        SELECT jsonb_agg(t.figures ORDER BY t.planned) FROM told t);
END $$;
COMMENT ON FUNCTION plan_pool_figures(int) IS 'The counters of a pool before and after the planned change.';

CREATE FUNCTION plan_pool_counters() RETURNS TABLE (id int, name text, figures jsonb) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT o.id, o.name, plan_pool_figures(o.id) FROM pool o WHERE o.id IN (
        SELECT r.pool_id FROM pg_temp.plan_prefix r
        UNION SELECT p.pool_id FROM pg_temp.plan_prefix r JOIN prefix p ON p.id = r.id
        UNION SELECT (a.after ->> 'pool_id')::int FROM plan_entries(0, NULL) a WHERE a.object_type = 'prefix')
        AND NOT plan_adds('pool', o.id) ORDER BY o.name, o.id;
END $$;
COMMENT ON FUNCTION plan_pool_counters() IS 'The counters of pools around the planned change, before and after it.';

CREATE FUNCTION plan_vrf_counters() RETURNS TABLE (id int, name text, figures jsonb) LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- Transactions at the same time write other rows of the same totals. So the difference is that of our own rows.
    RETURN QUERY WITH d AS (
        SELECT r.vrf_id, r.family, sum(t.num_prefixes - r.num_prefixes) AS num, sum(t.total_addresses - r.total_addresses) AS total,
            sum(t.used_addresses - r.used_addresses) AS used
        FROM pg_temp.plan_total r JOIN vrf_total t USING (vrf_id, family, slot) GROUP BY 1, 2),
    told AS (
        SELECT d.vrf_id, jsonb_object_agg(n.name || '_v' || d.family, (n.now - n.delta)::text) AS before,
            jsonb_object_agg(n.name || '_v' || d.family, n.now::text) AS after
        FROM d CROSS JOIN LATERAL (
            SELECT sum(t.num_prefixes) AS num, sum(t.total_addresses) AS total, sum(t.used_addresses) AS used
            FROM vrf_total t WHERE t.vrf_id = d.vrf_id AND t.family = d.family) s
        CROSS JOIN LATERAL (VALUES ('num_prefixes', s.num, d.num), ('total_addresses', s.total, d.total), ('used_addresses', s.used, d.used),
            ('free_addresses', s.total - s.used, d.total - d.used)) n (name, now, delta)
        GROUP BY 1)
    SELECT v.id, v.name, jsonb_build_array(t.before, t.after) FROM told t JOIN vrf v ON v.id = t.vrf_id
    WHERE NOT plan_adds('vrf', v.id) ORDER BY v.rt_rank, v.id;
END $$;
COMMENT ON FUNCTION plan_vrf_counters() IS 'The counters of VRFs around the planned change, before and after it.';

CREATE FUNCTION plan_webhooks() RETURNS TABLE (id int, url text) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT w.id, w.url FROM webhook w WHERE w.enabled AND EXISTS (
        SELECT FROM plan_entries(0, NULL) a WHERE a.object_type IN ('vrf', 'pool', 'prefix', 'asn')
            AND (w.kinds = '{}' OR a.object_type = ANY (w.kinds))
            AND (w.tags = '{}' OR coalesce(a.before -> 'tags' ?| w.tags, false) OR coalesce(a.after -> 'tags' ?| w.tags, false))
            AND (w.vrf_ids = '{}' OR a.object_type = 'vrf' AND a.object_id = ANY (w.vrf_ids)
                OR (a.before ->> 'vrf_id')::bigint = ANY (w.vrf_ids) OR (a.after ->> 'vrf_id')::bigint = ANY (w.vrf_ids))
            AND (w.pool_ids = '{}' OR a.object_type = 'pool' AND a.object_id = ANY (w.pool_ids)
                OR (a.before ->> 'pool_id')::bigint = ANY (w.pool_ids) OR (a.after ->> 'pool_id')::bigint = ANY (w.pool_ids)))
    ORDER BY w.id;
END $$;
COMMENT ON FUNCTION plan_webhooks() IS 'The webhooks to which the events of the planned change go.';

CREATE FUNCTION plan_made(first int, most int) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    counts jsonb;
    entries json;
    others text;
    moved json;
    prefixes json;
    moves boolean := EXISTS (SELECT FROM pg_temp.plan_prefix);
BEGIN
    SELECT jsonb_object_agg(c.object_type, c.n) INTO counts FROM (SELECT a.object_type, count(*) AS n FROM plan_entries(0, NULL) a GROUP BY 1) c;
    SELECT json_agg(json_build_array(a.id, a.object_type, a.object_id, a.action, a.before, a.after) ORDER BY a.id) INTO entries
    FROM plan_entries(0, first) a;
    IF (SELECT sum(n.value::bigint) FROM jsonb_each_text(counts) n) > most THEN
        others := plan_rest((SELECT max(a.id) FROM plan_entries(0, most) a));
    END IF;
    IF moves THEN
        SELECT json_build_object('count', count(*), 'rest', encode(sha256(string_agg(
                sha256(convert_to(concat_ws(' ', m.vrf_id, m.prefix, coalesce(m.former_prefix, '-'), m.parent_prefix), 'UTF8')), ''
                ORDER BY m.n) FILTER (WHERE m.n > most)), 'hex'),
            'listed', coalesce(json_agg(json_build_array(m.id, m.vrf_id, m.prefix, m.former, m.former_prefix, m.parent, m.parent_prefix) ORDER BY m.n) FILTER (WHERE m.n <= most), '[]'))
        INTO moved FROM (SELECT f.*, row_number() OVER () AS n FROM plan_moved() f) m;
        SELECT json_build_object('count', count(*), 'rest', encode(sha256(string_agg(
                sha256(convert_to(concat_ws(' ', c.vrf_id, c.prefix, c.figures), 'UTF8')), ''
                ORDER BY c.n) FILTER (WHERE c.n > most)), 'hex'),
            'listed', coalesce(json_agg(json_build_array(c.id, c.vrf_id, c.prefix, c.figures) ORDER BY c.n) FILTER (WHERE c.n <= most), '[]'))
        INTO prefixes FROM (SELECT f.*, row_number() OVER () AS n FROM plan_prefix_counters() f) c;
    END IF;
    RETURN json_build_object(
        'secret', (SELECT encode(k.secret, 'hex') FROM plan_key k),
        'counts', counts,
        'entries', entries,
        'rest', others,
        'moved', moved,
        'prefixes', prefixes,
        'pools', (SELECT json_agg(json_build_array(c.id, c.name, c.figures)) FROM plan_pool_counters() c),
        'vrfs', (SELECT json_agg(json_build_array(c.id, c.name, c.figures)) FROM plan_vrf_counters() c),
        'webhooks', (SELECT json_agg(json_build_array(w.id, w.url)) FROM plan_webhooks() w));
END $$;
COMMENT ON FUNCTION plan_made(int, int) IS 'The consequences of the planned change as JSON: its first audit entries, and of each other list at most so many items.';

CREATE FUNCTION plan_page(above bigint, most int) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT json_agg(json_build_array(a.id, a.object_type, a.object_id, a.action, a.before, a.after) ORDER BY a.id) FROM plan_entries(above, most) a);
END $$;
COMMENT ON FUNCTION plan_page(bigint, int) IS 'Audit entries of the planned change with higher ids than a given one, as JSON.';
