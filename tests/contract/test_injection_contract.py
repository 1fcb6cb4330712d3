"""No text of a client becomes SQL: no name, no operator, no value, over any face."""

from __future__ import annotations

import ipaddress
import time
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from contract_faces import SOURCE, USERS, BackendFace, Face, XmlRpcFace, basic
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import facts

from nipap.access.authentication import Authenticator
from nipap.attributes import ASN, POOL, PREFIX, TAG, VRF
from nipap.backend import Backend
from nipap.calls import CALLS
from nipap.errors import NipapError
from nipap.history.change_order import ChangeSequencer
from nipap.history.past import Builder
from nipap.postgres.database import Database
from nipap.rest import api as flask_rest

pytestmark = pytest.mark.slow

KNOWN_CODES = {1000, 1100, 1110, 1120, 1130, 1200, 1210, 1220, 1300, 1310, 1400, 1410, 1600, 1620}
SLEPT_S = 9
PLURALS = {'vrfs': 'vrf', 'pools': 'pool', 'prefixes': 'prefix', 'asns': 'asn'}
TABLES = {'vrf': VRF, 'pool': POOL, 'asn': ASN, 'prefix': PREFIX, 'tag': TAG}
CHANGING = {name for name, call in CALLS.items() if call.changes}

# Everything beside the rows: relations with their columns, functions, triggers, constraints, rights and settings.
SCHEMA = """
SELECT 'column', format('%s %s %s', attrelid::regclass, attname, atttypid) FROM pg_attribute
    WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
UNION ALL SELECT 'function', oid::regprocedure || md5(prosrc) FROM pg_proc
    WHERE pronamespace::regnamespace::text LIKE 'public%'
UNION ALL SELECT 'trigger', tgrelid::regclass || ' ' || tgname FROM pg_trigger
UNION ALL SELECT 'constraint', conrelid::regclass || ' ' || conname FROM pg_constraint
UNION ALL SELECT 'role', rolname FROM pg_roles
UNION ALL SELECT 'schema', nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
ORDER BY 1, 2
"""

ATTACKS = (
    *("'", "''", '"', '""', '\\', "\\'", "\\'; --", '`', '$$', '$1', '%', '%%', '%s', '%(x)s', '%(id)s', '{}', '{0}'),
    *('{{', '{name.__class__}', ';--', '/*', '*/', '--', "'; DROP TABLE prefix; --", '"; DROP TABLE prefix; --'),
    *("'||pg_sleep(9)||'", "1'; SELECT pg_sleep(9); --", '1; SELECT pg_sleep(9)', 'pg_sleep(9)', '(SELECT 1)'),
    *("1 OR 1=1", "' OR '1'='1", "') OR ('1'='1", "' UNION SELECT rolpassword FROM pg_authid --", 'p.id', 'v.name'),
    *("id) OR (1=1", 'id; DELETE FROM prefix', "avps.'", "avps.k' ? 'x", 'avps.%s', 'avps.{}', 'avps.\x00', 'avps.$1'),
    *('\x00', 'a\x00b', '\x1b[2J', '\u202e', '😀', '\U0010ffff', '\ufffe', '\r\n', "\N{FULLWIDTH APOSTROPHE}"),
    *('x' * 1000, "'" * 1000, '(' * 500, '(a+)+$', '[', 'a{1000}', '\\1', '(?i', '***=', '***:', '{,}'),
    *('{"', '{NULL}', '\\x00', 'NULL', 'DEFAULT', 'ctid', '__class__', '10.0.0.0/8', '10.0.0.0/8; --', "1:1'", 'now()'),
)  # fmt: skip
OPERATORS = (
    *('equals', '=', 'not_equals', '!=', 'less', '<', 'greater_or_equal', 'like', 'regex_match', 'regex_not_match'),
    *('~', '!~*', 'contains', 'contained_within', 'contained_within_equals', 'equals_any', 'is', 'is_not'),
)


def attack(number: int) -> str:
    return ATTACKS[number]


attacks = st.integers(0, len(ATTACKS) - 1).map(attack)  # by number, since Hypothesis writes out the choices
hostile = st.one_of(attacks, st.text(max_size=20), st.tuples(attacks, attacks).map(''.join))
numbers = st.sampled_from([0, 1, 2, 24, 64, -1, 2**31 - 1])
scalars = st.one_of(hostile, hostile, hostile, numbers, st.none(), st.booleans())
values = st.one_of(*[scalars] * 3, st.lists(scalars, max_size=3), st.dictionaries(hostile, scalars, max_size=2))


def named(kind: str) -> st.SearchStrategy[str]:
    """Return a strategy for names of attributes, some of them invalid, and names of pairs."""
    known = st.sampled_from(sorted(TABLES[kind]))
    return st.one_of(known, known, known, hostile, hostile.map('avps.{}'.format))


def attributes(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    writable = {name: attribute for name, attribute in TABLES[kind].items() if attribute.writable}
    sound = st.fixed_dictionaries(
        {
            name: value
            for name, value in {
                'name': hostile,
                'rt': st.sampled_from(('2:2', '3:3', "4:4'")),
                'asn': numbers,
                'prefix': st.sampled_from(('10.0.1.0/24', '10.0.0.9/32', "10.0.2.0/24'")),
                'type': st.sampled_from(('assignment', 'host', "host'")),
                'description': hostile,
                'default_type': st.sampled_from(('assignment', "host'")),
            }.items()
            if name in writable
        },
        optional={
            'tags': st.lists(hostile, max_size=3),
            'avps': st.dictionaries(hostile, hostile, max_size=3),
            'comment': hostile,
        },
    )
    return st.one_of(sound, sound, st.dictionaries(named(kind), values, max_size=4))


def queries(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    operators = st.sampled_from(OPERATORS)
    comparison = st.fixed_dictionaries(
        {'operator': st.one_of(operators, operators, hostile), 'val1': named(kind), 'val2': values}
    )
    return st.recursive(
        comparison,
        lambda inner: st.fixed_dictionaries({'operator': st.sampled_from(('and', 'or')), 'val1': inner, 'val2': inner}),
        max_leaves=3,
    )


def options() -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(('max_result', 'offset', 'after', 'parents_depth', 'children_depth', 'parent_prefix'))
    return st.dictionaries(st.one_of(names, names, hostile), scalars, max_size=3)


def allocations() -> st.SearchStrategy[dict[str, Any]]:
    source = st.one_of(st.fixed_dictionaries({'name': st.one_of(st.just('p'), hostile)}), values)
    return st.fixed_dictionaries(
        {}, optional={'from-pool': source, 'from-prefix': st.lists(hostile, max_size=2), 'family': scalars,
                      'prefix_length': scalars, 'count': scalars},
    )  # fmt: skip


def texts(kind: str, fewest: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for at most one attribute that may hold any text."""
    names = [name for name in ('description', 'comment', 'name') if name in TABLES[kind]]
    return st.dictionaries(st.sampled_from(names), hostile, min_size=fewest, max_size=1)


def specs(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for specs: anything, a text alone, or a text beside an existing key."""
    there = {'vrf': {'rt': '1:1'}, 'pool': {'name': 'p'}, 'asn': {'asn': 1}, 'prefix': {'prefix': '10.0.0.0/24'}}
    known = texts(kind).map(lambda text: {**text, **there.get(kind, {})})
    return st.one_of(st.dictionaries(named(kind), values, max_size=2), texts(kind, 1), known)


def member(name: str, kind: str) -> st.SearchStrategy[Any]:
    """Return a strategy for a member of a call about this kind of object."""
    known: dict[str, Any] = {
        'attr': attributes(kind),
        'query': queries(kind),
        'extra_query': st.one_of(st.none(), queries(kind)),
        'search_options': options(),
        'query_string': st.lists(st.one_of(hostile, named(kind).map('{}='.format)), max_size=4).map(' '.join),
        'args': st.one_of(st.none(), allocations()),
        'recursive': st.one_of(st.booleans(), values),
        'sleep': st.just(None),  # a number would make the call sleep
        'message': values,
        'if_version': st.one_of(st.none(), st.none(), numbers, values),
        'partial': st.one_of(st.booleans(), values),
        'operations': st.lists(st.one_of(operations(), values), max_size=2),
        **dict.fromkeys(('vrf', 'pool', 'asn', 'prefix'), specs(kind)),
    }
    return known.get(name, values)


def kind_of(method: str) -> str:
    last = method.rpartition('_')[2]
    return last if last in TABLES else 'prefix'


def members_of(method: str) -> st.SearchStrategy[dict[str, Any]]:
    known = {name: member(name, kind_of(method)) for name in (member.name for member in CALLS[method].members)}
    if method.startswith('edit_'):
        known['attr'] = st.one_of(known['attr'], texts(kind_of(method), 1))
    return st.fixed_dictionaries(known)


def operations() -> st.SearchStrategy[dict[str, Any]]:
    methods = st.sampled_from(sorted(set(CALLS) - {'batch', 'echo'}))
    return methods.flatmap(
        lambda method: st.fixed_dictionaries({'method': st.just(method), 'args': members_of(method)})
    )


def fill(face: Face) -> None:
    """Add an object of each kind, unless it exists."""
    pool = {'name': 'p', 'description': 'p', 'default_type': 'assignment', 'ipv4_default_prefix_length': 26}
    block = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd', 'pool_name': 'p'}
    inside = {'prefix': '10.0.0.0/24', 'type': 'assignment', 'description': 'd', 'avps': {'k': 'x'}, 'tags': ['t']}
    for kind, attr in (
        ('vrf', {'rt': '1:1', 'name': 'v'}), ('pool', pool), ('prefix', block), ('prefix', inside),
        ('asn', {'asn': 1, 'name': 'x'}),
    ):  # fmt: skip
        face.outcome(f'add_{kind}', attr=attr)


@pytest.fixture
def faces(backend_face: BackendFace, xmlrpc_face: XmlRpcFace, db: Database) -> tuple[Face, Face]:
    """Return both faces on one database with an object of each kind, for a user with all rights.

    The states of the past are built.
    """
    fill(backend_face)
    trusted = backend_face.as_user('gateway'), xmlrpc_face.as_user('gateway')
    trusted[0].call('add_webhook', attr={'url': 'http://127.0.0.1:1/', 'secret': 's' * 16, 'enabled': False})
    ChangeSequencer().step(db)
    builder = Builder()
    while builder.step(db):
        pass
    return trusted


def schema_of(db: Database) -> list[tuple[Any, ...]]:
    return db.run(lambda tx: tx.all(SCHEMA))


AUDITED = """SELECT id, object_type, object_id, username, authoritative_source FROM audit_log
    WHERE id > %s AND action <> 'add' ORDER BY id"""


def last_entry(db: Database) -> int:
    return int(db.read(lambda tx: tx.value('SELECT coalesce(max(id), 0) FROM audit_log')))


def may_hit(face: Face, method: str, members: dict[str, Any]) -> set[int]:
    """Return the ids of the objects that a call may change.

    They are listed by the specification and match its texts without regard to case. A recursive removal also changes
    the prefixes inside.
    """
    kind = kind_of(method)
    every = face.call(f'list_{kind}', **{kind: {}})
    listed = face.outcome(f'list_{kind}', **{kind: members[kind]})
    if isinstance(listed, tuple):
        return set()
    key = 'asn' if kind == 'asn' else 'id'
    ids = {int(row[key]) for row in listed}
    texts = {
        name: value
        for name, value in members[kind].items()
        if name in TABLES[kind] and TABLES[kind][name].kind == 'text' and isinstance(value, str)
    }
    named = [row for row in every if all(str(row[name]).casefold() == texts[name].casefold() for name in texts)]
    hit = {int(row[key]) for row in named} & ids
    if kind == 'prefix' and members.get('recursive'):
        blocks = [ipaddress.ip_network(row['prefix']) for row in every if row['id'] in hit]
        hit |= {row['id'] for row in every for block in blocks if is_inside(row['prefix'], block)}
    return hit


def is_inside(prefix: str, block: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    network: Any = ipaddress.ip_network(prefix)
    return network.version == block.version and bool(network.subnet_of(block))


auths = st.fixed_dictionaries(
    {}, optional={'username': hostile, 'full_name': hostile, 'authoritative_source': hostile}
)  # fmt: skip
keys = st.one_of(st.none(), st.none(), st.text('abc', min_size=1, max_size=2), hostile, values)


@pytest.mark.parametrize('method', sorted(CALLS))
def test_nothing_sent_becomes_sql(faces: tuple[Face, Face], db: Database, method: str) -> None:
    schema = schema_of(db)
    by_spec = method.partition('_')[0] in ('edit', 'remove') and method.rpartition('_')[2] in TABLES

    @settings(max_examples=50 if by_spec else 25, suppress_health_check=list(HealthCheck))
    @given(members=members_of(method), over=st.sampled_from((0, 1)), auth=auths, key=keys)
    def every_call(members: dict[str, Any], over: int, auth: dict[str, str], key: Any) -> None:
        if by_spec:
            fill(faces[0])
        allowed = may_hit(faces[0], method, members) if by_spec else set()
        before, began, last = facts(db), time.monotonic(), last_entry(db)
        try:
            answer = faces[over].as_user('gateway', **auth).outcome(method, **members, idempotency_key=key)
        except NipapError as refused:  # the actor of the backend's face cannot be made
            answer = refused.code, str(refused)
        assert time.monotonic() - began < SLEPT_S
        if isinstance(answer, tuple):
            code, text = answer
            assert code in KNOWN_CODES, answer
            assert 'Internal error' not in text
        if method not in CHANGING or isinstance(answer, tuple):
            assert facts(db) == before
        entries = db.read(lambda tx: tx.all(AUDITED, (last,)))
        for _, kind, number, username, source in entries:
            assert number in allowed or not by_spec or kind != kind_of(method), members
            assert username == (auth.get('username') or 'gateway')
            assert source == auth.get('authoritative_source', SOURCE)

    every_call()
    assert schema_of(db) == schema


# ---- over REST: paths, parameters, headers and bodies

segments = st.one_of(*[st.sampled_from(('1', '2', '0'))] * 3, hostile)
parameter = st.one_of(
    st.tuples(st.sampled_from(('q', 'limit', 'after', 'fields', 'children_depth', 'parent_prefix', 'family')), hostile),
    st.tuples(named('prefix'), hostile),
)
headers = st.dictionaries(
    st.sampled_from(('If-Match', 'If-None-Match', 'Idempotency-Key', 'NIPAP-Username', 'NIPAP-Authoritative-Source')),
    hostile.map(lambda text: ''.join(c for c in text if ' ' <= c <= '~')),
    max_size=2,
)
STATUSES = {200, 201, 204, 304, 400, 403, 404, 405, 409, 412, 413, 415, 422, 428}


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, Any]:
    """Draw method, path and body."""
    plural, kind = draw(st.sampled_from(sorted(PLURALS.items())))
    one = f'/{plural}/{quote(draw(segments), safe="")}'
    queries_ = st.fixed_dictionaries({'query': queries(kind)})
    method, path, bodies = draw(
        st.sampled_from(
            (
                ('GET', f'/{plural}', st.none()),
                ('GET', '/tags', st.none()),
                ('POST', f'/{plural}', attributes(kind)),
                ('POST', f'/{plural}/search', queries_),
                ('POST', '/batch', st.fixed_dictionaries({'operations': member('operations', kind)})),
                ('GET', one, st.none()),
                ('PATCH', one, st.one_of(texts(kind, 1), attributes(kind))),
                ('DELETE', one, st.none()),
                ('GET', f'{one}/free', st.none()),
                ('POST', f'{one}/allocations', st.one_of(allocations(), attributes(kind))),
            )
        )
    )
    given_ = draw(st.lists(parameter, max_size=2))
    return method, f'/api/v1{path}?{urlencode(given_, errors="replace")}', draw(bodies)


def test_nothing_in_a_request_becomes_sql(
    faces: tuple[Face, Face], backend: Backend, db: Database, authenticator: Authenticator
) -> None:
    app = Flask('test', static_folder=None)
    flask_rest.add_to(app, backend, authenticator)
    client, schema = app.test_client(), schema_of(db)
    login = {'Authorization': basic('gateway', USERS['gateway'][0])}

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(request=requests(), headers=headers)
    def every_request(request: tuple[str, str, Any], headers: dict[str, str]) -> None:
        method, path, body = request
        if method in ('PATCH', 'DELETE'):
            fill(faces[0])
        before, began, last = facts(db), time.monotonic(), last_entry(db)
        with client.open(path, method=method, json=body, headers=headers | login) as answer:
            assert answer.status_code in STATUSES, (request, answer.data)
            assert b'Internal error' not in answer.data
        assert time.monotonic() - began < SLEPT_S
        if method == 'GET' or answer.status_code >= 400 or '/search?' in path:
            changed = [set(now) ^ set(then) for now, then in zip(facts(db), before, strict=True)]
            assert not any(changed), (request, headers, answer.status_code)
        if method in ('PATCH', 'DELETE'):
            entries = db.read(lambda tx: tx.all(AUDITED, (last,)))
            kind, number = path.removeprefix('/api/v1/').partition('?')[0].split('/', 1)
            hit = {entry[2] for entry in entries if entry[1] == PLURALS[kind]}
            assert hit <= {int(number) if number.isdecimal() else None} or 'recursive' in path

    every_request()
    assert schema_of(db) == schema


def test_an_endless_pattern_is_refused(faces: tuple[Face, Face]) -> None:
    for pattern in ('x' * 100_000, '(a+)+$' * 10_000, '[' * 100_000, '\\m' * 50_000):
        query = {'operator': '~*', 'val1': 'description', 'val2': pattern}
        for face in faces:
            began = time.monotonic()
            fault = face.fault('search_prefix', query=query)
            assert fault.code == 1200
            assert fault.text.startswith(f'Invalid regular expression of {len(pattern)} characters')
            answer = face.call('smart_search_prefix', query_string=f'"{pattern}"')
            assert answer['interpretation']['interpretation']['error_message'] == 'too long'
            assert time.monotonic() - began < SLEPT_S / 3, pattern[:20]
