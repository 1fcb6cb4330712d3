-- What keeps the tables at their size while rows come and go. tests/bench/health.py measures it: where nothing is set,
-- here or where the table was made, PostgreSQL's defaults were found to do. vrf and pool are locked, hardly updated;
-- audit_log is only added to. A fillfactor is heeded by pages that are written from now on.

-- Of the four versions that an allocation and a removal leave behind, those of the parent are HOT and go when its page
-- is next read; two remain for vacuum. PostgreSQL waits until a fifth of a table is dead: 180,000 versions beside 900,000
-- prefixes, in which every walk along the tree meets them. A twentieth is less than what is added in between anyway;
-- the thousand keeps a small database from being vacuumed for a handful of edits.
ALTER TABLE prefix SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

-- Its one update changes the words, which are indexed: of 40,000 none was HOT, so room left in its pages was wasted.
-- Searches read what is dead in the index on words, until vacuum takes it out together with what is dead here.
ALTER TABLE prefix_words SET (
    fillfactor = 100, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
