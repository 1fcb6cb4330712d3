"""Test paging through VRFs, pools, AS numbers and tags with a cursor, while objects are added and removed."""

from __future__ import annotations

import base64
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from nipap.access.authentication import Authenticator, AuthSettings, BackendSettings
from nipap.access.local_users import LocalUser, LocalUsers
from nipap.addresses import parse_route_target
from nipap.backend import Backend
from nipap.rest import api as flask_rest

from .playground import Playground, searching

pytestmark = pytest.mark.slow

Item = dict[str, Any]
Turn = Callable[[str | None], tuple[list[Item], str | None]]  # one page, and the cursor of the next page

LETTERS = 'aAbBzZäßÖ_%.- 1'
KEY = {'vrf': 'name', 'pool': 'name', 'asn': 'asn', 'tag': 'name'}
LOGIN = ('alice', 'secret')
PLURAL = {'vrf': 'vrfs', 'pool': 'pools', 'asn': 'asns', 'tag': 'tags'}


def place_of(kind: str, item: Item) -> Any:
    """Return the place of an object in the order of the contract.

    VRFs: VRF 0 first, then by the numbers of the route target. Pools: by name in lower case. Tags: by name. AS numbers:
    by number.
    """
    if kind == 'vrf':
        return (-1 if item['rt'] is None else parse_route_target(item['rt'])[1], item['id'])
    if kind == 'pool':
        return item['name'].lower()
    return item['name'] if kind == 'tag' else item['asn']


class World:
    """Objects of one kind, added and removed at random."""

    def __init__(self, playground: Playground, kind: str, chance: random.Random) -> None:
        playground.reset()
        self._backend, self._actor = playground.backend, playground.actor
        self._kind = kind
        self._chance = chance
        self._numbers = itertools.count()

    def add(self) -> None:
        """Add an object anywhere in the order."""
        chance, number = self._chance, next(self._numbers)
        name = ''.join(chance.choices(LETTERS, k=chance.randrange(1, 4))) + f'-{number}'
        # The first two administrators are the same number.
        rt = f'{chance.choice(("65000", "0.0.253.232", "1.2.3.4"))}:{chance.randrange(4)}'
        if self._kind in ('vrf', 'tag'):
            tags = [name] if self._kind == 'tag' else []
            rt = rt if self._kind == 'vrf' else f'1:{number}'
            if not self._backend.list_vrf(self._actor, {'rt': rt}):
                self._backend.add_vrf(self._actor, {'rt': rt, 'name': name, 'tags': tags})
        elif self._kind == 'pool':
            self._backend.add_pool(self._actor, {'name': name, 'description': 'd', 'default_type': 'host'})
        else:
            asn = {'asn': chance.choice((1, 4294900000)) + chance.randrange(60000), 'name': name}
            if not self._backend.list_asn(self._actor, {'asn': asn['asn']}):
                self._backend.add_asn(self._actor, asn)

    def remove(self) -> None:
        """Remove an object."""
        kind = 'vrf' if self._kind == 'tag' else self._kind
        there = [item for item in getattr(self._backend, f'list_{kind}')(self._actor) if item.get('id') != 0]
        if there:
            spec = {KEY[kind]: self._chance.choice(there)[KEY[kind]]}
            getattr(self._backend, f'remove_{kind}')(self._actor, spec)

    def all(self) -> list[Item]:
        """Return all objects in order."""
        found: list[Item] = getattr(self._backend, f'search_{self._kind}')(self._actor, {}, {'max_result': 10**6})[
            'result'
        ]
        assert [place_of(self._kind, item) for item in found] == sorted(place_of(self._kind, item) for item in found)
        return found


def by_backend(playground: Playground, kind: str, size: int) -> Turn:
    def turn(after: str | None) -> tuple[list[Item], str | None]:
        options = {'max_result': size, 'after': after or ''}
        answer = getattr(playground.backend, f'search_{kind}')(playground.actor, {}, options)
        assert answer['search_options'] == {'offset': 0, **options}
        return answer['result'], answer['after']

    return turn


def by_rest(playground: Playground, kind: str, size: int, authenticator: Authenticator) -> Turn:
    app = Flask('test', static_folder=None)
    flask_rest.add_to(app, Backend(playground.db), authenticator)
    client = app.test_client()
    headers = {'Authorization': f'Basic {base64.b64encode(":".join(LOGIN).encode()).decode()}'}
    first = f'/api/v1/{PLURAL[kind]}?limit={size}'

    def turn(after: str | None) -> tuple[list[Item], str | None]:
        answer = client.get(after or first, headers=headers)
        assert answer.status_code == 200, answer.data
        link = answer.headers.get('Link')
        assert (link is None) == (answer.json['after'] is None)
        return answer.json['result'], link and link.removeprefix('<').partition('>')[0]

    return turn


@pytest.fixture(scope='module')
def authenticator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authenticator]:
    users = LocalUsers(tmp_path_factory.mktemp('accounts') / 'users.db')
    users.create()
    users.add(LocalUser(LOGIN[0]), LOGIN[1])
    local = BackendSettings('local', 'SqliteAuth', {'db_path': str(users.path)})
    made = Authenticator(AuthSettings('local', 3600, {'local': local}))
    yield made
    made.close()


@pytest.mark.parametrize('kind', KEY)
@given(seed=st.integers(0, 10**6), over_rest=st.booleans())
@searching(12, 200)
def test_pages_are_the_whole_whatever_comes_and_goes(
    playground: Playground, authenticator: Authenticator, kind: str, seed: int, over_rest: bool
) -> None:
    chance = random.Random(seed)
    world = World(playground, kind, chance)
    for _ in range(chance.randrange(25)):
        world.add()
    size, busy = chance.choice((1, 2, 7)), chance.random() < 0.7
    turn = by_rest(playground, kind, size, authenticator) if over_rest else by_backend(playground, kind, size)
    whole = world.all()
    before, ever = [item[KEY[kind]] for item in whole], {item[KEY[kind]] for item in whole}
    stayed, shown = set(before), list[Item]()
    after: str | None = None
    while True:
        page, after = turn(after)
        assert len(page) == size or after is None
        shown += page
        if after is None:
            break
        for _ in range(chance.randrange(4) if busy else 0):
            world.add() if chance.random() < 0.4 else world.remove()
            now = {item[KEY[kind]] for item in world.all()}
            stayed &= now
            ever |= now
    keys = [item[KEY[kind]] for item in shown]
    places = [place_of(kind, item) for item in shown]
    assert places == sorted(set(places)), 'in order, nothing twice'
    assert stayed <= set(keys) <= ever
    if not busy:
        assert keys == before


@pytest.mark.parametrize('kind', KEY)
def test_invalid_cursors_are_refused(playground: Playground, kind: str) -> None:
    playground.reset()
    world = World(playground, 'vrf', random.Random(1))
    for _ in range(5):
        world.add()
    other = playground.ask('search_vrf', {}, {'max_result': 2, 'after': ''})[0]['after']
    bad = ['x', 'é', 7, [], 'W10=', 'WyJ2cmYiLCAxZTMsIDFd', 'WyJwb29sIiwgIlx1ZDgwMCJd', 'WyJ0YWciLCAiXHUwMDAwIl0=']
    for after in [*bad, *([other] if kind != 'vrf' else [])]:
        error = playground.ask(f'search_{kind}', {}, {'max_result': 2, 'after': after})[1]
        assert error is not None
        assert (error.code, error.attribute) == (1200, 'after'), after
    error = playground.ask(f'search_{kind}', {}, {'max_result': 10_001, 'after': ''})[1]
    assert error is not None
    assert error.code == 1200
