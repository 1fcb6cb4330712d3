-- What keeps the tables at their size while rows come and go; `tests/bench/health.py` measures it, and what is not set
-- here was found to need nothing but PostgreSQL's defaults. A fillfactor is heeded by pages that are written from now on.

-- An allocation and a removal leave about six dead versions in prefix and prefix_words, 1.5 kB with their index entries.
-- PostgreSQL waits until a fifth of a table is dead: unnoticed beside 10,000 prefixes, 180,000 versions beside 900,000,
-- which every scan of the tree has to step over. A twentieth keeps that below what a day's growth is; the thousand keeps
-- small databases from being vacuumed for a handful of edits.
ALTER TABLE prefix SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

-- Its only update changes the words, which are indexed: none was HOT in 200,000 cycles, so room in the page was wasted.
-- Vacuum is also what takes dead entries out of the index on words, and they are read by every search until then.
ALTER TABLE prefix_words SET (fillfactor = 100, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
