-- Edits that change no fact leave the row alone: no entry in the audit log, no event, and last_modified stays.
COMMENT ON COLUMN audit_log.authenticated_as IS 'Who proved their identity: name, or name@backend of a user of another back end than the default one. Differs from username when a trusted user acts for somebody, too.';
COMMENT ON COLUMN change_set.authenticated_as IS 'Who proved their identity, as in audit_log.';
