"""The claims about supported versions are the versions that `make matrix` runs."""

from __future__ import annotations

import re
from importlib.metadata import metadata
from pathlib import Path

import matrix
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = {cell.python for cell in matrix.CELLS}
POSTGRESQLS = {cell.postgresql for cell in matrix.CELLS} - set(matrix.UNCLAIMED)


def numbers(pattern: str) -> set[str]:
    """Return the versions that the README names in the match of a pattern."""
    found = re.search(pattern, (ROOT / 'README.md').read_text())
    return set(re.findall(r'\d+(?:\.\d+)?', found[0])) if found else set()


def test_the_classifiers_name_the_versions_of_python_that_are_run() -> None:
    classifiers = metadata('nipapd').get_all('Classifier') or []
    named = [re.fullmatch(r'Programming Language :: Python :: (3\.\d+)', each) for each in classifiers]
    assert {each[1] for each in named if each} == PYTHONS


def test_the_readme_claims_the_versions_that_are_run() -> None:
    assert numbers(r'Python \d[\d., or]*\d') == PYTHONS
    assert numbers(r'\([\d, and]+ are tested\)') == set(map(str, POSTGRESQLS))


def test_each_library_has_a_lowest_version() -> None:
    lowest = dict(each.split('==') for each in matrix.lowest())
    for text in metadata('nipapd').get_all('Requires-Dist') or []:
        requirement = Requirement(text)
        if not re.search('test|docs', str(requirement.marker)):  # extras for developers
            assert Version(lowest[requirement.name]) in requirement.specifier


def test_each_axis_has_its_ends() -> None:
    assert {cell.libraries for cell in matrix.CELLS} == {'lowest', 'newest'}
    assert any(cell.optimized for cell in matrix.CELLS)


def test_a_part_that_is_missing_is_named() -> None:
    with pytest.raises(matrix.MissingError, match=r'no python3\.99 on this host'):
        matrix.find_python('3.99')
    with pytest.raises(matrix.MissingError, match='no PostgreSQL 99 on this host'):
        matrix.find_system(99)
    result = matrix.Result(matrix.CELLS[0], 'missing', 'no python3.99 on this host', 60.0)
    assert (
        matrix.table([result]).splitlines()[-1] == '| 3.11 | lowest | 18 | missing: no python3.99 on this host | 1.0 |'
    )
