-- The account that added a webhook, from the audit log; unknown where the audit log has no such entry.
ALTER TABLE webhook ADD COLUMN owner text;
COMMENT ON COLUMN webhook.owner IS 'The account that added the webhook, as in audit_log.authenticated_as; NULL: unknown.';
UPDATE webhook SET owner = (SELECT authenticated_as FROM audit_log
    WHERE object_type = 'webhook' AND object_id = webhook.id AND action = 'add' ORDER BY audit_log.id LIMIT 1);
