-- Add, edit and remove of what is no tree: VRFs, pools, AS numbers. Each with its audit entries.

CREATE OR REPLACE FUNCTION vrf_facts(t vrf) RETURNS jsonb LANGUAGE sql STABLE
RETURN jsonb_strip_nulls(to_jsonb(t) - 'rt_rank');
COMMENT ON FUNCTION vrf_facts(vrf) IS 'The stored facts of a VRF, without nulls.';

CREATE OR REPLACE FUNCTION vrf_add(facts jsonb, who actor) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    n vrf := jsonb_populate_record(NULL::vrf, facts);
BEGIN
    n.id := nextval('vrf_id_seq');
    INSERT INTO vrf SELECT n.*;
    INSERT INTO free_range VALUES
        (-1 - 2 * n.id::bigint, '0.0.0.0', '255.255.255.255', 0),
        (-2 - 2 * n.id::bigint, '::', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 0);
    done := record_change(who, 'vrf', 'add', n.id, NULL, vrf_facts(n));
    RETURN n.id;
END $$;
COMMENT ON FUNCTION vrf_add(jsonb, actor) IS 'Add a VRF with its two empty address spaces; returns its id.';

CREATE OR REPLACE FUNCTION vrf_edit(i int, changes jsonb, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
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
    done := record_change(who, 'vrf', 'edit', i, vrf_facts(x), vrf_facts(n));
    RETURN true;
END $$;
COMMENT ON FUNCTION vrf_edit(int, jsonb, actor) IS 'Edit a VRF. False when it is not there.';

CREATE OR REPLACE FUNCTION pool_add(facts jsonb, who actor) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    n pool := jsonb_populate_record(NULL::pool, facts);
BEGIN
    PERFORM check_defaults(n, NULL);
    n.id := nextval('pool_id_seq');
    INSERT INTO pool SELECT n.*;
    done := record_change(who, 'pool', 'add', n.id, NULL, jsonb_strip_nulls(to_jsonb(n)));
    RETURN n.id;
END $$;
COMMENT ON FUNCTION pool_add(jsonb, actor) IS 'Add a pool; returns its id.';

CREATE OR REPLACE FUNCTION asn_add(facts jsonb, who actor) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    n asn := jsonb_populate_record(NULL::asn, facts);
BEGIN
    INSERT INTO asn SELECT n.*;
    done := record_change(who, 'asn', 'add', n.asn, NULL, jsonb_strip_nulls(to_jsonb(n)));
    RETURN n.asn;
END $$;
COMMENT ON FUNCTION asn_add(jsonb, actor) IS 'Add an AS number.';

CREATE OR REPLACE FUNCTION asn_edit(i bigint, changes jsonb, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
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
    done := record_change(who, 'asn', 'edit', i, jsonb_strip_nulls(to_jsonb(x)), jsonb_strip_nulls(to_jsonb(n)));
    RETURN true;
END $$;
COMMENT ON FUNCTION asn_edit(bigint, jsonb, actor) IS 'Edit an AS number. False when it is not there.';

CREATE OR REPLACE FUNCTION asn_remove(i bigint, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    facts jsonb;
BEGIN
    DELETE FROM asn t WHERE asn = i RETURNING jsonb_strip_nulls(to_jsonb(t)) INTO facts;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    done := record_change(who, 'asn', 'remove', i, facts, NULL);
    RETURN true;
END $$;
COMMENT ON FUNCTION asn_remove(bigint, actor) IS 'Remove an AS number. False when it is not there.';
