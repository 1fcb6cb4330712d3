-- Indexes for questions about the past. On the first partition they are built first: only writes to this partition
-- wait, and a long log has its new entries in the second one.

CREATE INDEX audit_log_1_user_idx ON audit_log_1 (username, id);
CREATE INDEX audit_log_1_place_idx ON audit_log_1 (
    ((coalesce(after, before) ->> 'vrf_id')::int), ((coalesce(after, before) ->> 'prefix')::cidr), id) WHERE object_type = 'prefix';
CREATE INDEX audit_log_1_moved_idx ON audit_log_1 (
    ((before ->> 'vrf_id')::int), ((before ->> 'prefix')::cidr), id) WHERE object_type = 'prefix' AND before ->> 'prefix' <> after ->> 'prefix';

WITH before AS (
    DELETE FROM audit_span RETURNING last_id
)
INSERT INTO audit_span
SELECT least((a.id / 5000 + 1) * 5000 - 1, before.last_id), a.id / 5000 * 5000, min(at), max(at)
FROM audit_log a, before WHERE a.id <= before.last_id GROUP BY a.id / 5000, before.last_id;

-- From here until the commit, changes wait.
CREATE INDEX audit_log_user_idx ON audit_log (username, id);
CREATE INDEX audit_log_place_idx ON audit_log (
    ((coalesce(after, before) ->> 'vrf_id')::int), ((coalesce(after, before) ->> 'prefix')::cidr), id) WHERE object_type = 'prefix';
CREATE INDEX audit_log_moved_idx ON audit_log (
    ((before ->> 'vrf_id')::int), ((before ->> 'prefix')::cidr), id) WHERE object_type = 'prefix' AND before ->> 'prefix' <> after ->> 'prefix';
COMMENT ON INDEX audit_log_user_idx IS 'The history of a user.';
COMMENT ON INDEX audit_log_place_idx IS 'The history of a part of the tree.';
COMMENT ON INDEX audit_log_moved_idx IS 'Prefixes that were moved away, by their former place.';

CREATE INDEX change_set_user_idx ON change_set (username, id);
CREATE INDEX change_set_request_idx ON change_set (request_id) WHERE request_id IS NOT NULL;
COMMENT ON INDEX change_set_user_idx IS 'The change sets of a user.';
COMMENT ON INDEX change_set_request_idx IS 'The change set of a request.';
