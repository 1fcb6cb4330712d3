-- Reads the whole audit log. Calls go on meanwhile.
ALTER TABLE audit_log VALIDATE CONSTRAINT audit_log_id_check;
