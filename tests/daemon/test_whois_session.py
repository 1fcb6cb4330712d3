"""The recorded session of the whois server of NIPAP is replayed: its calls by the client library find the same.

The server itself is no installable package. `Whois` makes the same calls and writes answers in the same form; the
recording verifies both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynipap
import pytest
from pynipap import VRF, AuthOptions, Prefix
from pynipap import pynipap as implementation
from support import DaemonFactory

# The library makes a connection for each call and leaves closing the connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings('ignore:unclosed:ResourceWarning')

DATA = Path(__file__).parents[1] / 'data'
RECORDED = (DATA / 'whois-session.txt').read_text()
SEED = [call for call in json.loads((DATA / 'www-session.json').read_text())['calls'] if call['step'] == 'seed']
VERSION = '0.32.7'
NOTHING = """%ERROR:101: no entries found
%
% No entries found in source NIPAP.
%
% Query the whois service by IP address, prefix, VRF RT or free text
% search. It is possible to search for a prefix in a VRF by
% concatenating the VRF RT and the prefix: 123:123:1.2.3.4
%
"""


def dialogues() -> list[tuple[str, str]]:
    """Return each query with its answer."""
    _, *parts = re.split(r'^>>> ?(.*)\n', RECORDED, flags=re.MULTILINE)
    return [(query, re.sub(r'\n\n\Z', '\n', answer)) for query, answer in zip(parts[::2], parts[1::2], strict=True)]


def line(key: str, value: object) -> str:
    return '' if value is None else f'{key + ":":<20} {value}\n'


class Whois:
    """Answers a query by searches for VRFs and prefixes, as the whois server does."""

    def answer(self, query: str) -> str:
        found = ''.join(f'{each}\n' for each in self._found(query.strip())) or NOTHING
        return (
            f'% This is the NIPAP whois query service.\n\n{found}\n'
            f'% This query was served by the NIPAP whois server version {VERSION}\n'
        )

    def _found(self, query: str) -> Iterator[str]:
        in_vrf = re.match('([0-9]+:[0-9]+):(.*)$', query)
        if in_vrf:
            only = {'val1': 'vrf_rt', 'operator': 'equals', 'val2': in_vrf[1]}
            yield from map(self._prefix, Prefix.smart_search(in_vrf[2], {}, only)['result'])
        elif query:
            vrfs = VRF.smart_search(query, {})['result']
            for number, vrf in enumerate(vrfs):
                heading = '' if number else '% VRFs matching\n'
                yield heading + line('rt', vrf.rt) + line('vrf', vrf.name) + line('descr', vrf.description)
            yield from map(self._prefix, Prefix.smart_search(query, {})['result'])

    def _prefix(self, found: Any) -> str:
        values = {
            'inetnum' if found.family == 4 else 'inet6num': found.prefix,
            'vrf-rt': found.vrf.rt,
            'vrf-name': found.vrf.name,
            'descr': found.description,
            'comment': found.comment,
            'country': found.country,
            'order': found.order_id,
            'node': found.node,
            'monitor': found.monitor,
            'alarm-priority': found.alarm_priority,
        }
        return ''.join(line(key, value) for key, value in values.items())


@pytest.fixture
def whois(daemon: DaemonFactory, database_options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Whois:
    """Return the server in front of a daemon with the data of the recording."""
    running = daemon(config={'nipapd': {'forks': '1', **database_options}})
    for cache in implementation._cache.values():
        cache.clear()
    # The address has no path; the library then uses /RPC2.
    monkeypatch.setattr(pynipap, 'xmlrpc_uri', running.url(*running.admin()))
    AuthOptions({'authoritative_source': 'nipap'})
    connection = implementation.XMLRPCConnection().connection
    numbers: dict[str, int] = {}
    for call in SEED:
        attr = {
            key: numbers.get(value, value) if isinstance(value, str) else value
            for key, value in call['args']['attr'].items()
        }
        added = getattr(connection, call['method'])({'auth': {'authoritative_source': 'nipap'}, 'attr': attr})
        numbers[call['result']['id']] = added['id']
    return Whois()


def test_the_session(whois: Whois) -> None:
    session = dialogues()
    assert len(session) == 12
    wrong = {query: found for query, answer in session if (found := whois.answer(query)) != answer}
    assert wrong == {}


def test_queries_that_the_former_daemon_failed_at_are_answered(whois: Whois) -> None:
    """Both queries closed the connection without an answer."""
    assert 'inet6num:            2001:db8:2::/64' in whois.answer('2001:db8:2::/64')
    assert NOTHING in whois.answer('orange')
