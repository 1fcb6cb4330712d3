-- Events: every entry of the audit log gets a position, in an order that lets readers follow without missing entries
-- that were committed late. One process assigns positions, so changes themselves cost nothing more. That process holds
-- the lock of the single row of event_state meanwhile.

CREATE TABLE event (
    position bigint CONSTRAINT event_pkey PRIMARY KEY,
    audit_id bigint NOT NULL CONSTRAINT event_audit_id_key UNIQUE,
    created timestamptz NOT NULL DEFAULT now()
);
-- Rows are added at one end and removed at the other: see 0004.
ALTER TABLE event SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE event IS 'Entries of the audit log in the order in which they are delivered; a row lives for event_retention_hours at least.';
COMMENT ON COLUMN event.position IS 'Grows; who sees one sees all before it.';
COMMENT ON COLUMN event.audit_id IS 'The entry of the audit log.';
COMMENT ON COLUMN event.created IS 'When it got its position.';

CREATE TABLE event_state (
    settled bigint,
    last_position bigint NOT NULL DEFAULT 0,
    removed bigint NOT NULL DEFAULT 0,
    kafka_cursor bigint,
    kafka_delivered bigint NOT NULL DEFAULT 0,
    kafka_failed bigint NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX event_state_single_idx ON event_state ((true));
INSERT INTO event_state DEFAULT VALUES;
COMMENT ON TABLE event_state IS 'How far events have come; one row.';
COMMENT ON COLUMN event_state.settled IS 'No transaction can add an audit entry with this id or a lower one any more, and all there are were looked at. NULL: nobody has looked yet.';
COMMENT ON COLUMN event_state.last_position IS 'The highest position that was given.';
COMMENT ON COLUMN event_state.removed IS 'The highest position that was removed since it was old.';
COMMENT ON COLUMN event_state.kafka_cursor IS 'Kafka has confirmed everything up to this position; NULL: it was never used.';
COMMENT ON COLUMN event_state.kafka_delivered IS 'Events that Kafka has confirmed.';
COMMENT ON COLUMN event_state.kafka_failed IS 'Attempts that it refused.';
COMMENT ON INDEX event_state_single_idx IS 'There is one row.';

CREATE TABLE webhook (
    id int GENERATED ALWAYS AS IDENTITY CONSTRAINT webhook_pkey PRIMARY KEY,
    url text NOT NULL,
    secret text NOT NULL,
    description text,
    kinds text[] NOT NULL DEFAULT '{}',
    vrf_ids bigint[] NOT NULL DEFAULT '{}',
    pool_ids bigint[] NOT NULL DEFAULT '{}',
    tags text[] NOT NULL DEFAULT '{}',
    enabled boolean NOT NULL DEFAULT true,
    added timestamptz NOT NULL DEFAULT now(),
    cursor bigint NOT NULL,
    attempts int NOT NULL DEFAULT 0,
    failing_since timestamptz,
    next_attempt timestamptz,
    last_error text,
    delivered bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE webhook IS 'Receivers of events over HTTP.';
COMMENT ON COLUMN webhook.id IS 'Identity.';
COMMENT ON COLUMN webhook.url IS 'Where events are posted to.';
COMMENT ON COLUMN webhook.secret IS 'Key of the signature; as it is, since signing takes it.';
COMMENT ON COLUMN webhook.description IS 'What it is for.';
COMMENT ON COLUMN webhook.kinds IS 'Kinds of object whose events are wanted; empty: all.';
COMMENT ON COLUMN webhook.vrf_ids IS 'VRFs whose events are wanted, with their prefixes; empty: all.';
COMMENT ON COLUMN webhook.pool_ids IS 'Pools whose events are wanted, with their members; empty: all.';
COMMENT ON COLUMN webhook.tags IS 'Tags of objects whose events are wanted; empty: all.';
COMMENT ON COLUMN webhook.enabled IS 'Whether events are sent.';
COMMENT ON COLUMN webhook.added IS 'When it was added.';
COMMENT ON COLUMN webhook.cursor IS 'The position up to which everything was delivered, given up, or not wanted.';
COMMENT ON COLUMN webhook.attempts IS 'Attempts that failed one after the other.';
COMMENT ON COLUMN webhook.failing_since IS 'When the first of them did.';
COMMENT ON COLUMN webhook.next_attempt IS 'When to try again.';
COMMENT ON COLUMN webhook.last_error IS 'What went wrong last.';
COMMENT ON COLUMN webhook.delivered IS 'Events that were delivered.';
COMMENT ON COLUMN webhook.failed IS 'Attempts that failed, ever.';

CREATE TABLE dead_letter (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT dead_letter_pkey PRIMARY KEY,
    webhook_id int NOT NULL CONSTRAINT dead_letter_webhook_id_fkey REFERENCES webhook ON DELETE CASCADE,
    position bigint NOT NULL,
    event jsonb NOT NULL,
    error text NOT NULL,
    added timestamptz NOT NULL DEFAULT now(),
    again boolean NOT NULL DEFAULT false
);
CREATE INDEX dead_letter_webhook_idx ON dead_letter (webhook_id, position);
COMMENT ON TABLE dead_letter IS 'Events that a webhook did not take for hours.';
COMMENT ON COLUMN dead_letter.id IS 'Identity.';
COMMENT ON COLUMN dead_letter.webhook_id IS 'The webhook.';
COMMENT ON COLUMN dead_letter.position IS 'Position of the event.';
COMMENT ON COLUMN dead_letter.event IS 'What would have been sent; the event itself may be removed.';
COMMENT ON COLUMN dead_letter.error IS 'What went wrong last.';
COMMENT ON COLUMN dead_letter.added IS 'When it was given up.';
COMMENT ON COLUMN dead_letter.again IS 'Whether it is to be sent once more.';
COMMENT ON INDEX dead_letter_webhook_idx IS 'The dead letters of one webhook, in order.';
