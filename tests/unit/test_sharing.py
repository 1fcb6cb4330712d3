"""The order in which files of tests go to the processes of pytest-xdist."""

from __future__ import annotations

from pathlib import Path

import pytest
import sharing

TESTS = Path(sharing.__file__).parent


@pytest.mark.parametrize('begin', sharing.RANKS)
def test_a_rank_is_a_file_or_a_directory(begin: str) -> None:
    assert (TESTS / begin).exists()


def test_long_files_begin_first() -> None:
    paths = [
        'daemon/test_long_answers.py',
        'daemon/test_http.py',
        'contract/test_asn_contract.py',
        'unit/test_pairs.py',
    ]
    assert [sharing.rank_of(path) for path in paths] == sorted({sharing.rank_of(path) for path in paths})
    assert sharing.rank_of('unit/test_pairs.py') == sharing.rank_of('fuzz/test_corpus.py')
