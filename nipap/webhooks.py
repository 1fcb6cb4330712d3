"""The calls that manage webhooks. They tell everything that happens to somebody else: trusted users only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nipap import rows
from nipap import webhook as hooks
from nipap.attributes import read_integer, shown
from nipap.authlib import Actor
from nipap.db import Database
from nipap.errors import AuthorizationFailedError, NipapInputError, NipapMissingInputError, NipapValueError
from nipap.transaction import Inside, Transaction

Object = dict[str, Any]

LARGEST = 2**63 - 1


class Webhooks:
    """These calls, a part of `nipap.backend.Backend`. A secret is never part of an answer."""

    db: Database | Inside

    def add_webhook(self, actor: Actor, attr: Any = None) -> Object:
        """Add a webhook for what happens from now on, with the attributes ``attr``; returns it.

        ``url`` and ``secret`` are needed. ``kinds``, ``vrf_ids``, ``pool_ids`` and ``tags`` say which events it wants.
        """
        _authorize(actor)
        _check(attr)
        return self.db.run(lambda tx: hooks.one(tx, hooks.add(tx, attr, actor.who)))

    def list_webhook(self, actor: Actor, webhook: Any = None) -> list[Object]:
        """The webhook that the spec ``webhook`` names by its ``id``, or all, with what they have delivered."""
        _authorize(actor)
        key = _read_spec(webhook)
        return self.db.read(lambda tx: hooks.find(tx, key))

    def edit_webhook(self, actor: Actor, webhook: Any = None, attr: Any = None) -> list[Object]:
        """Set the attributes ``attr`` of the webhook that the spec ``webhook`` names; returns it as it is then.

        What it has not taken is tried again at once, also when ``attr`` is empty.
        """
        _authorize(actor)
        key = _require_spec(webhook)
        _check(attr)

        def work(tx: Transaction) -> list[Object]:
            hooks.edit(tx, key, attr, actor.who)
            return [hooks.one(tx, key)]

        return self.db.run(work)

    def remove_webhook(self, actor: Actor, webhook: Any = None) -> None:
        """Remove the webhook that the spec ``webhook`` names, with its dead letters."""
        _authorize(actor)
        key = _require_spec(webhook)
        self.db.run(lambda tx: hooks.remove(tx, key, actor.who))

    def list_dead_letter(self, actor: Actor, webhook: Any = None, after: Any = None) -> list[Object]:
        """Events that a webhook did not take, in order, a hundred at most; those with ids behind ``after``."""
        _authorize(actor)
        key = _require_spec(webhook)
        place = 0 if after is None else _number('after', after)

        def work(tx: Transaction) -> list[Object]:
            hooks.one(tx, key)
            return hooks.dead_letters(tx, key, place)

        return self.db.read(work)

    def resend_dead_letter(self, actor: Actor, webhook: Any = None, ids: Any = None) -> int:
        """Have dead letters of a webhook sent once more, those with these ``ids`` or all; returns how many."""
        _authorize(actor)
        key = _require_spec(webhook)
        if ids is not None and not isinstance(ids, list):
            raise NipapInputError(f'Invalid ids ({shown(ids)}), must be a list').about('ids')
        numbers = None if ids is None else [_number('ids', i) for i in ids]
        return self.db.run(lambda tx: hooks.send_again(tx, key, numbers, actor.who))


def _authorize(actor: Actor) -> None:
    if not actor.trusted or actor.readonly:
        raise AuthorizationFailedError(
            f"user '{actor.username}' is not authorized to manage webhooks: trusted users are, unless read-only"
        )


def _check(attr: object) -> None:
    if not isinstance(attr, Mapping):
        raise NipapInputError("'attr' must be a dict")


def _read_spec(spec: object) -> int | None:
    found = rows.named(spec, ('id',), 'webhook', '')
    return None if found is None else _number('id', found[1])


def _require_spec(spec: object) -> int:
    key = _read_spec(spec)
    if key is None:
        raise NipapMissingInputError("webhook spec must contain 'id'")
    return key


def _number(name: str, value: object) -> int:
    try:
        number = read_integer(value)
    except NipapValueError:
        number = -1
    if not 0 <= number <= LARGEST:
        raise NipapValueError(f'Invalid value {shown(value)} for {name}, must be the number of one').about(name)
    return number
