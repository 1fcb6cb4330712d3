"""Scripts that go round by round: in each round, every client makes one call at the same moment.

Each round uses objects of its own, so that its result remains until the end.
"""

from __future__ import annotations

from typing import Any

from .clients import Client

ROUNDS = 40
Answers = list[Any]


def add_each(client: Client, texts: list[str], type_: str, refusals: list[int]) -> Answers:
    """Add one prefix in each round, at the same moment as the other clients.

    The answers are the id and text of the prefix, or the code of the refusal.
    """
    answers: Answers = []
    for text in texts:
        client.meet()
        answer = client.try_add(text, type_, refusals=refusals)
        answers.append((answer['id'], text) if isinstance(answer, dict) else answer)
    return answers


def change_each(client: Client, method: str, calls: list[tuple[Any, ...]], refusals: list[int]) -> Answers:
    """Make one call in each round, at the same moment as the other clients.

    The answers are the code of the refusal, or None. An edit that found nothing to edit counts as refused, with code 0.
    """
    answers: Answers = []
    for members in calls:
        client.meet()
        answer = client.call(method, *members, refusals=refusals)
        answers.append(0 if answer == [] else answer if isinstance(answer, int) else None)
    return answers


def allocate_each(client: Client, sources: list[str], length: int, refusals: list[int]) -> Answers:
    """Allocate from one source in each round, at the same moment as the other clients."""
    answers: Answers = []
    for source in sources:
        client.meet()
        attr = {'type': 'assignment', 'description': f'client {client.number}'}
        answer = client.call('add_prefix', attr, {'from-prefix': [source], 'prefix_length': length}, refusals=refusals)
        answers.append((answer['id'], answer['prefix']) if isinstance(answer, dict) else answer)
    return answers


def allocate_from_each(client: Client, pools: list[int], length: int, refusals: list[int]) -> Answers:
    """Allocate from one pool in each round, at the same moment as the other clients."""
    answers: Answers = []
    for pool in pools:
        client.meet()
        args = {'from-pool': {'id': pool}, 'family': 4, 'prefix_length': length}
        answer = client.call('add_prefix', {'description': 'd'}, args, refusals=refusals)
        answers.append((answer['id'], answer['prefix']) if isinstance(answer, dict) else answer)
    return answers


def rounds(pattern: str, start: int = 0) -> list[str]:
    """Return a network for each round: the pattern with the number of the round filled in."""
    return [pattern.format(number) for number in range(start, start + ROUNDS)]


def succeeded(answers: Answers) -> list[tuple[int, str]]:
    """Return the additions among the answers of a script."""
    return [answer for answer in answers if isinstance(answer, tuple)]


def exactly_one(*scripts: Answers) -> bool:
    """Return whether in each round exactly one of the clients was not refused."""
    return all(sum(not isinstance(answer, int) for answer in answers) == 1 for answers in zip(*scripts, strict=True))
