-- Changes of webhooks are audited like all other changes. They become no events: every user may read events, but only
-- the managers of webhooks may see the receivers.

COMMENT ON COLUMN audit_log.object_type IS 'vrf, pool, prefix, asn or webhook.';
COMMENT ON COLUMN audit_log.action IS 'add, edit, remove or, of dead letters of a webhook, resend.';
COMMENT ON COLUMN audit_log.before IS 'Stored values before, without nulls; NULL for add. Of webhooks what clients set, without secrets.';
COMMENT ON COLUMN audit_log.after IS 'Stored values after, without nulls; NULL for remove. Of webhooks what clients set, without secrets, and secret_changed or the dead letters that are sent again.';
