"""The clients of the long run: processes that call the daemon, retry until they get an answer, and keep a book."""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import math
import multiprocessing
import random
import signal
import time
import xmlrpc.client
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any
from urllib.parse import unquote, urlsplit

from bench.soak_book import Book, Facts, Key, Lease

CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['xmlrpc.client', 'http.client'])

AUTH = {'authoritative_source': 'soak'}
AWAY, UNKNOWN = 1010, 1020  # the faults after which a call is retried
TIMEOUT_S = 60.0
PATIENCE_S = 180.0  # the time limit for the answer to a call, with all retries
NEAR_S = 3.0  # a call that begins within this time after a blow counts as beside the blow
SLOW_S, MOST_SLOW = 5.0, 100  # slow calls are listed
STEP = 1.05  # the ratio of one bucket of latencies to the bucket before
WRONG_LOGINS_S = 20.0  # between two wrong logins of all clients together: too few to be refused
MOST_TOLD = 20
SHARED = 'shared'
SHARED_MEMBERS = ('172.16.0.0/12', '2001:db8:ffff::/48')


class NotDoneError(Exception):
    """Nothing was changed: the call may be made again."""


class NoAnswerError(Exception):
    """The outcome of the call is unknown."""


class RefusedError(Exception):
    """A fault without an explanation."""


class Latencies:
    """Counts of milliseconds in buckets, so that millions of calls need little memory."""

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        self.most_ms = 0.0

    def add(self, ms: float) -> None:
        self.buckets[int(math.log(max(ms, 0.01)) / math.log(STEP))] += 1
        self.most_ms = max(self.most_ms, ms)

    def merge(self, other: Latencies) -> None:
        self.buckets += other.buckets
        self.most_ms = max(self.most_ms, other.most_ms)

    def percentile(self, percent: float) -> float:
        left = self.buckets.total() * percent / 100
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left < 0:
                break
        return min(STEP ** (bucket + 1), self.most_ms)


@dataclass
class Tally:
    """The results of one client."""

    calls: Counter[str] = field(default_factory=Counter)
    faults: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)  # of connections, and HTTP
    cuts: Counter[str] = field(default_factory=Counter)  # connections broken on purpose
    retries: int = 0
    unknown: int = 0
    wrong: list[str] = field(default_factory=list)
    # Time, milliseconds and kind of the first MOST_SLOW calls.
    slow: list[tuple[float, float, str]] = field(default_factory=list)
    latencies: dict[tuple[str, bool], Latencies] = field(default_factory=dict)  # by kind, and whether beside a blow

    def merge(self, other: Tally) -> None:
        for name in ('calls', 'faults', 'errors', 'cuts'):
            getattr(self, name).update(getattr(other, name))
        self.retries += other.retries
        self.unknown += other.unknown
        self.wrong += other.wrong
        self.slow += other.slow
        for key, latencies in other.latencies.items():
            self.latencies.setdefault(key, Latencies()).merge(latencies)


class Wire:
    """XML-RPC over one kept connection. Nothing is retried automatically."""

    def __init__(self, url: str, password: str | None = None) -> None:
        parts = urlsplit(url)
        user = f'{unquote(parts.username or "")}:{password or unquote(parts.password or "")}'
        self._http = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=TIMEOUT_S)
        login = base64.b64encode(user.encode()).decode()
        self._headers = {'Authorization': f'Basic {login}', 'Content-Type': 'text/xml'}

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, members: Facts, cut: str = '', wait_s: float = 0) -> Any:
        """Return the answer, or raise xmlrpc.client.Fault.

        With `cut` the connection is closed early, on purpose. `half`: after half of the request. `deaf`: before the
        answer. `bored`: in the answer.
        """
        body = xmlrpc.client.dumps(({'auth': AUTH, **members},), method, allow_none=True).encode()
        self._connect()
        try:
            status, reason, answer = self._exchange(body, cut, wait_s)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise NoAnswerError(type(error).__name__) from None
        except NoAnswerError:
            self.close()
            raise
        if status == http.client.SERVICE_UNAVAILABLE:
            raise NotDoneError(f'HTTP {status}')
        if status != http.client.OK:
            raise RefusedError(f'HTTP {status} {reason}')
        return xmlrpc.client.loads(answer, use_builtin_types=True)[0][0]

    def _connect(self) -> None:
        if self._http.sock is None:
            try:
                self._http.connect()
            except OSError as error:
                self.close()
                raise NotDoneError(f'connect: {type(error).__name__}') from None

    def _exchange(self, body: bytes, cut: str, wait_s: float) -> tuple[int, str, bytes]:
        headers = self._headers | {'Content-Length': str(len(body))}
        self._http.request('POST', '/XMLRPC', body[: len(body) // 2] if cut == 'half' else body, headers)
        if cut in ('half', 'deaf'):
            time.sleep(wait_s)
            raise NoAnswerError('cut')
        response = self._http.getresponse()
        if cut == 'bored':
            response.read(200)
            raise NoAnswerError('cut')
        return response.status, response.reason, response.read()


@dataclass
class Task:
    """The orders of a client process: the address of the daemon, the number of the client, and the end."""

    url: str
    number: int
    seed: int
    keyed: bool
    kept: int
    think_s: float
    stop: Event
    answered: Any  # an array of counters, one for each client
    last_blow: Any  # the time of the last blow, by the monotonic clock of this host


class Client:
    """One client: its own VRF and pool, and a part of the shared pool."""

    def __init__(self, task: Task) -> None:
        self.task, self.number = task, task.number
        self.random = random.Random(task.seed * 1000 + task.number)
        self.wire = Wire(task.url)
        self.book, self.tally = Book(), Tally()
        self.rt, self.vrf, self.pool = f'65000:{task.number}', f'vrf {task.number}', f'pool {task.number}'
        self.serial = 0
        self.next_wrong_login = 0.0
        self.leaves: list[Key] = []  # prefixes that are edited and removed one by one
        self.begun: dict[Key, float] = {}  # leases from the shared pool, with their begin
        self.named: dict[Key, str] = {}  # prefixes that move, with their network
        self.trees: list[tuple[Key, list[Key]]] = []
        self.covers: list[Key] = []
        self.others: list[Key] = []  # short-lived VRFs, pools and AS numbers

    # ------------------------------------------------------------------------------------------ calling

    def name(self) -> str:
        """Return a name that is unique in this run."""
        self.serial += 1
        return f'c{self.number}-{self.serial}'

    def change(self, kind: str, method: str, **members: Any) -> Any:
        """Make a change and return its answer.

        With a key, retry until it is answered. Without a key, raise NoAnswerError when the outcome is unknown.
        """
        if self.task.keyed:
            members['idempotency_key'] = self.name()
        return self._insist(kind, method, members, again_unknown=self.task.keyed, cuts=('half', 'deaf'))

    def look(self, kind: str, method: str, **members: Any) -> Any:
        """Return the answer to a read-only call, retried until it is answered."""
        return self._insist(kind, method, members, again_unknown=True, cuts=('half', 'deaf', 'bored'))

    def _insist(self, kind: str, method: str, members: Facts, again_unknown: bool, cuts: tuple[str, ...]) -> Any:
        begin = time.monotonic()
        cut = self.random.choice(cuts) if self.random.random() < 0.01 else ''
        while True:
            try:
                answer = self._try(method, members, cut)
                break
            except NotDoneError:
                pass
            except NoAnswerError:
                if not again_unknown:
                    raise
            cut = ''
            self.tally.retries += 1
            if time.monotonic() - begin > PATIENCE_S:
                raise RefusedError(f'{method} {members} is not answered within {PATIENCE_S:.0f} s')
            time.sleep(self.random.uniform(0.02, 0.2))
        self._note(kind, begin)
        return answer

    def _try(self, method: str, members: Facts, cut: str) -> Any:
        """Make one attempt, and sort faults into errors that may be retried or not."""
        try:
            return self.wire.call(method, members, cut, self.random.uniform(0, 0.03))
        except xmlrpc.client.Fault as fault:
            self.tally.faults[fault.faultCode] += 1
            if fault.faultCode == AWAY:
                raise NotDoneError(fault.faultString) from None
            if fault.faultCode == UNKNOWN:
                raise NoAnswerError(fault.faultString) from None
            raise RefusedError(f'{method} {members}: {fault.faultCode} {fault.faultString}') from None
        except (NotDoneError, NoAnswerError) as error:
            if str(error) == 'cut':
                self.tally.cuts[cut] += 1
            else:
                self.tally.errors[str(error)] += 1
            raise
        finally:
            if self.random.random() < 0.2:
                self.wire.close()

    def _note(self, kind: str, begin: float) -> None:
        end = time.monotonic()
        near = begin - self.task.last_blow.value < NEAR_S
        if end - begin > SLOW_S and len(self.tally.slow) < MOST_SLOW:
            self.tally.slow.append((begin, (end - begin) * 1000, kind))
        self.tally.calls[kind] += 1
        self.tally.latencies.setdefault((kind, near), Latencies()).add((end - begin) * 1000)
        self.task.answered[self.number] += 1

    def wrong(self, what: str) -> None:
        self.tally.wrong.append(f'client {self.number}: {what}')

    # ------------------------------------------------------------------------------------------ the run

    def run(self) -> None:
        """Make random calls until `stop` is set."""
        self.settle()
        weights, works = zip(*(WORKS if self.task.keyed else WORKS_WITHOUT_KEY), strict=True)
        while not self.task.stop.is_set():
            (work,) = self.random.choices(works, weights)
            try:
                work(self)
            except NoAnswerError:
                self.tally.unknown += 1
            except RefusedError as refused:
                self.wrong(str(refused))
            if len(self.tally.wrong) >= MOST_TOLD:
                self.wrong('too many errors: this client has stopped')
                break
            time.sleep(self.random.uniform(0, 2 * self.task.think_s))
        self.book.leases += [self._lease(key, math.inf) for key in self.begun]
        self.wire.close()

    def settle(self) -> None:
        """Make the VRF, the pool and the blocks that last, always with keys."""
        keyed, self.task.keyed = self.task.keyed, True
        self.book.add('vrf', self.change('add_vrf', 'add_vrf', attr={'rt': self.rt, 'name': self.vrf}))
        lengths = {'ipv4_default_prefix_length': 28, 'ipv6_default_prefix_length': 64}
        attr = {'name': self.pool, 'description': 'own', 'default_type': 'assignment', **lengths}
        self.book.add('pool', self.change('add_pool', 'add_pool', attr=attr))
        for network in ('10.0.0.0/12', '2001:db8:1::/48'):
            self.add(prefix=network, type='reservation', pool_name=self.pool)
        for network in ('10.16.0.0/12', '2001:db8:2::/48', '10.32.0.0/12', '10.48.0.0/12'):
            self.add(prefix=network, type='reservation')
        self.task.keyed = keyed

    # ------------------------------------------------------------------------------------------ prefixes

    def add(self, args: Facts | None = None, kind: str = 'add_prefix', own: bool = True, **attr: Any) -> Key:
        """Add or allocate a prefix, and note it.

        `own`: put the prefix into the client's own VRF.
        """
        name = self.name()
        attr = {'description': name, **({'vrf_rt': self.rt} if own else {}), **attr}
        members = {'attr': attr} if args is None else {'attr': attr, 'args': args}
        try:
            answer = self.change(kind, 'add_prefix', **members)
        except NoAnswerError:
            self.book.perhaps_added.add(name)
            raise
        return self.note(name, answer)

    def note(self, name: str, answer: Any) -> Key:
        key = self.book.add('prefix', answer)
        if answer['description'] != name:
            self.wrong(f'{name} got the answer {answer}')
        return key

    def allocate(self) -> None:
        """Allocate from the own pool or an own prefix, of either family."""
        if len(self.leaves) >= self.task.kept:
            return self.remove_leaf()
        tags: Facts = {'tags': [f'tag{self.random.randrange(20)}']} if self.random.random() < 0.2 else {}
        if self.random.random() < 0.5:
            family = self.random.choice((4, 6))
            args = {'from-pool': {'name': self.pool}, 'family': family}
            key = self.add(args, 'add_prefix from pool', own=False, **tags)
        else:
            network, length = self.random.choice((('10.16.0.0/12', 30), ('2001:db8:2::/48', 64)))
            args = {'from-prefix': [network], 'prefix_length': length}
            key = self.add(args, 'add_prefix from prefix', type='assignment', **tags)
        self.leaves.append(key)

    def share(self) -> None:
        """Allocate from the shared pool, or give an allocation back."""
        if len(self.begun) >= self.task.kept // 2:
            return self.give_back()
        args = {'from-pool': {'name': SHARED}, 'family': self.random.choice((4, 6))}
        key = self.add(args, 'add_prefix from shared pool', own=False)
        self.begun[key] = time.monotonic()

    def give_back(self) -> None:
        key = self.random.choice(list(self.begun))
        self.book.leases.append(self._lease(key, time.monotonic()))
        del self.begun[key]
        self.remove(key)

    def _lease(self, key: Key, end: float) -> Lease:
        facts = self.book.facts[key]
        return Lease(facts['prefix'], facts['description'], self.begun[key], end)

    def remove(self, key: Key, kind: str = 'remove_prefix', within: list[Key] | None = None) -> None:
        """Remove a prefix, and recursively the prefixes in `within` if it is given."""
        members = {'prefix': {'id': key[1]}, **({} if within is None else {'recursive': True})}
        keys = [key, *(within or ())]
        try:
            self.change(kind, 'remove_prefix', **members)
        except NoAnswerError:
            for one in keys:
                self.book.lose_sight(one)
            raise
        for one in keys:
            self.book.remove(one)

    def remove_leaf(self) -> None:
        if self.leaves:
            key = self.leaves.pop(self.random.randrange(len(self.leaves)))
            self.named.pop(key, None)
            self.remove(key)

    def add_named(self) -> None:
        """Add a prefix at a place of the client's own choice, which may be under a cover."""
        if len(self.named) >= self.task.kept // 2:
            return
        network = self.place()
        key = self.add(prefix=network, type='assignment')
        self.named[key] = network
        self.leaves.append(key)

    def place(self) -> str:
        """Return a free /28 of the own block."""
        taken = set(self.named.values())
        while True:
            number = self.random.randrange(2**16)
            network = f'{ipaddress.ip_address("10.32.0.0") + number * 16}/28'
            if network not in taken:
                return network

    def move(self) -> None:
        """Give a prefix another place."""
        if self.named:
            key = self.random.choice(list(self.named))
            network = self.place()
            self.edit(key, 'edit_prefix, move', {'prefix': network})
            self.named[key] = network

    def edit_leaf(self) -> None:
        keys = [key for key in self.leaves if key not in self.book.perhaps_changed]
        if keys:
            tags = [f'tag{self.random.randrange(20)}']
            changes = self.random.choice(({'comment': self.name()}, {'comment': self.name(), 'tags': tags}))
            self.edit(self.random.choice(keys), 'edit_prefix', changes)

    def edit(self, key: Key, kind: str, changes: Facts) -> None:
        try:
            (answer,) = self.change(kind, 'edit_prefix', prefix={'id': key[1]}, attr=changes)
        except NoAnswerError:
            self.book.perhaps_changed[key] = self.book.facts[key] | changes
            raise
        self.book.change(key, changes)
        self.compare(key, answer)

    def compare(self, key: Key, answer: Any) -> None:
        facts = self.book.facts[key]
        told = {name: answer[name] for name in facts}
        if told not in (facts, self.book.perhaps_changed.get(key, facts)):
            self.wrong(f'{key} was answered with {told} instead of {facts}')

    def cover(self) -> None:
        """Put a reservation above some prefixes, or remove the oldest of these reservations."""
        if len(self.covers) >= 8:
            return self.remove(self.covers.pop(0), 'remove_prefix above others')
        used = {self.book.facts[key]['prefix'] for key in self.covers}
        network = f'10.{32 + self.random.randrange(16)}.{self.random.randrange(4) * 64}.0/18'
        if network not in used:
            self.covers.append(self.add(prefix=network, type='reservation', kind='add_prefix above others'))

    def tree(self) -> None:
        """Add a reservation with assignments and hosts in a batch, or remove the oldest such tree recursively."""
        if len(self.trees) >= 8:
            root, within = self.trees.pop(0)
            return self.remove(root, 'remove_prefix recursive', within)
        used = {self.book.facts[root]['prefix'] for root, _ in self.trees}
        head = f'10.{48 + self.random.randrange(16)}.{self.random.randrange(256)}'
        if f'{head}.0/24' in used:
            return None
        wanted = [(f'{head}.0/24', 'reservation')]
        for number in range(0, 256, 64):
            wanted.append((f'{head}.{number}/26', 'assignment'))
            wanted += [(f'{head}.{number + host}/32', 'host') for host in (1, 2)]
        names = [self.name() for _ in wanted]
        attrs = [
            {'prefix': network, 'type': type_, 'description': name, 'vrf_rt': self.rt}
            for (network, type_), name in zip(wanted, names, strict=True)
        ]
        operations = [{'method': 'add_prefix', 'args': {'attr': attr}} for attr in attrs]
        answers = self.change('batch of additions', 'batch', operations=operations)
        root, *within = [self.note(name, answer) for name, answer in zip(names, answers, strict=True)]
        self.trees.append((root, within))
        return None

    def batch(self) -> None:
        """Allocate a prefix and edit it in one batch."""
        if len(self.leaves) >= self.task.kept:
            return self.remove_leaf()
        name, comment = self.name(), self.name()
        add = {'attr': {'description': name}, 'args': {'from-pool': {'name': self.pool}, 'family': 4}}
        edit = {'prefix': {'id': {'$result': [0, 'id']}}, 'attr': {'comment': comment}}
        operations = [{'method': 'add_prefix', 'args': add}, {'method': 'edit_prefix', 'args': edit}]
        answer, _ = self.change('batch with a reference', 'batch', operations=operations)
        key = self.note(name, answer)
        self.book.change(key, {'comment': comment})
        self.leaves.append(key)
        return None

    # ------------------------------------------------------------------------------------------ other objects

    def other(self) -> None:
        """Make and edit a VRF with prefixes, a pool with a member or an AS number, or remove the oldest."""
        if len(self.others) >= 6:
            return self.remove_other()
        kind = self.random.choice(('vrf', 'pool', 'asn'))
        name = self.name()
        number = self.number * 10_000_000 + self.serial + 1
        attrs: dict[str, Facts] = {
            'vrf': {'rt': f'{64000 + self.number}:{self.serial}', 'name': name},
            'pool': {'name': name, 'description': 'd', 'default_type': 'assignment', 'ipv4_default_prefix_length': 30},
            'asn': {'asn': number, 'name': name},
        }
        attr = attrs[kind]
        key = self.book.add(kind, self.change(f'add_{kind}', f'add_{kind}', attr=attr))
        self.others.append(key)
        if kind == 'vrf':
            for network in ('10.0.0.0/8', '10.1.0.0/16'):
                self.add(own=False, prefix=network, type='reservation', vrf_rt=attr['rt'])
        if kind != 'asn':
            changes = {'description': self.name()}
            self.change(f'edit_{kind}', f'edit_{kind}', **{kind: {'id': key[1]}, 'attr': changes})
            self.book.change(key, changes)
        return None

    def remove_other(self) -> None:
        """Remove the oldest object. A VRF takes its prefixes along."""
        kind, number = key = self.others.pop(0)
        spec = {'asn' if kind == 'asn' else 'id': number}
        self.change(f'remove_{kind}', f'remove_{kind}', **{kind: spec})
        self.book.remove(key)
        if kind == 'vrf':
            facts = self.book.facts
            for one in [one for one in facts if one[0] == 'prefix' and facts[one]['vrf_id'] == number]:
                self.book.remove(one)

    # ------------------------------------------------------------------------------------------ reading

    def read_one(self) -> None:
        """Compare a stored prefix with the book."""
        if self.leaves:
            key = self.random.choice(self.leaves)
            found = self.look('list_prefix', 'list_prefix', prefix={'id': key[1]})
            if len(found) == 1:
                self.compare(key, found[0])
            else:
                self.wrong(f'{key} was answered with {found}')

    def read_all(self) -> None:
        """List the own VRF and everything, and compare the own VRF with the book."""
        mine = self.look('list_prefix, a VRF', 'list_prefix', prefix={'vrf_rt': self.rt})
        vrf = mine[0]['vrf_id']
        self.same('list_prefix', {row['id'] for row in mine}, vrf)
        options = {'max_result': 5000}
        query = {'operator': 'and', 'val1': self.query('equals', 'vrf_rt', self.rt)}
        query['val2'] = self.query('contained_within_equals', 'prefix', '10.0.0.0/8')
        found = self.look('search_prefix, a block', 'search_prefix', query=query, search_options=options)['result']
        expected = {row['id'] for row in mine if row['family'] == 4}
        if {row['id'] for row in found} != expected:
            self.wrong(f'search_prefix found {len(found)} instead of {len(expected)}')
        if self.random.random() < 0.5:
            self.look('list_prefix, all', 'list_prefix')

    def same(self, what: str, ids: set[int], vrf: int) -> None:
        facts, doubt = self.book.facts, self.book.perhaps_gone
        expected = {key[1] for key in facts if key[0] == 'prefix' and facts[key]['vrf_id'] == vrf}
        unsure = {key[1] for key in doubt}
        if not self.book.perhaps_added and ids | unsure != expected | unsure:
            self.wrong(
                f'{what}: missing ids {sorted(expected - ids - unsure)}, extra ids {sorted(ids - expected - unsure)}'
            )

    def count(self) -> None:
        """Compare the totals of the own VRF and pool with the book."""
        (vrf,) = self.look('list_vrf', 'list_vrf', vrf={'rt': self.rt})
        (pool,) = self.look('list_pool', 'list_pool', pool={'name': self.pool})
        if self.book.unknown:
            return
        networks = [facts['prefix'] for key, facts in self.book.facts.items() if facts.get('vrf_id') == vrf['id']]
        for family, block in ((4, ipaddress.ip_network('10.0.0.0/12')), (6, ipaddress.ip_network('2001:db8:1::/48'))):
            mine = [one for one in map(ipaddress.ip_network, networks) if one.version == family]
            inside = len([one for one in mine if one != block and one.subnet_of(block)])  # type: ignore[arg-type]
            told = int(vrf[f'num_prefixes_v{family}']), int(pool[f'used_prefixes_v{family}'])
            if told != (len(mine), inside):
                self.wrong(f'totals of family {family}: {told} instead of {(len(mine), inside)}')

    def query(self, operator: str, name: str, value: object) -> Facts:
        return {'operator': operator, 'val1': name, 'val2': value}

    def search(self) -> None:
        """Make searches of all kinds, and ignore their answers."""
        query, options = self.query, {'max_result': self.random.choice((1, 50, 1000))}
        queries = (
            query('equals', 'type', 'host'),
            query('regex_match', 'description', f'c{self.number}-.*7$'),
            query('contains', 'prefix', f'10.{self.random.randrange(64)}.1.1'),
            query('equals_any', 'tags', f'tag{self.random.randrange(20)}'),
            {
                'operator': 'or',
                'val1': query('equals', 'pool_name', SHARED),
                'val2': query('like', 'comment', f'c{self.number}%'),
            },
        )
        self.look('search_prefix', 'search_prefix', query=self.random.choice(queries), search_options=options)
        kind = self.random.choice(('vrf', 'pool', 'asn'))
        self.look(f'search_{kind}', f'search_{kind}', query=query('regex_match', 'name', '1'), search_options=options)
        self.look('search_tag', 'search_tag', query=query('regex_match', 'name', 'tag'), search_options={})

    def smart_search(self) -> None:
        texts = (
            f'10.{self.random.randrange(64)}.1.1',
            '10.16/12',
            'customer',
            f'#tag{self.random.randrange(20)}',
            '(',
            SHARED,
        )
        options = {'max_result': 100, 'parents_depth': self.random.choice((0, -1))}
        text = self.random.choice(texts)
        self.look('smart_search_prefix', 'smart_search_prefix', query_string=text, search_options=options)
        kind = self.random.choice(('vrf', 'pool', 'asn'))
        self.look(f'smart_search_{kind}', f'smart_search_{kind}', query_string=text, search_options={})

    def free(self) -> None:
        args = {'from-pool': {'name': SHARED}, 'family': self.random.choice((4, 6)), 'count': 20}
        self.look('find_free_prefix', 'find_free_prefix', vrf=None, args=args)

    def echo(self) -> None:
        told = self.look('echo', 'echo', message=self.serial, sleep=self.random.choice((0.05, 0.3, 1)))
        if told != self.serial:
            self.wrong(f'{told} is not the echo of {self.serial}')

    def log_in_wrongly(self) -> None:
        """Log in with a wrong password, seldom enough to avoid a lock-out. A success is wrong."""
        if self.number or time.monotonic() < self.next_wrong_login:
            return
        self.next_wrong_login = time.monotonic() + WRONG_LOGINS_S
        with contextlib.closing(Wire(self.task.url, password='wrong')) as wire:
            try:
                wire.call('version', {})
                self.wrong('a wrong password was accepted')
            except xmlrpc.client.Fault as fault:
                self.tally.faults[fault.faultCode] += 1
                if fault.faultCode not in (1510, AWAY):
                    self.wrong(f'a wrong password got fault {fault.faultCode} {fault.faultString}')
            except (NotDoneError, NoAnswerError) as error:
                self.tally.errors[str(error)] += 1
        self.tally.calls['wrong login'] += 1


Work = Callable[[Client], None]
LOOKING: tuple[tuple[float, Work], ...] = (
    (12, Client.read_one),
    (0.5, Client.read_all),
    (4, Client.count),
    (4, Client.search),
    (4, Client.smart_search),
    (2, Client.free),
    (0.7, Client.echo),
    (0.5, Client.log_in_wrongly),
)
CHANGING: tuple[tuple[float, Work], ...] = (
    (10, Client.allocate),
    (6, Client.share),
    (8, Client.edit_leaf),
    (4, Client.remove_leaf),
    (2, Client.add_named),
)
KEYED_ONLY: tuple[tuple[float, Work], ...] = (
    (3, Client.move),
    (2, Client.cover),
    (2, Client.tree),
    (4, Client.batch),
    (2, Client.other),
)
WORKS = (*LOOKING, *CHANGING, *KEYED_ONLY)
WORKS_WITHOUT_KEY = (*LOOKING, *(pair for pair in CHANGING if pair[1] is not Client.add_named))


def serve(pipe: Connection, task: Task) -> None:
    """Run a client in this process, and send its book and its tally at the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process sets `stop`
    client = Client(task)
    client.run()
    pipe.send((client.book, client.tally))


def received(pipe: Connection) -> tuple[Book, Tally] | None:
    try:
        book, tally = pipe.recv()
    except EOFError:
        return None
    return book, tally


@contextlib.contextmanager
def running(tasks: list[Task]) -> Iterator[Callable[[], list[tuple[Book, Tally] | None]]]:
    """Run client processes. Yield a function that waits for their books after `stop` is set.

    A result of None means that a client has died.
    """
    pipes: list[Connection] = []
    processes = []
    for task in tasks:
        ours, theirs = CONTEXT.Pipe(duplex=False)
        processes.append(CONTEXT.Process(target=serve, args=(theirs, task), daemon=True))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    try:
        yield lambda: [received(pipe) for pipe in pipes]
    finally:
        for process in processes:
            process.join(1)
            process.kill()
