"""The numbers of our advisory locks, in Python and in SQL. Every number is here, and no two locks share a number.

A lock with one key has the number itself as its key. A lock with two keys has the number as the first key. A test
compares this table with the code in ``nipap`` and ``sql``.
"""

from __future__ import annotations

SCHEMA = 5_466_127  # held by the program that installs or migrates
KEYS = 5_466_128  # and a hash of an idempotency key: calls with one key take turns
DELIVERY = 5_466_129  # held by the session that delivers events
ADDITIONS = 5_466_130  # and the id of a VRF: additions of many prefixes take turns (sql/functions/060_bulk.sql)
ORDER = 5_466_131  # held by the session that gives change sets their positions
PARTITIONS = 5_466_135  # held by a step of the upkeep of partitions (sql/functions/046_partitions.sql)
UNDO = 5_466_136  # undos take turns (sql/functions/080_undo.sql)
