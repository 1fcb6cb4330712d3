-- The log of sign-ins, good and bad. Handlers add rows and remove old ones; no row is ever changed.

CREATE TABLE sign_in (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT sign_in_pkey PRIMARY KEY,
    at timestamptz NOT NULL,
    last timestamptz NOT NULL,
    count bigint NOT NULL CONSTRAINT sign_in_count_check CHECK (count > 0),
    authenticated_as text,
    backend text,
    address inet,
    interface text NOT NULL,
    outcome text NOT NULL,
    CONSTRAINT sign_in_last_check CHECK (last >= at)
);
CREATE INDEX sign_in_at_idx ON sign_in (at);
CREATE INDEX sign_in_user_idx ON sign_in (authenticated_as, id);
CREATE INDEX sign_in_address_idx ON sign_in (address, id);
COMMENT ON TABLE sign_in IS 'Sign-ins, good and bad. A good sign-in has a row for each user, address, interface and hour; bad ones of a kind share a row that counts them.';
COMMENT ON COLUMN sign_in.id IS 'Increases, with gaps, in the order in which rows were written.';
COMMENT ON COLUMN sign_in.at IS 'When the first of the sign-ins was made.';
COMMENT ON COLUMN sign_in.last IS 'When the last of the sign-ins was made.';
COMMENT ON COLUMN sign_in.count IS 'Number of bad sign-ins; 1 for a good one.';
COMMENT ON COLUMN sign_in.authenticated_as IS 'The user, as in audit_log.authenticated_as, or the name tried: at most 100 characters, control characters escaped. NULL: no name was sent, or too many names were tried.';
COMMENT ON COLUMN sign_in.backend IS 'The auth backend; NULL: unknown.';
COMMENT ON COLUMN sign_in.address IS 'Address of the client, or the network of several clients. NULL: unknown, or too many addresses.';
COMMENT ON COLUMN sign_in.interface IS 'Interface of the request: xmlrpc, rest, rest_v1 or traces.';
COMMENT ON COLUMN sign_in.outcome IS 'ok, or why the sign-in was refused.';
COMMENT ON INDEX sign_in_at_idx IS 'Sign-ins of a time; finds old rows.';
COMMENT ON INDEX sign_in_user_idx IS 'The sign-ins of a user, newest first.';
COMMENT ON INDEX sign_in_address_idx IS 'The sign-ins from an address or network.';
