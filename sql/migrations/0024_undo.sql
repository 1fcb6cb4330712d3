-- Undo of change sets. A change set names the change set that it undoes. A removed object that was edited leaves its
-- last version behind, so that a restored object continues from there. An index finds removals.

ALTER TABLE change_set ADD COLUMN undoes bigint;
-- A setting of the transaction that undoes: the row of a change set is never updated.
ALTER TABLE change_set ALTER undoes SET DEFAULT nullif(current_setting('nipap.undoes', true), '')::bigint;
COMMENT ON COLUMN change_set.undoes IS 'The change set that this one undoes; NULL for all others.';
CREATE INDEX change_set_undoes_idx ON change_set (undoes) WHERE undoes IS NOT NULL;
COMMENT ON INDEX change_set_undoes_idx IS 'The change sets that undo a change set.';

CREATE TABLE last_version (
    kind text NOT NULL,
    id bigint NOT NULL,
    version integer NOT NULL,
    CONSTRAINT last_version_pkey PRIMARY KEY (kind, id)
);
COMMENT ON TABLE last_version IS 'The last versions of removed objects with a version above 1.';
COMMENT ON COLUMN last_version.kind IS 'vrf, pool, prefix or asn.';
COMMENT ON COLUMN last_version.id IS 'Id of the object; the AS number itself for asn.';
COMMENT ON COLUMN last_version.version IS 'The version that the object had when it was removed.';

CREATE FUNCTION keep_last_version() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    key bigint;
BEGIN
    IF TG_TABLE_NAME = 'asn' THEN
        key := OLD.asn;
    ELSE
        key := OLD.id;
    END IF;
    INSERT INTO last_version AS l VALUES (TG_TABLE_NAME, key, OLD.version)
    ON CONFLICT ON CONSTRAINT last_version_pkey DO UPDATE SET version = greatest(l.version, excluded.version);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION keep_last_version() IS 'Keeps the last version of a removed object.';

-- Triggers, and not the functions that remove objects, since programs of earlier versions may go on serving.
CREATE TRIGGER vrf_last_version AFTER DELETE ON vrf FOR EACH ROW WHEN (OLD.version > 1) EXECUTE FUNCTION keep_last_version();
CREATE TRIGGER pool_last_version AFTER DELETE ON pool FOR EACH ROW WHEN (OLD.version > 1) EXECUTE FUNCTION keep_last_version();
CREATE TRIGGER prefix_last_version AFTER DELETE ON prefix FOR EACH ROW WHEN (OLD.version > 1) EXECUTE FUNCTION keep_last_version();
CREATE TRIGGER asn_last_version AFTER DELETE ON asn FOR EACH ROW WHEN (OLD.version > 1) EXECUTE FUNCTION keep_last_version();
COMMENT ON TRIGGER vrf_last_version ON vrf IS 'Keeps the last version of a removed VRF.';
COMMENT ON TRIGGER pool_last_version ON pool IS 'Keeps the last version of a removed pool.';
COMMENT ON TRIGGER prefix_last_version ON prefix IS 'Keeps the last version of a removed prefix.';
COMMENT ON TRIGGER asn_last_version ON asn IS 'Keeps the last version of a removed AS number.';

CREATE INDEX audit_log_removal_idx ON audit_log (change_set, id) WHERE action = 'remove';
COMMENT ON INDEX audit_log_removal_idx IS 'The removals of a change set, and the change sets with removals.';
