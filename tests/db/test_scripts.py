"""Every word of every script finds itself, with and without the text index, whatever PostgreSQL takes for letters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import psycopg2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.postgres import schema
from nipap.postgres.database import Database
from nipapd.embedded import EmbeddedPostgres

WORDS = [
    *('office', 'İstanbul', 'ISTANBUL', 'ıspanak', 'Straße', 'Malmö', 'Łódź', 'Ǆemal', 'ǅemal', 'ǆemal', 'ǈubljana'),
    *('Москва', 'Київ', 'Αθήνα', 'ΟΔΟΣ', 'Երևան', 'თბილისი', 'ᲗᲑᲘᲚᲘᲡᲘ', 'ירושלים', 'القاهرة', 'تهران'),
    *('दिल्ली', 'ঢাকা', 'சென்னை', 'กรุงเทพ', 'ရန်ကုန်', 'ភ្នំពេញ', 'አዲስ', '東京都', '北京', 'ソウル', '서울', 'ᏣᎳᎩ'),
    *('𐐔𐐯𐑅𐐨𐑉𐐯𐐻', '𞤀𞤣𞤤𞤢𞤥', 'ſtrange', 'ﬁber', 'K9', 'Ångström', '🙂🙂🙂', 'a🙂b', '½', '№5', 'ª', 'x²'),
]
LETTERS = st.text(st.characters(categories=('L', 'N', 'M')), min_size=1, max_size=8)
MAKE = {
    'unicode': "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8' {}",
    'C': "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' {}",
}
BUILTIN = "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"
ROW = {'type': 'reservation'}


@pytest.fixture(params=sorted(MAKE))
def character_type(request: pytest.FixtureRequest, cluster: EmbeddedPostgres) -> Iterator[str]:
    """Yield a database with a schema, in which PostgreSQL takes certain characters for letters."""
    name = f'letters_{request.param.lower()}'
    connection = psycopg2.connect(cluster.dsn('postgres'))
    connection.autocommit = True
    with connection.cursor() as cursor:
        builtin = BUILTIN if connection.server_version >= 170000 else ''
        cursor.execute(MAKE[request.param].format(name, builtin))
        schema.install(cluster.dsn(name))
        yield cluster.dsn(name)
        cursor.execute(f'DROP DATABASE {name} WITH (FORCE)')
    connection.close()


@pytest.fixture
def searches(character_type: str) -> Iterator[dict[str, Backend]]:
    """Yield two backends on that database: one uses the text index wherever possible, the other never does."""
    options = {'index': '-c enable_seqscan=off', 'no index': '-c enable_bitmapscan=off -c enable_indexscan=on'}
    dsn = psycopg2.extensions.make_dsn
    databases = {name: Database(dsn(character_type, options=text)) for name, text in options.items()}
    yield {name: Backend(database) for name, database in databases.items()}
    for database in databases.values():
        database.close()


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LETTERS, min_size=1, max_size=10, unique=True))
@example(WORDS)
@example([word.upper() for word in WORDS] + [word.lower() for word in WORDS])
def test_every_word_finds_itself(searches: dict[str, Backend], actor: Actor, words: list[str]) -> None:
    writer = searches['index']
    added = [
        writer.add_prefix(actor, {**ROW, 'prefix': f'10.{n}.0.0/16', 'description': f'at {word} now'})
        for n, word in enumerate(words)
    ]
    for n, word in enumerate(words):
        for how, backend in searches.items():
            for query in (f'"{word}"', f'description~"{word}"', f'description="at {word} now"'):
                answer = backend.smart_search_prefix(actor, query)
                found = [row['prefix'] for row in answer['result']]
                assert f'10.{n}.0.0/16' in found, (how, query, unicodedata.normalize('NFC', word))
    for row in added:
        writer.remove_prefix(actor, {'id': row['id']})
