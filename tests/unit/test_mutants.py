"""The mutants of `make mutants`: the changes of the operators, and finding mutants again in moved code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / 'tests/mutants'

PYTHON = '''"""Rooms."""

LIMIT = 10


class House:
    def fits(self, people: int | None) -> bool:
        # as many as there are beds
        if people is None or people >= LIMIT:
            raise ValueError('too many')
        self.note(people)
        return people + 1 < self.beds

    def empty(self) -> bool:
        return not self.people
'''
SQL = """-- Beds = places.

CREATE OR REPLACE FUNCTION beds(n int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM room WHERE id = n AND size > 2 ORDER BY id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no = room' USING ERRCODE = 'NP300';
    END IF;
    UPDATE room SET size = 1 WHERE id IS DISTINCT FROM n;
    RETURN n;
END $$;
COMMENT ON FUNCTION beds(int) IS 'Beds > 2.';

CREATE OR REPLACE FUNCTION rooms() RETURNS int LANGUAGE sql
RETURN 3;
"""


@pytest.fixture(scope='module')
def programs() -> Iterator[dict[str, Any]]:
    """Yield the names of the tool's modules, which are no package."""
    before = set(sys.modules)
    sys.path.insert(0, str(PROGRAMS))
    import changes
    import fork_tests
    import places
    import sources

    sys.path.remove(str(PROGRAMS))
    yield {**vars(sources), **vars(changes), **vars(places), **vars(fork_tests)}
    for name in ('changes', 'fork_tests', 'places', 'sources'):
        if name not in before:
            del sys.modules[name]


def texts(programs: dict[str, Any], path: str, text: str) -> set[tuple[str, str]]:
    """Return the texts that the operators replace, with their replacements."""
    found = programs['changes_of'](programs['Source'](path, text))
    return {(text[each.start : each.end], each.replacement) for each in found}


def test_deciding_code_in_python_is_changed(programs: dict[str, Any]) -> None:
    assert texts(programs, 'house.py', PYTHON) == {
        ('10', '10 + 1'),
        ('is', 'is not'),
        ('or', 'and'),
        ('>=', '>'),
        ("raise ValueError('too many')", 'pass'),
        ('self.note(people)', 'pass'),
        ('people + 1 < self.beds', 'None'),
        ('+', '-'),
        ('1', '1 + 1'),
        ('<', '<='),
        ('not self.people', 'None'),
        ('not self.people', 'self.people'),
    }


def test_deciding_code_in_sql_is_changed(programs: dict[str, Any]) -> None:
    assert texts(programs, 'sql/functions/beds.sql', SQL) == {
        ('PERFORM FROM room WHERE id = n AND size > 2 ORDER BY id FOR UPDATE;', 'NULL;'),
        ('=', '<>'),
        ('AND', 'OR'),
        ('>', '>='),
        ('2', '3'),
        ('ORDER BY id', 'ORDER BY id DESC'),
        (' FOR UPDATE', ''),
        ('NOT ', ''),
        ("RAISE EXCEPTION 'no = room' USING ERRCODE = 'NP300';", 'NULL;'),
        ('NP300', 'NP200'),
        ('UPDATE room SET size = 1 WHERE id IS DISTINCT FROM n;', 'NULL;'),
        ('1', '2'),
        ('IS DISTINCT FROM', 'IS NOT DISTINCT FROM'),
        ('n', 'CASE WHEN false THEN n END'),
        ('3', '4'),
        ('3', 'CASE WHEN false THEN 3 END'),
    }


def test_each_change_can_be_compiled(programs: dict[str, Any]) -> None:
    for path in ('nipap/objects/vrf.py', 'nipapd/systemd.py'):
        source = programs['Source'](path, (ROOT / path).read_text())
        for change in programs['changes_of'](source):
            compile(source.text[: change.start] + change.replacement + source.text[change.end :], path, 'exec')


def moved(programs: dict[str, Any], path: str, text: str, now: dict[str, str]) -> list[tuple[str, str, str] | None]:
    """Describe every change of a file. Return the rule that finds it in other files, and the line with the change."""
    source = programs['Source'](path, text)
    sources = [programs['Source'](*each) for each in now.items()]
    found = []
    for change in programs['changes_of'](source):
        mutant = programs['describe'](source, change)
        place = programs['find'](mutant, sources)
        line = place and programs['Source'](path, place.mutated).line(place.line).strip()
        found.append(place and (place.how, mutant.original, line))
    return found


@pytest.mark.parametrize(
    ('how', 'now'),
    [
        ('in place', {'house.py': PYTHON}),
        (
            'in place',
            {
                'house.py': '\n\nimport os\n'
                + PYTHON.replace('    def fits', '    def more(self) -> None: ...\n\n    def fits')
            },
        ),
        ('moved', {'city/house.py': PYTHON, 'house.py': 'LIMIT = 3\n'}),
        ('renamed', {'city/house.py': PYTHON.replace('House', 'Home')}),
        ('elsewhere', {'city/house.py': PYTHON.replace('fits', 'has_room').replace('empty', 'vacant')}),
        ('alike', {'house.py': PYTHON.replace('people', 'persons')}),
    ],
)
def test_a_mutant_of_python_is_found_again(programs: dict[str, Any], how: str, now: dict[str, str]) -> None:
    before = moved(programs, 'house.py', PYTHON, {'house.py': PYTHON})
    after = moved(programs, 'house.py', PYTHON, now)
    pairs = [
        each for each in zip(before, after, strict=True) if each[0] and each[0][1] not in ('10', 'self.note(people)')
    ]
    for was, found in pairs:
        assert was
        assert found
        assert found[1:] == (was[1], was[2].replace('people', 'persons') if how == 'alike' else was[2])
    assert how in {found[0] for _, found in pairs if found}


def test_a_mutant_of_sql_is_found_again(programs: dict[str, Any]) -> None:
    path = 'sql/functions/030_beds.sql'
    before = moved(programs, path, SQL, {path: SQL})
    after = moved(programs, path, SQL, {'sql/functions/035_rooms.sql': SQL.replace('    ', '  ')})
    assert [each and each[1:] for each in after] == [each and each[1:] for each in before]
    assert {each and each[0] for each in after} == {'moved'}


def test_of_two_lines_alike_the_same_one_is_found(programs: dict[str, Any]) -> None:
    text = 'def first():\n    a(1)\n    b()\n    a(1)\n\n\ndef second():\n    a(1)\n'
    source = programs['Source']('house.py', text)
    mutants = [programs['describe'](source, each) for each in programs['changes_of'](source) if each.kind == 'constant']
    assert [(each.function, each.occurrence) for each in mutants] == [('first', 0), ('first', 1), ('second', 0)]
    places = [programs['find'](each, [programs['Source']('house.py', '# more\n\n' + text)]) for each in mutants]
    assert [place and place.line for place in places] == [4, 6, 10]


def test_a_mutant_of_removed_code_is_lost(programs: dict[str, Any]) -> None:
    assert moved(programs, 'house.py', PYTHON, {'house.py': 'def fits() -> None:\n    pass\n'}) == [None] * 12


def test_code_is_put_into_functions_that_there_are(programs: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / 'house.py'
    names: dict[str, Any] = {}
    exec(compile(PYTHON, str(path), 'exec'), names)
    house = names['House']()
    house.beds, house.note = 8, lambda people: None
    functions = [names['House'].fits, names['House'].empty]
    assert not house.fits(7)
    programs['put_code'](str(path), PYTHON, PYTHON.replace('+ 1', '- 1'), functions)
    assert house.fits(7)
