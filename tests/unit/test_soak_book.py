"""The books of the long run: an error that is planted in the stored objects must be found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bench.soak_book import Book, Facts, Key, Lease, held_twice, overlapping, reconcile
from bench.soak_clients import Latencies

Stored = dict[Key, Facts]


def prefix(number: int, name: str, **members: Any) -> dict[str, Any]:
    facts = {'prefix': f'10.0.0.{number}/32', 'vrf_id': 1, 'type': 'assignment', 'pool_id': None}
    return {'id': number, **facts, 'description': name, 'comment': None, 'tags': [], **members}


def book_of(*numbers: int) -> Book:
    book = Book()
    for number in numbers:
        book.add('prefix', prefix(number, f'name {number}'))
    return book


def stored_as(*books: Book) -> Stored:
    return {key: dict(facts) for book in books for key, facts in book.facts.items()}


def lose(stored: Stored) -> None:
    del stored['prefix', 2]


def double(stored: Stored) -> None:
    stored['prefix', 9] = stored['prefix', 2] | {'prefix': '10.0.0.9/32'}


def edit(stored: Stored) -> None:
    stored['prefix', 2]['comment'] = 'another'


def move(stored: Stored) -> None:
    stored['prefix', 2]['prefix'] = '10.0.0.9/32'


def bring_back(stored: Stored) -> None:
    stored['prefix', 4] = stored['prefix', 2] | {'description': 'name 4'}


def invent(stored: Stored) -> None:
    stored['prefix', 9] = stored['prefix', 2] | {'description': 'nobody asked'}


@pytest.mark.parametrize(
    ('plant', 'kind'),
    [
        (lose, 'lost'),
        (double, 'doubled'),
        (edit, 'wrong'),
        (move, 'wrong'),
        (bring_back, 'back'),
        (invent, 'strange'),
    ],
)
def test_planted_errors_are_found(plant: Callable[[Stored], None], kind: str) -> None:
    books = book_of(1, 2), book_of(3, 4)
    books[1].remove(('prefix', 4))
    stored = stored_as(*books)
    assert reconcile(books, stored).lines() == []
    plant(stored)
    (line,) = reconcile(books, stored).lines()
    assert line.startswith(f'{kind}: ')


def test_all_kinds_of_objects() -> None:
    book = Book()
    book.add('vrf', {'id': 1, 'rt': '1:1', 'name': 'v', 'description': None})
    book.add('asn', {'asn': 64500, 'name': 'a'})
    lengths = {'ipv4_default_prefix_length': 32, 'ipv6_default_prefix_length': None}
    book.add('pool', {'id': 1, 'name': 'p', 'description': 'd', **lengths})
    book.change(('pool', 1), {'description': 'e'})
    assert reconcile([book], stored_as(book)).lines() == []
    assert [line.partition(':')[0] for line in reconcile([book], {}).lines()] == ['lost'] * 3


def test_an_unanswered_addition_may_be_stored_once_or_not() -> None:
    book = book_of(1, 2)
    book.perhaps_added.add('name 3')
    book.lose_sight(('prefix', 1))
    book.perhaps_changed['prefix', 2] = book.facts['prefix', 2] | {'comment': 'c'}
    assert book.unknown == 3
    before = stored_as(book)
    after = stored_as(book_of(3)) | {('prefix', 2): book.facts['prefix', 2] | {'comment': 'c'}}
    assert reconcile([book], before).lines() == reconcile([book], after).lines() == []
    twice = after | {('prefix', 9): after['prefix', 3]}
    assert len(reconcile([book], twice).doubled) == 1
    third = after | {('prefix', 2): after['prefix', 2] | {'comment': 'd'}}
    assert len(reconcile([book], third).wrong) == 1


def test_an_allocation_that_two_had_at_once() -> None:
    first, later = Lease('10.0.0.1/32', 'a', 1, 2), Lease('10.0.0.1/32', 'b', 3, 4)
    assert held_twice([later, first, Lease('10.0.0.2/32', 'b', 1, 4)]) == []
    assert len(held_twice([later, first, Lease('10.0.0.1/32', 'c', 1.5, 2.5)])) == 1


def test_overlaps() -> None:
    assert overlapping(['10.0.0.0/24', '10.0.1.0/24', '2001:db8::/64', '10.0.2.0/32']) == []
    assert overlapping(['10.0.0.5/32', '10.0.0.0/24', '10.0.0.9/32']) == [
        '10.0.0.0/24 and 10.0.0.5/32',
        '10.0.0.0/24 and 10.0.0.9/32',
    ]


def test_latencies_in_buckets() -> None:
    some, others = Latencies(), Latencies()
    for ms in range(1, 100):
        some.add(ms)
    others.add(1000)
    some.merge(others)
    assert some.percentile(50) == pytest.approx(51, rel=0.06)
    assert some.percentile(99) == pytest.approx(1000, rel=0.06)
    assert some.most_ms == 1000
