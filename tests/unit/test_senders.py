"""The delivery of events: its pause after a failed attempt."""

from __future__ import annotations

import pytest

from nipapd.senders import FIRST_PAUSE_S, MOST_PAUSE_S, pause_after


@pytest.mark.parametrize('attempts', [0, 1, 2, 5, 9, 30, 1000])
def test_pauses_double_up_to_a_limit_and_differ(attempts: int) -> None:
    longest = min(MOST_PAUSE_S, FIRST_PAUSE_S * 2**attempts)
    pauses = [pause_after(attempts) for _ in range(200)]
    assert longest / 2 <= min(pauses) <= max(pauses) <= longest
    assert len(set(pauses)) > 100  # receivers that failed together are retried at different times
