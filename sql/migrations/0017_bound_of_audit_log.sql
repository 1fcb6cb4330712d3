-- The audit log will be partitioned by ranges of the entry's number, and the present log becomes the first partition.
-- This bound lets it be attached without being read. Each partition has ten million numbers.

DO $$
DECLARE
    last_id bigint := (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM audit_log_id_seq);
BEGIN
    -- A million numbers at least are left for the calls that go on until the next migrations are applied.
    EXECUTE format('ALTER TABLE audit_log ADD CONSTRAINT audit_log_id_check CHECK (id < %s) NOT VALID',
        ((last_id + 1000000) / 10000000 + 1) * 10000000);
END $$;
