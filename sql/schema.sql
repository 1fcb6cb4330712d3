-- The schema that the migrations make, and a list of the functions, for readers: nothing is installed from this file,
-- and what the migrations put into the tables is not in it. Written by tests/dump_schema.py; do not edit.

SET check_function_bodies = false;

CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public;

COMMENT ON EXTENSION pg_trgm IS 'text similarity measurement and index searching based on trigrams';

CREATE TYPE public.actor AS (
	username text,
	authenticated_as text,
	full_name text,
	authoritative_source text
);

COMMENT ON TYPE public.actor IS 'The author of a change, for programs of version 8: acting user, authenticated user, full name and system of origin.';

CREATE TYPE public.adopted AS (
	children integer,
	size numeric,
	used numeric
);

COMMENT ON TYPE public.adopted IS 'Prefixes that got another parent: their number, the sum of their sizes and the sum of their used addresses.';

CREATE DOMAIN public.alarm_priority AS text
	CONSTRAINT alarm_priority_check CHECK ((VALUE = ANY (ARRAY['warning'::text, 'low'::text, 'medium'::text, 'high'::text, 'critical'::text])));

COMMENT ON DOMAIN public.alarm_priority IS 'Urgency of alarms: warning, low, medium, high or critical.';

CREATE DOMAIN public.country_code AS text
	CONSTRAINT country_code_check CHECK ((VALUE ~ '^[A-Z]{2}$'::text));

COMMENT ON DOMAIN public.country_code IS 'ISO 3166-1 alpha-2, upper case.';

CREATE DOMAIN public.pairs AS jsonb
	CONSTRAINT pairs_check CHECK ((jsonb_typeof(VALUE) = 'object'::text));

COMMENT ON DOMAIN public.pairs IS 'Attribute-value pairs, string to string.';

CREATE DOMAIN public.prefix_status AS text
	CONSTRAINT prefix_status_check CHECK ((VALUE = ANY (ARRAY['assigned'::text, 'reserved'::text, 'quarantine'::text])));

COMMENT ON DOMAIN public.prefix_status IS 'Use of a prefix: assigned, reserved or quarantine.';

CREATE DOMAIN public.prefix_type AS text
	CONSTRAINT prefix_type_check CHECK ((VALUE = ANY (ARRAY['reservation'::text, 'assignment'::text, 'host'::text])));

COMMENT ON DOMAIN public.prefix_type IS 'Purpose of a prefix: reservation, assignment or host.';

CREATE DOMAIN public.vlan_id AS integer;

COMMENT ON DOMAIN public.vlan_id IS 'VLAN identifier (IEEE 802.1Q), 0 to 4095. Other values from databases of NIPAP are kept.';

CREATE FUNCTION public.keep_change_set() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    -- Do the same as record_change, which programs of version 8 lack.
    call text := coalesce(nullif(current_setting('nipap.change', true), ''), 'x' || pg_current_xact_id());
    noted text := current_setting('nipap.change_set', true);
BEGIN
    IF split_part(noted, '/', 1) = call THEN
        NEW.change_set := split_part(noted, '/', 2);
    ELSE
        INSERT INTO change_set (call, username, authenticated_as, full_name, authoritative_source)
        VALUES (NEW.change, NEW.username, NEW.authenticated_as, NEW.full_name, NEW.authoritative_source)
        RETURNING id INTO NEW.change_set;
        noted := set_config('nipap.change_set', call || '/' || NEW.change_set, false);
    END IF;
    RETURN NEW;
END $$;

COMMENT ON FUNCTION public.keep_change_set() IS 'Assigns a change set to the audit entries that a program of version 8 writes.';

CREATE FUNCTION public.keep_last_version() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    key bigint;
BEGIN
    IF TG_TABLE_NAME = 'asn' THEN
        key := OLD.asn;
    ELSE
        key := OLD.id;
    END IF;
    INSERT INTO last_version AS l VALUES (TG_TABLE_NAME, key, OLD.version)
    ON CONFLICT ON CONSTRAINT last_version_pkey DO UPDATE SET version = greatest(l.version, excluded.version);
    RETURN NULL;
END $$;

COMMENT ON FUNCTION public.keep_last_version() IS 'Keeps the last version of a removed object.';

CREATE FUNCTION public.keep_version() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.version := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE OLD.version + 1 END;
    RETURN NEW;
END $$;

COMMENT ON FUNCTION public.keep_version() IS 'Sets the version of objects that a program of an earlier version adds or edits.';

CREATE FUNCTION public.keep_words() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    UPDATE prefix_words SET words = words_of(NEW) WHERE prefix_id = NEW.id;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION public.keep_words() IS 'Keeps prefix_words up to date when the text of a prefix changes.';

CREATE FUNCTION public.lower_each(words text[]) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (SELECT COALESCE(array_agg(lower(word.word)), '{}'::text[]) AS "coalesce" FROM unnest(lower_each.words) word(word));

COMMENT ON FUNCTION public.lower_each(words text[]) IS 'The words in lower case, for comparisons that ignore case.';

CREATE FUNCTION public.macs_of(avps jsonb) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (SELECT COALESCE(array_agg(DISTINCT lower(regexp_replace(m.m[1], '[-:.]'::text, ''::text, 'g'::text))), '{}'::text[]) AS "coalesce" FROM (jsonb_each_text(macs_of.avps) e(key, value) CROSS JOIN LATERAL regexp_matches(e.value, '(?<![0-9A-Fa-f:.-])([0-9A-Fa-f]{12}|[0-9A-Fa-f]{2}(?:([-:.])[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{4}(?:[-:.][0-9A-Fa-f]{4}){2}|[0-9A-Fa-f]{6}[-:][0-9A-Fa-f]{6})(?![0-9A-Fa-f])'::text, 'g'::text) m(m)));

COMMENT ON FUNCTION public.macs_of(avps jsonb) IS 'The MAC addresses in the values of pairs, as twelve digits each.';

CREATE FUNCTION public.note_prefix() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO pg_temp.plan_prefix VALUES (OLD.id, OLD.vrf_id, OLD.prefix, OLD.parent_id, OLD.children, OLD.used_addresses, OLD.pool_id, OLD.free_blocks,
        OLD.added)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION public.note_prefix() IS 'Keeps the place and the counters of a prefix as they are before a planned change.';

CREATE FUNCTION public.note_total() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO pg_temp.plan_total VALUES (NEW.vrf_id, NEW.family, NEW.slot, 0, 0, 0) ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO pg_temp.plan_total VALUES (OLD.vrf_id, OLD.family, OLD.slot, OLD.num_prefixes, OLD.total_addresses, OLD.used_addresses)
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION public.note_total() IS 'Keeps a row of the totals of a VRF as it is before a planned change.';

CREATE TABLE public.prefix (
    id bigint NOT NULL,
    vrf_id integer NOT NULL,
    prefix cidr NOT NULL,
    type public.prefix_type NOT NULL,
    parent_id bigint,
    children integer DEFAULT 0 NOT NULL,
    used_addresses numeric DEFAULT 0 NOT NULL,
    pool_id integer,
    free_blocks numeric,
    status public.prefix_status DEFAULT 'assigned'::text NOT NULL,
    description text,
    comment text,
    node text,
    country public.country_code,
    order_id text,
    customer_id text,
    external_key text,
    alarm_priority public.alarm_priority,
    monitor boolean,
    vlan public.vlan_id,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    avps public.pairs DEFAULT '{}'::jsonb NOT NULL,
    expires timestamp with time zone DEFAULT 'infinity'::timestamp with time zone NOT NULL,
    authoritative_source text DEFAULT 'nipap'::text NOT NULL,
    added timestamp with time zone DEFAULT now() NOT NULL,
    last_modified timestamp with time zone DEFAULT now() NOT NULL,
    version integer DEFAULT 1 NOT NULL
)
WITH (fillfactor='90', autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_threshold='1000');

COMMENT ON TABLE public.prefix IS 'The prefixes of all VRFs. They form a tree by their networks; parent_id is derived from it.';

COMMENT ON COLUMN public.prefix.id IS 'Identity.';

COMMENT ON COLUMN public.prefix.vrf_id IS 'The VRF of the prefix.';

COMMENT ON COLUMN public.prefix.prefix IS 'The network; unique in its VRF.';

COMMENT ON COLUMN public.prefix.type IS 'reservation, assignment or host; types nest as reservation, reservation, assignment, host.';

COMMENT ON COLUMN public.prefix.parent_id IS 'Derived: the longest prefix of the VRF that covers this one; NULL at the top.';

COMMENT ON COLUMN public.prefix.children IS 'Derived: number of direct children.';

COMMENT ON COLUMN public.prefix.used_addresses IS 'Derived: sum of the sizes of direct children; 1 for a full-length prefix.';

COMMENT ON COLUMN public.prefix.pool_id IS 'The pool that the prefix is a member of.';

COMMENT ON COLUMN public.prefix.free_blocks IS 'Derived: aligned blocks of the pool''s default length that lie wholly in free ranges; NULL without pool or default length.';

COMMENT ON COLUMN public.prefix.status IS 'assigned, reserved or quarantine.';

COMMENT ON COLUMN public.prefix.description IS 'Free text.';

COMMENT ON COLUMN public.prefix.comment IS 'Free text.';

COMMENT ON COLUMN public.prefix.node IS 'Name of the node of a full-length prefix. Nodes of shorter prefixes from databases of NIPAP are kept.';

COMMENT ON COLUMN public.prefix.country IS 'Country code, ISO 3166-1 alpha-2, upper case.';

COMMENT ON COLUMN public.prefix.order_id IS 'Order identifier.';

COMMENT ON COLUMN public.prefix.customer_id IS 'Customer identifier.';

COMMENT ON COLUMN public.prefix.external_key IS 'Key in some other system.';

COMMENT ON COLUMN public.prefix.alarm_priority IS 'warning, low, medium, high or critical.';

COMMENT ON COLUMN public.prefix.monitor IS 'Whether the prefix is to be monitored.';

COMMENT ON COLUMN public.prefix.vlan IS 'VLAN identifier, 0 to 4095. Other values from databases of NIPAP are kept.';

COMMENT ON COLUMN public.prefix.tags IS 'Tags in the order given, duplicates kept.';

COMMENT ON COLUMN public.prefix.avps IS 'Attribute-value pairs, string to string.';

COMMENT ON COLUMN public.prefix.expires IS 'When it expires; infinity: never.';

COMMENT ON COLUMN public.prefix.authoritative_source IS 'The system that the prefix comes from.';

COMMENT ON COLUMN public.prefix.added IS 'When it was added.';

COMMENT ON COLUMN public.prefix.last_modified IS 'When it was last edited.';

COMMENT ON COLUMN public.prefix.version IS 'Version: 1 for a new prefix, one more with each edit that changes a fact.';

CREATE FUNCTION public.words_of(p public.prefix) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((((((((COALESCE((p).comment, ''::text) || '
'::text) || COALESCE((p).description, ''::text)) || '
'::text) || COALESCE((p).node, ''::text)) || '
'::text) || COALESCE((p).order_id, ''::text)) || '
'::text) || COALESCE((p).customer_id, ''::text));

COMMENT ON FUNCTION public.words_of(p public.prefix) IS 'The text of a prefix for word searches, a line for each attribute.';

CREATE TABLE public.asn (
    asn bigint NOT NULL,
    name text,
    version integer DEFAULT 1 NOT NULL,
    CONSTRAINT asn_range_check CHECK (((asn >= 1) AND (asn <= '4294967295'::bigint)))
);

COMMENT ON TABLE public.asn IS 'Autonomous systems.';

COMMENT ON COLUMN public.asn.asn IS 'AS number (RFC 6793).';

COMMENT ON COLUMN public.asn.name IS 'Name.';

COMMENT ON COLUMN public.asn.version IS 'Version: 1 for a new AS number, one more with each edit that changes a fact.';

CREATE TABLE public.audit_span (
    last_id bigint NOT NULL,
    first_id bigint NOT NULL,
    oldest timestamp with time zone NOT NULL,
    newest timestamp with time zone NOT NULL
);

COMMENT ON TABLE public.audit_span IS 'Ranges of audit entries with the times in them: an entry of a time is found without an index on times. Ranges have no entry in common and are complete.';

COMMENT ON COLUMN public.audit_span.last_id IS 'The last id of the range. No transaction can still add an entry up to it.';

COMMENT ON COLUMN public.audit_span.first_id IS 'The first id of the range. Ids between two ranges were not used.';

COMMENT ON COLUMN public.audit_span.oldest IS 'No entry of the range is older.';

COMMENT ON COLUMN public.audit_span.newest IS 'No entry of the range is newer.';

CREATE TABLE public.change_set (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    call bigint,
    username text NOT NULL,
    authenticated_as text NOT NULL,
    full_name text,
    authoritative_source text NOT NULL,
    method text,
    request_id text,
    idempotency_key text,
    reason text,
    change_group text,
    last_older_entry bigint,
    entries_after bigint DEFAULT 0 NOT NULL,
    undoes bigint DEFAULT (NULLIF(current_setting('nipap.undoes'::text, true), ''::text))::bigint
);

COMMENT ON TABLE public.change_set IS 'All changes of one call, which may be a batch. The row is written with the first audit entry of the call, in the same transaction.';

COMMENT ON COLUMN public.change_set.id IS 'The number shown to users; increases, with gaps. It is drawn before the commit: change_order has the order of commits.';

COMMENT ON COLUMN public.change_set.at IS 'When the transaction of the change began.';

COMMENT ON COLUMN public.change_set.call IS 'Number of the call, made of the time and a random number. Shows whether the call was committed when its answer was lost.';

COMMENT ON COLUMN public.change_set.username IS 'The user for whom the change was made.';

COMMENT ON COLUMN public.change_set.authenticated_as IS 'The user that logged in, as in audit_log.authenticated_as.';

COMMENT ON COLUMN public.change_set.full_name IS 'Full name that goes with username, when known.';

COMMENT ON COLUMN public.change_set.authoritative_source IS 'The system that the change came from.';

COMMENT ON COLUMN public.change_set.method IS 'Method of the call; NULL: not recorded.';

COMMENT ON COLUMN public.change_set.request_id IS 'Id of the request, as in the log of the daemon.';

COMMENT ON COLUMN public.change_set.idempotency_key IS 'The idempotency key of the call, if it had one.';

COMMENT ON COLUMN public.change_set.reason IS 'Reason for the change, as given by the client.';

COMMENT ON COLUMN public.change_set.change_group IS 'Name of the import or bulk action that the call was a part of, as given by the client.';

COMMENT ON COLUMN public.change_set.last_older_entry IS 'Id of the last audit entry of a change set that is older than this table; NULL for all others. The entries of an older change set have no audit_log.change_set, and its id is that of its first entry.';

COMMENT ON COLUMN public.change_set.entries_after IS 'The ids of the audit entries are above this one, so that older partitions need not be read.';

COMMENT ON COLUMN public.change_set.undoes IS 'The change set that this one undoes; NULL for all others.';

CREATE TABLE public.change_state (
    older_entries bigint NOT NULL,
    settled bigint DEFAULT 0 NOT NULL,
    "position" bigint DEFAULT 0 NOT NULL,
    moment timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL
);

COMMENT ON TABLE public.change_state IS 'Progress of change_order; one row.';

COMMENT ON COLUMN public.change_state.older_entries IS 'Audit entries up to this id are older than change sets and have no audit_log.change_set.';

COMMENT ON COLUMN public.change_state.settled IS 'All change sets up to this number have a position, and no transaction can still add another one.';

COMMENT ON COLUMN public.change_state."position" IS 'The highest position assigned so far.';

COMMENT ON COLUMN public.change_state.moment IS 'The moment of that position.';

CREATE TABLE public.event (
    "position" bigint NOT NULL,
    audit_id bigint NOT NULL,
    created timestamp with time zone DEFAULT now() NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_threshold='1000');

COMMENT ON TABLE public.event IS 'Entries of the audit log in the order of delivery. A row is kept for event_retention_hours at least.';

COMMENT ON COLUMN public.event."position" IS 'Increases. A reader that sees a position sees all positions before it.';

COMMENT ON COLUMN public.event.audit_id IS 'The entry of the audit log.';

COMMENT ON COLUMN public.event.created IS 'When the event got its position.';

CREATE TABLE public.audit_log (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    username text NOT NULL,
    authenticated_as text NOT NULL,
    full_name text,
    authoritative_source text NOT NULL,
    object_type text NOT NULL,
    object_id bigint NOT NULL,
    action text NOT NULL,
    before jsonb,
    after jsonb,
    change bigint DEFAULT (NULLIF(current_setting('nipap.change'::text, true), ''::text))::bigint,
    change_set bigint
)
PARTITION BY RANGE (id);

COMMENT ON TABLE public.audit_log IS 'Every change: written in the transaction of the change itself, never updated. Partitioned by ranges of ten million ids.';

COMMENT ON COLUMN public.audit_log.id IS 'Identity; increases, with gaps. The first entry of a month begins a new partition.';

COMMENT ON COLUMN public.audit_log.at IS 'When the transaction of the change began.';

COMMENT ON COLUMN public.audit_log.username IS 'The user for whom the change was made.';

COMMENT ON COLUMN public.audit_log.authenticated_as IS 'The user that logged in: name, or name@backend for a user of an authentication backend other than the default one. Differs from username also when a trusted user acts for another user.';

COMMENT ON COLUMN public.audit_log.full_name IS 'Full name that goes with username, when known.';

COMMENT ON COLUMN public.audit_log.authoritative_source IS 'The system that the change came from.';

COMMENT ON COLUMN public.audit_log.object_type IS 'vrf, pool, prefix, asn or webhook.';

COMMENT ON COLUMN public.audit_log.object_id IS 'Id of the object; the AS number itself for asn.';

COMMENT ON COLUMN public.audit_log.action IS 'add, edit or remove; resend for dead letters of a webhook.';

COMMENT ON COLUMN public.audit_log.before IS 'Stored values before the change, without nulls; NULL for add. For a webhook: the attributes that clients set, without the secret.';

COMMENT ON COLUMN public.audit_log.after IS 'Stored values after the change, without nulls; NULL for remove. For a webhook: the attributes that clients set, without the secret, with secret_changed, or with the dead letters that are sent again.';

COMMENT ON COLUMN public.audit_log.change IS 'Number of the call, written by programs up to version 8; change_set.call has it now.';

COMMENT ON COLUMN public.audit_log.change_set IS 'The change set of the entry; NULL for entries that are older than change sets (change_set.last_older_entry).';

CREATE TABLE public.pool (
    id integer NOT NULL,
    name text NOT NULL,
    description text,
    default_type text,
    ipv4_default_prefix_length smallint,
    ipv6_default_prefix_length smallint,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    avps jsonb DEFAULT '{}'::jsonb NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    CONSTRAINT pool_avps_check CHECK ((jsonb_typeof(avps) = 'object'::text)),
    CONSTRAINT pool_default_type_check CHECK ((default_type = ANY (ARRAY['reservation'::text, 'assignment'::text, 'host'::text]))),
    CONSTRAINT pool_ipv4_length_check CHECK (((ipv4_default_prefix_length >= 1) AND (ipv4_default_prefix_length <= 32))),
    CONSTRAINT pool_ipv6_length_check CHECK (((ipv6_default_prefix_length >= 1) AND (ipv6_default_prefix_length <= 128)))
);

COMMENT ON TABLE public.pool IS 'Named sets of prefixes to allocate from.';

COMMENT ON COLUMN public.pool.id IS 'Identity.';

COMMENT ON COLUMN public.pool.name IS 'Name, unique without regard to case.';

COMMENT ON COLUMN public.pool.description IS 'Free text.';

COMMENT ON COLUMN public.pool.default_type IS 'Type of the prefixes that are allocated from the pool; NULL: each allocation must give a type.';

COMMENT ON COLUMN public.pool.ipv4_default_prefix_length IS 'Prefix length of IPv4 allocations that give none.';

COMMENT ON COLUMN public.pool.ipv6_default_prefix_length IS 'Prefix length of IPv6 allocations that give none.';

COMMENT ON COLUMN public.pool.tags IS 'Tags in the order given, duplicates kept.';

COMMENT ON COLUMN public.pool.avps IS 'Attribute-value pairs, string to string.';

COMMENT ON COLUMN public.pool.version IS 'Version: 1 for a new pool, one more with each edit that changes a fact.';

CREATE TABLE public.audit_detached (
    name text NOT NULL,
    first_id bigint,
    end_id bigint NOT NULL,
    oldest timestamp with time zone,
    newest timestamp with time zone,
    detached timestamp with time zone DEFAULT now() NOT NULL,
    attached timestamp with time zone
);

COMMENT ON TABLE public.audit_detached IS 'Partitions that have been detached from audit_log. Their tables keep the entries.';

COMMENT ON COLUMN public.audit_detached.name IS 'Name of the table.';

COMMENT ON COLUMN public.audit_detached.first_id IS 'The ids begin here; NULL: from the beginning.';

COMMENT ON COLUMN public.audit_detached.end_id IS 'The ids are below this one.';

COMMENT ON COLUMN public.audit_detached.oldest IS 'No entry of the table is older; NULL: the table has no entries.';

COMMENT ON COLUMN public.audit_detached.newest IS 'No entry of the table is newer; NULL: the table has no entries.';

COMMENT ON COLUMN public.audit_detached.detached IS 'When the table was detached last.';

COMMENT ON COLUMN public.audit_detached.attached IS 'When the table was attached again by an administrator. Its age is no reason to detach it any more. NULL: it is detached.';

CREATE TABLE public.vrf (
    id integer NOT NULL,
    rt text,
    rt_rank numeric(20,0) NOT NULL,
    name text NOT NULL,
    description text,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    avps jsonb DEFAULT '{}'::jsonb NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    CONSTRAINT vrf_avps_check CHECK ((jsonb_typeof(avps) = 'object'::text)),
    CONSTRAINT vrf_default_check CHECK (((id = 0) = (rt IS NULL)))
);

COMMENT ON TABLE public.vrf IS 'Virtual routing and forwarding instances: each is an address space of its own. VRF 0, without route target, always exists.';

COMMENT ON COLUMN public.vrf.id IS 'Identity; 0 is the default VRF.';

COMMENT ON COLUMN public.vrf.rt IS 'Route target (RFC 4364) as ASN:n or a.b.c.d:n without leading zeros; NULL for VRF 0 only.';

COMMENT ON COLUMN public.vrf.rt_rank IS 'Route target as a number, administrator * 2^32 + n; -1 for VRF 0. Answers are ordered by it. Route targets in different notations may have the same number.';

COMMENT ON COLUMN public.vrf.name IS 'Name, unique without regard to case.';

COMMENT ON COLUMN public.vrf.description IS 'Free text.';

COMMENT ON COLUMN public.vrf.tags IS 'Tags in the order given, duplicates kept.';

COMMENT ON COLUMN public.vrf.avps IS 'Attribute-value pairs, string to string.';

COMMENT ON COLUMN public.vrf.version IS 'Version: 1 for a new VRF, one more with each edit that changes a fact.';

CREATE TABLE public.webhook (
    id integer NOT NULL,
    url text NOT NULL,
    secret text NOT NULL,
    description text,
    kinds text[] DEFAULT '{}'::text[] NOT NULL,
    vrf_ids bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    pool_ids bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    added timestamp with time zone DEFAULT now() NOT NULL,
    cursor bigint NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    failing_since timestamp with time zone,
    next_attempt timestamp with time zone,
    last_error text,
    delivered bigint DEFAULT 0 NOT NULL,
    failed bigint DEFAULT 0 NOT NULL,
    owner text
);

COMMENT ON TABLE public.webhook IS 'Receivers of events over HTTP.';

COMMENT ON COLUMN public.webhook.id IS 'Identity.';

COMMENT ON COLUMN public.webhook.url IS 'URL that events are posted to.';

COMMENT ON COLUMN public.webhook.secret IS 'Key of the signature; in plain text, since signing needs it.';

COMMENT ON COLUMN public.webhook.description IS 'Free text.';

COMMENT ON COLUMN public.webhook.kinds IS 'Kinds of object to send events of; empty: all.';

COMMENT ON COLUMN public.webhook.vrf_ids IS 'VRFs to send events of, with their prefixes; empty: all.';

COMMENT ON COLUMN public.webhook.pool_ids IS 'Pools to send events of, with their members; empty: all.';

COMMENT ON COLUMN public.webhook.tags IS 'Tags of objects to send events of; empty: all.';

COMMENT ON COLUMN public.webhook.enabled IS 'Whether events are sent.';

COMMENT ON COLUMN public.webhook.added IS 'When the webhook was added.';

COMMENT ON COLUMN public.webhook.cursor IS 'All events up to this position were delivered, given up or filtered out.';

COMMENT ON COLUMN public.webhook.attempts IS 'Failed attempts since the last delivery or edit.';

COMMENT ON COLUMN public.webhook.failing_since IS 'When the first of these attempts failed; NULL: none has failed.';

COMMENT ON COLUMN public.webhook.next_attempt IS 'When to try again.';

COMMENT ON COLUMN public.webhook.last_error IS 'Error of the last failed attempt.';

COMMENT ON COLUMN public.webhook.delivered IS 'Events that were delivered.';

COMMENT ON COLUMN public.webhook.failed IS 'Failed attempts in total.';

COMMENT ON COLUMN public.webhook.owner IS 'The account that added the webhook, as in audit_log.authenticated_as; NULL: unknown.';

CREATE SEQUENCE public.audit_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.audit_log_id_seq OWNED BY public.audit_log.id;

CREATE TABLE public.audit_log_1 (
    id bigint DEFAULT nextval('public.audit_log_id_seq'::regclass) NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    username text NOT NULL,
    authenticated_as text NOT NULL,
    full_name text,
    authoritative_source text NOT NULL,
    object_type text NOT NULL,
    object_id bigint NOT NULL,
    action text NOT NULL,
    before jsonb,
    after jsonb,
    change bigint DEFAULT (NULLIF(current_setting('nipap.change'::text, true), ''::text))::bigint,
    change_set bigint
);

COMMENT ON TABLE public.audit_log_1 IS 'The oldest partition of audit_log: the log as it was before it had partitions.';

COMMENT ON COLUMN public.audit_log_1.id IS 'Identity; grows, with gaps.';

COMMENT ON COLUMN public.audit_log_1.at IS 'When the transaction of the change began.';

COMMENT ON COLUMN public.audit_log_1.username IS 'The user for whom the change was made.';

COMMENT ON COLUMN public.audit_log_1.authenticated_as IS 'The user that logged in: name, or name@backend for a user of an authentication backend other than the default one. Differs from username also when a trusted user acts for another user.';

COMMENT ON COLUMN public.audit_log_1.full_name IS 'Full name that goes with username, when known.';

COMMENT ON COLUMN public.audit_log_1.authoritative_source IS 'The system that the change came from.';

COMMENT ON COLUMN public.audit_log_1.object_type IS 'vrf, pool, prefix, asn or webhook.';

COMMENT ON COLUMN public.audit_log_1.object_id IS 'Id of the object; the AS number itself for asn.';

COMMENT ON COLUMN public.audit_log_1.action IS 'add, edit or remove; resend for dead letters of a webhook.';

COMMENT ON COLUMN public.audit_log_1.before IS 'Stored values before the change, without nulls; NULL for add. For a webhook: the attributes that clients set, without the secret.';

COMMENT ON COLUMN public.audit_log_1.after IS 'Stored values after the change, without nulls; NULL for remove. For a webhook: the attributes that clients set, without the secret, with secret_changed, or with the dead letters that are sent again.';

COMMENT ON COLUMN public.audit_log_1.change IS 'Number of the call, written by programs up to version 8; change_set.call has it now.';

COMMENT ON COLUMN public.audit_log_1.change_set IS 'The change set of the entry; NULL for entries that are older than change sets (change_set.last_older_entry).';

CREATE TABLE public.audit_log_2 (
    id bigint DEFAULT nextval('public.audit_log_id_seq'::regclass) NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    username text NOT NULL,
    authenticated_as text NOT NULL,
    full_name text,
    authoritative_source text NOT NULL,
    object_type text NOT NULL,
    object_id bigint NOT NULL,
    action text NOT NULL,
    before jsonb,
    after jsonb,
    change bigint DEFAULT (NULLIF(current_setting('nipap.change'::text, true), ''::text))::bigint,
    change_set bigint
);

COMMENT ON TABLE public.audit_log_2 IS 'A partition of audit_log.';

CREATE TABLE public.audit_log_rest (
    id bigint DEFAULT nextval('public.audit_log_id_seq'::regclass) NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    username text NOT NULL,
    authenticated_as text NOT NULL,
    full_name text,
    authoritative_source text NOT NULL,
    object_type text NOT NULL,
    object_id bigint NOT NULL,
    action text NOT NULL,
    before jsonb,
    after jsonb,
    change bigint DEFAULT (NULLIF(current_setting('nipap.change'::text, true), ''::text))::bigint,
    change_set bigint
);

COMMENT ON TABLE public.audit_log_rest IS 'The partition of audit_log for entries without another one. Empty unless nobody made partitions ahead.';

CREATE TABLE public.change_order (
    "position" bigint NOT NULL,
    change_set bigint NOT NULL,
    moment timestamp with time zone NOT NULL
);

COMMENT ON TABLE public.change_order IS 'Change sets in the order in which they were committed.';

COMMENT ON COLUMN public.change_order."position" IS 'Increases without gaps. A reader that sees a position sees all positions before it.';

COMMENT ON COLUMN public.change_order.change_set IS 'The change set.';

COMMENT ON COLUMN public.change_order.moment IS 'When the change set was seen committed. Increases with the position, even if the clock is set back.';

ALTER TABLE public.change_set ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.change_set_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.dead_letter (
    id bigint NOT NULL,
    webhook_id integer NOT NULL,
    "position" bigint NOT NULL,
    event jsonb NOT NULL,
    error text NOT NULL,
    added timestamp with time zone DEFAULT now() NOT NULL,
    again boolean DEFAULT false NOT NULL
);

COMMENT ON TABLE public.dead_letter IS 'Events that were given up after hours of failed attempts to deliver them to a webhook.';

COMMENT ON COLUMN public.dead_letter.id IS 'Identity.';

COMMENT ON COLUMN public.dead_letter.webhook_id IS 'The webhook.';

COMMENT ON COLUMN public.dead_letter."position" IS 'Position of the event.';

COMMENT ON COLUMN public.dead_letter.event IS 'The event as it would have been sent; its row in event may be removed.';

COMMENT ON COLUMN public.dead_letter.error IS 'Error of the last attempt.';

COMMENT ON COLUMN public.dead_letter.added IS 'When the event was given up.';

COMMENT ON COLUMN public.dead_letter.again IS 'Whether the event is to be sent again.';

ALTER TABLE public.dead_letter ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.dead_letter_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.event_state (
    settled bigint,
    last_position bigint DEFAULT 0 NOT NULL,
    removed bigint DEFAULT 0 NOT NULL,
    kafka_cursor bigint,
    kafka_delivered bigint DEFAULT 0 NOT NULL,
    kafka_failed bigint DEFAULT 0 NOT NULL
);

COMMENT ON TABLE public.event_state IS 'Progress of the event positions, and deliveries to Kafka; one row.';

COMMENT ON COLUMN public.event_state.settled IS 'All events up to this audit entry have a position, and no transaction can still add another one. NULL: no daemon has begun to collect events.';

COMMENT ON COLUMN public.event_state.last_position IS 'The highest position assigned so far.';

COMMENT ON COLUMN public.event_state.removed IS 'The highest position that was removed because of its age.';

COMMENT ON COLUMN public.event_state.kafka_cursor IS 'Kafka has confirmed all events up to this position; NULL: Kafka was never used.';

COMMENT ON COLUMN public.event_state.kafka_delivered IS 'Events that Kafka has confirmed.';

COMMENT ON COLUMN public.event_state.kafka_failed IS 'Failed attempts to send events to Kafka.';

CREATE TABLE public.free_range (
    owner bigint NOT NULL,
    first_address inet NOT NULL,
    last_address inet NOT NULL,
    fit smallint NOT NULL
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.05');

COMMENT ON TABLE public.free_range IS 'Derived: maximal free ranges directly inside an owner. A prefix without children has no rows: it is free as a whole.';

COMMENT ON COLUMN public.free_range.owner IS 'Id of the prefix, or negative for the whole address space of a VRF: -1 - 2 * vrf_id for IPv4, -2 - 2 * vrf_id for IPv6.';

COMMENT ON COLUMN public.free_range.first_address IS 'First free address, full length.';

COMMENT ON COLUMN public.free_range.last_address IS 'Last free address, full length.';

COMMENT ON COLUMN public.free_range.fit IS 'Prefix length of the largest aligned block inside the range.';

CREATE TABLE public.idempotency (
    authenticated_as text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    answer bytea NOT NULL,
    created timestamp with time zone DEFAULT now() NOT NULL,
    change_set bigint
)
WITH (autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_threshold='1000');
ALTER TABLE ONLY public.idempotency ALTER COLUMN answer SET STORAGE EXTERNAL;

COMMENT ON TABLE public.idempotency IS 'Calls with an idempotency key, and their answers. A row is kept for idempotency_hours.';

COMMENT ON COLUMN public.idempotency.authenticated_as IS 'The user that logged in: each user has keys of their own.';

COMMENT ON COLUMN public.idempotency.key IS 'The key, as the client chose it.';

COMMENT ON COLUMN public.idempotency.fingerprint IS 'Hash of the acting user, the method and its arguments: the key is valid for these only.';

COMMENT ON COLUMN public.idempotency.answer IS 'The answer: JSON with marks for values that JSON lacks, compressed (zlib).';

COMMENT ON COLUMN public.idempotency.created IS 'When the call was answered.';

COMMENT ON COLUMN public.idempotency.change_set IS 'The change set of the call; NULL when it changed nothing.';

CREATE TABLE public.last_version (
    kind text NOT NULL,
    id bigint NOT NULL,
    version integer NOT NULL
);

COMMENT ON TABLE public.last_version IS 'The last versions of removed objects with a version above 1.';

COMMENT ON COLUMN public.last_version.kind IS 'vrf, pool, prefix or asn.';

COMMENT ON COLUMN public.last_version.id IS 'Id of the object; the AS number itself for asn.';

COMMENT ON COLUMN public.last_version.version IS 'The version that the object had when it was removed.';

CREATE TABLE public.past_asn (
    since bigint NOT NULL,
    until bigint NOT NULL,
    asn bigint NOT NULL,
    name text,
    version integer NOT NULL,
    CONSTRAINT past_asn_time_check CHECK ((since < until))
);

COMMENT ON TABLE public.past_asn IS 'The states of each AS number, each with the positions between which it held.';

COMMENT ON COLUMN public.past_asn.since IS 'The position of change_order from which the state held; 0: it may have held before the first position that was looked at.';

COMMENT ON COLUMN public.past_asn.until IS 'The position from which it held no longer; 9223372036854775807: it holds at present.';

COMMENT ON COLUMN public.past_asn.asn IS 'The value of asn.asn in this state.';

COMMENT ON COLUMN public.past_asn.name IS 'The value of asn.name in this state.';

COMMENT ON COLUMN public.past_asn.version IS 'The value of asn.version in this state.';

CREATE TABLE public.past_pool (
    since bigint NOT NULL,
    until bigint NOT NULL,
    id integer NOT NULL,
    name text NOT NULL,
    description text,
    default_type text,
    ipv4_default_prefix_length smallint,
    ipv6_default_prefix_length smallint,
    tags text[] NOT NULL,
    avps jsonb NOT NULL,
    version integer NOT NULL,
    CONSTRAINT past_pool_time_check CHECK ((since < until))
);

COMMENT ON TABLE public.past_pool IS 'The states of each pool, each with the positions between which it held.';

COMMENT ON COLUMN public.past_pool.since IS 'The position of change_order from which the state held; 0: it may have held before the first position that was looked at.';

COMMENT ON COLUMN public.past_pool.until IS 'The position from which it held no longer; 9223372036854775807: it holds at present.';

COMMENT ON COLUMN public.past_pool.id IS 'The value of pool.id in this state.';

COMMENT ON COLUMN public.past_pool.name IS 'The value of pool.name in this state.';

COMMENT ON COLUMN public.past_pool.description IS 'The value of pool.description in this state.';

COMMENT ON COLUMN public.past_pool.default_type IS 'The value of pool.default_type in this state.';

COMMENT ON COLUMN public.past_pool.ipv4_default_prefix_length IS 'The value of pool.ipv4_default_prefix_length in this state.';

COMMENT ON COLUMN public.past_pool.ipv6_default_prefix_length IS 'The value of pool.ipv6_default_prefix_length in this state.';

COMMENT ON COLUMN public.past_pool.tags IS 'The value of pool.tags in this state.';

COMMENT ON COLUMN public.past_pool.avps IS 'The value of pool.avps in this state.';

COMMENT ON COLUMN public.past_pool.version IS 'The value of pool.version in this state.';

CREATE TABLE public.past_prefix (
    since bigint NOT NULL,
    until bigint NOT NULL,
    id bigint NOT NULL,
    vrf_id integer NOT NULL,
    prefix cidr NOT NULL,
    type text NOT NULL,
    pool_id integer,
    status text NOT NULL,
    description text,
    comment text,
    node text,
    country text,
    order_id text,
    customer_id text,
    external_key text,
    alarm_priority text,
    monitor boolean,
    vlan integer,
    tags text[] NOT NULL,
    avps jsonb NOT NULL,
    expires timestamp with time zone NOT NULL,
    authoritative_source text NOT NULL,
    added timestamp with time zone NOT NULL,
    last_modified timestamp with time zone NOT NULL,
    version integer NOT NULL,
    CONSTRAINT past_prefix_time_check CHECK ((since < until))
);

COMMENT ON TABLE public.past_prefix IS 'The states of each prefix, each with the positions between which it held.';

COMMENT ON COLUMN public.past_prefix.since IS 'The position of change_order from which the state held; 0: it may have held before the first position that was looked at.';

COMMENT ON COLUMN public.past_prefix.until IS 'The position from which it held no longer; 9223372036854775807: it holds at present.';

COMMENT ON COLUMN public.past_prefix.id IS 'The value of prefix.id in this state.';

COMMENT ON COLUMN public.past_prefix.vrf_id IS 'The value of prefix.vrf_id in this state.';

COMMENT ON COLUMN public.past_prefix.prefix IS 'The value of prefix.prefix in this state.';

COMMENT ON COLUMN public.past_prefix.type IS 'The value of prefix.type in this state.';

COMMENT ON COLUMN public.past_prefix.pool_id IS 'The value of prefix.pool_id in this state.';

COMMENT ON COLUMN public.past_prefix.status IS 'The value of prefix.status in this state.';

COMMENT ON COLUMN public.past_prefix.description IS 'The value of prefix.description in this state.';

COMMENT ON COLUMN public.past_prefix.comment IS 'The value of prefix.comment in this state.';

COMMENT ON COLUMN public.past_prefix.node IS 'The value of prefix.node in this state.';

COMMENT ON COLUMN public.past_prefix.country IS 'The value of prefix.country in this state.';

COMMENT ON COLUMN public.past_prefix.order_id IS 'The value of prefix.order_id in this state.';

COMMENT ON COLUMN public.past_prefix.customer_id IS 'The value of prefix.customer_id in this state.';

COMMENT ON COLUMN public.past_prefix.external_key IS 'The value of prefix.external_key in this state.';

COMMENT ON COLUMN public.past_prefix.alarm_priority IS 'The value of prefix.alarm_priority in this state.';

COMMENT ON COLUMN public.past_prefix.monitor IS 'The value of prefix.monitor in this state.';

COMMENT ON COLUMN public.past_prefix.vlan IS 'The value of prefix.vlan in this state.';

COMMENT ON COLUMN public.past_prefix.tags IS 'The value of prefix.tags in this state.';

COMMENT ON COLUMN public.past_prefix.avps IS 'The value of prefix.avps in this state.';

COMMENT ON COLUMN public.past_prefix.expires IS 'The value of prefix.expires in this state.';

COMMENT ON COLUMN public.past_prefix.authoritative_source IS 'The value of prefix.authoritative_source in this state.';

COMMENT ON COLUMN public.past_prefix.added IS 'The value of prefix.added in this state.';

COMMENT ON COLUMN public.past_prefix.last_modified IS 'The value of prefix.last_modified in this state.';

COMMENT ON COLUMN public.past_prefix.version IS 'The value of prefix.version in this state.';

CREATE TABLE public.past_state (
    lowest bigint,
    "position" bigint,
    ends_at bigint
);

COMMENT ON TABLE public.past_state IS 'Progress of the tables of the past; one row.';

COMMENT ON COLUMN public.past_state.lowest IS 'The first position for which the tables have all states; NULL: nothing is built yet.';

COMMENT ON COLUMN public.past_state."position" IS 'The last position that is built.';

COMMENT ON COLUMN public.past_state.ends_at IS 'The position at which going back has ended, as no older entry can be read; NULL: older positions are still to be built.';

CREATE TABLE public.past_vrf (
    since bigint NOT NULL,
    until bigint NOT NULL,
    id integer NOT NULL,
    rt text,
    rt_rank numeric(20,0) NOT NULL,
    name text NOT NULL,
    description text,
    tags text[] NOT NULL,
    avps jsonb NOT NULL,
    version integer NOT NULL,
    CONSTRAINT past_vrf_time_check CHECK ((since < until))
);

COMMENT ON TABLE public.past_vrf IS 'The states of each VRF, each with the positions between which it held.';

COMMENT ON COLUMN public.past_vrf.since IS 'The position of change_order from which the state held; 0: it may have held before the first position that was looked at.';

COMMENT ON COLUMN public.past_vrf.until IS 'The position from which it held no longer; 9223372036854775807: it holds at present.';

COMMENT ON COLUMN public.past_vrf.id IS 'The value of vrf.id in this state.';

COMMENT ON COLUMN public.past_vrf.rt IS 'The value of vrf.rt in this state.';

COMMENT ON COLUMN public.past_vrf.rt_rank IS 'The value of vrf.rt_rank in this state.';

COMMENT ON COLUMN public.past_vrf.name IS 'The value of vrf.name in this state.';

COMMENT ON COLUMN public.past_vrf.description IS 'The value of vrf.description in this state.';

COMMENT ON COLUMN public.past_vrf.tags IS 'The value of vrf.tags in this state.';

COMMENT ON COLUMN public.past_vrf.avps IS 'The value of vrf.avps in this state.';

COMMENT ON COLUMN public.past_vrf.version IS 'The value of vrf.version in this state.';

CREATE TABLE public.past_words (
    prefix_id bigint NOT NULL,
    words text NOT NULL
);

COMMENT ON TABLE public.past_words IS 'The texts of each prefix in any of its states, for searches.';

COMMENT ON COLUMN public.past_words.prefix_id IS 'The prefix.';

COMMENT ON COLUMN public.past_words.words IS 'The text, like prefix_words.words.';

CREATE TABLE public.plan_key (
    secret bytea NOT NULL,
    CONSTRAINT plan_key_secret_check CHECK ((length(secret) >= 32))
);

COMMENT ON TABLE public.plan_key IS 'The key with which tokens of plans are signed; one row. A new key ends all plans.';

COMMENT ON COLUMN public.plan_key.secret IS 'Random bytes.';

ALTER TABLE public.pool ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.pool_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE public.prefix ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.prefix_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.prefix_words (
    prefix_id bigint NOT NULL,
    words text NOT NULL
)
WITH (fillfactor='100', autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_threshold='1000');

COMMENT ON TABLE public.prefix_words IS 'Derived: the text of a prefix, for searches.';

COMMENT ON COLUMN public.prefix_words.prefix_id IS 'The prefix.';

COMMENT ON COLUMN public.prefix_words.words IS 'comment, description, node, order_id and customer_id, a line each.';

CREATE TABLE public.schema_migration (
    version integer NOT NULL,
    name text NOT NULL,
    applied timestamp with time zone DEFAULT now() NOT NULL,
    oldest_program integer NOT NULL
);

COMMENT ON TABLE public.schema_migration IS 'The migrations applied to this database.';

COMMENT ON COLUMN public.schema_migration.version IS 'Number of the migration; the highest is the version of the schema.';

COMMENT ON COLUMN public.schema_migration.name IS 'Name of the migration.';

COMMENT ON COLUMN public.schema_migration.applied IS 'When the migration was applied.';

COMMENT ON COLUMN public.schema_migration.oldest_program IS 'Version of the oldest program that may serve the database after this migration.';

CREATE TABLE public.sign_in (
    id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    last timestamp with time zone NOT NULL,
    count bigint NOT NULL,
    authenticated_as text,
    backend text,
    address inet,
    interface text NOT NULL,
    outcome text NOT NULL,
    CONSTRAINT sign_in_count_check CHECK ((count > 0)),
    CONSTRAINT sign_in_last_check CHECK ((last >= at))
);

COMMENT ON TABLE public.sign_in IS 'Sign-ins, good and bad. A good sign-in has a row for each user, address, interface and hour; bad ones of a kind share a row that counts them.';

COMMENT ON COLUMN public.sign_in.id IS 'Increases, with gaps, in the order in which rows were written.';

COMMENT ON COLUMN public.sign_in.at IS 'When the first of the sign-ins was made.';

COMMENT ON COLUMN public.sign_in.last IS 'When the last of the sign-ins was made.';

COMMENT ON COLUMN public.sign_in.count IS 'Number of bad sign-ins; 1 for a good one.';

COMMENT ON COLUMN public.sign_in.authenticated_as IS 'The user, as in audit_log.authenticated_as, or the name tried: at most 100 characters, control characters escaped. NULL: no name was sent, or too many names were tried.';

COMMENT ON COLUMN public.sign_in.backend IS 'The auth backend; NULL: unknown.';

COMMENT ON COLUMN public.sign_in.address IS 'Address of the client, or the network of several clients. NULL: unknown, or too many addresses.';

COMMENT ON COLUMN public.sign_in.interface IS 'Interface of the request: xmlrpc, rest, rest_v1 or traces.';

COMMENT ON COLUMN public.sign_in.outcome IS 'ok, or why the sign-in was refused.';

ALTER TABLE public.sign_in ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.sign_in_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE public.vrf ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.vrf_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.vrf_total (
    vrf_id integer NOT NULL,
    family smallint NOT NULL,
    slot smallint NOT NULL,
    num_prefixes bigint DEFAULT 0 NOT NULL,
    total_addresses numeric DEFAULT 0 NOT NULL,
    used_addresses numeric DEFAULT 0 NOT NULL,
    CONSTRAINT vrf_total_family_check CHECK ((family = ANY (ARRAY[4, 6])))
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='200');

COMMENT ON TABLE public.vrf_total IS 'Totals of each VRF and family, spread over several rows. The sum of the rows counts; single rows may be negative.';

COMMENT ON COLUMN public.vrf_total.vrf_id IS 'The VRF.';

COMMENT ON COLUMN public.vrf_total.family IS 'Address family, 4 or 6.';

COMMENT ON COLUMN public.vrf_total.slot IS 'Arbitrary number that spreads writers.';

COMMENT ON COLUMN public.vrf_total.num_prefixes IS 'Share of the number of prefixes in the VRF.';

COMMENT ON COLUMN public.vrf_total.total_addresses IS 'Share of the sum of the sizes of prefixes without parent.';

COMMENT ON COLUMN public.vrf_total.used_addresses IS 'Share of the sum of used_addresses of prefixes without parent.';

ALTER TABLE public.webhook ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.webhook_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY public.audit_log ATTACH PARTITION public.audit_log_1 FOR VALUES FROM (MINVALUE) TO ('10000000');

ALTER TABLE ONLY public.audit_log ATTACH PARTITION public.audit_log_2 FOR VALUES FROM ('10000000') TO ('20000000');

ALTER TABLE ONLY public.audit_log ATTACH PARTITION public.audit_log_rest DEFAULT;

ALTER TABLE ONLY public.audit_log ALTER COLUMN id SET DEFAULT nextval('public.audit_log_id_seq'::regclass);

ALTER TABLE ONLY public.asn
    ADD CONSTRAINT asn_pkey PRIMARY KEY (asn);

ALTER TABLE ONLY public.audit_detached
    ADD CONSTRAINT audit_detached_pkey PRIMARY KEY (name);

ALTER TABLE ONLY public.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.audit_log_1
    ADD CONSTRAINT audit_log_1_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.audit_log_2
    ADD CONSTRAINT audit_log_2_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.audit_log_rest
    ADD CONSTRAINT audit_log_rest_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.audit_span
    ADD CONSTRAINT audit_span_pkey PRIMARY KEY (last_id);

ALTER TABLE ONLY public.change_order
    ADD CONSTRAINT change_order_change_set_key UNIQUE (change_set);

ALTER TABLE ONLY public.change_order
    ADD CONSTRAINT change_order_moment_key UNIQUE (moment);

ALTER TABLE ONLY public.change_order
    ADD CONSTRAINT change_order_pkey PRIMARY KEY ("position");

ALTER TABLE ONLY public.change_set
    ADD CONSTRAINT change_set_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.dead_letter
    ADD CONSTRAINT dead_letter_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_audit_id_key UNIQUE (audit_id);

ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_pkey PRIMARY KEY ("position");

ALTER TABLE ONLY public.free_range
    ADD CONSTRAINT free_range_pkey PRIMARY KEY (owner, last_address);

ALTER TABLE ONLY public.idempotency
    ADD CONSTRAINT idempotency_pkey PRIMARY KEY (authenticated_as, key);

ALTER TABLE ONLY public.last_version
    ADD CONSTRAINT last_version_pkey PRIMARY KEY (kind, id);

ALTER TABLE ONLY public.past_asn
    ADD CONSTRAINT past_asn_pkey PRIMARY KEY (asn, until);

ALTER TABLE ONLY public.past_pool
    ADD CONSTRAINT past_pool_pkey PRIMARY KEY (id, until);

ALTER TABLE ONLY public.past_prefix
    ADD CONSTRAINT past_prefix_pkey PRIMARY KEY (id, until);

ALTER TABLE ONLY public.past_vrf
    ADD CONSTRAINT past_vrf_pkey PRIMARY KEY (id, until);

ALTER TABLE ONLY public.pool
    ADD CONSTRAINT pool_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.prefix
    ADD CONSTRAINT prefix_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.prefix_words
    ADD CONSTRAINT prefix_words_pkey PRIMARY KEY (prefix_id);

ALTER TABLE ONLY public.schema_migration
    ADD CONSTRAINT schema_migration_pkey PRIMARY KEY (version);

ALTER TABLE ONLY public.sign_in
    ADD CONSTRAINT sign_in_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.vrf
    ADD CONSTRAINT vrf_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.vrf
    ADD CONSTRAINT vrf_rt_key UNIQUE (rt);

ALTER TABLE ONLY public.vrf_total
    ADD CONSTRAINT vrf_total_pkey PRIMARY KEY (vrf_id, family, slot);

ALTER TABLE ONLY public.webhook
    ADD CONSTRAINT webhook_pkey PRIMARY KEY (id);

CREATE INDEX audit_log_change_idx ON ONLY public.audit_log USING btree (change) WHERE (change IS NOT NULL);

COMMENT ON INDEX public.audit_log_change_idx IS 'Shows whether a call was committed. New rows go to the end, since numbers of calls begin with the time.';

CREATE INDEX audit_log_1_change_idx ON public.audit_log_1 USING btree (change) WHERE (change IS NOT NULL);

COMMENT ON INDEX public.audit_log_1_change_idx IS 'Shows whether a call was committed. New rows go to the end, since numbers of calls begin with the time.';

CREATE INDEX audit_log_removal_idx ON ONLY public.audit_log USING btree (change_set, id) WHERE (action = 'remove'::text);

COMMENT ON INDEX public.audit_log_removal_idx IS 'The removals of a change set, and the change sets with removals.';

CREATE INDEX audit_log_1_change_set_id_idx ON public.audit_log_1 USING btree (change_set, id) WHERE (action = 'remove'::text);

CREATE INDEX audit_log_change_set_idx ON ONLY public.audit_log USING btree (change_set, id) WHERE (change_set IS NOT NULL);

COMMENT ON INDEX public.audit_log_change_set_idx IS 'The entries of a change set.';

CREATE INDEX audit_log_1_change_set_idx ON public.audit_log_1 USING btree (change_set, id) WHERE (change_set IS NOT NULL);

COMMENT ON INDEX public.audit_log_1_change_set_idx IS 'The entries of a change set.';

CREATE INDEX audit_log_moved_idx ON ONLY public.audit_log USING btree ((((before ->> 'vrf_id'::text))::integer), (((before ->> 'prefix'::text))::cidr), id) WHERE ((object_type = 'prefix'::text) AND ((before ->> 'prefix'::text) <> (after ->> 'prefix'::text)));

COMMENT ON INDEX public.audit_log_moved_idx IS 'Prefixes that were moved away, by their former place.';

CREATE INDEX audit_log_1_moved_idx ON public.audit_log_1 USING btree ((((before ->> 'vrf_id'::text))::integer), (((before ->> 'prefix'::text))::cidr), id) WHERE ((object_type = 'prefix'::text) AND ((before ->> 'prefix'::text) <> (after ->> 'prefix'::text)));

CREATE INDEX audit_log_object_idx ON ONLY public.audit_log USING btree (object_type, object_id, id);

COMMENT ON INDEX public.audit_log_object_idx IS 'The history of an object.';

CREATE INDEX audit_log_1_object_idx ON public.audit_log_1 USING btree (object_type, object_id, id);

COMMENT ON INDEX public.audit_log_1_object_idx IS 'The history of one object.';

CREATE INDEX audit_log_place_idx ON ONLY public.audit_log USING btree ((((COALESCE(after, before) ->> 'vrf_id'::text))::integer), (((COALESCE(after, before) ->> 'prefix'::text))::cidr), id) WHERE (object_type = 'prefix'::text);

COMMENT ON INDEX public.audit_log_place_idx IS 'The history of a part of the tree.';

CREATE INDEX audit_log_1_place_idx ON public.audit_log_1 USING btree ((((COALESCE(after, before) ->> 'vrf_id'::text))::integer), (((COALESCE(after, before) ->> 'prefix'::text))::cidr), id) WHERE (object_type = 'prefix'::text);

CREATE INDEX audit_log_user_idx ON ONLY public.audit_log USING btree (username, id);

COMMENT ON INDEX public.audit_log_user_idx IS 'The history of a user.';

CREATE INDEX audit_log_1_user_idx ON public.audit_log_1 USING btree (username, id);

CREATE INDEX audit_log_2_change_idx ON public.audit_log_2 USING btree (change) WHERE (change IS NOT NULL);

CREATE INDEX audit_log_2_change_set_id_idx ON public.audit_log_2 USING btree (change_set, id) WHERE (change_set IS NOT NULL);

CREATE INDEX audit_log_2_change_set_id_idx1 ON public.audit_log_2 USING btree (change_set, id) WHERE (action = 'remove'::text);

CREATE INDEX audit_log_2_int4_cidr_id_idx ON public.audit_log_2 USING btree ((((COALESCE(after, before) ->> 'vrf_id'::text))::integer), (((COALESCE(after, before) ->> 'prefix'::text))::cidr), id) WHERE (object_type = 'prefix'::text);

CREATE INDEX audit_log_2_int4_cidr_id_idx1 ON public.audit_log_2 USING btree ((((before ->> 'vrf_id'::text))::integer), (((before ->> 'prefix'::text))::cidr), id) WHERE ((object_type = 'prefix'::text) AND ((before ->> 'prefix'::text) <> (after ->> 'prefix'::text)));

CREATE INDEX audit_log_2_object_type_object_id_id_idx ON public.audit_log_2 USING btree (object_type, object_id, id);

CREATE INDEX audit_log_2_username_id_idx ON public.audit_log_2 USING btree (username, id);

CREATE INDEX audit_log_rest_change_idx ON public.audit_log_rest USING btree (change) WHERE (change IS NOT NULL);

CREATE INDEX audit_log_rest_change_set_id_idx ON public.audit_log_rest USING btree (change_set, id) WHERE (change_set IS NOT NULL);

CREATE INDEX audit_log_rest_change_set_id_idx1 ON public.audit_log_rest USING btree (change_set, id) WHERE (action = 'remove'::text);

CREATE INDEX audit_log_rest_int4_cidr_id_idx ON public.audit_log_rest USING btree ((((COALESCE(after, before) ->> 'vrf_id'::text))::integer), (((COALESCE(after, before) ->> 'prefix'::text))::cidr), id) WHERE (object_type = 'prefix'::text);

CREATE INDEX audit_log_rest_int4_cidr_id_idx1 ON public.audit_log_rest USING btree ((((before ->> 'vrf_id'::text))::integer), (((before ->> 'prefix'::text))::cidr), id) WHERE ((object_type = 'prefix'::text) AND ((before ->> 'prefix'::text) <> (after ->> 'prefix'::text)));

CREATE INDEX audit_log_rest_object_type_object_id_id_idx ON public.audit_log_rest USING btree (object_type, object_id, id);

CREATE INDEX audit_log_rest_username_id_idx ON public.audit_log_rest USING btree (username, id);

CREATE INDEX change_set_call_idx ON public.change_set USING btree (call) WHERE (call IS NOT NULL);

COMMENT ON INDEX public.change_set_call_idx IS 'Shows whether a call was committed. New rows go to the end, since numbers of calls begin with the time.';

CREATE INDEX change_set_group_idx ON public.change_set USING btree (change_group, id) WHERE (change_group IS NOT NULL);

COMMENT ON INDEX public.change_set_group_idx IS 'The change sets of a group.';

CREATE INDEX change_set_request_idx ON public.change_set USING btree (request_id) WHERE (request_id IS NOT NULL);

COMMENT ON INDEX public.change_set_request_idx IS 'The change set of a request.';

CREATE INDEX change_set_undoes_idx ON public.change_set USING btree (undoes) WHERE (undoes IS NOT NULL);

COMMENT ON INDEX public.change_set_undoes_idx IS 'The change sets that undo a change set.';

CREATE INDEX change_set_user_idx ON public.change_set USING btree (username, id);

COMMENT ON INDEX public.change_set_user_idx IS 'The change sets of a user.';

CREATE UNIQUE INDEX change_state_single_idx ON public.change_state USING btree ((true));

COMMENT ON INDEX public.change_state_single_idx IS 'There is one row.';

CREATE INDEX dead_letter_webhook_idx ON public.dead_letter USING btree (webhook_id, "position");

COMMENT ON INDEX public.dead_letter_webhook_idx IS 'The dead letters of one webhook, in order.';

CREATE UNIQUE INDEX event_state_single_idx ON public.event_state USING btree ((true));

COMMENT ON INDEX public.event_state_single_idx IS 'There is one row.';

CREATE INDEX free_range_fit_idx ON public.free_range USING btree (owner, fit, last_address);

COMMENT ON INDEX public.free_range_fit_idx IS 'Finds the lowest range in which a block of a given length fits.';

CREATE INDEX idempotency_created_idx ON public.idempotency USING btree (created);

COMMENT ON INDEX public.idempotency_created_idx IS 'Finds expired rows.';

CREATE INDEX past_prefix_place_idx ON public.past_prefix USING btree (vrf_id, prefix, until, since);

COMMENT ON INDEX public.past_prefix_place_idx IS 'The states of the prefixes at a place, and the order of the tree. All conditions on time are in the index.';

CREATE INDEX past_prefix_pool_idx ON public.past_prefix USING btree (pool_id, until) WHERE (pool_id IS NOT NULL);

COMMENT ON INDEX public.past_prefix_pool_idx IS 'The members of a pool.';

CREATE UNIQUE INDEX past_state_single_idx ON public.past_state USING btree ((true));

COMMENT ON INDEX public.past_state_single_idx IS 'There is one row.';

CREATE INDEX past_words_idx ON public.past_words USING gin (words public.gin_trgm_ops) WITH (gin_pending_list_limit='256');

COMMENT ON INDEX public.past_words_idx IS 'Trigrams of the texts.';

CREATE INDEX past_words_prefix_idx ON public.past_words USING btree (prefix_id);

COMMENT ON INDEX public.past_words_prefix_idx IS 'The texts of a prefix.';

CREATE UNIQUE INDEX plan_key_single_idx ON public.plan_key USING btree ((true));

COMMENT ON INDEX public.plan_key_single_idx IS 'There is one row.';

CREATE UNIQUE INDEX pool_name_key ON public.pool USING btree (lower(name));

COMMENT ON INDEX public.pool_name_key IS 'Names are unique without regard to case.';

CREATE INDEX prefix_avps_idx ON public.prefix USING gin (avps jsonb_path_ops) WHERE ((avps)::jsonb <> '{}'::jsonb);

COMMENT ON INDEX public.prefix_avps_idx IS 'Prefixes by attribute-value pair.';

CREATE INDEX prefix_expires_idx ON public.prefix USING btree (expires) WHERE (expires < 'infinity'::timestamp with time zone);

COMMENT ON INDEX public.prefix_expires_idx IS 'Prefixes that expire.';

CREATE INDEX prefix_external_key_idx ON public.prefix USING btree (external_key) WHERE (external_key IS NOT NULL);

COMMENT ON INDEX public.prefix_external_key_idx IS 'Prefixes by external key.';

CREATE INDEX prefix_macs_idx ON public.prefix USING gin (public.macs_of((avps)::jsonb)) WHERE ((avps)::jsonb <> '{}'::jsonb);

COMMENT ON INDEX public.prefix_macs_idx IS 'Prefixes by a MAC address among their pairs.';

CREATE INDEX prefix_parent_idx ON public.prefix USING btree (parent_id, vrf_id, prefix);

COMMENT ON INDEX public.prefix_parent_idx IS 'Direct children in order, of a prefix or (parent_id IS NULL) of a VRF.';

CREATE INDEX prefix_pool_idx ON public.prefix USING btree (pool_id, vrf_id, prefix) WHERE (pool_id IS NOT NULL);

COMMENT ON INDEX public.prefix_pool_idx IS 'Members of a pool in order.';

CREATE INDEX prefix_tags_idx ON public.prefix USING gin (public.lower_each(tags)) WHERE (tags <> '{}'::text[]);

COMMENT ON INDEX public.prefix_tags_idx IS 'Prefixes by tag, ignoring case.';

CREATE INDEX prefix_vlan_idx ON public.prefix USING btree (vlan) WHERE (vlan IS NOT NULL);

COMMENT ON INDEX public.prefix_vlan_idx IS 'Prefixes by VLAN.';

CREATE UNIQUE INDEX prefix_vrf_prefix_key ON public.prefix USING btree (vrf_id, prefix);

COMMENT ON INDEX public.prefix_vrf_prefix_key IS 'The tree: closest parents, descendants, order of answers.';

CREATE INDEX prefix_words_idx ON public.prefix_words USING gin (words public.gin_trgm_ops) WITH (gin_pending_list_limit='256');

COMMENT ON INDEX public.prefix_words_idx IS 'Searches for words, regular expressions and the operator like.';

CREATE INDEX sign_in_address_idx ON public.sign_in USING btree (address, id);

COMMENT ON INDEX public.sign_in_address_idx IS 'The sign-ins from an address or network.';

CREATE INDEX sign_in_at_idx ON public.sign_in USING btree (at);

COMMENT ON INDEX public.sign_in_at_idx IS 'Sign-ins of a time; finds old rows.';

CREATE INDEX sign_in_user_idx ON public.sign_in USING btree (authenticated_as, id);

COMMENT ON INDEX public.sign_in_user_idx IS 'The sign-ins of a user, newest first.';

CREATE UNIQUE INDEX vrf_name_key ON public.vrf USING btree (lower(name));

COMMENT ON INDEX public.vrf_name_key IS 'Names are unique without regard to case.';

CREATE UNIQUE INDEX vrf_rank_key ON public.vrf USING btree (rt_rank, id);

COMMENT ON INDEX public.vrf_rank_key IS 'The order of VRFs in answers.';

ALTER INDEX public.audit_log_change_idx ATTACH PARTITION public.audit_log_1_change_idx;

ALTER INDEX public.audit_log_removal_idx ATTACH PARTITION public.audit_log_1_change_set_id_idx;

ALTER INDEX public.audit_log_change_set_idx ATTACH PARTITION public.audit_log_1_change_set_idx;

ALTER INDEX public.audit_log_moved_idx ATTACH PARTITION public.audit_log_1_moved_idx;

ALTER INDEX public.audit_log_object_idx ATTACH PARTITION public.audit_log_1_object_idx;

ALTER INDEX public.audit_log_pkey ATTACH PARTITION public.audit_log_1_pkey;

ALTER INDEX public.audit_log_place_idx ATTACH PARTITION public.audit_log_1_place_idx;

ALTER INDEX public.audit_log_user_idx ATTACH PARTITION public.audit_log_1_user_idx;

ALTER INDEX public.audit_log_change_idx ATTACH PARTITION public.audit_log_2_change_idx;

ALTER INDEX public.audit_log_change_set_idx ATTACH PARTITION public.audit_log_2_change_set_id_idx;

ALTER INDEX public.audit_log_removal_idx ATTACH PARTITION public.audit_log_2_change_set_id_idx1;

ALTER INDEX public.audit_log_place_idx ATTACH PARTITION public.audit_log_2_int4_cidr_id_idx;

ALTER INDEX public.audit_log_moved_idx ATTACH PARTITION public.audit_log_2_int4_cidr_id_idx1;

ALTER INDEX public.audit_log_object_idx ATTACH PARTITION public.audit_log_2_object_type_object_id_id_idx;

ALTER INDEX public.audit_log_pkey ATTACH PARTITION public.audit_log_2_pkey;

ALTER INDEX public.audit_log_user_idx ATTACH PARTITION public.audit_log_2_username_id_idx;

ALTER INDEX public.audit_log_change_idx ATTACH PARTITION public.audit_log_rest_change_idx;

ALTER INDEX public.audit_log_change_set_idx ATTACH PARTITION public.audit_log_rest_change_set_id_idx;

ALTER INDEX public.audit_log_removal_idx ATTACH PARTITION public.audit_log_rest_change_set_id_idx1;

ALTER INDEX public.audit_log_place_idx ATTACH PARTITION public.audit_log_rest_int4_cidr_id_idx;

ALTER INDEX public.audit_log_moved_idx ATTACH PARTITION public.audit_log_rest_int4_cidr_id_idx1;

ALTER INDEX public.audit_log_object_idx ATTACH PARTITION public.audit_log_rest_object_type_object_id_id_idx;

ALTER INDEX public.audit_log_pkey ATTACH PARTITION public.audit_log_rest_pkey;

ALTER INDEX public.audit_log_user_idx ATTACH PARTITION public.audit_log_rest_username_id_idx;

CREATE TRIGGER asn_last_version AFTER DELETE ON public.asn FOR EACH ROW WHEN ((old.version > 1)) EXECUTE FUNCTION public.keep_last_version();

COMMENT ON TRIGGER asn_last_version ON public.asn IS 'Keeps the last version of a removed AS number.';

CREATE TRIGGER asn_new_version BEFORE INSERT ON public.asn FOR EACH ROW WHEN ((new.version IS NULL)) EXECUTE FUNCTION public.keep_version();

COMMENT ON TRIGGER asn_new_version ON public.asn IS 'Sets the version of a row that a program of an earlier version adds.';

CREATE TRIGGER asn_version BEFORE UPDATE ON public.asn FOR EACH ROW WHEN ((new.version = old.version)) EXECUTE FUNCTION public.keep_version();

COMMENT ON TRIGGER asn_version ON public.asn IS 'Sets the version of a row that a program of an earlier version edits.';

CREATE TRIGGER audit_log_change_set BEFORE INSERT ON public.audit_log FOR EACH ROW WHEN ((new.change_set IS NULL)) EXECUTE FUNCTION public.keep_change_set();

COMMENT ON TRIGGER audit_log_change_set ON public.audit_log IS 'Assigns a change set to the audit entries that a program of version 8 writes.';

CREATE TRIGGER pool_last_version AFTER DELETE ON public.pool FOR EACH ROW WHEN ((old.version > 1)) EXECUTE FUNCTION public.keep_last_version();

COMMENT ON TRIGGER pool_last_version ON public.pool IS 'Keeps the last version of a removed pool.';

CREATE TRIGGER pool_new_version BEFORE INSERT ON public.pool FOR EACH ROW WHEN ((new.version IS NULL)) EXECUTE FUNCTION public.keep_version();

COMMENT ON TRIGGER pool_new_version ON public.pool IS 'Sets the version of a row that a program of an earlier version adds.';

CREATE TRIGGER pool_version BEFORE UPDATE OF name ON public.pool FOR EACH ROW WHEN ((new.version = old.version)) EXECUTE FUNCTION public.keep_version();

COMMENT ON TRIGGER pool_version ON public.pool IS 'Sets the version of a row that a program of an earlier version edits.';

CREATE TRIGGER prefix_last_version AFTER DELETE ON public.prefix FOR EACH ROW WHEN ((old.version > 1)) EXECUTE FUNCTION public.keep_last_version();

COMMENT ON TRIGGER prefix_last_version ON public.prefix IS 'Keeps the last version of a removed prefix.';

CREATE TRIGGER prefix_new_version BEFORE INSERT ON public.prefix FOR EACH ROW WHEN ((new.version IS NULL)) EXECUTE FUNCTION public.keep_version();

COMMENT ON TRIGGER prefix_new_version ON public.prefix IS 'Sets the version of a row that a program of an earlier version adds.';

CREATE TRIGGER prefix_plan_delete AFTER DELETE ON public.prefix FOR EACH ROW WHEN (((old.pool_id IS NOT NULL) AND (current_setting('nipap.plan'::text, true) > ''::text))) EXECUTE FUNCTION public.note_prefix();

COMMENT ON TRIGGER prefix_plan_delete ON public.prefix IS 'Notes members of pools before a planned removal.';

CREATE TRIGGER prefix_plan_update AFTER UPDATE ON public.prefix FOR EACH ROW WHEN ((current_setting('nipap.plan'::text, true) > ''::text)) EXECUTE FUNCTION public.note_prefix();

COMMENT ON TRIGGER prefix_plan_update ON public.prefix IS 'Notes rows before a planned change.';

CREATE TRIGGER prefix_version BEFORE UPDATE OF last_modified ON public.prefix FOR EACH ROW WHEN ((new.version = old.version)) EXECUTE FUNCTION public.keep_version();

COMMENT ON TRIGGER prefix_version ON public.prefix IS 'Sets the version of a row that a program of an earlier version edits.';

CREATE TRIGGER prefix_words_update AFTER UPDATE OF comment, description, node, order_id, customer_id ON public.prefix FOR EACH ROW WHEN ((public.words_of(old.*) <> public.words_of(new.*))) EXECUTE FUNCTION public.keep_words();

COMMENT ON TRIGGER prefix_words_update ON public.prefix IS 'Keeps prefix_words up to date when the text of a prefix changes.';

CREATE TRIGGER vrf_last_version AFTER DELETE ON public.vrf FOR EACH ROW WHEN ((old.version > 1)) EXECUTE FUNCTION public.keep_last_version();

COMMENT ON TRIGGER vrf_last_version ON public.vrf IS 'Keeps the last version of a removed VRF.';

CREATE TRIGGER vrf_new_version BEFORE INSERT ON public.vrf FOR EACH ROW WHEN ((new.version IS NULL)) EXECUTE FUNCTION public.keep_version();

COMMENT ON TRIGGER vrf_new_version ON public.vrf IS 'Sets the version of a row that a program of an earlier version adds.';

CREATE TRIGGER vrf_total_plan AFTER INSERT OR UPDATE ON public.vrf_total FOR EACH ROW WHEN ((current_setting('nipap.plan'::text, true) > ''::text)) EXECUTE FUNCTION public.note_total();

COMMENT ON TRIGGER vrf_total_plan ON public.vrf_total IS 'Notes rows before a planned change.';

CREATE TRIGGER vrf_version BEFORE UPDATE OF name ON public.vrf FOR EACH ROW WHEN ((new.version = old.version)) EXECUTE FUNCTION public.keep_version();

COMMENT ON TRIGGER vrf_version ON public.vrf IS 'Sets the version of a row that a program of an earlier version edits.';

ALTER TABLE ONLY public.dead_letter
    ADD CONSTRAINT dead_letter_webhook_id_fkey FOREIGN KEY (webhook_id) REFERENCES public.webhook(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.prefix
    ADD CONSTRAINT prefix_pool_id_fkey FOREIGN KEY (pool_id) REFERENCES public.pool(id);

ALTER TABLE ONLY public.vrf_total
    ADD CONSTRAINT vrf_total_vrf_id_fkey FOREIGN KEY (vrf_id) REFERENCES public.vrf(id) ON DELETE CASCADE;

-- The functions of this version, in the schema public_v26; their text is in sql/functions.

-- add_one_by_one(who actor) -> void
--     Add the incoming prefixes that cover stored prefixes, cover members or join a pool, top down, and write their ids into owner_id.

-- add_to_totals(in_vrf integer, address_family integer, prefixes bigint, total numeric, used numeric) -> boolean
--     Add deltas to the totals of a VRF. Its lock is the last one that a change takes.

-- addr_first(network inet) -> inet
--     First address of a network, full length.

-- addr_last(network inet) -> inet
--     Last address of a network, full length.

-- addr_number(address inet) -> numeric
--     An address as an unsigned integer.

-- adopt(old_parent bigint, in_vrf integer, network cidr, new_parent bigint, OUT given adopted) -> adopted
--     Move the direct children of old_parent that lie inside a network to new_parent; NULL is the top level. One statement for any number of children.

-- ancestors_of(parents bigint[]) -> json
--     The prefixes with the given ids and all their ancestors, as {id: [parent, length, tags]}; NULL when there are none. Each prefix is read once if the ids are in tree order.

-- apply_undoing(number bigint, who actor) -> bigint
--     Set back all objects without a conflict. Returns 0 when there are none.

-- asn_add(facts jsonb, who actor) -> bigint
--     Add an AS number.

-- asn_edit(target bigint, changes jsonb, who actor) -> boolean
--     Edit an AS number. Writes nothing if no fact changes. Returns false if there is no such AS number.

-- asn_facts(stored asn) -> jsonb
--     The stored facts of an AS number, without version and nulls.

-- asn_remove(target bigint, who actor) -> boolean
--     Remove an AS number. Returns false if there is no such AS number.

-- attach(parent prefix, INOUT new_row prefix, taken adopted) -> prefix
--     Put new_row, which has adopted the prefixes that it covers, below parent: update ranges, counters and totals. Returns new_row with its derived columns; the caller stores it.

-- attach_partition(part text) -> void
--     Attach a detached partition to the audit log. Its age is no reason to detach it any more.

-- attach_range(name text, first_id bigint, end_id bigint) -> void
--     Attach a table to the audit log as the partition of a range of ids.

-- audit_partitions(OUT name text, OUT first_id bigint, OUT end_id bigint) -> SETOF record
--     The partitions of the audit log in the order of their ids, without the default one. first_id is 0 for the first one, which has no lower bound.

-- audit_range(since timestamp with time zone, until timestamp with time zone, OUT newest bigint, OUT tail bigint, OUT first bigint, OUT last bigint) -> record
--     The ids of audit entries of a time: those from first to last, and those from tail on, whose times are not known yet. newest is the last id that was drawn. NULL: without a limit.

-- audit_table(name text) -> text
--     The name of a partition for SQL, in the schema of the audit log.

-- begin_past() -> boolean
--     Store the present states of all objects, for the last position. Returns false if that was done before.

-- call_under_way() -> text
--     Identifier of the current call; no other call has the same one.

-- can_detach(lower bigint, upper bigint) -> boolean
--     Whether nothing but questions about the past needs the audit entries of a range: no transaction can still add one, events of theirs are kept no more, and their change sets have positions.

-- change_set_of(entry audit_log) -> bigint
--     The change set of an audit entry that any version of the program has written.

-- changed_names(before jsonb, after jsonb) -> text[]
--     Names of the attributes that differ, except last_modified, which every edit changes.

-- check_children(new_row prefix) -> void
--     Refuse new_row if the types of its children do not nest in it.

-- check_defaults(new_row pool, old_row pool) -> void
--     Refuse new defaults of a pool with which no allocation can succeed. Unchanged defaults are accepted.

-- check_detached(part text) -> void
--     Check that a detached partition has entries of its range only, so that it can be attached without being read.

-- check_left_behind(former_parent bigint, old_row prefix, place cidr) -> void
--     Refuse a move that leaves hosts of old_row without an assignment around them.

-- check_node(network cidr, type text, node text) -> boolean
--     Refuse a node unless the prefix is a host or a full-length assignment; returns true otherwise.

-- check_place(parent prefix, new_row prefix) -> boolean
--     Refuse new_row below parent if their types do not nest; returns true otherwise.

-- check_pool(new_row prefix) -> void
--     Refuse new_row as a member of its pool if the pool does not exist or has members in another VRF. The caller has locked the pool.

-- check_type_change(old_row prefix, new_row prefix) -> void
--     Refuse a change of type, except between reservation and assignment without children.

-- check_vlan(vlan integer, former integer) -> boolean
--     Refuse a new VLAN outside 0 to 4095; returns true otherwise. An unchanged VLAN is accepted, since databases of NIPAP have other numbers.

-- child_beside(owner undo_place, earlier boolean) -> cidr
--     The direct child of an owner right before, or right after, the networks that the owner has lost or gained.

-- children_within(owner undo_place) -> TABLE(a inet, z inet)
--     The direct children of an owner between the first and the last network that it has lost or gained.

-- choose_bases() -> void
--     Look up the present place of each prefix, and the closest stored prefix around the place that it gets.

-- close_past(kind text, key bigint, at_position bigint) -> void
--     End the present state of an object at a position.

-- closest_parent(in_vrf integer, network cidr) -> bigint
--     Id of the longest stored prefix that covers a network, the network itself not counted; NULL at the top level.

-- compare_undoing() -> void
--     Read the present facts. Objects that already are as they were before have nothing to undo; objects that were changed since are conflicts.

-- count_blocks(first_address inet, last_address inet, length integer) -> numeric
--     Number of aligned blocks of a length that lie wholly in a range.

-- count_incoming() -> void
--     Add the incoming prefixes to the totals of their VRFs.

-- count_undoing() -> void
--     Add the changes to the totals of the VRFs.

-- current_change_set() -> bigint
--     The change set of the current call; NULL while the call has changed nothing.

-- default_length(pool integer, address inet) -> integer
--     Default prefix length of a pool in the family of the address; read under the lock of the member or of the pool.

-- delete_inside(in_vrf integer, network cidr, who actor) -> bigint
--     Delete all prefixes inside a network and their free ranges, with an audit entry each; returns their number. The caller updates the counters of the network and the VRF.

-- detach(parent prefix, old_row prefix, given adopted) -> void
--     Remove old_row from below parent, which has adopted the children of old_row: update ranges, counters and totals.

-- detach_partition(part text) -> void
--     Detach a partition of the audit log. The table stays.

-- detached_before() -> timestamp with time zone
--     Time of the newest audit entry in a detached partition; NULL if none is detached. The history up to this time is incomplete.

-- differing(one jsonb, other jsonb) -> text[]
--     The attributes in which two states of an object differ.

-- effects_between(first_position bigint, last_position bigint) -> TABLE(kind text, id bigint, "position" bigint, before jsonb, after jsonb, versions integer, restores boolean)
--     The facts of each object before and after each position of a range, the number of its entries, and whether they are an undo.

-- entries_of(number bigint) -> SETOF audit_log
--     The audit entries of a change set in order, written by any version of the program.

-- exp2(exponent integer) -> numeric
--     2^exponent exactly, for exponents from 0 to 128.

-- find_conflicts() -> void
--     Mark all conflicts with the present, and the conflicts that follow from them.

-- find_free(in_vrf integer, sources cidr[], length integer, wanted integer) -> SETOF cidr
--     The lowest free blocks of a length, source by source in the order given, at most as many as wanted.

-- find_leaving() -> void
--     Find the prefixes that leave their place, each with the closest prefix around it that stays; NULL at the top level.

-- find_owners() -> void
--     Find the stored prefixes and tops of VRFs that lose or gain direct children.

-- find_parents() -> void
--     Set the parent of each prefix of undo_tree: the closest incoming or stored prefix around it.

-- first_block(first_address inet, last_address inet, length integer) -> cidr
--     Lowest aligned block of a length that lies wholly in a range; NULL when none does.

-- follow_past(most integer) -> bigint
--     Store the states after the next positions, at most so many; returns the last position that is stored now.

-- forget_past() -> void
--     Empty the tables of the past. They are built again from the audit log.

-- free_blocks_of(parent prefix, length integer) -> numeric
--     Free blocks of a length in a prefix, counted from its free ranges. A full-length prefix has none.

-- free_undoing() -> void
--     Compute the free ranges and free blocks anew where children were lost or gained.

-- full_length(address inet) -> integer
--     Prefix length of a single address in its family.

-- gaps_of_taken() -> TABLE(owner bigint, a inet, z inet)
--     The free ranges that remain in the spaces of taken.

-- give_range(owner_id bigint, space cidr, network cidr, length integer) -> numeric
--     Give a network back to the free ranges of an owner that keeps other children, merging neighbours. Returns the change of its free blocks.

-- go_back(most integer) -> bigint
--     Store the states at earlier positions, at most so many; returns the lowest position that is stored now, NULL when there are no earlier ones.

-- holds(leaves boolean[], program integer[]) -> boolean
--     Value of a boolean expression given in postfix: n >= 0 is leaf n, -1 is AND, -2 is OR. For queries too deep for the parser.

-- holds_stored(in_vrf integer, network cidr) -> boolean
--     Whether prefixes are stored at a network or inside it.

-- incoming_parents() -> TABLE(child bigint, parent bigint)
--     The closest incoming prefix around each incoming prefix that lies inside another one.

-- inner_parents() -> TABLE(child bigint, inner_id bigint, inner_length integer)
--     The closest incoming prefix around each prefix of undo_tree; NULL if there is none.

-- insert_under(parent prefix, in_vrf integer, network cidr, facts jsonb, who actor) -> bigint
--     Add a network below parent; returns its id. The caller holds the lock of parent.

-- is_pattern(pattern text) -> boolean
--     Whether a text is a regular expression that PostgreSQL can parse and use.

-- is_undone(number bigint) -> boolean
--     Whether a change set is undone by one that is not undone itself.

-- keep_partitions(months integer) -> text
--     Take the next step of the upkeep that is due now, with the rights of the owner. Return a description, or NULL when nothing is due.

-- keep_partitions_at(moment timestamp with time zone, months integer) -> text
--     Take the next step of the upkeep that is due at a moment: place entries that have no partition, make the next partition, begin another one with the month, or detach one whose entries are all older than a number of months; 0: none. Return a description, or NULL when nothing is due.

-- lacks_time(facts jsonb) -> jsonb
--     Facts without the time of the last edit.

-- list_removed(kinds text[], since timestamp with time zone, last_set bigint, last_entry bigint, wanted integer) -> SETOF jsonb
--     Removed objects, the newest first, from an entry of a change set on. Objects that exist again are left out.

-- lock_incoming_owners() -> void
--     Lock the stored prefixes, or VRFs, right above the incoming prefixes.

-- lock_inside(in_vrf integer, network cidr) -> void
--     Lock all prefixes inside a network. The caller has locked the network itself, or the VRF.

-- lock_owner(in_vrf integer, network cidr) -> prefix
--     Lock and return the closest prefix around a network. At the top level lock the VRF and return NULL.

-- lock_pool_members(target integer) -> jsonb
--     Lock a pool and its members; returns the stored facts of the pool, NULL if there is no such pool.

-- lock_pools(ids integer[]) -> void
--     Lock pools before their members change: in order of id, after all prefixes. A change that only counts the blocks of a member needs only the lock of the member, since pool_edit locks all members first.

-- lock_source(in_vrf integer, source cidr) -> prefix
--     Lock and return the prefix that will be the parent of blocks from a source: the source if it is stored, else the closest prefix around it. At the top level lock the VRF and return NULL.

-- lock_undoing() -> void
--     Lock the objects to set back, the prefixes and VRFs right around them and their pools, in the order of all changes.

-- lock_vrf(in_vrf integer) -> void
--     Lock the top level of a VRF.

-- lock_with_parent(target bigint, OUT parent prefix, OUT old_row prefix) -> record
--     Lock a prefix after the prefix or VRF above it. old_row is NULL if there is no such prefix.

-- lowest_free(owner_id bigint, leaf boolean, lowest inet, highest inet, length integer) -> cidr
--     Lowest free block of a length within lowest..highest directly inside an owner; leaf: the owner has no children and so no rows.

-- make_incoming() -> void
--     Create the temporary tables of this session, or empty them.

-- make_plan_tables() -> void
--     Create the temporary tables of this session in which triggers note rows, unless they exist.

-- make_undoing() -> void
--     Create the temporary tables of an undo, or empty them.

-- move_ranges_down(owner_id bigint, to_owner bigint, network cidr, length integer) -> numeric
--     Hand the free ranges inside a network from an owner to the prefix of that network, which now covers some of its children. Returns the change of the old owner's free blocks.

-- move_ranges_up(owner_id bigint, to_owner bigint, space cidr, network cidr, length integer) -> numeric
--     Hand all free ranges of the prefix of a network, which has children, to the prefix around it. Returns the change of the new owner's free blocks.

-- move_undoing() -> void
--     Take away, insert and edit the prefixes, with their parents and counters.

-- new_partition(name text, remark text) -> void
--     Create an empty table that can be attached to the audit log as a partition. Its comment is remark.

-- next_partition() -> text
--     The name of the next new partition.

-- open_past(kind text, key bigint, at_position bigint) -> integer
--     Note where the earliest known state of an object began; returns its version, NULL when no earlier state is open.

-- outermost_goals() -> TABLE(id bigint, vrf_id integer, goal cidr, outer_id bigint)
--     Each prefix that gets a place, with the outermost one around it, which may be itself.

-- past_position() -> bigint
--     The position of change_order that questions about the past of this transaction are about.

-- place_rest() -> text
--     Make a partition of the entries in the default partition of the audit log. Return a description, or NULL if there are none.

-- place_undoing() -> void
--     Find the prefixes that get a place or another parent, and their parents.

-- plan_adds(kind text, object bigint) -> boolean
--     Whether the planned change adds an object.

-- plan_begin() -> text
--     Begin to note rows for a plan, until the transaction ends.

-- plan_entries(above bigint, most integer) -> SETOF audit_log
--     Audit entries of the planned change with higher ids than a given one, in order.

-- plan_existed(noted_added timestamp with time zone, object bigint) -> boolean
--     Whether a noted prefix existed before the planned change. Looks it up only if it was added when the transaction began.

-- plan_made(most integer) -> text
--     The consequences of the planned change as JSON, of each list at most so many items.

-- plan_place(object bigint) -> text
--     The network of a prefix before the planned change.

-- plan_pools(pools integer[]) -> json
--     The counters of pools of each family, before and after (planned) the planned change.

-- plan_rest(listed bigint) -> text
--     Hash of the audit entries of the planned change with higher ids than a given one. Equal for two runs of the same change.

-- plan_tree(most integer) -> json
--     The prefixes that get another parent, and the counters of prefixes, before and after the planned change. At most so many are listed of each; of the others there is a hash.

-- plan_vrfs() -> json
--     The totals of VRFs around the planned change, of each family: the difference, and the totals after it.

-- plan_webhooks() -> json
--     The webhooks to which the events of the planned change go.

-- pool_add(facts jsonb, who actor) -> integer
--     Add a pool; returns its id.

-- pool_allocate(by_id integer, by_name text, address_family integer, in_vrf integer, length integer, facts jsonb, who actor) -> bigint
--     Add the lowest free block of a pool; returns its id. Its type is that of the facts, else the default type of the pool. An error if both are missing.

-- pool_edit(target integer, changes jsonb, who actor) -> boolean
--     Edit a pool; a new default length recounts the free blocks of its members. Writes nothing if no fact changes. Returns false if there is no such pool.

-- pool_facts(stored pool) -> jsonb
--     The stored facts of a pool, without version and nulls.

-- pool_find_free(by_id integer, by_name text, address_family integer, length integer, wanted integer) -> SETOF cidr
--     The lowest free blocks of a pool, at most as many as wanted.

-- pool_remove(target integer, who actor) -> boolean
--     Remove a pool; its members stay, without a pool. Returns false if there is no such pool.

-- pool_sources(by_id integer, by_name text, address_family integer, INOUT in_vrf integer, INOUT length integer, OUT pool_id integer, OUT default_type text, OUT networks cidr[]) -> record
--     The sources of allocations from a pool, found by id or name: its VRF, its default type and its members of a family. A given in_vrf must be that VRF. length is the given one or the default of the pool. pool_id is NULL if there is no such pool.

-- prefix_add(in_vrf integer, network cidr, facts jsonb, who actor) -> bigint
--     Add a prefix; returns its id. facts: all columns except vrf_id and prefix, defaults filled in.

-- prefix_add_many(items jsonb, who actor) -> bigint[]
--     Add many prefixes; returns their ids in the order given. items: the columns of each prefix, including vrf_id and prefix. The column of an error is the number of the item, and the name of the attribute.

-- prefix_allocate(in_vrf integer, from_pool integer, sources cidr[], length integer, facts jsonb, who actor) -> bigint
--     Add the lowest free block of a length in the first source with such a block; returns its id. from_pool: the pool that all sources must still be members of.

-- prefix_edit(target bigint, place cidr, changes jsonb, who actor) -> boolean
--     Edit one prefix; place is its expected network, NULL for any. The changes may include network, type and pool. Writes nothing if no fact changes. Returns false if there is no such prefix.

-- prefix_edit_many(ids bigint[], changes jsonb, who actor) -> boolean
--     Edit any number of prefixes; the changes keep network, type and pool. Writes nothing where no fact changes. Returns false if there was nothing to edit.

-- prefix_facts(stored prefix) -> jsonb
--     The stored facts of a prefix, without derived columns, version and nulls.

-- prefix_move(old_row prefix, new_row prefix) -> prefix
--     Move old_row to the place new_row.prefix; returns new_row with its derived columns, which the caller stores.

-- prefix_remove(target bigint, place cidr, recursive boolean, who actor) -> boolean
--     Remove a prefix; place is its expected network, NULL for any. Its children move up; recursive: they are removed too. Returns false if there is no such prefix.

-- prefix_remove_one(target bigint, recursive boolean, who actor) -> text
--     Remove the prefix with an id. Returns call and change set in the form of nipap.change_set. An error if there is no such prefix.

-- prefix_size(network inet) -> numeric
--     Number of addresses in a network.

-- probe_source(owner_row prefix, in_vrf integer, source cidr, length integer, after inet) -> cidr
--     Lowest free block of a length in a source, after an address if one is given. owner_row is the result of source_owner. Takes no lock.

-- put_past(kind text, facts jsonb, version integer, since bigint, until bigint) -> void
--     Store a state of an object, which held from one position until another.

-- range_fit(first_address inet, last_address inet) -> integer
--     Prefix length of the largest aligned block in a range.

-- range_owner(parent prefix, in_vrf integer, address inet) -> bigint
--     Owner of the free ranges directly inside parent or, when parent is NULL, inside the address space of a VRF in the family of the address.

-- rank_of(rt text) -> numeric
--     Rank of a route target, see vrf.rt_rank.

-- read_undoing(number bigint, part_kind text, part_id bigint) -> void
--     Read the net effect of a change set on each object. With part_kind and part_id only the part of a removed object: the object, the prefixes removed inside it, and the members of a pool.

-- record_change(who actor, kind text, action text, object_id bigint, before jsonb, after jsonb) -> boolean
--     Record an action on one object.

-- record_changes(who actor, kind text, action text, object_ids bigint[], before jsonb[], after jsonb[]) -> boolean
--     Record an action on up to 10,000 objects as audit entries of the change set of the current call. The first change of a call creates its change set.

-- record_rows(who actor, kind text, action text, rows refcursor) -> bigint
--     Record an action on each object of a cursor, which has the columns id, values before and values after; returns the number of objects. The cursor is closed.

-- record_undoing(number bigint, who actor) -> bigint
--     Record each object that was set back; returns their number. The change set gets the number of the one that it undoes.

-- refuse_duplicate(in_vrf integer, network cidr) -> void
--     Raise the error for a network that is in use already.

-- refuse_incoming() -> void
--     Refuse incoming prefixes that are duplicates, have types that do not nest, or must not have a node.

-- refuse_moved() -> jsonb
--     Raise 40001, so that the call is run again.

-- refuse_names() -> bigint
--     Mark VRFs and pools that would get a name or route target in use; returns their number.

-- refuse_nesting() -> bigint
--     Mark prefixes whose types would not nest; returns their number. Afterwards undo_tree has the tree without the marked ones only if there are none.

-- refuse_places() -> bigint
--     Mark prefixes without a VRF, a pool or a place, and objects with later prefixes in them; returns their number.

-- remove_others() -> void
--     Remove the VRFs, pools and AS numbers that were added.

-- removed_in(number bigint) -> TABLE(entry bigint, kind text, id bigint, before jsonb, below bigint)
--     The objects that a change set has removed and that do not exist now, each with the number of prefixes removed below it; those below are left out.

-- set_others_back() -> void
--     Restore and edit the VRFs, pools and AS numbers. Added ones keep until their prefixes are gone.

-- set_partition_rights(part regclass, readable boolean) -> void
--     Leave the rights on a partition to its owner. A readable one may be read by everybody who may read the audit log.

-- setting_back(before jsonb, after jsonb) -> jsonb
--     The attributes that an edit has changed, with their values before; null for a value that was not set.

-- source_owner(in_vrf integer, source cidr) -> prefix
--     The stored prefix that owns the free ranges of a source of allocations: the source itself or its closest parent; NULL at the top level.

-- state_facts(facts jsonb, version integer, since bigint, until bigint) -> jsonb
--     The facts of a state with all columns that its table needs, whatever the kind of the object.

-- sum_tops(sign integer) -> void
--     Add the totals over the changed prefixes at the top level to undo_total, or subtract them.

-- supernets(network inet) -> cidr[]
--     All networks that cover a network, longest first, without itself.

-- take_incoming() -> void
--     Take the incoming prefixes out of the free ranges around them.

-- take_range(owner_id bigint, leaf_space cidr, network cidr, length integer) -> numeric
--     Take a network out of the free ranges of an owner; leaf_space: the whole network of the owner when it had no rows yet. Returns the change of its free blocks.

-- undo_change_set(number bigint, part_kind text, part_id bigint, partly boolean, who actor) -> jsonb
--     Undo a change set, or with part_kind and part_id the removal of an object. Conflicts: nothing is changed unless partly. Returns the new change set, the numbers of objects by kind, the conflicts and the entries that are left.

-- version_after(kind text, key bigint, restores boolean) -> integer
--     The version from which an object goes on: that of its last state, or of all states if it is restored; 0 without a state.

-- version_before(kind text, key bigint) -> integer
--     The version of an object when it was removed: one below that of its restored state, or the one that was kept.

-- vrf_add(facts jsonb, who actor) -> integer
--     Add a VRF with its two empty address spaces; returns its id.

-- vrf_edit(target integer, changes jsonb, who actor) -> boolean
--     Edit a VRF. Writes nothing if no fact changes. Returns false if there is no such VRF.

-- vrf_facts(stored vrf) -> jsonb
--     The stored facts of a VRF, without version and nulls.

-- vrf_remove(in_vrf integer, who actor) -> boolean
--     Remove a VRF with all its prefixes. Returns false if there is no such VRF.

-- webhook_facts(stored webhook) -> jsonb
--     The attributes of a webhook that clients set, without the secret and without nulls.

-- whole_space(parent prefix, address inet) -> cidr
--     The network of parent or, when parent is NULL, the whole address space in the family of the address.

-- wrong_states() -> TABLE(kind text, id bigint, "position" bigint, why text)
--     The states in the tables of the past that differ from the audit log or, at present, from the object. Nothing while nothing is built.
