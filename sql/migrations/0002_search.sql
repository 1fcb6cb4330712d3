-- Text search by trigrams; tags and pairs by indexes of their own.

CREATE EXTENSION IF NOT EXISTS pg_trgm;

-- The text has a table of its own: adding a prefix above many others rewrites parent_id in their rows, and each new row
-- version would have to be entered into the text index again. A trigger keeps the text, so that no change can forget
-- it.
CREATE TABLE prefix_words (
    prefix_id bigint CONSTRAINT prefix_words_pkey PRIMARY KEY,
    words text NOT NULL
) WITH (fillfactor = 90);
COMMENT ON TABLE prefix_words IS 'Derived: the text of a prefix, for searches.';
COMMENT ON COLUMN prefix_words.prefix_id IS 'The prefix.';
COMMENT ON COLUMN prefix_words.words IS 'comment, description, node, order_id and customer_id, a line each.';

CREATE OR REPLACE FUNCTION words_of(p prefix) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce((p).comment, '') || E'\n' || coalesce((p).description, '') || E'\n' || coalesce((p).node, '') || E'\n'
    || coalesce((p).order_id, '') || E'\n' || coalesce((p).customer_id, '');
COMMENT ON FUNCTION words_of(prefix) IS 'The text of a prefix that word searches look at, a line for each attribute.';

CREATE OR REPLACE FUNCTION lower_each(words text[]) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT coalesce(array_agg(lower(word)), '{}') FROM unnest(words) word);
COMMENT ON FUNCTION lower_each(text[]) IS 'The words in lower case, for comparisons that ignore case.';

CREATE OR REPLACE FUNCTION keep_words() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM prefix_words WHERE prefix_id = OLD.id;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO prefix_words VALUES (NEW.id, words_of(NEW));
    ELSE
        UPDATE prefix_words SET words = words_of(NEW) WHERE prefix_id = NEW.id;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION keep_words() IS 'Keeps prefix_words as the text of prefixes changes.';

INSERT INTO prefix_words SELECT p.id, words_of(p) FROM prefix p;
CREATE TRIGGER prefix_words_insert AFTER INSERT ON prefix FOR EACH ROW EXECUTE FUNCTION keep_words();
CREATE TRIGGER prefix_words_delete AFTER DELETE ON prefix FOR EACH ROW EXECUTE FUNCTION keep_words();
-- The list of columns keeps the trigger from firing when children or counters change.
CREATE TRIGGER prefix_words_update AFTER UPDATE OF comment, description, node, order_id, customer_id ON prefix
    FOR EACH ROW WHEN (words_of(OLD) <> words_of(NEW)) EXECUTE FUNCTION keep_words();
COMMENT ON TRIGGER prefix_words_insert ON prefix IS 'Keeps prefix_words.';
COMMENT ON TRIGGER prefix_words_delete ON prefix IS 'Keeps prefix_words.';
COMMENT ON TRIGGER prefix_words_update ON prefix IS 'Keeps prefix_words.';

-- The pending list is small, so that a search never has much of it to read.
CREATE INDEX prefix_words_idx ON prefix_words USING gin (words gin_trgm_ops) WITH (gin_pending_list_limit = 256);
COMMENT ON INDEX prefix_words_idx IS 'Words, patterns and like.';

-- Partial indexes: most prefixes have none of these values, and moving those prefixes then costs nothing here.
CREATE INDEX prefix_tags_idx ON prefix USING gin (lower_each(tags)) WHERE tags <> '{}';
CREATE INDEX prefix_avps_idx ON prefix USING gin (avps jsonb_path_ops) WHERE avps <> '{}';
CREATE INDEX prefix_vlan_idx ON prefix (vlan) WHERE vlan IS NOT NULL;
CREATE INDEX prefix_external_key_idx ON prefix (external_key) WHERE external_key IS NOT NULL;
CREATE INDEX prefix_expires_idx ON prefix (expires) WHERE expires < 'infinity';
COMMENT ON INDEX prefix_tags_idx IS 'Prefixes by tag, ignoring case.';
COMMENT ON INDEX prefix_avps_idx IS 'Prefixes by attribute-value pair.';
COMMENT ON INDEX prefix_vlan_idx IS 'Prefixes by VLAN.';
COMMENT ON INDEX prefix_external_key_idx IS 'Prefixes by external key.';
COMMENT ON INDEX prefix_expires_idx IS 'Prefixes that expire.';
