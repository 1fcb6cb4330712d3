"""The daemon plays random changes beside the oracle: same answers, same refusals, same state after each change.

A failure prints the calls that led to it. `HYPOTHESIS_PROFILE=soak` searches for much longer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from .choices import (
    A_POOL,
    A_POOL_OR_NONE,
    A_PREFIX,
    A_VRF,
    FORMS,
    KINDS,
    LONGER,
    NETWORKS,
    POOL_NAMES,
    PROBES,
    RTS,
    SKELETONS,
    SOURCES,
    TAGS,
    WITH_MEMBERS,
    WITH_POOLS,
    WITH_PREFIXES,
    one_of_the,
    pools_with_members,
    relatives,
    stored_networks,
)
from .oracle import FULL, TYPES, Model, Network, Pool, Prefix, Vrf, attempt, covers, net, spelled
from .playground import Playground, differences, searching

pytestmark = pytest.mark.slow


class TreeMachine(RuleBasedStateMachine):
    """A machine that plays each step to the oracle and to the daemon, and compares everything visible."""

    def __init__(self, playground: Playground) -> None:
        super().__init__()
        self.playground = playground
        self.model = Model()
        self.ids = {0: 0}  # handle of the model: id in the daemon
        self.steps = 0
        self.agreed = True  # whether the result of the last step has been compared
        playground.reset()

    # ----------------------------------------------------------------------------------------------------- playing

    def play(self, operation: Callable[[], Any], method: str, *members: Any) -> tuple[Any, Any]:
        """Run an operation in the model and a call in the daemon. Return both answers, or None if both refuse."""
        return self.compare(operation, self.playground.call, method, *members)

    def compare(self, operation: Callable[[], Any], call: Any, method: str, *members: Any) -> tuple[Any, Any]:
        """Run an operation in the model and `call` the daemon. Return both answers, or None if both refuse."""
        self.agreed = False
        expected, codes = attempt(operation)
        answer, error = call(method, *members)
        asked = f'{method}{members}'
        if error is None:
            assert not codes, f'{asked} must be refused with {sorted(codes)}, but the answer is {answer!r}'
            return expected, answer
        assert codes, f'{asked} must succeed, but was refused with {error.code}: {error}'
        assert error.code in codes, f'{asked} was refused with {error.code} ({error}) instead of {sorted(codes)}'
        return None, None

    def same(self, what: str, expected: dict[str, Any], actual: dict[str, Any]) -> None:
        """Assert that an object of the daemon has the expected members."""
        found = differences(expected, shown(actual))
        assert not found, f'{what} {expected.get("prefix", expected.get("name"))}: {"; ".join(found)}'

    def expected_prefix(self, prefix: Prefix, search: bool = False) -> dict[str, Any]:
        """Return a prefix as the daemon must show it, with the daemon's ids."""
        answers = self.model.answers()
        view = answers.search_view(prefix) if search else answers.prefix_view(prefix)
        pool = None if view['pool_id'] is None else self.ids[view['pool_id']]
        return view | {'id': self.ids[prefix.handle], 'vrf_id': self.ids[view['vrf_id']], 'pool_id': pool}

    def expected_pool(self, pool: Pool) -> dict[str, Any]:
        """Return a pool as the daemon must show it, with the daemon's ids."""
        view = self.model.answers().pool_view(pool)
        vrf = None if view['vrf_id'] is None else self.ids[view['vrf_id']]
        return view | {'id': self.ids[pool.handle], 'vrf_id': vrf, 'prefixes': set(view['prefixes'])}

    def expected_vrf(self, vrf: Vrf) -> dict[str, Any]:
        """Return a VRF as the daemon must show it, with the daemon's ids."""
        return self.model.answers().vrf_view(vrf) | {'id': self.ids[vrf.handle]}

    def fitting(self, vrf: int, network: Network, kind: str) -> str:
        """Return the type that a kind means at a place."""
        if not kind.startswith('fit '):
            return kind
        candidate = Prefix(0, vrf, network, 'host')
        around = [p for p in self.model.prefixes.values() if p.vrf == vrf and covers(p.network, network)]
        if any(p.type == 'assignment' for p in around) and network.prefixlen == FULL[network.version]:
            return 'host'
        if any(p.type != 'host' for p in self.model.descendants(candidate)):
            return 'reservation'
        return kind.removeprefix('fit ')

    def place(self, vrf: int, form: int) -> dict[str, Any]:
        """Return one of the ways to name a VRF in a spec or an attribute."""
        found = self.model.vrfs[vrf]
        return (
            {'vrf_id': self.ids[vrf]},
            {'vrf_rt': found.rt},
            {'vrf_name': found.name},
            {} if vrf == 0 else {'vrf_id': str(self.ids[vrf])},
        )[form]

    def spec(self, prefix: Prefix, form: int) -> dict[str, Any]:
        """Return one of the ways to name a stored prefix."""
        if form == 4:
            return {'id': self.ids[prefix.handle]}
        return {'prefix': str(prefix.network)} | self.place(prefix.vrf, form)

    def everything(self, prefix: Prefix) -> dict[str, Any]:
        """Return all attributes of a prefix unchanged, as today's client sends them with every save."""
        view = self.expected_prefix(prefix)
        keys = ('prefix', 'vrf_id', 'type', 'description', 'node', 'tags', 'pool_id')
        return {key: view[key] for key in keys} | {'comment': None, 'vlan': None, 'status': 'assigned'}

    def pool_id(self, pool: int | None) -> int | None:
        """Return the daemon's id of a pool."""
        return None if pool is None else self.ids[pool]

    # ------------------------------------------------------------------------------------------------- the beginning

    @initialize(
        chosen=st.lists(st.sampled_from(range(len(SKELETONS))), min_size=1, max_size=3, unique=True),
        rt=st.sampled_from(RTS),
        elsewhere=st.booleans(),
    )
    def begin(self, chosen: list[int], rt: str, elsewhere: bool) -> None:
        self.grow_vrf(rt)
        self.grow_pool('alpha', 'assignment', 30, 64)
        vrf, pool = (max(self.model.vrfs) if elsewhere else 0), max(self.model.pools)
        for choice in chosen:
            for text, type_, member in SKELETONS[choice]:
                self.add(vrf, text, type_, ['a'], pool if member else None, False, 0)

    # ------------------------------------------------------------------------------------------------ VRFs and pools

    @rule(
        action=st.sampled_from(['add', 'edit', 'edit', 'remove']),
        vrf=one_of_the(lambda model: sorted(model.vrfs)),
        rt=st.sampled_from(RTS),
    )
    def change_vrfs(self, action: str, vrf: int, rt: str) -> None:
        if action == 'add':
            self.grow_vrf(rt)
        elif action == 'edit':
            self.edit_vrf(vrf, rt)
        else:
            self.play(lambda: self.model.remove_vrf(vrf), 'remove_vrf', {'id': self.ids[vrf]})

    def grow_vrf(self, rt: str) -> None:
        """Add a VRF."""
        name = f'vrf {rt}'
        vrf, answer = self.play(lambda: self.model.add_vrf(rt, name), 'add_vrf', {'rt': rt, 'name': name})
        if vrf is not None:
            self.ids[vrf.handle] = answer['id']
            self.same('add_vrf', self.expected_vrf(vrf), answer)

    def edit_vrf(self, vrf: int, rt: str) -> None:
        """Change the route target of a VRF, and with it the order of answers."""
        spec = {'id': self.ids[vrf]}
        found, answer = self.play(lambda: self.model.edit_vrf(vrf, rt=rt), 'edit_vrf', spec, {'rt': rt})
        if found is not None:
            assert len(answer) == 1, f'edit_vrf answered {answer!r}'
            self.same('edit_vrf', self.expected_vrf(found), answer[0])

    @rule(
        name=st.sampled_from(POOL_NAMES),
        default_type=st.sampled_from(['assignment', 'assignment', 'reservation', 'host']),
        v4=st.sampled_from([30, 32, 24, None]),
        v6=st.sampled_from([64, 128, None]),
    )
    def grow_pool(self, name: str, default_type: str, v4: int | None, v6: int | None) -> None:
        attr = {'name': name, 'description': 'd', 'default_type': default_type} | default_lengths(v4, v6)
        pool, answer = self.play(lambda: self.model.add_pool(name, default_type, {4: v4, 6: v6}), 'add_pool', attr)
        if pool is not None:
            self.ids[pool.handle] = answer['id']
            self.same('add_pool', self.expected_pool(pool), answer)

    @WITH_POOLS
    @rule(
        pool=A_POOL, family=st.sampled_from([4, 6]), length=st.sampled_from([31, 32, 25, 16, 1, 128, 0, None, 'remove'])
    )
    def change_pool_itself(self, pool: int, family: int, length: Any) -> None:
        if length == 'remove':
            spec = {'name': self.model.pools[pool].name} if family == 4 else {'id': self.ids[pool]}
            self.play(lambda: self.model.remove_pool(pool), 'remove_pool', spec)
            return
        spec, attr = {'id': self.ids[pool]}, {f'ipv{family}_default_prefix_length': length}
        found, answer = self.play(lambda: self.model.edit_pool(pool, lengths={family: length}), 'edit_pool', spec, attr)
        if found is not None:
            assert len(answer) == 1, f'edit_pool answered {answer!r}'
            self.same('edit_pool', self.expected_pool(found), answer[0])

    # ------------------------------------------------------------------------------------------------- adding prefixes

    @rule(
        vrf=A_VRF,
        text=NETWORKS,
        kind=KINDS,
        tags=TAGS,
        pool=A_POOL_OR_NONE,
        on_node=st.sampled_from([False, False, True]),
        form=st.integers(0, 3),
    )
    def add(self, vrf: int, text: str, kind: str, tags: list[str], pool: int | None, on_node: bool, form: int) -> None:
        type_ = self.fitting(vrf, net(text), kind)
        named = {'node': 'n'} if on_node else {'description': 'd'}
        attr = {'prefix': text, 'type': type_, 'tags': tags, 'pool_id': self.pool_id(pool)} | named
        prefix, answer = self.play(
            lambda: self.model.add_prefix(vrf, net(text), type_, tags=tuple(tags), pool=pool, **named),
            'add_prefix',
            attr | self.place(vrf, form),
        )
        self.added(prefix, answer)

    @rule(vrf=A_VRF, text=NETWORKS, kind=KINDS)
    def add_plainly(self, vrf: int, text: str, kind: str) -> None:
        self.add(vrf, text, kind, [], None, False, 0)

    @rule(vrf=A_VRF, text=one_of_the(relatives), kind=KINDS)
    def add_relative(self, vrf: int, text: str, kind: str) -> None:
        self.add(vrf, text, kind, [], None, False, 0)

    @rule(vrf=A_VRF, sources=SOURCES, longer=LONGER, kind=KINDS, tags=TAGS)
    def add_from_prefix(self, vrf: int, sources: list[str], longer: int | str, kind: str, tags: list[str]) -> None:
        length = self.length_below(sources, longer)
        networks = [net(text) for text in sources]
        type_ = self.allocated_type(vrf, networks, length, kind)
        prefix, answer = self.play(
            lambda: self.model.add_from_prefix(vrf, networks, length, type_, tags=tuple(tags), description='d'),
            'add_prefix',
            {'type': type_, 'tags': tags, 'description': 'd'} | self.place(vrf, 0),
            {'from-prefix': sources, 'prefix_length': length},
        )
        self.added(prefix, answer)

    @WITH_MEMBERS
    @rule(
        pool=one_of_the(pools_with_members),
        family=st.sampled_from([4, 4, 6]),
        longest=st.sampled_from([None, None, None, 6, 2, 1, 0, 0, -1, 40]),
        kind=st.sampled_from([None, None, None, *TYPES]),
        believed=st.one_of(st.none(), st.none(), st.none(), A_VRF),
    )
    def add_from_pool(
        self, pool: int, family: int, longest: int | None, kind: str | None, believed: int | None
    ) -> None:
        length = None if longest is None else FULL[family] - longest
        args = {'from-pool': {'id': self.ids[pool]}, 'family': family}
        prefix, answer = self.play(
            lambda: self.model.add_from_pool(pool, family, length, kind, vrf=believed, description='d'),
            'add_prefix',
            {'description': 'd', 'type': kind} | ({} if believed is None else {'vrf_id': self.ids[believed]}),
            args if length is None else args | {'prefix_length': length},
        )
        self.added(prefix, answer)

    def added(self, prefix: Prefix | None, answer: Any) -> None:
        """Compare the answer of add_prefix."""
        if prefix is not None:
            self.ids[prefix.handle] = answer['id']
            self.same('add_prefix', self.expected_prefix(prefix), answer)

    def length_below(self, sources: Sequence[str], longer: int | str) -> int:
        """Return a length for blocks in the sources."""
        source = net(sources[0]) if sources else net('10.0.0.0/24')
        whole = FULL[source.version]
        lengths = {'full': whole, 'over': whole + 1}
        return lengths[longer] if isinstance(longer, str) else min(source.prefixlen + longer, whole)

    def allocated_type(self, vrf: int, sources: list[Network], length: int, kind: str) -> str:
        """Return the type that a kind means at the first free block."""
        same_family = len({s.version for s in sources}) == 1
        if same_family and 0 <= length <= FULL[sources[0].version]:
            block = next(self.model.free_blocks(vrf, sources, length), None)
            if block is not None:
                return self.fitting(vrf, block, kind)
        return kind.removeprefix('fit ')

    # ----------------------------------------------------------------------------------------------- editing prefixes

    def edit(self, prefix: int, form: int, saved: bool, changes: dict[str, Any], attr: dict[str, Any]) -> None:
        """Edit one prefix. With `saved`, all other attributes are sent as well, unchanged."""
        old = self.model.prefixes[prefix]
        new, answer = self.play(
            lambda: self.model.edit_prefix(prefix, **changes),
            'edit_prefix',
            self.spec(old, form),
            (self.everything(old) if saved else {}) | attr,
        )
        if new is not None:
            assert len(answer) == 1, f'edit_prefix answered {answer!r}'
            self.same('edit_prefix', self.expected_prefix(new, search=True), answer[0])

    @WITH_PREFIXES
    @rule(prefix=A_PREFIX, text=st.one_of(NETWORKS, one_of_the(stored_networks)), form=FORMS, saved=st.booleans())
    def move(self, prefix: int, text: str, form: int, saved: bool) -> None:
        self.edit(prefix, form, saved, {'network': net(text)}, {'prefix': text})

    @WITH_PREFIXES
    @rule(prefix=A_PREFIX, by=st.integers(-4, 4), form=FORMS, saved=st.booleans())
    def resize(self, prefix: int, by: int, form: int, saved: bool) -> None:
        """Move a prefix to a longer or shorter network at the same address: most prefixes inside stay inside."""
        old = self.model.prefixes[prefix].network
        length = min(max(old.prefixlen + by, 0), FULL[old.version])
        new = ipaddress.ip_network((old.network_address, length), strict=False)
        self.edit(prefix, form, saved, {'network': new}, {'prefix': str(new)})

    @WITH_PREFIXES
    @rule(
        prefix=A_PREFIX,
        what=st.sampled_from(['type', 'pool', 'tags']),
        type_=st.sampled_from(TYPES),
        pool=A_POOL_OR_NONE,
        tags=TAGS,
        form=FORMS,
        saved=st.booleans(),
    )
    def change(
        self, prefix: int, what: str, type_: str, pool: int | None, tags: list[str], form: int, saved: bool
    ) -> None:
        changes, attr = self.changes(what, type_, pool, tags)
        self.edit(prefix, form, saved, changes, attr)

    def changes(
        self, what: str, type_: str, pool: int | None, tags: list[str]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a change of one attribute, in the terms of the model and of the daemon."""
        return {
            'type': ({'type': type_}, {'type': type_}),
            'pool': ({'pool': pool}, {'pool_id': self.pool_id(pool)}),
            'tags': ({'tags': tuple(tags), 'description': 'e'}, {'tags': tags, 'description': 'e'}),
        }[what]

    @WITH_PREFIXES
    @WITH_POOLS
    @rule(prefix=A_PREFIX, pool=A_POOL, text=NETWORKS)
    def move_into_pool(self, prefix: int, pool: int, text: str) -> None:
        attr = {'prefix': text, 'pool_name': self.model.pools[pool].name}
        self.edit(prefix, 4, False, {'network': net(text), 'pool': pool}, attr)

    @WITH_PREFIXES
    @rule(
        of_type=st.sampled_from(TYPES),
        vrf=st.one_of(st.none(), A_VRF),
        what=st.sampled_from(['pool', 'tags']),
        pool=A_POOL_OR_NONE,
        tags=TAGS,
    )
    def change_all(self, of_type: str, vrf: int | None, what: str, pool: int | None, tags: list[str]) -> None:
        changes, attr = self.changes(what, '', pool, tags)
        self.edit_all(of_type, vrf, changes, attr)

    def edit_all(self, type_: str, vrf: int | None, changes: dict[str, Any], attr: dict[str, Any]) -> None:
        """Edit every prefix of a type, in one VRF or all, or none."""
        chosen = [p.handle for p in self.model.ordered() if p.type == type_ and vrf in (None, p.vrf)]
        spec = {'type': type_} | ({} if vrf is None else {'vrf_id': self.ids[vrf]})
        edited, answer = self.play(lambda: self.model.edit_prefixes(chosen, **changes), 'edit_prefix', spec, attr)
        if edited is not None:
            self.same_list('edit_prefix', [self.expected_prefix(p, search=True) for p in edited], answer)

    # ---------------------------------------------------------------------------------------------- removing prefixes

    @WITH_PREFIXES
    @rule(prefix=A_PREFIX, recursive=st.sampled_from([False, False, False, True]), form=FORMS)
    def remove(self, prefix: int, recursive: bool, form: int) -> None:
        spec = self.spec(self.model.prefixes[prefix], form)
        self.play(lambda: self.model.remove_prefix(prefix, recursive), 'remove_prefix', spec, recursive)

    @rule(vrf=A_VRF, text=NETWORKS, recursive=st.booleans())
    def remove_what_may_not_be_there(self, vrf: int, text: str, recursive: bool) -> None:
        found = self.model.at(vrf, net(text))
        self.play(
            lambda: None if found is None else self.model.remove_prefix(found.handle, recursive),
            'remove_prefix',
            {'prefix': text} | self.place(vrf, 0),
            recursive,
        )

    # ---------------------------------------------------------------------------------------------- finding free blocks

    @rule(vrf=A_VRF, sources=SOURCES, longer=LONGER, count=st.sampled_from([1, 3, 20]))
    def find(self, vrf: int, sources: list[str], longer: int | str, count: int) -> None:
        self.compare_find(vrf, sources, self.length_below(sources, longer), count)

    def compare_find(self, vrf: int, sources: list[str], length: int, count: int) -> None:
        """Compare the free blocks in some networks."""
        args = {'from-prefix': sources, 'prefix_length': length, 'count': count}
        expected, answer = self.compare(
            lambda: self.model.find_free(vrf, [net(text) for text in sources], length=length, count=count),
            self.playground.ask,
            'find_free_prefix',
            {'id': self.ids[vrf]},
            args,
        )
        self.same_free(f'{args} in VRF {vrf}', expected, answer)

    def compare_pool_find(self, pool: int, family: int) -> None:
        """Compare the free blocks in a pool. The VRF of the request does not matter."""
        args = {'from-pool': {'id': self.ids[pool]}, 'family': family, 'count': 2}
        expected, answer = self.compare(
            lambda: self.model.find_free(0, pool=pool, family=family, count=2),
            self.playground.ask,
            'find_free_prefix',
            {},
            args,
        )
        self.same_free(str(args), expected, answer)

    def same_free(self, what: str, expected: list[str] | None, answer: list[str] | None) -> None:
        """Compare the free blocks of both."""
        got = None if answer is None else list(map(spelled, answer))
        assert got == expected, f'{what}: {got} instead of {expected}'

    # ------------------------------------------------------------------------------------- after every step, everything

    @invariant()
    def everything_is_the_same(self) -> None:
        self.steps += 1
        self.compare_prefixes()
        self.compare_pools_and_vrfs()
        self.compare_what_is_next()
        self.agreed = True

    def compare_prefixes(self) -> None:
        """Compare all prefixes of list_prefix and search_prefix."""
        ordered = self.model.ordered()
        listed = self.quietly('list_prefix', {})
        self.same_list('list_prefix', [self.expected_prefix(p) for p in ordered], listed)
        found = self.quietly('search_prefix', {}, {'max_result': False})['result']
        self.same_list('search_prefix', [self.expected_prefix(p, search=True) for p in ordered], found)

    def compare_pools_and_vrfs(self) -> None:
        """Compare all pools and VRFs."""
        pools = sorted(self.model.pools.values(), key=lambda p: p.name)
        self.same_list('list_pool', [self.expected_pool(p) for p in pools], self.quietly('list_pool', {}))
        vrfs = [self.expected_vrf(v) for v in self.model.ordered_vrfs()]
        self.same_list('list_vrf', vrfs, self.quietly('list_vrf', {}))

    def compare_what_is_next(self) -> None:
        """Compare the next free blocks in each pool, in some fixed networks and in one stored prefix."""
        for pool in self.model.pools:
            self.compare_pool_find(pool, (4, 6)[self.steps % 2])
        vrf = sorted(self.model.vrfs)[self.steps % len(self.model.vrfs)]
        for source, length in (PROBES[self.steps % len(PROBES)], PROBES[(3 * self.steps + 5) % len(PROBES)]):
            self.compare_find(vrf, [source], length, 2)
        there = self.model.ordered()
        if there:
            chosen = there[self.steps % len(there)]
            whole = FULL[chosen.network.version]
            for length in {min(chosen.network.prefixlen + 1 + self.steps % 3, whole), whole}:
                self.compare_find(chosen.vrf, [str(chosen.network)], length, 2)

    def quietly(self, method: str, *members: Any) -> Any:
        """Return the answer to a read-only call that must succeed, without a note."""
        answer, error = self.playground.ask(method, *members)
        assert error is None, f'{method}{members} was refused with {error.code}: {error}' if error else ''
        return answer

    def same_list(self, what: str, expected: list[dict[str, Any]], actual: list[dict[str, Any]]) -> None:
        """Compare a list of objects in order."""
        wanted = [(row.get('prefix', row.get('name')), row['id']) for row in expected]
        got = [(spelled(row['prefix']) if 'prefix' in row else row['name'], row['id']) for row in actual]
        assert wanted == got, f'{what}: {got} instead of {wanted}'
        for one, other in zip(expected, actual, strict=True):
            self.same(what, one, other)

    def teardown(self) -> None:
        if self.agreed:
            found = self.playground.problems()
            assert found == [], f'problems({len(self.model.prefixes)} prefixes): {found}'


def default_lengths(v4: int | None, v6: int | None) -> dict[str, int | None]:
    """Return the default lengths of a pool as attributes."""
    return {'ipv4_default_prefix_length': v4, 'ipv6_default_prefix_length': v6}


def shown(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer in comparable form.

    Members without an order become sets, after a check that they have no doubles.
    """
    made = dict(answer)
    for key in {'prefix', 'display_prefix'} & set(made):
        made[key] = spelled(made[key])
    if 'prefixes' in made:
        made['prefixes'] = list(map(spelled, made['prefixes']))
    for key in ('inherited_tags', 'prefixes'):
        if key in made:
            assert len(set(made[key])) == len(made[key]), f'{key} names something twice: {made[key]}'
            made[key] = set(made[key])
    return made


def test_the_tree_is_as_the_oracle_says(playground: Playground) -> None:
    run_state_machine_as_test(lambda: TreeMachine(playground), settings=searching(60, soak=5000))
