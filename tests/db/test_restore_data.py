"""The rows of a dump: a text that is not as `pg_restore` writes it stops the restoration, and nothing is changed."""

from __future__ import annotations

import io

import pytest

from nipap.errors import NipapError
from nipap.integrity.restore import Rows, _copy
from nipap.postgres.database import Database

HEADER = b"--\n-- Data\n--\n\nSET statement_timeout = 0;\nSELECT pg_catalog.set_config('search_path', '', false);\n"
ROWS = b'COPY public.asn (asn, name) FROM stdin;\n1\tone\n2\ttwo\n\\.\n'


def names(db: Database) -> list[str]:
    return [row[0] for row in db.run(lambda tx: tx.all('SELECT name FROM asn ORDER BY asn'))]


def test_rows_follow_the_table_that_they_belong_to(db: Database) -> None:
    db.run(lambda tx: _copy(tx, io.BytesIO(HEADER + ROWS + b"SELECT pg_catalog.setval('public.pool_id_seq', 7);\n")))
    assert names(db) == ['one', 'two']
    assert db.run(lambda tx: tx.value("SELECT nextval('pool_id_seq')")) == 8


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (ROWS + b"DO $$BEGIN EXECUTE 'DROP TABLE prefix'; END$$;\n", 'data of an unknown form'),
        (ROWS + b"COPY public.asn (asn) FROM PROGRAM 'id';\n", 'data of an unknown form'),
        (ROWS.removesuffix(b'\\.\n'), 'ends amid the rows of a table'),
    ],
)
def test_another_form_is_refused_and_nothing_stays(db: Database, data: bytes, reason: str) -> None:
    with pytest.raises(NipapError, match=reason):
        db.run(lambda tx: _copy(tx, io.BytesIO(HEADER + data)))
    assert names(db) == []


def test_rows_are_read_as_a_file() -> None:
    """psycopg2 asks for sizes, or for lines."""
    rest = b'COPY other FROM stdin;\n'

    def rows() -> Rows:
        return Rows(io.BytesIO(b'1\tone\n2\ttwo\n\\.\n' + rest))

    assert (rows().read(), rows().read(3)) == (b'1\tone\n2\ttwo\n', b'1\to')
    by_line = rows()
    assert by_line.read(2) == b'1\t'
    assert [by_line.readline(), by_line.readline(), by_line.readline()] == [b'one\n', b'2\ttwo\n', b'']
