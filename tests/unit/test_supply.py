"""The parts of the daemon: the lock of its libraries, and the files of Swagger UI."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from typing import Any

import make_lock
import take_swagger
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

from nipap.rest import openapi

SWAGGER = take_swagger.TARGET
SOURCE: dict[str, Any] = json.loads((SWAGGER / take_swagger.SOURCE).read_text())
LOCKED = re.compile(
    r'^(?P<name>[a-z0-9-]+)==(?P<version>[^ ]+)(?: ; (?P<marker>[^\n]+?))? \\\n'
    r'(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)',
    re.MULTILINE,
)
FILES: dict[str, dict[str, str]] = json.loads(make_lock.FILES.read_text())


def locked() -> dict[str, tuple[str, set[str]]]:
    """Return the version and the hashes of each library in the lock."""
    text = make_lock.LOCK.read_text()
    return {
        found['name']: (found['version'], set(re.findall('[0-9a-f]{64}', found['hashes'])))
        for found in LOCKED.finditer(text)
    }


def wanted() -> list[Requirement]:
    """Return the present requirements in setup.py."""
    tree = ast.parse((make_lock.REPOSITORY / 'setup.py').read_text())
    (found,) = (
        node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == 'install_requires'
    )
    return [Requirement(text) for text in ast.literal_eval(found)]


def test_the_lock_is_nothing_but_versions_with_hashes() -> None:
    """The lock has no index, no address, no file of this host, and no library without a hash."""
    rest = re.sub(r'^ *#.*\n', '', LOCKED.sub('', make_lock.LOCK.read_text()), flags=re.MULTILINE)
    assert rest == ''
    assert not re.search('://|--(?!hash=)', make_lock.LOCK.read_text())
    assert len(locked()) >= len(wanted())


def test_the_lock_has_what_setup_py_wants() -> None:
    found = locked()
    for requirement in wanted():
        version, _ = found[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f'{requirement}, locked is {version}: make lock'


def test_each_machine_is_served_by_files_whose_hashes_are_in_the_lock() -> None:
    """The files are wheels for the machine, or sources that need no compiler.

    pip has named them when the lock was made.
    """
    found = locked()
    assert sorted(FILES) == sorted(make_lock.TARGETS)
    for target, files in FILES.items():
        python, machine = target.split()
        named = {}
        for file, digest in files.items():
            if file.endswith('.whl'):
                name, version, _, tags = parse_wheel_filename(file)
                platforms = {tag.platform for tag in tags}
                assert platforms == {'any'} or any(tag.endswith(machine) for tag in platforms), (target, file)
                interpreters = {tag.interpreter for tag in tags}
                newest = f'cp{python.replace(".", "")}'
                assert interpreters & {newest, 'py3'} or {tag.abi for tag in tags} == {'abi3'}, (target, file)
            else:
                name, version = parse_sdist_filename(file)
            assert digest in found[name][1], (target, file)
            assert str(version) == found[name][0], (target, file)
            named[name] = file
        assert named.keys() == found.keys(), target


def test_lower_bounds_are_as_documented() -> None:
    """docs/security.md names the holes below these bounds."""
    text = (make_lock.REPOSITORY / 'docs' / 'security.md').read_text()
    bounds = {canonicalize_name(each.name): each.specifier for each in wanted()}
    checked = 0
    for names, versions in re.findall(r'^  \| ([\w, -]+) \| ([\d., ]+) \|', text, re.MULTILINE):
        for name, version in zip(names.split(', '), versions.split(', '), strict=True):
            if specifier := bounds.get(canonicalize_name(name)):
                assert f'>={version}' in {str(each) for each in specifier}, name
                checked += 1
    assert checked == 8


def test_swagger_ui_is_as_npm_has_it() -> None:
    """Each file has its original hash, and there is no other file."""
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SWAGGER.iterdir()}
    assert there.pop(take_swagger.SOURCE)
    assert there == SOURCE['sha256']
    assert SOURCE['sha256'].keys() == {*take_swagger.TAKEN}
    assert (SOURCE['package'], SOURCE['registry']) == ('swagger-ui-dist', 'npm')
    assert re.fullmatch(r'\d+\.\d+\.\d+', SOURCE['version'])
    assert re.fullmatch(r'sha512-[A-Za-z0-9+/]{86}==', SOURCE['integrity'])


def test_swagger_ui_has_its_licence_and_what_the_page_needs() -> None:
    assert SOURCE['licence'] == 'Apache-2.0'
    assert 'Apache License' in (SWAGGER / 'LICENSE').read_text()
    assert 'SmartBear' in (SWAGGER / 'NOTICE').read_text()
    for name in openapi.FILES:
        assert openapi._file(name) == (SWAGGER / name).read_bytes()
