"""Tokens of plans, locks of dry runs, and the rows that a dry run must not leave."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest

from nipap.access.authentication import Actor, Credentials, make_actor
from nipap.backend import Backend
from nipap.calls import Request
from nipap.errors import NipapBusyError, NipapError, NipapPlanChangedError, NipapPlanError
from nipap.history import plan as plans
from nipap.postgres.database import LOCK_PATIENCE_S, Database
from nipap.postgres.transaction import Transaction

NET = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'net'}
MEMBERS = {'prefix': {'prefix': '10.0.0.0/8'}, 'attr': {'comment': 'mine'}}

Object = dict[str, Any]


@pytest.fixture
def net(backend: Backend, actor: Actor) -> Object:
    return dict(backend.add_prefix(actor, NET))


def planned(backend: Backend, actor: Actor, call: str = 'edit_prefix', members: Object | None = None) -> Object:
    told: Object = backend.perform(actor, Request(call, MEMBERS if members is None else members, dry_run=True))
    return told


def use(backend: Backend, actor: Actor, plan: str, call: str = 'edit_prefix', members: Object | None = None) -> Any:
    return backend.perform(actor, Request(call, MEMBERS if members is None else members, plan=plan))


def refusal(backend: Backend, actor: Actor, plan: str, call: str = 'edit_prefix', members: Object | None = None) -> str:
    """Return the text with which a plan is refused. It names the plan, and nothing is changed."""
    with pytest.raises(NipapPlanError) as caught:
        use(backend, actor, plan, call, members)
    assert caught.value.attribute == 'plan'
    assert backend.list_prefix(actor)[0]['comment'] is None
    return str(caught.value)


# ---------------------------------------------------------------- tokens


def test_a_plan_is_good_for_its_user_call_and_members(backend: Backend, actor: Actor, net: Object) -> None:
    plan = planned(backend, actor)['plan']
    other = make_actor(Credentials('somebody', None), {'authoritative_source': 'nipap'})
    acting = make_actor(Credentials(actor.username, None, trusted=True), {'authoritative_source': 'x', 'username': 'b'})
    assert 'another user' in refusal(backend, other, plan)
    assert 'another user' in refusal(backend, acting, plan)
    removal = {'prefix': {'prefix': '10.0.0.0/8'}}
    assert 'one of edit_prefix, not of remove_prefix' in refusal(backend, actor, plan, 'remove_prefix', removal)
    others = {**MEMBERS, 'attr': {'comment': 'yours'}}
    assert 'with other members' in refusal(backend, actor, plan, members=others)
    assert use(backend, actor, plan)[0]['comment'] == 'mine'


def test_a_dry_run_with_a_plan_says_whether_it_still_holds(backend: Backend, actor: Actor, net: Object) -> None:
    plan = planned(backend, actor)['plan']
    again = Request('edit_prefix', MEMBERS, dry_run=True, plan=plan)
    assert backend.perform(actor, again)['errors'] == []
    backend.edit_prefix(actor, {'id': net['id']}, {'description': 'theirs'})
    told = backend.perform(actor, again)
    assert ([each['code'] for each in told['errors']], 'plan' in told) == ([1610], False)
    wrong = Request('edit_prefix', MEMBERS, dry_run=True, plan='AAAA')
    assert [each['code'] for each in backend.perform(actor, wrong)['errors']] == [1220]


def test_a_plan_is_used_once(backend: Backend, actor: Actor, net: Object) -> None:
    plan = planned(backend, actor)['plan']
    use(backend, actor, plan)
    with pytest.raises(NipapPlanChangedError):
        use(backend, actor, plan)


@pytest.mark.parametrize('text', ['x', 'AAAA', '%%%', 'ä', 'A' * 4000, '.' * 30])
def test_what_is_no_plan_is_refused(backend: Backend, actor: Actor, net: Object, text: str) -> None:
    assert refusal(backend, actor, text).startswith('Invalid plan (')


def test_an_altered_plan_is_refused(backend: Backend, actor: Actor, net: Object) -> None:
    plan = planned(backend, actor)['plan']
    for at in (0, len(plan) // 2, len(plan) - 2):
        altered = plan[:at] + ('A' if plan[at] != 'A' else 'B') + plan[at + 1 :]
        assert refusal(backend, actor, altered).startswith('Invalid plan (')


def test_a_plan_expires_after_an_hour(backend: Backend, actor: Actor, net: Object, db: Database) -> None:
    signer = plans.Signer(actor.authenticated_as, actor.predecessors, actor.username, 'edit_prefix', MEMBERS)
    now = time.time()

    def work(tx: Transaction) -> plans.Consequences:
        plans.begin(tx)
        return plans.made(tx)

    nothing = db.rehearse(work, plans.READY)
    old = plans.token(nothing, signer, lambda: now - plans.VALID_S - 1)
    assert refusal(backend, actor, old).startswith('The plan has expired, it was valid until 20')
    young = plans.token(nothing, signer, lambda: now - plans.VALID_S + 60)
    with pytest.raises(NipapPlanChangedError):
        use(backend, actor, young)


def test_a_new_key_ends_all_plans(backend: Backend, actor: Actor, net: Object, db: Database, owner: Database) -> None:
    plan = planned(backend, actor)['plan']
    owner.run(plans.end_all)
    assert 'is older than a restore' in refusal(backend, actor, plan)
    use(backend, actor, planned(backend, actor)['plan'])


@pytest.fixture
def owner(dsn: str) -> Iterator[Database]:
    made = Database(dsn)
    yield made
    made.close()


def test_the_token_of_a_large_plan_is_small_and_counts_the_differences(
    backend: Backend, actor: Actor, net: Object
) -> None:
    hosts = [
        {
            'method': 'add_prefix',
            'args': {'attr': {'prefix': f'10.0.{n}.0/24', 'type': 'assignment', 'description': 'x'}},
        }
        for n in range(200)
    ]
    backend.batch(actor, hosts[:100])
    removal = {'prefix': {'prefix': '10.0.0.0/8'}, 'recursive': True}
    plan = planned(backend, actor, 'remove_prefix', removal)['plan']
    assert len(plan) < 1000
    backend.batch(actor, hosts[100:101])
    with pytest.raises(NipapPlanChangedError) as caught:
        use(backend, actor, plan, 'remove_prefix', removal)
    assert 'changes: 101 were planned, now there are 102' in caught.value.differences
    backend.remove_prefix(actor, {'prefix': '10.0.100.0/24'})
    backend.edit_prefix(actor, {'prefix': '10.0.5.0/24'}, {'comment': 'new'})
    with pytest.raises(NipapPlanChangedError) as caught:
        use(backend, actor, plan, 'remove_prefix', removal)
    assert 'changes: 101 were planned, and some of them differ now' in caught.value.differences
    backend.edit_prefix(actor, {'prefix': '10.0.5.0/24'}, {'comment': None})
    assert (
        use(backend, actor, planned(backend, actor, 'remove_prefix', removal)['plan'], 'remove_prefix', removal) is None
    )


def test_differences_beyond_the_listed_changes_are_found(backend: Backend, actor: Actor, net: Object) -> None:
    number = plans.MOST_LISTED + 50
    hosts = [
        {
            'method': 'add_prefix',
            'args': {'attr': {'prefix': f'10.{n >> 8}.{n & 255}.0/24', 'type': 'assignment', 'description': 'x'}},
        }
        for n in range(number)
    ]
    told = planned(backend, actor, 'batch', {'operations': hosts, 'return': 'ids'})
    assert (len(told['changes']), told['changes_not_shown']) == (plans.MOST_LISTED, 50)
    assert told['events'] == {'number': number, 'kinds': {'prefix': number}}
    use(backend, actor, told['plan'], 'batch', {'operations': hosts, 'return': 'ids'})
    removal = {'prefix': {'prefix': '10.0.0.0/8'}, 'recursive': True}
    plan = planned(backend, actor, 'remove_prefix', removal)['plan']
    last = {'prefix': hosts[-1]['args']['attr']['prefix']}
    backend.edit_prefix(actor, last, {'comment': 'new'})
    with pytest.raises(NipapPlanChangedError):
        use(backend, actor, plan, 'remove_prefix', removal)
    backend.edit_prefix(actor, last, {'comment': None})
    assert use(backend, actor, plan, 'remove_prefix', removal) is None


def test_changes_elsewhere_in_the_vrf_do_not_end_a_plan(backend: Backend, actor: Actor, net: Object) -> None:
    new = {'attr': {**NET, 'prefix': '10.1.0.0/16'}}
    plan = planned(backend, actor, 'add_prefix', new)['plan']
    backend.add_prefix(actor, {**NET, 'prefix': '20.0.0.0/8'})
    assert use(backend, actor, plan, 'add_prefix', new)['prefix'] == '10.1.0.0/16'


def test_ids_and_times_in_words_do_not_end_a_plan(backend: Backend, actor: Actor, net: Object) -> None:
    new = {'attr': {**NET, 'prefix': '10.1.0.0/16', 'expires': 'in 2 hours'}}
    plan = planned(backend, actor, 'add_prefix', new)['plan']
    backend.remove_prefix(actor, {'id': backend.add_prefix(actor, {**NET, 'prefix': '20.0.0.0/8'})['id']})
    assert use(backend, actor, plan, 'add_prefix', new)['expires'] is not None


# ---------------------------------------------------------------- keys, rights, locks


def test_a_dry_run_neither_reads_nor_stores_an_idempotency_key(backend: Backend, actor: Actor, db: Database) -> None:
    made = backend.perform(actor, Request('add_prefix', {'attr': NET}, key='k'))
    told = backend.perform(
        actor, Request('add_prefix', {'attr': {**NET, 'prefix': '20.0.0.0/8'}}, key='k', dry_run=True)
    )
    assert told['answer']['prefix'] == '20.0.0.0/8'
    backend.perform(actor, Request('add_prefix', {'attr': {**NET, 'prefix': '20.0.0.0/8'}}, key='other', dry_run=True))
    assert db.read(lambda tx: tx.all('SELECT key FROM idempotency')) == [('k',)]
    again = backend.perform(actor, Request('add_prefix', {'attr': NET}, key='k'))
    assert again['id'] == made['id']


def test_a_plan_with_an_idempotency_key_is_carried_out_once(backend: Backend, actor: Actor, net: Object) -> None:
    plan = planned(backend, actor)['plan']
    first = backend.perform(actor, Request('edit_prefix', MEMBERS, key='k', plan=plan))
    again = backend.perform(actor, Request('edit_prefix', MEMBERS, key='k', plan=plan))
    assert first[0]['last_modified'] == again[0]['last_modified']


def test_only_who_may_see_webhooks_sees_which_are_called(backend: Backend, db: Database) -> None:
    plain, trusted = (
        make_actor(Credentials('u', None, trusted=trust), {'authoritative_source': 'x'}) for trust in (False, True)
    )
    secret = 'sixteen-characters'
    wanted = backend.add_webhook(trusted, {'url': 'https://a.example/', 'secret': secret, 'tags': ['core']})
    backend.add_webhook(trusted, {'url': 'https://b.example/', 'secret': secret, 'kinds': ['asn']})
    backend.add_webhook(trusted, {'url': 'https://c.example/', 'secret': secret, 'enabled': False})
    new = {'attr': {**NET, 'tags': ['core']}}
    assert planned(backend, plain, 'add_prefix', new)['webhooks'] == {'number': 1}
    called = [{'id': wanted['id'], 'url': 'https://a.example/'}]
    assert planned(backend, trusted, 'add_prefix', new)['webhooks'] == {'number': 1, 'called': called}
    told = planned(backend, trusted, 'remove_webhook', {'webhook': {'id': wanted['id']}})
    assert (told['right'], told['changes'][0]['kind'], told['events']['number']) == ('administer', 'webhook', 0)
    assert len(backend.list_webhook(trusted)) == 3


def test_a_dry_run_waits_two_seconds_for_a_lock(dsn: str, backend: Backend, actor: Actor, net: Object) -> None:
    with locked(dsn, 'SELECT FROM prefix FOR NO KEY UPDATE'):
        began = time.monotonic()
        with pytest.raises(NipapBusyError) as caught:
            planned(backend, actor)
        assert LOCK_PATIENCE_S <= time.monotonic() - began < LOCK_PATIENCE_S + 10
        assert caught.value.code == 1030
    assert planned(backend, actor)['errors'] == []


def test_a_dry_run_leaves_no_lock(dsn: str, backend: Backend, actor: Actor, net: Object) -> None:
    planned(backend, actor)
    with locked(dsn, 'SELECT FROM prefix FOR UPDATE NOWAIT'):
        pass


@contextmanager
def locked(dsn: str, statement: str) -> Iterator[None]:
    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
        yield
        connection.rollback()
    finally:
        connection.close()


# ---------------------------------------------------------------- errors


def test_a_thousand_errors_are_listed_and_the_rest_counted(backend: Backend, actor: Actor, net: Object) -> None:
    number = plans.MOST_ERRORS + 20
    bad = [{'method': 'add_asn', 'args': {'attr': {'asn': 0}}} for _ in range(number)]
    told = planned(backend, actor, 'batch', {'operations': bad})
    assert (len(told['errors']), told['errors_not_shown']) == (plans.MOST_ERRORS, 20)
    assert [each['position'] for each in told['errors']] == list(range(plans.MOST_ERRORS))


def test_every_refused_addition_of_many_is_found(backend: Backend, actor: Actor, net: Object) -> None:
    """Additions that run together do not depend on their order, and so their errors do not."""

    def add(prefix: str, type_: str = 'assignment') -> Object:
        return {'method': 'add_prefix', 'args': {'attr': {'prefix': prefix, 'type': type_, 'description': 'x'}}}

    operations = [
        add('10.9.9.1/32', 'host'),  # its assignment comes later
        *(add(f'10.1.{n}.0/24') for n in range(40)),
        add('10.0.0.0/8'),
        add('10.9.9.0/24'),
        add('10.1.3.0/25'),
        add('10.1.7.0/24'),
        add('nonsense'),
        *(add(f'10.2.{n}.0/24') for n in range(40)),
        add('11.0.0.1/32', 'host'),
    ]
    told = planned(backend, actor, 'batch', {'operations': operations})
    found = {each['position']: each['code'] for each in told['errors']}
    assert found == {41: 1400, 43: 1200, 44: 1400, 45: 1200, 86: 1200}
    assert len(told['changes']) == len(operations) - len(found)


def test_a_plan_belongs_to_the_batch_not_to_its_operations(backend: Backend, actor: Actor) -> None:
    for name in ('dry_run', 'plan', 'dryRun', 'Plan'):
        with pytest.raises(NipapError) as caught:
            backend.batch(actor, [{'method': 'add_prefix', 'args': {'attr': NET, name: True}}])
        assert (caught.value.code, caught.value.position) == (1120, 0)
    assert backend.list_prefix(actor) == []


def test_a_sleep_in_a_batch_is_not_waited_for(backend: Backend, actor: Actor) -> None:
    began = time.monotonic()
    told = planned(backend, actor, 'batch', {'operations': [{'method': 'echo', 'args': {'message': 'a', 'sleep': 9}}]})
    assert (told['answer'], time.monotonic() - began < 5) == (['a'], True)


def test_dry_runs_beside_allocations_are_exact(dsn: str, backend: Backend, actor: Actor, net: Object) -> None:
    """The counters of a dry run differ by its own change alone, whatever others commit at the same time."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def allocate() -> None:
        db = Database(dsn)
        try:
            client = Backend(db)
            while not stop.is_set():
                client.add_prefix(
                    actor,
                    {'type': 'assignment', 'description': 'x'},
                    {'from-prefix': ['10.0.0.0/8'], 'prefix_length': 30},
                )
        except BaseException as exc:
            failures.append(exc)
        finally:
            db.close()

    threads = [threading.Thread(target=allocate) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            told = planned(
                backend,
                actor,
                'add_prefix',
                {
                    'attr': {'type': 'assignment', 'description': 'x'},
                    'args': {'from-prefix': ['10.0.0.0/8'], 'prefix_length': 30},
                },
            )
            steps = {item['kind']: (item['before'], item['after']) for item in told['counters']}
            before, after = steps['prefix']
            assert after['children'] - before['children'] == 1
            assert int(after['used_addresses']) - int(before['used_addresses']) == 4
            before, after = steps['vrf']
            assert int(after['num_prefixes_v4']) - int(before['num_prefixes_v4']) == 1
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=60)
    assert failures == []


def test_a_change_in_between_ends_the_plan_of_an_allocation(backend: Backend, actor: Actor, net: Object) -> None:
    members = {
        'attr': {'type': 'assignment', 'description': 'x'},
        'args': {'from-prefix': ['10.0.0.0/8'], 'prefix_length': 30},
    }
    plan = planned(backend, actor, 'add_prefix', members)['plan']
    taken = backend.perform(actor, Request('add_prefix', members))
    with pytest.raises(NipapPlanChangedError) as caught:
        use(backend, actor, plan, 'add_prefix', members)
    assert "addition of prefix 10.0.0.0/30: prefix was '10.0.0.0/30', now '10.0.0.4/30'" in caught.value.differences
    backend.remove_prefix(actor, {'id': taken['id']})
    assert use(backend, actor, plan, 'add_prefix', members)['prefix'] == '10.0.0.0/30'
