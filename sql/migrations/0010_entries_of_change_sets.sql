-- The entries of a change set, and its last one, in the order of which change sets get their positions. On its own, since
-- changes wait while the index is made: all entries are read, none of which is in it.
CREATE INDEX audit_log_change_set_idx ON audit_log (change_set, id) WHERE change_set IS NOT NULL;
COMMENT ON INDEX audit_log_change_set_idx IS 'The entries of a change set.';
