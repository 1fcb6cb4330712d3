"""The state of the past: each call that reads objects answers with `as_of` as it answered then, over every face."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from xmlrpc.client import dumps

import pytest
from contract_faces import USERS, Face, XmlRpcFace, basic
from contract_rest import RestFace, rest_application
from databases import Standing
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from nipap.access.authentication import Authenticator
from nipap.calls import CALLS
from nipap.history import past
from nipap.history.change_order import ChangeSequencer
from nipap.postgres.database import Database
from nipap.rest.routes import ROUTES

Object = dict[str, Any]
Ids = Mapping[str, int]

BY_NAME = {'operator': 'regex_match', 'val1': 'name', 'val2': '.'}
OFFICE = {'operator': 'equals', 'val1': 'name', 'val2': 'office'}
IN_NET = {'operator': 'contained_within_equals', 'val1': 'prefix', 'val2': '192.0.2.0/24'}

#: The calls with `as_of`, each with members whose answer differs between `begin` and `go_on`.
SHOWN: Mapping[str, Callable[[Ids], Object]] = {
    'list_vrf': lambda ids: {'vrf': {'id': ids['vrf']}},
    'search_vrf': lambda _: {'query': BY_NAME},
    'smart_search_vrf': lambda _: {'query_string': 'blue'},
    'list_pool': lambda ids: {'pool': {'id': ids['pool']}},
    'search_pool': lambda _: {'query': BY_NAME},
    'smart_search_pool': lambda _: {'query_string': 'links'},
    'list_asn': lambda _: {'asn': {'asn': 64500}},
    'search_asn': lambda _: {'query': BY_NAME},
    'smart_search_asn': lambda _: {'query_string': 'Example'},
    'list_prefix': lambda ids: {'prefix': {'id': ids['customer']}},
    'search_prefix': lambda _: {'query': IN_NET, 'search_options': {'include_all_parents': True}},
    'smart_search_prefix': lambda _: {'query_string': '192.0.2.7'},
    'find_free_prefix': lambda ids: {'vrf': {}, 'args': {'from-pool': {'id': ids['pool']}, 'family': 4, 'count': 2}},
    'search_tag': lambda _: {'query': OFFICE},
}

CHANGE = 'it changes the present'
LOG = 'it reads the log, which is the past'
NO_HISTORY = 'the history has no states of these rows'
DAEMON = 'it reads nothing but the daemon'
#: The calls without `as_of`, each with the reason.
REFUSED: Mapping[str, str] = {
    **{
        f'{verb}_{kind}': CHANGE
        for verb in ('add', 'edit', 'remove')
        for kind in ('vrf', 'pool', 'asn', 'prefix', 'webhook')
    },
    **dict.fromkeys(('undo', 'restore', 'resend_dead_letter'), CHANGE),
    'batch': 'each operation that reads has its own',
    **{f'{verb}_{kind}': LOG for verb in ('list', 'search', 'smart_search') for kind in ('audit', 'change_set')},
    'list_removed': LOG,
    **dict.fromkeys(('list_webhook', 'list_dead_letter', 'list_sign_in'), NO_HISTORY),
    **dict.fromkeys(('version', 'db_version', 'echo'), DAEMON),
}


class PastRestFace(RestFace):
    """REST requests whose resources are asked with the `as_of` of the call."""

    as_of: Any = None

    def as_user(self, user: str, **auth: Any) -> PastRestFace:
        return PastRestFace(self.exchange, user, auth)

    def call(self, method: str, /, **members: Any) -> Any:
        self.as_of = members.get('as_of')
        return super().call(method, **members)

    def ask(self, method: str, path: str, body: Any = None, /, **headers: str) -> Any:
        if self.as_of is not None and path != '/batch':
            path += ('&' if '?' in path else '?') + urlencode({'as_of': self.as_of})
        return super().ask(method, path, body, **headers)

    def as_batch(self, method: str, members: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Any:
        asked = members if self.as_of is None else {**members, 'as_of': self.as_of}
        return super().as_batch(method, asked, headers)

    def _look(self, method: str, members: Object, answer: Any) -> Any:
        natural = super()._look(method, members, answer)
        # A page of REST has the state in a header.
        named = {'as_of': answer['as_of']} if isinstance(answer, dict) and 'as_of' in answer else {}
        return {**natural, **named} if isinstance(natural, dict) else natural


@pytest.fixture
def api(api: Face) -> Face:
    """Return each face in turn. Resources of REST are asked about the past too."""
    return PastRestFace(api.exchange, api.user, api.auth) if isinstance(api, RestFace) else api


def build(db: Database) -> None:
    """Give all change sets their positions and build all states."""
    sequencer, builder = ChangeSequencer(), past.Builder()
    while sequencer.step(db):
        pass
    while builder.step(db):
        pass


def last_change(db: Database) -> int:
    """Return the number of the last change set; 0 before the first."""
    number: int = db.read(lambda tx: tx.value('SELECT coalesce(max(id), 0) FROM change_set'))
    return number


def moment_of(db: Database, change_set: int) -> datetime:
    """Return the moment at which a change set got its position."""
    moment: datetime = db.read(
        lambda tx: tx.value('SELECT moment FROM change_order WHERE change_set = %s', (change_set,))
    )
    return moment


def begin(api: Face) -> Ids:
    """Add an object of each kind and return their ids."""
    vrf = api.add_vrf('65000:1', 'blue', tags=['office'])['id']
    pool = api.add_pool('links', ipv4_default_prefix_length=30)['id']
    api.call('add_asn', attr={'asn': 64500, 'name': 'Example'})
    net = api.add_prefix('192.0.2.0/24', pool_id=pool, tags=['office'])['id']
    customer = api.add_prefix('192.0.2.0/29', 'assignment', customer_id='A-17')['id']
    inner = api.add_prefix('10.0.0.0/8', vrf_id=vrf)['id']
    return {'vrf': vrf, 'pool': pool, 'net': net, 'customer': customer, 'inner': inner}


def go_on(api: Face, ids: Ids) -> None:
    """Change every object that `begin` has added, and remove one."""
    api.call('edit_vrf', vrf={'id': ids['vrf']}, attr={'name': 'green', 'tags': []})
    api.call('edit_pool', pool={'id': ids['pool']}, attr={'name': 'connections'})
    api.call('edit_asn', asn={'asn': 64500}, attr={'name': 'Elsewhere'})
    api.call('remove_prefix', prefix={'id': ids['customer']})
    api.call('edit_prefix', prefix={'id': ids['net']}, attr={'tags': ['shop']})
    api.add_prefix('192.0.2.4/30', 'assignment', customer_id='B-2')
    api.call('edit_prefix', prefix={'id': ids['inner']}, attr={'prefix': '11.0.0.0/8'})


def without_state(answer: Any) -> Any:
    """Return an answer without the member `as_of`."""
    return {name: value for name, value in answer.items() if name != 'as_of'} if isinstance(answer, dict) else answer


# ---------------------------------------------------------------- every call


def test_it_is_decided_for_each_call_whether_it_shows_the_past() -> None:
    """A new call needs a line in `SHOWN`, with a question, or in `REFUSED`, with a reason."""
    assert sorted((*SHOWN, *REFUSED)) == sorted(CALLS)
    assert {name for name, call in CALLS.items() if any(member.name == 'as_of' for member in call.members)} == {*SHOWN}
    assert not any(CALLS[name].changes for name in SHOWN)
    assert {name for name, reason in REFUSED.items() if reason == CHANGE} == {
        name for name, call in CALLS.items() if call.changes and name != 'batch'
    }


@pytest.mark.parametrize('method', SHOWN)
def test_a_call_answers_as_it_did_then(api: Face, db: Database, method: str) -> None:
    ids = begin(api)
    members = SHOWN[method](ids)
    change_set, then = last_change(db), api.call(method, **members)
    go_on(api, ids)
    now = api.call(method, **members)
    build(db)
    assert now != then
    moment = moment_of(db, change_set)
    for as_of in (change_set, str(change_set), moment.isoformat()):
        told = api.call(method, **members, as_of=as_of)
        assert without_state(told) == then
        if isinstance(told, dict):
            assert told['as_of']['change_set'] == change_set
    last = api.call(method, **members, as_of=last_change(db))
    assert without_state(last) == now
    assert api.call(method, **members, as_of=None) == now
    assert api.as_user('readonly').call(method, **members, as_of=change_set) == told


@pytest.mark.parametrize('method', REFUSED)
def test_a_call_without_states_refuses_the_member(xmlrpc_face: Face, db: Database, method: str) -> None:
    attr = {'rt': '65000:1', 'name': 'blue', 'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd'}
    refused = (1120, "extraneous member 'as_of', this call does not have it")
    assert xmlrpc_face.outcome(method, attr=attr, as_of=1) == refused
    assert xmlrpc_face.outcome(method, attr=attr, as_of=None) == refused
    assert last_change(db) == 0


@pytest.mark.parametrize('name', ['asof', 'as-of', 'As_Of', 'as_off'])
def test_a_misspelt_member_is_refused(xmlrpc_face: Face, name: str) -> None:
    fault = xmlrpc_face.fault('list_prefix', **{name: 1})
    assert (fault.code, fault.text) == (1120, f"extraneous member '{name}', did you mean 'as_of'?")


def test_operations_of_a_batch_have_states_of_their_own(api: Face, db: Database) -> None:
    ids = begin(api)
    change_set = last_change(db)
    go_on(api, ids)
    build(db)
    operations = [
        {'method': 'list_pool', 'args': {'as_of': change_set}},
        {'method': 'add_asn', 'args': {'attr': {'asn': 64501}}},
        {'method': 'list_pool', 'args': {}},
        {'method': 'list_asn', 'args': {'as_of': change_set}},
        {'method': 'list_asn', 'args': {}},
    ]
    then, _, now, asns_then, asns_now = api.call('batch', operations=operations)
    assert ([pool['name'] for pool in then], [pool['name'] for pool in now]) == (['links'], ['connections'])
    assert [[asn['asn'] for asn in asns] for asns in (asns_then, asns_now)] == [[64500], [64500, 64501]]


def test_a_change_can_take_its_values_from_the_past(api: Face, db: Database) -> None:
    ids = begin(api)
    change_set = last_change(db)
    go_on(api, ids)
    build(db)
    operations = [
        {'method': 'list_vrf', 'args': {'vrf': {'id': ids['vrf']}, 'as_of': change_set}},
        {
            'method': 'edit_vrf',
            'args': {'vrf': {'id': ids['vrf']}, 'attr': {'name': {'$result': [0, 0, 'name']}}},
        },
    ]
    api.call('batch', operations=operations)
    assert api.call('list_vrf', vrf={'id': ids['vrf']})[0]['name'] == 'blue'


# ---------------------------------------------------------------- objects of then


def test_who_had_an_address_then(api: Face, db: Database) -> None:
    begin(api)
    change_set = last_change(db)
    api.call('remove_prefix', prefix={'prefix': '192.0.2.0/29'})
    api.add_prefix('192.0.2.0/28', 'assignment', customer_id='B-2')
    build(db)

    def holders(**as_of: Any) -> list[tuple[str, str | None]]:
        answer = api.call('smart_search_prefix', query_string='192.0.2.7', **as_of)
        return [(row['prefix'], row['customer_id']) for row in answer['result'] if row['type'] == 'assignment']

    assert (
        holders(as_of=change_set) == holders(as_of=moment_of(db, change_set).isoformat()) == [('192.0.2.0/29', 'A-17')]
    )
    assert holders(as_of=change_set + 1) == []
    assert holders() == holders(as_of=change_set + 2) == [('192.0.2.0/28', 'B-2')]


def test_a_removed_vrf_is_shown_with_its_prefixes_by_its_name_of_then(api: Face, db: Database) -> None:
    ids = begin(api)
    change_set, spec = last_change(db), {'id': ids['vrf']}
    then = api.call('list_vrf', vrf=spec), api.call('list_prefix', prefix={'vrf_id': ids['vrf']})
    api.call('edit_vrf', vrf=spec, attr={'name': 'green', 'rt': '65000:2'})
    api.call('remove_vrf', vrf=spec, recursive=True)
    api.add_vrf('65000:1', 'blue')
    build(db)
    for by in (spec, {'name': 'blue'}, {'rt': '65000:1'}):
        assert api.call('list_vrf', vrf=by, as_of=change_set) == then[0]
        prefixes = api.call(
            'list_prefix', prefix={f'vrf_{name}': value for name, value in by.items()}, as_of=change_set
        )
        assert prefixes == then[1]
    assert [(row['vrf_name'], row['vrf_rt']) for row in then[1]] == [('blue', '65000:1')]
    (renamed,) = api.call('list_prefix', prefix={'vrf_name': 'green'}, as_of=change_set + 1)
    assert (renamed['id'], renamed['vrf_rt']) == (ids['inner'], '65000:2')
    assert api.call('list_vrf', vrf={'name': 'green'}, as_of=change_set) == []
    assert api.call('list_vrf', vrf=spec, as_of=change_set + 2) == api.call('list_vrf', vrf=spec) == []


def test_a_removed_pool_is_shown_with_its_members_by_its_name_of_then(api: Face, db: Database) -> None:
    ids = begin(api)
    change_set, spec = last_change(db), {'id': ids['pool']}
    args = {'from-pool': {'name': 'links'}, 'family': 4}
    questions: list[tuple[str, Object]] = [
        ('list_pool', {'pool': spec}),
        ('list_pool', {'pool': {'name': 'links'}}),
        ('list_prefix', {'prefix': {'pool_name': 'links'}}),
        ('find_free_prefix', {'vrf': {}, 'args': args}),
    ]
    then = [api.call(method, **members) for method, members in questions]
    api.call('edit_pool', pool=spec, attr={'name': 'connections'})
    api.call('remove_pool', pool=spec)
    build(db)
    assert [api.call(method, **members, as_of=change_set) for method, members in questions] == then
    ((pool,), _, (member,), _) = then
    assert (pool['prefixes'], member['pool_name']) == (['192.0.2.0/24'], 'links')
    assert api.prefix(ids['net'])['pool_name'] is None
    (renamed,) = api.call('list_prefix', prefix={'id': ids['net']}, as_of=change_set + 1)
    assert renamed['pool_name'] == 'connections'
    (gone,) = api.call('list_prefix', prefix={'id': ids['net']}, as_of=change_set + 2)
    assert gone['pool_name'] is None
    fault = api.fault('find_free_prefix', vrf={}, args=args, as_of=change_set + 2)
    assert (fault.code, fault.text) == (1300, 'Non-existent pool specified')


@pytest.mark.parametrize('text', ['kraken', 'description="a kraken"', 'description ~ krak', 'node=kraken'])
def test_texts_of_other_states_are_not_found(api: Face, db: Database, text: str) -> None:
    """The prefix has the text in one state, and another state comes before it and after it."""
    net = api.add_prefix('10.0.0.0/24', 'assignment')['id']
    host = api.add_prefix('10.0.0.1/32', 'host')['id']
    before, had = last_change(db), {'description': 'a kraken', 'node': 'kraken'}
    api.call('edit_prefix', prefix={'id': host}, attr=had)
    api.call('edit_prefix', prefix={'id': net}, attr={'comment': 'another state'})
    api.call('edit_prefix', prefix={'id': host}, attr={'description': 'none', 'node': 'none'})
    api.call('remove_prefix', prefix={'id': net}, recursive=True)
    build(db)
    found = [
        [row['id'] for row in api.call('smart_search_prefix', query_string=text, as_of=before + n)['result']]
        for n in range(5)
    ]
    assert found == [[], [host], [host], [], []]


def test_the_answer_to_a_question_stays_the_same(api: Face, db: Database) -> None:
    ids = begin(api)
    change_set = last_change(db)
    build(db)
    questions = [(method, members(ids)) for method, members in SHOWN.items()]
    asked = [change_set, moment_of(db, change_set).isoformat()]
    first = [api.call(method, **members, as_of=as_of) for method, members in questions for as_of in asked]
    go_on(api, ids)
    api.call('undo', change_set=last_change(db))
    api.call('remove_vrf', vrf={'id': ids['vrf']}, recursive=True)
    api.call('remove_prefix', prefix={'id': ids['net']}, recursive=True)
    api.call('remove_pool', pool={'id': ids['pool']})
    api.call('remove_asn', asn={'asn': 64500})
    for _ in range(2):  # before the changes have positions, and afterwards
        again = [api.call(method, **members, as_of=as_of) for method, members in questions for as_of in asked]
        assert again == first
        build(db)


def test_an_undo_is_a_state_of_its_own(api: Face, db: Database) -> None:
    ids = begin(api)
    change_set, spec = last_change(db), {'id': ids['customer']}
    api.call('remove_prefix', prefix=spec)
    api.call('undo', change_set=change_set + 1)
    build(db)
    found = [api.call('list_prefix', prefix=spec, as_of=change_set + n) for n in range(3)]
    assert [len(rows) for rows in found] == [1, 0, 1]
    assert found[2] == api.call('list_prefix', prefix=spec)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ('as_of', 'code', 'text'),
    [
        ('2001-01-01', 1310, 'The history begins after 2001-01-01T00:00:00+00:00'),
        ('2999-01-01', 1200, 'Invalid value 2999-01-01T00:00:00+00:00 for as_of, it lies in the future'),
        (2**31 - 1, 1200, 'There is no change set 2147483647'),
        (0, 1200, 'Invalid value 0 for as_of, must be 1 to 9223372036854775807'),
        ('junk', 1200, "Invalid value 'junk' for as_of, must be a moment or the number of a change set"),
        ('', 1200, "Invalid value '' for as_of, must be a moment or the number of a change set"),
    ],
)
def test_states_that_are_refused(
    backend_face: Face, xmlrpc_face: Face, db: Database, as_of: Any, code: int, text: str
) -> None:
    begin(backend_face)
    build(db)
    for face in (backend_face, xmlrpc_face):
        fault = face.fault('list_prefix', as_of=as_of)
        assert (fault.code, fault.text) == (code, text)


def test_a_change_set_without_a_position_is_not_answered(
    api: Face, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, 'PATIENCE_S', 0.1)
    begin(api)
    change_set = last_change(db)
    fault = api.fault('list_vrf', as_of=change_set)
    text = f'the history up to change set {change_set} is not built yet, try again soon'
    assert (fault.code, text in fault.text) == (1010, True)
    build(db)
    assert len(api.call('list_vrf', as_of=change_set)) == 2


# ---------------------------------------------------------------- the header, over XML-RPC


def test_the_answer_of_xmlrpc_has_the_header(xmlrpc_face: XmlRpcFace, standing: Standing) -> None:
    ids = begin(xmlrpc_face)
    db, client = standing.db, standing.applications['XML-RPC'].test_client()
    build(db)
    change_set = last_change(db)

    def header(method: str, **members: Any) -> str | None:
        body = dumps(({'auth': {'authoritative_source': 'x'}, **members},), method, allow_none=True)
        headers = {'Authorization': xmlrpc_face.authorization, 'Content-Type': 'text/xml'}
        return client.post('/XMLRPC', data=body, headers=headers).headers.get('NIPAP-As-Of')

    for method, members in SHOWN.items():
        assert header(method, **members(ids), as_of=change_set) == named(db, change_set)
        assert header(method, **members(ids)) is None
    assert header('list_vrf', as_of='2001-01-01') is None


def named(db: Database, change_set: int) -> str:
    """Return the header of an answer that shows the state after a change set."""
    text = 'SELECT position, moment FROM change_order WHERE change_set = %s'
    position, moment = db.read(lambda tx: tx.one(text, (change_set,))) or (None, None)
    written = moment.astimezone(UTC).isoformat().replace('+00:00', 'Z')
    return f'position={position}, change-set={change_set}, moment={written}'


# ---------------------------------------------------------------- REST

rest_only = pytest.mark.slow


class Rest:
    """Requests of one user to `/api/v1`, and the database behind it."""

    def __init__(self, client: FlaskClient, db: Database) -> None:
        self.client = client
        self.db = db

    def send(self, method: str, path: str, body: Any = None, status: int = 200, **headers: str) -> TestResponse:
        """Make a request; another status than the expected one is an error."""
        sent = {'Authorization': basic('alice', USERS['alice'][0])}
        sent |= {name.replace('_', '-'): value for name, value in headers.items()}
        where = path if path.startswith('/api') else f'/api/v1{path}'
        answer = self.client.open(where, method=method, json=body, headers=sent)
        assert answer.status_code == status, answer.text
        return answer

    def ask(self, method: str, path: str, body: Any = None, *, as_of: Any, status: int = 200, **headers: str) -> Any:
        """Make a request about the past."""
        whole = f'{path}{"&" if "?" in path else "?"}{urlencode({"as_of": as_of})}'
        return self.send(method, whole, body, status, **headers)

    def pages(self, method: str, path: str, body: Any = None) -> Iterator[TestResponse]:
        """Yield a page and all pages after it, by their `Link`."""
        following: str | None = path
        while following is not None:
            page = self.send(method, following, body)
            yield page
            link = page.headers.get('Link')
            following = None if link is None else link.removeprefix('<').removesuffix('>; rel="next"')


@pytest.fixture
def rest(standing: Standing, sound: None, authenticator: Authenticator) -> Rest:
    return Rest(rest_application(standing, authenticator).test_client(), standing.db)


QUERY = {'query': BY_NAME}
#: Each route that shows the past, with requests whose answers differ between `begin` and `go_on`.
REQUESTS: Mapping[tuple[str, str], tuple[tuple[str, Any], ...]] = {
    ('GET', '/vrfs'): (('/vrfs', None), ('/vrfs?name=blue', None), ('/vrfs?q=blue&fields=id,name', None)),
    ('GET', '/pools'): (('/pools', None), ('/pools?name=links', None), ('/pools?q=links&fields=id,name', None)),
    ('GET', '/asns'): (('/asns', None), ('/asns?name=Example', None), ('/asns?q=Example&fields=name', None)),
    ('GET', '/prefixes'): (
        ('/prefixes', None),
        ('/prefixes?customer_id=A-17&fields=prefix,customer_id,match&include_all_parents=true', None),
        ('/prefixes?q=192.0.2.7', None),
        ('/prefixes?vrf_name=blue&fields=prefix', None),
        ('/prefixes?tags=office&children_depth=-1', None),
        ('/prefixes?parent_prefix={net}&include_neighbors=true', None),
    ),
    ('GET', '/tags'): (('/tags', None),),
    ('GET', '/vrfs/{key}'): (('/vrfs/{vrf}', None), ('/vrfs/{vrf}?fields=name', None)),
    ('GET', '/pools/{key}'): (('/pools/{pool}', None), ('/pools/{pool}?fields=name,used_prefixes_v4', None)),
    ('GET', '/asns/{key}'): (('/asns/AS64500', None),),
    ('GET', '/prefixes/{key}'): (
        ('/prefixes/{net}', None),
        ('/prefixes/{inner}?fields=prefix,vrf_name', None),
    ),
    ('GET', '/pools/{key}/free'): (('/pools/{pool}/free?family=4&count=3', None),),
    ('GET', '/prefixes/{key}/free'): (('/prefixes/{net}/free?prefix_length=30', None),),
    ('POST', '/vrfs/search'): (('/vrfs/search', QUERY), ('/vrfs/search', {'q': 'blue'})),
    ('POST', '/pools/search'): (('/pools/search', QUERY), ('/pools/search?fields=name', {'q': 'links'})),
    ('POST', '/asns/search'): (('/asns/search', QUERY), ('/asns/search', {'q': 'Example'})),
    ('POST', '/prefixes/search'): (
        ('/prefixes/search?parents_depth=-1', {'query': IN_NET}),
        ('/prefixes/search?customer_id=A-17', {'query': IN_NET, 'q': '192.0.2.7'}),
    ),
    ('POST', '/tags/search'): (('/tags/search', {'query': OFFICE}),),
}


@rest_only
def test_each_route_of_a_call_with_states_is_tested() -> None:
    assert {place for place, route in ROUTES.items() if route.served and route.shows_past} == {*REQUESTS}
    assert {route.call for route in ROUTES.values() if route.shows_past} >= {f'list_{kind}' for kind in ('vrf', 'pool')}


@rest_only
@pytest.mark.parametrize('place', REQUESTS, ids=' '.join)
def test_a_route_answers_as_it_did_then(rest: Rest, backend_face: Face, place: tuple[str, str]) -> None:
    db, verb = rest.db, place[0]
    ids = begin(backend_face)
    change_set = last_change(db)
    requests = [(path.format_map(ids), body) for path, body in REQUESTS[place]]
    then = [rest.send(verb, path, body) for path, body in requests]
    go_on(backend_face, ids)
    build(db)
    moment = moment_of(db, change_set)
    zone = timedelta(hours=2)
    there = (moment + zone).isoformat().replace('+00:00', '+02:00')
    for (path, body), before in zip(requests, then, strict=True):
        now = rest.send(verb, path, body)
        assert now.data != before.data
        assert {'NIPAP-As-Of'} & {*now.headers.keys(), *before.headers.keys()} == set()
        for as_of in (change_set, moment.isoformat(), moment.isoformat().replace('+00:00', 'Z'), there):
            told = rest.ask(verb, path, body, as_of=as_of)
            assert told.data == before.data
            assert told.headers['NIPAP-As-Of'] == named(db, change_set)
            assert told.headers.get('ETag') == before.headers.get('ETag')
        last = rest.ask(verb, path, body, as_of=last_change(db))
        assert last.data == now.data


@pytest.fixture
def many(rest: Rest, backend_face: Face) -> int:
    """Add seven prefixes below one, change all of them, and return the change set before these changes."""
    backend_face.add_prefix('10.0.0.0/8')
    for n in range(7):
        backend_face.add_prefix(f'10.{n}.0.0/16', tags=[f't{n}'])
    change_set = last_change(rest.db)
    backend_face.call('edit_prefix', prefix={'type': 'reservation'}, attr={'description': 'later'})
    backend_face.call('remove_prefix', prefix={'prefix': '10.3.0.0/16'})
    backend_face.add_prefix('10.0.0.0/12')
    build(rest.db)
    return change_set


@rest_only
@pytest.mark.parametrize(
    ('verb', 'path', 'body'),
    [
        ('GET', '/prefixes?limit=3&as_of={}', None),
        ('GET', '/prefixes?limit=3&as_of={}&q=10.0.0.0/8&fields=prefix,description', None),
        ('GET', '/prefixes?limit=2&prefix=10.0.0.0/8&children_depth=-1&as_of={}', None),
        ('POST', '/prefixes/search?limit=3&as_of={}', {'query': {}}),
        ('GET', '/tags?limit=3&as_of={}', None),
    ],
)
@pytest.mark.parametrize('by', ['change set', 'moment'])
def test_the_next_page_is_of_the_same_state(
    rest: Rest, backend_face: Face, many: int, verb: str, path: str, body: Any, by: str
) -> None:
    as_of = str(many) if by == 'change set' else moment_of(rest.db, many).isoformat()
    pages, found = 0, []
    for page in rest.pages(verb, path.format(urlencode({'': as_of})[1:]), body):
        pages += 1
        found += page.json['result']
        assert page.headers['NIPAP-As-Of'] == named(rest.db, many)
        if 'Link' in page.headers:
            following = page.headers['Link'].removeprefix('<').removesuffix('>; rel="next"')
            assert dict(parse_qsl(urlsplit(following).query))['as_of'] == str(many)
        if pages == 1:  # changes meanwhile move nothing
            backend_face.call('remove_prefix', prefix={'prefix': '10.5.0.0/16'})
            build(rest.db)
    if path.startswith('/tags'):
        assert (pages, [tag['name'] for tag in found]) == (3, [f't{n}' for n in range(7)])
        return
    assert pages >= 3
    assert [row['prefix'] for row in found] == ['10.0.0.0/8', *(f'10.{n}.0.0/16' for n in range(7))]
    assert {row['description'] for row in found} == {f'net {row["prefix"]}' for row in found}


@rest_only
def test_an_object_that_did_not_exist_then_is_404(rest: Rest, backend_face: Face) -> None:
    first = backend_face.add_vrf('65000:9', 'first')['id']
    early = last_change(rest.db)
    ids = begin(backend_face)
    late = last_change(rest.db)
    backend_face.call('remove_prefix', prefix={'id': ids['customer']})
    build(rest.db)
    paths = ['/vrfs/{vrf}', '/pools/{pool}', '/prefixes/{net}', '/asns/64500']
    paths += ['/pools/{pool}/free?family=4', '/prefixes/{net}/free?prefix_length=30', '/prefixes/{customer}']
    for path in (path.format_map(ids) for path in paths):
        problem = rest.ask('GET', path, as_of=early, status=404).json
        assert (problem['code'], problem['status']) == (1300, 404)
        rest.ask('GET', path, as_of=late)
    rest.ask('GET', f'/vrfs/{first}', as_of=early)
    assert rest.send('GET', f'/prefixes/{ids["customer"]}', status=404).json['code'] == 1300
    assert rest.ask('GET', f'/prefixes/{ids["customer"]}', as_of=late).json['customer_id'] == 'A-17'


@rest_only
@pytest.mark.parametrize(
    ('as_of', 'status', 'code', 'detail'),
    [
        ('2001-01-01', 410, 1310, 'The history begins after 2001-01-01T00:00:00+00:00'),
        ('2999-01-01', 422, 1200, 'Invalid value 2999-01-01T00:00:00+00:00 for as_of, it lies in the future'),
        ('999999999', 422, 1200, 'There is no change set 999999999'),
        ('0', 422, 1200, "Invalid value '0' for as_of, must be 1 to 9223372036854775807"),
        ('junk', 422, 1200, "Invalid value 'junk' for as_of, must be a moment or the number of a change set"),
        ('', 422, 1200, "Invalid value '' for as_of, must be a moment or the number of a change set"),
        ('-1', 422, 1200, None),
        ('1.5', 422, 1200, None),
        ('x' * 5000, 422, 1200, None),
        ('9' * 30, 422, 1200, None),
        ('\u0661', 422, 1200, None),
    ],
)
@pytest.mark.parametrize(
    ('verb', 'path'),
    [('GET', '/vrfs'), ('GET', '/vrfs/0'), ('GET', '/prefixes?q=x'), ('POST', '/tags/search')],
)
def test_a_state_that_cannot_be_shown_is_a_problem(
    rest: Rest, backend_face: Face, verb: str, path: str, as_of: str, status: int, code: int, detail: str | None
) -> None:
    begin(backend_face)
    build(rest.db)
    body = {'query': OFFICE} if verb == 'POST' else None
    answer = rest.ask(verb, path, body, as_of=as_of, status=status)
    problem = answer.json
    assert (problem['status'], problem['code'], problem['attribute']) == (status, code, 'as_of')
    assert detail is None or problem['detail'] == detail
    assert answer.content_type == 'application/problem+json'
    assert 'NIPAP-As-Of' not in answer.headers


@rest_only
def test_a_change_set_without_a_position_is_503(
    rest: Rest, backend_face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, 'PATIENCE_S', 0.1)
    begin(backend_face)
    change_set = last_change(rest.db)
    for path in ('/vrfs', '/vrfs/0', '/prefixes?q=x'):
        answer = rest.ask('GET', path, as_of=change_set, status=503)
        assert (answer.json['code'], int(answer.headers['Retry-After']) > 0) == (1010, True)
    build(rest.db)
    rest.ask('GET', '/vrfs', as_of=change_set)


@rest_only
@pytest.mark.parametrize(
    ('verb', 'path', 'body'),
    [
        ('POST', '/vrfs', {'rt': '65000:7', 'name': 'seven'}),
        ('POST', '/prefixes', {'prefix': '10.1.0.0/16', 'type': 'reservation', 'description': 'd'}),
        ('PATCH', '/prefixes/{net}', {'description': 'd'}),
        ('DELETE', '/prefixes/{net}', None),
        ('DELETE', '/vrfs/{vrf}?recursive=true', None),
        ('POST', '/pools/{pool}/allocations', {'family': 4, 'description': 'd'}),
        ('POST', '/batch', {'operations': []}),
        ('POST', '/changes/1/undo', None),
        ('GET', '/changes', None),
        ('GET', '/audit', None),
        ('GET', '/prefixes/{net}/history', None),
        ('GET', '/version', None),
    ],
)
def test_other_routes_refuse_the_parameter(rest: Rest, backend_face: Face, verb: str, path: str, body: Any) -> None:
    ids = begin(backend_face)
    build(rest.db)
    before = last_change(rest.db)
    problem = rest.ask(verb, path.format_map(ids), body, as_of=before, status=400).json
    assert (problem['code'], problem['attribute']) == (1100, 'as_of')
    assert last_change(rest.db) == before


@rest_only
def test_operations_of_a_batch_refuse_the_member_too(rest: Rest, backend_face: Face) -> None:
    begin(backend_face)
    before = last_change(rest.db)
    for method in ('add_asn', 'edit_prefix', 'list_audit', 'version'):
        body = {'operations': [{'method': method, 'args': {'as_of': before}}]}
        problem = rest.send('POST', '/batch', body, 400).json
        assert (problem['code'], problem['attribute'], problem['position']) == (1100, 'as_of', 0)


@rest_only
def test_a_state_that_the_client_has_is_not_sent_again(rest: Rest, backend_face: Face) -> None:
    ids = begin(backend_face)
    change_set = last_change(rest.db)
    go_on(backend_face, ids)
    build(rest.db)
    for path in ('/vrfs', f'/prefixes/{ids["net"]}'):
        first = rest.ask('GET', path, as_of=change_set)
        again = rest.ask('GET', path, as_of=change_set, status=304, If_None_Match=first.headers['ETag'])
        assert again.headers['NIPAP-As-Of'] == first.headers['NIPAP-As-Of']


@rest_only
def test_the_bytes_of_an_answer_stay_the_same(rest: Rest, backend_face: Face) -> None:
    ids = begin(backend_face)
    change_set = last_change(rest.db)
    build(rest.db)
    requests = [(place[0], path.format_map(ids), body) for place, asked in REQUESTS.items() for path, body in asked]
    first = [rest.ask(*request, as_of=change_set) for request in requests]
    go_on(backend_face, ids)
    backend_face.call('remove_vrf', vrf={'id': ids['vrf']}, recursive=True)
    backend_face.call('remove_pool', pool={'id': ids['pool']})
    build(rest.db)
    for request, before in zip(requests, first, strict=True):
        again = rest.ask(*request, as_of=change_set)
        assert (again.data, again.headers['NIPAP-As-Of']) == (before.data, before.headers['NIPAP-As-Of'])
