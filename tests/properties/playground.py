"""The common parts of the property tests: a backend with a database to empty between examples, and search settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from hypothesis import HealthCheck, note, settings
from psycopg2.sql import SQL, Identifier

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.errors import NipapError
from nipap.integrity import check
from nipap.postgres.database import Database

PATIENT = settings(
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
SOAK = os.environ.get('HYPOTHESIS_PROFILE') == 'soak'


def searching(examples: int, soak: int, steps: int = 25) -> settings:
    """Return the settings of a search with `examples` examples.

    With HYPOTHESIS_PROFILE=soak there are `soak` examples with four times as many steps.
    """
    return settings(
        PATIENT,
        max_examples=soak if SOAK else examples,
        stateful_step_count=4 * steps if SOAK else steps,
    )


class Playground:
    """A backend on a database that can be reset to its state after installation.

    Every call is noted: Hypothesis prints the notes of a failing example, which makes them its trace.
    """

    def __init__(self, dsn: str, db: Database, actor: Actor) -> None:
        self.db = db
        self.backend = Backend(db)
        self.actor = actor
        self._connection = psycopg2.connect(dsn)
        self._tables = self._keep_pristine_copies()

    def _keep_pristine_copies(self) -> list[str]:
        with self._cursor() as cursor:
            cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            names = [row[0] for row in cursor.fetchall()]
            cursor.execute('CREATE SCHEMA pristine')
            for name in names:
                table = Identifier(name)
                cursor.execute(SQL('CREATE TABLE pristine.{} AS TABLE public.{}').format(table, table))
        return names

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        with self._connection, self._connection.cursor() as cursor:
            yield cursor

    def reset(self) -> None:
        """Empty the database except for the rows of the installation."""
        with self._cursor() as cursor:
            cursor.execute('SET LOCAL session_replication_role = replica')
            for name in map(Identifier, self._tables):
                cursor.execute(SQL('DELETE FROM public.{}').format(name))
                cursor.execute(
                    SQL('INSERT INTO public.{} OVERRIDING SYSTEM VALUE SELECT * FROM pristine.{}').format(name, name)
                )

    def close(self) -> None:
        """Reset the database and close the connection."""
        self.reset()
        with self._cursor() as cursor:
            cursor.execute('SET LOCAL client_min_messages = warning; DROP SCHEMA pristine CASCADE')
        self._connection.close()

    def call(self, method: str, *members: Any) -> tuple[Any, NipapError | None]:
        """Call the backend, note the answer or the error, and return both."""
        answer, error = self.ask(method, *members)
        outcome = brief(answer) if error is None else f'fault {error.code}: {error}'
        note(f'    {method}({", ".join(map(repr, members))}) -> {outcome}')
        return answer, error

    def ask(self, method: str, *members: Any) -> tuple[Any, NipapError | None]:
        """Call the backend without a note."""
        function: Callable[..., Any] = getattr(self.backend, method)
        try:
            return function(self.actor, *members), None
        except NipapError as error:
            return None, error

    def problems(self) -> list[str]:
        """Return the findings of the daemon's own check of its invariants."""
        return check.problems(self.db)


def brief(answer: Any) -> str:
    """Return an answer in few words: objects by id and name."""
    if isinstance(answer, list):
        return f'[{", ".join(map(brief, answer))}]'
    if isinstance(answer, dict) and 'id' in answer:
        return f'id {answer["id"]} {answer.get("prefix", answer.get("name"))}'
    return repr(answer)


def differences(expected: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    """Return the members of an answer that differ from the expected ones. Other members are ignored."""
    return [
        f'{key}: {actual.get(key)!r} instead of {value!r}'
        for key, value in expected.items()
        if actual.get(key) != value
    ]
