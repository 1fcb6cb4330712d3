-- Index on the entries of a change set. The order by last entry is the order of positions, so the index also finds the
-- last entry of a change set. A migration of its own, since changes wait while the index is built: all entries are
-- read, and none of them belongs in the index yet.
CREATE INDEX audit_log_change_set_idx ON audit_log (change_set, id) WHERE change_set IS NOT NULL;
COMMENT ON INDEX audit_log_change_set_idx IS 'The entries of a change set.';
