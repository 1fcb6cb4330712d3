-- Answers to calls with an idempotency key, so that a repeated call gets the same answer and changes nothing. A row is
-- written at the end of the call, in its transaction. Calls with the same key queue for an advisory lock, so that
-- nothing is written twice.

CREATE TABLE idempotency (
    authenticated_as text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    answer bytea NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_pkey PRIMARY KEY (authenticated_as, key)
);
CREATE INDEX idempotency_created_idx ON idempotency (created);
-- The daemon compresses the answer before storing it.
ALTER TABLE idempotency ALTER answer SET STORAGE EXTERNAL;
-- Rows are added at one end and removed at the other, at the same rate: see 0004.
ALTER TABLE idempotency SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE idempotency IS 'Calls with an idempotency key and what was answered to them; a row lives for idempotency_hours.';
COMMENT ON COLUMN idempotency.authenticated_as IS 'Who proved their identity: each user has keys of their own.';
COMMENT ON COLUMN idempotency.key IS 'The key, as the client chose it.';
COMMENT ON COLUMN idempotency.fingerprint IS 'Hash of the acting user, the method and its arguments: the key is good for these alone.';
COMMENT ON COLUMN idempotency.answer IS 'What was answered: JSON with marks for what JSON has not, compressed (zlib).';
COMMENT ON COLUMN idempotency.created IS 'When it was answered.';
COMMENT ON INDEX idempotency_created_idx IS 'Finds what has expired.';
