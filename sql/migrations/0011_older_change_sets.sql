-- Change sets for changes that are older than change sets: entries with exactly the same moment and author form one
-- change set, numbered by its first entry. The entries themselves stay as they are. No call waits for this migration:
-- it reads only rows that no call changes.

INSERT INTO change_set (id, at, username, authenticated_as, full_name, authoritative_source, last_older_entry)
SELECT min(id), at, username, authenticated_as, full_name, authoritative_source, max(id)
FROM audit_log WHERE change_set IS NULL
GROUP BY at, username, authenticated_as, full_name, authoritative_source;

-- The older change sets get the first positions. The moment is that of the change, or a microsecond after the previous
-- moment, whichever is later: the highest (moment - position) so far, plus the position.
INSERT INTO change_order (position, change_set, moment)
SELECT n, id, max(at - n * interval '1 microsecond') OVER (ORDER BY n) + n * interval '1 microsecond'
FROM (SELECT id, at, row_number() OVER (ORDER BY last_older_entry) AS n FROM change_set WHERE last_older_entry IS NOT NULL) older;

UPDATE change_state SET (position, moment) = (SELECT position, moment FROM change_order ORDER BY position DESC LIMIT 1)
WHERE EXISTS (SELECT FROM change_order);
