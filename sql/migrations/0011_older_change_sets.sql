-- Change sets of what was changed before there were any: entries with exactly the same moment and actor are one, numbered by
-- the first of them. The entries themselves stay as they are. Nobody waits for this: it reads what nobody changes.

INSERT INTO change_set (id, at, username, authenticated_as, full_name, authoritative_source, last_older_entry)
SELECT min(id), at, username, authenticated_as, full_name, authoritative_source, max(id)
FROM audit_log WHERE change_set IS NULL
GROUP BY at, username, authenticated_as, full_name, authoritative_source;

-- Their positions come first. A moment is that of the change, or a microsecond after the one before it, whichever is later:
-- the highest of (moment - position) so far, and the position added again.
INSERT INTO change_order (position, change_set, moment)
SELECT n, id, max(at - n * interval '1 microsecond') OVER (ORDER BY n) + n * interval '1 microsecond'
FROM (SELECT id, at, row_number() OVER (ORDER BY last_older_entry) AS n FROM change_set WHERE last_older_entry IS NOT NULL) older;

UPDATE change_state SET (position, moment) = (SELECT position, moment FROM change_order ORDER BY position DESC LIMIT 1)
WHERE EXISTS (SELECT FROM change_order);
