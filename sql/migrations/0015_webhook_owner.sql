-- The account that added a webhook, from the audit log; unknown where the audit log has no such entry.
ALTER TABLE webhook ADD COLUMN owner text;
COMMENT ON COLUMN webhook.owner IS 'The account that added it, as authenticated_as of the audit log; NULL: not known.';
UPDATE webhook SET owner = (SELECT authenticated_as FROM audit_log
    WHERE object_type = 'webhook' AND object_id = webhook.id AND action = 'add' ORDER BY audit_log.id LIMIT 1);
