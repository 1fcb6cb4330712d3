"""The client library of PyPI, unmodified, against a running daemon: all its features work."""

from __future__ import annotations

import datetime as dt
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import databases
import psycopg2
import pynipap
import pytest
from pynipap import VRF, AuthOptions, Pool, Prefix, Tag
from pynipap import pynipap as implementation

import nipap
from nipap.access.local_users import LocalUser, LocalUsers

# The library makes a connection for each call and leaves closing the connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings('ignore:unclosed:ResourceWarning')

USERS = {
    'alice': LocalUser('alice', 'Alice Smith'),
    'reader': LocalUser('reader', 'Rita Reader', readonly=True),
    'gateway': LocalUser('gateway', 'The web front', trusted=True),
}
PASSWORD = 'secret of the tests'


@pytest.fixture(scope='module')
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('accounts') / 'users.db'
    users = LocalUsers(path)
    users.create()
    for user in USERS.values():
        users.add(user, PASSWORD)
    return path


@pytest.fixture(scope='module')
def running(shared_dsn: str, shared_daemon: Callable[..., Any], users_file: Path) -> Any:
    """Return a daemon that remembers nothing of the former contents of the database."""
    return shared_daemon(users_file=users_file, forks='1', events='false')


@pytest.fixture
def log_in(running: Any, shared_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Point the library at the daemon, on an empty database, and clear its caches.

    The yielded function changes the user: `log_in('reader')`, with another password or other authentication options if
    given.
    """
    for cache in implementation._cache.values():
        cache.clear()

    def log_in(user: str, password: str = PASSWORD, **options: Any) -> None:
        monkeypatch.setattr(pynipap, 'xmlrpc_uri', f'{running.url(user, password)}/XMLRPC')
        AuthOptions({'authoritative_source': 'pynipap-test', **options})

    log_in('alice')
    yield log_in
    gc.collect()
    with databases.connected(shared_dsn) as connection:
        assert databases.empty(connection)


@pytest.fixture(autouse=True)
def _alice(log_in: Callable[..., None]) -> None:
    """Begin every test as a user who may change things."""


def vrf(rt: str = '65000:1', name: str = 'customer', **values: Any) -> VRF:
    return saved(VRF(), rt=rt, name=name, **values)


def pool(name: str = 'loopbacks', default_type: str = 'assignment', **values: Any) -> Pool:
    return saved(Pool(), name=name, default_type=default_type, description=f'the {name}', **values)


def prefix(network: str, type_: str = 'reservation', **values: Any) -> Prefix:
    return saved(Prefix(), prefix=network, type=type_, description=f'net {network}', **values)


def saved(thing: Any, **values: Any) -> Any:
    for name, value in values.items():
        setattr(thing, name, value)
    thing.save()
    return thing


def tagged(*names: str) -> dict[str, Tag]:
    return {name: Tag.from_dict({'name': name}) for name in names}


def uncached(kind: str) -> None:
    """Make the library ask the daemon again."""
    implementation._cache[kind].clear()


def q(operator: str, val1: Any, val2: Any) -> dict[str, Any]:
    return {'operator': operator, 'val1': val1, 'val2': val2}


def test_versions() -> None:
    assert pynipap.nipapd_version() == nipap.__version__
    assert isinstance(pynipap.nipap_db_version(), int)


def test_the_life_of_a_vrf() -> None:
    made = vrf(description='A customer', tags=tagged('vpn', 'gold'), avps={'contract': '42'})
    uncached('VRF')
    read = VRF.get(made.id)
    assert (read.rt, read.name, read.description) == ('65000:1', 'customer', 'A customer')
    assert (list(read.tags), read.avps, read.num_prefixes_v4) == (['vpn', 'gold'], {'contract': '42'}, 0)
    prefix('10.0.0.0/24', vrf=read)
    read.name, read.description, read.tags = 'renamed', None, {}
    read.save()
    assert (read.name, read.description, read.tags, read.total_addresses_v4) == ('renamed', None, {}, 256)
    assert [found.name for found in VRF.list({'rt': '65000:1'})] == ['renamed']
    assert [found.name for found in VRF.list()] == ['default', 'renamed']
    assert [found.id for found in VRF.search(q('equals', 'name', 'renamed'))['result']] == [made.id]
    answer = VRF.smart_search('65000', {'max_result': 10}, q('regex_match', 'name', 'named'))
    assert ([found.id for found in answer['result']], answer['error']) == ([made.id], False)
    assert answer['search_options'] == {'max_result': 10, 'offset': 0}
    read.remove()
    assert Prefix.list() == []
    with pytest.raises(pynipap.NipapNonExistentError):
        VRF.get(made.id)


def test_the_default_vrf() -> None:
    default = VRF.get(0)
    assert (default.rt, default.name) == (None, 'default')
    default.description = 'The Internet'
    default.save()
    assert default.description == 'The Internet'
    with pytest.raises(pynipap.NipapValueError):
        default.remove()


def test_the_life_of_a_pool() -> None:
    made = pool(ipv4_default_prefix_length=32, tags=tagged('core'), avps={'site': 'sto'})
    assert (made.vrf, made.member_prefixes_v4, made.free_prefixes_v4) == (None, 0, None)
    member = prefix('10.0.0.0/24', pool=made)
    assert (member.pool.id, member.pool.name) == (made.id, 'loopbacks')
    read = Pool.get(made.id)
    assert (read.vrf.id, read.member_prefixes_v4, read.free_prefixes_v4, read.total_addresses_v4) == (0, 1, 256, 256)
    assert (list(read.tags), read.avps) == (['core'], {'site': 'sto'})
    read.name, read.ipv4_default_prefix_length, read.default_type = 'links', 31, 'reservation'
    read.save()
    assert (read.name, read.default_type, read.free_prefixes_v4) == ('links', 'reservation', 128)
    assert [found.name for found in Pool.list({'name': 'links'})] == ['links']
    assert [found.id for found in Pool.search(q('=', 'ipv4_default_prefix_length', 31))['result']] == [made.id]
    answer = Pool.smart_search('lin')
    assert ([found.id for found in answer['result']], answer['error']) == ([made.id], False)
    read.remove()
    uncached('Prefix')
    assert Prefix.get(member.id).pool is None


def test_the_life_of_a_prefix() -> None:
    made = prefix('10.0.0.0/8', tags=tagged('rfc1918'), country='se', comment='c', vlan=7, monitor=True)
    assert (made.family, made.display_prefix, made.indent, made.country) == (4, '10.0.0.0/8', 0, 'SE')
    assert (made.status, made.authoritative_source, made.vrf.id, made.expires) == ('assigned', 'pynipap-test', 0, None)
    assert isinstance(made.added, dt.datetime)
    office = prefix('10.1.1.0/24', 'assignment', alarm_priority='low', avps={'k': 'v'}, status='reserved')
    host = prefix('10.1.1.1/32', 'host', node='sw1', expires=dt.datetime(2031, 5, 6, 7, 8, 9))
    assert (list(host.inherited_tags), host.display_prefix, host.indent) == (['rfc1918'], '10.1.1.1/24', 2)
    assert host.expires == dt.datetime(2031, 5, 6, 7, 8, 9)
    uncached('Prefix')
    read = Prefix.get(office.id)
    assert (read.used_addresses, read.free_addresses, read.total_addresses) == (1, 255, 256)
    read.description, read.expires, read.order_id, read.status = 'changed', '2030-01-02', 'o-1', None
    read.save()
    assert (read.description, read.order_id, read.status) == ('changed', 'o-1', 'reserved')
    assert (read.expires, read.avps, read.alarm_priority) == (dt.datetime(2030, 1, 2), {'k': 'v'}, 'low')
    assert read.children == 1
    read.expires = None
    read.save()
    assert read.expires is None
    with pytest.raises(pynipap.NipapValueError, match='contains hosts'):
        read.remove()
    read.remove(recursive=True)
    assert [found.prefix for found in Prefix.list()] == ['10.0.0.0/8']
    made.remove()
    assert Prefix.list() == []


def test_saving_twice_changes_nothing() -> None:
    """The library sends all attributes that it knows with every save."""
    made = prefix('10.0.0.0/24', 'assignment', pool=pool(), vrf=vrf(), tags=tagged('t'), avps={'k': 'v'}, vlan=7)
    before = dict(vars(made))
    made.save()
    changed = {name for name, value in vars(made).items() if before.get(name) != value}
    assert changed <= {'last_modified', 'match', 'display', 'children', 'tags', 'vrf', 'pool', '_logger'}
    assert (made.vrf.id, made.pool.id, list(made.tags)) == (before['vrf'].id, before['pool'].id, ['t'])


def test_searches_for_prefixes() -> None:
    prefix('10.0.0.0/8')
    office = prefix('10.1.1.0/24', 'assignment')
    prefix('10.1.1.1/32', 'host')
    answer = Prefix.search(
        q('contained_within', 'prefix', '10.0.0.0/8'), {'max_result': 1, 'include_all_parents': True}
    )
    assert [(found.prefix, found.match) for found in answer['result']] == [('10.0.0.0/8', False)]
    answer = Prefix.search({}, {'parent_prefix': office.id})
    assert [found.prefix for found in answer['result']] == ['10.1.1.0/24', '10.1.1.1/32']
    answer = Prefix.smart_search('10.1.1.1')
    assert [found.prefix for found in answer['result']] == ['10.0.0.0/8', '10.1.1.0/24', '10.1.1.1/32']
    assert answer['interpretation']['interpretation']['interpretation'] == 'IPv4 address'
    answer = Prefix.smart_search('', {}, q('equals', 'type', 'assignment'))
    assert [found.prefix for found in answer['result']] == ['10.1.1.0/24']
    answer = Prefix.smart_search('bogus=1')
    assert (answer['error'], answer['error_message'], answer['result']) == (True, 'query interpretation failed', [])
    assert [found.prefix for found in Prefix.list({'type': 'host'})] == ['10.1.1.1/32']


def test_finding_free_prefixes() -> None:
    customer = vrf()
    loopbacks = pool(ipv4_default_prefix_length=32)
    prefix('10.0.0.0/24', pool=loopbacks)
    prefix('10.0.0.1/32', 'assignment')
    args = {'from-prefix': ['10.0.0.0/24'], 'prefix_length': 32, 'count': 2}
    assert Prefix.find_free(None, args) == ['10.0.0.2', '10.0.0.3']
    assert Prefix.find_free(customer, args) == ['10.0.0.1', '10.0.0.2']
    args = {'from-pool': {'id': loopbacks.id}, 'family': 4, 'prefix_length': 25}
    assert Prefix.find_free(None, args) == ['10.0.0.128/25']
    assert Prefix.find_free(customer, {**args, 'prefix_length': 24}) == []


def test_allocating() -> None:
    loopbacks = pool(ipv4_default_prefix_length=32, ipv6_default_prefix_length=128)
    customer = vrf()
    prefix('10.0.0.0/24', vrf=customer, pool=loopbacks)
    prefix('2001:db8::/64', vrf=customer, pool=loopbacks)
    taken = []
    for family, length in ((4, None), (4, None), (6, None), (4, 28)):
        new = Prefix()
        new.description = 'allocated'
        args = {'from-pool': loopbacks, 'family': family, 'prefix_length': length}
        new.save({name: value for name, value in args.items() if value is not None})
        assert (new.vrf.id, new.type) == (customer.id, 'assignment')
        taken.append(new.prefix)
    assert taken == ['10.0.0.1/32', '10.0.0.2/32', '2001:db8::1/128', '10.0.0.16/28']
    new = Prefix()
    new.description, new.type, new.vrf = 'allocated', 'assignment', customer
    new.save({'from-prefix': ['10.0.0.0/24'], 'prefix_length': 26})
    assert new.prefix == '10.0.0.64/26'
    full = Prefix()
    full.description, full.type, full.vrf = 'allocated', 'assignment', customer
    with pytest.raises(pynipap.NipapNonExistentError, match='no free prefix found'):
        full.save({'from-prefix': ['10.0.0.0/24'], 'prefix_length': 24})
    uncached('Pool')
    assert (Pool.get(loopbacks.id).used_prefixes_v4, Pool.get(loopbacks.id).used_addresses_v4) == (4, 82)


def test_allocating_hosts() -> None:
    prefix('10.0.0.0/29', 'assignment')
    names = []
    for number in range(6):
        host = Prefix()
        host.node, host.type = f'sw{number}', 'host'
        host.save({'from-prefix': ['10.0.0.0/29'], 'prefix_length': 32})
        names.append(host.display_prefix)
    assert names == [f'10.0.0.{number}/29' for number in range(1, 7)]


def test_tags() -> None:
    prefix('10.0.0.0/8', tags=tagged('b', 'a'))
    answer = Tag.search({})
    assert sorted(tag.name for tag in answer['result']) == ['a', 'b']
    assert [tag.name for tag in Tag.search(q('equals', 'name', 'a'), {'max_result': 5})['result']] == ['a']


def failing_calls() -> dict[str, tuple[type[Exception], Callable[[], Any]]]:
    """Return failing calls with the expected class of error.

    The library has no class for the code of an unknown operator.
    """
    return {
        'duplicate prefix': (pynipap.NipapDuplicateError, lambda: prefix('10.0.0.0/8')),
        'duplicate VRF': (pynipap.NipapDuplicateError, lambda: vrf('65000:2', 'CUSTOMER')),
        'duplicate pool': (pynipap.NipapDuplicateError, pool),
        'bad prefix': (pynipap.NipapValueError, lambda: prefix('10.0.0.0/33')),
        'host bits': (pynipap.NipapValueError, lambda: prefix('10.1.2.3/8')),
        'bad type': (pynipap.NipapValueError, lambda: prefix('11.0.0.0/8', 'bogus')),
        'bad vlan': (pynipap.NipapValueError, lambda: prefix('11.0.0.0/8', vlan=4096)),
        'bad route target': (pynipap.NipapValueError, lambda: vrf('x', 'y')),
        'unknown prefix': (pynipap.NipapNonExistentError, lambda: Prefix.get(12345)),
        'unknown pool': (pynipap.NipapNonExistentError, lambda: Pool.get(12345)),
        'unknown parent': (pynipap.NipapNonExistentError, lambda: Prefix.search({}, {'parent_prefix': 12345})),
        'unknown key': (pynipap.NipapExtraneousInputError, lambda: Prefix.list({'bogus': 1})),
        'unknown operator': (pynipap.NipapError, lambda: Prefix.search(q('bogus', 'prefix', 1))),
        'unknown variable': (pynipap.NipapInputError, lambda: Prefix.search(q('equals', 'bogus', 1))),
        'missing value': (
            pynipap.NipapMissingInputError,
            lambda: Prefix.search({'operator': 'equals', 'val1': 'vlan'}),
        ),
        'missing length': (
            pynipap.NipapMissingInputError,
            lambda: Prefix.find_free(None, {'from-prefix': ['10.0.0.0/8']}),
        ),
    }


def test_errors_have_their_class() -> None:
    vrf()
    pool()
    prefix('10.0.0.0/8')
    for name, (expected, call) in failing_calls().items():
        with pytest.raises(pynipap.NipapError) as caught:
            call()
        assert type(caught.value) is expected, name


def test_removing_an_object_that_is_removed_already() -> None:
    made = prefix('10.0.0.0/8')
    made.remove()
    with pytest.raises(pynipap.NipapNonExistentError):
        made.remove()
    with pytest.raises(pynipap.NipapError, match='Prefix edit returned 0 entries'):
        made.save()


def test_rights_of_users(log_in: Callable[..., None]) -> None:
    log_in('reader')
    assert Prefix.list() == []
    with pytest.raises(pynipap.NipapAuthorizationError, match="read-only user 'reader'"):
        prefix('10.0.0.0/8')
    for user, password in (('alice', 'wrong'), ('nobody', PASSWORD), ('alice@nosuch', PASSWORD)):
        log_in(user, password)
        with pytest.raises(pynipap.NipapAuthenticationError):
            VRF.list()
    log_in('alice', authoritative_source=None)
    with pytest.raises(pynipap.NipapError, match='Missing authoritative source in auth options'):
        VRF.list()


def test_authentication_options(log_in: Callable[..., None], shared_dsn: str) -> None:
    """A trusted user acts for others, a user who is not trusted acts for nobody else."""
    on_behalf = {'username': 'bob', 'full_name': 'Bob Brown', 'readonly': False}
    log_in('gateway', authoritative_source='web', **on_behalf)
    assert prefix('10.0.0.0/8').authoritative_source == 'web'
    log_in('alice', **on_behalf)
    prefix('11.0.0.0/8')
    connection = psycopg2.connect(shared_dsn)
    with connection.cursor() as cursor:
        cursor.execute('SELECT username, authenticated_as, full_name, authoritative_source FROM audit_log ORDER BY id')
        audited = cursor.fetchall()
    connection.close()
    assert audited == [
        ('bob', 'gateway', 'Bob Brown', 'web'),
        ('alice', 'alice', 'Alice Smith', 'pynipap-test'),
    ]


def test_text_of_any_script() -> None:
    text = 'åäö <&> 漢字 🙂'
    made = prefix('10.0.0.0/8', comment=text, avps={text: text}, tags=tagged(text))
    uncached('Prefix')
    read = Prefix.get(made.id)
    assert (read.comment, read.avps, list(read.tags)) == (text, {text: text}, [text])
