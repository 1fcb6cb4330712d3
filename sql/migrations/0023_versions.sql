-- Versions of objects: 1 for a new object, one more with each edit that changes a fact. Counters and moves of children
-- leave the version alone. The columns are added without rewriting a table.

ALTER TABLE vrf ADD COLUMN version integer NOT NULL DEFAULT 1;
ALTER TABLE pool ADD COLUMN version integer NOT NULL DEFAULT 1;
ALTER TABLE prefix ADD COLUMN version integer NOT NULL DEFAULT 1;
ALTER TABLE asn ADD COLUMN version integer NOT NULL DEFAULT 1;
COMMENT ON COLUMN vrf.version IS 'Version: 1 for a new VRF, one more with each edit that changes a fact.';
COMMENT ON COLUMN pool.version IS 'Version: 1 for a new pool, one more with each edit that changes a fact.';
COMMENT ON COLUMN prefix.version IS 'Version: 1 for a new prefix, one more with each edit that changes a fact.';
COMMENT ON COLUMN asn.version IS 'Version: 1 for a new AS number, one more with each edit that changes a fact.';

-- The functions of this version set the version. Triggers set it for programs of earlier versions, which may go on
-- serving.
CREATE FUNCTION keep_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE OLD.version + 1 END;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION keep_version() IS 'Sets the version of objects that a program of an earlier version adds or edits.';

CREATE TRIGGER vrf_new_version BEFORE INSERT ON vrf FOR EACH ROW WHEN (NEW.version IS NULL) EXECUTE FUNCTION keep_version();
CREATE TRIGGER pool_new_version BEFORE INSERT ON pool FOR EACH ROW WHEN (NEW.version IS NULL) EXECUTE FUNCTION keep_version();
CREATE TRIGGER prefix_new_version BEFORE INSERT ON prefix FOR EACH ROW WHEN (NEW.version IS NULL) EXECUTE FUNCTION keep_version();
CREATE TRIGGER asn_new_version BEFORE INSERT ON asn FOR EACH ROW WHEN (NEW.version IS NULL) EXECUTE FUNCTION keep_version();
-- The lists of columns keep the triggers from firing when only derived columns change.
CREATE TRIGGER vrf_version BEFORE UPDATE OF name ON vrf FOR EACH ROW WHEN (NEW.version = OLD.version) EXECUTE FUNCTION keep_version();
CREATE TRIGGER pool_version BEFORE UPDATE OF name ON pool FOR EACH ROW WHEN (NEW.version = OLD.version) EXECUTE FUNCTION keep_version();
CREATE TRIGGER prefix_version BEFORE UPDATE OF last_modified ON prefix
    FOR EACH ROW WHEN (NEW.version = OLD.version) EXECUTE FUNCTION keep_version();
CREATE TRIGGER asn_version BEFORE UPDATE ON asn FOR EACH ROW WHEN (NEW.version = OLD.version) EXECUTE FUNCTION keep_version();

DO $$
DECLARE
    kind text;
BEGIN
    FOREACH kind IN ARRAY ARRAY['vrf', 'pool', 'prefix', 'asn'] LOOP
        EXECUTE format('COMMENT ON TRIGGER %I ON %I IS %L', kind || '_new_version', kind, 'Sets the version of a row that a program of an earlier version adds.');
        EXECUTE format('COMMENT ON TRIGGER %I ON %I IS %L', kind || '_version', kind, 'Sets the version of a row that a program of an earlier version edits.');
    END LOOP;
END $$;
