"""Plans: the consequences of a change, reported before it is rolled back, and the tokens that hold a change to a plan.

A dry run makes a change, reports it and rolls it back. Its token identifies the plan by digests, and the call by its
user, name and members. A change that is sent with the token is committed only if its own digests are the same. Ids of
new objects and times differ from one run to the next, so digests ignore them. Tokens are signed and stored nowhere.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from nipap.attributes import shown
from nipap.errors import NipapError, NipapPlanChangedError, NipapPlanError
from nipap.history import events
from nipap.history.idempotency import fingerprint
from nipap.postgres.transaction import Transaction

Object = dict[str, Any]

READY = 'SELECT make_plan_tables()'
MOST_LISTED = 1000  # items of each list of a plan
MOST_ERRORS = 1000
VALID_S = 3600

_MOST_REMEMBERED = 50  # items of each list that a token may hold, to name differences
_LARGEST_TOKEN = 1400  # bytes of a token with them
_MOST_DIFFERENCES = 20
_MOST_NAMED = 3  # differences in the text of an error
_TIMES = ('added', 'last_modified')
_TAG = 16  # bytes of the signature
_VERSION = 1


# ---------------------------------------------------------------- consequences


@dataclass
class _Section:
    """A digest of one list of a plan, its length, and its items if they are few."""

    length: int = 0
    items: list[Any] | None = field(default_factory=list)
    _hash: Any = field(default_factory=hashlib.sha256)

    def add(self, item: Any) -> None:
        """Add an item in the form in which it is the same for two runs."""
        self._hash.update(orjson.dumps(item, option=orjson.OPT_SORT_KEYS))
        self.length += 1
        if self.items is not None:
            self.items.append(item)
            if len(self.items) > _MOST_REMEMBERED:
                self.items = None

    def add_rest(self, number: int, digest: str | None) -> None:
        """Add items beyond the listed ones by their digest."""
        if number:
            self._hash.update(f'{number} {digest}'.encode())
            self.length += number
            self.items = None

    @property
    def digest(self) -> str:
        return str(self._hash.hexdigest()[:32])


_SECTIONS = ('changes', 'moved', 'counters')


@dataclass(frozen=True)
class Consequences:
    """The consequences of a change: the members of a plan, and what its token is made of.

    counts: the number of changes by kind. not_shown: the number of items that each list lacks.
    """

    changes: list[Object]
    moved: list[Object]
    counters: list[Object]
    counts: Mapping[str, int]
    not_shown: Mapping[str, int]
    webhooks: list[Object]
    sections: Mapping[str, _Section]
    secret: bytes


def begin(tx: Transaction) -> None:
    """Begin to note the consequences of the change of a transaction."""
    tx.ahead('SELECT plan_begin()')


def made(tx: Transaction) -> Consequences:
    """Return the consequences of the change of a transaction."""
    found = orjson.loads(tx.value('SELECT plan_made(%s)', (MOST_LISTED,)))
    sections = {name: _Section() for name in _SECTIONS}
    entries, tree = found['entries'] or [], found['tree'] or _NO_TREE
    counts = found['counts'] or Counter(entry[0] for entry in entries)
    changes = _changes(entries, sections['changes'])
    moved = [_moved(row, sections['moved']) for row in tree['moved'] or ()]
    counters = [
        item
        for item in (
            *_vrf_counters(found['vrfs'] or ()),
            *(_prefix_counters(*row) for row in tree['counters'] or ()),
            *_pool_counters(found['pools'] or ()),
        )
        if item['after']
    ]
    for item in counters:
        sections['counters'].add(_alike_counters(item))
    not_shown = {
        'changes': sum(counts.values()) - len(changes),
        'moved': tree['moves'] - len(moved),
        'counters': tree['counts'] - len(tree['counters'] or ()),
    }
    for name, rest in (
        ('changes', found['rest']),
        ('moved', tree['other_moves']),
        ('counters', tree['other_counters']),
    ):
        sections[name].add_rest(not_shown[name], rest)
    webhooks = [{'id': i, 'url': url} for i, url in found['webhooks'] or ()]
    secret = bytes.fromhex(found['secret'])
    return Consequences(changes, moved, counters, counts, not_shown, webhooks, sections, secret)


_NO_TREE: Object = {
    'moved': None,
    'moves': 0,
    'other_moves': None,
    'counters': None,
    'counts': 0,
    'other_counters': None,
}


def _changes(entries: list[list[Any]], section: _Section) -> list[Object]:
    new: dict[tuple[str, int], str] = {}
    items = []
    for kind, key, action, before, after in entries:
        if action == 'add':
            new.setdefault((kind, key), f'new {len(new) + 1}')
        section.add(
            [kind, new.get((kind, key), key), action, _alike(before, kind, new), _alike(after, kind, new, after=True)]
        )
        differences = events.changes(before, after) if before and after else {}
        items.append(
            {'kind': kind, 'id': key, 'action': action, 'before': before, 'after': after, 'changes': differences}
        )
    return items


def _alike(
    state: Object | None, kind: str, new: Mapping[tuple[str, int], str], *, after: bool = False
) -> Object | None:
    """Return the state of an object in the form in which it is the same for two runs of a change."""
    if state is None:
        return None
    found = {**state}
    for name in _TIMES:
        found.pop(name, None)
    if after:
        # A date in words, such as "in 2 hours", is another one each time. The members of the call are compared anyway.
        found.pop('expires', None)
    if new:
        for name, other in (('id', kind), ('vrf_id', 'vrf'), ('pool_id', 'pool')):
            if (other, found.get(name)) in new:
                found[name] = new[other, found[name]]
    return found


def _moved(row: list[Any], section: _Section) -> Object:
    i, vrf_id, network, former, former_prefix, parent, parent_prefix = row
    section.add([vrf_id, network, former_prefix, parent_prefix])
    return {
        'id': i,
        'vrf_id': vrf_id,
        'prefix': network,
        'parent_before': None if former is None else {'id': former, 'prefix': former_prefix},
        'parent_after': None if parent is None else {'id': parent, 'prefix': parent_prefix},
    }


def _counters(kind: str, key: int, name: str, before: Object, after: Object) -> Object:
    """Return the counters of an object that differ."""
    names = [figure for figure in after if before.get(figure) != after[figure]]
    before, after = ({figure: state.get(figure) for figure in names} for state in (before, after))
    return {'kind': kind, 'id': key, 'name': name, 'before': before, 'after': after}


def _alike_counters(item: Object) -> list[Any]:
    """Return counters in the form in which they are the same for two runs of a change.

    The counters of a VRF move with every change in it, so only their differences count.
    """
    kind, key, name, before, after = item.values()
    if kind == 'vrf':
        return [kind, key, name, {figure: str(int(after[figure]) - int(before[figure])) for figure in after}]
    return [kind, key, name, before, after]


def _prefix_counters(
    key: int, network: str, children: int, total: str, used: str, children_after: int, total_after: str, used_after: str
) -> Object:
    return _counters(
        'prefix',
        key,
        network,
        _prefix_figures(children, total, used),
        _prefix_figures(children_after, total_after, used_after),
    )


def _prefix_figures(children: int, total: str, used: str) -> Object:
    free = str(int(total) - int(used))
    return {'children': children, 'total_addresses': total, 'used_addresses': used, 'free_addresses': free}


def _vrf_counters(rows: Sequence[list[Any]]) -> Iterator[Object]:
    states: dict[int, tuple[str, Object, Object]] = {}
    for key, name, family, num, total, used, num_after, total_after, used_after in rows:
        _, before, after = states.setdefault(key, (name, {}, {}))
        now, step = (int(num_after), int(total_after), int(used_after)), (int(num), int(total), int(used))
        before |= _vrf_figures(family, *(a - b for a, b in zip(now, step, strict=True)))
        after |= _vrf_figures(family, *now)
    return (_counters('vrf', key, *state) for key, state in states.items())


def _vrf_figures(family: int, num: int, total: int, used: int) -> Object:
    return {
        f'num_prefixes_v{family}': str(num),
        f'total_addresses_v{family}': str(total),
        f'used_addresses_v{family}': str(used),
        f'free_addresses_v{family}': str(total - used),
    }


def _pool_counters(rows: Sequence[list[Any]]) -> Iterator[Object]:
    states: dict[int, tuple[str, Object, Object]] = {}
    for key, name, planned, family, members, used, total, free, blocks in rows:
        _, before, after = states.setdefault(key, (name, _no_members(), _no_members()))
        state = after if planned else before
        state |= _pool_figures(family, members, used, int(total), int(free), blocks)
    return (_counters('pool', key, *state) for key, state in states.items())


def _no_members() -> Object:
    return _pool_figures(4, 0, 0, 0, 0, None) | _pool_figures(6, 0, 0, 0, 0, None)


def _pool_figures(family: int, members: int, used: int, total: int, free: int, blocks: str | None) -> Object:
    return {
        f'member_prefixes_v{family}': str(members),
        f'used_prefixes_v{family}': str(used),
        f'free_prefixes_v{family}': blocks,
        f'total_prefixes_v{family}': None if blocks is None else str(used + int(blocks)),
        f'total_addresses_v{family}': str(total),
        f'used_addresses_v{family}': str(total - free),
        f'free_addresses_v{family}': str(free),
    }


# ---------------------------------------------------------------- errors


class Errors:
    """The errors of a dry run: `MOST_ERRORS` of them are listed, the others counted."""

    def __init__(self) -> None:
        self.listed: list[Object] = []
        self.not_shown = 0

    def __bool__(self) -> bool:
        return bool(self.listed)

    def clear(self) -> None:
        """Forget all errors."""
        self.listed.clear()
        self.not_shown = 0

    def note(
        self, error: NipapError, position: int | None = None, method: str | None = None, depends_on: int | None = None
    ) -> None:
        """Note an error and the errors attached to it. depends_on: the failed operation that is the reason."""
        for each in (error, *error.others):
            if len(self.listed) >= MOST_ERRORS:
                self.not_shown += 1
                continue
            self.listed.append(
                {
                    'code': each.code,
                    'message': str(each),
                    'attribute': each.attribute,
                    'position': position,
                    'method': method,
                    'depends_on': depends_on,
                }
            )


# ---------------------------------------------------------------- the answer


class Signer(NamedTuple):
    """The user and the call to which a token belongs."""

    authenticated_as: str
    predecessors: int
    username: str
    call: str
    members: Mapping[str, Any]

    @property
    def user(self) -> list[Any]:
        return [self.authenticated_as, self.predecessors, self.username]

    @property
    def digest(self) -> str:
        return fingerprint('', self.call, self.members).hex()[:32]


def answer(
    found: Consequences | None,
    errors: Errors,
    result: Any,
    right: str,
    signer: Signer,
    *,
    sees_webhooks: bool,
) -> Object:
    """Return the answer of a dry run. found: None if there are errors, and nothing was changed."""
    kinds = {kind: n for kind, n in (found.counts if found else {}).items() if kind in events.KINDS}
    hooks = found.webhooks if found else []
    told: Object = {
        'dry_run': True,
        'right': right,
        'answer': None if errors else result,
        'changes': found.changes if found else [],
        'changes_not_shown': found.not_shown['changes'] if found else 0,
        'moved': found.moved if found else [],
        'moved_not_shown': found.not_shown['moved'] if found else 0,
        'counters': found.counters if found else [],
        'counters_not_shown': found.not_shown['counters'] if found else 0,
        'events': {'number': sum(kinds.values()), 'kinds': kinds},
        'webhooks': {'number': len(hooks), **({'called': hooks} if sees_webhooks else {})},
        'errors': sorted(errors.listed, key=lambda each: each['position'] or 0),
        'errors_not_shown': errors.not_shown,
    }
    if found is not None and not errors:
        told['plan'] = token(found, signer)
    return told


# ---------------------------------------------------------------- tokens


class Plan(NamedTuple):
    """The contents of a token: the lengths and digests of the lists, and their items if they are few."""

    lengths: Sequence[int]
    digests: Sequence[str]
    items: Sequence[list[Any]] | None


def token(found: Consequences, signer: Signer, clock: Callable[[], float] = time.time) -> str:
    """Return the token of a plan."""
    sections = [found.sections[name] for name in _SECTIONS]
    items = [section.items for section in sections]
    lengths, digests = [section.length for section in sections], [section.digest for section in sections]
    content = [_VERSION, int(clock()) + VALID_S, signer.user, signer.call, signer.digest, lengths, digests, items]
    body = b'' if None in items else zlib.compress(orjson.dumps(content))
    if not 0 < len(body) <= _LARGEST_TOKEN:
        body = zlib.compress(orjson.dumps([*content[:-1], None]))
    return _written(_tag(found.secret, body) + body)


def opened(tx: Transaction, text: str, signer: Signer, clock: Callable[[], float] = time.time) -> Plan:
    """Return the contents of a token.

    :raises NipapPlanError: the token is not ours, has expired, or belongs to another user or call.
    """
    secret = bytes.fromhex(tx.value("SELECT encode(secret, 'hex') FROM plan_key") or '')
    content = _content(text, secret)
    if content is None:
        raise _refused(f'Invalid plan ({shown(text)}), it was not made here, was altered, or is older than a restore')
    _, expires, user, call, members, *plan = content
    if clock() > expires:
        raise _refused(
            f'The plan has expired, it was valid until {datetime.fromtimestamp(expires, UTC):%Y-%m-%dT%H:%M:%SZ}'
        )
    if user != signer.user:
        raise _refused('The plan was made by another user')
    if call != signer.call:
        raise _refused(f'The plan is one of {call}, not of {signer.call}')
    if members != signer.digest:
        raise _refused(f'The plan is one of {call} with other members')
    return Plan(*plan)


def end_all(tx: Transaction) -> None:
    """Make a new key, so that no token is valid any more."""
    tx.execute(f'DELETE FROM plan_key; {_NEW_KEY}')


_NEW_KEY = """INSERT INTO plan_key
SELECT decode(string_agg(replace(gen_random_uuid()::text, '-', ''), ''), 'hex') FROM generate_series(1, 3)"""


def _refused(text: str) -> NipapPlanError:
    return NipapPlanError(f'{text}: make a dry run again').about('plan')


def _tag(secret: bytes, body: bytes) -> bytes:
    return hmac.new(secret, body, hashlib.sha256).digest()[:_TAG]


def _written(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip('=')


def _content(text: str, secret: bytes) -> list[Any] | None:
    """Return the contents of a token; None if it was not signed with this secret."""
    try:
        sent = base64.b64decode(text + '=' * (-len(text) % 4), altchars=b'-_', validate=True)
    except ValueError:
        return None
    body = sent[_TAG:]
    if not hmac.compare_digest(sent[:_TAG], _tag(secret, body)):
        return None
    content: list[Any] = orjson.loads(zlib.decompress(body))
    return content if content[0] == _VERSION else None


# ---------------------------------------------------------------- differences


def compare(plan: Plan, found: Consequences) -> None:
    """Refuse a change that is not as planned.

    :raises NipapPlanChangedError: naming the differences.
    """
    sections = [found.sections[name] for name in _SECTIONS]
    if [section.digest for section in sections] == list(plan.digests):
        return
    nothing: list[list[Any] | None] = [None] * len(sections)
    remembered = plan.items or nothing
    told = [
        text
        for name, planned, digest, was, section in zip(
            _SECTIONS, plan.lengths, plan.digests, remembered, sections, strict=True
        )
        if digest != section.digest
        for text in _differences(name, planned, was, section)
    ]
    named = '; '.join(told[:_MOST_NAMED])
    more = f' (and {len(told) - _MOST_NAMED} more)' if len(told) > _MOST_NAMED else ''
    text = f'The change would not be as planned, and was not made: {named}{more}'
    raise NipapPlanChangedError(text, tuple(told[:_MOST_DIFFERENCES])).about('plan')


def _differences(name: str, planned: int, was: list[Any] | None, now: _Section) -> list[str]:
    if was is None or now.items is None:
        if planned == now.length:
            return [f'{name}: {planned} were planned, and some of them differ now']
        return [f'{name}: {planned} were planned, now there are {now.length}']
    keyed, label = _KEYED[name]
    before, after = _by_key(was, keyed), _by_key(now.items, keyed)
    told = []
    for key in dict.fromkeys((*before, *after)):
        if key not in after:
            told.append(f'{label(before[key])} was planned, and is missing now')
        elif key not in before:
            told.append(f'{label(after[key])} was not planned')
        else:
            told += [f'{label(before[key])}: {text}' for text in _attributes(before[key], after[key])]
    return told


def _by_key(items: list[Any], keyed: Callable[[Any], Any]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for item in items:
        key = (keyed(item), 0)
        while key in found:
            key = (key[0], key[1] + 1)
        found[key] = item
    return found


def _attributes(was: list[Any], now: list[Any]) -> list[str]:
    """Return the differences of two items: of their values, or of the members of these."""
    told: dict[str, str] = {}
    for one, other in zip(was, now, strict=True):
        if isinstance(one, dict) and isinstance(other, dict):
            for name in dict.fromkeys((*one, *other)):
                if one.get(name) != other.get(name):
                    told.setdefault(name, f'{name} was {shown(one.get(name))}, now {shown(other.get(name))}')
        elif one != other:
            told.setdefault('', f'was {shown(one)}, now {shown(other)}')
    return list(told.values())


_NOUNS = {'add': 'addition', 'remove': 'removal', 'resend': 'new attempts'}


def _change_label(item: list[Any]) -> str:
    kind, key, action, before, after = item
    facts = before or after or {}
    name = facts.get('prefix') or facts.get('name') or key
    return f'{_NOUNS.get(action, action)} of {kind} {name}'


_KEYED: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], str]]] = {
    'changes': (lambda item: tuple(item[:3]), _change_label),
    'moved': (lambda item: tuple(item[:2]), lambda item: f'the parent of {item[1]}'),
    'counters': (lambda item: tuple(item[:2]), lambda item: f'counters of {item[0]} {item[2]}'),
}
