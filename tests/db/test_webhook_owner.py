"""Webhooks that are older than the column for the owner get the account that the audit log names."""

from __future__ import annotations

import pytest

from nipap.history import webhook
from nipap.postgres import migrations, schema
from nipap.postgres.database import Database

OWNERS = next(step.version for step in migrations.steps() if step.name == 'webhook_owner')
HOOK = "INSERT INTO webhook (url, secret, cursor) VALUES ('http://%s/', 'a secret of sixteen', 0)"
ENTRY = """INSERT INTO audit_log
    (username, authenticated_as, authoritative_source, object_type, object_id, action, after)
VALUES ('bob', %s, 'portal', %s, %s, 'add', '{}')"""


def test_owners_are_found_in_the_audit_log(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    db = Database(empty_dsn)
    known = migrations.steps()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(migrations, 'steps', lambda: known[: OWNERS - 1])
            patch.setattr(schema, 'put_functions', lambda _tx: None)
            schema.migrate(db)
        db.run(lambda tx: [tx.execute(HOOK % name) for name in 'ab'])
        db.run(lambda tx: tx.execute(ENTRY, ('another', 'vrf', 1)))
        db.run(lambda tx: tx.execute(ENTRY, ('gateway', 'webhook', 1)))
        schema.migrate(db)
        assert [hook['owner'] for hook in db.read(webhook.find)] == ['gateway', None]
    finally:
        db.close()
