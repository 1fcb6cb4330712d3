-- Partitions of the audit log are made ahead, and old ones may be detached. The functions of this version do that.

CREATE TABLE audit_detached (
    name text CONSTRAINT audit_detached_pkey PRIMARY KEY,
    first_id bigint,
    end_id bigint NOT NULL,
    oldest timestamptz,
    newest timestamptz,
    detached timestamptz NOT NULL DEFAULT now(),
    attached timestamptz
);
COMMENT ON TABLE audit_detached IS 'Partitions that have been detached from audit_log. Their tables keep the entries.';
COMMENT ON COLUMN audit_detached.name IS 'Name of the table.';
COMMENT ON COLUMN audit_detached.first_id IS 'The ids begin here; NULL: from the beginning.';
COMMENT ON COLUMN audit_detached.end_id IS 'The ids are below this one.';
COMMENT ON COLUMN audit_detached.oldest IS 'No entry of the table is older; NULL: the table has no entries.';
COMMENT ON COLUMN audit_detached.newest IS 'No entry of the table is newer; NULL: the table has no entries.';
COMMENT ON COLUMN audit_detached.detached IS 'When the table was detached last.';
COMMENT ON COLUMN audit_detached.attached IS 'When the table was attached again by an administrator. Its age is no reason to detach it any more. NULL: it is detached.';

-- Nobody but the owner may change this list, whatever rights new tables get.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT DISTINCT acl.grantee::regrole AS role FROM pg_class c, aclexplode(c.relacl) acl
        WHERE c.oid = 'audit_detached'::regclass AND acl.grantee NOT IN (c.relowner, 0)
    LOOP
        EXECUTE format('REVOKE ALL ON audit_detached FROM %s; GRANT SELECT ON audit_detached TO %s', given.role, given.role);
    END LOOP;
END $$;
