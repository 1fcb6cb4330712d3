-- Add, edit and remove for objects outside the tree (VRFs, pools, AS numbers), with their audit entries.

CREATE OR REPLACE FUNCTION vrf_facts(stored vrf) RETURNS jsonb LANGUAGE sql STABLE
RETURN jsonb_strip_nulls(to_jsonb(stored) - '{rt_rank,version}'::text[]);
COMMENT ON FUNCTION vrf_facts(vrf) IS 'The stored facts of a VRF, without version and nulls.';

CREATE OR REPLACE FUNCTION vrf_add(facts jsonb, who actor) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    new_row vrf := jsonb_populate_record(NULL::vrf, facts);
BEGIN
    new_row.id := nextval('vrf_id_seq');
    new_row.version := 1;
    INSERT INTO vrf SELECT new_row.*;
    INSERT INTO free_range VALUES
        (-1 - 2 * new_row.id::bigint, '0.0.0.0', '255.255.255.255', 0),
        (-2 - 2 * new_row.id::bigint, '::', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 0);
    done := record_change(who, 'vrf', 'add', new_row.id, NULL, vrf_facts(new_row));
    RETURN new_row.id;
END $$;
COMMENT ON FUNCTION vrf_add(jsonb, actor) IS 'Add a VRF with its two empty address spaces; returns its id.';

CREATE OR REPLACE FUNCTION vrf_edit(target int, changes jsonb, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    old_row vrf;
    new_row vrf;
BEGIN
    SELECT * INTO old_row FROM vrf WHERE id = target FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    new_row := jsonb_populate_record(old_row, changes);
    IF new_row IS NOT DISTINCT FROM old_row THEN
        RETURN true;
    END IF;
    UPDATE vrf SET rt = new_row.rt, rt_rank = new_row.rt_rank, name = new_row.name, description = new_row.description, tags = new_row.tags, avps = new_row.avps,
        version = old_row.version + 1
    WHERE id = target;
    done := record_change(who, 'vrf', 'edit', target, vrf_facts(old_row), vrf_facts(new_row));
    RETURN true;
END $$;
COMMENT ON FUNCTION vrf_edit(int, jsonb, actor) IS 'Edit a VRF. Writes nothing if no fact changes. Returns false if there is no such VRF.';

CREATE OR REPLACE FUNCTION pool_add(facts jsonb, who actor) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    new_row pool := jsonb_populate_record(NULL::pool, facts);
BEGIN
    PERFORM check_defaults(new_row, NULL);
    new_row.id := nextval('pool_id_seq');
    new_row.version := 1;
    INSERT INTO pool SELECT new_row.*;
    done := record_change(who, 'pool', 'add', new_row.id, NULL, pool_facts(new_row));
    RETURN new_row.id;
END $$;
COMMENT ON FUNCTION pool_add(jsonb, actor) IS 'Add a pool; returns its id.';

CREATE OR REPLACE FUNCTION asn_facts(stored asn) RETURNS jsonb LANGUAGE sql STABLE
RETURN jsonb_strip_nulls(to_jsonb(stored) - 'version');
COMMENT ON FUNCTION asn_facts(asn) IS 'The stored facts of an AS number, without version and nulls.';

CREATE OR REPLACE FUNCTION asn_add(facts jsonb, who actor) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    new_row asn := jsonb_populate_record(NULL::asn, facts);
BEGIN
    new_row.version := 1;
    INSERT INTO asn SELECT new_row.*;
    done := record_change(who, 'asn', 'add', new_row.asn, NULL, asn_facts(new_row));
    RETURN new_row.asn;
END $$;
COMMENT ON FUNCTION asn_add(jsonb, actor) IS 'Add an AS number.';

CREATE OR REPLACE FUNCTION asn_edit(target bigint, changes jsonb, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    old_row asn;
    new_row asn;
BEGIN
    SELECT * INTO old_row FROM asn WHERE asn = target FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    new_row := jsonb_populate_record(old_row, changes);
    IF new_row IS NOT DISTINCT FROM old_row THEN
        RETURN true;
    END IF;
    UPDATE asn SET name = new_row.name, version = old_row.version + 1 WHERE asn = target;
    done := record_change(who, 'asn', 'edit', target, asn_facts(old_row), asn_facts(new_row));
    RETURN true;
END $$;
COMMENT ON FUNCTION asn_edit(bigint, jsonb, actor) IS 'Edit an AS number. Writes nothing if no fact changes. Returns false if there is no such AS number.';

CREATE OR REPLACE FUNCTION asn_remove(target bigint, who actor) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
    facts jsonb;
BEGIN
    DELETE FROM asn t WHERE asn = target RETURNING asn_facts(t) INTO facts;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    done := record_change(who, 'asn', 'remove', target, facts, NULL);
    RETURN true;
END $$;
COMMENT ON FUNCTION asn_remove(bigint, actor) IS 'Remove an AS number. Returns false if there is no such AS number.';
