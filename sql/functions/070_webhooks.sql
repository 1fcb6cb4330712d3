-- Facts of webhooks for the audit log.

CREATE OR REPLACE FUNCTION webhook_facts(stored webhook) RETURNS jsonb LANGUAGE sql STABLE
RETURN jsonb_strip_nulls(to_jsonb(stored) - '{secret,cursor,attempts,failing_since,next_attempt,last_error,delivered,failed}'::text[]);
COMMENT ON FUNCTION webhook_facts(webhook) IS 'The attributes of a webhook that clients set, without the secret and without nulls.';
