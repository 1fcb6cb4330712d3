"""Edits of a prefix that another session has moved meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from daemon_process import poll

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.integrity import check
from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def test_an_edit_that_names_the_former_place(backend: Backend, actor: Actor, db: Database, dsn: str) -> None:
    for block in ('10.0.0.0/16', '10.9.0.0/16'):
        backend.add_prefix(actor, {'prefix': block, 'type': 'reservation', 'description': block})
    row = backend.add_prefix(actor, {'prefix': '10.0.1.0/24', 'type': 'assignment', 'description': 'old'})
    spec: dict[str, Any] = {'id': row['id']}
    mover = Database(dsn)
    with ThreadPoolExecutor() as threads:

        def move(tx: Transaction) -> Any:
            who = ('test', 'test', None, 'test', None, None, None, None, None)
            tx.execute(
                'SELECT prefix_edit(%s, %s::cidr, %s, %s::actor)',
                (row['id'], '10.0.1.0/24', '{"prefix": "10.9.1.0/24"}', who),
            )
            attr = {'prefix': '10.0.1.0/24', 'description': 'new'}
            running = threads.submit(backend.edit_prefix, actor, spec, attr)
            poll(lambda: db.read(lambda other: other.value(WAITING)) == 1, 20, lambda: 'nobody waits')
            return running

        (edited,) = mover.run(move).result()
    mover.close()
    assert (edited['prefix'], edited['description']) == ('10.0.1.0/24', 'new')
    assert list(check.problems(db)) == []
