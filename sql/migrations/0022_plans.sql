-- Plans: changes that are made, reported and rolled back. The key signs the tokens of plans. The triggers note the
-- derived columns of rows before a planned change; for any other change they cost one comparison.

CREATE TABLE plan_key (secret bytea NOT NULL CONSTRAINT plan_key_secret_check CHECK (length(secret) >= 32));
COMMENT ON TABLE plan_key IS 'The key with which tokens of plans are signed; one row. A new key ends all plans.';
COMMENT ON COLUMN plan_key.secret IS 'Random bytes.';
CREATE UNIQUE INDEX plan_key_single_idx ON plan_key ((true));
COMMENT ON INDEX plan_key_single_idx IS 'There is one row.';
INSERT INTO plan_key SELECT decode(string_agg(replace(gen_random_uuid()::text, '-', ''), ''), 'hex') FROM generate_series(1, 3);

CREATE FUNCTION note_prefix() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO pg_temp.plan_prefix VALUES (OLD.id, OLD.vrf_id, OLD.prefix, OLD.parent_id, OLD.children, OLD.used_addresses, OLD.pool_id, OLD.free_blocks,
        OLD.added)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION note_prefix() IS 'Keeps the place and the counters of a prefix as they are before a planned change.';

CREATE FUNCTION note_total() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO pg_temp.plan_total VALUES (NEW.vrf_id, NEW.family, NEW.slot, 0, 0, 0) ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO pg_temp.plan_total VALUES (OLD.vrf_id, OLD.family, OLD.slot, OLD.num_prefixes, OLD.total_addresses, OLD.used_addresses)
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION note_total() IS 'Keeps a row of the totals of a VRF as it is before a planned change.';

CREATE TRIGGER prefix_plan_update AFTER UPDATE ON prefix FOR EACH ROW
WHEN (current_setting('nipap.plan', true) > '') EXECUTE FUNCTION note_prefix();
COMMENT ON TRIGGER prefix_plan_update ON prefix IS 'Notes rows before a planned change.';
CREATE TRIGGER prefix_plan_delete AFTER DELETE ON prefix FOR EACH ROW
WHEN (OLD.pool_id IS NOT NULL AND current_setting('nipap.plan', true) > '') EXECUTE FUNCTION note_prefix();
COMMENT ON TRIGGER prefix_plan_delete ON prefix IS 'Notes members of pools before a planned removal.';
CREATE TRIGGER vrf_total_plan AFTER INSERT OR UPDATE ON vrf_total FOR EACH ROW
WHEN (current_setting('nipap.plan', true) > '') EXECUTE FUNCTION note_total();
COMMENT ON TRIGGER vrf_total_plan ON vrf_total IS 'Notes rows before a planned change.';
