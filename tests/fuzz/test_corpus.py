"""Replay the inputs that fuzzing found, and the interesting ones. No fuzzer is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE),) if path not in sys.path]

from harnesses import HARNESSES  # noqa: E402

CORPUS = HERE / 'corpus'
MOST_FILES, MOST_BYTES = 60, 20_000


@pytest.mark.parametrize('name', sorted(HARNESSES))
def test_what_was_found_is_not_found_again(name: str) -> None:
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        try:
            HARNESSES[name](path.read_bytes())
        except Exception as error:
            error.add_note(f'for {path}')
            raise


def test_the_corpus_is_small_and_known() -> None:
    directories = {path.name: list(path.iterdir()) for path in CORPUS.iterdir()}
    assert set(directories) == set(HARNESSES)
    assert max(map(len, directories.values())) <= MOST_FILES
    assert max(sum(path.stat().st_size for path in paths) for paths in directories.values()) <= MOST_BYTES
