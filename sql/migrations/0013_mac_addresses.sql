-- MAC addresses among the pairs of a prefix, found in any notation. Partial index: most prefixes have no pairs.
CREATE FUNCTION macs_of(avps jsonb) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT coalesce(array_agg(DISTINCT lower(regexp_replace(m[1], '[-:.]', '', 'g'))), '{}')
    FROM jsonb_each_text(avps) e CROSS JOIN LATERAL regexp_matches(e.value,
        '(?<![0-9A-Fa-f:.-])([0-9A-Fa-f]{12}|[0-9A-Fa-f]{2}(?:([-:.])[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{4}(?:[-:.][0-9A-Fa-f]{4}){2}|[0-9A-Fa-f]{6}[-:][0-9A-Fa-f]{6})(?![0-9A-Fa-f])',
        'g') m);
COMMENT ON FUNCTION macs_of(jsonb) IS 'The MAC addresses in the values of pairs, as twelve digits each.';
CREATE INDEX prefix_macs_idx ON prefix USING gin (macs_of(avps)) WHERE avps <> '{}';
COMMENT ON INDEX prefix_macs_idx IS 'Prefixes by a MAC address among their pairs.';
