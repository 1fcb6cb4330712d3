-- Descriptions in plain sentences, for objects that migrations 1 to 8 created.

COMMENT ON TYPE actor IS 'The author of a change, for programs of version 8: acting user, authenticated user, full name and system of origin.';
COMMENT ON TYPE adopted IS 'Prefixes that got another parent: their number, the sum of their sizes and the sum of their used addresses.';
COMMENT ON DOMAIN alarm_priority IS 'Urgency of alarms: warning, low, medium, high or critical.';
COMMENT ON DOMAIN prefix_status IS 'Use of a prefix: assigned, reserved or quarantine.';
COMMENT ON DOMAIN prefix_type IS 'Purpose of a prefix: reservation, assignment or host.';

COMMENT ON FUNCTION keep_words() IS 'Keeps prefix_words up to date when the text of a prefix changes.';
COMMENT ON TRIGGER prefix_words_update ON prefix IS 'Keeps prefix_words up to date when the text of a prefix changes.';
COMMENT ON FUNCTION words_of(prefix) IS 'The text of a prefix for word searches, a line for each attribute.';
COMMENT ON INDEX prefix_words_idx IS 'Searches for words, regular expressions and the operator like.';

COMMENT ON COLUMN vrf.rt_rank IS 'Route target as a number, administrator * 2^32 + n; -1 for VRF 0. Answers are ordered by it. Route targets in different notations may have the same number.';
COMMENT ON TABLE vrf_total IS 'Totals of each VRF and family, spread over several rows. The sum of the rows counts; single rows may be negative.';
COMMENT ON COLUMN pool.ipv4_default_prefix_length IS 'Prefix length of IPv4 allocations that give none.';
COMMENT ON COLUMN pool.ipv6_default_prefix_length IS 'Prefix length of IPv6 allocations that give none.';
COMMENT ON TABLE prefix IS 'The prefixes of all VRFs. They form a tree by their networks; parent_id is derived from it.';
COMMENT ON COLUMN prefix.vrf_id IS 'The VRF of the prefix.';
COMMENT ON COLUMN prefix.pool_id IS 'The pool that the prefix is a member of.';
COMMENT ON COLUMN prefix.monitor IS 'Whether the prefix is to be monitored.';

COMMENT ON COLUMN audit_log.username IS 'The user for whom the change was made.';
COMMENT ON COLUMN audit_log.action IS 'add, edit or remove; resend for dead letters of a webhook.';
COMMENT ON COLUMN audit_log.before IS 'Stored values before the change, without nulls; NULL for add. For a webhook: the attributes that clients set, without the secret.';
COMMENT ON COLUMN audit_log.after IS 'Stored values after the change, without nulls; NULL for remove. For a webhook: the attributes that clients set, without the secret, with secret_changed, or with the dead letters that are sent again.';
COMMENT ON INDEX audit_log_change_idx IS 'Shows whether a call was committed. New rows go to the end, since numbers of calls begin with the time.';

COMMENT ON TABLE idempotency IS 'Calls with an idempotency key, and their answers. A row is kept for idempotency_hours.';
COMMENT ON COLUMN idempotency.authenticated_as IS 'The user that logged in: each user has keys of their own.';
COMMENT ON COLUMN idempotency.fingerprint IS 'Hash of the acting user, the method and its arguments: the key is valid for these only.';
COMMENT ON COLUMN idempotency.answer IS 'The answer: JSON with marks for values that JSON lacks, compressed (zlib).';
COMMENT ON COLUMN idempotency.created IS 'When the call was answered.';
COMMENT ON INDEX idempotency_created_idx IS 'Finds expired rows.';

COMMENT ON TABLE event IS 'Entries of the audit log in the order of delivery. A row is kept for event_retention_hours at least.';
COMMENT ON COLUMN event.position IS 'Increases. A reader that sees a position sees all positions before it.';
COMMENT ON COLUMN event.created IS 'When the event got its position.';
COMMENT ON TABLE event_state IS 'Progress of the event positions, and deliveries to Kafka; one row.';
COMMENT ON COLUMN event_state.settled IS 'All events up to this audit entry have a position, and no transaction can still add another one. NULL: no daemon has begun to collect events.';
COMMENT ON COLUMN event_state.last_position IS 'The highest position assigned so far.';
COMMENT ON COLUMN event_state.removed IS 'The highest position that was removed because of its age.';
COMMENT ON COLUMN event_state.kafka_cursor IS 'Kafka has confirmed all events up to this position; NULL: Kafka was never used.';
COMMENT ON COLUMN event_state.kafka_failed IS 'Failed attempts to send events to Kafka.';

COMMENT ON COLUMN webhook.url IS 'URL that events are posted to.';
COMMENT ON COLUMN webhook.secret IS 'Key of the signature; in plain text, since signing needs it.';
COMMENT ON COLUMN webhook.description IS 'Free text.';
COMMENT ON COLUMN webhook.kinds IS 'Kinds of object to send events of; empty: all.';
COMMENT ON COLUMN webhook.vrf_ids IS 'VRFs to send events of, with their prefixes; empty: all.';
COMMENT ON COLUMN webhook.pool_ids IS 'Pools to send events of, with their members; empty: all.';
COMMENT ON COLUMN webhook.tags IS 'Tags of objects to send events of; empty: all.';
COMMENT ON COLUMN webhook.added IS 'When the webhook was added.';
COMMENT ON COLUMN webhook.cursor IS 'All events up to this position were delivered, given up or filtered out.';
COMMENT ON COLUMN webhook.attempts IS 'Failed attempts since the last delivery or edit.';
COMMENT ON COLUMN webhook.failing_since IS 'When the first of these attempts failed; NULL: none has failed.';
COMMENT ON COLUMN webhook.last_error IS 'Error of the last failed attempt.';
COMMENT ON COLUMN webhook.failed IS 'Failed attempts in total.';

COMMENT ON TABLE dead_letter IS 'Events that were given up after hours of failed attempts to deliver them to a webhook.';
COMMENT ON COLUMN dead_letter.event IS 'The event as it would have been sent; its row in event may be removed.';
COMMENT ON COLUMN dead_letter.error IS 'Error of the last attempt.';
COMMENT ON COLUMN dead_letter.added IS 'When the event was given up.';
COMMENT ON COLUMN dead_letter.again IS 'Whether the event is to be sent again.';
