"""The metrics, and the alert rules and the dashboard, which use only existing metrics."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families
from support import ALERTS, DASHBOARD, expressions, selectors

from nipap.calls import CALLS
from nipapd.metrics import ALIVE_S, OTHER, Board, Counter, State, exposition, metrics

ROOT = Path(__file__).resolve().parents[2]
PLAYED = ROOT / 'tests/data/prometheus-alerts-tests.yml'
POOL = {
    f'{figure}_v{family}': 4 - family // 6
    for figure in ('member_prefixes', 'used_prefixes', 'free_prefixes', 'total_addresses', 'used_addresses')
    for family in (4, 6)
}
VRF = {
    f'{figure}_v{family}': 1 for figure in ('num_prefixes', 'total_addresses', 'used_addresses') for family in (4, 6)
}
HOOK = {'name': 'webhook-1', 'pending': 3, 'delivered': 2, 'failed': 1}
FULL = State(True, True, 2, [{'name': 'customers', **POOL}], [{'name': 'default', **VRF}], [HOOK], 2e9, 1e9)


def values(board: Board, state: State = FULL) -> dict[str, float]:
    """Return every sample by its name and labels as they are written."""
    text = exposition(board, state).decode()
    return {
        sample.name + ''.join(f' {key}={value}' for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def names() -> set[str]:
    """Return every name that an expression may use."""
    board = Board(1)
    board.counter().call('echo', 0, 0.1)
    return {sample.name for metric in metrics(board, FULL) for sample in metric.samples}


def in_child(board: Board, calls: int) -> None:
    """Run a handler that counts calls and dies of SIGKILL."""
    pid = os.fork()
    if pid == 0:
        counter = board.counter()
        for _ in range(calls):
            counter.call('echo', 0, 0.01)
        counter.ready(True)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.fixture
def counting() -> tuple[Board, Counter]:
    board = Board(4)
    return board, board.counter()


def test_calls_are_counted_by_method_code_and_time(counting: tuple[Board, Counter]) -> None:
    board, counter = counting
    for code, seconds in ((0, 0.0005), (0, 0.003), (1300, 30.0)):
        counter.call('list_vrf', code, seconds)
    found = values(board)
    assert found['nipap_calls_total code=0 method=list_vrf'] == 2
    assert found['nipap_calls_total code=1300 method=list_vrf'] == 1
    assert found['nipap_call_seconds_bucket le=0.0005 method=list_vrf'] == 1
    assert found['nipap_call_seconds_bucket le=0.005 method=list_vrf'] == 2
    assert found['nipap_call_seconds_bucket le=20.0 method=list_vrf'] == 2
    assert found['nipap_call_seconds_bucket le=+Inf method=list_vrf'] == 3
    assert found['nipap_call_seconds_count method=list_vrf'] == 3
    assert found['nipap_call_seconds_sum method=list_vrf'] == pytest.approx(30.0035)


def test_unknown_methods_and_codes_share_one_label_each(counting: tuple[Board, Counter]) -> None:
    board, counter = counting
    before = len(values(board))
    for number in range(100):
        counter.call(f'unknown_{number}', 1100 if number % 2 else 77000 + number, 0.1)
    found = values(board)
    assert found[f'nipap_calls_total code=1100 method={OTHER}'] == 50
    assert found[f'nipap_calls_total code=1000 method={OTHER}'] == 50
    assert len(found) - before < 25


def test_counters_do_not_go_back_when_handlers_die() -> None:
    board = Board(2)
    for round_ in range(1, 5):
        in_child(board, 10)
        assert values(board)['nipap_calls_total code=0 method=echo'] == 10 * round_


def test_calls_of_a_dead_handler_are_over() -> None:
    board = Board(2)
    in_child(board, 1)
    assert board.ready_handlers() == 0
    assert values(board)['nipap_handlers_ready'] == 0


def test_each_handler_has_a_row_of_its_own() -> None:
    board = Board(3)
    gate_r, gate_w = os.pipe()
    done_r, done_w = os.pipe()
    pids = []
    for _ in range(4):  # one more than there are rows
        pid = os.fork()
        if pid == 0:
            counter = board.counter()
            for _ in range(2000):
                counter.call('echo', 0, 0.001)
            os.write(done_w, b'x')
            os.close(gate_w)
            os.read(gate_r, 1)  # until the parent closes the pipe, so that the rows stay taken
            os._exit(0)
        pids.append(pid)
    got = b''
    while len(got) < 4:
        got += os.read(done_r, 4)
    try:
        assert values(board)['nipap_calls_total code=0 method=echo'] == 6000
    finally:
        for descriptor in (gate_r, gate_w, done_r, done_w):
            os.close(descriptor)
        for pid in pids:
            os.waitpid(pid, 0)


@pytest.mark.parametrize('place', ['_lock', '_get'])
def test_no_handler_is_lost_when_two_start_at_once(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second handler starts after the first has taken its row, or has read a number of the board."""
    board = Board(4)
    original = getattr(board, place)
    started = []

    def interrupted(argument: object) -> object:
        result = original(argument)
        if not started:
            started.append(place)
            in_child(board, 10)
        return result

    monkeypatch.setattr(board, place, interrupted)
    counter = board.counter()
    counter.call('echo', 0, 0.01)
    monkeypatch.undo()
    if not started:  # starting reads no number
        in_child(board, 10)
    assert values(board)['nipap_calls_total code=0 method=echo'] == 11


def test_a_handler_that_is_not_heard_of_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(1)
    ready_r, ready_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        board.counter().ready(True)
        os.write(ready_w, b'x')
        signal.pause()
    try:
        os.read(ready_r, 1)
        assert board.ready_handlers() == 1
        later = time.monotonic() + ALIVE_S + 1
        monkeypatch.setattr('nipapd.metrics.time.monotonic', lambda: later)
        assert board.ready_handlers() == 0
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready_r)
        os.close(ready_w)


def test_pools_and_vrfs_are_told_by_family() -> None:
    pool = {'name': 'a "b"\nc', **POOL, 'member_prefixes_v6': 0, 'free_prefixes_v4': None}
    found = values(Board(1), State(True, True, 1, [pool], [{'name': 'default', **VRF}]))
    assert found['nipap_pool_used_prefixes family=4 pool=a "b"\nc'] == 4
    assert found['nipap_vrf_prefixes family=6 vrf=default'] == 1
    assert not [name for name in found if 'pool_free' in name or ('family=6' in name and 'pool' in name)]


def test_every_method_has_a_place(counting: tuple[Board, Counter]) -> None:
    board, counter = counting
    for method in CALLS:
        counter.call(method, 0, 0.001)
    assert {f'nipap_calls_total code=0 method={method}' for method in CALLS} <= values(board).keys()


# ---- rules, dashboard and documentation


def test_alert_rules_and_dashboard_ask_for_metrics_that_there_are() -> None:
    for expression in expressions():
        asked = {name for name, _ in selectors(expression)}
        assert asked
        assert asked <= {*names(), 'up'}


def test_alert_rules_are_complete() -> None:
    groups = yaml.safe_load(ALERTS.read_text())['groups']
    rules = [rule for group in groups for rule in group['rules']]
    assert len({rule['alert'] for rule in rules}) == len(rules) > 5
    for rule in rules:
        assert rule.keys() <= {'alert', 'expr', 'for', 'labels', 'annotations'}
        assert rule['labels']['severity'] in ('warning', 'critical')
        assert rule['annotations']['summary']


def test_every_alert_rule_is_played() -> None:
    """Each rule fires in one case at least, and stays silent in another. `make alerts` plays the cases by promtool."""
    played = yaml.safe_load(PLAYED.read_text())
    cases = [case for test in played['tests'] for case in test['alert_rule_test']]
    rules = {rule['alert'] for group in yaml.safe_load(ALERTS.read_text())['groups'] for rule in group['rules']}
    assert {case['alertname'] for case in cases if case.get('exp_alerts')} == rules
    assert {case['alertname'] for case in cases if not case.get('exp_alerts')} == rules


def test_the_dashboard_has_what_grafana_needs() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert (dashboard['title'], dashboard['uid']) == ('NIPAP', 'nipapd')
    assert len({panel['id'] for panel in dashboard['panels']}) == len(dashboard['panels'])
    source = {'type': 'prometheus', 'uid': '${datasource}'}
    places = set()
    for panel in dashboard['panels']:
        assert panel['datasource'] == source
        assert all(target['datasource'] == source and target['legendFormat'] for target in panel['targets'])
        place = panel['gridPos']
        places |= {
            (x, y)
            for x in range(place['x'], place['x'] + place['w'])
            for y in range(place['y'], place['y'] + place['h'])
        }
    assert len(places) == sum(panel['gridPos']['w'] * panel['gridPos']['h'] for panel in dashboard['panels'])
    assert max(x for x, _ in places) < 24


def test_the_dashboard_loads_into_grafanas_own_model() -> None:
    """Grafana's own model reads and writes the dashboard. Every member of the file survives."""
    written = json.loads(DASHBOARD.read_text())
    read = Dashboard.from_json(written)
    assert lost(written, json.loads(JSONEncoder().encode(read))) == []


def lost(before: Any, after: Any, place: str = '') -> list[str]:
    """Return the places at which a value is missing or changed."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [one for key, value in before.items() for one in lost(value, after.get(key), f'{place}/{key}')]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [one for n, value in enumerate(before) for one in lost(value, after[n], f'{place}/{n}')]
    return [] if before == after else [place]


def test_every_metric_is_documented_and_no_other() -> None:
    rows = [row for row in (ROOT / 'docs/monitoring.md').read_text().splitlines() if row.startswith('| `nipap_')]
    documented = {name for row in rows for name in re.findall(r'`(nipap_\w+)`', row.split('|')[1])}
    assert documented == {re.sub(r'_(?:bucket|sum|count)$', '', name) for name in names()}
