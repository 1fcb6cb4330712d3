-- Which call an entry belongs to. When the answer of PostgreSQL to a change never comes, the daemon finds out here whether
-- the change was committed.
ALTER TABLE audit_log ADD COLUMN change bigint DEFAULT nullif(current_setting('nipap.change', true), '')::bigint;
COMMENT ON COLUMN audit_log.change IS 'Number of the call that made the change, chosen at random; NULL when nobody needs it.';
