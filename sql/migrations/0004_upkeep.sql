-- Settings that keep the tables at their size while rows are added and removed, measured by tests/bench/health.py.
-- Where nothing is set, here or in the CREATE TABLE, the defaults of PostgreSQL were found to suffice. vrf and pool are
-- locked and hardly updated; audit_log is only added to. A fillfactor applies to pages that are written from now on.

-- An allocation and a removal leave four dead versions behind. The versions of the parent are HOT and are removed when
-- their page is next read; two remain for vacuum. By default PostgreSQL waits until a fifth of a table is dead: 180,000
-- versions beside 900,000 prefixes, which slow every walk along the tree. A twentieth is less than the additions in
-- between anyway; the thousand keeps a small database from being vacuumed for a handful of edits.
ALTER TABLE prefix SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

-- The only update of this table changes the words, which are indexed: of 40,000 updates none was HOT, so free room in
-- the pages was wasted. Searches read dead entries of the index on words until vacuum removes them together with the
-- dead rows.
ALTER TABLE prefix_words SET (
    fillfactor = 100, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
