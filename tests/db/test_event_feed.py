"""The feed of events that all streams of a process read: its beginning, and the positions that it cannot read."""

from __future__ import annotations

import random

import pytest
from daemon_process import poll
from support import AUDIT_ENTRIES

from nipap.history import events
from nipap.history.events import EventSequencer
from nipap.postgres.database import Database
from nipap.rest.events import REMEMBERED, Feed, PositionLostError

pytestmark = pytest.mark.slow

PATIENCE_S = 20.0


class Scene:
    """Makes events, and follows a feed."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._sequencer = EventSequencer()
        self._sequencer.step(db)

    def make(self, count: int) -> None:
        """Make that many events."""
        self._db.run(lambda tx: tx.execute(AUDIT_ENTRIES, (count,)))
        while self._sequencer.step(self._db):
            pass

    def next(self, feed: Feed, position: int) -> list[int]:
        """Return the positions behind `position` in a feed, once there are some."""
        found: list[int] = []

        def there() -> bool:
            found[:] = [event['id'] for event in feed.after(position)]
            return bool(found)

        poll(there, PATIENCE_S, lambda: f'nothing comes behind {position}')
        return found

    def lost(self, feed: Feed, position: int) -> int:
        """Return the position where a reader continues once the feed reports `position` as lost."""
        found: list[int] = []

        def said() -> bool:
            try:
                feed.after(position)
            except PositionLostError as error:
                found.append(error.position)
            return bool(found)

        poll(said, PATIENCE_S, lambda: f'position {position} is not lost')
        return found[0]


@pytest.fixture
def scene(db: Database) -> Scene:
    return Scene(db)


@pytest.mark.parametrize('old', [3, REMEMBERED, 2 * REMEMBERED + 5])
def test_a_reader_without_a_position_gets_nothing_old(db: Database, scene: Scene, old: int) -> None:
    scene.make(old)
    feed = Feed(db)
    assert feed.newest() == old
    assert feed.after(old) == []
    scene.make(1)
    assert scene.next(feed, old) == [old + 1]


@pytest.mark.parametrize('missed', [3, REMEMBERED, 2 * REMEMBERED + 5])
def test_a_reader_after_a_long_pause_gets_nothing_old(db: Database, scene: Scene, missed: int) -> None:
    feed = Feed(db)
    scene.make(1)
    assert scene.next(feed, 0) == [1]
    scene.make(missed)
    newest = 1 + missed
    assert feed.newest() == newest
    assert feed.after(newest) == []
    scene.make(1)
    assert scene.next(feed, newest) == [newest + 1]
    assert scene.next(feed, 1)[0] == 2  # a reader with a position misses nothing


def test_readers_of_any_pace_get_every_event_in_order(db: Database, scene: Scene) -> None:
    chance = random.Random(5)
    feed = Feed(db)
    read: list[list[int]] = [[] for _ in range(4)]
    made = 0
    while made < 3 * REMEMBERED or any(len(positions) < made for positions in read):
        if made < 3 * REMEMBERED:
            count = chance.choice([1, 40, 700, REMEMBERED + 1])
            scene.make(count)
            made += count
        positions = read[chance.randrange(len(read))]
        positions += [event['id'] for event in feed.after(positions[-1] if positions else 0)]
    assert read == [list(range(1, made + 1))] * len(read)


def test_a_position_that_the_database_never_gave_is_lost(db: Database, scene: Scene) -> None:
    scene.make(5)
    feed = Feed(db)
    feed.check(5)
    with pytest.raises(PositionLostError) as caught:
        feed.check(6)
    assert caught.value.position == 5


def test_readers_notice_that_the_database_was_restored(db: Database, scene: Scene) -> None:
    scene.make(5)
    feed = Feed(db)
    assert scene.next(feed, 3) == [4, 5]
    db.run(lambda tx: tx.execute('DELETE FROM event WHERE position > 2'))
    db.run(lambda tx: tx.execute('UPDATE event_state SET last_position = 2'))
    assert scene.lost(feed, 5) == 2
    assert feed.after(2) == []
    assert [event['id'] for event in feed.after(1)] == [2]
    scene.make(1)
    assert scene.next(feed, 2)[0] == 3


def test_a_reader_whose_events_were_removed_continues_with_the_kept_events(db: Database, scene: Scene) -> None:
    scene.make(6)
    db.run(lambda tx: tx.execute("UPDATE event SET created = now() - interval '3 hours' WHERE position <= 4"))
    assert db.run(lambda tx: events.remove_old(tx, 2, kafka=False)) == 1
    feed = Feed(db)
    for position in (0, 3):
        with pytest.raises(PositionLostError) as caught:
            feed.check(position)
        assert caught.value.position == 4
        assert scene.lost(feed, position) == 4  # removed after the reader had begun
    feed.check(4)
    assert scene.next(feed, 4) == [5, 6]


def test_a_reader_whose_events_are_all_removed_does_not_wait(db: Database, scene: Scene) -> None:
    scene.make(3)
    db.run(lambda tx: tx.execute("UPDATE event SET created = now() - interval '3 hours'"))
    db.run(lambda tx: events.remove_old(tx, 2, kafka=False))
    feed = Feed(db)
    with pytest.raises(PositionLostError) as caught:
        feed.check(1)
    assert caught.value.position == 3
    assert scene.lost(feed, 1) == 3
