-- Edits that change no fact leave the row alone: no entry in the audit log, no event, and last_modified stays.
COMMENT ON COLUMN audit_log.authenticated_as IS 'The user that logged in: name, or name@backend for a user of an authentication backend other than the default one. Differs from username also when a trusted user acts for another user.';
COMMENT ON COLUMN change_set.authenticated_as IS 'The user that logged in, as in audit_log.authenticated_as.';
