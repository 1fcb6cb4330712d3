"""The pages of docs/reference are up to date with the tables of the program and the played examples."""

from __future__ import annotations

from pathlib import Path

from pages import ROOT, write
from played import play

from nipap.calls import CALLS
from nipap.postgres import schema

PAGES = ROOT / 'docs/reference'


def test_the_reference_is_up_to_date(dsn: str, empty_dsn: str, tmp_path: Path) -> None:
    schema.install(empty_dsn)
    played = play(dsn, empty_dsn, tmp_path)
    assert set(played.rpc) == set(CALLS)
    pages = write(played)
    assert {path.name for path in PAGES.iterdir()} == set(pages)
    stale = [name for name, text in pages.items() if (PAGES / name).read_text(encoding='utf-8') != text]
    assert stale == [], 'run: make reference'
