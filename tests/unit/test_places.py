"""Scarce places: parties take turns, a share binds while others wait, and a newcomer finds a place."""

from __future__ import annotations

from collections.abc import Callable

from nipap.runtime.places import OURSELVES, Party, Places, Turn

ANN, BOB, CAT = Party('ann', 'a'), Party('bob', 'b'), Party('cat', 'c')
STRANGER = Party('\0' + '192.0.2.1', '192.0.2.1', proved=False)


def fill(places: Places, party: Party) -> int:
    """Take all places that a party gets, and return their number."""
    number = 0
    while places.take(party):
        number += 1
    return number


def asking(given: list[str], name: str) -> Callable[[], None]:
    return lambda: given.append(name)


def test_one_party_alone_gets_all_but_the_kept_places() -> None:
    places = Places(8, 2, 2)
    assert fill(places, ANN) == 8
    assert places.taken == places.held_by(ANN) == 8


def test_a_newcomer_finds_a_place_however_many_have_all_that_they_can() -> None:
    places = Places(48, 16, 16)
    assert [fill(places, Party(name)) for name in 'abcde'] == [48, 8, 4, 2, 1]


def test_parties_without_proof_leave_places_for_users() -> None:
    places = Places(8, 4, 4)
    assert fill(places, ANN) == 8
    assert sum(fill(places, Party(f'\0{number}', proved=False)) for number in range(10)) == 2
    assert places.take(BOB)


def test_the_program_itself_has_no_share() -> None:
    places = Places(4, 1, 2)
    assert fill(places, OURSELVES) == 6


def test_a_share_binds_while_others_wait() -> None:
    places, given = Places(4, 2), list[str]()
    assert fill(places, ANN) == 4
    for name, party in (('ann', ANN), ('ann', ANN), ('bob', BOB), ('bob', BOB), ('bob', BOB)):
        places.wait(party, asking(given, name))
    for _ in range(5):
        places.give_back(ANN if places.held_by(ANN) else BOB)
    # Bob comes first, since Ann has her share. Then both have their shares.
    assert given[:2] == ['bob', 'bob']
    assert sorted(given) == ['ann', 'ann', 'bob', 'bob', 'bob']
    assert places.waiting == 0


def test_groups_take_turns_and_in_each_its_members() -> None:
    places, given = Places(1, 1), list[str]()
    assert places.take(CAT)
    here, there = Party('ann', 'here'), Party('ann', 'there')
    for name, party in (('here', here), ('here', here), ('there', there), ('bob', BOB)):
        places.wait(party, asking(given, name))
    holder = CAT
    for party in (here, BOB, there, here):
        places.give_back(holder)
        holder = party
    assert given == ['here', 'bob', 'there', 'here']


def test_a_later_request_does_not_overtake_its_own_party() -> None:
    places, given = Places(1, 1, 1), list[str]()
    assert places.take(ANN)
    places.wait(ANN, asking(given, 'ann'))
    assert not places.take(ANN)
    assert places.take(BOB)
    places.give_back(ANN)
    assert given == ['ann']


def test_when_too_many_wait_the_party_with_most_makes_room() -> None:
    reached: list[Party] = []
    refused: list[Party] = []
    places, given = Places(1, 1, most_waiting=3, reached=reached.append, refused=refused.append), list[str]()
    assert places.take(CAT)
    for number in range(3):
        assert places.wait(ANN, asking(given, f'ann {number}'), asking(given, f'dropped {number}'))
    assert not places.wait(ANN, asking(given, 'never'), asking(given, 'never'))
    assert places.wait(BOB, asking(given, 'bob'), asking(given, 'never'))
    assert given == ['dropped 2']
    assert not places.wait(ANN, asking(given, 'never'), asking(given, 'never'))
    assert (places.waiting, reached, refused) == (3, [], [ANN, ANN, ANN])


def test_a_party_is_told_when_only_its_share_has_it_wait() -> None:
    reached: list[Party] = []
    places = Places(2, 1, 1, reached=reached.append)
    assert fill(places, ANN) == 2
    places.wait(ANN, lambda: None)
    assert reached == [ANN]


def test_waiting_requests_are_refused_when_all_are_dropped() -> None:
    places, given = Places(1, 1), list[str]()
    assert places.take(ANN)
    places.wait(ANN, asking(given, 'place'), asking(given, 'none'))
    places.wait(BOB, asking(given, 'place'), asking(given, 'none'))
    places.drop_all()
    assert (given, places.waiting) == (['none', 'none'], 0)


def test_a_turn_leaves_its_place_and_comes_back() -> None:
    places, noted = Places(2, 1), list[str]()
    turn = Turn(STRANGER, noted.append)
    assert places.take(STRANGER)
    turn._places = places
    left = turn.leave()
    assert left is places
    assert places.taken == 0
    assert turn.leave() is None
    turn.come_back(places)
    turn.prove('ann')
    assert (places.held_by(STRANGER), places.held_by(ANN), noted) == (0, 1, ['ann'])
    turn.leave()
    assert places.taken == 0
