"""Every argument of every method, with extreme values: a result, or a fault that changes nothing."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from contract_faces import Fault, XmlRpcFace
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import facts

from nipap.attributes import ASN, POOL, PREFIX, TAG, VRF, Attribute
from nipap.calls import CALLS
from nipap.history.change_order import ChangeSequencer
from nipap.history.past import Builder
from nipap.postgres.database import Database
from nipap.xmlrpc import codec as wire

pytestmark = pytest.mark.slow

OF_CODE_1000 = 'must be NULL for VRF id 0'  # recorded with the code of errors that have none of their own
KNOWN_CODES = {1100, 1110, 1120, 1130, 1200, 1210, 1220, 1300, 1310, 1400, 1600, 1620}
TABLES = {'vrf': VRF, 'pool': POOL, 'asn': ASN, 'prefix': PREFIX, 'tag': TAG}

NUMBERS = (
    0,
    1,
    -1,
    2**31 - 1,
    2**31,
    -(2**31) - 1,
    2**32,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    2**64,
    2**255 - 1,
    -(2**255),
)
DOUBLES = ('1.5', '-0', '1e308', '-1e308', '1e-320', 'NaN', 'Infinity', '-INF', '1e999', '9' * 300)
TEXTS = (
    *('', ' ', '\t\n', '\r', '0', '-0', '+1', '1e5', '0x1F', '１２', '9' * 61, '9' * 5000, '-' + '9' * 5000, '1_000'),
    *('x' * 100_000, '\u0301' * 5000, '\U0010ffff', '\u202e', 'ſ', 'İ', 'ß', '\u2028', '\x85', '\ufeff'),
    *('never', '0001-01-01', '9999-12-31T23:59:59-23:59', '0001-01-01T00:00:00+23:59', '24:00', '2030-W01-1'),
    *('9999 years', '999999999999999999 days', 'ago ' * 25, '1.' * 5000, '١٠.٠.٠.٠/٨'),
    *('0.0.0.0/0', '10.0.0.1/8', '10.0.0.0/33', '10.0.0.0/-1', '010.0.0.0/8', '::/0', '::/129', '::1/0'),
    *('::ffff:10.0.0.0/104', 'fe80::1%eth0', '10.0.0.0/255.0.0.0', '10.0.0.0/8/8', ':' * 5000, '4294967295:4294967296'),
)  # fmt: skip
BYTES = ('&#0;', '\x00', '&#1;', '\x01', '&#xD800;', '&#xFFFE;', '\ufffe', '\x7f', '&#x110000;')
DATES = ('00010101T00:00:00', '99991231T23:59:59', '00000101T00:00:00', '20300230T00:00:00', '20300101T25:00:00', '')


class Raw(str):
    """A <value> exactly as it is sent."""


def raw(kind: str) -> Any:
    return lambda text: Raw(f'<value><{kind}>{text}</{kind}></value>')


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS).map(lambda number: raw('biginteger')(number)),
    st.sampled_from(NUMBERS).map(lambda number: raw('i8')(number)),
    st.sampled_from(DOUBLES).map(raw('double')),
    st.sampled_from(TEXTS),
    st.sampled_from(BYTES).map(raw('string')),
    st.sampled_from(DATES).map(raw('dateTime.iso8601')),
    st.sampled_from([b'', b'\0\xff', dt.datetime.max.replace(tzinfo=dt.UTC)]),
    st.text(max_size=8),
)
EMPTY: tuple[Any, ...] = ({}, [], '', [{}], [[]], [None], {'': ''}, {'': {}})
values = st.one_of(
    *[scalars] * 4,
    st.sampled_from(EMPTY),
    st.lists(scalars, max_size=3),
    st.dictionaries(st.one_of(st.sampled_from(TEXTS), st.text(max_size=4)), scalars, max_size=2),
    st.sampled_from((10, 150, 250, 5000)).map(
        lambda depth: Raw('<value><array><data>' * depth + '<value/>' + '</data></array></value>' * depth)
    ),
)


def kind_of(method: str) -> str:
    last = method.rpartition('_')[2]
    return last if last in TABLES else 'prefix'


def sound(attribute: Attribute) -> Any:
    """Return a valid value of an attribute."""
    by_name = {'prefix': '10.0.0.128/25', 'type': 'assignment', 'rt': '2:2', 'vrf_rt': None, 'vrf_id': 0, 'asn': 7}
    by_kind = {
        'text': 'x',
        'integer': 1,
        'boolean': True,
        'tags': ['t'],
        'avps': {'k': 'v'},
        'expires': 'never',
        'rt': '2:2',
    }
    chosen = attribute.choices[0] if attribute.choices else None
    return by_name.get(attribute.name, by_kind.get(attribute.kind, chosen))


@st.composite
def attributes(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """Draw all mandatory attributes, and one or two attributes with a senseless value."""
    table = TABLES[kind]
    needed = {'vrf': ('rt', 'name'), 'pool': ('name', 'default_type'), 'asn': ('asn', 'name'), 'tag': ()}
    made = {name: sound(table[name]) for name in needed.get(kind, ('prefix', 'type', 'description'))}
    if kind == 'pool':
        made['description'] = 'd'
    names = st.sampled_from(sorted(table))
    return made | draw(st.dictionaries(names, values, min_size=1, max_size=2))


@st.composite
def queries(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    operators = st.sampled_from(
        ('=', '!=', '<', '>=', 'like', '~', '!~*', 'contains', '<<=', 'equals_any', 'is', 'is_not')
    )
    leaf = {'operator': draw(operators), 'val1': draw(st.sampled_from((*TABLES[kind], 'avps.k'))), 'val2': draw(values)}
    if draw(st.booleans()):
        return leaf
    joined = {
        'operator': draw(st.sampled_from(('and', 'or'))),
        'val1': leaf,
        'val2': draw(st.one_of(st.just({}), values)),
    }
    if draw(st.integers(0, 4)) == 4:
        del joined[draw(st.sampled_from(sorted(joined)))]
    return joined


OPTIONS = (
    *('max_result', 'offset', 'after', 'parents_depth', 'children_depth', 'parent_prefix'),
    *('include_all_parents', 'include_all_children', 'include_neighbors'),
)
allocations = st.one_of(
    st.fixed_dictionaries({'from-pool': st.just({'name': 'p'}), 'family': values}, optional={'prefix_length': values}),
    st.fixed_dictionaries({'from-prefix': values, 'prefix_length': scalars}, optional={'count': values}),
    st.fixed_dictionaries({'from-prefix': st.just(['10.0.0.0/8']), 'prefix_length': scalars, 'count': scalars}),
)


@st.composite
def members(draw: st.DrawFn, method: str) -> dict[str, Any]:
    kind = kind_of(method)
    spec = st.dictionaries(st.sampled_from(sorted(TABLES[kind])), values, min_size=1, max_size=1)
    likely: dict[str, st.SearchStrategy[Any]] = {
        'attr': attributes(kind),
        'query': queries(kind),
        'extra_query': st.one_of(st.none(), queries(kind)),
        'search_options': st.dictionaries(st.sampled_from(OPTIONS), values, max_size=2),
        'query_string': st.one_of(st.sampled_from(TEXTS), st.text(max_size=12)),
        'args': st.one_of(st.none(), allocations),
        'sleep': st.just(None),  # a number would make the call sleep
        'if_version': st.sampled_from((None, None, 1, 2)),
        'partial': st.booleans(),
        'operations': st.lists(operations(), max_size=2),
        **dict.fromkeys(('vrf', 'pool', 'asn', 'prefix', 'webhook'), spec),
    }
    names = [member.name for member in CALLS[method].members]
    given_ = {name: draw(likely.get(name, values)) for name in names}
    odd = draw(st.sampled_from((None, None, None, *names)))
    if odd is not None and odd != 'sleep':
        given_[odd] = draw(values)
    if draw(st.integers(0, 7)) == 7:
        given_['idempotency_key'] = draw(values)
    return given_


def operations() -> st.SearchStrategy[Any]:
    methods = st.sampled_from(sorted(set(CALLS) - {'batch', 'echo'}))
    return methods.flatmap(
        lambda method: st.fixed_dictionaries({'method': st.just(method), 'args': st.deferred(lambda: members(method))})
    )


def marshalled(value: Any) -> str:
    """Return a <value> that sends raw values, and characters that XML forbids, unchanged."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        inner = ''.join(
            f'<member><name>{_text(name)}</name>{marshalled(item)}</member>' for name, item in value.items()
        )
        return f'<value><struct>{inner}</struct></value>'
    if isinstance(value, list):
        return f'<value><array><data>{"".join(map(marshalled, value))}</data></array></value>'
    return f'<value><string>{_text(value)}</string></value>' if isinstance(value, str) else wire.encode_value(value)


def _text(text: str) -> str:
    return text.replace('&', '&amp;').replace('<', '&lt;')


@pytest.fixture
def stocked(xmlrpc_face: XmlRpcFace, db: Database) -> XmlRpcFace:
    """Return the face of a trusted user, after adding an object of each kind for arguments to hit.

    The states of the past are built.
    """
    xmlrpc_face.add_vrf('1:1', 'v')
    xmlrpc_face.add_pool('p', ipv4_default_prefix_length=26)
    xmlrpc_face.add_prefix('10.0.0.0/8', pool_name='p')
    xmlrpc_face.add_prefix('10.0.0.0/24', 'reservation', avps={'k': 'x'}, tags=['t'])
    xmlrpc_face.add_prefix('2001:db8::/32')
    xmlrpc_face.call('add_asn', attr={'asn': 1, 'name': 'x'})
    trusted = xmlrpc_face.as_user('gateway')  # this user has all rights
    trusted.call('add_webhook', attr={'url': 'http://127.0.0.1:1/', 'secret': 's' * 16, 'enabled': False})
    ChangeSequencer().step(db)
    builder = Builder()
    while builder.step(db):
        pass
    return trusted


@pytest.mark.parametrize('method', sorted(CALLS))
def test_a_fault_of_the_contract_changes_nothing(stocked: XmlRpcFace, db: Database, method: str) -> None:

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @example(arguments={'query': {'operator': 'and', 'val1': 'x'}})
    @example(arguments={'vrf': {'rt': None}, 'attr': {'rt': '2:2'}})
    @given(arguments=members(method))
    def every_call(arguments: dict[str, Any]) -> None:
        before = facts(db)
        sent = marshalled({'auth': {'authoritative_source': 't'}, **arguments})
        body = f'<methodCall><methodName>{method}</methodName><params><param>{sent}</param></params></methodCall>'
        try:
            stocked.send_body(body.encode('utf-8', 'surrogatepass'))
            return
        except Fault as told:
            fault = told
        assert fault.code in KNOWN_CODES or OF_CODE_1000 in str(fault), fault
        assert facts(db) == before

    every_call()
