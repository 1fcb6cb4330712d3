"""Two revisions side by side, at a size at which figures mean nothing: each side runs its own code and its own SQL."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from bench import compare, compare_rows, revisions
from bench.compare_rows import ROWS, Call, Row
from bench.operations import BY_NAME, FLOOR
from bench.revisions import Program, RevisionError
from bench.sides import Refused, Side, running
from bench.upkeep import session

import nipap
from nipap.postgres import schema

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
PARTS = ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'nipap', 'nipapd', 'sql', 'etc', 'docs')
TIMED = (FLOOR, 'add_prefix, leaf', 'code alone: decode an edit', '8 clients: add_prefix, from an unused pool')
VERSION, PAIRS = '99.1', 8
QUICK = 'fsync = off\nfull_page_writes = off\n'


@pytest.fixture
def repository(make_dir: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a separate repository with the program, nothing of which is committed."""
    copy = make_dir() / 'repository'
    copy.mkdir()
    for part in PARTS:
        source = REPOSITORY / part
        if source.is_dir():
            shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(source, copy)
    subprocess.run(['git', 'init', '--quiet', str(copy)], check=True)
    monkeypatch.setattr(revisions, 'REPOSITORY', copy)
    monkeypatch.setattr(revisions, 'CACHE', copy.parent / 'cache')
    return copy


def changed(program: Program, directory: Path) -> Program:
    """Return a copy of an installed tree with another version and one more migration."""
    code = directory / 'code'
    shutil.copytree(program.code, code)
    module = code / 'nipap' / '__init__.py'
    text, count = re.subn(r"__version__ = '[^']+'", f"__version__ = '{VERSION}'", module.read_text())
    assert count == 1
    module.write_text(text)
    migration = code / 'nipap' / 'sql' / 'migrations' / f'{schema.latest() + 1:04}_ours.sql'
    migration.write_text("COMMENT ON DATABASE nipap IS 'ours';\n")
    return replace(program, tree='changed', code=code)


class Refusing(Call):
    """A call of `version` that the side with this tree refuses."""

    def __init__(self, tree: str, side: Side) -> None:
        super().__init__(BY_NAME[FLOOR], side)
        self._tree = tree

    def run(self) -> float:
        if self.side.program.tree == self._tree:
            raise Refused('it is not known')
        return super().run()


class Known(Call):
    """A call of `version` with fixed times: a second, and two on one side."""

    def __init__(self, tree: str, side: Side) -> None:
        super().__init__(BY_NAME[FLOOR], side)
        self._seconds = 2.0 if side.program.tree == tree else 1.0

    def run(self) -> float:
        super().run()
        return self._seconds

    def find_processes(self) -> None:
        """Do nothing: the work of the processors is not known."""


@pytest.mark.slow
def test_each_side_runs_its_own_code(
    repository: Path, make_dir: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = revisions.working_tree()
    size = [
        '--rows',
        '1000',
        '--siblings',
        '20',
        '--no-shapes',
        '--pairs',
        str(PAIRS),
        '--rounds',
        '1',
        '--seconds',
        '1000',
    ]
    options = compare.parse([tree, '--ours', tree, *size])
    base, same = compare.install(options)
    assert (base.tree, same.tree) == (tree, tree)
    programs = [base, changed(same, make_dir())]
    trees = [program.tree for program in programs]
    sides = [Side(program, make_dir(), options.siblings) for program in programs]
    for side in sides:
        side.data_dir.mkdir()
        side.data_dir.joinpath('postgresql.conf').write_text(QUICK)
    others = [
        Row('new', partial(Refusing, trees[0])),
        Row('gone', partial(Refusing, trees[1]), 'db_version'),
        Row('broken', partial(Refusing, trees[1]), 'version'),
        Row('slower', partial(Known, trees[1])),
        Row('quicker', partial(Known, trees[0])),
    ]
    monkeypatch.setattr(compare, 'ROWS', [*(row for row in ROWS if row.name in TIMED), *others])
    monkeypatch.setattr(compare, 'AGAIN', 1)
    monkeypatch.setattr(compare_rows, 'SLICE_S', 0.02)
    comparison = compare.Comparison(options, *sides)
    with running(sides):
        assert [side.site.call('version') for side in sides] == [nipap.__version__, VERSION]
        assert [applied(side) for side in sides] == [schema.latest(), schema.latest() + 1]
        sides[1].methods -= {'db_version'}
        comparison.run()
    results = comparison.results
    assert {name: results[name].verdict for name in ('new', 'gone', 'broken')} == {
        'new': 'only ours: it is not known',
        'gone': 'only BASE: there is no method db_version',
        'broken': 'it is not known',
    }
    assert results['slower'].verdict == 'slower (timed 2 times)'
    assert results['quicker'].verdict == 'quicker'
    assert results['slower'].cells()[1:4] == ['1000.000', '2000.000', '2.000 [2.000, 2.000]']
    assert [len(results[name].times) for name in TIMED] == [PAIRS] * len(TIMED)
    assert set(comparison.failures) >= {'broken', 'slower'}
    assert not comparison.differences, 'something that was added is left, or is not right'
    assert not {'new', 'gone', 'quicker'} & set(comparison.failures)
    assert all(f'| {name} | ' in comparison.report() for name in results)
    assert json.loads(json.dumps([one.figures() for one in results.values()]))


def applied(side: Side) -> int:
    """Return the version of the schema in the database of a side."""
    with session(side.data_dir) as cursor:
        cursor.execute('SELECT max(version) FROM schema_migration')
        return int(cursor.fetchone()[0])


def test_a_revision_that_is_not_there_is_told(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare.signal, 'signal', lambda *_: None)  # pytest keeps its own handler
    with pytest.raises(RevisionError, match='rev-parse'):
        revisions.tree_of('nowhere')
    assert compare.main(['nowhere']) == 2
    assert 'nowhere' in capsys.readouterr().err


def test_the_tree_of_the_working_tree_has_new_files_and_leaves_the_index_alone(repository: Path) -> None:
    before = revisions.working_tree()
    (repository / 'nipap' / 'new.py').touch()
    assert revisions.working_tree() != before
    listed = subprocess.run(['git', '-C', str(repository), 'ls-files'], capture_output=True, check=True)
    assert listed.stdout == b''


@pytest.mark.parametrize(
    ('requirement', 'satisfied'),
    [
        ('tornado>=6', True),
        ('tornado<6', False),
        ('PyJWT[crypto]>=2.8,<3', True),
        ('no-such-distribution', False),
    ],
)
def test_requirements_that_this_python_does_not_satisfy(requirement: str, satisfied: bool) -> None:
    assert revisions.unsatisfied([requirement]) == ([] if satisfied else [requirement])


def test_code_of_another_tree_is_refused(tmp_path: Path) -> None:
    """An editable install may come before the directory of the side."""
    program = Program('elsewhere', 'a tree', tmp_path, Path(sys.executable))
    with pytest.raises(RevisionError, match=f'is imported from .*, not from {tmp_path}'):
        program.versions()
