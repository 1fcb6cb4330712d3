-- The audit log as a partitioned table: ranges of ten million entry numbers. The present log becomes the first
-- partition as it is. A partition of time would make look-ups by key slower with every month.

ALTER TABLE change_set ADD COLUMN entries_after bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN change_set.entries_after IS 'The ids of the audit entries are above this one, so that older partitions need not be read.';

CREATE TABLE audit_span (
    last_id bigint CONSTRAINT audit_span_pkey PRIMARY KEY,
    first_id bigint NOT NULL,
    oldest timestamptz NOT NULL,
    newest timestamptz NOT NULL
);
COMMENT ON TABLE audit_span IS 'Ranges of audit entries with the times in them: an entry of a time is found without an index on times. Ranges have no entry in common and are complete.';
COMMENT ON COLUMN audit_span.last_id IS 'The last id of the range. No transaction can still add an entry up to it.';
COMMENT ON COLUMN audit_span.first_id IS 'The first id of the range. Ids between two ranges were not used.';
COMMENT ON COLUMN audit_span.oldest IS 'No entry of the range is older.';
COMMENT ON COLUMN audit_span.newest IS 'No entry of the range is newer.';

DROP TRIGGER audit_log_change_set ON audit_log;
ALTER TABLE audit_log RENAME TO audit_log_1;
ALTER INDEX audit_log_pkey RENAME TO audit_log_1_pkey;
ALTER INDEX audit_log_object_idx RENAME TO audit_log_1_object_idx;
ALTER INDEX audit_log_change_idx RENAME TO audit_log_1_change_idx;
ALTER INDEX audit_log_change_set_idx RENAME TO audit_log_1_change_set_idx;

CREATE TABLE audit_log (
    id bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    username text NOT NULL,
    authenticated_as text NOT NULL,
    full_name text,
    authoritative_source text NOT NULL,
    object_type text NOT NULL,
    object_id bigint NOT NULL,
    action text NOT NULL,
    before jsonb,
    after jsonb,
    change bigint DEFAULT nullif(current_setting('nipap.change', true), '')::bigint,
    change_set bigint
) PARTITION BY RANGE (id);
COMMENT ON TABLE audit_log IS 'Every change: written in the transaction of the change itself, never updated. Partitioned by ranges of ten million ids.';
COMMENT ON COLUMN audit_log.id IS 'Identity; increases, with gaps. The first entry of a month begins a new partition.';
COMMENT ON COLUMN audit_log.at IS 'When the transaction of the change began.';
COMMENT ON COLUMN audit_log.username IS 'The user for whom the change was made.';
COMMENT ON COLUMN audit_log.authenticated_as IS 'The user that logged in: name, or name@backend for a user of an authentication backend other than the default one. Differs from username also when a trusted user acts for another user.';
COMMENT ON COLUMN audit_log.full_name IS 'Full name that goes with username, when known.';
COMMENT ON COLUMN audit_log.authoritative_source IS 'The system that the change came from.';
COMMENT ON COLUMN audit_log.object_type IS 'vrf, pool, prefix, asn or webhook.';
COMMENT ON COLUMN audit_log.object_id IS 'Id of the object; the AS number itself for asn.';
COMMENT ON COLUMN audit_log.action IS 'add, edit or remove; resend for dead letters of a webhook.';
COMMENT ON COLUMN audit_log.before IS 'Stored values before the change, without nulls; NULL for add. For a webhook: the attributes that clients set, without the secret.';
COMMENT ON COLUMN audit_log.after IS 'Stored values after the change, without nulls; NULL for remove. For a webhook: the attributes that clients set, without the secret, with secret_changed, or with the dead letters that are sent again.';
COMMENT ON COLUMN audit_log.change IS 'Number of the call, written by programs up to version 8; change_set.call has it now.';
COMMENT ON COLUMN audit_log.change_set IS 'The change set of the entry; NULL for entries that are older than change sets (change_set.last_older_entry).';
COMMENT ON TABLE audit_log_1 IS 'The oldest partition of audit_log: the log as it was before it had partitions.';

DO $$
DECLARE
    last_id bigint;
    drawn boolean;
    bound bigint;
BEGIN
    SELECT last_value, is_called INTO last_id, drawn FROM audit_log_id_seq;
    SELECT substring(pg_get_constraintdef(oid) FROM '\d+')::bigint INTO bound FROM pg_constraint
    WHERE conrelid = 'audit_log_1'::regclass AND conname = 'audit_log_id_check';
    ALTER TABLE audit_log_1 ALTER id DROP IDENTITY; -- with its sequence
    CREATE SEQUENCE audit_log_id_seq;
    ALTER SEQUENCE audit_log_id_seq OWNED BY audit_log.id;
    -- Indexes will be built on a long log: new entries begin the second partition, so that no call waits for that. The
    -- last id of the first partition counts as drawn, because readers ask for the last drawn id.
    IF last_id > 100000 THEN
        PERFORM setval('audit_log_id_seq', bound - 1);
    ELSE
        PERFORM setval('audit_log_id_seq', last_id, drawn);
    END IF;
    EXECUTE format('ALTER TABLE audit_log ATTACH PARTITION audit_log_1 FOR VALUES FROM (MINVALUE) TO (%s)', bound);
    EXECUTE format('CREATE TABLE audit_log_2 PARTITION OF audit_log FOR VALUES FROM (%s) TO (%s)', bound, bound + 10000000);
    -- Replaced by the next migration. Nobody can add an entry up to this one any more, because the log is locked.
    IF drawn THEN
        INSERT INTO audit_span VALUES (last_id, 0, '-infinity', 'infinity');
    END IF;
END $$;
ALTER TABLE audit_log_1 DROP CONSTRAINT audit_log_id_check;
ALTER TABLE audit_log ALTER id SET DEFAULT nextval('audit_log_id_seq');
CREATE TABLE audit_log_rest PARTITION OF audit_log DEFAULT;
COMMENT ON TABLE audit_log_2 IS 'A partition of audit_log.';
COMMENT ON TABLE audit_log_rest IS 'The partition of audit_log for entries without another one. Empty unless nobody made partitions ahead.';

-- Those of the first partition exist already, and are taken over.
ALTER TABLE audit_log ADD CONSTRAINT audit_log_pkey PRIMARY KEY (id);
CREATE INDEX audit_log_object_idx ON audit_log (object_type, object_id, id);
CREATE INDEX audit_log_change_idx ON audit_log (change) WHERE change IS NOT NULL;
CREATE INDEX audit_log_change_set_idx ON audit_log (change_set, id) WHERE change_set IS NOT NULL;
COMMENT ON INDEX audit_log_object_idx IS 'The history of an object.';
COMMENT ON INDEX audit_log_change_idx IS 'Shows whether a call was committed. New rows go to the end, since numbers of calls begin with the time.';
COMMENT ON INDEX audit_log_change_set_idx IS 'The entries of a change set.';

CREATE TRIGGER audit_log_change_set BEFORE INSERT ON audit_log
    FOR EACH ROW WHEN (NEW.change_set IS NULL) EXECUTE FUNCTION keep_change_set();
COMMENT ON TRIGGER audit_log_change_set ON audit_log IS 'Assigns a change set to the audit entries that a program of version 8 writes.';

-- Nobody but the owner may change the log, whatever rights new tables get.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT DISTINCT c.oid::regclass AS name, c.relispartition, acl.grantee::regrole AS role
        FROM pg_class c, aclexplode(c.relacl) acl
        WHERE c.oid IN ('audit_log'::regclass, 'audit_log_1'::regclass, 'audit_log_2'::regclass, 'audit_log_rest'::regclass)
            AND acl.grantee NOT IN (c.relowner, 0)
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', given.name, given.role);
        IF NOT given.relispartition THEN
            EXECUTE format('GRANT SELECT, INSERT ON %s TO %s', given.name, given.role);
        END IF;
    END LOOP;
END $$;
