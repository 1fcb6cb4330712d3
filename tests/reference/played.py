"""Play the examples of the reference on real databases, over XML-RPC and over REST, and keep request and answer."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import random
import re
import xmlrpc.client
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from words import OPERATORS, READINGS

from nipap import app
from nipap.access import sign_in_rows
from nipap.access.authentication import Authenticator, AuthSettings, BackendSettings
from nipap.access.local_users import LocalUser, LocalUsers
from nipap.access.sign_ins import SignInLog
from nipap.attributes import ASN, POOL, PREFIX, VRF
from nipap.backend import Backend
from nipap.calls import CALLS
from nipap.history.change_order import ChangeSequencer
from nipap.history.past import Builder
from nipap.postgres.database import Database
from nipap.rest.texts import BODIES

Object = dict[str, Any]

USER, READER = ('ann', 'ann-secret'), ('rita', 'rita-secret')
SOURCE = 'reference'
MOMENT = dt.datetime(2026, 1, 31, 12, 0)
MOMENT_TEXT = '2026-01-31T12:00:00Z'
REQUEST = 'a1b2c3d4e5-1'
_MOMENT = re.compile(r'20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)')
KINDS = ('vrf', 'pool', 'prefix', 'asn')
PLURALS = {'vrf': 'vrfs', 'pool': 'pools', 'prefix': 'prefixes', 'asn': 'asns', 'tag': 'tags'}
TABLES = {'vrf': VRF, 'pool': POOL, 'prefix': PREFIX, 'asn': ASN}
LEAST: Mapping[str, Object] = {
    'vrf': {'rt': '65000:9', 'name': 'least'},
    'pool': {'name': 'least', 'description': 'Least', 'default_type': 'assignment'},
    'prefix': {'prefix': '203.0.113.0/24', 'type': 'assignment', 'description': 'Least'},
    'asn': {'asn': 64511},
}
MINE = {'operator': 'equals', 'val1': 'username', 'val2': USER[0]}
INSIDE = {'operator': 'contained_within_equals', 'val1': 'prefix', 'val2': '10.0.0.0/8'}
ALLOCATED = {'description': 'Link to customer 1'}
# PostgreSQL takes minutes for this pattern on this text, and the trial of patterns does not detect it.
SLOW_TEXT = ''.join(random.Random(1).choices('abcdefgh', k=2000)) + '!'
SLOW_PATTERN = r'^(.+)(.+)(.+)\3\2\1!$'


@dataclass(frozen=True)
class Rpc:
    """A call over XML-RPC, and its answer or the code and text of its fault."""

    method: str
    members: Object
    answer: Any = None
    fault: tuple[int, str] | None = None
    remark: str = ''


@dataclass(frozen=True)
class Rest:
    """A request over REST, and its answer."""

    method: str
    path: str
    status: int
    body: Any = None
    answer: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Played:
    """Everything that the pages show."""

    rpc: dict[str, list[Rpc]] = field(default_factory=dict)
    rest: dict[str, list[Rest]] = field(default_factory=dict)
    defaults: dict[str, Object] = field(default_factory=dict)
    faults: dict[int, Rpc | Rest] = field(default_factory=dict)
    operators: dict[str, tuple[Object, list[str]]] = field(default_factory=dict)
    readings: list[tuple[str, Any, list[str]]] = field(default_factory=list)
    options: Object = field(default_factory=dict)


def shown(value: Any) -> Any:
    """Return an answer with one moment in the place of every moment, and one request id in that of every other."""
    if isinstance(value, dt.datetime):
        return MOMENT if value.year < 2100 else value
    if isinstance(value, str):
        return _MOMENT.sub(MOMENT_TEXT, value)
    if isinstance(value, dict):
        return {name: REQUEST if name == 'request_id' and each else shown(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shown(each) for each in value]
    return value


class Site:
    """The application of a daemon on a database."""

    def __init__(self, db: Database, users: Path) -> None:
        local = BackendSettings('local', 'SqliteAuth', {'db_path': str(users)})
        self._db, self._sign_ins = db, SignInLog()
        self.authenticator = Authenticator(AuthSettings('local', 3600, {'local': local}), sign_ins=self._sign_ins)
        self.client: FlaskClient = app.create(Backend(db), self.authenticator).test_client()

    def close(self) -> None:
        self.authenticator.close()

    def build_past(self) -> None:
        """Give positions to all change sets, and build the states of the past."""
        ChangeSequencer().step(self._db)
        builder = Builder()
        while builder.step(self._db):
            pass

    def fail_to_sign_in(self) -> None:
        """Make a call with a wrong password, and write the log of sign-ins."""
        assert self.rpc('version', {}, (USER[0], 'a guess')).fault
        rows = self._sign_ins.take()
        self._db.run(lambda tx: sign_in_rows.write(tx, rows))

    def rpc(self, method: str, members: Object, user: tuple[str, str] | None = USER, auth: Object | None = None) -> Rpc:
        """Make a call over XML-RPC."""
        sent = {'auth': {'authoritative_source': SOURCE}, **members} if auth is None else {**auth, **members}
        body = xmlrpc.client.dumps((sent,), method, allow_none=True).encode()
        headers = {'Content-Type': 'text/xml', **_login(user)}
        with self.client.post('/XMLRPC', data=body, headers=headers) as response:
            data = response.data
        try:
            (answer,), _ = xmlrpc.client.loads(data, use_builtin_types=True)
        except xmlrpc.client.Fault as fault:
            return Rpc(method, members, fault=(fault.faultCode, fault.faultString))
        return Rpc(method, members, shown(answer))

    def call(self, method: str, **members: Any) -> Any:
        """Make a call over XML-RPC that must succeed, and return its answer."""
        made = self.rpc(method, members)
        assert made.fault is None, made
        return made.answer

    def rest(self, method: str, path: str, body: Any = None, **headers: str) -> Rest:
        """Make a request over REST."""
        extra = {name.replace('_', '-'): value for name, value in headers.items()}
        given = {**_login(USER), 'NIPAP-Authoritative-Source': SOURCE, **extra}
        with self.client.open(f'/api/v1{path}', method=method, json=body, headers=given) as response:
            answer = json.loads(response.data) if response.data else None
            return Rest(method, path, response.status_code, body, shown(answer), extra)


def _login(user: tuple[str, str] | None) -> dict[str, str]:
    if user is None:
        return {}
    return {'Authorization': 'Basic ' + base64.b64encode(':'.join(user).encode()).decode()}


def make_users(path: Path) -> Path:
    """Write the accounts of the examples, and return their file."""
    users = LocalUsers(path)
    users.create()
    users.add(LocalUser(USER[0], 'Ann Example', trusted=True), USER[1])
    users.add(LocalUser(READER[0], 'Rita Reader', readonly=True), READER[1])
    return path


def play(first_dsn: str, second_dsn: str, directory: Path) -> Played:
    """Play everything, on two databases with the schema and no rows."""
    played = Played()
    users = make_users(directory / 'users.db')
    with _site(first_dsn, users) as site:
        _play_rpc(site, played)
        _play_searches(site, played)
        _play_faults(site, played, first_dsn, directory)
    with _site(second_dsn, users) as site:
        _play_rest(site, played)
        _play_defaults(site, played)
    return played


@contextlib.contextmanager
def _site(dsn: str, users: Path, **options: Any) -> Iterator[Site]:
    db = Database(dsn, **options)
    site = Site(db, users)
    try:
        yield site
    finally:
        site.close()
        db.close()


def example(call: str, **other: Any) -> Object:
    """Return the members of a call with the examples of its table, about the present.

    `other` replaces or adds members. None removes a member.
    """
    members = {
        member.name: member.example
        for member in CALLS[call].members
        if member.example not in (None, {}) and member.name != 'as_of'
    }
    return {name: value for name, value in {**members, **other}.items() if value is not None}


# ---------------------------------------------------------------- XML-RPC


def _play_rpc(site: Site, played: Played) -> None:
    def show(call: str, **other: Any) -> Any:
        made = site.rpc(call, example(call, **other))
        assert made.fault is None, made
        played.rpc.setdefault(call, []).append(made)
        return made.answer

    show('version')
    show('db_version')
    show('echo', sleep=None)
    for kind in KINDS:
        show(f'add_{kind}', **({'args': None} if kind == 'prefix' else {}))
    site.call('edit_prefix', prefix={'prefix': '10.0.0.0/8'}, attr={'pool_name': 'links'})
    show('find_free_prefix')
    show('add_prefix', attr=ALLOCATED)
    for kind in KINDS:
        show(f'list_{kind}')
        show(f'search_{kind}')
        show(f'smart_search_{kind}')
    site.call('edit_prefix', prefix={'prefix': '10.0.0.0/8'}, attr={'tags': ['core', 'core-net']})
    show('search_tag')
    for kind in ('prefix', 'asn', 'pool', 'vrf'):
        show(f'edit_{kind}', if_version=3 if kind == 'prefix' else 1)
    show('remove_prefix', if_version=4)
    show('list_removed')
    restored = show('restore')['change_set']
    show('undo', change_set=restored)
    show('remove_asn', if_version=2)
    show('remove_pool', if_version=2)
    # The edit before has changed the name only.
    show('remove_vrf', if_version=2)
    site.build_past()
    for call in ('list_asn', 'search_asn'):
        show(call, as_of=restored)
    show('batch')
    show('add_webhook')
    show('list_webhook')
    show('edit_webhook')
    show('list_dead_letter')
    show('resend_dead_letter')
    show('remove_webhook')
    site.fail_to_sign_in()
    show('list_sign_in', since=None, until=None, after=None)
    page = {'max_result': 1}
    show('list_audit')
    show('search_audit', query=INSIDE, search_options=page)
    show('smart_search_audit', query_string='10.0.0.1 action=edit', search_options=page)
    show('list_change_set')
    show('search_change_set', query=MINE, search_options=page)
    show('smart_search_change_set', query_string=f'user={USER[0]}', search_options=page)


# ---------------------------------------------------------------- REST


def _play_rest(site: Site, played: Played) -> None:
    def show(call: str, method: str, path: str, body: Any = None, **headers: str) -> Any:
        made = site.rest(method, path, body, **headers)
        assert made.status < 400, made
        played.rest.setdefault(call, []).append(made)
        return made.answer

    keys = {}
    show('version', 'GET', '/version')
    for kind in KINDS:
        keys[kind] = show(f'add_{kind}', 'POST', f'/{PLURALS[kind]}', BODIES[f'add_{kind}'])[
            'asn' if kind == 'asn' else 'id'
        ]
    site.rest('PATCH', f'/prefixes/{keys["prefix"]}', {'pool_id': keys['pool']})
    show('find_free_prefix', 'GET', f'/pools/{keys["pool"]}/free?family=4')
    show('add_prefix', 'POST', f'/pools/{keys["pool"]}/allocations', {'family': 4, **ALLOCATED})
    for kind in KINDS:
        show(f'list_{kind}', 'GET', f'/{PLURALS[kind]}/{keys[kind]}')
        show(f'search_{kind}', 'POST', f'/{PLURALS[kind]}/search', BODIES[f'search_{kind}'])
        text = example(f'smart_search_{kind}')['query_string']
        show(f'smart_search_{kind}', 'GET', f'/{PLURALS[kind]}?q={text}&limit=10')
    site.rest('PATCH', f'/prefixes/{keys["prefix"]}', {'tags': ['core', 'core-net']})
    show('search_tag', 'POST', '/tags/search', BODIES['search_tag'])
    for kind in ('prefix', 'asn', 'pool', 'vrf'):
        show(f'edit_{kind}', 'PATCH', f'/{PLURALS[kind]}/{keys[kind]}', BODIES[f'edit_{kind}'])
    for kind in ('prefix', 'asn', 'pool', 'vrf'):
        show(f'remove_{kind}', 'DELETE', f'/{PLURALS[kind]}/{keys[kind]}')
    show('batch', 'POST', '/batch', BODIES['batch'])
    show('list_removed', 'GET', '/removed?kind=vrf&limit=1')
    restored = show('restore', 'POST', f'/vrfs/{keys["vrf"]}/restore')['change_set']
    show('undo', 'POST', f'/changes/{restored}/undo')
    hook = show('add_webhook', 'POST', '/webhooks', BODIES['add_webhook'])['id']
    show('list_webhook', 'GET', f'/webhooks/{hook}')
    show('edit_webhook', 'PATCH', f'/webhooks/{hook}', BODIES['edit_webhook'])
    show('list_dead_letter', 'GET', f'/webhooks/{hook}/dead-letters')
    show('resend_dead_letter', 'POST', f'/webhooks/{hook}/dead-letters/resend', {})
    show('remove_webhook', 'DELETE', f'/webhooks/{hook}')
    site.fail_to_sign_in()
    show('list_sign_in', 'GET', '/sign-ins?outcome=wrong_password&limit=50')
    show('list_audit', 'GET', f'/vrfs/{keys["vrf"]}/history?limit=1')
    show('search_audit', 'POST', '/audit/search?limit=1', {'query': INSIDE})
    show('smart_search_audit', 'GET', '/audit?q=10.0.0.1+action=edit&limit=1')
    show('list_change_set', 'GET', f'/changes/{restored}')
    show('search_change_set', 'POST', '/changes/search?limit=1', {'query': MINE})
    show('smart_search_change_set', 'GET', f'/changes?q=user={USER[0]}&limit=1')


def _play_defaults(site: Site, played: Played) -> None:
    """Read the defaults from objects that were added with as few members as possible."""
    for kind in KINDS:
        added = site.rest('POST', f'/{PLURALS[kind]}', LEAST[kind]).answer
        names = [name for name, attribute in TABLES[kind].items() if attribute.writable and name not in LEAST[kind]]
        played.defaults[kind] = {name: added[name] for name in names}


# ---------------------------------------------------------------- searches

_NETWORKS: list[Object] = [
    {'prefix': '192.0.2.0/24', 'type': 'reservation', 'description': 'Links', 'tags': ['core'], 'country': 'SE'},
    {'prefix': '192.0.2.0/30', 'type': 'assignment', 'description': 'Link to customer 1', 'vlan': 42},
    {'prefix': '192.0.2.1/32', 'type': 'host', 'node': 'r1.example.net', 'avps': {'mac': '00:53:00:aa:bb:01'}},
    {'prefix': '198.51.100.0/24', 'type': 'assignment', 'description': 'Office in Malmö', 'status': 'quarantine'},
    {'prefix': '2001:db8::/32', 'type': 'reservation', 'description': 'Six', 'vrf_rt': '65000:7', 'vlan': 7},
]


def _play_searches(site: Site, played: Played) -> None:
    site.call('add_vrf', attr={'rt': '65000:7', 'name': 'guests'})
    for (prefix,) in [(each['prefix'],) for each in site.call('list_prefix', prefix={})]:
        site.call('remove_prefix', prefix={'prefix': prefix})
    for attr in _NETWORKS:
        site.call('add_prefix', attr=attr)

    def named(answer: Any) -> list[str]:
        return [each['prefix'] for each in answer['result']]

    for name, operator in OPERATORS.items():
        query = {'operator': name, 'val1': operator.val1, 'val2': operator.val2}
        played.operators[name] = query, named(site.call('search_prefix', query=query))
    for text in READINGS:
        answer = site.call('smart_search_prefix', query_string=text)
        played.readings.append((text, answer['interpretation'], named(answer)))
    played.options = site.call('search_prefix', query={}, search_options={'after': ''})['search_options']


# ---------------------------------------------------------------- faults


def _play_faults(site: Site, played: Played, dsn: str, directory: Path) -> None:
    def show(made: Rpc | Rest, code: int) -> None:
        found = made.answer['code'] if isinstance(made, Rest) else (made.fault or (0, ''))[0]
        assert found == code, made
        played.faults[code] = made

    link = {'prefix': '192.0.2.0/24', 'type': 'reservation', 'description': 'Links'}
    show(site.rpc('version', {}, auth={}), 1000)
    show(site.rpc('edit_asn', {'asn': {'asn': 64500}, 'attr': {}}), 1100)
    show(site.rpc('add_asn', {'attr': {'name': 'Example'}}), 1110)
    show(site.rpc('add_asn', {'attr': {'asn': 64500, 'colour': 'red'}}), 1120)
    query = {'operator': 'equals_about', 'val1': 'vlan', 'val2': 42}
    show(site.rpc('search_prefix', {'query': query}), 1130)
    show(site.rpc('add_prefix', {'attr': {**link, 'prefix': '192.0.2.0/33'}}), 1200)
    show(site.rpc('remove_prefix', {'prefix': {'id': 1_000_000}}), 1300)
    show(site.rpc('list_prefix', {'as_of': '2001-01-01'}), 1310)
    show(site.rpc('add_prefix', {'attr': link}), 1400)
    key = {'idempotency_key': 'order-4711'}
    site.call('add_asn', attr={'asn': 64505}, **key)
    show(site.rpc('add_asn', {'attr': {'asn': 64506}, **key}), 1410)
    show(site.rpc('version', {}, user=None), 1500)
    show(site.rpc('version', {}, user=(USER[0], 'wrong')), 1510)
    show(site.rpc('add_asn', {'attr': {'asn': 64507}}, user=READER), 1520)
    show(site.rest('PATCH', '/asns/64505', {'name': 'Example'}, If_Match='"former"'), 1600)
    show(site.rpc('edit_asn', {'asn': {'asn': 64505}, 'attr': {'name': 'Example'}, 'plan': 'o3AHli0N'}), 1220)
    site.call('remove_asn', asn={'asn': 64505})
    number = site.call('list_removed')['result'][0]['change_set']
    site.call('undo', change_set=number)
    show(site.rpc('undo', {'change_set': number}), 1620)
    with _site(dsn, directory / 'users.db', read_timeout_s=0.3) as hasty:
        hasty.call('edit_prefix', prefix={'prefix': '198.51.100.0/24'}, attr={'description': SLOW_TEXT})
        query = {'operator': 'regex_match', 'val1': 'description', 'val2': SLOW_PATTERN}
        show(hasty.rpc('search_prefix', {'query': query}), 1210)
    missing = directory / 'no accounts'
    missing.write_text('no database')
    with _site(dsn, missing) as closed:
        show(closed.rpc('version', {}), 1010)
