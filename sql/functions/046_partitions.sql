-- The upkeep of the partitions of the audit log. Only the owner of the tables can use these functions, except
-- keep_partitions, which runs with the rights of the owner. Each lock is waited for 100 ms at most: a step that does not
-- get its locks fails with 55P03, and is tried again later.

CREATE FUNCTION audit_partitions(OUT name text, OUT first_id bigint, OUT end_id bigint) RETURNS SETOF record LANGUAGE sql STABLE
AS $$
    SELECT c.relname, coalesce(substring(bound FROM 'FROM \(''(-?\d+)''\)')::bigint, 0), substring(bound FROM 'TO \(''(-?\d+)''\)')::bigint
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid, pg_get_expr(c.relpartbound, c.oid) bound
    WHERE i.inhparent = 'audit_log'::regclass AND bound <> 'DEFAULT' ORDER BY 3
$$;
COMMENT ON FUNCTION audit_partitions() IS 'The partitions of the audit log in the order of their ids, without the default one. first_id is 0 for the first one, which has no lower bound.';

CREATE FUNCTION audit_table(name text) RETURNS text LANGUAGE sql STABLE
AS $$
    SELECT format('%I.%I', nspname, name) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = 'audit_log'::regclass
$$;
COMMENT ON FUNCTION audit_table(text) IS 'The name of a partition for SQL, in the schema of the audit log.';

CREATE FUNCTION set_partition_rights(part regclass, readable boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    role text;
BEGIN
    FOR role IN
        SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END
        FROM pg_class c, aclexplode(c.relacl) acl WHERE c.oid = part AND acl.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', part, role);
    END LOOP;
    IF readable THEN
        FOR role IN
            SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END
            FROM pg_class c, aclexplode(c.relacl) acl
            WHERE c.oid = 'audit_log'::regclass AND acl.grantee <> c.relowner AND acl.privilege_type = 'SELECT'
        LOOP
            EXECUTE format('GRANT SELECT ON %s TO %s', part, role);
        END LOOP;
    END IF;
END $$;
COMMENT ON FUNCTION set_partition_rights(regclass, boolean) IS 'Leave the rights on a partition to its owner. A readable one may be read by everybody who may read the audit log.';

CREATE FUNCTION new_partition(name text, remark text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE %s (LIKE audit_log INCLUDING ALL)', audit_table(name));
    EXECUTE format('COMMENT ON TABLE %s IS %L', audit_table(name), remark);
    PERFORM set_partition_rights(audit_table(name)::regclass, false);
END $$;
COMMENT ON FUNCTION new_partition(text, text) IS 'Create an empty table that can be attached to the audit log as a partition. Its comment is remark.';

CREATE FUNCTION attach_range(name text, first_id bigint, end_id bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE audit_log ATTACH PARTITION %s FOR VALUES FROM (%s) TO (%s)',
        audit_table(name), coalesce(nullif(first_id, 0)::text, 'MINVALUE'), end_id);
END $$;
COMMENT ON FUNCTION attach_range(text, bigint, bigint) IS 'Attach a table to the audit log as the partition of a range of ids.';

CREATE FUNCTION next_partition() RETURNS text LANGUAGE sql STABLE
AS $$
    SELECT 'audit_log_' || 1 + coalesce(max(substring(relname FROM '^audit_log_(\d{1,9})$')::int), 0) FROM pg_class
    WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'audit_log'::regclass)
$$;
COMMENT ON FUNCTION next_partition() IS 'The name of the next new partition.';

CREATE FUNCTION place_rest() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    size constant bigint := 10000000;
    lowest bigint;
    highest bigint;
    gap_first bigint;
    gap_end bigint;
    name text := next_partition();
BEGIN
    LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE;
    SELECT min(id), max(id) INTO lowest, highest FROM audit_log_rest;
    IF lowest IS NULL THEN
        RETURN NULL;
    END IF;
    gap_first := coalesce((SELECT max(p.end_id) FROM audit_partitions() p WHERE p.end_id <= lowest), 0);
    gap_end := coalesce((SELECT min(p.first_id) FROM audit_partitions() p WHERE p.first_id > lowest),
        (greatest(highest, pg_sequence_last_value('audit_log_id_seq')) / size + 1) * size);
    IF highest < gap_end THEN
        -- The table itself becomes the partition.
        ALTER TABLE audit_log DETACH PARTITION audit_log_rest;
        EXECUTE format('ALTER TABLE audit_log_rest RENAME TO %I', name);
        EXECUTE format('COMMENT ON TABLE %I IS %L', name, 'A partition of audit_log.');
        PERFORM attach_range(name, gap_first, gap_end);
        PERFORM new_partition('audit_log_rest', 'The partition of audit_log for entries without another one. Empty unless nobody made partitions ahead.');
        ALTER TABLE audit_log ATTACH PARTITION audit_log_rest DEFAULT;
    ELSE
        PERFORM new_partition(name, 'A partition of audit_log.');
        EXECUTE format('WITH gone AS (DELETE FROM audit_log_rest WHERE id < %s RETURNING *) INSERT INTO %I SELECT * FROM gone', gap_end, name);
        PERFORM attach_range(name, gap_first, gap_end);
    END IF;
    RETURN format('%s takes the entries up to %s that had no partition', name, least(highest, gap_end - 1));
END $$;
COMMENT ON FUNCTION place_rest() IS 'Make a partition of the entries in the default partition of the audit log. Return a description, or NULL if there are none.';

CREATE FUNCTION detach_partition(part text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    lower bigint;
    upper bigint;
BEGIN
    SELECT p.first_id, p.end_id INTO STRICT lower, upper FROM audit_partitions() p WHERE p.name = part;
    INSERT INTO audit_detached AS d (name, first_id, end_id, oldest, newest)
    SELECT part, nullif(lower, 0), upper, min(s.oldest), max(s.newest) FROM audit_span s WHERE s.last_id >= lower AND s.first_id < upper
    ON CONFLICT (name) DO UPDATE SET detached = now(), attached = NULL;
    EXECUTE format('ALTER TABLE audit_log DETACH PARTITION %s', audit_table(part));
    PERFORM set_partition_rights(audit_table(part)::regclass, true);
END $$;
COMMENT ON FUNCTION detach_partition(text) IS 'Detach a partition of the audit log. The table stays.';

CREATE FUNCTION check_detached(part text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    listed audit_detached;
BEGIN
    SELECT * INTO listed FROM audit_detached d WHERE d.name = part AND d.attached IS NULL;
    IF FOUND AND NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = audit_table(part)::regclass AND conname = 'audit_detached_check') THEN
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT audit_detached_check CHECK (id >= %s AND id < %s)',
            audit_table(part), coalesce(listed.first_id, 0), listed.end_id);
    END IF;
END $$;
COMMENT ON FUNCTION check_detached(text) IS 'Check that a detached partition has entries of its range only, so that it can be attached without being read.';

CREATE FUNCTION attach_partition(part text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    listed audit_detached;
BEGIN
    SELECT * INTO STRICT listed FROM audit_detached d WHERE d.name = part AND d.attached IS NULL FOR UPDATE;
    PERFORM set_partition_rights(audit_table(part)::regclass, false);
    PERFORM attach_range(part, coalesce(listed.first_id, 0), listed.end_id);
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS audit_detached_check', audit_table(part));
    UPDATE audit_detached d SET attached = now() WHERE d.name = part;
    UPDATE past_state SET ends_at = NULL WHERE lowest > 1; -- older states can be built now
END $$;
COMMENT ON FUNCTION attach_partition(text) IS 'Attach a detached partition to the audit log. Its age is no reason to detach it any more.';

CREATE FUNCTION detached_before() RETURNS timestamptz LANGUAGE sql STABLE
RETURN (SELECT max(newest) FROM audit_detached WHERE attached IS NULL);
COMMENT ON FUNCTION detached_before() IS 'Time of the newest audit entry in a detached partition; NULL if none is detached. The history up to this time is incomplete.';

CREATE FUNCTION can_detach(lower bigint, upper bigint) RETURNS boolean LANGUAGE sql STABLE
RETURN (SELECT max(last_id) FROM audit_span) >= upper - 1
    AND NOT EXISTS (SELECT FROM event e WHERE e.audit_id >= lower AND e.audit_id < upper)
    AND NOT EXISTS (SELECT FROM change_set s WHERE s.id > (SELECT settled FROM change_state) AND s.entries_after < upper);
COMMENT ON FUNCTION can_detach(bigint, bigint) IS 'Whether nothing but questions about the past needs the audit entries of a range: no transaction can still add one, events of theirs are kept no more, and their change sets have positions.';

CREATE FUNCTION keep_partitions_at(moment timestamptz, months int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    size constant bigint := 10000000;
    month timestamp := date_trunc('month', moment AT TIME ZONE 'UTC');
    next_id bigint := coalesce(pg_sequence_last_value('audit_log_id_seq'), 0) + 1;
    top bigint;
    part record;
    done text;
BEGIN
    IF NOT pg_try_advisory_xact_lock(5466135) THEN
        RETURN NULL; -- another session is at it
    END IF;
    IF EXISTS (SELECT FROM audit_log_rest) THEN
        done := place_rest();
        RETURN done;
    END IF;

    SELECT max(p.end_id) INTO top FROM audit_partitions() p;
    IF NOT EXISTS (SELECT FROM audit_partitions() p WHERE p.first_id > next_id) THEN
        done := next_partition();
        PERFORM new_partition(done, 'A partition of audit_log.');
        PERFORM attach_range(done, top, greatest(top, next_id / size * size) + size);
        RETURN format('%s is the next partition', done);
    END IF;

    SELECT p.* INTO STRICT part FROM audit_partitions() p WHERE p.first_id <= next_id AND p.end_id > next_id;
    IF (SELECT a.at AT TIME ZONE 'UTC' FROM audit_log a WHERE a.id >= part.first_id AND a.id < part.end_id ORDER BY a.id LIMIT 1) < month THEN
        -- Locks the sequence, so that nobody draws an id between the two statements that follow. Waits for transactions
        -- that have drawn one.
        ALTER SEQUENCE audit_log_id_seq CACHE 1;
        IF pg_sequence_last_value('audit_log_id_seq') < part.end_id - 1 THEN
            EXECUTE format('ALTER SEQUENCE audit_log_id_seq RESTART WITH %s', part.end_id - 1);
            PERFORM nextval('audit_log_id_seq');
            RETURN format('%s ends with its month', part.name);
        END IF;
    END IF;

    IF months > 0 THEN
        SELECT p.* INTO part FROM audit_partitions() p
        WHERE p.end_id <= next_id AND NOT EXISTS (SELECT FROM audit_detached d WHERE d.name = p.name) ORDER BY p.end_id LIMIT 1;
        IF FOUND AND can_detach(part.first_id, part.end_id) AND coalesce((
                SELECT max(s.newest) AT TIME ZONE 'UTC' FROM audit_span s WHERE s.last_id >= part.first_id AND s.first_id < part.end_id
            ), '-infinity') < month - make_interval(months => months) THEN
            PERFORM detach_partition(part.name);
            RETURN format('%s is detached, since all its entries are older than %s months', part.name, months);
        END IF;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION keep_partitions_at(timestamptz, int) IS 'Take the next step of the upkeep that is due at a moment: place entries that have no partition, make the next partition, begin another one with the month, or detach one whose entries are all older than a number of months; 0: none. Return a description, or NULL when nothing is due.';

CREATE FUNCTION keep_partitions(months int) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '100ms' AS $$
BEGIN
    RETURN keep_partitions_at(clock_timestamp(), months);
END $$;
COMMENT ON FUNCTION keep_partitions(int) IS 'Take the next step of the upkeep that is due now, with the rights of the owner. Return a description, or NULL when nothing is due.';
REVOKE EXECUTE ON FUNCTION keep_partitions(int) FROM PUBLIC;

DO $$
BEGIN
    -- Names are looked up among these functions and tables alone, whatever the search path of the caller.
    EXECUTE format('ALTER FUNCTION keep_partitions(int) SET search_path = %I, %I, pg_temp', current_schema(), current_setting('nipap.home'));
END $$;
