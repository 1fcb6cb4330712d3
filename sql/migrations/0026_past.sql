-- The past: every former and present state of each VRF, pool, prefix and AS number, with the positions of change_order
-- between which it held. One process builds the rows from the audit log, so changes cost nothing more. It follows new
-- positions, and goes back to older ones when there is time. nipap/history/past.py reads them.

CREATE TABLE past_vrf (
    since bigint NOT NULL, until bigint NOT NULL, id integer NOT NULL, rt text, rt_rank numeric(20) NOT NULL, name text NOT NULL, description text,
    tags text[] NOT NULL, avps jsonb NOT NULL, version integer NOT NULL,
    CONSTRAINT past_vrf_pkey PRIMARY KEY (id, until),
    CONSTRAINT past_vrf_time_check CHECK (since < until)
);
CREATE TABLE past_pool (
    since bigint NOT NULL, until bigint NOT NULL, id integer NOT NULL, name text NOT NULL, description text, default_type text,
    ipv4_default_prefix_length smallint, ipv6_default_prefix_length smallint, tags text[] NOT NULL, avps jsonb NOT NULL, version integer NOT NULL,
    CONSTRAINT past_pool_pkey PRIMARY KEY (id, until),
    CONSTRAINT past_pool_time_check CHECK (since < until)
);
CREATE TABLE past_asn (
    since bigint NOT NULL, until bigint NOT NULL, asn bigint NOT NULL, name text, version integer NOT NULL,
    CONSTRAINT past_asn_pkey PRIMARY KEY (asn, until),
    CONSTRAINT past_asn_time_check CHECK (since < until)
);
CREATE TABLE past_prefix (
    since bigint NOT NULL, until bigint NOT NULL, id bigint NOT NULL, vrf_id integer NOT NULL, prefix cidr NOT NULL, type text NOT NULL,
    pool_id integer, status text NOT NULL, description text, comment text, node text, country text, order_id text, customer_id text, external_key text,
    alarm_priority text, monitor boolean, vlan integer, tags text[] NOT NULL, avps jsonb NOT NULL, expires timestamptz NOT NULL,
    authoritative_source text NOT NULL, added timestamptz NOT NULL, last_modified timestamptz NOT NULL, version integer NOT NULL,
    CONSTRAINT past_prefix_pkey PRIMARY KEY (id, until),
    CONSTRAINT past_prefix_time_check CHECK (since < until)
);
CREATE INDEX past_prefix_place_idx ON past_prefix (vrf_id, prefix, until, since);
CREATE INDEX past_prefix_pool_idx ON past_prefix (pool_id, until) WHERE pool_id IS NOT NULL;
COMMENT ON INDEX past_prefix_place_idx IS 'The states of the prefixes at a place, and the order of the tree. All conditions on time are in the index.';
COMMENT ON INDEX past_prefix_pool_idx IS 'The members of a pool.';

-- Searches look up words here first, and then compare the state. A text is stored once, however many states have it.
CREATE TABLE past_words (prefix_id bigint NOT NULL, words text NOT NULL);
CREATE INDEX past_words_prefix_idx ON past_words (prefix_id);
CREATE INDEX past_words_idx ON past_words USING gin (words gin_trgm_ops) WITH (gin_pending_list_limit = 256);
COMMENT ON TABLE past_words IS 'The texts of each prefix in any of its states, for searches.';
COMMENT ON COLUMN past_words.prefix_id IS 'The prefix.';
COMMENT ON COLUMN past_words.words IS 'The text, like prefix_words.words.';
COMMENT ON INDEX past_words_prefix_idx IS 'The texts of a prefix.';
COMMENT ON INDEX past_words_idx IS 'Trigrams of the texts.';

DO $$
DECLARE
    kind text;
    noun text;
    each record;
BEGIN
    FOR kind, noun IN VALUES ('vrf', 'VRF'), ('pool', 'pool'), ('prefix', 'prefix'), ('asn', 'AS number') LOOP
        EXECUTE format('COMMENT ON TABLE %I IS %L', 'past_' || kind, format('The states of each %s, each with the positions between which it held.', noun));
        FOR each IN SELECT attname FROM pg_attribute WHERE attrelid = ('past_' || kind)::regclass AND attnum > 0 LOOP
            EXECUTE format('COMMENT ON COLUMN %I.%I IS %L', 'past_' || kind, each.attname, CASE each.attname
                WHEN 'since' THEN 'The position of change_order from which the state held; 0: it may have held before the first position that was looked at.'
                WHEN 'until' THEN 'The position from which it held no longer; 9223372036854775807: it holds at present.'
                ELSE format('The value of %I.%I in this state.', kind, each.attname) END);
        END LOOP;
    END LOOP;
END $$;

CREATE TABLE past_state (lowest bigint, position bigint, ends_at bigint);
CREATE UNIQUE INDEX past_state_single_idx ON past_state ((true));
COMMENT ON TABLE past_state IS 'Progress of the tables of the past; one row.';
COMMENT ON COLUMN past_state.lowest IS 'The first position for which the tables have all states; NULL: nothing is built yet.';
COMMENT ON COLUMN past_state.position IS 'The last position that is built.';
COMMENT ON COLUMN past_state.ends_at IS 'The position at which going back has ended, as no older entry can be read; NULL: older positions are still to be built.';
COMMENT ON INDEX past_state_single_idx IS 'There is one row.';
INSERT INTO past_state DEFAULT VALUES;
