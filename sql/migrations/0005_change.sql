-- The call of an entry. When the answer of PostgreSQL to a change is lost, the daemon finds out here whether the change
-- was committed.
ALTER TABLE audit_log ADD COLUMN change bigint DEFAULT nullif(current_setting('nipap.change', true), '')::bigint;
CREATE INDEX audit_log_change_idx ON audit_log (change) WHERE change IS NOT NULL;
COMMENT ON INDEX audit_log_change_idx IS 'Whether a call was committed; grows at its end, as numbers begin with the time.';
COMMENT ON COLUMN audit_log.change IS 'Number of the call that made the change: time and chance; NULL for what is never looked for.';
