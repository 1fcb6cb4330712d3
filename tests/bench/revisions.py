"""Installed revisions of this repository, each in a directory of its own, with the Python that has its dependencies.

A tree is built into a wheel as a user would get it, so its sql/ is its own. Installed trees are kept by the hash of the
tree in build/compare, which git ignores.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CACHE = REPOSITORY / 'build' / 'compare'
MOST_KEPT = 10
# This code prints the places of the packages of a tree, and the versions of all importable distributions.
LOOK = """
import importlib.util, json
from importlib import metadata
found = {name: importlib.util.find_spec(name).origin for name in ('nipap', 'nipap.sql', 'nipapd')}
print(json.dumps([found, {one.name.lower(): one.version for one in metadata.distributions()}]))
"""


class RevisionError(Exception):
    """A revision cannot be installed."""


@dataclass(frozen=True)
class Program:
    """An installed tree. `name` is for people."""

    name: str
    tree: str
    code: Path
    python: Path

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that make every Python of this side import the code of this tree."""
        return {**os.environ, 'PYTHONPATH': str(self.code), 'PYTHONNOUSERSITE': '1'}

    def run(self, *args: str, **variables: str) -> str:
        """Run Python with these arguments and return its output. Raises RevisionError if it fails."""
        # Python looks into the current directory before PYTHONPATH.
        return _output([str(self.python), *args], cwd='/', env={**self.environment, **variables})

    def versions(self) -> dict[str, str]:
        """Return the versions of all importable distributions; raises RevisionError unless the code is this tree's."""
        found, versions = json.loads(self.run('-c', LOOK))
        for name, origin in found.items():
            if not Path(origin or '').is_relative_to(self.code):
                raise RevisionError(f'{self.name}: {name} is imported from {origin}, not from {self.code}')
        return dict(versions)


def tree_of(revision: str) -> str:
    """Return the hash of the tree of a revision."""
    return _git('rev-parse', '--verify', f'{revision}^{{tree}}').strip()


def working_tree() -> str:
    """Return the hash of the tree that a commit of the working tree, new files included, would have."""
    with tempfile.TemporaryDirectory() as directory:
        # An index of its own leaves the developer's alone.
        index = {'GIT_INDEX_FILE': str(Path(directory, 'index'))}
        _git('add', '--all', **index)
        return _git('write-tree', **index).strip()


def install(name: str, tree: str) -> Program:
    """Install a tree, unless it is installed already."""
    code = CACHE / tree
    if not code.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as directory:
            built = _build(tree, Path(directory))
            if not code.exists():
                built.rename(code)
    os.utime(code)
    _forget_old()
    return Program(name, tree, code, _python_for(requirements(code)))


def _build(tree: str, directory: Path) -> Path:
    """Return a directory with the packages of a tree."""
    source, wheels, code = directory / 'source', directory / 'wheels', directory / 'code'
    with tarfile.open(fileobj=io.BytesIO(_git_bytes('archive', '--format=tar', tree))) as archive:
        archive.extractall(source, filter='data')
    with open(source / 'pyproject.toml', 'rb') as file:
        builder = _environment(tomllib.load(file)['build-system']['requires'])
    _pip(builder, 'wheel', '--no-build-isolation', '--no-deps', '--wheel-dir', str(wheels), str(source))
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as file:
        file.extractall(code)
    _output([sys.executable, '-m', 'compileall', '-q', str(code)])
    return code


def requirements(code: Path) -> list[str]:
    """Return the requirements of an installed tree that hold here, without extras."""
    (found,) = metadata.distributions(path=[str(code)])
    return sorted(one for one in found.requires or () if _holds(Requirement(one)))


def _holds(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({'extra': ''})


def unsatisfied(wanted: Sequence[str]) -> list[str]:
    """Return the requirements that this Python's distributions do not satisfy."""
    return [one for one in wanted if not _satisfied(Requirement(one))]


def _satisfied(requirement: Requirement) -> bool:
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(found, prereleases=True) and all(map(_satisfied, _of_extras(requirement)))


def _of_extras(requirement: Requirement) -> Iterator[Requirement]:
    for one in map(Requirement, metadata.requires(requirement.name) or ()):
        if one.marker and any(one.marker.evaluate({'extra': extra}) for extra in requirement.extras):
            yield one


def _python_for(wanted: Sequence[str]) -> Path:
    """Return this Python if it satisfies the requirements, else the Python of a virtual environment that does."""
    return _environment(wanted) if unsatisfied(wanted) else Path(sys.executable)


def _environment(wanted: Sequence[str]) -> Path:
    """Return the Python of a virtual environment with these requirements, making it if it is missing."""
    key = hashlib.sha256('\n'.join([sys.version, *wanted]).encode()).hexdigest()[:20]
    venv = CACHE / f'venv-{key}'
    python = venv / 'bin' / 'python'
    with _complete(venv) as missing:
        if missing:
            _output([sys.executable, '-m', 'venv', '--without-pip', str(venv)])
            _pip(python, 'install', *wanted)
    return python


@contextmanager
def _complete(directory: Path) -> Iterator[bool]:
    """Yield whether a directory has to be made. Remove an unfinished one first."""
    mark = directory / 'complete'
    missing = not mark.exists()
    if missing:
        shutil.rmtree(directory, ignore_errors=True)
    yield missing
    mark.touch()  # the time of the mark is the last use of the environment
    os.utime(directory)


def _forget_old() -> None:
    """Remove all but the last used trees and environments."""
    kept = sorted(CACHE.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in kept[MOST_KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


def _pip(python: Path, *args: str) -> None:
    """Run our pip for another Python."""
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check', '--python', str(python)]
    _output([*pip, *args])


def _git(*args: str, **variables: str) -> str:
    return _git_bytes(*args, **variables).decode()


def _git_bytes(*args: str, **variables: str) -> bytes:
    return _run(['git', '-C', str(REPOSITORY), *args], env={**os.environ, **variables})


def _output(command: Sequence[str], cwd: str | None = None, env: Mapping[str, str] | None = None) -> str:
    return _run(command, cwd, env).decode()


def _run(command: Sequence[str], cwd: str | None = None, env: Mapping[str, str] | None = None) -> bytes:
    try:
        done = subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise RevisionError(f'{command[0]} cannot be run: {error}') from None
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors='replace').strip()
        raise RevisionError(f'{" ".join(command)} ended with {done.returncode}: {said}')
    return done.stdout
