-- Questions about the past: which attributes an entry changed, and which part of the audit log has entries of a time.

CREATE FUNCTION changed_names(before jsonb, after jsonb) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(
    SELECT key FROM jsonb_each(coalesce(before, '{}')) b FULL JOIN jsonb_each(coalesce(after, '{}')) a USING (key)
    WHERE b.value IS DISTINCT FROM a.value AND key <> 'last_modified' ORDER BY key);
COMMENT ON FUNCTION changed_names(jsonb, jsonb) IS 'Names of the attributes that differ, except last_modified, which every edit changes.';

CREATE FUNCTION audit_range(since timestamptz, until timestamptz, OUT newest bigint, OUT tail bigint, OUT first bigint, OUT last bigint) LANGUAGE plpgsql STABLE AS $$
BEGIN
    newest := coalesce(pg_sequence_last_value('audit_log_id_seq'), 0);
    tail := coalesce((SELECT max(last_id) FROM audit_span), -1) + 1;
    first := 0;
    last := tail - 1;
    IF since IS NOT NULL THEN
        first := coalesce((SELECT s.first_id FROM audit_span s WHERE s.newest >= since ORDER BY s.last_id LIMIT 1), tail);
    END IF;
    IF until IS NOT NULL THEN
        last := coalesce((SELECT s.last_id FROM audit_span s WHERE s.oldest <= until ORDER BY s.last_id DESC LIMIT 1), -1);
    END IF;
END $$;
COMMENT ON FUNCTION audit_range(timestamptz, timestamptz) IS 'The ids of audit entries of a time: those from first to last, and those from tail on, whose times are not known yet. newest is the last id that was drawn. NULL: without a limit.';
