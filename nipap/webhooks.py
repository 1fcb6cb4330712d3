"""The calls that manage webhooks. They tell everything that happens to somebody else: trusted users only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nipap import webhook
from nipap.attributes import read_integer, shown
from nipap.authlib import Actor
from nipap.db import Database, Transaction
from nipap.errors import AuthorizationFailedError, NipapInputError, NipapNonExistentError

Object = dict[str, Any]


class Webhooks:
    """Calls about webhooks, each one transaction. A secret is never part of an answer."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def list_webhook(self, actor: Actor, key: int | None = None) -> list[Object]:
        """The webhook with that id, or all, with what they have delivered."""
        _authorize(actor)
        return self._db.read(lambda tx: webhook.find(tx, key))

    def add_webhook(self, actor: Actor, attr: Mapping[str, Any]) -> Object:
        """Add a webhook for what happens from now on; `url` and `secret` are needed."""
        _authorize(actor)
        return self._db.run(lambda tx: _one(tx, webhook.add(tx, attr)))

    def edit_webhook(self, actor: Actor, key: int, attr: Mapping[str, Any]) -> Object:
        """Set attributes; a webhook that failed is tried again at once."""
        _authorize(actor)

        def work(tx: Transaction) -> Object:
            webhook.edit(tx, key, attr)
            return _one(tx, key)

        return self._db.run(work)

    def remove_webhook(self, actor: Actor, key: int) -> None:
        """Remove a webhook with its dead letters."""
        _authorize(actor)
        self._db.run(lambda tx: webhook.remove(tx, key))

    def list_dead_letter(self, actor: Actor, key: int, after: int = 0) -> list[Object]:
        """Events that a webhook did not take, in order, a hundred at most; those with ids behind `after`."""
        _authorize(actor)

        def work(tx: Transaction) -> list[Object]:
            _one(tx, key)
            return webhook.dead_letters(tx, key, after)

        return self._db.read(work)

    def resend_dead_letter(self, actor: Actor, key: int, ids: object = None) -> int:
        """Have dead letters sent once more, those with these ids or all; returns how many."""
        _authorize(actor)
        if ids is not None and not isinstance(ids, list):
            raise NipapInputError(f'Invalid ids ({shown(ids)}), must be a list')
        numbers = None if ids is None else [read_integer(i) for i in ids]

        def work(tx: Transaction) -> int:
            _one(tx, key)
            return webhook.mark_again(tx, key, numbers)

        return self._db.run(work)


def _authorize(actor: Actor) -> None:
    if not actor.trusted or actor.readonly:
        raise AuthorizationFailedError(
            f"user '{actor.username}' is not authorized to manage webhooks: trusted users are, unless read-only"
        )


def _one(tx: Transaction, key: int) -> Object:
    found = webhook.find(tx, key)
    if not found:
        raise NipapNonExistentError(f'There is no webhook {key}')
    return found[0]
